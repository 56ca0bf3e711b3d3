//! `bramble-agent run`: one agent on one device, from start to the signal that ends it. Apps outlive it.
//!
//! Decides in which order parts start, and what "alive" means to systemd. Decides nothing about apps, messages or upgrades:
//! whether this agent acts is the lease's word, when it lets the lease go or ends is the upgrade's.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bramble_contracts::v1::{DeviceFacts, Instance};
use bramble_contracts::{DeviceId, Name, SessionId};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::core::backoff::Backoff;
use crate::core::upgrade::ExitCode;
use crate::host::device::PodmanHost;
use crate::host::instances;
use crate::host::lease;
use crate::host::logs::{self, Logs};
use crate::host::podman::Podman;
use crate::host::podman::service::{Service, ServiceState};
use crate::host::podman::told::{self, Told};
use crate::host::{clock, facts, state, systemd};
use crate::mesh::board::{Alarm, Board, View};
use crate::mesh::{self, Agent, Facts, OnDuty, Question, StartError, Word, health};
use crate::os::{self, Between};
use crate::status::Status;
use crate::supervise::SupervisorHandle;
use crate::upgrade::{self, Driver};
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
/// Plans that are asked for at once.
const QUESTIONS_MAX: usize = 4;

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
    pub fn code(self) -> process::ExitCode {
        match self {
            Self::Told => process::ExitCode::SUCCESS,
            Self::Again => process::ExitCode::from(ExitCode::Restart.code()),
            Self::Retired => process::ExitCode::from(ExitCode::Retire.code()),
        }
    }
}

/// Runs until SIGTERM or SIGINT, or until its upgrade ends it.
pub async fn run(config: &Config) -> anyhow::Result<Ended> {
    instances::die_with_supervisor()?;
    let _place = lease::occupy(&config.state_dir, config.instance)?;
    state::make_dir(&config.podman.run_dir)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (facts_out, facts) = watch::channel(facts::device(&config.apps_dir, ""));
    let (words, words_in) = mpsc::channel(WORDS_MAX);
    let (questions, questions_in) = mpsc::channel(QUESTIONS_MAX);
    let agent = Agent::ready(mesh_config(config, facts, words, questions)?)?;
    let between = Between::new(upgrade::stored(&config.state_dir), os::stored(&config.state_dir));
    let mut driver = Driver::new(config, &agent, words_in, between.clone())?;
    let os = os::Driver::new(config, agent.board(), agent.on_duty(), between, questions_in);
    tracing::info!(
        version = version::text(),
        instance = config.instance.name(),
        session = %agent.session(),
        "agent runs"
    );
    let pulse = Arc::new(AtomicU64::new(clock::up_ms()));
    let alive = {
        let pulse = pulse.clone();
        move || clock::up_ms().saturating_sub(pulse.load(Ordering::Relaxed)) < ms(ALIVE_WITHIN)
    };
    let (teller, on_duty) = (Teller::of(config, &agent), agent.on_duty());
    let board = agent.board();
    let (tell, told) = watch::channel(Told::default());
    let tell = hear_others(config, tell);
    let mut acting = Acting { config: config.clone(), agent, podman: None, tell };
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(Ended::Told),
        _ = interrupt.recv() => Ok(Ended::Told),
        ended = driver.run(&mut acting) => ended,
        never = keep_pulse(on_duty, &pulse) => match never {},
        never = os.run() => match never {},
        never = teller.tell() => match never {},
        never = look(config, facts_out) => match never {},
        never = watch_podman(told, &board) => match never {},
        () = async { systemd::keep_watchdog(alive).await; std::future::pending().await } => Ok(Ended::Told),
    };
    tracing::info!(?ended, "agent stops; apps run on");
    systemd::stopping();
    if tokio::time::timeout(STOP_TIME_MAX, acting.stop()).await.is_err() {
        tracing::warn!("the agent did not stop in good order in time; nothing is lost by that");
    }
    ended
}

fn mesh_config(
    config: &Config,
    facts: Facts,
    words: mpsc::Sender<Word>,
    questions: mpsc::Sender<Question>,
) -> anyhow::Result<mesh::Config> {
    Ok(mesh::Config {
        settings: config.settings()?,
        name: config.name.clone().or_else(host_name),
        token_file: config.token_file.clone(),
        facts,
        words,
        questions,
    })
}

/// The agent, and what it needs to act.
pub(crate) struct Acting {
    config: Config,
    agent: Agent,
    /// Podman's service, once this agent acts and where it is its own.
    podman: Option<Service>,
    /// Where that service tells how it does, until it is started.
    tell: Option<watch::Sender<Told>>,
}

impl Acting {
    pub(crate) fn on_duty(&self) -> OnDuty {
        self.agent.on_duty()
    }

    /// What it supervises with, while it acts.
    pub(crate) fn supervisor(&self) -> Option<Arc<SupervisorHandle>> {
        self.agent.supervisor()
    }

    /// Supervises apps, answers commands and reports from now on.
    pub(crate) fn act(&mut self) -> Result<(), StartError> {
        if let Some(tell) = self.tell.take() {
            self.podman = Some(Service::start_telling(self.config.service(), tell));
        }
        let host = PodmanHost::new(Podman::new(self.config.socket()), self.config.places());
        let logs = Logs::start(logs::Places::below(&self.config.apps_dir), self.config.log_budget());
        self.agent.act(Arc::new(host), logs)
    }

    /// Ceases to, in good order, by and by.
    pub(crate) fn halt(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.agent.halt()
    }

    async fn stop(self) {
        self.agent.shutdown().await;
        if let Some(service) = self.podman {
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
async fn keep_pulse(on_duty: OnDuty, pulse: &AtomicU64) -> Infallible {
    loop {
        // Only an answer counts: a supervisor that has stopped is not alive.
        let alive = match on_duty.duty() {
            Some(duty) => duty.supervisor.alive().await.is_ok(),
            None => true,
        };
        if alive {
            pulse.store(clock::up_ms(), Ordering::Relaxed);
        }
        tokio::time::sleep(PULSE).await;
    }
}

/// Where somebody else runs Podman's service, it is heard how that does; where we do, `tell` is given back for it.
fn hear_others(config: &Config, tell: watch::Sender<Told>) -> Option<watch::Sender<Told>> {
    if config.starts_podman() {
        return Some(tell);
    }
    let run_dir = config.podman.run_dir.clone();
    tokio::spawn(async move { told::follow(&run_dir, tell).await });
    None
}

/// Says when Podman does not run, once that is more than a moment, and when a damaged store was mended: that stays said.
async fn watch_podman(mut told: watch::Receiver<Told>, board: &Board) -> Infallible {
    loop {
        let Told { state, mended } = told.borrow_and_update().clone();
        if let Some(done) = mended {
            board.alarm(Alarm::Store, done);
        }
        match state {
            ServiceState::Down(why) if board.view().alarms.contains_key(&Alarm::Podman) => {
                board.alarm(Alarm::Podman, why);
            }
            ServiceState::Down(why) => {
                tokio::time::sleep(PODMAN_PATIENCE).await;
                if told.borrow().state != ServiceState::Ready {
                    board.alarm(Alarm::Podman, why);
                }
            }
            ServiceState::Ready => board.clear(Alarm::Podman),
            ServiceState::Starting | ServiceState::Stopped => {}
        }
        if told.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Keeps the status file true.
struct Teller {
    path: PathBuf,
    instance: Instance,
    session: SessionId,
    device: watch::Receiver<Option<DeviceId>>,
    view: watch::Receiver<View>,
    on_duty: OnDuty,
}

impl Teller {
    fn of(config: &Config, agent: &Agent) -> Self {
        Self {
            path: config.status_file(),
            instance: config.instance,
            session: agent.session(),
            device: agent.device(),
            view: agent.changes(),
            on_duty: agent.on_duty(),
        }
    }

    async fn tell(mut self) -> Infallible {
        loop {
            if let Err(err) = self.status().write(&self.path) {
                tracing::warn!(path = %self.path.display(), %err, "the status file cannot be written");
            }
            tokio::time::sleep(STATUS_SETTLE).await;
            let mut reports = self.on_duty.duty().map(|duty| duty.supervisor.reports());
            let news = async {
                let open = match &mut reports {
                    Some(reports) => reports.changed().await.is_ok(),
                    None => false,
                };
                if !open {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                // The board is our own agent's: it does not go.
                _ = self.view.changed() => {}
                () = self.on_duty.changed() => {}
                () = news => {}
                () = tokio::time::sleep(STATUS_PERIOD) => {}
            }
        }
    }

    fn status(&self) -> Status {
        let view = self.view.borrow().clone();
        let duty = self.on_duty.duty();
        let supervisor = duty.as_ref().map(|duty| &duty.supervisor);
        let apps = supervisor.map(|supervisor| supervisor.reports().borrow().clone()).unwrap_or_default();
        let alarms = supervisor.map(|supervisor| supervisor.alarms().borrow().clone()).unwrap_or_default();
        Status {
            pid: process::id(),
            version: version::text().into(),
            instance: self.instance,
            acts: duty.is_some(),
            device: self.device.borrow().as_ref().map(ToString::to_string),
            session: self.session.to_string(),
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
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
