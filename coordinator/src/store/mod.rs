//! The store: buckets of keys with compare-and-set, and a feed of every change.
//!
//! Decides: what a write is (always against an expected revision) and what a reader may rely on (the feed replays
//! the newest value of every key, says when it has caught up, then goes on; after a broken connection it starts again).
//! Deliberately does not: know what the bytes mean; `background::index` reads them.

pub mod blobs;
pub mod feed;
pub mod jetstream;
pub mod memory;
mod raw;
mod smoke;
pub mod streams;

pub use jetstream::JetStream;
pub use streams::Replicas;

use bramble_contracts::{api::AuditEvent, bytes::Sha256, smoke::CheckResult, subjects::Bucket};
use bytes::Bytes;
use futures::future::BoxFuture;

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No value: never written, or deleted.
    Absent,
    /// Exactly the value with this sequence number.
    Seq(u64),
}

/// A value and its place in the bucket's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Only grows within a bucket; for `Expect::Seq`.
    pub seq: u64,
    /// The value.
    pub bytes: Bytes,
}

/// One message of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The bucket is about to be told from the start (first connection, or after the stream was lost or replaced):
    /// forget what was known of it, but *do nothing* before `CaughtUp`.
    Reset(Bucket),
    /// A key has this value, or none (`None`: deleted).
    Value {
        /// In which bucket.
        bucket: Bucket,
        /// Which key.
        key: String,
        /// Place in the bucket's history.
        seq: u64,
        /// The value.
        bytes: Option<Bytes>,
    },
    /// Everything that was there when the feed (re)started has been told.
    CaughtUp(Bucket),
    /// The broker cannot be reached; what is known may be old. A `Reset` or `CaughtUp` follows when it is back.
    Lost,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote it meanwhile.
    #[error("{bucket:?}/{key} was changed by somebody else")]
    Conflict {
        /// In which bucket.
        bucket: Bucket,
        /// Which key.
        key: String,
    },
    /// No answer, or a refusal; it may or may not have been done.
    #[error("the store does not answer: {what}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// Where the coordinator keeps what must not be lost.
pub trait Store: Send + Sync + 'static {
    /// The newest value of a key, read from the store itself.
    fn get<'a>(&'a self, bucket: Bucket, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;
    /// Writes if what is there is what is expected; returns the new sequence number. Durable when it returns.
    fn put<'a>(
        &'a self,
        bucket: Bucket,
        key: &'a str,
        bytes: Bytes,
        expect: Expect,
    ) -> BoxFuture<'a, Result<u64, StoreError>>;
    /// Deletes if what is there is what is expected; returns the sequence number of the deletion.
    fn delete<'a>(&'a self, bucket: Bucket, key: &'a str, expect: u64) -> BoxFuture<'a, Result<u64, StoreError>>;
    /// Appends to the audit trail; durable when it returns. Returns the event's number.
    fn audit<'a>(&'a self, event: &'a AuditEvent) -> BoxFuture<'a, Result<u64, StoreError>>;
    /// At most `limit` audit events numbered below `before` (newest first); all tenants when `tenant` is absent.
    fn audit_trail<'a>(
        &'a self,
        tenant: Option<&'a str>,
        before: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<AuditEvent>, StoreError>>;
    /// The size of a binary that is whole here.
    fn blob_size<'a>(&'a self, sha256: &'a Sha256) -> BoxFuture<'a, Result<Option<u64>, StoreError>>;
    /// A part of a binary, whole or not; see [`blobs::PART`].
    fn blob_part<'a>(&'a self, sha256: &'a Sha256, n: u64) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;
    /// Writes a part; durable when it returns.
    fn put_blob_part<'a>(&'a self, sha256: &'a Sha256, n: u64, part: Bytes) -> BoxFuture<'a, Result<(), StoreError>>;
    /// Says that a binary is whole, after all of its parts; durable when it returns.
    fn seal_blob<'a>(&'a self, sha256: &'a Sha256, size: u64) -> BoxFuture<'a, Result<(), StoreError>>;
    /// Smoke checks of the broker and what is kept there, asked now; takes less than a second.
    fn checks(&self) -> BoxFuture<'_, Vec<CheckResult>>;
    /// The feed of all buckets but `Leases` and `Jobs`. Bounded: a reader that stops reading slows its writer only.
    /// Call it once.
    fn feed(&self) -> tokio::sync::mpsc::Receiver<Change>;
}
