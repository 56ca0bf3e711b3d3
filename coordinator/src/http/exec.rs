//! Programs in containers: what may be asked for, what is written down of it, and the one-shot kind, whose output comes as
//! lines.
//!
//! Decides: bounds, and that each use leaves an event before and one after, with how long it took. Arguments, input and
//! output are in neither. Deliberately does not: carry what is typed; `terminal` does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, response::Response, routing::post};
use bramble_contracts::{
    api::{ExecRequest, Outcome, StreamLine},
    id::{DeviceId, Name, Tenant},
    quantity::Millis,
    v1::{ExecArgs, FrameBody, Verb},
    v2::Input,
};
use futures::{Stream, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    App,
    audit::{self, Deed},
    devices::find,
    error::ApiError,
    extract::{Asked, Body, Path},
    streams::{lines_of, name_of, ndjson},
    under_way::Place,
};
use crate::{
    background::{
        now,
        port::Frames,
        session::{Ask, Line},
    },
    domain::compose,
};

/// Beyond the program's own time: to start it and to end it.
const SILENCE: Duration = Duration::from_secs(30);
/// What a device takes: a broker carries no answer to one request that comes later. Sessions may last longer.
const EXEC_MAX: Millis = Millis::secs(590);
const WORDS_MAX: usize = 256;
const WORDS_BYTES_MAX: usize = 32 * 1024;
/// Lines wait here for a client; then the device's frames wait.
const LINES_MAX: usize = 16;

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new().route("/api/v1/devices/{name}/exec", post(exec))
}

/// One use of the right to run programs, from its first event to its last.
pub(super) struct Use {
    app: App,
    asked: Asked,
    object: String,
    tenant: Tenant,
    before: Value,
    begun_ms: u64,
    _place: Place,
}

/// Which program, where, as it is written down.
pub(super) struct Wish<'a> {
    /// On which device, as it was asked for.
    pub device: &'a str,
    /// In which deployment.
    pub deployment: &'a Name,
    /// In which container.
    pub container: Option<&'a Name>,
    /// The program and its arguments.
    pub argv: &'a [String],
    /// `none`, `pipe` or `terminal`.
    pub input: &'static str,
}

/// How it went.
#[derive(Debug, Default)]
pub(super) struct Went {
    /// What the program ended with.
    pub exit_code: Option<i32>,
    /// Bytes typed.
    pub bytes_in: u64,
    /// Bytes printed.
    pub bytes_out: u64,
}

impl Use {
    /// Writes the intent; without it nothing is done.
    pub(super) async fn intend(app: &App, asked: &Asked, tenant: &Tenant, wish: &Wish<'_>) -> Result<Self, ApiError> {
        let Wish { device, deployment, container, argv, input } = wish;
        // Arguments may hold secrets: only the program is told.
        let arguments = argv.len().saturating_sub(1);
        let before = json!({ "program": argv.first(), "arguments": arguments, "container": container, "input": input });
        let new = Self {
            app: app.clone(),
            asked: asked.clone(),
            object: format!("device/{device:.80}/{deployment}"),
            tenant: tenant.clone(),
            before,
            begun_ms: now().mono_ms,
            _place: app.under_way.enter(),
        };
        audit::intend(app, asked, &new.deed()).await?;
        Ok(new)
    }

    fn deed(&self) -> Deed<'_> {
        let (tenant, before) = (Some(self.tenant.clone()), Some(self.before.clone()));
        Deed { action: "device.exec", object: &self.object, tenant, reason: "", before }
    }

    /// Writes how it went.
    pub(super) async fn conclude(self, outcome: Outcome, detail: &str, went: &Went) {
        let ms = now().mono_ms.saturating_sub(self.begun_ms);
        let after = json!({
            "durationMs": ms, "exitCode": went.exit_code, "bytesIn": went.bytes_in, "bytesOut": went.bytes_out,
        });
        let seconds = format!("{}.{:02} s", ms / 1000, ms % 1000 / 10);
        let detail = match went.exit_code {
            Some(code) => format!("ended with {code} after {seconds}"),
            None => format!("{detail} (after {seconds})"),
        };
        audit::conclude(&self.app, &self.asked, &self.deed(), outcome, &detail, Some(after)).await;
    }

    /// Writes that it did not begin.
    pub(super) async fn refuse(self, err: &ApiError) {
        self.conclude(audit::outcome_of(err), &err.detail, &Went::default()).await;
    }
}

/// Can this be run at all?
pub(super) fn check_argv(argv: &[String]) -> Result<(), ApiError> {
    let too_long = argv.iter().map(String::len).sum::<usize>() > WORDS_BYTES_MAX;
    if argv.is_empty() || argv.len() > WORDS_MAX || too_long || argv.iter().any(|a| a.contains('\0')) {
        return Err(ApiError::field("argv", "1 to 256 words of 32 KiB in all, without NUL"));
    }
    Ok(())
}

/// Does the device run this deployment?
pub(super) fn check_runs(app: &App, id: &DeviceId, tenant: &Tenant, deployment: &Name) -> Result<(), ApiError> {
    let runs = app.core.index.look(|lens| {
        let seen = lens.fleet.device(id);
        let apps = seen.desired().map_or(&[][..], |d| &d.apps);
        apps.iter().any(|a| compose::app_key(a) == (tenant, deployment))
    });
    if runs { Ok(()) } else { Err(ApiError::not_found("deployment on this device", deployment)) }
}

async fn exec(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<String>,
    Body(request): Body<ExecRequest>,
) -> Result<Response, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    check_argv(&request.argv)?;
    if request.timeout.0 == 0 || request.timeout > EXEC_MAX {
        return Err(ApiError::field(
            "timeout",
            format!("longer than 0 and at most {EXEC_MAX}; a session may last longer: -i"),
        ));
    }
    let id = find(&app, &tenant, &name)?;
    check_runs(&app, &id, &tenant, &request.deployment)?;
    let ExecRequest { deployment, container, argv, timeout } = request;
    let wish =
        Wish { device: &name, deployment: &deployment, container: container.as_ref(), argv: &argv, input: "none" };
    let used = Use::intend(&app, &asked, &tenant, &wish).await?;
    let silence = timeout.duration() + SILENCE;
    let args = ExecArgs { tenant, deployment, container, argv, tty: None, timeout };
    let device = app.core.index.look(|lens| name_of(lens, &id));
    match app.core.converse(&id, Verb::Exec(args), silence).await {
        Ok((line, frames)) => Ok(ndjson(&app, carry(&app, used, line, frames, device))),
        Err(err) => {
            let err = ApiError::of_device(&device, &err);
            used.refuse(&err).await;
            Err(err)
        }
    }
}

/// Its lines. They come by way of a task of their own, which writes how it went also when the client has gone, and tells
/// the device then.
fn carry(app: &App, used: Use, mut line: Line, frames: Frames, device: Name) -> impl Stream<Item = StreamLine> + use<> {
    let core = Arc::clone(&app.core);
    let printed = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&printed);
    let counted = frames.inspect(move |frame| {
        if let Ok(FrameBody::Stdout(bytes) | FrameBody::Stderr(bytes)) = frame.as_ref().map(|frame| &frame.body) {
            count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    });
    let (to, from) = mpsc::channel(LINES_MAX);
    tokio::spawn(async move {
        let mut lines = std::pin::pin!(lines_of(counted.boxed(), device));
        let mut end = None;
        loop {
            let next = tokio::select! { next = lines.next() => next, () = to.closed() => break };
            let Some(next) = next else { break };
            end = Some(next.clone());
            if to.send(next).await.is_err() {
                break;
            }
        }
        let mut went = Went { bytes_out: printed.load(Ordering::Relaxed), ..Went::default() };
        match end {
            Some(StreamLine::End { exit_code }) => {
                went.exit_code = exit_code;
                used.conclude(Outcome::Done, "ended, the device cannot say with what", &went).await;
            }
            Some(StreamLine::Error { detail, .. }) => used.conclude(Outcome::Failed, &detail, &went).await,
            Some(
                StreamLine::Line { .. }
                | StreamLine::At { .. }
                | StreamLine::Missing { .. }
                | StreamLine::Away { .. }
                | StreamLine::Output { .. }
                | StreamLine::Skipped { .. },
            )
            | None => {
                if let Err(err) = line.say(&core, Input::HangUp, Ask::Nothing).await {
                    tracing::debug!(error = %err, "a device was not told that nobody listens any more");
                }
                used.conclude(Outcome::Done, "nobody listened any more, so the program was ended", &went).await;
            }
        }
    });
    stream::unfold(from, |mut from| async move { from.recv().await.map(|line| (line, from)) })
}
