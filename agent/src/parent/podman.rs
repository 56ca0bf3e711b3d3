//! `bramble-agent podman`: Podman's service for the agents of this device, as a unit of its own beside theirs: an agent that
//! is replaced or restarted leaves it running, and it is started by the settings of agent.toml and mended as everywhere else.
//!
//! Decides nothing. Containers outlive it.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::occupy;
use crate::config::Config;
use crate::host::podman::service::Service;
use crate::host::podman::told;
use crate::host::state;

/// Runs until SIGTERM or SIGINT.
pub async fn podman(config: &Config) -> anyhow::Result<()> {
    let run_dir = &config.podman.run_dir;
    state::make_dir(run_dir)?;
    // Two would end each other's service for ever.
    let _place = occupy(&run_dir.join("podman.lock"), "Podman's service is run")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (service, tell) = start(config);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    service.stop().await;
    tell.await.context("what agents are told of Podman's service broke off")
}

/// Starts the service, and tells the agents how it does until it has ended.
pub(super) fn start(config: &Config) -> (Service, JoinHandle<()>) {
    let service = Service::start(config.service());
    let (told, run_dir) = (service.told(), config.podman.run_dir.clone());
    (service, tokio::spawn(async move { told::write(told, &run_dir).await }))
}
