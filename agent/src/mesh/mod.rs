//! The mesh: how a device hears what it should run and says what it runs. Only here does the agent talk to the network.
//!
//! Decides how messages travel, whom to believe and when to ask again. Does not decide what runs: that is `core`, and
//! nothing here touches a container. An agent that never reaches anybody still runs what it was told last.

pub mod board;
pub mod context;
pub mod enroll;
pub(crate) mod guard;
pub mod health;
pub mod http;
pub mod identity;
pub mod tls;
pub mod trust;

mod commands;
mod connection;
mod desired;
mod gate;
mod heartbeat;
mod judge;
mod random;
mod refusals;
mod renew;
mod report;
mod stored;
mod time;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_contracts::{DeviceId, Name, SessionId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::host::logs::Logs;
use crate::host::state::StateError;
use crate::supervise::{Host, Supervisor, SupervisorHandle};
use board::{Board, View};
use context::{Context, Stop};
use desired::Desired;
use enroll::Enrollment;
use identity::{DeviceKey, Identity, IdentityError, identity_file};
use trust::{Trust, TrustFailure};

pub use context::Settings;
pub use report::Facts;

/// Pushes wait here while one is stored.
const PUSHES_MAX: usize = 64;
/// Commands, and what is typed to programs that run.
const COMMANDS_MAX: usize = 64;
/// Whoever waits for an answer from the network when the agent ends is not waited for longer than this.
const STOP_TIME_MAX: Duration = Duration::from_secs(3);

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Key or identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// State.
    #[error(transparent)]
    State(#[from] StateError),
    /// The trust document.
    #[error("the stored trust document cannot be used: {0}")]
    Trust(#[from] TrustFailure),
    /// It is missing.
    #[error("{} is missing although this device is enrolled; restore it, or remove the keys folder and enrol again", .0.display())]
    NoTrust(PathBuf),
}

/// What an agent needs beside a device.
#[derive(Clone)]
pub struct Config {
    /// How often it does what, and where its state lies.
    pub settings: Settings,
    /// What it would like to be called.
    pub name: Option<Name>,
    /// Where its enrolment token lies.
    pub token_file: Option<PathBuf>,
    /// Tells about the machine.
    pub facts: Facts,
    /// What apps print.
    pub logs: Logs,
}

/// A running agent. Dropping it ends everything but the apps.
pub struct Agent {
    board: Board,
    session: SessionId,
    device: watch::Receiver<Option<DeviceId>>,
    supervisor: Arc<SupervisorHandle>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Agent {
    /// Starts one: what is stored is acted on before anything else; then it enrols if it must, and connects.
    pub fn start<H: Host>(config: Config, host: Arc<H>) -> Result<Self, StartError> {
        let board = Board::default();
        let session = bramble_contracts::bytes::Fixed(random::bytes());
        let supervisor = Arc::new(Supervisor::start(host));
        let (stop, stopped) = watch::channel(false);
        let stopped = Stop(stopped);
        let (device_out, device) = watch::channel(None);
        let (asker, mesh) = watch::channel(None);
        let Settings { state_dir, ntp, .. } = config.settings.clone();
        let start = Start { config, board: board.clone(), session, supervisor: supervisor.clone(), asker };
        let mut tasks = JoinSet::new();
        tasks.spawn(guard::Guard::new(&state_dir, ntp, board.clone(), mesh).run(stopped.clone()));
        match identity_file(&start.config.settings.state_dir).load_json::<Identity>()?.value() {
            Some(identity) => {
                device_out.send_replace(Some(identity.device.clone()));
                let mesh = start.prepare(identity)?;
                tasks.spawn(mesh.run(stopped));
            }
            None => {
                tasks.spawn(start.enrol_first(device_out, stopped));
            }
        }
        Ok(Self { board, session, device, supervisor, stop, tasks })
    }

    /// What it knows of itself.
    pub fn view(&self) -> View {
        self.board.view()
    }

    /// Hears of every change of what it knows of itself.
    pub fn changes(&self) -> watch::Receiver<View> {
        self.board.changes()
    }

    /// Where alarms are raised that the mesh does not see by itself.
    pub fn board(&self) -> Board {
        self.board.clone()
    }

    /// Its id, once it is enrolled.
    pub fn device(&self) -> watch::Receiver<Option<DeviceId>> {
        self.device.clone()
    }

    /// This run.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// What it runs.
    pub fn supervisor(&self) -> &SupervisorHandle {
        &self.supervisor
    }

    /// The same, to keep.
    pub fn shared_supervisor(&self) -> Arc<SupervisorHandle> {
        self.supervisor.clone()
    }

    /// Ends it in good order. Apps run on.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(err) = ended {
                tracing::warn!(%err, "a part of the mesh ended badly");
            }
        }
        if let Ok(supervisor) = Arc::try_unwrap(self.supervisor) {
            supervisor.shutdown().await;
        }
    }
}

struct Start {
    config: Config,
    board: Board,
    session: SessionId,
    supervisor: Arc<SupervisorHandle>,
    /// The clock guard hears here how to ask the coordinator.
    asker: watch::Sender<Option<guard::Asker>>,
}

impl Start {
    async fn enrol_first(self, device: watch::Sender<Option<DeviceId>>, mut stopped: Stop) {
        let enrollment = Enrollment {
            state_dir: self.config.settings.state_dir.clone(),
            coordinator: self.config.settings.coordinator.clone(),
            token_file: self.config.token_file.clone(),
            name: self.config.name.clone(),
            facts: self.config.facts.borrow().clone(),
            board: self.board.clone(),
        };
        let board = self.board.clone();
        let told = |text: &str| board.update(|view| view.link = format!("not enrolled: {text}"));
        let identity = tokio::select! {
            identity = enrollment.run(told) => identity,
            () = stopped.asked() => return,
        };
        let id = identity.device.clone();
        match self.prepare(identity) {
            Ok(mesh) => {
                device.send_replace(Some(id));
                mesh.run(stopped).await;
            }
            Err(err) => {
                tracing::error!(%err, "enrolled, and cannot go on; the next start tries again");
                board.update(|view| view.link = err.to_string());
            }
        }
    }

    /// Everything up to the network: the stored document is acted on here.
    fn prepare(self, identity: Identity) -> Result<Mesh, StartError> {
        let dir = self.config.settings.state_dir.clone();
        let trust = Trust::load(&dir)?.ok_or_else(|| StartError::NoTrust(identity::trust_file(&dir).path().into()))?;
        let context = Arc::new(Context {
            device: identity.device.clone(),
            session: self.session,
            key: DeviceKey::load_or_make(&dir)?,
            trust,
            refusals: refusals::Refusals::load(&dir, self.board.clone())?,
            board: self.board,
            identity: Mutex::new(identity),
            settings: self.config.settings.clone(),
        });
        if let Some(path) = &self.config.token_file {
            enroll::discard_token(path);
        }
        let (link, links) = watch::channel(connection::Link::default());
        self.asker.send_replace(Some(guard::Asker { context: context.clone(), link: links.clone() }));
        let desired = Desired::start(context.clone(), self.supervisor.clone(), links.clone());
        let Config { facts, logs, .. } = self.config;
        Ok(Mesh { context, supervisor: self.supervisor, desired, link, links, facts, logs })
    }
}

/// Everything that needs the network, ready to go.
struct Mesh {
    context: Arc<Context>,
    supervisor: Arc<SupervisorHandle>,
    desired: Desired,
    link: watch::Sender<connection::Link>,
    links: watch::Receiver<connection::Link>,
    facts: Facts,
    logs: Logs,
}

impl Mesh {
    async fn run(self, stop: Stop) {
        let (pushes, pushes_in) = mpsc::channel(PUSHES_MAX);
        let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
        let inbound = connection::Inbound { pushes, commands };
        let reporter = report::Reporter {
            context: self.context.clone(),
            reports: self.supervisor.reports(),
            supervisor_alarms: self.supervisor.alarms(),
            link: self.links.clone(),
            facts: self.facts,
        };
        let beat = heartbeat::run(self.context.clone(), self.supervisor.reports(), self.links, stop.clone());
        let mut parts = JoinSet::new();
        parts.spawn(beat);
        parts.spawn(reporter.run(stop.clone()));
        parts.spawn(self.desired.run(pushes_in, stop.clone()));
        let commands = commands::Commands::new(self.context.clone(), self.supervisor, self.logs);
        parts.spawn(commands.run(commands_in, stop.clone()));
        parts.spawn(connection::Connector::new(self.context, self.link, inbound).run(stop.clone()));
        let mut late = std::pin::pin!(stop.and_then(STOP_TIME_MAX));
        let mut in_time = true;
        loop {
            tokio::select! {
                ended = parts.join_next() => match ended {
                    None => return,
                    Some(Err(err)) if err.is_panic() => tracing::error!(%err, "a part of the mesh ended badly"),
                    Some(Ok(()) | Err(_)) => {}
                },
                () = &mut late, if in_time => {
                    in_time = false;
                    parts.abort_all();
                }
            }
        }
    }
}
