//! `bramble-agent podman`: Podman's service for the agents of this device, as a unit of its own beside theirs: an agent that
//! is replaced or restarted leaves it running, and it is started by the settings of agent.toml and mended as everywhere else.
//!
//! Decides nothing. Containers outlive it.

use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::host::podman::service::Service;
use crate::host::podman::told;
use crate::host::state;

/// Runs until SIGTERM or SIGINT.
pub async fn podman(config: &Config) -> anyhow::Result<()> {
    let run_dir = config.podman.run_dir.clone();
    state::make_dir(&run_dir)?;
    let _place = occupy(&run_dir)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let service = Service::start(config.service());
    let told = service.told();
    let tell = tokio::spawn(async move { told::write(told, &run_dir).await });
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    service.stop().await;
    tell.await.context("what agents are told of Podman's service broke off")
}

/// Two would end each other's service for ever.
fn occupy(run_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = run_dir.join("podman.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, err)| {
        anyhow::anyhow!("{} is held ({err}): Podman's service is run already; stop that first", path.display())
    })
}
