//! The desired document on its way in: pushes, reads and gaps; stored before it is acted on.
//!
//! Decides when to read again and what is kept. Whether a document counts is [`super::judge`]'s word. A missing key or
//! an empty answer changes nothing: absence never deletes, and neither does a document that we had to fall back to.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use bramble_contracts::bytes::PublicKey;
use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{Generation, subjects};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::board::Alarm;
use super::connection::Link;
use super::context::{Context, Stop};
use super::judge::{Judged, Place, judge, missed};
use super::stored::{Kept, Stored};
use super::{random, renew};
use crate::supervise::SupervisorHandle;

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Strangers' signatures make us ask for a newer trust document at most this often.
const TRUST_ASK: Duration = Duration::from_secs(30);

/// What the document we hold is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It is the newest that was accepted.
    Newest,
    /// The newest was damaged: until one from the network is accepted, nothing is removed for being absent.
    Fallback,
}

pub(crate) struct Desired {
    context: Arc<Context>,
    stored: Stored,
    supervisor: Arc<SupervisorHandle>,
    link: watch::Receiver<Link>,
    have: Option<Arc<DesiredDocument>>,
    /// The highest generation that was ever accepted.
    floor: Generation,
    standing: Standing,
    /// Changes of apps are stored, and not acted on.
    holds: bool,
    /// Was the supervisor told of any document?
    acts: bool,
    /// Sequence of the last message on our subject.
    seen: Option<u64>,
    asked_trust: Option<Instant>,
    read_at: Instant,
    failures: u32,
}

impl Desired {
    /// Acts on what is stored, before any network.
    pub(crate) fn start(context: Arc<Context>, supervisor: Arc<SupervisorHandle>, link: watch::Receiver<Link>) -> Self {
        let stored = Stored::new(&context.settings.state_dir);
        let Kept { document, floor, alarm, damaged } = stored.load(&context);
        if let Some(alarm) = alarm {
            context.board.alarm(Alarm::StoredDocument, alarm);
        }
        let holds = context.board.view().holds_apps;
        let held = if holds { stored.held(&context.device) } else { None };
        // One of an upgrade that is over must not be taken for one of the next.
        if !holds && let Err(err) = stored.release() {
            tracing::warn!(%err, "an old copy of the desired document stays");
        }
        let mut new = Self {
            holds,
            acts: false,
            context,
            stored,
            supervisor,
            link,
            have: None,
            floor,
            standing: if damaged { Standing::Fallback } else { Standing::Newest },
            seen: None,
            asked_trust: None,
            read_at: now(),
            failures: 0,
        };
        if let Some(held) = held {
            tracing::info!(generation = %held.generation, "an OS upgrade is under way: apps are kept as they were");
            new.supervisor.set_fallback(Arc::new(held));
            new.acts = true;
        }
        if let Some(document) = document {
            tracing::info!(generation = %document.generation, apps = document.apps.len(), "stored desired document");
            new.act(Arc::new(document));
        }
        new
    }

    pub(crate) async fn run(mut self, mut pushes: broadcast::Receiver<Message>, mut stop: Stop) {
        let mut epoch = 0;
        let mut link = self.link.clone();
        let mut board = self.context.board.changes();
        let holds = board.borrow_and_update().holds_apps;
        self.hold(holds).await;
        loop {
            tokio::select! {
                () = stop.asked() => return,
                // The board is our own agent's: it does not go.
                Ok(()) = board.changed() => {
                    let holds = board.borrow_and_update().holds_apps;
                    self.hold(holds).await;
                }
                pushed = pushes.recv() => match pushed {
                    Ok(message) => self.pushed(message).await,
                    Err(RecvError::Lagged(_)) => self.read().await,
                    Err(RecvError::Closed) => return,
                },
                Ok(()) = link.changed() => {
                    let now_epoch = link.borrow_and_update().epoch;
                    if now_epoch != epoch {
                        epoch = now_epoch;
                        self.failures = 0;
                        self.read().await;
                    }
                }
                () = tokio::time::sleep_until(self.read_at) => self.read().await,
            }
        }
    }

    async fn pushed(&mut self, message: Message) {
        if message.subject.as_str() != subjects::device_push_desired(&self.context.device) {
            tracing::debug!(subject = %message.subject, "a push this version does not know");
            return;
        }
        let place = place(message.headers.as_ref());
        let gap = missed(self.seen, place);
        if !message.payload.is_empty() {
            self.take(&message.payload).await;
        }
        self.seen = place.sequence.or(self.seen);
        if gap {
            self.read().await;
        }
    }

    /// Reads the document once and plans the next time.
    async fn read(&mut self) {
        let link = self.link.borrow().clone();
        let (Some(client), true) = (link.client, link.connected) else {
            self.read_at = now() + random::jittered(self.context.settings.desired);
            return;
        };
        match self.fetch(&client).await {
            Ok(()) => {
                self.failures = 0;
                self.context.board.update(|view| view.fresh = true);
                self.read_at = now() + random::jittered(self.context.settings.desired);
            }
            Err(why) => {
                self.failures += 1;
                tracing::info!(%why, "the desired document could not be read, it is tried again");
                self.read_at = now() + random::backoff(RETRY_FIRST, RETRY_MAX, self.failures);
            }
        }
    }

    async fn fetch(&mut self, client: &Client) -> Result<(), String> {
        let subject = subjects::device_get(&self.context.device);
        let answer = client.request(subject, bytes::Bytes::new()).await.map_err(|err| err.to_string())?;
        if let Some(status) = answer.status {
            let code = status.as_u16();
            // 404: no document was ever written for us. Others are errors of the store.
            return if code == 404 { Ok(()) } else { Err(format!("the store answers with status {code}")) };
        }
        self.seen = place(answer.headers.as_ref()).sequence.or(self.seen);
        let deleted = answer.headers.as_ref().is_some_and(|headers| headers.get("KV-Operation").is_some());
        if deleted || answer.payload.is_empty() {
            tracing::debug!("the store holds no desired document for this device; nothing changes");
            return Ok(());
        }
        self.take(&answer.payload).await;
        Ok(())
    }

    async fn take(&mut self, bytes: &[u8]) {
        let mut judged = self.judge(bytes);
        if let Judged::UnknownKey(_) = judged
            && self.may_ask_trust()
        {
            let client = self.link.borrow().client.clone();
            if let Some(client) = client
                && let Err(why) = renew::trust_over_mesh(&self.context, &client).await
            {
                tracing::info!(%why, "no newer trust document");
            }
            judged = self.judge(bytes);
        }
        match judged {
            Judged::Newer(document, key) => {
                let document = Arc::new(*document);
                if self.keep(key, bytes, document.generation).await {
                    let apps = document.apps.len();
                    tracing::info!(generation = %document.generation, apps, "desired document accepted");
                    self.act(document);
                }
            }
            Judged::Same(key) => self.confirmed(key, bytes).await,
            Judged::UnknownKey(bad) | Judged::Refused(bad) => self.context.refusals.add(&bad),
        }
    }

    /// What we hold came again.
    async fn confirmed(&mut self, key: PublicKey, bytes: &[u8]) {
        match self.standing {
            Standing::Newest => {
                // Signed anew, perhaps by a newer key: then that is what must verify after a cold boot.
                if self.stored.signed().ok().flatten().is_none_or(|held| held != bytes) {
                    self.keep(key, bytes, self.floor).await;
                }
            }
            Standing::Fallback => {
                // What we had to fall back to is the newest after all: from here on absence removes again.
                if self.keep(key, bytes, self.floor).await
                    && let Some(document) = self.have.clone()
                {
                    self.act(document);
                }
            }
        }
    }

    fn judge(&self, bytes: &[u8]) -> Judged {
        judge(bytes, &self.context.device, self.have.as_deref(), self.floor, |role, id| {
            self.context.trust.key(role, id)
        })
    }

    fn may_ask_trust(&mut self) -> bool {
        let due = self.asked_trust.is_none_or(|asked| now().duration_since(asked) >= TRUST_ASK);
        if due {
            self.asked_trust = Some(now());
        }
        due
    }

    /// Makes a document and its generation durable. Where that fails it is not acted on, and read again soon.
    async fn keep(&mut self, key: PublicKey, bytes: &[u8], generation: Generation) -> bool {
        let (stored, body, device) = (self.stored.clone(), bytes.to_vec(), self.context.device.clone());
        let done = tokio::task::spawn_blocking(move || {
            stored.store(key, &body)?;
            stored.raise(device, generation)
        })
        .await;
        let failed = match done {
            Ok(Ok(())) => None,
            Ok(Err(err)) => Some(err.to_string()),
            Err(err) => Some(err.to_string()),
        };
        match failed {
            None => {
                self.floor = self.floor.max(generation);
                self.standing = Standing::Newest;
                self.context.board.clear(Alarm::CannotStore);
                self.context.board.clear(Alarm::StoredDocument);
                true
            }
            Some(why) => {
                self.context.board.alarm(Alarm::CannotStore, format!("a new desired document is not acted on: {why}"));
                self.read_at = now() + random::jittered(RETRY_MAX);
                false
            }
        }
    }

    fn act(&mut self, document: Arc<DesiredDocument>) {
        self.have = Some(document.clone());
        // Where nothing runs yet there is nothing to keep as it is.
        if !(self.holds && self.acts) {
            self.supervise(&document);
        }
        self.context.board.update(|view| view.desired = Some(document));
    }

    fn supervise(&mut self, document: &Arc<DesiredDocument>) {
        match self.standing {
            Standing::Newest => self.supervisor.set_desired(document.clone()),
            Standing::Fallback => self.supervisor.set_fallback(document.clone()),
        }
        self.acts = true;
    }

    /// Changes of apps wait from now on, or are acted on. What is acted on meanwhile is kept: this agent may start again.
    async fn hold(&mut self, holds: bool) {
        let stored = self.stored.clone();
        let kept = match (self.holds, holds) {
            (true, true) | (false, false) => return,
            (false, true) => tokio::task::spawn_blocking(move || stored.hold()).await,
            (true, false) => tokio::task::spawn_blocking(move || stored.release()).await,
        };
        if let Ok(Err(err)) = kept {
            tracing::warn!(%err, "what apps are kept as is not known to the next start");
        }
        self.holds = holds;
        if let Some(document) = self.have.clone().filter(|_| !holds) {
            self.supervise(&document);
        }
    }
}

fn place(headers: Option<&HeaderMap>) -> Place {
    let number = |name: &str| headers?.get(name)?.as_str().parse().ok();
    Place { sequence: number("Nats-Sequence"), last: number("Nats-Last-Sequence") }
}

#[allow(clippy::disallowed_methods, reason = "tokio's own clock, for timers only")]
fn now() -> Instant {
    Instant::now()
}
