//! The agent's mesh against a real nats-server: everything a device says and hears, and what it refuses.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod broker;
mod clock;
mod coordinator;
mod damage;
mod device;
mod enrolment;
mod messages;
mod program;
mod releases;
mod session;
mod survival;

use std::time::Duration;

/// Everything here happens within this, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);

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
