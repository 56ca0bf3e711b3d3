//! When time itself is news: the uptime of the next [`super::Event::Tick`].

use super::event::Attempt;
use super::facts::{Bounds, Facts, Lease};
use super::ledger::{Ledger, Moment, Phase, Upgrade};
use super::standby;

impl Upgrade {
    /// How long its phase may last, in milliseconds of uptime.
    pub fn bound_ms(&self, bounds: &Bounds) -> u64 {
        match self.phase {
            Phase::Judging => bounds.judge_ms,
            Phase::Staging => bounds.stage_ms,
            Phase::Verifying => bounds.test_ms,
            Phase::Starting => bounds.start_ms,
            Phase::Halting => bounds.halt_ms,
            Phase::Released => bounds.handover_ms,
            Phase::Trial { .. } => bounds.trial_ms,
            // What could not be turned back is tried again.
            Phase::Returning(_) => bounds.mend_ms,
        }
    }
}

/// The uptime at which a `Tick` is due, in milliseconds; always later than that of `facts`, which are those of the last step:
/// a pause that hindered it and ends a moment later is still to be waited for. The one that waits asks again whenever the
/// ledger changes.
pub fn wake_at(ledger: &Ledger, facts: &Facts) -> Option<u64> {
    let after = |since: &Moment, ms: u64| {
        let began_ms = if since.boot == facts.boot { since.up_ms } else { 0 };
        began_ms.saturating_add(ms)
    };
    let due = match facts.lease {
        Lease::Held => {
            let upgrade = ledger.upgrade.as_ref().map(|upgrade| after(&upgrade.since, upgrade.bound_ms(&facts.bounds)));
            let mend = ledger.mend.as_ref().map(|since| after(since, facts.bounds.mend_ms));
            let paused = ledger.tally.as_ref().filter(|tally| {
                ledger.upgrade.is_none() && facts.wish.as_ref().is_some_and(|wish| tally.of == Attempt::from(wish))
            });
            // A pause that is over waits for something else, which tells of itself.
            let paused = paused.filter(|tally| tally.left_ms(facts).is_some());
            let paused = paused.map(|tally| after(&tally.since, tally.pause_ms(&facts.bounds)));
            [upgrade, mend, paused].into_iter().flatten().min()
        }
        Lease::NotHeld => {
            let patience = ledger.upgrade.as_ref().zip(standby::patience_ms(ledger, facts));
            patience.map(|(upgrade, ms)| again(after(&upgrade.since, ms), facts))
        }
    };
    due.map(|due| due.max(facts.up_ms.saturating_add(1)))
}

/// The one that waits stores nothing: what did not help is done again after every grace.
fn again(due_ms: u64, facts: &Facts) -> u64 {
    let (late_ms, grace_ms) = (facts.up_ms.checked_sub(due_ms), facts.bounds.grace_ms.max(1));
    late_ms.map_or(due_ms, |late| due_ms.saturating_add((late / grace_ms).saturating_add(1).saturating_mul(grace_ms)))
}
