//! A device without a snapshot: which system it has, and whether its boot files are of the same.
//!
//! Decides whether an upgrade was confirmed or rolled back, by what root says of itself, and mends an autoboot.txt that names
//! the other slot.

use bramble_contracts::boot::{Outcome as Booted, Slot, Why};

use super::drive::Driven;
use super::effect::{Verb, Way};
use super::facts::Facts;
use super::ledger::{Phase, Trial, Upgrade};
use super::place::Place;
use super::reason::Reason;
use super::step::{Flow, Turn};
use super::wish::Protection;

impl Turn<'_> {
    /// The snapshot is gone, by a merge or by a commit. With the reason, where it was given up.
    pub(super) fn settle(&mut self, reason: Option<Reason>) -> Flow {
        let Some(upgrade) = &self.ledger.upgrade else { return Flow::Rest };
        let new = has_new_root(upgrade, self.facts);
        if self.root_slot().is_some_and(|slot| !follows(slot, self.facts)) {
            let reason = if new { None } else { Some(reason.unwrap_or_else(|| self.why_back())) };
            return self.enter(Phase::Mending(reason));
        }
        match (new, upgrade.protection) {
            (true, Protection::Tryboot) if upgrade.phase != Phase::Resyncing => self.enter(Phase::Resyncing),
            (true, Protection::Tryboot) => Flow::Rest,
            (true, Protection::Bootcount | Protection::None) => self.end_confirmed(None),
            (false, _) => {
                let reason = reason.unwrap_or_else(|| self.why_back());
                self.end_rolled_back(reason)
            }
        }
    }

    /// Is root the one that this upgrade made?
    pub(super) fn has_new_root(&self) -> bool {
        self.ledger.upgrade.as_ref().is_some_and(|upgrade| has_new_root(upgrade, self.facts))
    }

    /// The slot whose boot files belong to this root; absent with one set of boot files.
    pub(super) fn root_slot(&self) -> Option<Slot> {
        let upgrade = self.ledger.upgrade.as_ref().filter(|upgrade| upgrade.protection == Protection::Tryboot)?;
        let new = upgrade.slot?;
        Some(if has_new_root(upgrade, self.facts) { new } else { new.other() })
    }

    pub(super) fn resyncing(&mut self, place: &Place) -> Flow {
        if *place != Place::Clean {
            // Somebody's next one. This one is confirmed, and the slots are made equal by it.
            return self.end_confirmed(None);
        }
        if self.root_slot().is_some_and(|slot| !follows(slot, self.facts)) {
            return self.settle(None);
        }
        match self.drive_on(Verb::Resync) {
            Driven::Did(_) => self.end_confirmed(None),
            Driven::Waits | Driven::Cannot(_) => Flow::Rest,
        }
    }

    pub(super) fn mending(&mut self, place: &Place, reason: Option<Reason>) -> Flow {
        if *place != Place::Clean {
            return self.displaced(place, reason);
        }
        let Some(slot) = self.root_slot().filter(|slot| !follows(*slot, self.facts)) else {
            return self.settle(reason);
        };
        if !self.is_here() {
            let max = self.facts.bounds.returns;
            let Some(upgrade) = &mut self.ledger.upgrade else { return Flow::Rest };
            upgrade.returns = upgrade.returns.saturating_add(1);
            let over = upgrade.returns > max;
            return self.enter(if over { Phase::Degraded(Reason::Mismatch) } else { Phase::Mending(reason) });
        }
        if self.facts.autoboot == Some(slot) {
            return self.reboot(Way::Plain);
        }
        match self.drive(Verb::Mend) {
            Driven::Waits | Driven::Did(_) => Flow::Rest,
            Driven::Cannot(_) => self.enter(Phase::Degraded(Reason::Mismatch)),
        }
    }

    /// Why root was put back, when the agent itself did not ask for it.
    pub(super) fn why_back(&self) -> Reason {
        let Some(upgrade) = &self.ledger.upgrade else { return Reason::JudgedFailed };
        let ours = |ticket: &Option<_>| ticket.as_ref().is_none_or(|ticket| *ticket == upgrade.ticket);
        if let Some(sentence) = self.facts.sentence.as_ref().filter(|sentence| ours(&sentence.ticket)) {
            return sentence.reason.clone();
        }
        let by_record = self.facts.record.as_ref().and_then(|record| match record.outcome {
            Booted::RolledBack { why } | Booted::Degraded { why } => Some(why),
            Booted::Plain | Booted::OnTrial | Booted::Committed => None,
        });
        // The note lasts longer than the record, and may be of a boot before.
        let why = by_record.or(self.facts.put_back);
        let panic = || self.facts.panic.clone().map(Reason::KernelPanic);
        match (why, &upgrade.phase) {
            (_, Phase::Planning | Phase::Fetching | Phase::Snapshot | Phase::Applying | Phase::Arming)
            | (Some(Why::PowerCutInApply), _) => Reason::PowerCut,
            (Some(Why::JudgedFailed | Why::CannotReturn), _) => Reason::JudgedFailed,
            (Some(Why::TrialsUsedUp) | None, Phase::Trial(Trial { boots, .. }) | Phase::Committing { boots, .. }) => {
                panic().unwrap_or(Reason::Reset { boots: *boots })
            }
            (
                Some(Why::TrialsUsedUp) | None,
                Phase::Armed
                | Phase::Unsettled
                | Phase::Removing
                | Phase::Resyncing
                | Phase::Mending(_)
                | Phase::Failing(_)
                | Phase::Returning(_)
                | Phase::Degraded(_),
            ) => panic().unwrap_or(Reason::DidNotComeUp),
        }
    }
}

/// By root's own word. Of an upgrade that nobody remembers, the slot tells.
fn has_new_root(upgrade: &Upgrade, facts: &Facts) -> bool {
    if upgrade.ticket.wish.is_empty() && facts.stamp.is_none() {
        return facts.booted.is_some() && facts.booted == upgrade.slot;
    }
    facts.stamp.as_ref() == Some(&upgrade.ticket)
}

fn follows(slot: Slot, facts: &Facts) -> bool {
    facts.booted == Some(slot) && facts.autoboot == Some(slot)
}
