//! OS upgrades on a simulated device, together with the real boot guard: every crash, planted bugs, and reasons in words.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

mod bugs;
#[path = "../common/cores.rs"]
mod cores;
mod crashes;
mod disk;
mod files;
mod firmware;
mod kinds;
mod process;
mod reasons;
mod units;
mod world;
