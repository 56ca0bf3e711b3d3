//! The store on JetStream.
//!
//! Decides: how compare-and-set, deletion and the store's identity are told to the broker.
//! - A write carries `Nats-Expected-Last-Subject-Sequence`; the broker compares, we never do.
//! - A deletion is a message with an *empty body* on the key (no roll-up, no purge): it has a sequence number of its
//!   own, so it is fed and compared like any value. No value of ours is ever empty.
//! - `meta/store` holds the format and a random id made with the streams: a wiped or replaced storage shows as another
//!   id, and a newer format stops all reads and writes.
//!
//! Deliberately does not: know what the values mean.

use std::sync::{Arc, RwLock};

use async_nats::HeaderMap;
use bramble_contracts::{
    api::AuditEvent,
    bytes::Sha256,
    smoke::CheckResult,
    subjects::{self, Bucket},
};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{
    Change, Entry, Expect, Store, StoreError, blobs, feed,
    raw::{self, CallError, code},
    smoke,
    streams::{self, Difference, Replicas},
};
use crate::mesh::connect::Connection;

/// The newest store format this build reads and writes.
pub const FORMAT: u32 = 1;
/// The key of [`StoreMeta`] in `meta`.
pub const META_KEY: &str = "store";
/// Tries of a write whose expectation "absent" meets a tombstone.
const TOMBSTONE_TRIES: u32 = 3;
/// The trail is read backwards in windows of so many numbers, growing while too little is found.
const AUDIT_WINDOW: u64 = 256;
const AUDIT_WINDOW_MAX: u64 = 8192;

/// What the store says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreMeta {
    /// The store's format.
    pub format: u32,
    /// Random, made with the store: another id is another store.
    pub id: String,
    /// When it was made, for people.
    pub created: String,
}

/// Why the store is not served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A stream exists and is not as it must be.
    #[error("stream {stream} has {} = {}, it must be {}: somebody else made or changed it; restore a backup, or remove the stream and resume", difference.field, difference.have, difference.want)]
    Differs {
        /// Which.
        stream: String,
        /// In what.
        difference: Difference,
    },
    /// Written by a newer coordinator.
    #[error("the store has format {found}, this coordinator reads up to {FORMAT}: run a newer coordinator")]
    Newer {
        /// The store's format.
        found: u32,
    },
    /// `meta/store` cannot be read.
    #[error("the store's own description (meta/{META_KEY}) is damaged: restore a backup")]
    Damaged,
    /// The broker.
    #[error("cannot {what}")]
    Call {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        err: CallError,
    },
}

impl OpenError {
    /// Will trying again not help?
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Differs { .. } | Self::Newer { .. } | Self::Damaged => true,
            Self::Call { .. } => false,
        }
    }
}

/// Why reads and writes are refused; `None` when they are not.
pub(super) type Unfit = Arc<RwLock<Option<String>>>;

/// The store on a broker.
#[derive(Clone)]
pub struct JetStream {
    pub(super) connection: Connection,
    pub(super) replicas: Replicas,
    pub(super) unfit: Unfit,
}

fn call<T>(what: &str, result: Result<T, CallError>) -> Result<T, OpenError> {
    result.map_err(|err| OpenError::Call { what: what.to_owned(), err })
}

impl JetStream {
    /// Makes missing streams, compares those that are there, and checks the format.
    pub async fn open(connection: Connection, replicas: Replicas) -> Result<Self, OpenError> {
        let store = Self { connection, replicas, unfit: Arc::default() };
        store.check().await?;
        Ok(store)
    }

    /// The same checks again; a final failure stops all reads and writes until a later check succeeds.
    pub async fn check(&self) -> Result<StoreMeta, OpenError> {
        let result = self.check_streams().await;
        match &result {
            Ok(_) => *self.unfit.write().expect("invariant: nobody panics while holding it") = None,
            Err(err) if err.is_final() => {
                *self.unfit.write().expect("invariant: nobody panics while holding it") = Some(err.to_string());
            }
            Err(_) => {}
        }
        result
    }

    async fn check_streams(&self) -> Result<StoreMeta, OpenError> {
        let streams = streams::all(self.replicas);
        let ensured = streams.iter().map(|(name, want)| self.ensure(name, want));
        futures::future::try_join_all(ensured).await?;
        self.meta().await
    }

    /// Makes the stream if it is not there; compares it in any case.
    async fn ensure(&self, name: &str, want: &Value) -> Result<(), OpenError> {
        let client = &self.connection.client;
        let mut found = raw::api(client, &format!("STREAM.INFO.{name}"), &Value::Null).await;
        if found.as_ref().is_err_and(|err| err.is(code::NO_STREAM)) {
            found = raw::api(client, &format!("STREAM.CREATE.{name}"), want).await;
            match &found {
                Ok(_) => tracing::info!(stream = name, "made a stream"),
                // Another coordinator was faster.
                Err(err) if err.is(code::NAME_IN_USE) => {
                    found = raw::api(client, &format!("STREAM.INFO.{name}"), &Value::Null).await;
                }
                Err(_) => {}
            }
        }
        let info = call(&format!("make stream {name}"), found)?;
        match streams::difference(want, &info["config"]) {
            None => Ok(()),
            Some(difference) => Err(OpenError::Differs { stream: name.to_owned(), difference }),
        }
    }

    /// Reads what the store says of itself, or says it first.
    async fn meta(&self) -> Result<StoreMeta, OpenError> {
        let client = &self.connection.client;
        let (stream, subject) = (Bucket::Meta.stream(), Bucket::Meta.subject(META_KEY));
        let read = || async { call("read the store's format", raw::last(client, &stream, &subject).await) };
        let mut stored = read().await?;
        if stored.is_none() {
            let id = data_encoding::HEXLOWER.encode(&crate::keys::entropy::<8>());
            let meta = StoreMeta { format: FORMAT, id, created: crate::clock::rfc3339() };
            let bytes = serde_json::to_vec(&meta).expect("invariant: texts and numbers are JSON");
            match raw::publish(client, subject.clone(), bytes.into(), expecting(0)).await {
                Ok(_) => tracing::info!(store = meta.id, "made a new store"),
                Err(err) if is_conflict(&err) => {}
                Err(err) => return call("write the store's format", Err(err)),
            }
            stored = read().await?;
        }
        read_meta(&stored.ok_or(OpenError::Damaged)?.bytes)
    }

    fn fit(&self) -> Result<(), StoreError> {
        match &*self.unfit.read().expect("invariant: nobody panics while holding it") {
            None => Ok(()),
            Some(why) => Err(StoreError::Unavailable { what: why.clone(), source: None }),
        }
    }

    async fn write(&self, bucket: Bucket, key: &str, bytes: Bytes, seq: u64) -> Result<u64, CallError> {
        raw::publish(&self.connection.client, bucket.subject(key), bytes, expecting(seq)).await
    }

    async fn put_now(&self, bucket: Bucket, key: &str, bytes: Bytes, expect: Expect) -> Result<u64, StoreError> {
        self.fit()?;
        let mut seq = match expect {
            Expect::Absent => 0,
            Expect::Seq(seq) => seq,
        };
        for _ in 0..TOMBSTONE_TRIES {
            match self.write(bucket, key, bytes.clone(), seq).await {
                Ok(seq) => return Ok(seq),
                Err(err) if !is_conflict(&err) => {
                    return Err(unavailable(&format!("write {}/{key}", bucket.name()), err));
                }
                Err(_) if expect != Expect::Absent => break,
                Err(_) => {}
            }
            // "Absent" is also true of a deleted key, whose tombstone has a sequence number.
            let last = raw::last(&self.connection.client, &bucket.stream(), &bucket.subject(key)).await;
            match last.map_err(|err| unavailable(&format!("read {}/{key}", bucket.name()), err))? {
                Some(stored) if stored.deleted && stored.seq != seq => seq = stored.seq,
                Some(_) | None => break,
            }
        }
        Err(StoreError::Conflict { bucket, key: key.to_owned() })
    }

    async fn put_blob(&self, subject: String, bytes: Bytes, what: String) -> Result<(), StoreError> {
        self.fit()?;
        let put = raw::publish(&self.connection.client, subject, bytes, HeaderMap::new()).await;
        // What it says when there is no more room is for people, too.
        put.map(drop).map_err(|err| unavailable(&format!("{what}: {err}"), err))
    }

    async fn trail(
        &self,
        tenant: Option<&str>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<AuditEvent>, StoreError> {
        self.fit()?;
        let client = &self.connection.client;
        let failed = |err| unavailable("read the audit trail", err);
        let info = raw::api(client, "STREAM.INFO.AUDIT", &Value::Null).await.map_err(failed)?;
        let (first, last) =
            (info["state"]["first_seq"].as_u64().unwrap_or(0), info["state"]["last_seq"].as_u64().unwrap_or(0));
        let subject = tenant.map_or_else(|| subjects::AUDIT_SUBJECTS.to_owned(), audit_subject);
        let mut end = before.unwrap_or(u64::MAX).min(last.saturating_add(1)); // exclusive
        let (mut found, mut window) = (vec![], AUDIT_WINDOW.max(limit as u64));
        while found.len() < limit && end > first.max(1) {
            let start = end.saturating_sub(window).max(first.max(1));
            let messages = raw::range(client, subjects::AUDIT_STREAM, &subject, start, end).await.map_err(failed)?;
            found.extend(messages.iter().rev().filter_map(|(seq, message)| audit_event(*seq, &message.payload)));
            (end, window) = (start, (window * 2).min(AUDIT_WINDOW_MAX));
        }
        found.truncate(limit);
        Ok(found)
    }
}

fn audit_subject(tenant: &str) -> String {
    if tenant.is_empty() { "audit._".to_owned() } else { format!("audit.{tenant}") }
}

/// A stored event with its number, which is the stream's sequence number.
fn audit_event(seq: u64, bytes: &[u8]) -> Option<AuditEvent> {
    match serde_json::from_slice::<AuditEvent>(bytes) {
        Ok(event) => Some(AuditEvent { seq, ..event }),
        Err(err) => {
            tracing::error!(seq, %err, "an audit event cannot be read");
            None
        }
    }
}

pub(super) fn read_meta(bytes: &[u8]) -> Result<StoreMeta, OpenError> {
    // The format first: a newer store may have changed everything else.
    let value: Value = serde_json::from_slice(bytes).map_err(|_| OpenError::Damaged)?;
    let found = value["format"].as_u64().and_then(|n| u32::try_from(n).ok()).ok_or(OpenError::Damaged)?;
    if found > FORMAT {
        return Err(OpenError::Newer { found });
    }
    serde_json::from_value(value).map_err(|_| OpenError::Damaged)
}

fn expecting(seq: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", seq.to_string().as_str());
    headers
}

fn is_conflict(err: &CallError) -> bool {
    err.is(code::WRONG_SEQUENCE) || err.is(code::WRONG_SEQUENCE_RACE)
}

fn unavailable(what: &str, err: CallError) -> StoreError {
    StoreError::Unavailable { what: what.to_owned(), source: Some(Box::new(err)) }
}

impl Store for JetStream {
    fn get<'a>(&'a self, bucket: Bucket, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        async move {
            self.fit()?;
            let stored = raw::last(&self.connection.client, &bucket.stream(), &bucket.subject(key)).await;
            let stored = stored.map_err(|err| unavailable(&format!("read {}/{key}", bucket.name()), err))?;
            Ok(stored.filter(|s| !s.deleted).map(|s| Entry { seq: s.seq, bytes: s.bytes }))
        }
        .boxed()
    }

    fn put<'a>(
        &'a self,
        bucket: Bucket,
        key: &'a str,
        bytes: Bytes,
        expect: Expect,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        if bytes.is_empty() {
            let what = format!("write nothing to {}/{key}: an empty value means deleted", bucket.name());
            return async { Err(StoreError::Unavailable { what, source: None }) }.boxed();
        }
        self.put_now(bucket, key, bytes, expect).boxed()
    }

    fn delete<'a>(&'a self, bucket: Bucket, key: &'a str, expect: u64) -> BoxFuture<'a, Result<u64, StoreError>> {
        self.put_now(bucket, key, Bytes::new(), Expect::Seq(expect)).boxed()
    }

    fn audit<'a>(&'a self, event: &'a AuditEvent) -> BoxFuture<'a, Result<u64, StoreError>> {
        async move {
            self.fit()?;
            let bytes = serde_json::to_vec(event).expect("invariant: an event is JSON");
            let sent =
                raw::publish(&self.connection.client, audit_subject(&event.tenant), bytes.into(), HeaderMap::new());
            sent.await.map_err(|err| unavailable("write an audit event", err))
        }
        .boxed()
    }

    fn audit_trail<'a>(
        &'a self,
        tenant: Option<&'a str>,
        before: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<AuditEvent>, StoreError>> {
        self.trail(tenant, before, limit).boxed()
    }

    fn blob_size<'a>(&'a self, sha256: &'a Sha256) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        async move {
            self.fit()?;
            let failed = |err| unavailable(&format!("read what is known of binary {sha256}"), err);
            let seal = raw::last(&self.connection.client, subjects::BLOBS_STREAM, &blobs::seal(sha256)).await;
            let size = |bytes: &Bytes| std::str::from_utf8(bytes).ok()?.parse().ok();
            let damaged = || failed(CallError::Strange);
            seal.map_err(failed)?.map(|seal| size(&seal.bytes).ok_or_else(damaged)).transpose()
        }
        .boxed()
    }

    fn blob_part<'a>(&'a self, sha256: &'a Sha256, n: u64) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        async move {
            self.fit()?;
            let (client, subject) = (&self.connection.client, blobs::part(sha256, n));
            let failed = |err| unavailable(&format!("read part {n} of binary {sha256}"), err);
            let part = raw::direct(client, subjects::BLOBS_STREAM, &subject).await.map_err(failed)?;
            if part.is_some() {
                return Ok(part);
            }
            // The copy that answered may lag behind.
            let part = raw::last(client, subjects::BLOBS_STREAM, &subject).await.map_err(failed)?;
            Ok(part.map(|part| part.bytes))
        }
        .boxed()
    }

    fn put_blob_part<'a>(&'a self, sha256: &'a Sha256, n: u64, part: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        self.put_blob(blobs::part(sha256, n), part, format!("write part {n} of binary {sha256}")).boxed()
    }

    fn seal_blob<'a>(&'a self, sha256: &'a Sha256, size: u64) -> BoxFuture<'a, Result<(), StoreError>> {
        self.put_blob(blobs::seal(sha256), size.to_string().into(), format!("seal binary {sha256}")).boxed()
    }

    fn checks(&self) -> BoxFuture<'_, Vec<CheckResult>> {
        smoke::ask(self).boxed()
    }

    fn feed(&self) -> mpsc::Receiver<Change> {
        feed::start(self)
    }
}
