//! The agent's own upgrade: who acts, when one hands over to the other, and what is done when it goes wrong.
//!
//! `step(ledger, event, facts) -> (ledger, effects)`, for both agents: what a process does follows from whether it holds
//! the lease, its own version, and what the ledger says. docs/adr/0013 tells the protocol. Bounded by uptime and boots,
//! never by the wall clock. Decides nothing about apps, and does no I/O.

mod begin;
mod blame;
mod effect;
mod event;
mod facts;
mod guard;
mod judge;
mod ledger;
mod prune;
mod recover;
mod replay;
mod report;
mod standby;
mod step;
#[cfg(test)]
mod testing;
mod wake;

pub use effect::{Effect, ExitCode};
pub use event::{Admission, Attempt, Event, Failure, Fault};
pub use facts::{Bounds, Clock, Facts, Lease, Links, Mesh, System, TurnedBack};
pub use guard::{Starts, Verdict, guard};
pub use judge::{JudgeError, Papers, judge, next_keys};
pub use ledger::{Confirmed, Denied, Known, Ledger, LedgerFile, Moment, Outcome, Phase, Proof, Tally, Upgrade};
pub use prune::{Binary, Whole, prune};
pub use replay::{Line, ReplayError, replay};
pub use report::report;
pub use step::step;
pub use wake::wake_at;
