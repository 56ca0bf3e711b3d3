//! What an upgrade of the operating system would do: devices are asked, and nothing is changed on them.
//!
//! Decides: how many are asked, and how many at once. The answer is NDJSON, a line for each device as it answers; the last
//! one is `end`.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, response::Response, routing::post};
use bramble_contracts::{
    api::{OsPlanLine, OsPlanRequest, OsPlanState, OsPlannedDevice},
    problem::{Code, FieldError},
    v1::{FrameBody, Verb},
    v3::{OsPackages, Protection},
};
use futures::{StreamExt as _, stream};
use serde_json::json;

use super::{
    App,
    audit::{Deed, audited},
    error::ApiError,
    extract::{Asked, Body},
    logs::{READERS_MAX, ndjson},
    rollouts::{packages_problems, selector_problems},
};
use crate::{
    background::{Core, port::MeshError},
    domain::{
        record::DeviceRecord,
        rollout::{
            self,
            facts::chosen,
            foresee::{answered, unanswered, unasked},
        },
    },
};

/// Devices of one plan, at most.
const DEVICES_MAX: usize = 500;
/// Devices that are asked at once.
const AT_ONCE: usize = 16;
/// A device gives a sign of life more often than this while apt works.
const SILENCE: Duration = Duration::from_secs(30);

/// The lines of the table of routes.
pub(super) mod table {
    use bramble_contracts::rights::Right;

    use crate::http::routes::{Gives, Route, Takes, act};

    pub(in crate::http) const PLAN: Route = Route {
        gives: Gives::Lines("OsPlanLine"),
        also: &[422, 503],
        ..act(
            "/api/v1/os-upgrades/plan",
            Right::RolloutsWrite,
            "Ask devices what an upgrade of the operating system would do. Nothing is changed on them.",
            Takes::Json("OsPlanRequest"),
        )
    };
}

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new().route("/api/v1/os-upgrades/plan", post(plan))
}

async fn plan(State(app): State<App>, asked: Asked, Body(request): Body<OsPlanRequest>) -> Result<Response, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    let OsPlanRequest { packages, least, selector } = request;
    let least = least.unwrap_or(Protection::Tryboot);
    let object = format!("os/{}", rollout::packages(&packages));
    let deed = Deed { action: "os.plan", object: &object, tenant: Some(tenant.clone()), reason: "", before: None };
    let work = async {
        let devices: Vec<DeviceRecord> = app.core.index.look(|lens| {
            let mut found: Vec<FieldError> = vec![];
            packages_problems(&packages, &mut found);
            selector_problems(lens, &tenant, selector.as_ref(), &mut found);
            if !found.is_empty() {
                return Err(ApiError::invalid(found));
            }
            let selects = |d: &DeviceRecord| selector.as_ref().is_none_or(|s| s.matches(&d.name, &d.labels));
            Ok(chosen(lens, &tenant, selects).into_iter().cloned().collect())
        })?;
        match devices.len() {
            0 => Err(ApiError::field("selector", "selects no device: label a device, or change the selector")),
            1..=DEVICES_MAX => Ok((devices.clone(), Some(json!({ "devices": devices.len() })))),
            n => {
                let message =
                    format!("selects {n} devices, and {DEVICES_MAX} are asked at most: ask parts of the fleet");
                Err(ApiError::field("selector", message))
            }
        }
    };
    let devices = audited(&app, &asked, deed, work).await?;
    let Ok(slot) = app.readers.clone().try_acquire_owned() else {
        let detail = format!("{READERS_MAX} answers are streamed by this coordinator already, which is the most");
        return Err(ApiError::new(Code::Unavailable, detail));
    };
    let all = u32::try_from(devices.len()).unwrap_or(u32::MAX);
    let core = Arc::clone(&app.core);
    let one = move |device: DeviceRecord| ask(Arc::clone(&core), device, packages.clone(), least);
    let told = stream::iter(devices)
        .map(one)
        .buffer_unordered(AT_ONCE)
        .map(|planned| OsPlanLine::Device { planned: Box::new(planned) });
    let lines = told.chain(stream::iter([OsPlanLine::End { devices: all }])).map(move |line| {
        let _held = &slot;
        line
    });
    Ok(ndjson(&app, lines))
}

/// Asks one, if it is worth it.
async fn ask(core: Arc<Core>, device: DeviceRecord, packages: OsPackages, least: Protection) -> OsPlannedDevice {
    if let Some(known) = core.index.look(|lens| unasked(lens, least, &device)) {
        return known;
    }
    let failed = |why: String| unanswered(&device, OsPlanState::Failed, why);
    let of_mesh = |err: MeshError| match err {
        MeshError::Unreachable { why } => unanswered(&device, OsPlanState::Away, why),
        MeshError::Timeout { why } | MeshError::Broker { why } => failed(why),
    };
    let mut frames = match core.command(&device.id, Verb::OsPlan(packages), SILENCE).await {
        Ok(frames) => frames,
        Err(err) => return of_mesh(err),
    };
    while let Some(frame) = frames.next().await {
        match frame.map(|frame| frame.body) {
            Ok(FrameBody::OsPlan(plan)) => return answered(least, &device, *plan),
            Ok(FrameBody::Stdout(_)) => {}
            Ok(FrameBody::Refused { why }) => return failed(why),
            Ok(_) => break,
            Err(err) => return of_mesh(err),
        }
    }
    failed("it answered something else: is its agent of this version?".to_owned())
}
