//! Who acts: one agent at a time holds the acting lease, a lock that the kernel frees when its holder dies, however it dies.
//!
//! Decides that waiting agents come in turn: whoever lets the lease go stands behind those that wait already. A second
//! agent of the same instance is refused. Does not decide when it is let go.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_contracts::v1::Instance;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::oneshot;

use super::state::{self, StateError};

const ACTING: &str = "acting.lock";
/// Held by whoever is the next to act, while it waits.
const NEXT: &str = "next.lock";
const LOOKS_MAX: u32 = 20;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// No folder for it.
    #[error(transparent)]
    State(#[from] StateError),
    /// A lock cannot be asked for.
    #[error("cannot lock {}; check that the disk is not full or read-only", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        #[source]
        err: io::Error,
    },
    /// It runs already.
    #[error("{} is held: agent {} of this device runs already; stop it first", path.display(), instance.name())]
    Twice {
        /// The file.
        path: PathBuf,
        /// Which.
        instance: Instance,
    },
    /// The thread that waited is gone.
    #[error("waiting for {} broke off", path.display())]
    BrokeOff {
        /// The file.
        path: PathBuf,
    },
}

/// The lease of one state folder.
#[derive(Debug, Clone)]
pub struct Lease {
    acting: PathBuf,
    next: PathBuf,
}

/// The right to act. Dropping it lets the lease go.
#[derive(Debug)]
pub struct Held {
    _acting: Flock<File>,
}

/// An agent's place among the instances of its device, for as long as it runs.
#[derive(Debug)]
pub struct Place {
    _lock: Flock<File>,
}

/// A wait for the lease. Dropping it gives up.
#[derive(Debug)]
pub struct Waiting {
    queued: Option<oneshot::Receiver<()>>,
    held: oneshot::Receiver<Result<Held, LeaseError>>,
    path: PathBuf,
}

/// When the end of an agent was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It did not run when it was asked for.
    Before,
    /// Just now.
    Now,
}

/// Keeps a second agent of the same instance away.
pub fn occupy(state_dir: &Path, instance: Instance) -> Result<Place, LeaseError> {
    state::make_dir(state_dir)?;
    let path = place(state_dir, instance);
    for _ in 0..LOOKS_MAX {
        if let Some(lock) = lock(&path, FlockArg::LockExclusiveNonblock)? {
            return Ok(Place { _lock: lock });
        }
        // Perhaps somebody just looks whether it is taken.
        std::thread::sleep(LOOK_PAUSE);
    }
    Err(LeaseError::Twice { path, instance })
}

/// Waits for the end of an instance, in a thread of its own.
pub async fn gone(state_dir: &Path, instance: Instance) -> Result<Gone, LeaseError> {
    let (path, broken) = (place(state_dir, instance), place(state_dir, instance));
    let (out, gone) = oneshot::channel();
    let thread = std::thread::Builder::new().name("other".into()).stack_size(64 << 10);
    let spawned = thread.spawn(move || {
        let before = lock(&path, FlockArg::LockSharedNonblock).map(|lock| lock.map(|_| Gone::Before));
        let gone = match before {
            Ok(None) => lock(&path, FlockArg::LockShared).map(|_| Gone::Now),
            Ok(Some(before)) => Ok(before),
            Err(err) => Err(err),
        };
        // That nobody listens any more is no matter.
        drop(out.send(gone));
    });
    spawned.map_err(|err| LeaseError::Io { path: broken.clone(), err })?;
    gone.await.unwrap_or(Err(LeaseError::BrokeOff { path: broken }))
}

fn place(state_dir: &Path, instance: Instance) -> PathBuf {
    state_dir.join(format!("agent-{}.lock", instance.name()))
}

/// Does an agent act on this state now?
pub fn is_held(state_dir: &Path) -> bool {
    let Ok(file) = File::open(state_dir.join(ACTING)) else { return false };
    Flock::lock(file, FlockArg::LockSharedNonblock).is_err()
}

impl Lease {
    /// Of the state in this folder.
    pub fn of(state_dir: &Path) -> Result<Self, LeaseError> {
        state::make_dir(state_dir)?;
        Ok(Self { acting: state_dir.join(ACTING), next: state_dir.join(NEXT) })
    }

    /// Takes it, if nobody holds it or waits for it.
    pub fn try_take(&self) -> Result<Option<Held>, LeaseError> {
        let Some(_turn) = lock(&self.next, FlockArg::LockExclusiveNonblock)? else { return Ok(None) };
        let acting = lock(&self.acting, FlockArg::LockExclusiveNonblock)?;
        Ok(acting.map(|acting| Held { _acting: acting }))
    }

    /// Waits for it in a thread of its own: a lock cannot be waited for otherwise. One that is given up ends when it would
    /// have got the lease, and lets it go at once.
    pub fn wait(&self) -> Result<Waiting, LeaseError> {
        let (queued_out, queued) = oneshot::channel();
        let (held_out, held) = oneshot::channel();
        let this = self.clone();
        let thread = std::thread::Builder::new().name("lease".into()).stack_size(64 << 10);
        let spawned = thread.spawn(move || {
            // That nobody listens any more is seen by what is dropped here.
            drop(held_out.send(this.wait_in_turn(queued_out)));
        });
        spawned.map_err(|err| LeaseError::Io { path: self.acting.clone(), err })?;
        Ok(Waiting { queued: Some(queued), held, path: self.acting.clone() })
    }

    fn wait_in_turn(&self, queued: oneshot::Sender<()>) -> Result<Held, LeaseError> {
        let broke_off = |path: &Path| LeaseError::BrokeOff { path: path.to_owned() };
        let turn = lock(&self.next, FlockArg::LockExclusive)?.ok_or_else(|| broke_off(&self.next))?;
        if queued.send(()).is_err() {
            return Err(broke_off(&self.next));
        }
        let acting = lock(&self.acting, FlockArg::LockExclusive)?.ok_or_else(|| broke_off(&self.acting))?;
        drop(turn);
        Ok(Held { _acting: acting })
    }
}

impl Waiting {
    /// Waits until nobody else is before this one. May be dropped and called again.
    pub async fn is_next(&mut self) {
        if let Some(queued) = &mut self.queued {
            // Where the wait broke off, `held` says so.
            drop(queued.await);
            self.queued = None;
        }
    }

    /// Waits until it holds the lease. May be dropped and called again.
    pub async fn held(&mut self) -> Result<Held, LeaseError> {
        let held = (&mut self.held).await;
        held.unwrap_or_else(|_| Err(LeaseError::BrokeOff { path: self.path.clone() }))
    }
}

/// `None` when somebody else has it, and this does not wait.
fn lock(path: &Path, how: FlockArg) -> Result<Option<Flock<File>>, LeaseError> {
    let fail = |err: io::Error| LeaseError::Io { path: path.to_owned(), err };
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(false).write(true).mode(0o600).open(path).map_err(fail)?;
    loop {
        match Flock::lock(file, how) {
            Ok(lock) => return Ok(Some(lock)),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, err)) => return Err(fail(err.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> (tempfile::TempDir, Lease) {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::of(dir.path()).unwrap();
        (dir, lease)
    }

    #[tokio::test]
    async fn one_holds_it_and_those_who_wait_come_in_turn() {
        let (dir, lease) = lease();
        assert!(!is_held(dir.path()));
        let old = lease.try_take().unwrap().unwrap();
        assert!(is_held(dir.path()) && lease.try_take().unwrap().is_none());
        let mut new = lease.wait().unwrap();
        new.is_next().await;
        // The old one lets go and waits again at once: the new one comes first all the same.
        for _ in 0..20 {
            assert!(new.held.try_recv().is_err());
        }
        drop(old);
        let mut again = lease.wait().unwrap();
        let held = new.held().await.unwrap();
        again.is_next().await;
        assert!(again.held.try_recv().is_err());
        drop(held);
        again.held().await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_is_in_nobodys_way() {
        let (_dir, lease) = lease();
        let held = lease.try_take().unwrap().unwrap();
        let mut waiting = lease.wait().unwrap();
        waiting.is_next().await;
        drop(waiting);
        let mut other = lease.wait().unwrap();
        drop(held);
        other.held().await.unwrap();
    }

    #[test]
    fn an_instance_runs_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = occupy(dir.path(), Instance::A).unwrap();
        let refused = occupy(dir.path(), Instance::A).unwrap_err().to_string();
        assert!(refused.contains("agent a of this device runs already"), "{refused}");
        occupy(dir.path(), Instance::B).unwrap();
        drop(first);
        occupy(dir.path(), Instance::A).unwrap();
    }

    #[tokio::test]
    async fn the_end_of_an_instance_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(gone(dir.path(), Instance::B).await.unwrap(), Gone::Before);
        let other = occupy(dir.path(), Instance::B).unwrap();
        let mut ended = std::pin::pin!(gone(dir.path(), Instance::B));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut ended).await.is_err());
        drop(other);
        assert_eq!(ended.await.unwrap(), Gone::Now);
        occupy(dir.path(), Instance::B).unwrap();
    }
}
