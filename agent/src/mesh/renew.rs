//! A new JWT for the same key, and successors of the trust document: over the mesh, or over HTTP when the mesh says no.
//!
//! Decides how to ask. When to ask is the connection's affair.

use async_nats::Client;
use bramble_contracts::envelope;
use bramble_contracts::subjects::Up;
use bramble_contracts::v1::{EnrollResponse, Nonce, RenewHttpRequest, RenewReply, RenewRequest, TRUST_STEPS_MAX};
use data_encoding::BASE64;

use super::board::Alarm;
use super::context::Context;
use super::http::{Base, Client as Http, HttpError};
use super::tls::{self, Dates};
use crate::host::state::StateError;

/// So many answers one after another are followed; a server that never comes to an end is left.
const ROUNDS_MAX: u32 = 32;

/// Why there is no new JWT.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("its answer brings a trust document that is not base64")]
    NotBase64,
    #[error("its answer brings no JWT; is the device still waiting for approval?")]
    NoJwt,
}

/// Asks on `up.<id>.renew` and keeps what comes.
pub(crate) async fn over_mesh(context: &Context, client: &Client) -> Result<(), String> {
    let reply = ask(context, client, Up::Renew).await?;
    follow(context, &reply.trust);
    match (reply.jwt, reply.refused) {
        (Some(jwt), _) => context.keep_jwt(jwt).map_err(|err| err.to_string()),
        (None, Some(why)) => Err(format!("the coordinator refused: {why}")),
        (None, None) => Err("the coordinator's answer brings no JWT".into()),
    }
}

/// Asks for the trust documents after ours.
pub(crate) async fn trust_over_mesh(context: &Context, client: &Client) -> Result<(), String> {
    let reply = ask(context, client, Up::Trust).await?;
    follow(context, &reply.trust);
    Ok(())
}

async fn ask(context: &Context, client: &Client, what: Up) -> Result<RenewReply, String> {
    let request = RenewRequest { trust_version: context.trust.now().version };
    let bytes = envelope::encode(&request).map_err(|err| err.to_string())?;
    let answer = client.request(what.subject(&context.device), bytes.into()).await.map_err(|err| err.to_string())?;
    envelope::decode(&answer.payload).map_err(|err| err.to_string())
}

fn follow(context: &Context, successors: &[Vec<u8>]) {
    match context.trust.follow(successors) {
        Ok(()) => context.board.clear(Alarm::Trust),
        Err(err) => context.board.alarm(Alarm::Trust, format!("a new trust document is refused: {err}")),
    }
}

/// Signs a fresh nonce of the coordinator's; each known address is tried.
pub(crate) async fn over_http(context: &Context) -> Result<(), RenewError> {
    let trust = context.trust.now();
    let mut bases: Vec<Base> = trust.coordinators.iter().filter_map(|url| Base::parse(url).ok()).collect();
    if !bases.contains(&context.settings.coordinator) {
        bases.push(context.settings.coordinator.clone());
    }
    let mut last = RenewError::NoJwt;
    for base in bases {
        match over_http_at(context, base, &trust.ca_bundle).await {
            Ok(()) => return Ok(()),
            Err(err) => last = err,
        }
    }
    Err(last)
}

async fn over_http_at(context: &Context, base: Base, ca_bundle: &str) -> Result<(), RenewError> {
    let client = Http::new(base, || tls::pinned(ca_bundle, &context.board, &Dates::default()))?;
    // Documents that were missed come in portions. The JWT of the last answer is kept: it is the newest.
    let mut jwt = None;
    for _ in 0..ROUNDS_MAX {
        let held = context.trust.now().version;
        let answer = once(context, &client, held).await?;
        let decoded: Result<Vec<_>, _> = answer.trust.iter().map(|text| BASE64.decode(text.as_bytes())).collect();
        jwt = answer.jwt;
        follow(context, &decoded.map_err(|_| RenewError::NotBase64)?);
        let stuck = context.trust.now().version == held;
        if answer.trust.len() < TRUST_STEPS_MAX || stuck {
            break;
        }
    }
    Ok(context.keep_jwt(jwt.ok_or(RenewError::NoJwt)?)?)
}

async fn once(context: &Context, client: &Http, trust_version: u64) -> Result<EnrollResponse, RenewError> {
    let nonce: Nonce = client.post("/api/v1/enroll/nonce", &serde_json::json!({})).await?;
    let request = RenewHttpRequest {
        device: context.device.clone(),
        proof: context.key.proof(&RenewHttpRequest::proof_text(&context.device, &nonce.nonce)),
        nonce: nonce.nonce,
        trust_version,
    };
    Ok(client.post("/api/v1/enroll/renew", &request).await?)
}
