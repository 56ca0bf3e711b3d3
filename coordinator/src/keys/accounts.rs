//! What operator, accounts and users may do, as NATS claims. See mesh: two accounts, because reply subjects are not checked.
//!
//! Decides: exports, imports, limits and permissions. Deliberately does not: sign (`jwt`), store or push them.

use std::collections::BTreeMap;

use bramble_contracts::{
    DeviceId,
    subjects::{self, Bucket},
};
use serde_json::{Value, json};

/// Far in the future: a quarantined key stays out whenever its JWT was issued. (2100-01-01)
const REVOKED_UP_TO: u64 = 4_102_444_800;
/// Subscriptions one device may hold: its three subjects and the inboxes of requests under way.
const DEVICE_SUBSCRIPTIONS: u32 = 64;

/// Which device keys are cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quarantined {
    /// These public nkeys, each with the second since when.
    Known(BTreeMap<String, u64>),
    /// The list is lost: every JWT issued up to this second is refused, so that every device must ask the coordinator.
    Unreadable {
        /// Seconds since 1970.
        since: u64,
    },
}

/// Public nkeys (or `*`), each with the second up to which JWTs for it are refused.
pub type Revocations = BTreeMap<String, u64>;

impl Quarantined {
    /// What this list and `also` refuse.
    fn revocations(&self, also: &Revocations) -> Revocations {
        let mut all = match self {
            Self::Known(keys) => keys.keys().map(|k| (k.clone(), REVOKED_UP_TO)).collect(),
            Self::Unreadable { since } => Revocations::from([("*".to_owned(), *since)]),
        };
        for (key, up_to) in also {
            let mine = all.entry(key.clone()).or_insert(0);
            *mine = (*mine).max(*up_to);
        }
        all
    }
}

/// What the claims of an account refuse.
pub fn revoked(nats: &Value) -> Revocations {
    let listed = nats["revocations"].as_object().into_iter().flatten();
    listed.map(|(key, up_to)| (key.clone(), up_to.as_u64().unwrap_or(REVOKED_UP_TO))).collect()
}

/// Public keys of the two accounts that know each other.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a> {
    /// Of FLEET.
    pub fleet: &'a str,
    /// Of DEV.
    pub dev: &'a str,
}

fn limits(leaf: i64) -> Value {
    json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": leaf, "disallow_bearer": true,
    })
}

fn reported() -> String {
    Bucket::Reported.subject("*")
}

fn liveness() -> String {
    Bucket::Liveness.subject("*.*")
}

/// The operator: only names the system account and the key that signs accounts.
pub fn operator(system_account: &str, signing_key: &str) -> Value {
    json!({
        "type": "operator", "version": 2,
        "system_account": system_account, "signing_keys": [signing_key],
    })
}

/// SYS: the broker's own account.
pub fn sys(signing_key: &str) -> Value {
    json!({ "type": "account", "version": 2, "limits": limits(0), "signing_keys": [signing_key] })
}

/// FLEET: JetStream and the coordinators.
pub fn fleet(signing_key: &str, pair: Pair<'_>) -> Value {
    let mut limits = limits(-1);
    for field in ["mem_storage", "disk_storage", "streams", "consumer"] {
        limits[field] = json!(-1);
    }
    let service = |name: &str, subject: &str| json!({ "name": name, "subject": subject, "type": "service" });
    json!({
        "type": "account", "version": 2, "limits": limits, "signing_keys": [signing_key],
        "exports": [
            service("desired", subjects::DIRECT_GET_DESIRED),
            service("reported", &reported()),
            service("liveness", &liveness()),
            service("up", subjects::UP_ALL),
            { "name": "push", "subject": "dev.>", "type": "stream" },
        ],
        "imports": [{ "name": "commands", "subject": "cmd.>", "account": pair.dev, "type": "service" }],
    })
}

/// DEV: the devices. No JetStream, nothing allowed by default, no leaf nodes.
pub fn dev(signing_key: &str, pair: Pair<'_>, quarantined: &Quarantined, also: &Revocations) -> Value {
    let service = |name: &str, subject: &str| json!({ "name": name, "subject": subject, "account": pair.fleet, "type": "service" });
    let mut desired = service("desired", subjects::DIRECT_GET_DESIRED);
    desired["local_subject"] = subjects::DEVICE_GET_ALL.into();
    let mut nats = json!({
        "type": "account", "version": 2, "limits": limits(0), "signing_keys": [signing_key],
        "default_permissions": { "pub": { "deny": [">"] }, "sub": { "deny": [">"] } },
        "exports": [{ "name": "commands", "subject": "cmd.>", "type": "service", "response_type": "Stream" }],
        "imports": [
            desired,
            service("reported", &reported()),
            service("liveness", &liveness()),
            service("up", subjects::UP_ALL),
            { "name": "push", "subject": "dev.>", "account": pair.fleet, "type": "stream" },
        ],
    });
    let revocations = quarantined.revocations(also);
    if !revocations.is_empty() {
        nats["revocations"] = json!(revocations);
    }
    nats
}

/// A user of ours, with all of its account. `issuer_account` because a signing key issues it.
pub fn insider(issuer_account: &str) -> Value {
    json!({
        "type": "user", "version": 2, "issuer_account": issuer_account,
        "subs": -1, "data": -1, "payload": -1, "allowed_connection_types": ["STANDARD"],
    })
}

/// A device: the smallest permissions with which it can work.
pub fn device(issuer_account: &str, device: &DeviceId) -> Value {
    let allowed = subjects::permissions(device);
    json!({
        "type": "user", "version": 2, "issuer_account": issuer_account,
        "pub": { "allow": allowed.publish },
        "sub": { "allow": allowed.subscribe },
        "resp": { "max": allowed.responses_max, "ttl": allowed.responses_secs * 1_000_000_000 },
        "subs": DEVICE_SUBSCRIPTIONS, "data": -1, "payload": subjects::DEVICE_MAX_PAYLOAD,
        "allowed_connection_types": ["STANDARD", "WEBSOCKET"],
    })
}
