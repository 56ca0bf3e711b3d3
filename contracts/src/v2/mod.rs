//! Version 2 of what has changed since [`crate::v1`]; everything else is still read and written as there.
//!
//! A version-1 message converts when it is read: whoever decodes gets the newest type only.

mod desired;
mod input;
mod report;
mod upgrade;

pub use desired::{AgentWish, DesiredDocument};
pub use input::{CommandInput, Input};
pub use report::{AppReport, ClockReport, ClockVerdict, Report, Stage, StageName, StageState};
pub use upgrade::{AgentReport, UpgradePhase, UpgradeReport, UpgradeWord};
