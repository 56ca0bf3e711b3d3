//! The agent replaces itself: real processes under `bramble-agent supervise`, a real nats-server, real Podman, and an app
//! that is asked all the time. The coordinator's side is played by the tests. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

#[allow(dead_code, reason = "the mesh's tests use the rest")]
#[path = "../mesh/broker.rs"]
mod broker;
mod chaos;
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the mesh's tests use the rest")]
#[path = "../mesh/coordinator.rs"]
mod coordinator;
mod failures;
#[path = "../mesh/releases.rs"]
mod releases;
mod site;
mod story;

use std::time::Duration;

/// Everything here happens within this, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let all = async {
        while !check().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, all).await.is_ok(), "waited in vain for {what}");
}

pub(crate) fn unix_now() -> u64 {
    bramble_agent::host::clock::wall_ms() / 1000
}
