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
#[path = "../mesh/wait.rs"]
mod wait;

use std::time::Duration;

pub(crate) use wait::{eventually, unix_now};

/// Everything here happens within this, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
