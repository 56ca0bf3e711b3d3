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
mod duty;
mod gate;
mod heartbeat;
mod judge;
mod random;
mod refusals;
pub(crate) mod rehearsal;
mod releases;
mod renew;
mod report;
pub(crate) mod standing;
mod stored;
mod time;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bramble_contracts::{DeviceId, Name, SessionId};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

use crate::host::logs::Logs;
use crate::host::state::StateError;
use crate::supervise::{Host, Supervisor, SupervisorHandle};
use board::{Board, View};
use context::{Context, Stop};
use desired::Desired;
use duty::{Pen, Roster};
use enroll::Enrollment;
use identity::{DeviceKey, Identity, IdentityError, identity_file};
use trust::{Trust, TrustFailure};

pub(crate) use duty::OnDuty;

use commands::Hearers;
pub use commands::{Question, Word};
pub use context::Settings;
pub use releases::{Releases, Unreachable};
pub use report::Facts;

/// Pushes wait here while one is stored.
const PUSHES_MAX: usize = 64;
/// Commands that are being answered are waited for so long when it ceases to act.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(2);
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
    /// Hears what the coordinator says of this agent's upgrade.
    pub words: mpsc::Sender<Word>,
    /// Answers what an upgrade of the operating system would do.
    pub questions: mpsc::Sender<Question>,
}

/// A running agent. Dropping it ends everything but the apps.
///
/// It is ready when it is made: connected as soon as that can be, and beating, but nothing is supervised, reported or
/// stored. Once it acts, it enrols if it must, acts on what is stored, answers and reports.
pub struct Agent {
    board: Board,
    session: SessionId,
    device: watch::Receiver<Option<DeviceId>>,
    roster: Roster,
    mesh: watch::Receiver<Option<Arc<Mesh>>>,
    start: Start,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    acting: Option<Acting>,
}

/// What runs only while the agent acts.
struct Acting {
    supervisor: Arc<SupervisorHandle>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Agent {
    /// Makes one that is ready and does not act.
    pub fn ready(config: Config) -> Result<Self, StartError> {
        let board = Board::default();
        let session = bramble_contracts::bytes::Fixed(random::bytes());
        let (stop, stopped) = watch::channel(false);
        let stopped = Stop(stopped);
        let (device_out, device) = watch::channel(None);
        let (mesh_out, mesh) = watch::channel(None);
        let (asker, asked) = watch::channel(None);
        let Settings { state_dir, ntp, .. } = config.settings.clone();
        let roster = Roster::default();
        let (pen, on_duty) = (roster.pen(), roster.look());
        let mut tasks = JoinSet::new();
        tasks.spawn(guard::Guard::new(&state_dir, ntp, board.clone(), pen.clone(), asked).run(stopped.clone()));
        let start = Start {
            config,
            board: board.clone(),
            session,
            pen,
            asker: Arc::new(asker),
            device: Arc::new(device_out),
            mesh: Arc::new(mesh_out),
        };
        if let Some(identity) = identity_file(&state_dir).load_json::<Identity>()?.value() {
            start.prepare(identity)?;
        }
        tasks.spawn(run_mesh(mesh.clone(), on_duty, Hearers::of(&start.config), stopped));
        Ok(Self { board, session, device, roster, mesh, start, stop, tasks, acting: None })
    }

    /// Makes one that acts.
    pub fn start<H: Host>(config: Config, host: Arc<H>, logs: Logs) -> Result<Self, StartError> {
        let mut agent = Self::ready(config)?;
        agent.act(host, logs)?;
        Ok(agent)
    }

    /// Begins to act: what is stored is acted on before anything else; then it enrols if it must. Only the holder of the
    /// acting lease calls this.
    pub fn act<H: Host>(&mut self, host: Arc<H>, logs: Logs) -> Result<(), StartError> {
        let mesh = self.mesh.borrow().clone();
        if let Some(mesh) = &mesh {
            mesh.context.catch_up()?;
        }
        let supervisor = Arc::new(Supervisor::start(host));
        self.roster.begin(supervisor.clone(), logs);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        match mesh {
            Some(mesh) => tasks.spawn(mesh.act(&supervisor, Stop(stopped))),
            None => tasks.spawn(self.start.clone().enrol_and_act(supervisor.clone(), Stop(stopped))),
        };
        self.acting = Some(Acting { supervisor, stop, tasks });
        Ok(())
    }

    /// Ceases to act, in good order: commands are ended, steps under way are finished, and reports end last. It stays
    /// connected. Dropping what this returns ends the same at once.
    pub fn halt(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let (acting, commands, board) = (self.acting.take(), self.roster.end(), self.board.clone());
        async move {
            let Some(Acting { supervisor, stop, mut tasks }) = acting else { return };
            commands.ended(COMMAND_TIME_MAX).await;
            supervisor.halt().await;
            stop.send_replace(true);
            finish(&mut tasks).await;
            board.update(|view| (view.desired, view.fresh) = (None, false));
        }
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

    /// What it runs, while it acts.
    pub fn supervisor(&self) -> Option<Arc<SupervisorHandle>> {
        self.acting.as_ref().map(|acting| acting.supervisor.clone())
    }

    /// Hears whether it acts, and with what.
    pub(crate) fn on_duty(&self) -> OnDuty {
        self.roster.look()
    }

    /// How it asks the coordinator for releases, once it is enrolled.
    pub fn releases(&self) -> Releases {
        Releases(self.mesh.clone())
    }

    /// Ends it in good order. Apps run on.
    pub async fn shutdown(mut self) {
        if let Some(Acting { supervisor, stop, mut tasks }) = self.acting.take() {
            stop.send_replace(true);
            finish(&mut tasks).await;
            supervisor.shutdown().await;
        }
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            told(ended);
        }
    }
}

/// Waits for parts that were told to end, at most so long: an answer from the network is not waited for longer.
async fn finish(tasks: &mut JoinSet<()>) {
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            told(ended);
        }
    };
    if tokio::time::timeout(STOP_TIME_MAX, all).await.is_err() {
        tasks.shutdown().await;
    }
}

fn told(ended: Result<(), tokio::task::JoinError>) {
    match ended {
        Err(err) if err.is_panic() => tracing::error!(%err, "a part of the mesh ended badly"),
        Ok(()) | Err(_) => {}
    }
}

/// What it takes to make the mesh once there is an identity.
#[derive(Clone)]
struct Start {
    config: Config,
    board: Board,
    session: SessionId,
    pen: Pen,
    /// The clock guard hears here how to ask the coordinator.
    asker: Arc<watch::Sender<Option<guard::Asker>>>,
    device: Arc<watch::Sender<Option<DeviceId>>>,
    mesh: Arc<watch::Sender<Option<Arc<Mesh>>>>,
}

impl Start {
    async fn enrol_and_act(self, supervisor: Arc<SupervisorHandle>, mut stop: Stop) {
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
            () = stop.asked() => return,
        };
        match self.prepare(identity) {
            Ok(mesh) => mesh.act(&supervisor, stop).await,
            Err(err) => {
                tracing::error!(%err, "enrolled, and cannot go on; the next start tries again");
                board.update(|view| view.link = err.to_string());
            }
        }
    }

    /// Everything up to the network.
    fn prepare(&self, identity: Identity) -> Result<Arc<Mesh>, StartError> {
        let dir = self.config.settings.state_dir.clone();
        let trust = Trust::load(&dir, self.pen.clone())?;
        let trust = trust.ok_or_else(|| StartError::NoTrust(identity::trust_file(&dir).path().into()))?;
        let context = Arc::new(Context {
            device: identity.device.clone(),
            session: self.session,
            key: DeviceKey::load_or_make(&dir)?,
            trust,
            refusals: refusals::Refusals::load(&dir, self.pen.clone(), self.board.clone())?,
            pen: self.pen.clone(),
            board: self.board.clone(),
            identity: Mutex::new(identity),
            settings: self.config.settings.clone(),
        });
        if let Some(path) = &self.config.token_file {
            enroll::discard_token(path);
        }
        let (link, pushes) = (watch::Sender::default(), broadcast::Sender::new(PUSHES_MAX));
        self.asker.send_replace(Some(guard::Asker { context: context.clone(), link: link.subscribe() }));
        self.device.send_replace(Some(context.device.clone()));
        let facts = self.config.facts.clone();
        let mesh = Arc::new(Mesh { context, link, pushes, facts, reports: Arc::default() });
        self.mesh.send_replace(Some(mesh.clone()));
        Ok(mesh)
    }
}

/// Everything that needs the network, ready to go.
struct Mesh {
    context: Arc<Context>,
    link: watch::Sender<connection::Link>,
    pushes: broadcast::Sender<async_nats::Message>,
    facts: Facts,
    /// How many were sent in this session.
    reports: Arc<AtomicU64>,
}

impl Mesh {
    /// What an agent does for the mesh while it acts. What is stored is acted on before this returns.
    fn act(&self, supervisor: &Arc<SupervisorHandle>, stop: Stop) -> impl Future<Output = ()> + Send + use<> {
        let links = || self.link.subscribe();
        let pushes = self.pushes.subscribe();
        let desired = Desired::start(self.context.clone(), supervisor.clone(), links());
        let reporter = report::Reporter {
            context: self.context.clone(),
            reports: supervisor.reports(),
            supervisor_alarms: supervisor.alarms(),
            link: links(),
            facts: self.facts.clone(),
            seq: self.reports.clone(),
        };
        async move {
            tokio::join!(desired.run(pushes, stop.clone()), reporter.run(stop));
        }
    }
}

/// What an agent does for the mesh as long as it runs.
async fn run_mesh(mut mesh: watch::Receiver<Option<Arc<Mesh>>>, on_duty: OnDuty, hearers: Hearers, mut stop: Stop) {
    let mesh = tokio::select! {
        enrolled = mesh.wait_for(Option::is_some) => enrolled.ok().and_then(|mesh| mesh.clone()),
        () = stop.asked() => None,
    };
    let Some(mesh) = mesh else { return };
    let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
    let inbound = connection::Inbound { pushes: mesh.pushes.clone(), commands };
    let context = || mesh.context.clone();
    let mut parts = JoinSet::new();
    parts.spawn(heartbeat::run(context(), on_duty.clone(), mesh.link.subscribe(), stop.clone()));
    parts.spawn(commands::Commands::new(context(), on_duty, hearers).run(commands_in, stop.clone()));
    parts.spawn(connection::Connector::new(context(), mesh.link.clone(), inbound).run(stop.clone()));
    stop.asked().await;
    finish(&mut parts).await;
}
