//! OS upgrades: `step(ledger, event, facts) -> (ledger, effects)`, from the wish to a system that is confirmed or rolled back.
//!
//! One invariant carries it, held together with the boot guard: the content of root follows the slot that was booted. Where a
//! device is follows from what lasts (`place`), the ledger says why it is there. Bounded by uptime and boots, never by the
//! wall clock. Runs no program, and decides nothing about apps but when they are left alone.

mod begin;
mod condition;
mod drive;
mod effect;
mod end;
mod event;
mod facts;
mod foresee;
mod ledger;
mod packages;
mod place;
mod probation;
mod progress;
mod reason;
mod report;
mod settle;
mod step;
#[cfg(test)]
mod testing;
mod wake;
mod wish;

pub use begin::hindrance;
pub use condition::{Ground, allows};
pub use effect::{BootFiles, Effect, Manner, Order, Verb, Way};
pub use event::Event;
pub use facts::{About, App, Apps, Bounds, Facts, OwnUpgrade, Room, Sentence, Unit, UnitFailure, UnitResult, Volumes};
pub use foresee::{Foreseen, foresee, unasked};
pub use ledger::{Denied, Ledger, LedgerFile, Outcome, Phase, Started, Tally, Trial, Upgrade};
pub use packages::{Change, Delta, Plan};
pub use place::{Place, place, place_of};
pub use probation::{Enforced, Look, Terms, Verdict, Watch, enforce, probation, sick_before};
pub use progress::{Progress, Progressed, StatusLine, status_line};
pub use reason::{Fault, Reason};
pub use report::{OsPhase, OsStatus, status};
pub use step::step;
pub use wake::wake_at;
pub use wish::{Closed, Package, Protection, Ticket, What, Wish, window};
