//! What an upgrade would come to, for somebody who only asks. Nothing is remembered of it.
//!
//! Decides by the same rules as an upgrade that begins. Of a window it knows nothing: that is a rollout's.

use super::begin::{not_now, too_large};
use super::facts::{Facts, Room};
use super::ledger::Ledger;
use super::packages::Plan;
use super::reason::Reason;
use super::wish::{Protection, What, Wish};

/// What would come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// Why it would be refused; it is not where there is nothing to do.
    pub refused: Option<String>,
    /// Why it could not begin at this moment.
    pub waits: Option<String>,
    /// Bytes that have to be free where packages are fetched to.
    pub fetch_need: u64,
    /// How much room there is.
    pub room: Option<Room>,
}

/// Why apt is not even asked.
pub fn unasked(ledger: &Ledger, what: &What, facts: &Facts) -> Option<String> {
    if ledger.upgrade.is_some() {
        return Some("an upgrade is under way on it: what it changes is in its report".into());
    }
    if facts.protection == Protection::None {
        let (is, asked) = (facts.protection, Protection::Bootcount);
        return Some(Reason::Weak { is, asked }.to_string());
    }
    what.flaw()
}

/// What would come of this plan.
pub fn foresee(ledger: &Ledger, facts: &Facts, plan: &Plan) -> Foreseen {
    let anybody = Wish { attempt: 1, ..Wish::unknown() };
    let before = ledger.refuses(&anybody, &plan.set);
    let before = before.map(|before| Reason::FailedBefore(Box::new(before.reason.clone())).to_string());
    let refused = before.or_else(|| too_large(plan, facts).map(|why| Reason::NoRoom(why).to_string()));
    let fetch_need = plan.fetch_bytes.saturating_add(facts.bounds.reserve_bytes);
    let is_empty = plan.delta.is_empty();
    Foreseen {
        refused: refused.filter(|_| !is_empty),
        waits: not_now(facts).filter(|_| !is_empty),
        fetch_need,
        room: facts.room,
    }
}
