//! The two instances of this device's agent: which binaries there are, who starts them, and how often one has started
//! without being confirmed.
//!
//! Decides how files and starters are asked. When an instance starts or ends is the upgrade's word.

mod binaries;
mod guard;
mod manager;

pub use binaries::{Binaries, BinaryError, Link};
pub use guard::{Guarded, guard, ledger_file, starts};
pub use manager::{Manager, ManagerError, SUPERVISOR, SUPERVISOR_PID, die_with_supervisor, is_supervised};
