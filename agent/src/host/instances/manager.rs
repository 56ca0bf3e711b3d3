//! Who starts and ends instances of the agent: systemd, or `bramble-agent supervise`. One set of words for both.
//!
//! Decides how each is asked, and within which time. An agent that neither of them started cannot have a second one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_contracts::v1::Instance;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::host::cmd::{self, Bounds};

/// Under `bramble-agent supervise` this says where it listens.
pub const SUPERVISOR: &str = "BRAMBLE_SUPERVISOR";
/// Its process.
pub const SUPERVISOR_PID: &str = "BRAMBLE_SUPERVISOR_PID";
/// Whatever takes longer is given up; starting has a limit of its own, by whoever asks.
const TIME_MAX: Duration = Duration::from_secs(40);
const ANSWER_MAX: u64 = 4096;

/// Whoever starts instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manager {
    /// The units `bramble-agent@a.service` and `bramble-agent@b.service`.
    Systemd,
    /// `bramble-agent supervise`, at this socket.
    Plain(PathBuf),
}

/// Why it did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManagerError {
    /// It cannot be asked.
    #[error("whoever starts the agents of this device cannot be asked: {0}")]
    Unreachable(String),
    /// It tried, and it came to nothing.
    #[error("agent {} could not be {what}: {why}", instance.name())]
    Failed {
        /// Which.
        instance: Instance,
        /// Started, stopped, …
        what: &'static str,
        /// In words.
        why: String,
    },
}

/// What it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Begin,
    Ready,
    Stop,
    Enable,
    Running,
}

/// Did `bramble-agent supervise` start this agent?
pub fn is_supervised() -> bool {
    std::env::var_os(SUPERVISOR).is_some()
}

/// An agent of `bramble-agent supervise` dies with it, however that dies: the next one starts it anew.
pub fn die_with_supervisor() -> std::io::Result<()> {
    let Ok(parent) = std::env::var(SUPERVISOR_PID) else { return Ok(()) };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // It may have died before we asked.
    let alive = nix::unistd::getppid().to_string() == parent;
    alive.then_some(()).ok_or_else(|| std::io::Error::other("the supervisor that started this agent is gone"))
}

impl Manager {
    /// Whoever started this very agent; `None` when it was neither.
    pub fn of_this_agent() -> Option<Self> {
        if let Some(socket) = std::env::var_os(SUPERVISOR) {
            return Some(Self::Plain(socket.into()));
        }
        let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        group.contains("/bramble-agent@").then_some(Self::Systemd)
    }

    /// Has an instance started, and does not wait until it is. One that runs is left alone.
    pub async fn begin(&self, instance: Instance) -> Result<(), ManagerError> {
        self.ask(Ask::Begin, instance).await.map(drop)
    }

    /// Waits until an instance says that it is ready, however long it takes; starts it where it does not run.
    pub async fn ready(&self, instance: Instance) -> Result<(), ManagerError> {
        self.ask(Ask::Ready, instance).await.map(drop)
    }

    /// Ends an instance, whatever it does, and waits for its end.
    pub async fn stop(&self, instance: Instance) -> Result<(), ManagerError> {
        self.ask(Ask::Stop, instance).await.map(drop)
    }

    /// From the next boot on this instance is started, and the other one is not.
    pub async fn enable(&self, instance: Instance) -> Result<(), ManagerError> {
        self.ask(Ask::Enable, instance).await.map(drop)
    }

    /// Does it run?
    pub async fn is_running(&self, instance: Instance) -> Result<bool, ManagerError> {
        Ok(self.ask(Ask::Running, instance).await? == Said::Yes)
    }

    async fn ask(&self, ask: Ask, instance: Instance) -> Result<Said, ManagerError> {
        let answer = async {
            match self {
                Self::Systemd => systemd(ask, instance).await,
                Self::Plain(socket) => plain(socket, ask, instance).await,
            }
        };
        match ask {
            Ask::Ready => answer.await,
            Ask::Begin | Ask::Stop | Ask::Enable | Ask::Running => match tokio::time::timeout(TIME_MAX, answer).await {
                Ok(said) => said,
                Err(_) => Err(ManagerError::Unreachable(format!("no answer within {} s", TIME_MAX.as_secs()))),
            },
        }
    }
}

/// An answer that is no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Yes,
    No,
}

fn failed(ask: Ask, instance: Instance, why: impl Into<String>) -> ManagerError {
    let what = match ask {
        Ask::Begin | Ask::Ready => "started",
        Ask::Stop => "stopped",
        Ask::Enable => "enabled",
        Ask::Running => "looked at",
    };
    ManagerError::Failed { instance, what, why: why.into() }
}

async fn systemd(ask: Ask, instance: Instance) -> Result<Said, ManagerError> {
    let unit = |instance: Instance| format!("bramble-agent@{}.service", instance.name());
    let (this, that) = (unit(instance), unit(instance.other()));
    let said = match ask {
        Ask::Begin => systemctl(&["start", "--no-block", &this]).await?,
        // It joins the start that is under way.
        Ask::Ready => systemctl(&["start", &this]).await?,
        Ask::Stop => systemctl(&["stop", &this]).await?,
        Ask::Enable => {
            let states = systemctl(&["is-enabled", &this, &that]).await?.stdout;
            if states.lines().eq(["enabled", "disabled"]) {
                return Ok(Said::Yes);
            }
            // First the one: a power cut between the two leaves both, and the lease keeps them apart.
            let enabled = systemctl(&["enable", &this]).await?;
            if enabled.status.success() { systemctl(&["disable", &that]).await? } else { enabled }
        }
        Ask::Running => {
            let active = systemctl(&["is-active", &this]).await?;
            let runs = ["active", "activating", "deactivating", "reloading"].contains(&active.stdout.trim());
            return Ok(if runs { Said::Yes } else { Said::No });
        }
    };
    if said.status.success() {
        return Ok(Said::Yes);
    }
    Err(failed(ask, instance, said.stderr.lines().next().unwrap_or("systemctl says nothing")))
}

async fn systemctl(words: &[&str]) -> Result<cmd::Finished, ManagerError> {
    // Starting is bounded by the unit's own limit.
    let bounds = Bounds { time: Duration::from_secs(180), ..Bounds::default() };
    let done = cmd::run(Path::new("systemctl"), words, bounds).await;
    done.map_err(|err| ManagerError::Unreachable(err.to_string()))
}

async fn plain(socket: &Path, ask: Ask, instance: Instance) -> Result<Said, ManagerError> {
    let lost = |err: std::io::Error| ManagerError::Unreachable(format!("{}: {err}", socket.display()));
    let word = match ask {
        Ask::Begin => "begin",
        Ask::Ready => "ready",
        Ask::Stop => "stop",
        Ask::Enable => "enable",
        Ask::Running => "running",
    };
    let mut stream = UnixStream::connect(socket).await.map_err(lost)?;
    stream.write_all(format!("{word} {}\n", instance.name()).as_bytes()).await.map_err(lost)?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).await.map_err(lost)?;
    match answer.trim_end().split_once(' ').unwrap_or((answer.trim_end(), "")) {
        ("ok" | "yes", _) => Ok(Said::Yes),
        ("no", _) => Ok(Said::No),
        ("failed", why) => Err(failed(ask, instance, why)),
        _ => Err(ManagerError::Unreachable(format!("its answer is {answer:?}"))),
    }
}
