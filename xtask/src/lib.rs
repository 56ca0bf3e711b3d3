//! The developer's front door, as a library: what `cargo xtask` and the fleet tests both need of this machine.
//!
//! Decides how a machine is made ready, how a local fleet is started and stopped, and what counts as tested. Decides
//! nothing about how a fleet behaves: it starts the real programs and asks them.

pub mod bench;
pub mod clock;
pub mod cross;
pub mod daemon;
pub mod fleet;
pub mod http;
pub mod image;
pub mod paths;
pub mod pi;
pub mod power_cuts;
pub mod prepare;
pub mod run;
pub mod stages;
pub mod tour;
