//! How a device's answer becomes lines, as NDJSON. The last line is `end` or `error`.
//!
//! Decides: how frames become lines. Bounded by the device's own bounds and by the reader: nothing is queued here.

use axum::{
    body::{Body as HttpBody, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use bramble_contracts::{
    api::StreamLine,
    id::{DeviceId, Name},
    v1::FrameBody,
};
use data_encoding::BASE64;
use futures::{Stream, StreamExt as _, stream};

use super::App;
use crate::{background::port::Frames, domain::view::Lens};

/// What people call a device.
pub(super) fn name_of(lens: &Lens<'_>, id: &DeviceId) -> Name {
    lens.device(id, crate::domain::view::Detail::Brief).name
}

enum Next {
    Go,
    Done,
}

/// The frames of one device's answer as lines; what is not one ends them with an error.
pub(super) fn lines_of(frames: Frames, device: Name) -> impl Stream<Item = StreamLine> + Send {
    stream::unfold((frames, Next::Go, device), |(mut frames, next, device)| async move {
        let Next::Go = next else { return None };
        let error = |device: &Name, detail: String| StreamLine::Error { device: device.clone(), detail };
        let line = match frames.next().await {
            None => error(&device, "the device's answer broke off: try again".to_owned()),
            Some(Err(err)) => error(&device, err.to_string()),
            Some(Ok(frame)) => line_of(frame.body, &device),
        };
        let next = match &line {
            StreamLine::End { .. } | StreamLine::Error { .. } => Next::Done,
            StreamLine::Line { .. }
            | StreamLine::At { .. }
            | StreamLine::Missing { .. }
            | StreamLine::Away { .. }
            | StreamLine::Output { .. }
            | StreamLine::Skipped { .. } => Next::Go,
        };
        Some((line, (frames, next, device)))
    })
}

fn line_of(body: FrameBody, device: &Name) -> StreamLine {
    match body {
        FrameBody::Stdout(bytes) => StreamLine::Output { stderr: false, data: BASE64.encode(&bytes) },
        FrameBody::Stderr(bytes) => StreamLine::Output { stderr: true, data: BASE64.encode(&bytes) },
        FrameBody::Skipped(lines) => StreamLine::Skipped { lines },
        FrameBody::Document(_)
        | FrameBody::Line { .. }
        | FrameBody::Log(_)
        | FrameBody::Taken(_)
        | FrameBody::OsPlan(_) => {
            StreamLine::Error { device: device.clone(), detail: "the device answered something else".to_owned() }
        }
        FrameBody::End { exit_code } => StreamLine::End { exit_code },
        FrameBody::Refused { why } => StreamLine::Error { device: device.clone(), detail: why },
    }
}

/// Lines as they come, until the coordinator stops.
pub(super) fn ndjson(app: &App, lines: impl Stream<Item = StreamLine> + Send + 'static) -> Response {
    let bytes = lines.take_until(Box::pin(app.stopped())).map(|line| {
        let mut text = serde_json::to_vec(&line).expect("invariant: our lines always fit JSON");
        text.push(b'\n');
        Ok::<_, std::convert::Infallible>(Bytes::from(text))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], HttpBody::from_stream(bytes)).into_response()
}
