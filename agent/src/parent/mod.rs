//! `bramble-agent supervise`: starts this device's agents where there is no systemd, and keeps them running. The same words
//! as systemd's: ready, alive, stopping; a start again after every end, but for one that was retired.
//!
//! Decides when a process is started and ended. Decides nothing about apps or upgrades: which binary runs is the links'
//! word, which instance the upgrade's. Podman's service is its child, so that both agents of an upgrade find it.

mod control;
mod keeper;
mod podman;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bramble_contracts::v1::Instance;
use futures::future::join_all;
use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::core::upgrade::{Bounds, Ledger, LedgerFile};
use crate::host::instances::{Binaries, Link, ledger_file};
use crate::host::state::{self, StateFile};
use crate::version;
use keeper::Keeper;
pub use podman::podman;

const FORMAT: u32 = 1;
/// All agents are ended within this, or killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(12);

/// What both instances share.
#[derive(Debug, Clone)]
struct Site {
    /// The settings that agents are started with.
    config: PathBuf,
    state_dir: PathBuf,
    run_dir: PathBuf,
    bounds: Bounds,
}

impl Site {
    fn program(&self) -> PathBuf {
        Binaries::of(&self.state_dir).link(Link::Current)
    }

    fn socket(&self) -> PathBuf {
        self.run_dir.join("supervisor.sock")
    }

    /// Which instance is started with the device.
    fn enabled(&self) -> StateFile {
        StateFile::new(self.state_dir.join("enabled"), FORMAT)
    }
}

/// Runs until SIGTERM or SIGINT, and takes the agents with it. Apps run on.
pub async fn supervise(config: &Config) -> anyhow::Result<()> {
    let site = Site {
        config: std::path::absolute(&config.file)?,
        state_dir: config.state_dir.clone(),
        run_dir: config.podman.run_dir.clone(),
        bounds: config.bounds(),
    };
    state::make_dir(&site.state_dir)?;
    state::make_dir(&site.run_dir)?;
    // Two of these on one state folder would start each instance twice.
    let _place = occupy(&site.state_dir.join("supervisor.lock"), "agents are supervised")?;
    install(&site.state_dir)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = listen(&site.socket())?;
    let service = config.podman.socket.is_none().then(|| podman::start(config));
    let keepers: BTreeMap<Instance, Keeper> =
        [Instance::A, Instance::B].into_iter().map(|one| (one, Keeper::start(site.clone(), one))).collect();
    let enabled = site.enabled().load_json::<Instance>()?.value().unwrap_or_default();
    tracing::info!(instance = enabled.name(), socket = %site.socket().display(), "agents are supervised");
    keepers[&enabled].begin().await;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = control::serve(listener, &keepers, &site) => {}
    }
    tracing::info!("the agents are ended; apps run on");
    let ended = join_all(keepers.into_values().map(Keeper::end));
    if tokio::time::timeout(STOP_TIME_MAX, ended).await.is_err() {
        tracing::warn!("an agent did not end in time and is killed; nothing is lost by that");
    }
    if let Some((service, _tells)) = service {
        service.stop().await;
    }
    Ok(())
}

/// Takes a place that one process holds; `what` is so while it is held.
fn occupy(path: &Path, what: &str) -> anyhow::Result<Flock<File>> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, err)| anyhow::anyhow!("{} is held ({err}): {what} already; stop that first", path.display()))
}

/// The very first start lays this program down as the first that counts as confirmed. Later it does so when it has become
/// another one by hand; a device that has taken a release is changed by releases alone.
fn install(state_dir: &Path) -> anyhow::Result<()> {
    let binaries = Binaries::of(state_dir);
    let this = std::env::current_exe().context("this program cannot be found on the disk")?;
    let version = version::number();
    let (current, confirmed) = (binaries.target(Link::Current), binaries.target(Link::Confirmed));
    let by_hand = match confirmed {
        None => true,
        Some(held) if current.is_some_and(|current| current != held) || takes_releases(state_dir) => false,
        Some(held) if held == version => !is_same(&this, &binaries.path(version))?,
        Some(held) => version > held,
    };
    if by_hand {
        binaries.install(&this, version)?;
        // First what a start that goes wrong goes back to.
        binaries.turn(Link::Confirmed, version)?;
        binaries.turn(Link::Current, version)?;
        tracing::info!(%version, "this program is laid down as the device's agent");
    } else if let (None, Some(confirmed)) = (current, confirmed) {
        binaries.turn(Link::Current, confirmed)?;
    }
    Ok(())
}

/// One that cannot be read counts as one that does: nothing is put in its place.
fn takes_releases(state_dir: &Path) -> bool {
    match ledger_file(state_dir).load_json::<LedgerFile>() {
        Ok(loaded) => loaded.value().is_some_and(|file| Ledger::from(file).confirmed.release_seq > 0),
        Err(_) => true,
    }
}

fn is_same(one: &Path, other: &Path) -> anyhow::Result<bool> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    Ok(read(one)? == read(other)?)
}

/// Only we can reach the socket: its folder is ours alone.
fn listen(socket: &Path) -> anyhow::Result<UnixListener> {
    if let Err(err) = std::fs::remove_file(socket)
        && err.kind() != std::io::ErrorKind::NotFound
    {
        return Err(err).with_context(|| format!("cannot remove {}", socket.display()));
    }
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(socket, mode).with_context(|| format!("cannot shut {}", socket.display()))?;
    Ok(listener)
}
