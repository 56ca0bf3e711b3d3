//! The only code that touches the device: files, clocks, processes, Podman, systemd.
//!
//! Decides nothing about what should run. Everything here is bounded in time and size.

pub mod clock;
pub mod cmd;
pub mod device;
mod dnat;
pub mod facts;
mod layers;
mod leash;
mod naming;
mod orphans;
pub mod podman;
mod probe;
mod records;
mod repair;
mod room;
pub mod sntp;
mod starts;
pub mod state;
pub mod systemd;
mod watch;
