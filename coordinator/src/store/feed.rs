//! The feed: every bucket told from the start, then on, over broken connections, restarted brokers and lost streams.
//!
//! One task per bucket reads its stream with an ephemeral pull consumer of the coordinator's own (devices have none).
//! With one message per subject a stream *is* the newest value of every key, so reading it from a sequence number on
//! tells everything newer. A session ends when anything is odd (a gap, silence, another connection) and, to be safe,
//! every few minutes; the next one compares the stream with what was seen and goes on, or starts again with `Reset`:
//! - the stream was made at another time or knows fewer messages than we saw: it was lost or replaced;
//! - another server process answers: what it had not synced may be gone and its numbers used again.
//!
//! Pull, not push: a reader that stops reading stops asking, so nothing piles up. Decides: when a reader is told what.
//! Deliberately does not: know what the values mean.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message, Subscriber};
use bramble_contracts::subjects::Bucket;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use super::{
    Change,
    jetstream::{JetStream, META_KEY, read_meta},
    raw::{self, CallError, code},
};
use crate::keys::{entropy, random_text};

/// Messages that may wait for the reader.
const CAPACITY: usize = 1024;
const BATCH: u32 = 512;
const BATCH_BYTES: u32 = 16 << 20;
const EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(13);
/// A session lasts between one and two times this.
const SESSION: Duration = Duration::from_secs(150);
/// Odd sessions in a row before the reader is told.
const ODD_MAX: u32 = 4;
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The buckets that are fed.
pub const FED: [Bucket; 9] = [
    Bucket::Meta,
    Bucket::Devices,
    Bucket::Deployments,
    Bucket::Tokens,
    Bucket::Rollouts,
    Bucket::Releases,
    Bucket::Desired,
    Bucket::Reported,
    Bucket::Liveness,
];

/// The reader has gone away.
#[derive(Debug)]
struct ReaderGone;

/// Why a session ended.
#[derive(Debug)]
enum End {
    ReaderGone,
    /// Nothing is wrong: compare and go on.
    Renew,
    /// Something is odd; in words, for the log.
    Odd(String),
}

impl From<ReaderGone> for End {
    fn from(_: ReaderGone) -> Self {
        Self::ReaderGone
    }
}

impl From<CallError> for End {
    fn from(err: CallError) -> Self {
        Self::Odd(err.to_string())
    }
}

/// How the last session left the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Nothing yet, or that it may be old: a `CaughtUp` is owed.
    Behind,
    /// It was told `CaughtUp`.
    CaughtUp,
}

/// What was seen of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    created: String,
    server: String,
    seq: u64,
}

struct Feeder {
    store: JetStream,
    bucket: Bucket,
    to: mpsc::Sender<Change>,
    /// The last connection whose end the reader was told of; shared by all feeders, so that `Lost` is said once, and
    /// before anything that is told over the next connection.
    lost: Arc<Mutex<u64>>,
    seen: Option<Seen>,
    told: Told,
}

/// Starts the tasks; they end when the receiver is dropped.
pub(super) fn start(store: &JetStream) -> mpsc::Receiver<Change> {
    let (to, changes) = mpsc::channel(CAPACITY);
    let lost = Arc::new(Mutex::new(0));
    for bucket in FED {
        let (store, to, lost) = (store.clone(), to.clone(), lost.clone());
        let feeder = Feeder { store, bucket, to, lost, seen: None, told: Told::Behind };
        tokio::spawn(feeder.run());
    }
    changes
}

impl Feeder {
    async fn run(mut self) {
        let to = self.to.clone();
        let _ = tokio::select! { ended = self.sessions() => ended, () = to.closed() => Ok(()) };
    }

    async fn sessions(&mut self) -> Result<(), ReaderGone> {
        let connection = self.store.connection.clone();
        let (mut odd, mut last) = (0u32, None);
        loop {
            let up = connection.up().await;
            if let Some(before) = last.replace(up).filter(|n| *n != up) {
                self.lost(before).await?;
            }
            let before = self.seen.clone();
            let end = tokio::select! {
                end = self.session() => Some(end),
                () = connection.left(up) => None,
            };
            match end {
                None => self.lost(up).await?,
                Some(End::ReaderGone) => return Ok(()),
                Some(End::Renew) => odd = 0,
                Some(End::Odd(why)) => {
                    odd = if self.seen == before { odd.saturating_add(1) } else { 1 };
                    tracing::debug!(bucket = self.bucket.name(), why, odd, "the feed starts a new session");
                    self.doubt(odd, &why).await?;
                    tokio::time::sleep((RETRY * odd).min(RETRY_MAX)).await;
                }
            }
        }
    }

    /// Connection number `n` is no more: all buckets may be old, and each says `CaughtUp` again when it is not.
    async fn lost(&mut self, n: u64) -> Result<(), ReaderGone> {
        self.told = Told::Behind;
        let shared = self.lost.clone();
        let mut told = shared.lock().await;
        if *told < n {
            *told = n;
            self.tell(Change::Lost).await?;
        }
        Ok(())
    }

    /// One odd session is repaired in silence; when it goes on, this bucket starts again.
    async fn doubt(&mut self, odd: u32, why: &str) -> Result<(), ReaderGone> {
        if odd == ODD_MAX && self.seen.take().is_some() {
            tracing::warn!(bucket = self.bucket.name(), why, "this bucket cannot be read; trying on");
            self.told = Told::Behind;
            self.tell(Change::Reset(self.bucket)).await?;
        }
        Ok(())
    }

    async fn tell(&self, change: Change) -> Result<(), ReaderGone> {
        self.to.send(change).await.map_err(|_| ReaderGone)
    }

    async fn caught_up(&mut self) -> Result<(), ReaderGone> {
        if self.told == Told::Behind {
            self.told = Told::CaughtUp;
            self.tell(Change::CaughtUp(self.bucket)).await?;
        }
        Ok(())
    }

    async fn session(&mut self) -> End {
        match self.read().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    /// The stream's state; a stream that is gone is made again, with all others.
    async fn stream(&self) -> Result<Value, End> {
        let name = format!("STREAM.INFO.{}", self.bucket.stream());
        match raw::api(&self.store.connection.client, &name, &Value::Null).await {
            Err(err) if err.is(code::NO_STREAM) => {
                tracing::error!(bucket = self.bucket.name(), "the stream is gone: making it again, empty");
                self.store.check().await.map_err(|err| End::Odd(err.to_string()))?;
                Ok(raw::api(&self.store.connection.client, &name, &Value::Null).await?)
            }
            other => Ok(other?),
        }
    }

    /// Compares the stream with what was seen; after it, `seen` says where to go on. Returns its last number.
    async fn resume(&mut self) -> Result<u64, End> {
        let info = self.stream().await?;
        let last = info["state"]["last_seq"].as_u64().ok_or(CallError::Strange)?;
        let created = info["created"].as_str().ok_or(CallError::Strange)?.to_owned();
        let server = self.store.connection.client.server_info().server_id;
        let same = self.seen.as_ref().is_some_and(|s| s.created == created && s.server == server && s.seq <= last);
        if !same {
            // Not a difference for the first session, nor for a broker that restarted; else somebody changed it.
            self.store.check().await.map_err(|err| End::Odd(err.to_string()))?;
            self.told = Told::Behind;
            self.tell(Change::Reset(self.bucket)).await?;
            self.seen = Some(Seen { created, server, seq: 0 });
        }
        Ok(last)
    }

    async fn read(&mut self) -> Result<std::convert::Infallible, End> {
        let target = self.resume().await?;
        let client = self.store.connection.client.clone();
        let from = self.seen.as_ref().map_or(0, |s| s.seq) + 1;
        let mut session = Session::open(client, &self.bucket.stream(), from).await?;
        if session.pending == 0 {
            self.caught_up().await?;
        }
        let [dice] = entropy::<1>();
        let renew = tokio::time::sleep(SESSION + SESSION * u32::from(dice) / 256);
        tokio::pin!(renew);
        loop {
            let message = tokio::select! {
                () = &mut renew, if self.told == Told::CaughtUp => {
                    session.close().await;
                    return Err(End::Renew);
                }
                message = session.next() => message?,
            };
            let Some((message, place)) = message else { continue };
            self.value(&message, place.seq).await?;
            if place.seq >= target || place.pending == 0 {
                self.caught_up().await?;
            }
        }
    }

    async fn value(&mut self, message: &Message, seq: u64) -> Result<(), End> {
        let key = self.bucket.key(&message.subject).ok_or_else(|| End::Odd(format!("subject {}", message.subject)))?;
        let bytes = (!message.payload.is_empty()).then(|| message.payload.clone());
        if self.bucket == Bucket::Meta && key == META_KEY {
            self.judge_format(bytes.as_deref().unwrap_or_default());
        }
        self.tell(Change::Value { bucket: self.bucket, key: key.to_owned(), seq, bytes }).await?;
        if let Some(seen) = &mut self.seen {
            seen.seq = seq;
        }
        Ok(())
    }

    /// A newer coordinator may raise the format while we run: from then on we read and write nothing.
    fn judge_format(&self, bytes: &[u8]) {
        if let Err(err) = read_meta(bytes) {
            tracing::error!(%err, "the store is not served any more");
            *self.store.unfit.write().expect("invariant: nobody panics while holding it") = Some(err.to_string());
        }
    }
}

/// Place of a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// In the stream.
    seq: u64,
    /// In the consumer: counts up by one.
    delivered: u64,
    /// How many are still to come.
    pending: u64,
}

/// `$JS.ACK.<stream>.<consumer>.<tries>.<stream seq>.<consumer seq>.<time>.<pending>`, with two more tokens before
/// the stream (domain, account) in newer brokers.
fn place(reply: &str) -> Option<Place> {
    let tokens: Vec<&str> = reply.split('.').collect();
    let skip = match tokens.len() {
        9 => 5,
        n if n >= 11 => 7,
        _ => return None,
    };
    if tokens.first() != Some(&"$JS") || tokens.get(1) != Some(&"ACK") {
        return None;
    }
    let number = |i: usize| tokens.get(i)?.parse().ok();
    Some(Place { seq: number(skip)?, delivered: number(skip + 1)?, pending: number(skip + 3)? })
}

/// An ephemeral pull consumer and the request that is under way.
struct Session {
    client: Client,
    pull: String,
    delete: String,
    inbox: String,
    messages: Subscriber,
    pending: u64,
    delivered: u64,
    left: u32,
}

impl Session {
    async fn open(client: Client, stream: &str, from: u64) -> Result<Self, End> {
        let odd = |err: &dyn std::fmt::Display| End::Odd(err.to_string());
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await.map_err(|e| odd(&e))?;
        let name = format!("bramble-feed-{}", random_text());
        let config = json!({
            "name": name, "deliver_policy": "by_start_sequence", "opt_start_seq": from, "ack_policy": "none",
            "replay_policy": "instant", "max_deliver": 1, "mem_storage": true, "num_replicas": 1,
            "inactive_threshold": 60_000_000_000u64,
        });
        let body = json!({ "stream_name": stream, "config": config, "action": "create" });
        let made = raw::api(&client, &format!("CONSUMER.CREATE.{stream}.{name}"), &body).await?;
        let pending = made["num_pending"].as_u64().ok_or(CallError::Strange)?;
        let pull = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}");
        let delete = format!("CONSUMER.DELETE.{stream}.{name}");
        let mut session = Self { client, pull, delete, inbox, messages, pending, delivered: 0, left: 0 };
        session.ask().await?;
        Ok(session)
    }

    async fn ask(&mut self) -> Result<(), End> {
        let body = json!({
            "batch": BATCH, "max_bytes": BATCH_BYTES, "expires": nanos(EXPIRES), "idle_heartbeat": nanos(HEARTBEAT),
        });
        self.left = BATCH;
        let asked =
            self.client.publish_with_reply(self.pull.clone(), self.inbox.clone(), body.to_string().into()).await;
        asked.map_err(|err| End::Odd(err.to_string()))
    }

    /// The next message, or nothing for now.
    async fn next(&mut self) -> Result<Option<(Message, Place)>, End> {
        if self.left == 0 {
            self.ask().await?;
        }
        let silence = |_| End::Odd("silence".to_owned());
        let message = tokio::time::timeout(SILENCE, self.messages.next()).await.map_err(silence)?;
        let message = message.ok_or_else(|| End::Odd("connection closed".to_owned()))?;
        match message.status.map(|s| s.as_u16()) {
            None => {}
            Some(100) => return Ok(None),
            // All that was asked for has come; the next request is under way already.
            Some(409) if message.description.as_deref().is_some_and(|d| d.contains("Batch Completed")) => {
                return Ok(None);
            }
            // The request has expired, or the next message did not fit into its bytes any more: ask again.
            Some(408) => return self.ask().await.map(|()| None),
            Some(409) if message.description.as_deref().is_some_and(|d| d.contains("MaxBytes")) => {
                return self.ask().await.map(|()| None);
            }
            Some(status) => return Err(End::Odd(format!("{status} {}", message.description.unwrap_or_default()))),
        }
        let place = message.reply.as_deref().and_then(place).ok_or(CallError::Strange)?;
        if place.delivered != self.delivered + 1 {
            return Err(End::Odd(format!("gap: {} after {}", place.delivered, self.delivered)));
        }
        self.delivered = place.delivered;
        self.left = self.left.saturating_sub(1);
        Ok(Some((message, place)))
    }

    async fn close(self) {
        let _ = raw::api(&self.client, &self.delete, &Value::Null).await;
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("invariant: seconds fit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_ack_subject_are_read() {
        let want = Some(Place { seq: 42, delivered: 7, pending: 3 });
        assert_eq!(place("$JS.ACK.KV_desired.c.1.42.7.1700000000000000000.3"), want);
        assert_eq!(place("$JS.ACK._.ACCHASH.KV_desired.c.1.42.7.1700000000000000000.3"), want);
        assert_eq!(place("$JS.ACK.hub.ACCHASH.KV_desired.c.1.42.7.1700000000000000000.3.rnd"), want);
        assert_eq!(place("_INBOX.x"), None);
        assert_eq!(place("a.b.KV_desired.c.1.42.7.1700000000000000000.3"), None);
    }
}
