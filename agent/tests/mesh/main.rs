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
mod wait;

use std::time::Duration;

pub(crate) use wait::{eventually, unix_now};

/// Everything here happens within this, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);
