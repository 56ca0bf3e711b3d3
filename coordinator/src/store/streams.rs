//! The streams of the store: made by us, compared at every start, never by a KV helper.
//!
//! Decides: every setting of every stream, and that *any* difference is an error that names the field. In particular:
//! - no roll-ups, no per-message life time, no atomic batches, no counters, no schedules: a header of one device must
//!   never touch another's key;
//! - `deny_delete` and `deny_purge` everywhere: nothing of ours needs either, and nobody can turn them off again without
//!   losing the stream. Deleted keys stay as empty tombstones of some bytes;
//! - `discard: new`: a full bucket refuses writes instead of forgetting somebody's key. Only the audit trail drops its
//!   oldest events, because a full trail must not lock operators out.
//!
//! Deliberately does not: know what the keys mean.

use bramble_contracts::subjects::{self, Bucket};
use serde_json::{Map, Value, json};

/// How many copies of each stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicas {
    /// The embedded broker.
    One,
    /// A cluster of at least three.
    Three,
    /// A cluster of at least five.
    Five,
}

impl Replicas {
    const fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Three => 3,
            Self::Five => 5,
        }
    }
}

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const AUDIT_AGE: u64 = 400 * 24 * 3600 * 1_000_000_000;
/// The broker remembers message ids for this long; one device's `Nats-Msg-Id` can only ever hide its own messages,
/// and the shortest window keeps even that small. (100 ms, the least the broker takes.)
const DUPLICATES: u64 = 100_000_000;

/// Subjects of a bucket. A device may publish on `liveness.<id>.*`; only the two agents' keys are kept, so that one
/// device cannot fill what all share.
fn tokens(bucket: Bucket) -> &'static [&'static str] {
    match bucket {
        Bucket::Desired | Bucket::Reported => &["*"],
        Bucket::Liveness => &["*.a", "*.b"],
        Bucket::Devices
        | Bucket::Deployments
        | Bucket::Tokens
        | Bucket::Rollouts
        | Bucket::Releases
        | Bucket::Jobs
        | Bucket::Leases
        | Bucket::Meta => &[">"],
    }
}

/// The broker reserves these, so their sum, with the binaries (about 18 GiB) must fit what a server may store; see `broker::config`.
fn max_bytes(bucket: Bucket) -> u64 {
    match bucket {
        Bucket::Desired => 4 * GIB,
        Bucket::Reported => 2 * GIB,
        Bucket::Liveness => 64 * MIB,
        Bucket::Devices | Bucket::Deployments | Bucket::Jobs => GIB,
        Bucket::Tokens | Bucket::Rollouts => 256 * MIB,
        Bucket::Releases => 64 * MIB,
        Bucket::Leases | Bucket::Meta => 16 * MIB,
    }
}

fn max_msg_size(bucket: Bucket) -> i64 {
    let limit = |n: usize| i64::try_from(n).expect("invariant: limits are small");
    match bucket {
        Bucket::Reported => limit(subjects::REPORT_MAX_BYTES),
        Bucket::Liveness => limit(subjects::LIVENESS_MAX_BYTES),
        Bucket::Desired
        | Bucket::Devices
        | Bucket::Deployments
        | Bucket::Tokens
        | Bucket::Rollouts
        | Bucket::Releases
        | Bucket::Jobs
        | Bucket::Leases
        | Bucket::Meta => limit(1 << 20),
    }
}

fn common(name: &str, subjects: &[String], replicas: Replicas) -> Value {
    json!({
        "name": name, "subjects": subjects, "retention": "limits", "discard": "new", "storage": "file",
        "num_replicas": replicas.number(), "max_consumers": -1, "max_msgs": -1, "max_age": 0,
        "duplicate_window": DUPLICATES, "compression": "none", "allow_direct": true,
        "deny_delete": true, "deny_purge": true,
        "allow_rollup_hdrs": false, "allow_msg_ttl": false, "allow_atomic": false, "allow_msg_counter": false,
        "allow_msg_schedules": false, "allow_batched": false, "mirror_direct": false, "sealed": false, "no_ack": false,
        "discard_new_per_subject": false,
    })
}

/// The configuration of a bucket's stream.
pub fn bucket(bucket: Bucket, replicas: Replicas) -> Value {
    let subjects: Vec<String> = tokens(bucket).iter().map(|t| bucket.subject(t)).collect();
    let mut config = common(&bucket.stream(), &subjects, replicas);
    config["max_msgs_per_subject"] = json!(1);
    config["max_bytes"] = json!(max_bytes(bucket));
    config["max_msg_size"] = json!(max_msg_size(bucket));
    match bucket {
        Bucket::Liveness => config["storage"] = json!("memory"),
        // A device sends its report again when the broker lost it; so its writes need not wait for the disk.
        // The broker takes asynchronous persistence only for a single copy.
        Bucket::Reported if replicas == Replicas::One => config["persist_mode"] = json!("async"),
        Bucket::Desired => {
            config["republish"] = json!({ "src": bucket.subject("*"), "dest": "dev.{{wildcard(1)}}.desired" });
        }
        Bucket::Reported
        | Bucket::Devices
        | Bucket::Deployments
        | Bucket::Tokens
        | Bucket::Rollouts
        | Bucket::Releases
        | Bucket::Jobs
        | Bucket::Leases
        | Bucket::Meta => {}
    }
    config
}

/// The configuration of the audit stream.
pub fn audit(replicas: Replicas) -> Value {
    let mut config = common(subjects::AUDIT_STREAM, &[subjects::AUDIT_SUBJECTS.to_owned()], replicas);
    config["max_msgs_per_subject"] = json!(-1);
    config["max_bytes"] = json!(4 * GIB);
    config["max_msg_size"] = json!(1 << 20);
    config["max_age"] = json!(AUDIT_AGE);
    config["discard"] = json!("old");
    config
}

/// The configuration of the stream of binaries: one message for each part, found by its subject.
pub fn blobs(replicas: Replicas) -> Value {
    let mut config = common(subjects::BLOBS_STREAM, &[subjects::BLOBS_SUBJECTS.to_owned()], replicas);
    config["max_msgs_per_subject"] = json!(1);
    config["max_bytes"] = json!(4 * GIB);
    config["max_msg_size"] = json!(super::blobs::PART + 1024);
    config
}

/// All streams: name and configuration.
pub fn all(replicas: Replicas) -> Vec<(String, Value)> {
    let mut all: Vec<_> = Bucket::ALL.iter().map(|b| (b.stream(), bucket(*b, replicas))).collect();
    all.push((subjects::AUDIT_STREAM.to_owned(), audit(replicas)));
    all.push((subjects::BLOBS_STREAM.to_owned(), blobs(replicas)));
    all
}

/// A field that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub field: String,
    /// What it must be.
    pub want: String,
    /// What it is.
    pub have: String,
}

/// A field that is not there, is what the broker leaves out, or says nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(s) => s.is_empty() || s == "none" || s == "default",
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.values().all(is_nothing),
        Value::Bool(true) => false,
    }
}

/// Notes of the broker itself, such as the API level a stream needs.
fn without_broker_notes(mut config: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Object(notes)) = config.get_mut("metadata") {
        notes.retain(|key, _| !key.starts_with("_nats."));
    }
    config
}

/// The first field in which `have` differs from `want`, fields unknown to us included.
pub fn difference(want: &Value, have: &Value) -> Option<Difference> {
    let (want, have) = (want.as_object()?, without_broker_notes(have.as_object().cloned().unwrap_or_default()));
    let nothing = Value::Null;
    let fields: std::collections::BTreeSet<&String> = want.keys().chain(have.keys()).collect();
    fields.into_iter().find_map(|field| {
        let (w, h) = (want.get(field).unwrap_or(&nothing), have.get(field).unwrap_or(&nothing));
        let same = w == h || (is_nothing(w) && is_nothing(h));
        (!same).then(|| Difference { field: field.clone(), want: w.to_string(), have: h.to_string() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_and_every_added_field_is_a_difference() {
        let want = bucket(Bucket::Reported, Replicas::One);
        assert_eq!(difference(&want, &want), None);
        let mut left_out = want.clone();
        left_out.as_object_mut().unwrap().retain(|_, v| !is_nothing(v));
        left_out["metadata"] = json!({ "_nats.level": "2" });
        assert_eq!(difference(&want, &left_out), None, "the broker leaves out what is off");
        for (field, value) in [
            ("allow_rollup_hdrs", json!(true)),
            ("max_msgs_per_subject", json!(5)),
            ("subjects", json!([">"])),
            ("mirror", json!({ "name": "X" })),
            ("something_new", json!(true)),
            ("deny_purge", json!(false)),
            ("metadata", json!({ "owner": "somebody" })),
        ] {
            let mut changed = want.clone();
            changed[field] = value;
            assert_eq!(difference(&want, &changed).map(|d| d.field).as_deref(), Some(field));
        }
    }

    #[test]
    fn in_a_cluster_every_stream_has_all_copies_and_no_setting_for_one_copy_only() {
        for (replicas, number) in [(Replicas::One, 1), (Replicas::Three, 3), (Replicas::Five, 5)] {
            assert_eq!(all(replicas).len(), Bucket::ALL.len() + 2);
            for (name, config) in all(replicas) {
                assert_eq!(config["num_replicas"], number, "{name}");
                let alone = number == 1 && name == Bucket::Reported.stream();
                assert_eq!(config.get("persist_mode").is_some(), alone, "{name}");
                // In all else a cluster's stream is the same.
                let mut one = config.clone();
                one["num_replicas"] = json!(1);
                let (_, want) = all(Replicas::One).into_iter().find(|(n, _)| *n == name).unwrap();
                let differs = difference(&want, &one).map(|d| d.field);
                let only_mode = name == Bucket::Reported.stream() && number != 1;
                assert_eq!(differs.as_deref(), only_mode.then_some("persist_mode"), "{name}");
            }
        }
    }

    #[test]
    fn limits_are_those_of_the_contract() {
        assert_eq!(bucket(Bucket::Reported, Replicas::One)["max_msg_size"], 65536);
        assert_eq!(bucket(Bucket::Liveness, Replicas::One)["max_msg_size"], 128);
        assert_eq!(
            bucket(Bucket::Liveness, Replicas::One)["subjects"],
            json!(["$KV.liveness.*.a", "$KV.liveness.*.b"])
        );
        for (name, config) in all(Replicas::One) {
            assert_eq!(config["allow_rollup_hdrs"], false, "{name}");
            assert!(config["max_bytes"].as_u64().is_some_and(|n| n > 0), "{name}");
        }
    }
}
