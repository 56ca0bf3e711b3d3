//! The boot guard that runs before root is mounted; a library so that it can be explored together with the agent's side of
//! an upgrade. The program is `bramble-bootguard`.
//!
//! `decide` is the decision, `effects` what it comes to, `boot` the order of a boot. Only `host` touches a machine.

pub mod boot;
pub mod decide;
pub mod effects;
pub mod facts;
mod first;
mod handover;
pub mod host;
mod metadata;
mod process;
mod watchdog;
