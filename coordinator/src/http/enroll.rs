//! Devices that come to stay: the trust document, enrolment by token, renewal by a signed nonce. No bearer token here:
//! the device proves itself.
//!
//! Decides: nothing by itself; `domain::enrollment` does. A use of a token is durable before the device is made, so a
//! lost reply or a crash between the two strands nobody: the same key asks again and gets the same device.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, State},
    routing::{get, post},
};
use bramble_contracts::{
    api::{DeviceState, Outcome},
    bytes::Sha256,
    id::{DeviceId, Tenant, Uid},
    problem::Code,
    subjects::Bucket,
    token::EnrollmentToken,
    v1::{EnrollRequest, EnrollResponse, EnrollState, Nonce, RenewHttpRequest},
};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use nkeys::KeyPair;
use serde::Serialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    App, RACES,
    audit::{Deed, audited_as, event},
    error::ApiError,
    extract::Body,
    layers::Ids,
};
use crate::{
    background::{hold::reserve_name, now, renew::issue},
    domain::{
        enrollment::{self, Admission, TokenRefused},
        lifecycle,
        record::{self, DeviceRecord, TokenRecord},
    },
    keys::{entropy, jwt},
    store::{Expect, StoreError},
};

/// How long a nonce can be used.
const NONCE_LIFE_MS: u64 = 60_000;
/// A pending device asks again after this.
const ASK_AGAIN_SECS: u32 = 10;
/// Largest body here: whoever sends it has proven nothing yet.
const BODY_MAX: usize = 16 * 1024;
/// Proofs that are looked at at once; each costs a signature and some reads of the store. Others ask again.
const AT_ONCE: usize = 64;
/// Nonces that are remembered as used: each needed a good proof.
const NONCES_MAX: usize = 65_536;
/// The same refusal of the same token is told to the audit trail this often at most.
const TOLD_AGAIN_MS: u64 = 600_000;

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/api/v1/enroll", post(enroll))
        .route("/api/v1/enroll/trust", get(trust))
        .route("/api/v1/enroll/nonce", post(nonce))
        .route("/api/v1/enroll/renew", post(renew))
        .layer(DefaultBodyLimit::max(BODY_MAX))
}

/// The signed trust document.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TrustView {
    /// Base64.
    trust: String,
}

async fn trust(State(app): State<App>) -> Json<TrustView> {
    Json(TrustView { trust: BASE64.encode(app.core.keys.trust()) })
}

/// Nonces that need no memory until they are used: each carries its end and our seal. Only a valid proof is remembered.
#[derive(Debug)]
pub(super) struct Nonces {
    secret: [u8; 32],
    used: Mutex<BTreeMap<String, u64>>,
}

impl Default for Nonces {
    fn default() -> Self {
        Self { secret: entropy(), used: Mutex::default() }
    }
}

impl Nonces {
    fn seal(&self, body: &[u8]) -> Sha256 {
        Sha256::of(&[&self.secret, body, &self.secret[..]].concat())
    }

    fn make(&self, mono_ms: u64) -> String {
        let body = [&(mono_ms + NONCE_LIFE_MS).to_be_bytes()[..], &entropy::<16>()].concat();
        HEXLOWER.encode(&[&body[..], &self.seal(&body).0].concat())
    }

    fn is_fresh(&self, nonce: &str, mono_ms: u64) -> bool {
        let Ok(bytes) = HEXLOWER.decode(nonce.as_bytes()) else { return false };
        let Some((body, seal)) = bytes.split_at_checked(24) else { return false };
        let end = u64::from_be_bytes(body[..8].try_into().expect("invariant: eight bytes"));
        bool::from(self.seal(body).0.ct_eq(seal)) && mono_ms < end
    }

    /// Uses it up; false when it was used before, or when there is no room to remember it.
    fn spend(&self, nonce: &str, mono_ms: u64) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= NONCES_MAX {
            used.retain(|_, until| *until > mono_ms);
        }
        used.len() < NONCES_MAX && used.insert(nonce.to_owned(), mono_ms + NONCE_LIFE_MS).is_none()
    }
}

/// What stands before everybody who has no token: room for some at once, and a memory of what was told.
#[derive(Debug)]
pub(super) struct Door {
    room: Semaphore,
    told: Mutex<BTreeMap<(Uid, TokenRefused), u64>>,
}

impl Default for Door {
    fn default() -> Self {
        Self { room: Semaphore::new(AT_ONCE), told: Mutex::default() }
    }
}

impl Door {
    /// A place, or the advice to ask again. Nobody waits here, so nobody can fill a queue.
    fn enter(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        let full = "too many devices enrol or renew at this moment: ask again in a few seconds";
        self.room.try_acquire().map_err(|_| ApiError::new(Code::Unavailable, full))
    }

    /// Is this refusal news? Only holders of a real token's secret come this far, so the memory has bounds.
    fn is_news(&self, token: &Uid, why: TokenRefused, mono_ms: u64) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| mono_ms.saturating_sub(*at) < TOLD_AGAIN_MS);
        let news = !told.contains_key(&(token.clone(), why));
        if news {
            told.insert((token.clone(), why), mono_ms);
        }
        news
    }
}

async fn nonce(State(app): State<App>) -> Json<Nonce> {
    Json(Nonce { nonce: app.nonces.make(now().mono_ms) })
}

fn proves(key: &str, text: &str, proof: &str) -> bool {
    let Ok(signature) = BASE64URL_NOPAD.decode(proof.as_bytes()) else { return false };
    KeyPair::from_public_key(key).is_ok_and(|pair| pair.verify(text.as_bytes(), &signature).is_ok())
}

async fn enroll(
    State(app): State<App>,
    Extension(ids): Extension<Ids>,
    Body(request): Body<EnrollRequest>,
) -> Result<Json<EnrollResponse>, ApiError> {
    jwt::check_user_key(&request.public_key).map_err(|err| ApiError::field("publicKey", err.to_string()))?;
    let _place = app.door.enter()?;
    let text = EnrollRequest::proof_text(&request.token, &request.public_key);
    if !proves(&request.public_key, &text, &request.proof) {
        return Err(ApiError::field("proof", "is not a signature by publicKey over the enrolment text"));
    }
    app.writable()?;
    let hash = EnrollmentToken::secret_hash(&request.secret);
    let (token, device) = use_token(&app, &ids, &request, &hash).await?;
    let record = match stored(&app, &device).await? {
        Some(record) => record,
        None => make(&app, &ids, &request, &token, &device).await?,
    };
    // The newest alone: the token pins it.
    let newest = vec![app.core.keys.trust().to_vec()];
    answer(&app, record, &newest).map(Json)
}

/// Binds a use of the token to the key, durably; the same key gets the same device.
async fn use_token(
    app: &App,
    ids: &Ids,
    request: &EnrollRequest,
    hash: &Sha256,
) -> Result<(TokenRecord, DeviceId), ApiError> {
    let fresh = DeviceId::from_entropy(entropy());
    for _ in 0..RACES {
        let entry = app.core.store.get(Bucket::Tokens, request.token.as_str()).await?.ok_or(TokenRefused::Unknown)?;
        let token: TokenRecord =
            record::decode(&entry.bytes).map_err(|err| ApiError::new(Code::Unavailable, err.to_string()))?;
        match enrollment::present(&token, hash, &request.public_key, now().wall_ms) {
            Ok(Admission::Again(device)) => return Ok((token, device)),
            Ok(Admission::New) => {
                let next = enrollment::bind(token, &request.public_key, &fresh);
                let bytes = record::encode(&next);
                match app.core.store.put(Bucket::Tokens, next.id.as_str(), bytes, Expect::Seq(entry.seq)).await {
                    Ok(_) => return Ok((next, fresh)),
                    Err(StoreError::Conflict { .. }) => {}
                    Err(err) => return Err(err.into()),
                }
            }
            Err(why) => {
                refused(app, ids, request, &token.tenant, why).await;
                return Err(why.into());
            }
        }
    }
    Err(StoreError::Conflict { bucket: Bucket::Tokens, key: request.token.to_string() }.into())
}

/// Whoever knows the secret of a real token and is refused leaves an event, once in a while; guesses leave nothing that
/// is kept: they are counted by their status, and seen in the log when it is asked for details.
async fn refused(app: &App, ids: &Ids, request: &EnrollRequest, tenant: &Tenant, why: TokenRefused) {
    tracing::debug!(token = %request.token, key = request.public_key, %why, "refused an enrolment");
    if why == TokenRefused::Unknown || !app.door.is_news(&request.token, why, now().mono_ms) {
        return;
    }
    tracing::warn!(token = %request.token, key = request.public_key, %why, "refused an enrolment");
    let object = format!("enrollment-token/{}", request.token);
    let who = format!("key {:.60}", request.public_key);
    let deed =
        Deed { action: "device.enroll", object: &object, tenant: Some(tenant.clone()), reason: "", before: None };
    let event = event(&deed, &who, ids, Outcome::Refused, &why.to_string(), None);
    if let Err(err) = app.core.store.audit(&event).await {
        tracing::error!(error = %err, "cannot write an audit event");
    }
}

async fn stored(app: &App, device: &DeviceId) -> Result<Option<DeviceRecord>, ApiError> {
    let Some(entry) = app.core.store.get(Bucket::Devices, device.as_str()).await? else { return Ok(None) };
    record::decode(&entry.bytes).map(Some).map_err(|err| ApiError::new(Code::Unavailable, err.to_string()))
}

async fn make(
    app: &App,
    ids: &Ids,
    request: &EnrollRequest,
    token: &TokenRecord,
    device: &DeviceId,
) -> Result<DeviceRecord, ApiError> {
    let placeholder = device.as_str().parse().expect("invariant: a device id is a name");
    let key = request.public_key.clone();
    let mut record =
        enrollment::device(token, device.clone(), placeholder, key, request.newest_document, now().wall_ms);
    let object = format!("device/{device}");
    let who = format!("device {device}");
    let deed =
        Deed { action: "device.enroll", object: &object, tenant: Some(token.tenant.clone()), reason: "", before: None };
    let work = async {
        record.name = reserve_name(&app.core, &record, request.name.as_ref(), &request.facts.hostname).await?;
        match app.core.store.put(Bucket::Devices, device.as_str(), record::encode(&record), Expect::Absent).await {
            Ok(seq) => app.seen(Bucket::Devices, seq).await,
            // The same device asked twice at once: both get what was written first.
            Err(StoreError::Conflict { .. }) => {
                let there = stored(app, device).await?;
                record = there
                    .ok_or_else(|| ApiError::new(Code::Conflict, "the device was removed meanwhile: ask again"))?;
            }
            Err(err) => return Err(err.into()),
        }
        let after = json!({ "id": record.id, "name": record.name, "state": record.state, "labels": record.labels, "token": token.id });
        Ok((record, Some(after)))
    };
    audited_as(app, &who, ids, deed, work).await
}

fn answer(app: &App, record: DeviceRecord, trust: &[Vec<u8>]) -> Result<EnrollResponse, ApiError> {
    let (state, jwt) = match record.state {
        DeviceState::Pending => (EnrollState::Pending, None),
        DeviceState::Active => {
            (EnrollState::Active, Some(issue(&app.core, &record).map_err(|why| ApiError::new(Code::Forbidden, why))?))
        }
        DeviceState::Quarantined | DeviceState::Decommissioned => {
            let detail = format!("the device is {}: an operator has to let it back", lifecycle::word(record.state));
            return Err(ApiError::new(Code::Forbidden, detail));
        }
    };
    Ok(EnrollResponse {
        device: record.id,
        tenant: record.tenant,
        name: record.name,
        state,
        jwt,
        trust: trust.iter().map(|document| BASE64.encode(document)).collect(),
        retry_after_secs: if state == EnrollState::Pending { ASK_AGAIN_SECS } else { 0 },
    })
}

async fn renew(
    State(app): State<App>,
    Body(request): Body<RenewHttpRequest>,
) -> Result<Json<EnrollResponse>, ApiError> {
    let no = || ApiError::new(Code::Forbidden, "the device, the nonce or its proof is not good: ask for a fresh nonce");
    let _place = app.door.enter()?;
    let mono_ms = now().mono_ms;
    if !app.nonces.is_fresh(&request.nonce, mono_ms) {
        return Err(no());
    }
    let record = stored(&app, &request.device).await?.ok_or_else(no)?;
    let key = record.public_key.as_deref().ok_or_else(no)?;
    let text = RenewHttpRequest::proof_text(&request.device, &request.nonce);
    if !proves(key, &text, &request.proof) || !app.nonces.spend(&request.nonce, mono_ms) {
        return Err(no());
    }
    let steps = app.core.keys.trust_chain_after(request.trust_version);
    answer(&app, record, &steps).map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_ours_fresh_and_used_once() {
        let (ours, other) = (Nonces::default(), Nonces::default());
        let nonce = ours.make(1000);
        assert!(ours.is_fresh(&nonce, 1000) && !ours.is_fresh(&nonce, 1000 + NONCE_LIFE_MS));
        assert!(!other.is_fresh(&nonce, 1000) && !ours.is_fresh("00", 0) && !ours.is_fresh("", 0));
        assert!(ours.spend(&nonce, 1000) && !ours.spend(&nonce, 1001));
    }

    #[test]
    fn the_door_has_room_for_some_and_tells_a_refusal_once_in_a_while() {
        let door = Door::default();
        let inside: Vec<_> = (0..AT_ONCE).map(|_| door.enter().unwrap()).collect();
        assert_eq!(door.enter().unwrap_err().code, Code::Unavailable);
        drop(inside);
        assert!(door.enter().is_ok());
        let (a, b) = (Uid::from_entropy([1; 13]), Uid::from_entropy([2; 13]));
        assert!(door.is_news(&a, TokenRefused::Spent, 5) && !door.is_news(&a, TokenRefused::Spent, 6));
        assert!(door.is_news(&b, TokenRefused::Spent, 6) && door.is_news(&a, TokenRefused::Revoked, 6));
        assert!(door.is_news(&a, TokenRefused::Spent, 5 + TOLD_AGAIN_MS));
    }
}
