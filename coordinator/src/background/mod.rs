//! What goes on without anybody asking: reading the store's feed, writing documents, holds, quarantine, renewal.
//!
//! Decides: when the pure decisions of `domain` are taken, and carries them out by compare-and-set, so that several
//! coordinators race safely. Nothing is written while recovering. Deliberately does not: decide what is right.

pub mod commands;
pub mod hold;
pub mod index;
pub mod links;
pub mod metrics;
pub mod port;
pub mod quarantine;
pub mod reconcile;
pub mod refusals;
mod releases;
pub mod renew;
pub mod rollout;
pub mod session;
pub mod upgrade;

use std::{sync::Arc, time::Duration};

use bramble_contracts::{
    SessionId,
    api::{AuditEvent, Outcome},
    id::{DeviceId, Tenant},
    v1::{ReplyFrame, Verb},
};

use futures::StreamExt as _;
use tokio::sync::mpsc;

use crate::{
    clock,
    domain::{Now, when::rfc3339},
    keys::Keys,
    mesh::LinkNews,
    store::{Store, StoreError},
};

/// A command is refused when it reaches the device later than this.
const COMMAND_TTL: Duration = Duration::from_secs(15);

/// Both clocks, now.
pub fn now() -> Now {
    let mono_ms = u64::try_from(clock::monotonic().as_millis()).unwrap_or(u64::MAX);
    Now { wall_ms: clock::unix_ms(), mono_ms }
}

/// How long a device may be silent, and how long its JWT lasts.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Silence for this long is offline.
    pub heartbeat_timeout: Duration,
    /// Life of a device's JWT.
    pub device_jwt: Duration,
}

/// Which of a device's agents is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// The one that acts.
    WhoActs,
    /// This run of one.
    Session(SessionId),
}

/// Everything the background and the API share.
pub struct Core {
    /// Where things are kept.
    pub store: Arc<dyn Store>,
    /// What is known.
    pub index: index::Index,
    /// What is signed with.
    pub keys: Arc<Keys>,
    /// The way to devices.
    pub mesh: Arc<dyn port::Mesh>,
    /// Numbers for people.
    pub metrics: metrics::Metrics,
    /// Counters of commands.
    pub counters: commands::Counters,
    /// Held while a command is numbered and sent: a device takes no number below the last one.
    sending: tokio::sync::Mutex<()>,
    /// Deadlines.
    pub times: Times,
    /// Who is cut off.
    pub quarantine: quarantine::Keeper,
    /// When own documents were asked for.
    pub(crate) asked: hold::Asked,
}

impl Core {
    /// Nothing is known yet and nothing runs; see [`run`].
    pub fn new(store: Arc<dyn Store>, keys: Arc<Keys>, mesh: Arc<dyn port::Mesh>, times: Times) -> Arc<Self> {
        let index = index::Index::new(keys.trust_document().clone(), times.heartbeat_timeout);
        Arc::new(Self {
            store,
            index,
            keys,
            mesh,
            metrics: metrics::Metrics::default(),
            counters: commands::Counters::default(),
            sending: tokio::sync::Mutex::default(),
            times,
            quarantine: quarantine::Keeper::default(),
            asked: hold::Asked::default(),
        })
    }

    /// Says something to one run of a device's agent, also to one that does not act; the first frame of its answer.
    pub async fn tell(
        &self,
        device: &DeviceId,
        session: SessionId,
        verb: Verb,
        patience: Duration,
    ) -> Result<Option<ReplyFrame>, port::MeshError> {
        let (_, mut frames) = self.ask(device, To::Session(session), verb, patience).await?;
        frames.next().await.transpose()
    }

    /// Signs and sends a command; the frames of its answer follow, with at most `silence` between two of them. Errors
    /// do not name the device.
    pub async fn command(
        &self,
        device: &DeviceId,
        verb: Verb,
        silence: Duration,
    ) -> Result<port::Frames, port::MeshError> {
        self.converse(device, verb, silence).await.map(|(_, frames)| frames)
    }

    /// The same, with the way to say more to the command while it runs.
    pub async fn converse(
        &self,
        device: &DeviceId,
        verb: Verb,
        silence: Duration,
    ) -> Result<(session::Line, port::Frames), port::MeshError> {
        let (mut line, mut frames) = self.ask(device, To::WhoActs, verb.clone(), silence).await?;
        let mut first = frames.next().await;
        if let Some(Ok(frame)) = &first
            && commands::is_behind(frame)
            && commands::pass_all(self, line.command()).await
        {
            tracing::warn!(%device, "it has seen later commands (was the clock set back?): asking it above them");
            (line, frames) = self.ask(device, To::WhoActs, verb, silence).await?;
            first = frames.next().await;
        }
        // The first frame says whether anybody is there at all, while the caller can still answer with a status.
        let first = first.transpose()?;
        Ok((line, futures::stream::iter(first.map(Ok)).chain(frames).boxed()))
    }

    /// Asks once; the frames of the answer may fail with the first.
    async fn ask(
        &self,
        device: &DeviceId,
        to: To,
        verb: Verb,
        silence: Duration,
    ) -> Result<(session::Line, port::Frames), port::MeshError> {
        let name = verb.name();
        let unreachable = |why: String| port::MeshError::Unreachable { why };
        let _order = self.sending.lock().await;
        let at = now();
        let addressed = self.index.look(|lens| {
            let seen = lens.fleet.device(device);
            let beat = match to {
                To::WhoActs => seen.acting_beat(),
                To::Session(session) => seen.beats.into_iter().flatten().find(|b| b.heartbeat.session == session),
            };
            self.counters.address(device, beat, verb, COMMAND_TTL, at)
        });
        let command = addressed.map_err(|err| unreachable(err.to_string()))?;
        if let Err(err) = commands::mark(self, command.counter).await {
            tracing::warn!(error = %err, "cannot note how far the counters of commands have come");
        }
        let signed = self.keys.sign_command(&command).map_err(|err| unreachable(err.to_string()))?;
        let port::Opened { frames, inbox } = self.mesh.command(device, name, signed, silence).await?;
        Ok((session::Line::new(&command, inbox), frames))
    }

    /// An audit event of the coordinator's own doing.
    pub(crate) async fn audit_own(&self, tenant: &Tenant, event: Own<'_>) -> Result<u64, StoreError> {
        let event = AuditEvent {
            seq: 0,
            at: rfc3339(now().wall_ms),
            who: event.who.to_owned(),
            action: event.action.to_owned(),
            object: event.object.to_owned(),
            tenant: tenant.to_string(),
            reason: event.reason.to_owned(),
            outcome: event.outcome,
            detail: event.detail.to_owned(),
            before: None,
            after: None,
            request_id: String::new(),
            correlation_id: String::new(),
        };
        self.store.audit(&event).await
    }
}

/// What the coordinator or a device did by itself.
pub(crate) struct Own<'a> {
    pub(crate) who: &'a str,
    pub(crate) action: &'a str,
    pub(crate) object: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) outcome: Outcome,
    pub(crate) detail: &'a str,
}

/// Runs everything; ends only when a part does.
pub async fn run(core: Arc<Core>, device_links: mpsc::Receiver<LinkNews>) {
    let feed = core.store.feed();
    tokio::select! {
        () = core.index.follow(feed) => tracing::error!("the store's feed has ended"),
        () = reconcile::run(&core) => tracing::error!("reconciling has ended"),
        () = quarantine::run(&core) => tracing::error!("the quarantine keeper has ended"),
        () = links::run(&core, device_links) => tracing::error!("the broker tells no more of connections"),
        () = refusals::run(&core) => tracing::error!("telling refusals has ended"),
        () = rollout::run(&core) => tracing::error!("rolling out has ended"),
        () = upgrade::run(&core) => tracing::error!("speaking to agents that upgrade has ended"),
    }
}
