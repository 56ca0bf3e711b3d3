//! What the holder of the lease does about effects that could not be done, and about time that is over.

use bramble_contracts::v1::Status;

use super::effect::{Effect, ExitCode};
use super::event::{Failure, Fault};
use super::ledger::Phase;
use super::step::{Turn, Who};

impl Turn<'_> {
    pub(super) fn failed(&mut self, effect: &Effect, why: &str) {
        let nobody = |what: &str| Failure::new(Fault::Nobody, format!("{what}: {why}"));
        let (who, phase) = (self.who(), self.ledger.upgrade.as_ref().map(|upgrade| upgrade.phase.clone()));
        if self.ledger.upgrade.as_ref().is_some_and(|upgrade| !upgrade.is_cut_over()) {
            // What was to follow in the list was not tried either.
            self.fail(&nobody(&format!("could not {effect}")));
        }
        match effect {
            Effect::Act if who == Who::New => {
                self.give_up(Failure::new(Fault::Doubt, format!("the new agent could not act: {why}")));
            }
            Effect::Act => self.out.push(Effect::Exit(ExitCode::Restart)),
            Effect::StartInstance(_) if phase != Some(Phase::Starting) => {
                self.out.push(Effect::Exit(ExitCode::Restart));
            }
            Effect::StopInstance(_)
            | Effect::TurnLink(_)
            | Effect::StartInstance(_)
            | Effect::Halt
            | Effect::ReleaseLease
            | Effect::WaitForLease
            | Effect::MarkConfirmed(_)
            | Effect::RaiseFloor(_)
            | Effect::EnableInstance(_) => {
                let handing = matches!(phase, Some(Phase::Starting | Phase::Halting | Phase::Released));
                if handing && who == Who::Confirmed {
                    self.turn_back(nobody(&format!("could not {effect}")));
                } else {
                    self.mend_later();
                }
            }
            // Of an upgrade that has just failed, or of one that is done again at the next start.
            Effect::Judge(_) | Effect::Stage { .. } | Effect::SelfTest { .. } | Effect::Abandon | Effect::Prune => {}
            // A process that was told to end ends.
            Effect::Exit(_) => {}
        }
    }

    /// Why it is on its way back, if it is.
    pub(super) fn returning(&self) -> Option<Failure> {
        match self.ledger.upgrade.as_ref().map(|upgrade| &upgrade.phase)? {
            Phase::Returning(failure) => Some(failure.clone()),
            Phase::Judging
            | Phase::Staging
            | Phase::Verifying
            | Phase::Starting
            | Phase::Halting
            | Phase::Released
            | Phase::Trial { .. } => None,
        }
    }

    /// What could not be done is tried again after a while. Until then whoever is here acts: somebody has to.
    fn mend_later(&mut self) {
        self.ledger.mend = Some(self.now());
        self.out.push(Effect::Act);
    }

    /// What has taken too long, and what is to be tried again.
    pub(super) fn overdue(&mut self) {
        let mend_ms = self.facts.bounds.mend_ms;
        if self.ledger.mend.as_ref().is_some_and(|since| since.elapsed_ms(self.facts) >= mend_ms) {
            self.mend();
        }
        let Some(upgrade) = self.ledger.upgrade.as_ref().filter(|_| self.who() != Who::Stranger) else { return };
        let bound_ms = upgrade.bound_ms(&self.facts.bounds);
        if upgrade.since.elapsed_ms(self.facts) < bound_ms {
            return;
        }
        let failure = |fault, what: &str| Failure::new(fault, format!("{what} within {} s", bound_ms / 1000));
        match upgrade.phase {
            Phase::Judging => self.give_over(&failure(Fault::Nobody, "keys, manifest and timestamp were not judged")),
            Phase::Staging => self.give_over(&failure(Fault::Nobody, "the binary did not come in")),
            Phase::Verifying => self.give_over(&failure(Fault::Doubt, "the self-test did not end")),
            Phase::Starting => self.turn_back(failure(Fault::Unconnected, "the new agent was not ready")),
            Phase::Halting => self.turn_back(failure(Fault::Nobody, "the old agent did not come to a halt")),
            Phase::Released => self.turn_back(failure(Fault::Nobody, "the lease was not let go")),
            Phase::Trial { proof, .. } => {
                let failure = self.unconfirmed(proof, bound_ms);
                self.give_up(failure);
            }
            Phase::Returning(_) => self.mend(),
        }
    }

    fn give_over(&mut self, failure: &Failure) {
        self.out.push(Effect::Abandon);
        self.fail(failure);
    }

    fn mend(&mut self) {
        self.ledger.mend = None;
        match (self.who(), self.returning()) {
            (Who::Confirmed, Some(failure)) => self.turn_back(failure),
            (Who::New, Some(failure)) => self.give_up(failure),
            (Who::Confirmed, None) => {
                self.repair();
                if self.ledger.last.as_ref().is_some_and(|last| last.status == Status::RolledBack) {
                    self.out.push(Effect::StopInstance(self.facts.instance.other()));
                }
            }
            (Who::Stranger, _) => self.out.push(Effect::TurnLink(self.ledger.confirmed.version)),
            (Who::New, None) => {}
        }
    }
}
