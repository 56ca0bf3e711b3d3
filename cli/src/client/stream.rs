//! Answers that come in parts: lines of JSON, and server-sent events. Silence and length are bounded.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use reqwest::Response;
use serde::de::DeserializeOwned;

use super::{ClientError, chain};

/// One line may not be longer: a device's whole report is below 64 KiB, a deployment with its devices below 4 MiB.
const LINE_BYTES_MAX: usize = 16 << 20;

/// The next part of an answer, unless it stays silent for too long.
pub(super) async fn part(answer: &mut Response, idle: Duration, api: &str) -> Result<Option<Bytes>, ClientError> {
    match tokio::time::timeout(idle, answer.chunk()).await {
        Ok(Ok(part)) => Ok(part),
        Ok(Err(err)) => Err(ClientError::Broken { api: api.to_owned(), why: chain(&err) }),
        Err(_) => Err(ClientError::Silent { api: api.to_owned(), after: idle }),
    }
}

/// The lines of an answer as they come.
pub(crate) struct Lines {
    answer: Response,
    idle: Duration,
    api: String,
    buffer: BytesMut,
}

/// One server-sent event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// Its kind; `message` when it does not say.
    pub kind: String,
    /// What it carries.
    pub data: String,
}

impl Lines {
    pub(super) fn new(answer: Response, idle: Duration, api: &str) -> Self {
        Self { answer, idle, api: api.to_owned(), buffer: BytesMut::new() }
    }

    /// The next line without its end; none when the answer is over.
    pub(crate) async fn line(&mut self) -> Result<Option<Bytes>, ClientError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let mut line = self.buffer.split_to(searched + at).freeze();
                self.buffer.advance(1);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return Ok(Some(line));
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES_MAX {
                let why = format!("a line is longer than {LINE_BYTES_MAX} bytes");
                return Err(ClientError::Unreadable { api: self.api.clone(), why });
            }
            match part(&mut self.answer, self.idle, &self.api).await? {
                Some(part) => self.buffer.extend_from_slice(&part),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(self.buffer.split().freeze())),
            }
        }
    }

    /// The next line as JSON; empty ones are signs of life.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        while let Some(line) = self.line().await? {
            if !line.trim_ascii().is_empty() {
                let read = serde_json::from_slice(&line);
                return read
                    .map(Some)
                    .map_err(|err| ClientError::Unreadable { api: self.api.clone(), why: err.to_string() });
            }
        }
        Ok(None)
    }

    /// The next server-sent event; none when the answer is over.
    pub(crate) async fn event(&mut self) -> Result<Option<SseEvent>, ClientError> {
        let mut parse = SseParser::default();
        while let Some(line) = self.line().await? {
            if let Some(event) = parse.take(&String::from_utf8_lossy(&line)) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// It ended where it should not have.
    pub(crate) fn broke_off(&self) -> ClientError {
        ClientError::Broken { api: self.api.clone(), why: "it ended before its last line".to_owned() }
    }
}

/// Lines into events, as the HTML standard says, without ids and retry.
#[derive(Default)]
struct SseParser {
    kind: String,
    data: Vec<String>,
}

impl SseParser {
    fn take(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            let Self { kind, data } = std::mem::take(self);
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            return (!data.is_empty()).then(|| SseEvent { kind, data: data.join("\n") });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => self.data.push(value.to_owned()),
            // Comments (signs of life), ids, retry, and what a later standard may add.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_the_standard_says() {
        let text = ": alive\n\nevent: changed\nid: 7\ndata: {\"a\":\ndata: 1}\n\ndata:x\n\nevent: nothing\n\ndata: cut";
        let mut parser = SseParser::default();
        let events: Vec<_> = text.lines().filter_map(|l| parser.take(l)).collect();
        let event = |kind: &str, data: &str| SseEvent { kind: kind.into(), data: data.into() };
        assert_eq!(events, [event("changed", "{\"a\":\n1}"), event("message", "x")]);
    }
}
