//! The agent's own upgrade, on a simulated device: every crash, and the main ways as scenarios.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod coordinator;
#[path = "../common/cores.rs"]
mod cores;
mod crashes;
mod files;
mod kinds;
mod process;
mod scenarios;
mod world;
