//! Deployments: shown, applied, deleted and planned.

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bramble_contracts::{
    api::{Applied, Change, DeploymentView, PlanRequest, PlanView, PlannedDeployment, RolloutKind},
    id::{Name, Tenant, Uid},
    label::has_all,
    problem::{Code, FieldError},
    subjects::Bucket,
    v1::{Deployment, Manifest},
};
use serde::Deserialize;

use super::{
    App, RACES, READ_OWN_WRITE,
    audit::{Deed, audited},
    error::ApiError,
    extract::{Asked, Body, Path, Query, etag, fields, labels, limit, page},
    watched::{self, Watch, Watched},
};
use crate::{
    background::now,
    domain::{
        change, depend,
        record::{self, DeploymentRecord, DeviceRecord, deployment_key},
        rollout::{gate, rollout_key},
        view::{Detail, Lens},
    },
    keys::entropy,
    store::{Expect, StoreError},
};

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/api/v1/deployments", get(list))
        .route("/api/v1/deployments/{name}", get(describe).put(apply).delete(remove))
        .route("/api/v1/plan", post(plan))
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
    let names: Vec<String> = fields(q.field.as_deref(), &["name"])?.into_iter().map(|(_, v)| v.to_owned()).collect();
    let all = move |lens: &Lens<'_>| {
        let records = lens.fleet.deployments.readable().filter(|(_, _, d)| {
            *d.tenant() == tenant
                && has_all(&d.deployment.metadata.labels, &wanted)
                && names.iter().all(|n| d.name().as_str() == n)
        });
        records.map(|(_, seq, d)| lens.deployment(d, seq, Detail::Brief)).collect::<Vec<DeploymentView>>()
    };
    if q.watch.is_some_and(Watch::is_on) {
        return Ok(watched::stream(&app, move |lens| Some(watched::items(&all(lens), key))));
    }
    let views = app.core.index.look(all);
    Ok(Json(page(views, key, q.cursor.as_deref(), limit)).into_response())
}

async fn describe(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<Name>,
    Query(q): Query<Watched>,
) -> Result<Response, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    let of = name.clone();
    let one = move |lens: &Lens<'_>| {
        let slot = lens.fleet.deployment(&tenant, &of)?;
        Some(slot.value.as_ref().map(|d| lens.deployment(d, slot.seq, Detail::Whole)).map_err(Clone::clone))
    };
    match watched::record(&app, q, "deployment", &name, one, key)? {
        watched::Record::Followed(events) => Ok(events),
        watched::Record::Now(view) => Ok((etag(view.version), Json(view)).into_response()),
    }
}

fn key(view: &DeploymentView) -> String {
    view.manifest.metadata.name.to_string()
}

#[derive(Deserialize)]
struct Dry {
    #[serde(default, rename = "dryRun")]
    dry_run: bool,
}

/// What everybody must say about a manifest before it is looked at closer.
fn accept(manifest: Manifest, tenant: &Tenant, name: Option<&Name>) -> Result<Deployment, ApiError> {
    let deployment = Deployment::from(manifest);
    let metadata = &deployment.metadata;
    if metadata.tenant != *tenant {
        let message = format!("is {} and x-tenant-id says {tenant}: they must agree", metadata.tenant);
        return Err(ApiError::field("metadata.tenant", message));
    }
    if let Some(name) = name.filter(|n| **n != metadata.name) {
        return Err(ApiError::field(
            "metadata.name",
            format!("is {} and the path says {name}: they must agree", metadata.name),
        ));
    }
    let later = deployment.unsupported();
    if later.is_empty() {
        return Ok(deployment);
    }
    Err(ApiError { code: Code::Unsupported, ..ApiError::invalid(later) })
}

fn problems(lens: &Lens<'_>, deployment: &Deployment, others: &[&DeploymentRecord]) -> Vec<FieldError> {
    let devices: Vec<&DeviceRecord> = lens.fleet.devices.readable().map(|(_, _, d)| d).collect();
    let mut found = change::problems(deployment, &devices, others);
    found.extend(name_taken(lens, deployment));
    found
}

/// Its rollout would be called as it is: is another one called so?
fn name_taken(lens: &Lens<'_>, deployment: &Deployment) -> Option<FieldError> {
    let metadata = &deployment.metadata;
    let there = lens.fleet.rollouts.get(&rollout_key(&metadata.tenant, &metadata.name))?.ok()?;
    let taken = there.kind() != RolloutKind::Deployment && !gate::is_immediate(&deployment.spec.rollout);
    let message = format!("another rollout is called {}: call the deployment otherwise", metadata.name);
    taken.then(|| FieldError { path: "metadata.name".to_owned(), message })
}

async fn stored(app: &App, tenant: &Tenant, name: &Name) -> Result<Option<(u64, DeploymentRecord)>, ApiError> {
    let Some(entry) = app.core.store.get(Bucket::Deployments, &deployment_key(tenant, name)).await? else {
        return Ok(None);
    };
    let record = record::decode(&entry.bytes).map_err(|err| ApiError::new(Code::Unavailable, err.to_string()))?;
    Ok(Some((entry.seq, record)))
}

async fn apply(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<Name>,
    Query(dry): Query<Dry>,
    Body(manifest): Body<Manifest>,
) -> Result<Response, ApiError> {
    let tenant = asked.tenant()?;
    app.writable()?;
    if dry.dry_run {
        let deployment = accept(manifest, &tenant, Some(&name))?;
        let (applied, _) = prepare(&app, &asked, &tenant, &name, &deployment).await?;
        return Ok((etag(applied.deployment.version), Json(applied)).into_response());
    }
    let object = format!("deployment/{name}");
    let before = app
        .core
        .index
        .look(|lens| lens.fleet.deployment(&tenant, &name).and_then(|s| s.ok().map(|d| d.deployment.clone())));
    let before = before.and_then(|d| serde_json::to_value(Manifest::from(d)).ok());
    let deed = Deed { action: "deployment.apply", object: &object, tenant: Some(tenant.clone()), reason: "", before };
    let work = async {
        let deployment = accept(manifest, &tenant, Some(&name))?;
        let applied = put(&app, &asked, &tenant, &name, &deployment).await?;
        let after = serde_json::to_value(&applied.deployment.manifest).ok();
        Ok((applied, after))
    };
    let applied = audited(&app, &asked, deed, work).await?;
    Ok((etag(applied.deployment.version), Json(applied)).into_response())
}

/// Everything about an apply but the write: the answer as it would be, and what to write against which sequence.
async fn prepare(
    app: &App,
    asked: &Asked,
    tenant: &Tenant,
    name: &Name,
    deployment: &Deployment,
) -> Result<(Applied, Option<(DeploymentRecord, Expect)>), ApiError> {
    let there = stored(app, tenant, name).await?;
    asked.check(there.as_ref().map(|(seq, _)| *seq))?;
    let existing = there.as_ref().map(|(_, record)| record);
    let (change, record) = change::applied(existing, deployment.clone(), Uid::from_entropy(entropy()), now());
    let (found, mut applied) = app.core.index.look(|lens| {
        let version = there.as_ref().map_or(0, |(seq, _)| *seq);
        let deployment = lens.deployment(&record, version, Detail::Whole);
        let others = change::others(lens, &record.deployment, &[]);
        let applied = Applied { change, deployment, warnings: change::warnings(&record, lens, &others) };
        (problems(lens, &record.deployment, &others), applied)
    });
    // What is there already stays acceptable, also where labels made a clash since.
    if !found.is_empty() && change != Change::Unchanged {
        return Err(ApiError::invalid(found));
    }
    if change == Change::Unchanged {
        applied.warnings.extend(found);
        return Ok((applied, None));
    }
    let expect = there.map_or(Expect::Absent, |(seq, _)| Expect::Seq(seq));
    Ok((applied, Some((record, expect))))
}

async fn put(
    app: &App,
    asked: &Asked,
    tenant: &Tenant,
    name: &Name,
    deployment: &Deployment,
) -> Result<Applied, ApiError> {
    for _ in 0..RACES {
        let (mut applied, write) = prepare(app, asked, tenant, name, deployment).await?;
        let Some((record, expect)) = write else { return Ok(applied) };
        match app.core.store.put(Bucket::Deployments, &record.key(), record::encode(&record), expect).await {
            Ok(seq) => {
                app.seen(Bucket::Deployments, seq).await;
                begun(app, &record).await;
                applied.deployment = app.core.index.look(|lens| lens.deployment(&record, seq, Detail::Whole));
                return Ok(applied);
            }
            Err(StoreError::Conflict { .. }) if !asked.is_conditional() => {}
            Err(err) => return Err(err.into()),
        }
    }
    Err(StoreError::Conflict { bucket: Bucket::Deployments, key: deployment_key(tenant, name) }.into())
}

/// Waits until its rollout has begun, where it has one: whoever looks at that next sees this revision's.
async fn begun(app: &App, record: &DeploymentRecord) {
    let is_there = |lens: &Lens<'_>| {
        gate::is_immediate(&record.deployment.spec.rollout)
            || lens.fleet.rollouts.get(&record.key()).and_then(|slot| slot.ok()).is_some_and(|r| r.is_of(record))
    };
    let mut ticks = app.core.index.ticks();
    let waiting = async { while !app.core.index.look(is_there) && ticks.changed().await.is_ok() {} };
    if tokio::time::timeout(READ_OWN_WRITE, waiting).await.is_err() {
        tracing::warn!(deployment = record.key(), "its rollout has not begun yet");
    }
}

async fn remove(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<Name>,
    Query(dry): Query<Dry>,
) -> Result<Json<PlannedDeployment>, ApiError> {
    let tenant = asked.tenant()?;
    app.writable()?;
    let Some((seq, record)) = stored(&app, &tenant, &name).await? else {
        return Err(ApiError::not_found("deployment", name));
    };
    asked.check(Some(seq))?;
    let planned = app.core.index.look(|lens| {
        let others = change::others(lens, &record.deployment, &[]);
        PlannedDeployment {
            tenant: tenant.clone(),
            name: name.clone(),
            change: Change::Removed,
            devices: change::planned(lens, Some(&record), None, Change::Removed, &others),
            errors: vec![],
            warnings: depend::orphans(&record, &others),
        }
    });
    if dry.dry_run {
        return Ok(Json(planned));
    }
    let object = format!("deployment/{name}");
    let before = serde_json::to_value(Manifest::from(record.deployment)).ok();
    let deed = Deed { action: "deployment.delete", object: &object, tenant: Some(tenant.clone()), reason: "", before };
    let work = async {
        let gone = app.core.store.delete(Bucket::Deployments, &deployment_key(&tenant, &name), seq).await?;
        app.seen(Bucket::Deployments, gone).await;
        Ok((planned, None))
    };
    audited(&app, &asked, deed, work).await.map(Json)
}

async fn plan(
    State(app): State<App>,
    asked: Asked,
    Body(request): Body<PlanRequest>,
) -> Result<Json<PlanView>, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    if request.manifests.len() > 256 {
        return Err(ApiError::field("manifests", "at most 256 at once"));
    }
    let deployments = app.core.index.look(|lens| {
        let mut before: Vec<DeploymentRecord> = vec![];
        let mut planned = vec![];
        for manifest in request.manifests {
            let deployment = Deployment::from(manifest);
            let mut errors = deployment.unsupported();
            if deployment.metadata.tenant != tenant {
                let message =
                    format!("is {} and x-tenant-id says {tenant}: they must agree", deployment.metadata.tenant);
                errors.push(FieldError { path: "metadata.tenant".into(), message });
            }
            let others = change::others(lens, &deployment, &before);
            errors.extend(problems(lens, &deployment, &others));
            let (of, name) = (&deployment.metadata.tenant, &deployment.metadata.name);
            let existing = lens.fleet.deployment(of, name).and_then(|slot| slot.ok());
            let (what, next) = change::applied(existing, deployment.clone(), Uid::from_entropy(entropy()), now());
            planned.push(change::plan_view(lens, existing, &next, what, errors, &others));
            before.retain(|d| d.key() != next.key());
            before.push(next);
        }
        planned
    });
    Ok(Json(PlanView { deployments }))
}
