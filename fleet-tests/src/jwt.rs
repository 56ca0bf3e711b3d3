//! NATS JWTs made by hand, as an attacker or an auditor would: nothing here is taken from the coordinator's code.

use bramble_contracts::bytes::Sha256;
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::clock::unix_secs;

/// What a user may publish to and subscribe to; everything when both are absent.
#[derive(Debug, Clone, Default)]
pub struct Allow {
    /// Subjects to publish to.
    pub publish: Option<Vec<String>>,
    /// Subjects to subscribe to.
    pub subscribe: Option<Vec<String>>,
}

/// A user JWT, signed by an account's key (or a signing key of that account).
///
/// # Panics
/// When `issuer` cannot sign.
#[must_use]
pub fn user(
    issuer: &KeyPair,
    account: Option<&str>,
    user: &KeyPair,
    name: &str,
    allow: &Allow,
    exp: Option<u64>,
) -> String {
    let mut nats = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    if let Some(publish) = &allow.publish {
        nats["pub"] = json!({ "allow": publish });
    }
    if let Some(subscribe) = &allow.subscribe {
        nats["sub"] = json!({ "allow": subscribe });
    }
    if let Some(account) = account {
        nats["issuer_account"] = json!(account);
    }
    let mut body =
        json!({ "iat": unix_secs(), "iss": issuer.public_key(), "name": name, "sub": user.public_key(), "nats": nats });
    if let Some(exp) = exp {
        body["exp"] = json!(exp);
    }
    sign(issuer, body)
}

/// Signs claims, with an id made of their digest.
///
/// # Panics
/// When `issuer` cannot sign.
#[must_use]
pub fn sign(issuer: &KeyPair, mut body: Value) -> String {
    body["jti"] = json!(BASE32_NOPAD.encode(&Sha256::of(body.to_string().as_bytes()).0));
    let head = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let text = format!("{head}.{}", BASE64URL_NOPAD.encode(body.to_string().as_bytes()));
    let signature = issuer.sign(text.as_bytes()).expect("invariant: the issuer has its private key");
    format!("{text}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// The claims of a JWT, unverified.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn claims(jwt: &str) -> Value {
    let body = jwt.trim().split('.').nth(1).expect("a JWT has three parts");
    let bytes = BASE64URL_NOPAD.decode(body.as_bytes()).expect("a JWT's parts are base64url");
    serde_json::from_slice(&bytes).expect("a JWT's claims are JSON")
}
