//! How an upgrade ends, who is to blame for it, and what follows: refused until a retry, or tried again by itself after a
//! pause, and not for ever.

use std::time::Duration;

use bramble_contracts::v1::Status;

use super::facts::{Bounds, Facts};
use super::ledger::{Denied, Outcome, Tally, Upgrade};
use super::probation::sick_before;
use super::reason::{Fault, Reason};
use super::step::{Flow, Turn};
use super::wish::Protection;
use crate::core::backoff::Backoff;

impl Tally {
    /// The pause after the last failure, in milliseconds.
    pub(super) fn pause_ms(&self, bounds: &Bounds) -> u64 {
        let (first, max) = (Duration::from_millis(bounds.pause_ms), Duration::from_millis(bounds.pause_max_ms));
        let pause = Backoff::new(first, max).delay(u32::from(self.failures));
        u64::try_from(pause.as_millis()).unwrap_or(bounds.pause_max_ms)
    }

    /// For how long it pauses yet.
    pub(super) fn left_ms(&self, facts: &Facts) -> Option<u64> {
        let passed_ms = self.since.passed_ms(&facts.boot, facts.up_ms);
        let left_ms = self.pause_ms(&facts.bounds).saturating_sub(passed_ms);
        (left_ms > 0 && self.boots < facts.bounds.pause_boots).then_some(left_ms)
    }
}

impl Upgrade {
    /// From its beginning until now, without what firmware took; at least.
    pub(super) fn took_ms(&self, facts: &Facts) -> u64 {
        let base = if self.ticket.began.boot == facts.boot { self.ticket.began.up_ms } else { 0 };
        self.spent_ms.saturating_add(facts.up_ms.saturating_sub(base))
    }
}

impl Turn<'_> {
    /// Boots end a pause too.
    pub(super) fn count_boot(&mut self) {
        if let Some(tally) = self.ledger.tally.as_mut().filter(|tally| tally.boot != self.facts.boot) {
            tally.boot.clone_from(&self.facts.boot);
            tally.boots = tally.boots.saturating_add(1);
        }
    }

    fn outcome(&self, upgrade: Upgrade, status: Status, reason: Option<Reason>) -> Outcome {
        let took_ms = upgrade.took_ms(self.facts);
        let Upgrade { ticket, plan, before, down_ms, .. } = upgrade;
        Outcome { ticket, status, reason, blamed: false, plan, sick_before: sick_before(&before), took_ms, down_ms }
    }

    pub(super) fn end_confirmed(&mut self, reason: Option<Reason>) -> Flow {
        let Some(upgrade) = self.ledger.upgrade.take() else { return Flow::Rest };
        self.ledger.tally = None;
        self.ledger.denied.retain(|denied| denied.wish != upgrade.wish.id);
        self.ledger.last = Some(self.outcome(upgrade, Status::Confirmed, reason));
        Flow::Again
    }

    /// Nothing was changed.
    pub(super) fn end_failed(&mut self, reason: Reason) -> Flow {
        self.end_badly(Status::Failed, reason)
    }

    /// The old system is back.
    pub(super) fn end_rolled_back(&mut self, reason: Reason) -> Flow {
        self.end_badly(Status::RolledBack, reason)
    }

    fn end_badly(&mut self, status: Status, reason: Reason) -> Flow {
        let Some(upgrade) = self.ledger.upgrade.take() else { return Flow::Rest };
        let (wish, attempt) = (upgrade.wish.id.clone(), upgrade.wish.attempt);
        let same = |tally: &Tally| (&tally.wish, tally.attempt) == (&wish, attempt);
        let tally = self.ledger.tally.take().filter(same);
        let (failures, mut strikes) = tally.map_or((0, 0), |tally| (tally.failures, tally.strikes));
        let failures = failures.saturating_add(1);
        let bounds = self.facts.bounds;
        // With one set of boot files the guard's count is all there is, and it may have failed to count.
        let weak = upgrade.protection != Protection::Tryboot && reason == Reason::DidNotComeUp;
        let fault = if weak { Fault::Doubt } else { reason.fault() };
        let (denied, blamed) = match fault {
            Fault::Packages => (true, true),
            Fault::Doubt => {
                strikes = strikes.saturating_add(1);
                (strikes >= bounds.strikes, strikes >= bounds.strikes)
            }
            Fault::Wish => (true, false),
            // What nobody is to blame for is not done over and over: each time may cost two reboots.
            Fault::Nobody => (failures >= bounds.failures, false),
        };
        let set = upgrade.plan.as_ref().filter(|_| blamed).map(|plan| plan.set);
        let outcome = self.outcome(upgrade, status, Some(reason.clone()));
        self.ledger.last = Some(Outcome { blamed, ..outcome });
        if denied {
            self.ledger.deny(Denied { wish, attempt, set, status, reason });
        } else {
            let (since, boot) = (self.now(), self.facts.boot.clone());
            self.ledger.tally = Some(Tally { wish, attempt, failures, strikes, since, boots: 0, boot });
        }
        Flow::Again
    }
}
