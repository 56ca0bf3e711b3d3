//! The store in memory, for tests: real compare-and-set, a real feed, and failures on demand.
//!
//! Decides: nothing of its own; it behaves as `jetstream` does. Deliberately does not: keep anything.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use bramble_contracts::{
    api::AuditEvent,
    bytes::Sha256,
    smoke::{Check, CheckResult},
    subjects::Bucket,
};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::{Notify, mpsc};

use super::{Change, Entry, Expect, Store, StoreError, blobs, feed::FED};

const CAPACITY: usize = 1024;

/// How one coming write fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Not done, and said so.
    Before,
    /// Done, and the answer is lost.
    After,
    /// Somebody else writes this value to the same key first: the writer meets a conflict.
    Race(Bytes),
}

#[derive(Debug, Default)]
struct Kept {
    /// Newest value of each key with its sequence number; an absent value is a tombstone.
    buckets: BTreeMap<Bucket, BTreeMap<String, (u64, Option<Bytes>)>>,
    seqs: BTreeMap<Bucket, u64>,
    audit: Vec<AuditEvent>,
    blobs: BTreeMap<String, Bytes>,
    faults: VecDeque<Fault>,
    down: bool,
    log: Vec<Change>,
}

/// The store in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    kept: Arc<Mutex<Kept>>,
    changed: Arc<Notify>,
}

fn unavailable(what: &str) -> StoreError {
    StoreError::Unavailable { what: what.to_owned(), source: None }
}

impl Kept {
    fn set(&mut self, bucket: Bucket, key: &str, bytes: Option<Bytes>) -> u64 {
        let seq = self.seqs.entry(bucket).or_default();
        *seq += 1;
        let seq = *seq;
        self.buckets.entry(bucket).or_default().insert(key.to_owned(), (seq, bytes.clone()));
        if FED.contains(&bucket) {
            self.log.push(Change::Value { bucket, key: key.to_owned(), seq, bytes });
        }
        seq
    }

    fn entry(&self, bucket: Bucket, key: &str) -> Option<&(u64, Option<Bytes>)> {
        self.buckets.get(&bucket)?.get(key)
    }

    fn fits(&self, bucket: Bucket, key: &str, expect: Expect) -> bool {
        match (expect, self.entry(bucket, key)) {
            (Expect::Absent, None | Some((_, None))) => true,
            (Expect::Absent, Some((_, Some(_)))) | (Expect::Seq(_), None) => false,
            (Expect::Seq(want), Some((have, _))) => want == *have,
        }
    }

    fn write(&mut self, bucket: Bucket, key: &str, bytes: Option<Bytes>, expect: Expect) -> Result<u64, StoreError> {
        if self.down {
            return Err(unavailable("the store is down"));
        }
        let fault = self.faults.pop_front();
        match &fault {
            Some(Fault::Before) => return Err(unavailable("injected: not done")),
            Some(Fault::Race(other)) => drop(self.set(bucket, key, Some(other.clone()))),
            Some(Fault::After) | None => {}
        }
        if !self.fits(bucket, key, expect) {
            return Err(StoreError::Conflict { bucket, key: key.to_owned() });
        }
        let seq = self.set(bucket, key, bytes);
        match fault {
            Some(Fault::After) => Err(unavailable("injected: done, but nobody says so")),
            Some(Fault::Before | Fault::Race(_)) | None => Ok(seq),
        }
    }

    fn blob(&self, subject: &str) -> Result<Option<Bytes>, StoreError> {
        if self.down { Err(unavailable("the store is down")) } else { Ok(self.blobs.get(subject).cloned()) }
    }

    fn put_blob(&mut self, subject: String, bytes: Bytes) -> Result<(), StoreError> {
        if self.down {
            return Err(unavailable("the store is down"));
        }
        match self.faults.pop_front() {
            Some(Fault::Before) => return Err(unavailable("injected: not done")),
            Some(Fault::After | Fault::Race(_)) | None => {}
        }
        self.blobs.insert(subject, bytes);
        Ok(())
    }

    /// What a feed that starts now is told of one bucket.
    fn retell(&self, bucket: Bucket) -> Vec<Change> {
        let mut values: Vec<_> = self.buckets.get(&bucket).into_iter().flatten().collect();
        values.sort_by_key(|(_, (seq, _))| *seq);
        let value = |(key, (seq, bytes)): (&String, &(u64, Option<Bytes>))| Change::Value {
            bucket,
            key: key.clone(),
            seq: *seq,
            bytes: bytes.clone(),
        };
        let mut told = vec![Change::Reset(bucket)];
        told.extend(values.into_iter().map(value));
        told.push(Change::CaughtUp(bucket));
        told
    }
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("invariant: nobody panics while holding it")
    }

    fn tell(&self, changes: impl IntoIterator<Item = Change>) {
        self.kept().log.extend(changes);
        self.changed.notify_waiters();
    }

    /// The next writes fail like this, in this order.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.kept().faults.extend(faults);
    }

    /// The broker cannot be reached.
    pub fn go_down(&self) {
        self.kept().down = true;
        self.tell([Change::Lost]);
    }

    /// The broker is back, with everything.
    pub fn come_back(&self) {
        self.kept().down = false;
        self.tell(FED.map(Change::CaughtUp));
    }

    /// The broker is back, and these buckets are empty.
    pub fn come_back_without(&self, wiped: &[Bucket]) {
        let told: Vec<Change> = {
            let mut kept = self.kept();
            kept.down = false;
            for bucket in wiped {
                kept.buckets.remove(bucket);
                kept.seqs.remove(bucket);
            }
            FED.into_iter().flat_map(|b| kept.retell(b)).collect()
        };
        self.tell(told);
    }

    /// Writes as somebody else would, whatever is there (a device's report, another coordinator).
    pub fn force(&self, bucket: Bucket, key: &str, bytes: Option<Bytes>) -> u64 {
        let seq = self.kept().set(bucket, key, bytes);
        self.changed.notify_waiters();
        seq
    }

    /// All keys of a bucket with their values.
    pub fn all(&self, bucket: Bucket) -> BTreeMap<String, Bytes> {
        let kept = self.kept();
        let values = kept.buckets.get(&bucket).into_iter().flatten();
        values.filter_map(|(key, (_, bytes))| Some((key.clone(), bytes.clone()?))).collect()
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, bucket: Bucket, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        let kept = self.kept();
        let found = if kept.down {
            Err(unavailable("the store is down"))
        } else {
            Ok(kept.entry(bucket, key).and_then(|(seq, bytes)| Some(Entry { seq: *seq, bytes: bytes.clone()? })))
        };
        async { found }.boxed()
    }

    fn put<'a>(
        &'a self,
        bucket: Bucket,
        key: &'a str,
        bytes: Bytes,
        expect: Expect,
    ) -> BoxFuture<'a, Result<u64, StoreError>> {
        let done = if bytes.is_empty() {
            Err(unavailable("an empty value means deleted"))
        } else {
            self.kept().write(bucket, key, Some(bytes), expect)
        };
        self.changed.notify_waiters();
        async { done }.boxed()
    }

    fn delete<'a>(&'a self, bucket: Bucket, key: &'a str, expect: u64) -> BoxFuture<'a, Result<u64, StoreError>> {
        let done = self.kept().write(bucket, key, None, Expect::Seq(expect));
        self.changed.notify_waiters();
        async { done }.boxed()
    }

    fn audit<'a>(&'a self, event: &'a AuditEvent) -> BoxFuture<'a, Result<u64, StoreError>> {
        let mut kept = self.kept();
        let done = if kept.down {
            Err(unavailable("the store is down"))
        } else {
            let seq = kept.audit.len() as u64 + 1;
            kept.audit.push(AuditEvent { seq, ..event.clone() });
            Ok(seq)
        };
        async move { done }.boxed()
    }

    fn audit_trail<'a>(
        &'a self,
        tenant: Option<&'a str>,
        before: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<AuditEvent>, StoreError>> {
        let kept = self.kept();
        let wanted = |e: &&AuditEvent| tenant.is_none_or(|t| t == e.tenant) && before.is_none_or(|b| e.seq < b);
        let events = kept.audit.iter().rev().filter(wanted).take(limit).cloned().collect();
        async { Ok(events) }.boxed()
    }

    fn blob_size<'a>(&'a self, sha256: &'a Sha256) -> BoxFuture<'a, Result<Option<u64>, StoreError>> {
        let seal = self.kept().blob(&blobs::seal(sha256));
        let size = |bytes: &Bytes| std::str::from_utf8(bytes).ok()?.parse().ok();
        async move { seal.map(|seal| seal.as_ref().and_then(size)) }.boxed()
    }

    fn blob_part<'a>(&'a self, sha256: &'a Sha256, n: u64) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        let part = self.kept().blob(&blobs::part(sha256, n));
        async { part }.boxed()
    }

    fn put_blob_part<'a>(&'a self, sha256: &'a Sha256, n: u64, part: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        let done = self.kept().put_blob(blobs::part(sha256, n), part);
        async { done }.boxed()
    }

    fn seal_blob<'a>(&'a self, sha256: &'a Sha256, size: u64) -> BoxFuture<'a, Result<(), StoreError>> {
        let done = self.kept().put_blob(blobs::seal(sha256), size.to_string().into());
        async { done }.boxed()
    }

    fn checks(&self) -> BoxFuture<'_, Vec<CheckResult>> {
        let up = Ok("takes connections".to_owned());
        let answer = if self.kept().down { Err("refused the connection".to_owned()) } else { up };
        let check = Check::TcpReachable { at: "memory".to_owned() };
        async { vec![CheckResult::of(check, answer)] }.boxed()
    }

    fn feed(&self) -> mpsc::Receiver<Change> {
        let (to, changes) = mpsc::channel(CAPACITY);
        // Several coordinators on one store: each feed is told everything from its own start.
        let (store, mut next, mut at) = {
            let kept = self.kept();
            let told: Vec<Change> = FED.into_iter().flat_map(|b| kept.retell(b)).collect();
            (self.clone(), told, kept.log.len())
        };
        tokio::spawn(async move {
            loop {
                let changed = store.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let more: Vec<Change> = store.kept().log[at..].to_vec();
                at += more.len();
                next.extend(more);
                for change in std::mem::take(&mut next) {
                    if to.send(change).await.is_err() {
                        return;
                    }
                }
                tokio::select! { () = changed => {}, () = to.closed() => return }
            }
        });
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: Bucket = Bucket::Devices;

    fn text(t: &'static str) -> Bytes {
        Bytes::from_static(t.as_bytes())
    }

    #[tokio::test]
    async fn it_compares_as_the_real_store_does() {
        let store = Memory::new();
        let one = store.put(B, "a", text("1"), Expect::Absent).await.unwrap();
        assert!(store.put(B, "a", text("2"), Expect::Absent).await.is_err());
        let two = store.put(B, "a", text("2"), Expect::Seq(one)).await.unwrap();
        assert!(matches!(store.delete(B, "a", one).await, Err(StoreError::Conflict { .. })));
        let gone = store.delete(B, "a", two).await.unwrap();
        assert_eq!(store.get(B, "a").await.unwrap(), None);
        assert!(store.put(B, "a", text("3"), Expect::Absent).await.unwrap() > gone);
    }

    #[tokio::test]
    async fn faults_come_in_order() {
        let store = Memory::new();
        store.fail_next([Fault::Before, Fault::After, Fault::Race(text("other"))]);
        assert!(store.put(B, "a", text("1"), Expect::Absent).await.is_err());
        assert_eq!(store.get(B, "a").await.unwrap(), None);
        assert!(store.put(B, "a", text("1"), Expect::Absent).await.is_err());
        let now = store.get(B, "a").await.unwrap().unwrap();
        assert_eq!(now.bytes, text("1"));
        let raced = store.put(B, "a", text("2"), Expect::Seq(now.seq)).await;
        assert!(matches!(raced, Err(StoreError::Conflict { .. })));
        assert_eq!(store.all(B)["a"], text("other"));
    }

    #[tokio::test]
    async fn the_feed_tells_a_wipe() {
        let store = Memory::new();
        store.put(B, "a", text("1"), Expect::Absent).await.unwrap();
        let mut feed = store.feed();
        let mut devices = vec![];
        store.go_down();
        assert!(store.get(B, "a").await.is_err());
        store.come_back_without(&[B]);
        while devices.len() < 6 {
            match feed.recv().await.unwrap() {
                Change::Reset(b) | Change::CaughtUp(b) if b != B => {}
                other => devices.push(other),
            }
        }
        let value = Change::Value { bucket: B, key: "a".into(), seq: 1, bytes: Some(text("1")) };
        let (reset, done) = (Change::Reset(B), Change::CaughtUp(B));
        assert_eq!(devices, [reset.clone(), value, done.clone(), Change::Lost, reset, done]);
    }
}
