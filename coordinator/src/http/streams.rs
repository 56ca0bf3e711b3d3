//! What programs on devices print, as NDJSON. The last line is `end` or `error`.
//!
//! Decides: how frames become lines. Bounded by the device's own bounds and by the reader: nothing is queued here.

use std::time::Duration;

use axum::{
    Router,
    body::{Body as HttpBody, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::post,
};
use bramble_contracts::{
    api::{ExecRequest, StreamLine},
    id::{DeviceId, Name},
    quantity::Millis,
    v1::{ExecArgs, FrameBody, Verb},
};
use data_encoding::BASE64;
use futures::{Stream, StreamExt as _, stream};
use serde_json::json;

use super::{
    App,
    audit::{Deed, audited},
    devices::find,
    error::ApiError,
    extract::{Asked, Body, Path},
};
use crate::{
    background::port::Frames,
    domain::{compose, view::Lens},
};

/// Between the end of a program's time and its answer.
const SILENCE: Duration = Duration::from_secs(30);
const EXEC_MAX: Millis = Millis::secs(3600);

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new().route("/api/v1/devices/{name}/exec", post(exec))
}

fn name_of(lens: &Lens<'_>, id: &DeviceId) -> Name {
    lens.device(id, crate::domain::view::Detail::Brief).name
}

async fn exec(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<String>,
    Body(request): Body<ExecRequest>,
) -> Result<Response, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    let too_long = request.argv.iter().map(String::len).sum::<usize>() > 32 * 1024;
    if request.argv.is_empty() || request.argv.len() > 256 || too_long || request.argv.iter().any(|a| a.contains('\0'))
    {
        return Err(ApiError::field("argv", "1 to 256 words of 32 KiB in all, without NUL"));
    }
    if request.timeout.0 == 0 || request.timeout > EXEC_MAX {
        return Err(ApiError::field("timeout", "longer than 0 and at most 1h"));
    }
    let id = find(&app, &tenant, &name)?;
    let runs = app.core.index.look(|lens| {
        let seen = lens.fleet.device(&id);
        let apps = seen.desired().map_or(&[][..], |d| &d.apps);
        apps.iter().any(|a| compose::app_key(a) == (&tenant, &request.deployment))
    });
    if !runs {
        return Err(ApiError::not_found("deployment on this device", &request.deployment));
    }
    let ExecRequest { deployment, container, argv, timeout } = request;
    let object = format!("device/{name:.80}/{deployment}");
    // Arguments may hold secrets: only the program is told.
    let before = Some(json!({ "program": argv.first(), "arguments": argv.len() - 1, "container": container }));
    let deed = Deed { action: "device.exec", object: &object, tenant: Some(tenant.clone()), reason: "", before };
    let silence = timeout.duration() + SILENCE;
    let args = ExecArgs { tenant, deployment, container, argv, tty: None, timeout };
    let device = app.core.index.look(|lens| name_of(lens, &id));
    let work = async {
        let asked = app.core.command(&id, Verb::Exec(args), silence).await;
        Ok((asked.map_err(|err| ApiError::of_device(&device, &err))?, None))
    };
    let frames = audited(&app, &asked, deed, work).await?;
    Ok(ndjson(&app, lines_of(frames, device)))
}

enum Next {
    Go,
    Done,
}

/// The frames of one device's answer as lines; what is not one ends them with an error.
fn lines_of(frames: Frames, device: Name) -> impl Stream<Item = StreamLine> + Send {
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
        FrameBody::Document(_) | FrameBody::Line { .. } | FrameBody::Log(_) => {
            StreamLine::Error { device: device.clone(), detail: "the device answered something else".to_owned() }
        }
        FrameBody::End { exit_code } => StreamLine::End { exit_code },
        FrameBody::Refused { why } => StreamLine::Error { device: device.clone(), detail: why },
    }
}

fn ndjson(app: &App, lines: impl Stream<Item = StreamLine> + Send + 'static) -> Response {
    let bytes = lines.take_until(Box::pin(app.stopped())).map(|line| {
        let mut text = serde_json::to_vec(&line).expect("invariant: our lines always fit JSON");
        text.push(b'\n');
        Ok::<_, std::convert::Infallible>(Bytes::from(text))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], HttpBody::from_stream(bytes)).into_response()
}
