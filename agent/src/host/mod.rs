//! The only code that touches the device: files, clocks, processes, Podman, systemd.
//!
//! Decides nothing about what should run. Everything here is bounded in time and size.

pub mod clock;
pub mod cmd;
pub mod device;
pub mod dnat;
pub mod facts;
pub mod instances;
mod layers;
pub mod lease;
mod leash;
pub mod logs;
mod naming;
mod orphans;
pub mod os;
pub mod podman;
pub mod ports;
mod probe;
pub(crate) mod records;
pub mod release;
mod repair;
mod room;
mod session;
pub mod sntp;
mod starts;
pub mod state;
mod stdin;
mod stopping;
pub mod systemd;
mod watch;
