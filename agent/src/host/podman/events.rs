//! Podman's event stream, so that the supervisor is told and need not ask.
//!
//! An event only says "look again": it is never taken as the state itself.

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::http::{Call, LOOK, Podman, PodmanError, escape, parse};
use super::types::EventLine;

const WHAT: &str = "tell its events";
const LINE_BYTES_MAX: usize = 256 * 1024;

/// An open event stream.
pub struct Events {
    body: Incoming,
    pending: BytesMut,
}

impl Podman {
    /// Subscribes to events of containers and pods from now on.
    pub async fn events(&self) -> Result<Events, PodmanError> {
        let filters = escape(r#"{"type":["container","pod"]}"#);
        let call = Call::get(WHAT, format!("/events?stream=true&filters={filters}"));
        let body = self.open(call, LOOK).await?.into_body();
        Ok(Events { body, pending: BytesMut::new() })
    }
}

impl Events {
    /// The next event, `None` when Podman closed the stream.
    pub async fn next(&mut self) -> Result<Option<EventLine>, PodmanError> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line = self.pending.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return parse(WHAT, &line).map(Some);
            }
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(PodmanError::TooLarge { what: WHAT.to_owned(), limit: LINE_BYTES_MAX });
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|err| PodmanError::Broken { what: WHAT.to_owned(), err })?;
            if let Ok(data) = frame.into_data() {
                self.pending.extend_from_slice(&data);
            }
        }
    }
}
