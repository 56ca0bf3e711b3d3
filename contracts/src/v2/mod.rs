//! Version 2 of what has changed since [`crate::v1`]; everything else is still read and written as there.
//!
//! A version-1 message converts when it is read: whoever decodes gets the newest type only.

mod input;
mod report;

pub use input::{CommandInput, Input};
pub use report::{AppReport, ClockReport, ClockVerdict, Report, Stage, StageName, StageState};
