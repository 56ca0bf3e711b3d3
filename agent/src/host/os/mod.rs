//! OS upgrades on the machine: what LVM and apt print, what the agent can see of its own, and the privileged units, each
//! started for one verb.
//!
//! The agent is shut in and sees no block device: whatever needs one runs as a unit and leaves its answer in a file. Decides
//! how things are done and in which order; when they are due is `core::os`' matter.

pub mod apt;
mod apt_run;
mod files;
mod holds;
mod look;
pub mod lvm;
mod machine;
mod mounts;
mod panics;
mod partition;
mod probation;
mod quiet;
mod reboot;
mod slots;
mod units;
mod verbs;

pub use files::{Files, Told};
pub use look::{Seen, look};
pub use machine::{Machine, Strength};
pub use panics::Panics;
pub use probation::run as probation;
pub use reboot::{Way, reboot};
pub use units::{Active, Task, Units};
pub use verbs::run;
