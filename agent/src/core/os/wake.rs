//! When time itself is news: the uptime of the next [`super::Event::Look`].

use super::facts::Facts;
use super::ledger::{Ledger, Phase, Trial};

/// The uptime at which a look is due, in milliseconds; always later than that of `facts`, which are those of the last step.
pub fn wake_at(ledger: &Ledger, facts: &Facts) -> Option<u64> {
    let up_ms = facts.up_ms;
    let soon = up_ms.saturating_add(facts.bounds.mend_ms.max(1));
    let Some(upgrade) = &ledger.upgrade else {
        let wish = facts.wish.as_ref()?;
        let tally = ledger.tally.as_ref().filter(|tally| (&tally.wish, tally.attempt) == (&wish.id, wish.attempt));
        let pause_ms = tally.and_then(|tally| tally.left_ms(facts));
        let opens_in_ms = facts.window.as_ref().err().and_then(|closed| closed.opens_in_ms);
        // Neither lets it begin before the other does.
        return pause_ms.max(opens_in_ms).map(|left_ms| up_ms.saturating_add(left_ms.max(1)));
    };
    match &upgrade.phase {
        Phase::Degraded(_) => None,
        Phase::Trial(Trial { spent_ms, watch, .. }) => {
            let terms = upgrade.wish.terms();
            let well = watch.well_since_ms.map(|since| since.saturating_add(terms.confirm_for_ms));
            let broken = watch.break_since_ms.map(|since| since.saturating_add(terms.reconnect_ms).saturating_add(1));
            let due = [well, broken, Some(terms.limit_ms(*spent_ms)), Some(soon)];
            due.into_iter().flatten().filter(|due| *due > up_ms).min()
        }
        Phase::Planning
        | Phase::Fetching
        | Phase::Snapshot
        | Phase::Applying
        | Phase::Arming
        | Phase::Armed
        | Phase::Committing { .. }
        | Phase::Unsettled
        | Phase::Removing
        | Phase::Resyncing
        | Phase::Mending(_)
        | Phase::Failing(_)
        | Phase::Returning(_) => Some(soon),
    }
}
