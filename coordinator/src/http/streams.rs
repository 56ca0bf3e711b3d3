//! What comes from devices line by line, as NDJSON: logs, and how frames become lines. The last line is `end` or `error`.
//!
//! Decides: how frames become lines. Bounded by the device's own bounds and by the reader: nothing is queued here.

use std::time::Duration;

use axum::{
    Router,
    body::{Body as HttpBody, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::get,
};
use bramble_contracts::{
    api::StreamLine,
    id::{DeviceId, Name, Tenant},
    problem::Code,
    v1::{FrameBody, LogArgs, Verb},
};
use data_encoding::BASE64;
use futures::{Stream, StreamExt as _, stream};
use serde::Deserialize;

use super::{
    App,
    devices::find,
    error::ApiError,
    extract::{Asked, Path, Query},
};
use crate::{
    background::port::Frames,
    domain::{view::Lens, when::rfc3339},
};

/// Between two lines of a log that is not followed.
const SILENCE: Duration = Duration::from_secs(30);
/// Between two lines of a log that is followed: an app may have nothing to say for long.
const SILENCE_FOLLOWED: Duration = Duration::from_secs(3600);
const TAIL: u32 = 100;
const TAIL_MAX: u32 = 10_000;
/// Devices whose logs are read at once.
const DEVICES_MAX: usize = 16;

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new().route("/api/v1/deployments/{name}/logs", get(logs))
}

#[derive(Deserialize)]
struct Wanted {
    device: Option<String>,
    container: Option<String>,
    tail: Option<String>,
    since: Option<String>,
    follow: Option<String>,
}

impl Wanted {
    fn args(&self, tenant: Tenant, deployment: Name) -> Result<LogArgs, ApiError> {
        let container = match self.container.as_deref() {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| ApiError::not_found("container", text))?),
        };
        let tail = match self.tail.as_deref() {
            None => TAIL,
            Some(text) => text
                .parse()
                .ok()
                .filter(|n| *n <= TAIL_MAX)
                .ok_or_else(|| ApiError::bad(format!("`tail` is a number up to {TAIL_MAX}")))?,
        };
        let since =
            match self.since.as_deref() {
                None => None,
                Some(text) => Some(text.parse().map_err(|err: bramble_contracts::quantity::BadQuantity| {
                    ApiError::bad(format!("`since`: {err}"))
                })?),
            };
        let follow = match self.follow.as_deref() {
            None | Some("0" | "false") => false,
            Some("1" | "true") => true,
            Some(_) => return Err(ApiError::bad("`follow` is true or false")),
        };
        Ok(LogArgs { tenant, deployment, container, tail, since, follow })
    }
}

async fn logs(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<Name>,
    Query(q): Query<Wanted>,
) -> Result<Response, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    let args = q.args(tenant.clone(), name.clone())?;
    let named = q.device.as_deref().map(|d| find(&app, &tenant, d)).transpose()?;
    let devices = app.core.index.look(|lens| of_deployment(lens, &tenant, &name, named))?;
    let silence = if args.follow { SILENCE_FOLLOWED } else { SILENCE };
    if let [(id, device)] = &devices[..] {
        let frames = app.core.command(id, Verb::Logs(args), silence).await;
        let frames = frames.map_err(|err| ApiError::of_device(device, &err))?;
        return Ok(ndjson(&app, lines_of(frames, device.clone())));
    }
    // Asked side by side while their lines are read: a silent device keeps nobody waiting for the others.
    let streams = devices.into_iter().map(|(id, device)| {
        let (core, verb) = (std::sync::Arc::clone(&app.core), Verb::Logs(args.clone()));
        let asked = async move {
            match core.command(&id, verb, silence).await {
                Ok(frames) => lines_of(frames, device).boxed(),
                Err(err) => stream::iter([StreamLine::Error { device, detail: err.to_string() }]).boxed(),
            }
        };
        stream::once(asked).flatten().boxed()
    });
    // Each device's own `end` is left out; one stands for all.
    let all = stream::select_all(streams).filter(|l| std::future::ready(!matches!(l, StreamLine::End { .. })));
    Ok(ndjson(&app, all.chain(stream::iter([StreamLine::End { exit_code: None }]))))
}

/// Whose logs are read, and what people call them.
fn of_deployment(
    lens: &Lens<'_>,
    tenant: &Tenant,
    name: &Name,
    named: Option<DeviceId>,
) -> Result<Vec<(DeviceId, Name)>, ApiError> {
    // A device may still run what is no longer wanted on it.
    if let Some(id) = named {
        let called = name_of(lens, &id);
        return Ok(vec![(id, called)]);
    }
    let slot = lens.fleet.deployment(tenant, name).ok_or_else(|| ApiError::not_found("deployment", name))?;
    let record = slot.ok().ok_or_else(|| {
        ApiError::new(Code::Conflict, format!("the record of deployment {name} is damaged: restore it from a backup"))
    })?;
    let selected = lens.selected(record);
    match selected.len() {
        0 => {
            let detail = format!(
                "deployment {name} selects no device, so nobody prints anything: change its selector, or label a device"
            );
            Err(ApiError::new(Code::Conflict, detail))
        }
        1..=DEVICES_MAX => Ok(selected.into_iter().map(|d| (d.id.clone(), d.name.clone())).collect()),
        all => Err(ApiError::bad(format!(
            "deployment {name} has {all} devices, and logs are read from {DEVICES_MAX} at once at most: \
             name one with `--device` (`device=` in the query)"
        ))),
    }
}

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
            StreamLine::Line { .. } | StreamLine::Output { .. } | StreamLine::Skipped { .. } => Next::Go,
        };
        Some((line, (frames, next, device)))
    })
}

fn line_of(body: FrameBody, device: &Name) -> StreamLine {
    match body {
        FrameBody::Stdout(bytes) => StreamLine::Output { stderr: false, data: BASE64.encode(&bytes) },
        FrameBody::Stderr(bytes) => StreamLine::Output { stderr: true, data: BASE64.encode(&bytes) },
        FrameBody::Line { container, at_ms, stderr, text } => {
            StreamLine::Line { device: device.clone(), container, at: rfc3339(at_ms), stderr, text }
        }
        FrameBody::Skipped(lines) => StreamLine::Skipped { lines },
        FrameBody::Document(_) | FrameBody::Taken(_) => {
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
