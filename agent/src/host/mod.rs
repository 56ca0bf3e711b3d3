//! The only code that touches the device: files, clocks, processes, Podman, systemd.
//!
//! Decides nothing about what should run. Everything here is bounded in time and size.

pub mod clock;
pub mod cmd;
pub mod device;
pub mod facts;
mod leash;
pub mod logs;
mod naming;
pub mod podman;
pub mod ports;
mod probe;
pub(crate) mod records;
mod session;
pub mod sntp;
pub mod state;
mod stdin;
pub mod systemd;
mod watch;
