//! What the coordinator says of itself: alive, ready, numbers, its description, who is asking, tenants.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use bramble_contracts::{
    api::{Me, Page, Readiness, ReadyView, TenantView},
    id::Tenant,
};
use serde::Deserialize;

use super::{
    App,
    error::ApiError,
    extract::{Asked, Query, limit, page},
    openapi, ready,
};
use crate::background::now;

/// The version of this coordinator.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/", get(front))
        .route("/health", get(health))
        .route("/ready", get(readiness))
        .route("/metrics", get(metrics))
        .route("/api/v1/openapi.json", get(description))
        .route("/api/v1/me", get(me))
        .route("/api/v1/tenants", get(tenants))
}

async fn front() -> Html<&'static str> {
    Html(
        "<!doctype html><meta charset=utf-8><title>Bramble</title>\
         <h1>Bramble</h1><p>This is a Bramble coordinator. Its API is described in \
         <a href=\"/api/v1/openapi.json\">/api/v1/openapi.json</a>; operators use the program <code>bramble</code>. \
         <a href=\"/ready\">Ready?</a> <a href=\"/metrics\">Numbers</a>",
    )
}

async fn health(State(app): State<App>) -> Json<ReadyView> {
    Json(ready::view(&app).await)
}

async fn readiness(State(app): State<App>) -> Response {
    let view = ready::view(&app).await;
    let status = match view.state {
        Readiness::Ready => StatusCode::OK,
        Readiness::Recovering => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(view)).into_response()
}

async fn metrics(State(app): State<App>) -> Response {
    let text = app.core.metrics.recent(&app.core.index, now().mono_ms);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// It is the same for everybody, and everybody may ask: made once.
async fn description() -> Response {
    static MADE: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(openapi::document().to_string()));
    ([(header::CONTENT_TYPE, "application/json")], MADE.clone()).into_response()
}

async fn me(asked: Asked) -> Json<Me> {
    Json(Me {
        subject: asked.caller.subject.clone(),
        rights: asked.caller.rights.iter().copied().collect(),
        coordinator: VERSION.to_owned(),
    })
}

#[derive(Deserialize)]
struct Listed {
    limit: Option<String>,
    cursor: Option<String>,
}

async fn tenants(
    State(app): State<App>,
    _: Asked,
    Query(q): Query<Listed>,
) -> Result<Json<Page<TenantView>>, ApiError> {
    app.known()?;
    let limit = limit(q.limit.as_deref())?;
    let counted = app.core.index.look(|lens| {
        let mut counted: BTreeMap<Tenant, (u32, u32)> = BTreeMap::from([(Tenant::default(), (0, 0))]);
        for (_, _, device) in lens.fleet.devices.readable() {
            counted.entry(device.tenant.clone()).or_default().0 += 1;
        }
        for deployment in lens.fleet.deployment_records() {
            counted.entry(deployment.tenant().clone()).or_default().1 += 1;
        }
        counted
    });
    let views = counted.into_iter().map(|(name, (devices, deployments))| TenantView { name, devices, deployments });
    Ok(Json(page(views.collect(), |v| v.name.to_string(), q.cursor.as_deref(), limit)))
}
