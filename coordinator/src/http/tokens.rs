//! Enrolment tokens: made, listed, revoked. The secret is shown once and never kept.

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use bramble_contracts::{
    api::{Page, TokenCreated, TokenRequest, TokenView},
    bytes::Sha256,
    id::{Tenant, Uid},
    problem::Code,
    quantity::Millis,
    subjects::Bucket,
    token::EnrollmentToken,
};
use serde::Deserialize;

use super::{
    App, RACES,
    audit::{Deed, audited},
    error::ApiError,
    extract::{Asked, Maybe, Path, Query, etag, limit, page},
};
use crate::{
    background::now,
    domain::{
        enrollment::token_view,
        record::{self, TokenRecord},
    },
    keys::entropy,
    store::{Expect, StoreError},
};

const TTL_MAX: Millis = Millis::secs(365 * 86_400);
/// All uses of a token are kept in its one record, about 115 bytes each; a value of the store has 1 MiB at most.
const USES_MAX: u32 = 5_000;

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/api/v1/enrollment-tokens", get(list).post(create))
        .route("/api/v1/enrollment-tokens/{id}", get(describe).delete(revoke))
}

#[derive(Deserialize)]
struct Listed {
    limit: Option<String>,
    cursor: Option<String>,
}

async fn list(
    State(app): State<App>,
    asked: Asked,
    Query(q): Query<Listed>,
) -> Result<Json<Page<TokenView>>, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    let limit = limit(q.limit.as_deref())?;
    let views: Vec<TokenView> = app.core.index.look(|lens| {
        let mine = lens.fleet.tokens.readable().filter(|(_, _, t)| t.tenant == tenant);
        mine.map(|(_, seq, t)| token_view(t, seq)).collect()
    });
    Ok(Json(page(views, |v| v.id.to_string(), q.cursor.as_deref(), limit)))
}

/// A request without a body asks for what the request's defaults say.
#[derive(Deserialize)]
#[serde(transparent)]
struct Request(TokenRequest);

impl Default for Request {
    fn default() -> Self {
        serde_json::from_str("{}").expect("invariant: every field of a token request has a default")
    }
}

async fn create(
    State(app): State<App>,
    asked: Asked,
    Maybe(Request(request)): Maybe<Request>,
) -> Result<Response, ApiError> {
    let tenant = asked.tenant()?;
    app.writable()?;
    if request.ttl.0 == 0 || request.ttl > TTL_MAX {
        return Err(ApiError::field("ttl", "longer than 0 and at most 365d"));
    }
    if request.uses == 0 || request.uses > USES_MAX {
        return Err(ApiError::field("uses", format!("from 1 to {USES_MAX}: for more devices make several tokens")));
    }
    if request.labels.len() > 64 {
        return Err(ApiError::field("labels", "at most 64"));
    }
    let token = EnrollmentToken::new(Uid::from_entropy(entropy()), entropy(), app.core.keys.pin());
    let record = fresh(&token, tenant.clone(), request);
    let object = format!("enrollment-token/{}", token.id);
    let deed =
        Deed { action: "enrollment-token.create", object: &object, tenant: Some(tenant), reason: "", before: None };
    let work = async {
        let seq =
            app.core.store.put(Bucket::Tokens, token.id.as_str(), record::encode(&record), Expect::Absent).await?;
        app.seen(Bucket::Tokens, seq).await;
        let view = token_view(&record, seq);
        let after = serde_json::to_value(&view).ok();
        Ok((view, after))
    };
    let view = audited(&app, &asked, deed, work).await?;
    let created = TokenCreated { token: token.reveal().to_string(), view };
    Ok((StatusCode::CREATED, Json(created)).into_response())
}

fn fresh(token: &EnrollmentToken, tenant: Tenant, request: TokenRequest) -> TokenRecord {
    let TokenRequest { ttl, uses, auto_approve, labels } = request;
    let secret_hash: Sha256 = EnrollmentToken::secret_hash(&token.secret_text());
    let created_ms = now().wall_ms;
    TokenRecord {
        id: token.id.clone(),
        tenant,
        secret_hash,
        created_ms,
        expires_ms: created_ms.saturating_add(ttl.0),
        uses,
        used: vec![],
        auto_approve,
        labels,
        revoked: false,
    }
}

async fn stored(app: &App, tenant: &Tenant, id: &str) -> Result<(u64, TokenRecord), ApiError> {
    let missing = || ApiError::not_found("enrolment token", id);
    let uid: Uid = id.parse().map_err(|_| missing())?;
    let entry = app.core.store.get(Bucket::Tokens, uid.as_str()).await?.ok_or_else(missing)?;
    let record: TokenRecord =
        record::decode(&entry.bytes).map_err(|err| ApiError::new(Code::Unavailable, err.to_string()))?;
    if record.tenant == *tenant { Ok((entry.seq, record)) } else { Err(missing()) }
}

async fn describe(State(app): State<App>, asked: Asked, Path(id): Path<String>) -> Result<Response, ApiError> {
    let (seq, record) = stored(&app, &asked.tenant()?, &id).await?;
    Ok((etag(seq), Json(token_view(&record, seq))).into_response())
}

async fn revoke(State(app): State<App>, asked: Asked, Path(id): Path<String>) -> Result<Response, ApiError> {
    let tenant = asked.tenant()?;
    app.writable()?;
    let (seq, before) = stored(&app, &tenant, &id).await?;
    let object = format!("enrollment-token/{}", before.id);
    let before = serde_json::to_value(token_view(&before, seq)).ok();
    let deed =
        Deed { action: "enrollment-token.revoke", object: &object, tenant: Some(tenant.clone()), reason: "", before };
    let work = async {
        for _ in 0..RACES {
            let (seq, mut record) = stored(&app, &tenant, &id).await?;
            asked.check(Some(seq))?;
            if record.revoked {
                return Ok((token_view(&record, seq), None));
            }
            record.revoked = true;
            match app
                .core
                .store
                .put(Bucket::Tokens, record.id.as_str(), record::encode(&record), Expect::Seq(seq))
                .await
            {
                Ok(seq) => {
                    app.seen(Bucket::Tokens, seq).await;
                    let view = token_view(&record, seq);
                    let after = serde_json::to_value(&view).ok();
                    return Ok((view, after));
                }
                Err(StoreError::Conflict { .. }) if !asked.is_conditional() => {}
                Err(err) => return Err(err.into()),
            }
        }
        Err(StoreError::Conflict { bucket: Bucket::Tokens, key: id.clone() }.into())
    };
    let view = audited(&app, &asked, deed, work).await?;
    Ok((etag(view.version), Json(view)).into_response())
}
