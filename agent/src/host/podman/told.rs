//! What whoever runs Podman's service tells the device's agents: `podman.json` beside the socket, written at every change and
//! followed by inotify. An agent that runs the service itself needs no file; both look the same to it.
//!
//! Decides nothing about the service. A file that is not there, or cannot be read, tells nothing.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::service::ServiceState;

const NAME: &str = "podman.json";
const RETRY: Duration = Duration::from_secs(30);

/// What is told of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What it is doing.
    pub state: ServiceState,
    /// What was done to a damaged store in this run, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mended: Option<String>,
}

/// Writes what is told into the folder of the socket, until nobody tells any more.
pub async fn write(mut told: watch::Receiver<Told>, run_dir: &Path) {
    loop {
        let now = told.borrow_and_update().clone();
        if let Err(err) = replace(run_dir, &now) {
            tracing::warn!(dir = %run_dir.display(), %err, "agents cannot be told how Podman's service does");
        }
        if told.changed().await.is_err() {
            return;
        }
    }
}

/// Hands on what is told in that folder, as it changes, until nobody listens.
pub async fn follow(run_dir: &Path, out: watch::Sender<Told>) {
    loop {
        tokio::select! {
            heard = hear(run_dir, &out) => {
                if let Err(err) = heard {
                    tracing::warn!(dir = %run_dir.display(), %err, "it cannot be heard how Podman's service does");
                }
            }
            () = out.closed() => return,
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn hear(run_dir: &Path, out: &watch::Sender<Told>) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(run_dir, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR)?;
    #[allow(deprecated, reason = "sound for a descriptor that is owned; what replaces it is unsafe to call")]
    let fd: AsyncFd<OwnedFd> = AsyncFd::new(inotify.as_fd().try_clone_to_owned()?)?;
    loop {
        // After the watch is set, and after every event: nothing falls between.
        if let Some(told) = read(run_dir) {
            out.send_if_modified(|held| {
                let changed = *held != told;
                if changed {
                    *held = told;
                }
                changed
            });
        }
        loop {
            let mut ready = fd.readable().await?;
            match inotify.read_events() {
                Ok(events) if events.iter().any(|event| event.name.as_deref().is_none_or(|name| name == NAME)) => break,
                Ok(_) => {}
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(err) => return Err(err.into()),
            }
        }
    }
}

fn read(run_dir: &Path) -> Option<Told> {
    serde_json::from_slice(&fs::read(run_dir.join(NAME)).ok()?).ok()
}

/// In one step: nobody reads half of it.
fn replace(run_dir: &Path, told: &Told) -> io::Result<()> {
    let beside = run_dir.join(".podman.json.new");
    fs::write(&beside, serde_json::to_vec(told)?)?;
    fs::rename(beside, run_dir.join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(told: &mut watch::Receiver<Told>, want: impl FnMut(&Told) -> bool) -> Told {
        tokio::time::timeout(Duration::from_secs(10), told.wait_for(want)).await.unwrap().unwrap().clone()
    }

    #[tokio::test]
    async fn what_one_process_writes_another_hears() {
        let dir = tempfile::tempdir().unwrap();
        let (out, mut told) = watch::channel(Told::default());
        let place = dir.path().to_owned();
        tokio::spawn(async move { follow(&place, out).await });
        let (tell, to_write) = watch::channel(Told::default());
        let place = dir.path().to_owned();
        tokio::spawn(async move { write(to_write, &place).await });
        tell.send_replace(Told { state: ServiceState::Down("no disk".into()), mended: None });
        heard(&mut told, |told| told.state == ServiceState::Down("no disk".into())).await;
        tell.send_replace(Told { state: ServiceState::Ready, mended: Some("the store was made anew".into()) });
        let last = heard(&mut told, |told| told.state == ServiceState::Ready).await;
        assert_eq!(last.mended.as_deref(), Some("the store was made anew"));
    }

    #[tokio::test]
    async fn what_was_written_before_is_heard_and_what_is_no_such_file_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), "{").unwrap();
        let (out, mut told) = watch::channel(Told::default());
        let place = dir.path().to_owned();
        tokio::spawn(async move { follow(&place, out).await });
        fs::write(dir.path().join("else"), "{}").unwrap();
        replace(dir.path(), &Told { state: ServiceState::Ready, mended: None }).unwrap();
        heard(&mut told, |told| told.state == ServiceState::Ready).await;
    }
}
