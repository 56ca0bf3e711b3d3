//! Who is to blame when an upgrade fails, and what follows: refused until the next attempt, or tried again by itself after
//! a pause. Unreachable is not bad: what nobody is to blame for never denies a release.

use std::time::Duration;

use bramble_contracts::v1::Status;
use bramble_contracts::v2::AgentWish;

use super::event::{Attempt, Failure, Fault};
use super::facts::{Bounds, Facts};
use super::ledger::{Denied, Moment, Outcome, Proof, Tally, Upgrade};
use super::step::Turn;
use crate::core::backoff::Backoff;

impl Tally {
    /// The pause after the last failure, in milliseconds.
    pub(super) fn pause_ms(&self, bounds: &Bounds) -> u64 {
        let (first, max) = (Duration::from_millis(bounds.pause_ms), Duration::from_millis(bounds.pause_max_ms));
        u64::try_from(Backoff::new(first, max).delay(self.failures).as_millis()).unwrap_or(bounds.pause_max_ms)
    }

    /// For how long it pauses yet.
    pub(super) fn left_ms(&self, facts: &Facts) -> Option<u64> {
        let left_ms = self.pause_ms(&facts.bounds).saturating_sub(self.since.elapsed_ms(facts));
        (left_ms > 0 && self.boots < facts.bounds.pause_boots).then_some(left_ms)
    }
}

impl Outcome {
    /// Of a wish for which nothing was done.
    pub(super) fn of_wish(wish: &AgentWish, status: Status, why: String) -> Self {
        Self {
            of: Attempt::from(wish),
            version: wish.version,
            status,
            why,
            blamed: false,
            size: 0,
            took_ms: None,
            unmanaged_ms: None,
            beside: None,
        }
    }
}

impl Turn<'_> {
    pub(super) fn outcome(&self, upgrade: &Upgrade, status: Status, why: String) -> Outcome {
        Outcome {
            of: upgrade.of,
            version: upgrade.version,
            status,
            why,
            blamed: false,
            size: upgrade.admitted.map_or(0, |admitted| admitted.size),
            took_ms: upgrade.began.exactly_ms(self.facts),
            unmanaged_ms: upgrade.unmanaged_ms,
            beside: None,
        }
    }

    /// It failed before the new agent was started.
    pub(super) fn fail(&mut self, failure: &Failure) {
        self.failed_with(Status::Failed, failure);
    }

    /// The old version acts, and `current` names it.
    pub(super) fn returned(&mut self, failure: &Failure) {
        self.failed_with(Status::RolledBack, failure);
    }

    fn failed_with(&mut self, status: Status, failure: &Failure) {
        let Some(upgrade) = self.ledger.upgrade.take() else { return };
        let facts = self.facts;
        let tally = self.ledger.tally.take().filter(|tally| tally.of == upgrade.of);
        let (failures, mut strikes) = tally.map_or((0, 0), |tally| (tally.failures, tally.strikes));
        let mut why = failure.why.clone();
        let blamed = match failure.fault {
            Fault::Release => true,
            Fault::Doubt => {
                strikes = strikes.saturating_add(1);
                why = format!("{why} (time {strikes} of {})", facts.bounds.strikes);
                strikes >= facts.bounds.strikes
            }
            Fault::Unconnected => facts.mesh.stands_for(facts.up_ms, facts.bounds.witness_ms),
            Fault::Nobody => false,
        };
        self.ledger.last = Some(Outcome { blamed, ..self.outcome(&upgrade, status, why.clone()) });
        if blamed {
            return self.ledger.deny(Denied { of: upgrade.of, version: upgrade.version, status, why });
        }
        self.ledger.tally = Some(Tally {
            of: upgrade.of,
            failures: failures.saturating_add(1),
            strikes,
            since: Moment::now(facts),
            boots: 0,
            boot: facts.boot.clone(),
        });
    }

    /// Why a trial ends unconfirmed when its time is over.
    pub(super) fn unconfirmed(&self, proof: Proof, bound_ms: u64) -> Failure {
        let within = format!("within {} s", bound_ms / 1000);
        let (fault, why) = match (self.facts.mesh.stands_for(self.facts.up_ms, 0), proof) {
            (false, Proof::Acts | Proof::Reconciled) => (Fault::Unconnected, "the new agent was not connected"),
            (true, Proof::Acts) => (Fault::Doubt, "the new agent did not reconcile"),
            (true, Proof::Reconciled) => (Fault::Nobody, "the coordinator did not confirm the new agent"),
        };
        Failure::new(fault, format!("{why} {within}"))
    }

    /// Boots end a pause too.
    pub(super) fn count_boot(&mut self) {
        if let Some(tally) = self.ledger.tally.as_mut().filter(|tally| tally.boot != self.facts.boot) {
            tally.boot.clone_from(&self.facts.boot);
            tally.boots = tally.boots.saturating_add(1);
        }
    }
}
