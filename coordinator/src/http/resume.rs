//! `bramble resume`: what to do with devices that know more than the store.
//!
//! Decides: in what order things are written. Adopting writes deployments, then lets the devices go; overwriting writes
//! each device's document above the one it has, then lets it go. Each step is safe to repeat.

use axum::{Json, Router, extract::State, routing::post};
use bramble_contracts::{
    api::{ResumeMode, ResumeRequest, ResumeView},
    id::DeviceId,
    problem::{Code, FieldError},
    subjects::Bucket,
};
use serde_json::json;

use super::{
    App, RACES,
    audit::{Deed, audited},
    error::ApiError,
    extract::{Asked, Body},
};
use crate::{
    background::{index::Dirty, now, reconcile},
    domain::{
        compose,
        record::{self, DeviceRecord},
        resume::{self, ResumePlan},
    },
    store::{Expect, StoreError},
};

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new().route("/api/v1/resume", post(resume))
}

async fn resume(
    State(app): State<App>,
    asked: Asked,
    Body(request): Body<ResumeRequest>,
) -> Result<Json<ResumeView>, ApiError> {
    let tenant = asked.tenant()?;
    app.writable()?;
    let (ids, plan) = app.core.index.look(|lens| {
        let ids = resume::held(lens, &tenant, &request.devices);
        let plan = resume::plan(lens, &ids, now());
        (ids, plan)
    });
    for name in &request.devices {
        if !plan.devices.iter().any(|d| d.name == *name || d.id.as_str() == name.as_str()) {
            return Err(ApiError::not_found("device on hold", name));
        }
    }
    let done = match request.mode {
        ResumeMode::Show => false,
        ResumeMode::Adopt | ResumeMode::Overwrite => {
            let names: Vec<&str> = plan.devices.iter().map(|d| d.name.as_str()).collect();
            let before = Some(json!({ "mode": request.mode, "devices": names }));
            let deed =
                Deed { action: "fleet.resume", object: "fleet", tenant: Some(tenant), reason: &request.reason, before };
            let work = async {
                match request.mode {
                    ResumeMode::Show => {}
                    ResumeMode::Adopt => adopt(&app, &ids, &plan).await?,
                    ResumeMode::Overwrite => overwrite(&app, &ids).await?,
                }
                Ok(((), None))
            };
            audited(&app, &asked, deed, work).await?;
            true
        }
    };
    app.core.index.mark(Dirty { everything: true, ..Dirty::default() });
    Ok(Json(ResumeView { devices: plan.devices, deployments: plan.deployments, done }))
}

fn conflict(detail: String, errors: Vec<FieldError>) -> ApiError {
    ApiError { code: Code::Conflict, detail, errors }
}

/// Have all of these devices handed over their own document?
fn all_taken(app: &App, ids: &[DeviceId]) -> Result<(), ApiError> {
    let missing: Vec<String> = app.core.index.look(|lens| {
        let behind = |id: &&DeviceId| {
            let seen = lens.fleet.device(id);
            seen.record().is_none_or(|r| r.hold.is_none())
                || seen.desired().is_none_or(|d| d.generation < seen.reported_generation())
        };
        ids.iter()
            .filter(behind)
            .map(|id| lens.device(id, crate::domain::view::Detail::Brief).name.to_string())
            .collect()
    });
    if missing.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "the own documents of {} are not here yet: wait until they are online, or name the other devices",
        missing.join(", ")
    );
    Err(conflict(detail, vec![]))
}

async fn adopt(app: &App, ids: &[DeviceId], plan: &ResumePlan) -> Result<(), ApiError> {
    all_taken(app, ids)?;
    let errors: Vec<FieldError> = plan.deployments.iter().flat_map(|d| d.errors.clone()).collect();
    if let Some(first) = errors.first() {
        return Err(conflict(first.to_string(), errors));
    }
    for next in &plan.adopt {
        let seq = app.core.index.look(|lens| lens.fleet.deployments.get(&next.key()).map(|slot| slot.seq));
        let expect = seq.map_or(Expect::Absent, Expect::Seq);
        let seq = app.core.store.put(Bucket::Deployments, &next.key(), record::encode(next), expect).await?;
        app.seen(Bucket::Deployments, seq).await;
    }
    for id in ids {
        let labels = app.core.index.look(|lens| lens.fleet.device(id).desired().map(|d| d.labels.clone()));
        release(app, id, |record| {
            if let Some(labels) = &labels {
                record.labels.clone_from(labels);
            }
        })
        .await?;
    }
    Ok(())
}

async fn overwrite(app: &App, ids: &[DeviceId]) -> Result<(), ApiError> {
    for id in ids {
        let next = app.core.index.look(|lens| {
            let seen = lens.fleet.device(id);
            let record = seen.record()?;
            let composition = lens.composition(record);
            let next = compose::next_document(seen.desired(), seen.reported_generation(), record, &composition);
            // The device may hold another document of the very same generation: always one above.
            let next = next.or_else(|| {
                let mut same = seen.desired()?.clone();
                same.generation = same.generation.next();
                Some(same)
            })?;
            Some((next, seen.desired.map(|slot| slot.seq)))
        });
        let Some((next, seq)) = next else {
            let detail = format!(
                "{id} has no record in the store, so there is nothing to overwrite it with: adopt it, or enrol it again"
            );
            return Err(conflict(detail, vec![]));
        };
        reconcile::write(&app.core, &next, seq).await?;
        release(app, id, |_| {}).await?;
    }
    Ok(())
}

/// Lets a device go.
async fn release(app: &App, id: &DeviceId, also: impl Fn(&mut DeviceRecord)) -> Result<(), ApiError> {
    for _ in 0..RACES {
        let Some(entry) = app.core.store.get(Bucket::Devices, id.as_str()).await? else { return Ok(()) };
        let old: DeviceRecord =
            record::decode(&entry.bytes).map_err(|err| ApiError::new(Code::Unavailable, err.to_string()))?;
        let mut next = old.clone();
        next.hold = None;
        also(&mut next);
        if next == old {
            return Ok(());
        }
        match app.core.store.put(Bucket::Devices, id.as_str(), record::encode(&next), Expect::Seq(entry.seq)).await {
            Ok(seq) => {
                app.seen(Bucket::Devices, seq).await;
                return Ok(());
            }
            // The reconciler lets a device go by itself once the store wants what it has.
            Err(StoreError::Conflict { .. }) => {}
            Err(err @ StoreError::Unavailable { .. }) => return Err(err.into()),
        }
    }
    Err(StoreError::Conflict { bucket: Bucket::Devices, key: id.to_string() }.into())
}
