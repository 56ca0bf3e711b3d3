//! The audit trail: an intent before every mutation, its outcome after, refused ones too; and the list of it.

use axum::{Json, Router, extract::State, routing::get};
use bramble_contracts::{
    api::{AuditEvent, Outcome, Page},
    id::Tenant,
    problem::Code,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    App,
    error::{self, ApiError},
    extract::{Asked, Query, limit},
    layers::Ids,
};
use crate::{background::now, domain::when};

/// What somebody is about to do.
#[derive(Debug, Clone)]
pub(super) struct Deed<'a> {
    /// `deployment.apply`, …
    pub action: &'a str,
    /// `deployment/web`, …
    pub object: &'a str,
    /// Whose; none for what belongs to no tenant.
    pub tenant: Option<Tenant>,
    /// As they said.
    pub reason: &'a str,
    /// The object before.
    pub before: Option<Value>,
}

/// An event of it.
pub(super) fn event(
    deed: &Deed<'_>,
    who: &str,
    ids: &Ids,
    outcome: Outcome,
    detail: &str,
    after: Option<Value>,
) -> AuditEvent {
    AuditEvent {
        seq: 0,
        at: when::rfc3339(now().wall_ms),
        who: who.to_owned(),
        action: deed.action.to_owned(),
        object: deed.object.to_owned(),
        tenant: deed.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
        reason: deed.reason.chars().take(1024).collect(),
        outcome,
        detail: detail.to_owned(),
        before: deed.before.clone(),
        after,
        request_id: ids.request.clone(),
        correlation_id: ids.correlation.clone(),
    }
}

/// Writes down what is about to be done. Without it nothing is.
pub(super) async fn intend(app: &App, asked: &Asked, deed: &Deed<'_>) -> Result<(), ApiError> {
    app.core.store.audit(&event(deed, &asked.caller.subject, &asked.ids, Outcome::Intent, "", None)).await?;
    Ok(())
}

/// Writes down how it went.
pub(super) async fn conclude(
    app: &App,
    asked: &Asked,
    deed: &Deed<'_>,
    outcome: Outcome,
    detail: &str,
    after: Option<Value>,
) {
    write(app, deed, &event(deed, &asked.caller.subject, &asked.ids, outcome, detail, after)).await;
}

async fn write(app: &App, deed: &Deed<'_>, outcome: &AuditEvent) {
    if let Err(err) = app.core.store.audit(outcome).await {
        tracing::error!(error = %err, action = deed.action, object = deed.object, "cannot write the outcome of a mutation");
    }
}

/// The outcome that an error is.
pub(super) fn outcome_of(err: &ApiError) -> Outcome {
    if error::status(err.code).is_client_error() { Outcome::Refused } else { Outcome::Failed }
}

/// Does `work` between an intent and an outcome. Without the intent nothing is done. Nobody who goes away comes between
/// the two: `layers` runs every handler that changes something in a task of its own.
pub(super) async fn audited<T>(
    app: &App,
    asked: &Asked,
    deed: Deed<'_>,
    work: impl Future<Output = Result<(T, Option<Value>), ApiError>>,
) -> Result<T, ApiError> {
    audited_as(app, &asked.caller.subject, &asked.ids, deed, work).await
}

/// The same for somebody who has no token, such as a device that enrols.
pub(super) async fn audited_as<T>(
    app: &App,
    who: &str,
    ids: &Ids,
    deed: Deed<'_>,
    work: impl Future<Output = Result<(T, Option<Value>), ApiError>>,
) -> Result<T, ApiError> {
    app.core.store.audit(&event(&deed, who, ids, Outcome::Intent, "", None)).await?;
    let done = work.await;
    let outcome = match &done {
        Ok((_, after)) => event(&deed, who, ids, Outcome::Done, "", after.clone()),
        Err(err) => event(&deed, who, ids, outcome_of(err), &err.detail, None),
    };
    write(app, &deed, &outcome).await;
    done.map(|(value, _)| value)
}

/// The list.
pub(super) fn router() -> Router<App> {
    Router::new().route("/api/v1/audit", get(list))
}

#[derive(Deserialize)]
struct Trail {
    limit: Option<String>,
    cursor: Option<String>,
    since: Option<String>,
}

async fn list(
    State(app): State<App>,
    asked: Asked,
    Query(q): Query<Trail>,
) -> Result<Json<Page<AuditEvent>>, ApiError> {
    let limit = limit(q.limit.as_deref())?;
    let number = |c: String| c.parse::<u64>().map_err(|_| ApiError::bad("`cursor` is not one of this list"));
    let before = q.cursor.map(number).transpose()?;
    let moment =
        |s: String| when::parse(&s).ok_or_else(|| ApiError::bad("`since` is a time such as 2026-01-31T12:00:00Z"));
    let since = q.since.map(moment).transpose()?.unwrap_or(0);
    let tenant = asked.tenant()?;
    // What belongs to no tenant (releases, keys) concerns all of them.
    let trail = |tenant| app.core.store.audit_trail(Some(tenant), before, limit + 1);
    let fetched = futures::future::try_join(trail(tenant.as_str()), trail("")).await;
    let (mut items, common) = fetched.map_err(|err| ApiError::new(Code::Unavailable, err.to_string()))?;
    items.extend(common);
    items.sort_unstable_by_key(|event| std::cmp::Reverse(event.seq));
    let more = items.len() > limit;
    items.truncate(limit);
    let all = items.len();
    items.retain(|e| when::parse(&e.at).is_none_or(|at| at >= since));
    let next_cursor = (more && items.len() == all).then(|| items.last().map(|e| e.seq.to_string())).flatten();
    Ok(Json(Page { items, next_cursor }))
}
