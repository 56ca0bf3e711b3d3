//! The fleet under test: real coordinator, real broker, real agents, real Podman, on this machine, in folders of a
//! case of its own. This library is the harness; the cases are in `tests/`.
//!
//! Decides: how a case gets its folders, ports, processes and network namespaces, how it waits (always for a condition,
//! always with an end, always telling the last thing it saw), and that nothing of it is left behind, also after a
//! panic and also after the test program itself was killed (the next one sweeps). Decides nothing about what is right:
//! that is what the cases say.
//!
//! ```no_run
//! use bramble_fleet_tests::{Fleet, manifest};
//!
//! let mut fleet = Fleet::start("a-name-for-logs");
//! let pi = fleet.device("pi-1");                              // enrols, runs, is online
//! let web = manifest::hello("web", fleet.port(), 1);          // a demo app, version 1, on a host port
//! fleet.apply(&web);
//! let before = fleet.settled("web", &pi);                     // confirmed on pi-1: container ids and start times
//! pi.kill_agent();
//! pi.start_agent();
//! fleet.online("pi-1");
//! assert_eq!(before, fleet.settled("web", &pi));
//! ```
//!
//! Environment: `BRAMBLE_SEED` repeats a run's random choices, `BRAMBLE_FULL=1` makes the long cases long,
//! `BRAMBLE_BIN_DIR` uses the programs of that folder instead of building them, `BRAMBLE_KEEP=1` keeps every case's
//! logs. Logs of a failed case are in `target/fleet-tests/<case>/`.

pub mod api;
mod app;
pub mod bench;
pub mod case;
mod cleanup;
pub mod cli;
pub mod clock;
mod coordinator;
mod device;
pub mod faketime;
mod fleet;
pub mod jwt;
pub mod keys;
pub mod manifest;
pub mod mesh;
pub mod net;
pub mod ntp;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod pty;
pub mod registry;
pub mod release;
pub mod sample;
pub mod simulated;

pub use app::Running;
pub use clock::{Watch, soon, wait_until};
pub use coordinator::{Coordinator, FleetSetup, copy_dir, empty_dir, free_port};
pub use device::{Device, DeviceSetup, Starter, with_other_pin};
pub use fleet::Fleet;
