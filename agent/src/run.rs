//! `bramble-agent run`: one agent on one device, from start to the signal that ends it. Apps outlive it.
//!
//! Decides in which order parts start, and what "alive" means to systemd. Decides nothing about apps or messages.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bramble_contracts::Name;
use bramble_contracts::v1::DeviceFacts;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::Config;
use crate::core::backoff::Backoff;
use crate::host::device::PodmanHost;
use crate::host::logs::{self, Logs};
use crate::host::podman::Podman;
use crate::host::podman::service::{Service, ServiceState};
use crate::host::{clock, facts, state, systemd};
use crate::mesh::board::{Alarm, Board};
use crate::mesh::{self, Agent, Facts, health};
use crate::status::Status;
use crate::supervise::SupervisorHandle;

/// The main loop must have turned within this, or systemd is not told that we live.
const ALIVE_WITHIN: Duration = Duration::from_secs(30);
const LOCK: &str = "acting.lock";
const VERSION_PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
const PODMAN_PATIENCE: Duration = Duration::from_secs(10);
const PULSE: Duration = Duration::from_secs(5);
const STATUS_SETTLE: Duration = Duration::from_secs(1);
const STATUS_PERIOD: Duration = Duration::from_secs(30);
const STOP_TIME_MAX: Duration = Duration::from_secs(8);

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let _acting = lock(&config)?;
    state::make_dir(&config.podman.run_dir)?;
    let service = match &config.podman.socket {
        Some(_) => None,
        None => Some(Service::start(config.service())),
    };
    let host = PodmanHost::new(Podman::new(config.socket()), config.places());
    let (facts_out, facts) = watch::channel(facts::device(&config.apps_dir, ""));
    let agent = Agent::start(mesh_config(&config, facts)?, Arc::new(host))?;
    systemd::ready();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), session = %agent.session(), "agent runs");
    let pulse = Arc::new(AtomicU64::new(up_ms()));
    let alive = {
        let pulse = pulse.clone();
        move || up_ms().saturating_sub(pulse.load(Ordering::Relaxed)) < ms(ALIVE_WITHIN)
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = keep_pulse(agent.shared_supervisor(), &pulse) => {}
        () = async { systemd::keep_watchdog(alive).await; std::future::pending().await } => {}
        () = tell(&agent, &config) => {}
        () = look(&config, facts_out) => {}
        () = watch_podman(service.as_ref().map(Service::state), agent.board()) => {}
        () = watch_store(service.as_ref().map(Service::mended), agent.board()) => {}
    }
    tracing::info!("agent stops; apps run on");
    systemd::stopping();
    let stop = async {
        agent.shutdown().await;
        if let Some(service) = service {
            service.stop().await;
        }
    };
    if tokio::time::timeout(STOP_TIME_MAX, stop).await.is_err() {
        tracing::warn!("the agent did not stop in good order in time; nothing is lost by that");
    }
    Ok(())
}

fn mesh_config(config: &Config, facts: Facts) -> anyhow::Result<mesh::Config> {
    Ok(mesh::Config {
        settings: config.settings()?,
        name: config.name.clone().or_else(host_name),
        token_file: config.token_file.clone(),
        facts,
        logs: Logs::start(logs::Places::below(&config.apps_dir), config.log_budget()),
    })
}

/// Looks at the machine once Podman answers, and then now and then.
async fn look(config: &Config, out: watch::Sender<DeviceFacts>) {
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

/// Does an agent act on this state now?
pub fn is_running(config: &Config) -> bool {
    let Ok(file) = File::open(config.state_dir.join(LOCK)) else { return false };
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

/// Two agents never act on one state: the second one ends with an error.
fn lock(config: &Config) -> anyhow::Result<Flock<File>> {
    state::make_dir(&config.state_dir)?;
    let path: PathBuf = config.state_dir.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, err)| {
        anyhow::anyhow!("{} is held ({err}): another agent acts on this state; stop it first", path.display())
    })
}

/// Asks the supervisor's own loop something small: only an answer from there says that we are alive.
async fn keep_pulse(supervisor: Arc<SupervisorHandle>, pulse: &AtomicU64) {
    loop {
        // Only an answer counts: a supervisor that has stopped is not alive.
        if supervisor.alive().await.is_ok() {
            pulse.store(up_ms(), Ordering::Relaxed);
        }
        tokio::time::sleep(PULSE).await;
    }
}

/// Says when Podman does not run, once that is more than a moment.
async fn watch_podman(service: Option<watch::Receiver<ServiceState>>, board: Board) {
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
async fn watch_store(service: Option<watch::Receiver<Option<String>>>, board: Board) {
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
async fn tell(agent: &Agent, config: &Config) {
    let path = config.status_file();
    let mut changes = agent.changes();
    let mut reports = agent.supervisor().reports();
    loop {
        if let Err(err) = status(agent).write(&path) {
            tracing::warn!(path = %path.display(), %err, "the status file cannot be written");
        }
        tokio::time::sleep(STATUS_SETTLE).await;
        tokio::select! {
            _ = changes.changed() => {}
            _ = reports.changed() => {}
            () = tokio::time::sleep(STATUS_PERIOD) => {}
        }
    }
}

fn status(agent: &Agent) -> Status {
    let view = agent.view();
    let apps = agent.supervisor().reports().borrow().clone();
    let alarms = agent.supervisor().alarms().borrow().clone();
    Status {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
        device: agent.device().borrow().as_ref().map(ToString::to_string),
        session: agent.session().to_string(),
        health: health::judge(view.desired.as_deref(), &apps, &view.clock),
        generation: view.desired.as_ref().map_or(0, |document| document.generation.0),
        apps: apps.to_vec(),
        alarms: view.alarms.values().chain(alarms.iter()).cloned().collect(),
        refused: view.refused.last().map_or(0, |refusal| refusal.number),
        link: view.link,
        clock: view.clock,
        up_ms: up_ms(),
    }
}

fn up_ms() -> u64 {
    ms(clock::uptime())
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
