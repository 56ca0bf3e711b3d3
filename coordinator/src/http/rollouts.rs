//! Rollouts: shown, begun, and what operators say while they are under way.
//!
//! Decides: what a rollout of the agent may begin with. A deployment's begins when the deployment is applied.
//! Deliberately does not: take a step by itself; `background::rollout` does.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bramble_contracts::{
    api::{Because, RolloutKind, RolloutRequest, RolloutView},
    id::{DeviceId, Name, Tenant, Uid},
    label::Selector,
    problem::{Code, FieldError},
    subjects::Bucket,
    v3::{OsPackages, Protection},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    App, RACES,
    audit::{Deed, audited},
    error::ApiError,
    extract::{Asked, Body, Maybe, Path, Query, etag, limit, page},
    watched::{self, Watch, Watched},
};
use crate::{
    background::now,
    domain::{
        Now, record,
        rollout::{
            self, AgentSubject, Ask, Begin, DEVICES_MAX, Event, OsSubject, Rollout, Subject,
            facts::{self, Facts},
            rollout_key,
        },
        view::{Detail, Lens},
        when::rfc3339,
    },
    keys::entropy,
    store::{Expect, StoreError},
};

/// Packages that one rollout names, at most.
const PACKAGES_MAX: usize = 200;
/// Rollouts of one tenant, at most.
const ROLLOUTS_MAX: usize = 500;

/// The lines of the table of routes.
pub(super) mod table {
    use bramble_contracts::rights::Right;

    use crate::http::routes::{Gives, PAGED, Route, Takes, act, read};

    pub(in crate::http) const LIST: Route = Route {
        query: PAGED,
        ..read("/api/v1/rollouts", Right::RolloutsRead, "Rollouts.", Gives::List("RolloutView"))
    };
    pub(in crate::http) const DESCRIBE: Route = read(
        "/api/v1/rollouts/{name}",
        Right::RolloutsRead,
        "One rollout, with its devices.",
        Gives::Object("RolloutView"),
    );
    pub(in crate::http) const CREATE: Route = Route {
        status: 201,
        gives: Gives::Object("RolloutView"),
        also: &[409, 422, 503],
        ..act(
            "/api/v1/rollouts",
            Right::RolloutsWrite,
            "Begin a rollout of an agent's release, or of newer packages of the operating system. One that is under way and the same is answered as it is.",
            Takes::Json("RolloutRequest"),
        )
    };

    /// What an operator says to one.
    pub(in crate::http) const fn ask(path: &'static str, summary: &'static str) -> Route {
        Route {
            gives: Gives::Object("RolloutView"),
            ..act(path, Right::RolloutsWrite, summary, Takes::Maybe("Because"))
        }
    }
}

/// The routes.
pub(super) fn router() -> Router<App> {
    let shown =
        Router::new().route("/api/v1/rollouts", get(list).post(create)).route("/api/v1/rollouts/{name}", get(describe));
    Ask::ALL.into_iter().fold(shown, |router, ask| {
        let path = format!("/api/v1/rollouts/{{name}}/{}", ask.name());
        let asked =
            move |app: State<App>, by: Asked, name: Path<Name>, why: Maybe<Because>| asks(ask, app, by, name, why);
        router.route(&path, post(asked))
    })
}

#[derive(Deserialize)]
struct Listed {
    limit: Option<String>,
    cursor: Option<String>,
    watch: Option<Watch>,
}

async fn list(State(app): State<App>, asked: Asked, Query(q): Query<Listed>) -> Result<Response, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    let limit = limit(q.limit.as_deref())?;
    let all = move |lens: &Lens<'_>| {
        let ours = lens.fleet.rollouts.readable().filter(|(_, _, r)| r.tenant == tenant);
        ours.map(|(_, seq, r)| lens.rollout(r, seq, Detail::Brief)).collect::<Vec<RolloutView>>()
    };
    if q.watch.is_some_and(Watch::is_on) {
        return Ok(watched::stream(&app, move |lens| Some(watched::items(&all(lens), key))));
    }
    let views = app.core.index.look(all);
    Ok(Json(page(views, key, q.cursor.as_deref(), limit)).into_response())
}

fn key(view: &RolloutView) -> String {
    view.name.to_string()
}

async fn describe(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<Name>,
    Query(q): Query<Watched>,
) -> Result<Response, ApiError> {
    app.known()?;
    let place = rollout_key(&asked.tenant()?, &name);
    let one = move |lens: &Lens<'_>| {
        let slot = lens.fleet.rollouts.get(&place)?;
        Some(slot.value.as_ref().map(|r| lens.rollout(r, slot.seq, Detail::Whole)).map_err(Clone::clone))
    };
    match watched::record(&app, q, "rollout", &name, one, key)? {
        watched::Record::Followed(events) => Ok(events),
        watched::Record::Now(view) => Ok((etag(view.version), Json(view)).into_response()),
    }
}

fn shown(app: &App, rollout: &Rollout, seq: u64) -> RolloutView {
    app.core.index.look(|lens| lens.rollout(rollout, seq, Detail::Whole))
}

/// What of a rollout goes to the audit trail.
fn told(rollout: &Rollout) -> serde_json::Value {
    json!({
        "name": rollout.name, "uid": rollout.uid, "brings": rollout.brings(), "state": rollout.state,
        "batch": rollout.batch, "batches": rollout.batches(), "policy": rollout.policy,
    })
}

async fn create(
    State(app): State<App>,
    asked: Asked,
    Body(request): Body<RolloutRequest>,
) -> Result<Response, ApiError> {
    let tenant = asked.tenant()?;
    app.writable()?;
    let object = match &request.name {
        Some(name) => format!("rollout/{name}"),
        None => "rollout/".to_owned() + &brings(&request),
    };
    let before = None;
    let deed = Deed {
        action: "rollout.begin",
        object: &object,
        tenant: Some(tenant.clone()),
        reason: &request.reason.clone(),
        before,
    };
    let work = async {
        let (rollout, seq) = begin(&app, &asked, &tenant, request).await?;
        let after = told(&rollout);
        Ok(((rollout, seq), Some(after)))
    };
    let (rollout, seq) = audited(&app, &asked, deed, work).await?;
    Ok((StatusCode::CREATED, etag(seq), Json(shown(&app, &rollout, seq))).into_response())
}

/// The rollout as it would begin, or the same one that is under way.
enum Wanted {
    New(Box<Rollout>),
    There(Box<Rollout>, u64),
}

async fn begin(app: &App, asked: &Asked, tenant: &Tenant, request: RolloutRequest) -> Result<(Rollout, u64), ApiError> {
    for _ in 0..RACES {
        let wanted = app.core.index.look(|lens| wanted(lens, tenant, &request, &asked.caller.subject, now()))?;
        let rollout = match wanted {
            Wanted::There(rollout, seq) => return Ok((*rollout, seq)),
            Wanted::New(rollout) => rollout,
        };
        match app.core.store.put(Bucket::Rollouts, &rollout.key(), rollout.encode(), Expect::Absent).await {
            Ok(seq) => {
                app.seen(Bucket::Rollouts, seq).await;
                return Ok((*rollout, seq));
            }
            // Somebody took the name; the index will know it in a moment.
            Err(StoreError::Conflict { .. }) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            Err(err @ StoreError::Unavailable { .. }) => return Err(err.into()),
        }
    }
    Err(ApiError::new(Code::Conflict, "others begin rollouts at the same time: try again"))
}

fn wanted(lens: &Lens<'_>, tenant: &Tenant, request: &RolloutRequest, by: &str, at: Now) -> Result<Wanted, ApiError> {
    let found = problems(lens, tenant, request);
    if !found.is_empty() {
        return Err(ApiError::invalid(found));
    }
    if request.policy.window.is_some() && request.kind != RolloutKind::Os {
        let message = "a window exists for kind os only in this version; leave it out".to_owned();
        let found = vec![FieldError { path: "policy.window".into(), message }];
        return Err(ApiError { code: Code::Unsupported, ..ApiError::invalid(found) });
    }
    let subject = match request.kind {
        RolloutKind::Os => os_subject(request),
        RolloutKind::Agent | RolloutKind::Deployment => Subject::Agent(agent_subject(lens, request, at)?),
    };
    let ours = || lens.fleet.rollouts.readable().filter(|(_, _, r)| r.tenant == *tenant);
    let same = ours().find(|(_, _, r)| {
        let named = request.name.as_ref().is_none_or(|name| *name == r.name);
        named && r.is_live() && r.subject == subject && r.policy == request.policy
    });
    if let Some((_, seq, rollout)) = same {
        return Ok(Wanted::There(Box::new(rollout.clone()), seq));
    }
    if ours().count() >= ROLLOUTS_MAX {
        let detail = format!("tenant {tenant} has {ROLLOUTS_MAX} rollouts: abort those that never end first");
        return Err(ApiError::new(Code::Conflict, detail));
    }
    let newest = ours().map(|(_, _, r)| r).filter(|r| r.kind() == request.kind).max_by(|a, b| a.age().cmp(&b.age()));
    let rollout = Rollout::new(Begin {
        uid: Uid::from_entropy(entropy()),
        tenant: tenant.clone(),
        name: name(lens, tenant, request)?,
        subject,
        policy: request.policy.clone(),
        by: by.to_owned(),
        // Later than all that are there, also when a clock was set back: the newer one has its way.
        wall_ms: newest.map_or(0, |r| r.created_ms + 1).max(at.wall_ms),
        failed_before: failed_before(request.kind, ours().map(|(_, _, r)| r)),
    });
    match facts::selected(lens, &rollout).len() {
        0 => Err(ApiError::field("selector", "selects no device: label a device, or change the selector")),
        1..=DEVICES_MAX => Ok(Wanted::New(Box::new(rollout))),
        n => {
            let message = format!(
                "selects {n} devices, and a rollout takes {DEVICES_MAX}: roll out to parts of the fleet by labels"
            );
            Err(ApiError::field("selector", message))
        }
    }
}

/// How often each device failed in a row in rollouts of that kind, the newest last.
fn failed_before<'a>(kind: RolloutKind, all: impl Iterator<Item = &'a Rollout>) -> BTreeMap<DeviceId, u8> {
    let mut alike: Vec<&Rollout> = all.filter(|r| r.kind() == kind).collect();
    alike.sort_unstable_by(|a, b| a.age().cmp(&b.age()));
    alike.into_iter().fold(BTreeMap::new(), |failed, rollout| rollout.failures(failed))
}

fn problems(lens: &Lens<'_>, tenant: &Tenant, request: &RolloutRequest) -> Vec<FieldError> {
    let mut found = request.policy.problems("policy");
    let mut add = |path: &str, message: String| found.push(FieldError { path: path.to_owned(), message });
    match request.kind {
        RolloutKind::Deployment => {
            add("kind", "a deployment's rollout begins when the deployment is applied; agent and os begin here".into());
        }
        RolloutKind::Agent => {
            if request.version.is_none() {
                add("version", "is missing: which release of the agent?".into());
            }
            let os = [("packages", request.packages.is_some()), ("least", request.least.is_some())];
            for (path, _) in os.into_iter().chain([("probation", request.probation.is_some())]).filter(|(_, is)| *is) {
                add(path, "belongs to rollouts of kind os".into());
            }
        }
        RolloutKind::Os => {
            if request.version.is_some() {
                add("version", "belongs to rollouts of kind agent".into());
            }
            if let Some(why) = request.probation.and_then(|probation| probation.check().err()) {
                add("probation", why);
            }
            match &request.packages {
                None => add("packages", "is missing: all, or these".into()),
                Some(packages) => packages_problems(packages, &mut found),
            }
        }
    }
    selector_problems(lens, tenant, request.selector.as_ref(), &mut found);
    found
}

pub(super) fn packages_problems(packages: &OsPackages, found: &mut Vec<FieldError>) {
    let OsPackages::These(these) = packages else { return };
    if !(1..=PACKAGES_MAX).contains(&these.len()) {
        let message = format!("has {} packages: 1 to {PACKAGES_MAX}, or all", these.len());
        found.push(FieldError { path: "packages.these".to_owned(), message });
    }
}

pub(super) fn selector_problems(
    lens: &Lens<'_>,
    tenant: &Tenant,
    selector: Option<&Selector>,
    found: &mut Vec<FieldError>,
) {
    let Some(Selector { match_labels, devices }) = selector else { return };
    let mut add = |path: &str, message: String| found.push(FieldError { path: path.to_owned(), message });
    match (match_labels.is_empty(), devices.is_empty()) {
        (true, true) => add("selector", "selects nothing: give matchLabels or devices, or leave it out for all".into()),
        (false, false) => add("selector", "give matchLabels or devices, not both".into()),
        (true, false) | (false, true) => {}
    }
    for (i, name) in devices.iter().enumerate() {
        if !lens.fleet.devices.readable().any(|(_, _, d)| d.tenant == *tenant && d.name == *name) {
            add(&format!("selector.devices[{i}]"), format!("there is no device {name} in tenant {tenant}"));
        }
    }
}

fn os_subject(request: &RolloutRequest) -> Subject {
    let mut packages = request.packages.clone().unwrap_or(OsPackages::All);
    if let OsPackages::These(these) = &mut packages {
        these.sort();
        these.dedup();
    }
    Subject::Os(OsSubject {
        packages,
        least: request.least.unwrap_or(Protection::Tryboot),
        probation: request.probation.unwrap_or_default(),
        selector: request.selector.clone(),
    })
}

fn agent_subject(lens: &Lens<'_>, request: &RolloutRequest, at: Now) -> Result<AgentSubject, ApiError> {
    let bad = |message: String| Err(ApiError::field("version", message));
    let Some(version) = request.version else { return bad("is missing".into()) };
    let Some(release) = lens.fleet.releases.now().get(&version) else {
        return bad(format!("there is no release {version} of the agent: publish it with `bramble agent publish`"));
    };
    if let Some(why) = &release.refused {
        return bad(format!("no device would take release {version}: {why}"));
    }
    if release.expires_ms <= at.wall_ms {
        return bad(format!(
            "release {version} expired at {}: publish it again with a later date",
            rfc3339(release.expires_ms)
        ));
    }
    Ok(AgentSubject {
        version,
        release_seq: release.release_seq,
        manifest: release.manifest,
        keys_pin: release.keys_pin,
        targets: release.targets.keys().cloned().collect(),
        selector: request.selector.clone(),
    })
}

/// What is asked for, in few words.
fn brings(request: &RolloutRequest) -> String {
    match (&request.version, &request.packages) {
        (Some(version), _) => format!("agent {version}"),
        (None, Some(packages)) => format!("os {}", rollout::packages(packages)),
        (None, None) => "nothing".to_owned(),
    }
}

/// A name that nobody has: the one that is asked for, or one made from what it brings.
fn name(lens: &Lens<'_>, tenant: &Tenant, request: &RolloutRequest) -> Result<Name, ApiError> {
    let is_free = |name: &Name| {
        lens.fleet.rollouts.get(&rollout_key(tenant, name)).is_none() && lens.fleet.deployment(tenant, name).is_none()
    };
    if let Some(name) = &request.name {
        let taken = format!("rollout {name} is there already, or a deployment is called so: take another name");
        return is_free(name).then(|| name.clone()).ok_or_else(|| ApiError::new(Code::Conflict, taken));
    }
    let plain = request.version.map_or("os".to_owned(), |v| format!("agent-{}", v.to_string().replace('.', "-")));
    let mut names = std::iter::once(plain.clone()).chain((2..=ROLLOUTS_MAX + 1).map(|n| format!("{plain}-{n}")));
    let free = names.find_map(|text| text.parse().ok().filter(is_free));
    free.ok_or_else(|| ApiError::new(Code::Conflict, "every name for it is taken: give one"))
}

async fn asks(
    ask: Ask,
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<Name>,
    Maybe(because): Maybe<Because>,
) -> Result<Response, ApiError> {
    let tenant = asked.tenant()?;
    app.writable()?;
    let place = rollout_key(&tenant, &name);
    let before = app.core.index.look(|lens| lens.fleet.rollouts.get(&place).and_then(|slot| slot.ok().map(told)));
    let object = format!("rollout/{name}");
    let action = format!("rollout.{}", ask.name());
    let deed = Deed { action: &action, object: &object, tenant: Some(tenant), reason: &because.reason, before };
    let work = async {
        let (rollout, seq) = write(&app, &asked, &name, &place, ask, &because.reason).await?;
        let after = told(&rollout);
        Ok(((rollout, seq), Some(after)))
    };
    let (rollout, seq) = audited(&app, &asked, deed, work).await?;
    Ok((etag(seq), Json(shown(&app, &rollout, seq))).into_response())
}

/// Takes the step that an operator asks for, if nobody was faster.
async fn write(
    app: &App,
    asked: &Asked,
    name: &Name,
    place: &str,
    ask: Ask,
    reason: &str,
) -> Result<(Rollout, u64), ApiError> {
    for _ in 0..RACES {
        let entry = app.core.store.get(Bucket::Rollouts, place).await?;
        let entry = entry.ok_or_else(|| ApiError::not_found("rollout", name))?;
        asked.check(Some(entry.seq))?;
        let old: Rollout =
            record::decode(&entry.bytes).map_err(|err| ApiError::new(Code::Conflict, err.to_string()))?;
        let step = rollout::step(old.clone(), Event::Ask(ask), &Facts::default());
        let (mut next, _) = step.map_err(|err| ApiError::new(Code::Conflict, err.to_string()))?;
        match ask {
            Ask::Pause | Ask::Abort => {
                let because =
                    if reason.trim().is_empty() { String::new() } else { format!(": {:.200}", reason.trim()) };
                next.why = format!("{} by {}{because}", rollout::word(next.state), asked.caller.subject);
            }
            Ask::Resume | Ask::Promote | Ask::Retry | Ask::Approve => {}
        }
        next.updated_ms = now().wall_ms;
        match app.core.store.put(Bucket::Rollouts, place, next.encode(), Expect::Seq(entry.seq)).await {
            Ok(seq) => {
                app.seen(Bucket::Rollouts, seq).await;
                return Ok((next, seq));
            }
            Err(StoreError::Conflict { .. }) if !asked.is_conditional() => {}
            Err(err) => return Err(err.into()),
        }
    }
    Err(StoreError::Conflict { bucket: Bucket::Rollouts, key: place.to_owned() }.into())
}
