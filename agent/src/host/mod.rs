//! The only code that touches the device: files, clocks, processes, Podman, systemd.
//!
//! Decides nothing about what should run. Everything here is bounded in time and size.

pub mod clock;
pub mod cmd;
pub mod device;
pub mod facts;
mod leash;
mod naming;
pub mod podman;
pub mod ports;
mod probe;
mod records;
pub mod sntp;
pub mod state;
pub mod systemd;
mod watch;
