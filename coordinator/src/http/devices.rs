//! Devices: shown, labelled, approved, quarantined and explained.

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use bramble_contracts::{
    api::{Because, DeviceView, Explanation, LabelChange, Outcome},
    id::{DeviceId, Name, Tenant},
    label::has_all,
    subjects::Bucket,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    App, RACES,
    audit::{Deed, audited},
    error::ApiError,
    extract::{Asked, Body, Maybe, Path, Query, etag, fields, labels, limit, page},
    watched::{self, Watch, Watched},
};
use crate::{
    background::{metrics::connection_word, now},
    domain::{
        explain,
        lifecycle::{self, Ask},
        record::{self, DeviceRecord},
        view::{self, Detail, Lens},
    },
    store::{Expect, StoreError},
};

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/api/v1/devices", get(list))
        .route("/api/v1/devices/{name}", get(describe))
        .route("/api/v1/devices/{name}/explain", get(why))
        .route("/api/v1/devices/{name}/labels", patch(relabel))
        .route("/api/v1/devices/{name}/approve", post(approve))
        .route("/api/v1/devices/{name}/quarantine", post(quarantine))
        .route("/api/v1/devices/{name}/unquarantine", post(unquarantine))
}

#[derive(Deserialize)]
struct Listed {
    limit: Option<String>,
    cursor: Option<String>,
    label: Option<String>,
    field: Option<String>,
    watch: Option<Watch>,
}

async fn list(State(app): State<App>, asked: Asked, Query(q): Query<Listed>) -> Result<Response, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    let wanted = labels(q.label.as_deref())?;
    let limit = limit(q.limit.as_deref())?;
    let known = ["name", "id", "state", "connection"];
    let pairs: Vec<(String, String)> =
        fields(q.field.as_deref(), &known)?.into_iter().map(|(f, v)| (f.to_owned(), v.to_owned())).collect();
    let all = move |lens: &Lens<'_>| {
        let ids = lens.fleet.device_ids();
        let views = ids.iter().map(|id| lens.device(id, Detail::Brief));
        views
            .filter(|v| v.tenant == tenant && has_all(&v.labels, &wanted) && pairs.iter().all(|(f, t)| fits(v, f, t)))
            .collect::<Vec<_>>()
    };
    if q.watch.is_some_and(Watch::is_on) {
        return Ok(watched::stream(&app, move |lens| Some(watched::items(&all(lens), |v| v.id.to_string()))));
    }
    let views = app.core.index.look(all);
    Ok(Json(page(views, |v| v.name.to_string(), q.cursor.as_deref(), limit)).into_response())
}

fn fits(view: &DeviceView, field: &str, text: &str) -> bool {
    match field {
        "name" => view.name.as_str() == text,
        "id" => view.id.as_str() == text,
        "state" => lifecycle::word(view.state) == text,
        "connection" => connection_word(view.connection) == text,
        _ => false,
    }
}

/// The device that is called so, or has this id.
pub(crate) fn find(app: &App, tenant: &Tenant, name: &str) -> Result<DeviceId, ApiError> {
    let id = app.core.index.look(|lens| lens.fleet.device_named(tenant, name));
    id.ok_or_else(|| ApiError::not_found("device", name))
}

fn shown(app: &App, id: &DeviceId) -> Response {
    let view = app.core.index.look(|lens| lens.device(id, Detail::Whole));
    (etag(view.version), Json(view)).into_response()
}

async fn describe(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<String>,
    Query(q): Query<Watched>,
) -> Result<Response, ApiError> {
    app.known()?;
    let id = find(&app, &asked.tenant()?, &name)?;
    if q.is_on() {
        // A device is never deleted: a decommissioned one says so.
        let one = move |lens: &Lens<'_>| watched::items(&[lens.device(&id, Detail::Whole)], |v| v.id.to_string());
        return Ok(watched::stream(&app, move |lens| Some(one(lens))));
    }
    Ok(shown(&app, &id))
}

#[derive(Deserialize)]
struct Which {
    deployment: Option<String>,
}

async fn why(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<String>,
    Query(q): Query<Which>,
) -> Result<Json<Explanation>, ApiError> {
    app.known()?;
    let id = find(&app, &asked.tenant()?, &name)?;
    let only = q.deployment.map(|d| d.parse::<Name>().map_err(|_| ApiError::not_found("deployment", d))).transpose()?;
    Ok(Json(app.core.index.look(|lens| explain::explain(lens, &id, only.as_ref()))))
}

/// What of a device goes to the audit trail.
fn told(record: &DeviceRecord) -> Value {
    json!({
        "id": record.id, "name": record.name, "state": record.state, "labels": record.labels,
        "quarantine": record.quarantine.as_ref().map(|n| &n.reason), "hold": record.hold.as_ref().map(|n| &n.reason),
    })
}

/// Changes a device's record: read from the store, decided, written if nobody was faster.
async fn change(
    app: &App,
    asked: &Asked,
    name: &str,
    action: &str,
    reason: &str,
    decide: impl Fn(DeviceRecord) -> Result<DeviceRecord, ApiError>,
) -> Result<DeviceRecord, ApiError> {
    let tenant = asked.tenant()?;
    app.writable()?;
    let id = find(app, &tenant, name)?;
    let before = app.core.index.look(|lens| lens.fleet.device(&id).record().map(told));
    let object = format!("device/{name:.80}");
    let deed = Deed { action, object: &object, tenant: Some(tenant), reason, before };
    let work = async {
        let record = write(app, asked, &id, decide).await?;
        let after = told(&record);
        Ok((record, Some(after)))
    };
    audited(app, asked, deed, work).await
}

async fn write(
    app: &App,
    asked: &Asked,
    id: &DeviceId,
    decide: impl Fn(DeviceRecord) -> Result<DeviceRecord, ApiError>,
) -> Result<DeviceRecord, ApiError> {
    for _ in 0..RACES {
        let entry = app.core.store.get(Bucket::Devices, id.as_str()).await?;
        let entry = entry.ok_or_else(|| ApiError::not_found("record of device", id))?;
        asked.check(Some(entry.seq))?;
        let unreadable =
            |err: record::Unreadable| ApiError::new(bramble_contracts::problem::Code::Conflict, err.to_string());
        let old: DeviceRecord = record::decode(&entry.bytes).map_err(unreadable)?;
        let next = decide(old.clone())?;
        if next == old {
            return Ok(next);
        }
        match app.core.store.put(Bucket::Devices, id.as_str(), record::encode(&next), Expect::Seq(entry.seq)).await {
            Ok(seq) => {
                app.seen(Bucket::Devices, seq).await;
                return Ok(next);
            }
            Err(StoreError::Conflict { .. }) if !asked.is_conditional() => {}
            Err(err) => return Err(err.into()),
        }
    }
    Err(StoreError::Conflict { bucket: Bucket::Devices, key: id.to_string() }.into())
}

async fn relabel(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<String>,
    Body(change_of): Body<LabelChange>,
) -> Result<Response, ApiError> {
    let decide = |mut record: DeviceRecord| {
        for key in &change_of.remove {
            record.labels.remove(key);
        }
        record.labels.extend(change_of.set.clone());
        if record.labels.len() > 64 {
            return Err(ApiError::field("set", "a device has at most 64 labels"));
        }
        Ok(record)
    };
    let record = change(&app, &asked, &name, "device.label", "", decide).await?;
    Ok(shown(&app, &record.id))
}

async fn approve(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<String>,
    Maybe(because): Maybe<Because>,
) -> Result<Response, ApiError> {
    let decide = |mut record: DeviceRecord| {
        record.state = lifecycle::admit(record.state, Ask::Approve)?;
        Ok(record)
    };
    let record = change(&app, &asked, &name, "device.approve", &because.reason, decide).await?;
    Ok(shown(&app, &record.id))
}

async fn quarantine(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<String>,
    Body(because): Body<Because>,
) -> Result<Response, ApiError> {
    if because.reason.trim().is_empty() {
        return Err(ApiError::field("reason", "say why: the next operator reads it"));
    }
    let who = asked.caller.subject.clone();
    let decide = |mut record: DeviceRecord| {
        if record.public_key.is_none() {
            let detail =
                "the key of this device is not known any more, so nothing can be cut off: enrol it again first";
            return Err(ApiError::new(bramble_contracts::problem::Code::Conflict, detail));
        }
        record.state = lifecycle::admit(record.state, Ask::Quarantine)?;
        record.quarantine.get_or_insert_with(|| view::note(&because.reason, &who, now()));
        Ok(record)
    };
    let record = change(&app, &asked, &name, "device.quarantine", &because.reason, decide).await?;
    if let Some(key) = &record.public_key {
        enforce(&app, &asked, &record, "device.quarantine", app.core.quarantine.cut(&app.core, key)).await?;
    }
    Ok(shown(&app, &record.id))
}

async fn unquarantine(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<String>,
    Maybe(because): Maybe<Because>,
) -> Result<Response, ApiError> {
    let decide = |mut record: DeviceRecord| {
        record.state = lifecycle::admit(record.state, Ask::Unquarantine)?;
        record.quarantine = None;
        Ok(record)
    };
    let record = change(&app, &asked, &name, "device.unquarantine", &because.reason, decide).await?;
    if let Some(key) = &record.public_key {
        enforce(&app, &asked, &record, "device.unquarantine", app.core.quarantine.release(&app.core, key)).await?;
    }
    Ok(shown(&app, &record.id))
}

/// Tells the broker; when that does not work, the audit trail says so, and the keeper goes on trying.
async fn enforce(
    app: &App,
    asked: &Asked,
    record: &DeviceRecord,
    action: &str,
    done: impl Future<Output = Result<(), crate::background::quarantine::KeeperError>>,
) -> Result<(), ApiError> {
    let Err(err) = done.await else { return Ok(()) };
    let object = format!("device/{}", record.name);
    let deed = Deed { action, object: &object, tenant: Some(record.tenant.clone()), reason: "", before: None };
    let event = super::audit::event(&deed, &asked.caller.subject, &asked.ids, Outcome::Failed, &err.to_string(), None);
    app.core.store.audit(&event).await?;
    Err(err.into())
}
