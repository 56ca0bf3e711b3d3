//! What containers print, on disk and read from there: conmon writes the files itself, also while no agent runs.
//!
//! Decides how much is kept, and gives readers windows of it. One task keeps the files in order; readers read by
//! themselves, so a slow one keeps nobody waiting and costs no memory. Does not send anything anywhere.

mod dropped;
mod entry;
mod files;
mod keeper;
mod span;
mod track;
mod window;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::stamp::Stamp;
use bramble_contracts::v1::{LogPart, LogSpan, LogWindow};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use super::clock;
use crate::core::app::AppKey;
use keeper::{Change, Keeper};
use track::Ledger;

pub(in crate::host) use files::reserve;
pub use window::Window;

const ASKS_MAX: usize = 64;
const HOUR: Duration = Duration::from_secs(3600);
/// While lines pour in, readers are told of them so often at most.
const BREATH: Duration = Duration::from_millis(2);
const SEGMENT_MIN: u64 = 64 << 10;
const SEGMENT_MAX: u64 = 4 << 20;

/// Where things lie.
#[derive(Debug, Clone)]
pub struct Places {
    /// The logs.
    pub root: PathBuf,
    /// Records of apps: an app without one is gone.
    pub records: PathBuf,
}

impl Places {
    /// The usual places below the agent's directory for apps.
    pub fn below(apps: &Path) -> Self {
        Self { root: apps.join("logs"), records: apps.join("records") }
    }

    fn is_known(&self, key: &AppKey) -> bool {
        super::records::exists(&self.records, key)
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of one container's log.
    pub container: u64,
    /// Bytes of all logs. What conmon is writing is kept in any case.
    pub total: u64,
    /// Hours for which a deleted app's logs are kept while the agent runs.
    pub deleted_hours: u32,
}

impl Default for Budget {
    /// Small enough for an SD card.
    fn default() -> Self {
        Self { container: 10 << 20, total: 200 << 20, deleted_hours: 7 * 24 }
    }
}

impl Budget {
    /// Bytes after which conmon begins a new file.
    pub fn segment(&self) -> u64 {
        (self.container / 6).clamp(SEGMENT_MIN, SEGMENT_MAX)
    }
}

/// Logs that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Nothing is there.
    #[error("no container of it has a log here")]
    NoLogs,
    /// Not of this app.
    #[error("it has no log of a container {name} here; it has {known}")]
    NoSuchContainer {
        /// What was asked for.
        name: Name,
        /// What there is.
        known: String,
    },
    /// There was only one.
    #[error(
        "no container of it was made anew here, or the logs of the one before have been dropped: there is no previous one"
    )]
    NoPrevious,
    /// The disk.
    #[error("cannot read the log in {}: {err}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// The system's word.
        err: io::Error,
    },
    /// The kernel gives no inotify.
    #[error(
        "logs cannot be followed on this device: {0}; fs.inotify.max_user_instances and max_user_watches may be too low"
    )]
    NoWatch(String),
    /// The agent ends.
    #[error("the agent is stopping; try again in a moment")]
    Stopped,
}

impl LogError {
    /// A follower waits for what is not there yet.
    fn none_yet<T>(self) -> Result<Vec<T>, Self> {
        match self {
            Self::NoLogs | Self::NoSuchContainer { .. } => Ok(Vec::new()),
            Self::NoPrevious | Self::Read { .. } | Self::NoWatch(_) | Self::Stopped => Err(self),
        }
    }
}

/// A question to the keeper.
#[derive(Debug)]
enum Ask {
    Look(AppKey, oneshot::Sender<()>),
    Follow(AppKey, oneshot::Sender<watch::Receiver<u64>>),
}

/// The way to the logs of this device.
#[derive(Debug, Clone)]
pub struct Logs {
    places: Places,
    ledger: Ledger,
    asks: Result<mpsc::Sender<Ask>, String>,
}

impl Logs {
    /// Begins to keep them. Where the kernel does not let us, they can be read and not followed.
    pub fn start(places: Places, budget: Budget) -> Self {
        let ledger = Ledger::default();
        let asks = match Keeper::new(places.clone(), budget, ledger.clone()).and_then(Kept::new) {
            Ok(kept) => {
                let (asks, asks_in) = mpsc::channel(ASKS_MAX);
                tokio::spawn(keep(kept, asks_in));
                Ok(asks)
            }
            Err(err) => {
                tracing::error!(%err, "logs are not kept: only the newest file of each container is there");
                Err(err.to_string())
            }
        };
        Self { places, ledger, asks }
    }

    /// Reads what is there and keeps nothing: for devices without containers.
    pub fn unkept(places: Places) -> Self {
        Self { places, ledger: Ledger::default(), asks: Err("logs are not kept here".into()) }
    }

    /// Opens a window; the first part says where it begins and ends. Reading waits for the disk.
    pub async fn open(&self, ask: LogWindow) -> Result<(Window, LogPart), LogError> {
        let key = AppKey { tenant: ask.tenant.clone(), name: ask.deployment.clone() };
        // Whoever goes on at a place has begun at one.
        if let (Ok(asks), LogSpan::Wish(_)) = (&self.asks, &ask.span) {
            let (reply, looked) = oneshot::channel();
            asks.send(Ask::Look(key.clone(), reply)).await.map_err(|_| LogError::Stopped)?;
            looked.await.map_err(|_| LogError::Stopped)?;
        }
        let (app, ledger) = (files::app_dir(&self.places.root, &key), self.ledger.clone());
        let now = Stamp(clock::wall_ms().saturating_mul(1_000_000));
        blocking(move || Window::open(app, ledger, ask, now)).await
    }

    /// What a window holds now; no parts when there is nothing more for now.
    pub async fn batch(&self, mut window: Window) -> Result<(Window, Vec<LogPart>), LogError> {
        blocking(move || {
            let parts = window.batch()?;
            Ok((window, parts))
        })
        .await
    }

    /// Changes whenever there may be more of this app.
    pub async fn follow(&self, key: AppKey) -> Result<watch::Receiver<u64>, LogError> {
        let asks = self.asks.as_ref().map_err(|why| LogError::NoWatch(why.clone()))?;
        let (reply, ticks) = oneshot::channel();
        asks.send(Ask::Follow(key, reply)).await.map_err(|_| LogError::Stopped)?;
        ticks.await.map_err(|_| LogError::Stopped)
    }

    /// Is the app on this device?
    pub async fn is_known(&self, key: AppKey) -> bool {
        let places = self.places.clone();
        tokio::task::spawn_blocking(move || places.is_known(&key)).await.unwrap_or(true)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(LogError::Stopped))
}

/// The keeper, and a descriptor of its inotify in tokio's hands.
struct Kept {
    fd: AsyncFd<OwnedFd>,
    /// Absent while it works elsewhere.
    keeper: Option<Keeper>,
}

impl Kept {
    fn new(keeper: Keeper) -> io::Result<Self> {
        #[allow(deprecated, reason = "sound for a descriptor that is owned; what replaces it is unsafe to call")]
        let fd = AsyncFd::new(keeper.inotify().as_fd().try_clone_to_owned()?)?;
        Ok(Self { fd, keeper: Some(keeper) })
    }

    /// Lets the keeper work where waiting for the disk hurts nobody. `None` when that broke off.
    async fn work<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Keeper) -> T + Send + 'static) -> Option<T> {
        let mut keeper = self.keeper.take()?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut keeper);
            (keeper, done)
        });
        let (keeper, done) = done.await.ok()?;
        self.keeper = Some(keeper);
        Some(done)
    }
}

async fn keep(mut kept: Kept, mut asks: mpsc::Receiver<Ask>) {
    // Not at once: an agent that restarts often would count hours that were minutes.
    let mut hour = tokio::time::interval_at(tokio::time::Instant::now() + HOUR, HOUR);
    loop {
        let is_due = kept.keeper.as_ref().is_some_and(Keeper::is_due);
        let alive = tokio::select! {
            // Any that is ready, in turn: neither readers nor a container that floods keep the other waiting.
            ask = asks.recv() => match ask {
                None => return,
                Some(Ask::Look(key, reply)) => {
                    kept.work(move |keeper| {
                        keeper.look(&key);
                        answer(reply, ());
                    })
                    .await
                }
                Some(Ask::Follow(key, reply)) => kept.work(move |keeper| answer(reply, keeper.follow(&key))).await,
            },
            _ = hour.tick() => kept.work(Keeper::hour).await,
            () = std::future::ready(()), if is_due => kept.work(Keeper::heard).await.map(|_| ()),
            ready = kept.fd.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                let change = kept.work(Keeper::heard).await;
                if change == Some(Change::Lines) {
                    tokio::time::sleep(BREATH).await;
                }
                change.map(|_| ())
            }
        };
        if alive.is_none() {
            return tracing::error!(
                "keeping logs broke off; they can be read and not followed until the agent is restarted"
            );
        }
    }
}

fn answer<T>(reply: oneshot::Sender<T>, with: T) {
    if reply.send(with).is_err() {
        tracing::debug!("whoever asked for logs has left");
    }
}
