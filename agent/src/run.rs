//! `bramble-agent run`: one agent on one device, from start to the signal that ends it. Apps outlive it.
//!
//! Decides in which order parts start, and what "alive" means to systemd. Decides nothing about apps, messages or upgrades:
//! whether this agent acts is the lease's word, when it lets the lease go or ends is the upgrade's.

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::v1::DeviceFacts;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::core::backoff::Backoff;
use crate::host::device::PodmanHost;
use crate::host::instances;
use crate::host::lease::{self, Held, Lease};
use crate::host::logs::{self, Logs};
use crate::host::podman::Podman;
use crate::host::podman::service::{Service, ServiceState};
use crate::host::{clock, facts, state, systemd};
use crate::mesh::board::{Alarm, Board};
use crate::mesh::{self, Agent, Facts, Word, health};
use crate::status::Status;
use crate::supervise::{Reports, SupervisorHandle};
use crate::upgrade::{Driver, Order};
use crate::version;

/// The main loop must have turned within this, or systemd is not told that we live.
const ALIVE_WITHIN: Duration = Duration::from_secs(30);
const VERSION_PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
const PODMAN_PATIENCE: Duration = Duration::from_secs(10);
const PULSE: Duration = Duration::from_secs(5);
const STATUS_SETTLE: Duration = Duration::from_secs(1);
const STATUS_PERIOD: Duration = Duration::from_secs(30);
const STOP_TIME_MAX: Duration = Duration::from_secs(8);
/// What the coordinator says of an upgrade waits here.
const WORDS_MAX: usize = 4;
/// Ends so: whoever started this agent does not start it again. The units say the same number.
pub const RETIRED: u8 = 44;

/// How an agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to; whoever did so starts it again when it is to run.
    Told,
    /// It is to be started again at once: perhaps as another version.
    Again,
    /// Another one has taken its place.
    Retired,
}

impl Ended {
    /// As whoever started it reads it.
    pub fn code(self) -> ExitCode {
        match self {
            Self::Told | Self::Again => ExitCode::SUCCESS,
            Self::Retired => ExitCode::from(RETIRED),
        }
    }
}

/// Runs until SIGTERM or SIGINT, or until its upgrade ends it.
pub async fn run(config: Config) -> anyhow::Result<Ended> {
    instances::die_with_supervisor()?;
    let _place = lease::occupy(&config.state_dir, config.instance)?;
    state::make_dir(&config.podman.run_dir)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (facts_out, facts) = watch::channel(facts::device(&config.apps_dir, ""));
    let (words, words_in) = mpsc::channel(WORDS_MAX);
    let mut program = Program::new(&config, facts, words, words_in)?;
    let alive = program.alive();
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(Ended::Told),
        _ = interrupt.recv() => Ok(Ended::Told),
        () = async { systemd::keep_watchdog(alive).await; std::future::pending().await } => Ok(Ended::Told),
        never = look(&config, facts_out) => match never {},
        ended = program.live() => ended,
    };
    tracing::info!(?ended, "agent stops; apps run on");
    systemd::stopping();
    if tokio::time::timeout(STOP_TIME_MAX, program.stop()).await.is_err() {
        tracing::warn!("the agent did not stop in good order in time; nothing is lost by that");
    }
    ended
}

/// One agent with all its parts.
struct Program {
    config: Config,
    agent: Agent,
    driver: Driver,
    lease: Lease,
    pulse: Arc<AtomicU64>,
    /// While it acts.
    held: Option<Held>,
    /// While it acts, where Podman's service is its own.
    service: Option<Service>,
}

impl Program {
    fn new(config: &Config, facts: Facts, words: mpsc::Sender<Word>, heard: mpsc::Receiver<Word>) -> anyhow::Result<Self> {
        let mesh = mesh::Config {
            settings: config.settings()?,
            name: config.name.clone().or_else(host_name),
            token_file: config.token_file.clone(),
            facts,
            words,
        };
        let lease = Lease::of(&config.state_dir)?;
        let agent = Agent::ready(mesh)?;
        let driver = Driver::new(config, &agent, heard)?;
        tracing::info!(
            version = version::text(),
            instance = config.instance.name(),
            session = %agent.session(),
            "agent runs"
        );
        let pulse = Arc::new(AtomicU64::new(clock::up_ms()));
        Ok(Self { config: config.clone(), agent, driver, lease, pulse, held: None, service: None })
    }

    /// Is its main loop alive?
    fn alive(&self) -> impl Fn() -> bool + Send + use<> {
        let pulse = self.pulse.clone();
        move || clock::up_ms().saturating_sub(pulse.load(Ordering::Relaxed)) < ms(ALIVE_WITHIN)
    }

    /// Acts whenever it holds the lease, and waits for it otherwise.
    async fn live(&mut self) -> anyhow::Result<Ended> {
        self.held = self.lease.try_take()?;
        loop {
            if self.held.is_none()
                && let Some(ended) = self.wait().await?
            {
                return Ok(ended);
            }
            match self.act().await? {
                Order::LetGo => self.halt().await,
                Order::End(ended) => return Ok(ended),
            }
        }
    }

    /// Is connected and beats until it holds the lease, or is to end. Ready as soon as it would be the next.
    async fn wait(&mut self) -> anyhow::Result<Option<Ended>> {
        let mut waiting = self.lease.wait()?;
        let mut changes = self.agent.changes();
        let ready = async {
            // It cannot fail: the board is our own agent's.
            drop(changes.wait_for(|view| view.connected).await);
            tracing::info!("ready to act as soon as the agent that acts lets go");
            systemd::ready();
            std::future::pending::<Infallible>().await
        };
        let held = async {
            waiting.is_next().await;
            tokio::select! {
                held = waiting.held() => held,
                never = ready => match never {},
            }
        };
        tokio::select! {
            held = held => self.held = Some(held?),
            ended = self.driver.wait(&self.agent) => return Ok(Some(ended)),
            never = keep_pulse(None, &self.pulse) => match never {},
            never = tell(&self.agent, &self.config) => match never {},
        }
        Ok(None)
    }

    /// Supervises, answers and reports until the upgrade says otherwise.
    async fn act(&mut self) -> anyhow::Result<Order> {
        self.service = self.config.starts_podman().then(|| Service::start(self.config.service()));
        let host = PodmanHost::new(Podman::new(self.config.socket()), self.config.places());
        let logs = Logs::start(logs::Places::below(&self.config.apps_dir), self.config.log_budget());
        self.agent.act(Arc::new(host), logs)?;
        systemd::ready();
        let service = self.service.as_ref();
        let (state, mended) = (service.map(Service::state), service.map(Service::mended));
        tokio::select! {
            order = self.driver.act(&self.agent) => Ok(order),
            never = keep_pulse(self.agent.supervisor(), &self.pulse) => match never {},
            never = tell(&self.agent, &self.config) => match never {},
            never = watch_podman(state, self.agent.board()) => match never {},
            never = watch_store(mended, self.agent.board()) => match never {},
        }
    }

    /// Ceases to act, and only then lets the lease go.
    async fn halt(&mut self) {
        self.agent.halt().await;
        if let Some(service) = self.service.take() {
            service.stop().await;
        }
        tracing::info!("this agent acts no more");
        self.held = None;
    }

    async fn stop(self) {
        self.agent.shutdown().await;
        if let Some(service) = self.service {
            service.stop().await;
        }
    }
}

/// Looks at the machine once Podman answers, and then now and then.
async fn look(config: &Config, out: watch::Sender<DeviceFacts>) -> Infallible {
    let podman = Podman::new(config.socket());
    let mut failures = 0;
    let version = loop {
        match podman.version().await {
            Ok(version) => break version,
            Err(err) => {
                tracing::debug!(%err, "Podman does not tell its version yet");
                failures += 1;
                tokio::time::sleep(VERSION_PAUSES.delay(failures)).await;
            }
        }
    };
    loop {
        let (apps, version) = (config.apps_dir.clone(), version.clone());
        match tokio::task::spawn_blocking(move || facts::device(&apps, &version)).await {
            Ok(facts) => {
                out.send_replace(facts);
            }
            Err(err) => tracing::warn!(%err, "the machine could not be looked at"),
        }
        tokio::time::sleep(Duration::from_secs(u64::from(config.report_secs))).await;
    }
}

/// The host name, where it can be a device's name.
fn host_name() -> Option<Name> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    text.trim().split('.').next()?.to_ascii_lowercase().parse().ok()
}

/// Asks the supervisor's own loop something small: only an answer from there says that we are alive. Where nothing is
/// supervised, that we come here says so.
async fn keep_pulse(supervisor: Option<Arc<SupervisorHandle>>, pulse: &AtomicU64) -> Infallible {
    loop {
        // Only an answer counts: a supervisor that has stopped is not alive.
        let alive = match &supervisor {
            Some(supervisor) => supervisor.alive().await.is_ok(),
            None => true,
        };
        if alive {
            pulse.store(clock::up_ms(), Ordering::Relaxed);
        }
        tokio::time::sleep(PULSE).await;
    }
}

/// Says when Podman does not run, once that is more than a moment.
async fn watch_podman(service: Option<watch::Receiver<ServiceState>>, board: Board) -> Infallible {
    let Some(mut state) = service else { return std::future::pending().await };
    loop {
        let down = match &*state.borrow_and_update() {
            ServiceState::Down(why) => Some(why.clone()),
            ServiceState::Starting | ServiceState::Ready | ServiceState::Stopped => None,
        };
        match down {
            Some(why) if board.view().alarms.contains_key(&Alarm::Podman) => board.alarm(Alarm::Podman, why),
            Some(why) => {
                tokio::time::sleep(PODMAN_PATIENCE).await;
                if *state.borrow() != ServiceState::Ready {
                    board.alarm(Alarm::Podman, why);
                }
            }
            None if *state.borrow() == ServiceState::Ready => board.clear(Alarm::Podman),
            None => {}
        }
        if state.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Says when a damaged store was mended; that stays said as long as this agent runs.
async fn watch_store(service: Option<watch::Receiver<Option<String>>>, board: Board) -> Infallible {
    let Some(mut mended) = service else { return std::future::pending().await };
    loop {
        if let Some(done) = mended.borrow_and_update().clone() {
            board.alarm(Alarm::Store, done);
        }
        if mended.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Keeps the status file true.
async fn tell(agent: &Agent, config: &Config) -> Infallible {
    let path = config.status_file();
    let mut changes = agent.changes();
    let mut reports = agent.supervisor().map(|supervisor| supervisor.reports());
    loop {
        if let Err(err) = status(agent, config).write(&path) {
            tracing::warn!(path = %path.display(), %err, "the status file cannot be written");
        }
        tokio::time::sleep(STATUS_SETTLE).await;
        tokio::select! {
            _ = changes.changed() => {}
            () = changed(&mut reports) => {}
            () = tokio::time::sleep(STATUS_PERIOD) => {}
        }
    }
}

async fn changed(reports: &mut Option<Reports>) {
    let open = match reports {
        Some(reports) => reports.changed().await.is_ok(),
        None => false,
    };
    if !open {
        std::future::pending::<()>().await;
    }
}

fn status(agent: &Agent, config: &Config) -> Status {
    let view = agent.view();
    let supervisor = agent.supervisor();
    let apps = supervisor.as_ref().map(|supervisor| supervisor.reports().borrow().clone()).unwrap_or_default();
    let alarms = supervisor.as_ref().map(|supervisor| supervisor.alarms().borrow().clone()).unwrap_or_default();
    Status {
        pid: std::process::id(),
        version: version::text().into(),
        instance: config.instance,
        acts: supervisor.is_some(),
        device: agent.device().borrow().as_ref().map(ToString::to_string),
        session: agent.session().to_string(),
        health: health::judge(view.desired.as_deref(), &apps, &view.clock),
        generation: view.desired.as_ref().map_or(0, |document| document.generation.0),
        apps: apps.to_vec(),
        alarms: view.alarms.values().chain(alarms.iter()).cloned().collect(),
        refused: view.refused.last().map_or(0, |refusal| refusal.number),
        link: view.link,
        clock: view.clock,
        program: view.program,
        up_ms: clock::up_ms(),
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
