//! One look at a device: what is stored, and what is done about it.
//!
//! Decides where an upgrade goes from where the ledger and the device say it is: a total table of both. What a unit comes to is
//! `drive`'s, what a device without a snapshot is `settle`'s, when one begins `begin`'s, how it ends `end`'s.

use bramble_contracts::boot::Outcome as Booted;

use super::drive::Driven;
use super::effect::{Effect, Verb, Way};
use super::event::Event;
use super::facts::Facts;
use super::ledger::{Ledger, Phase, Trial, Upgrade};
use super::place::{Place, place};
use super::probation::{self, Look, SIGN_MS, Verdict, Watch};
use super::reason::Reason;
use crate::core::upgrade::Moment;

/// More turns than one look can take.
const TURNS_MAX: usize = 16;

/// What follows from `event`. The ledger that comes back is stored, where it changed, before the first effect is done. When it
/// cannot be stored, the step has not happened: the event is told again after `bounds.mend_ms`. Only the agent that acts asks.
pub fn step(ledger: Ledger, event: &Event, facts: &Facts) -> (Ledger, Vec<Effect>) {
    let mut turn = Turn { ledger, facts, out: Vec::new() };
    match event {
        Event::Failed { effect, why } => turn.trouble(format!("could not {effect}: {why}")),
        Event::Look => turn.look(),
    }
    (turn.ledger, turn.out)
}

/// Does anything follow at once?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// The phase changed: look again.
    Again,
    /// It waits.
    Rest,
}

/// One step.
pub(super) struct Turn<'a> {
    pub(super) ledger: Ledger,
    pub(super) facts: &'a Facts,
    pub(super) out: Vec<Effect>,
}

impl Turn<'_> {
    fn look(&mut self) {
        self.count_boot();
        for _ in 0..TURNS_MAX {
            let flow = if self.ledger.upgrade.is_some() { self.advance() } else { self.idle() };
            if flow == Flow::Rest || !self.out.is_empty() {
                return;
            }
        }
    }

    pub(super) fn trouble(&mut self, why: String) {
        if let Some(upgrade) = &mut self.ledger.upgrade {
            upgrade.trouble = Some(why);
        }
    }

    pub(super) fn now(&self) -> Moment {
        Moment { boot: self.facts.boot.clone(), up_ms: self.facts.up_ms }
    }

    /// Into another phase, or into the same one in another boot.
    pub(super) fn enter(&mut self, phase: Phase) -> Flow {
        let (now, boot) = (self.now(), self.facts.boot.clone());
        if let Some(upgrade) = &mut self.ledger.upgrade {
            if upgrade.since.boot != boot {
                let base = if upgrade.ticket.began.boot == upgrade.since.boot { upgrade.ticket.began.up_ms } else { 0 };
                let watched = if let Phase::Trial(trial) = &upgrade.phase { trial.watch.looked_ms } else { 0 };
                let known = upgrade.since.up_ms.max(watched).saturating_sub(base);
                upgrade.spent_ms = upgrade.spent_ms.saturating_add(known);
            }
            (upgrade.phase, upgrade.since) = (phase, now);
            (upgrade.started, upgrade.trouble) = (None, None);
        }
        Flow::Again
    }

    fn upgrade(&self) -> Option<&Upgrade> {
        self.ledger.upgrade.as_ref()
    }

    /// Is this the boot in which the phase was entered?
    pub(super) fn is_here(&self) -> bool {
        self.upgrade().is_some_and(|upgrade| upgrade.since.boot == self.facts.boot)
    }

    /// Nothing is under way, by the ledger. Where the device says otherwise, it is right.
    fn idle(&mut self) -> Flow {
        let lost = Reason::LedgerLost;
        match place(self.facts) {
            Place::Unknown(_) => Flow::Rest,
            Place::Clean => self.consider(),
            Place::Applying | Place::BeforeTrial | Place::OnTrial => self.adopt(Phase::Failing(lost)),
            Place::Failed => self.adopt(Phase::Returning(lost)),
            Place::Committed => self.adopt(Phase::Removing),
        }
    }

    fn advance(&mut self) -> Flow {
        let Some(phase) = self.upgrade().map(|upgrade| upgrade.phase.clone()) else { return Flow::Rest };
        let place = match place(self.facts) {
            Place::Unknown(why) => {
                self.trouble(format!("where it is cannot be read: {why}"));
                return Flow::Rest;
            }
            known @ (Place::Clean
            | Place::Applying
            | Place::BeforeTrial
            | Place::OnTrial
            | Place::Committed
            | Place::Failed) => known,
        };
        match phase {
            Phase::Planning => self.preflight(&place, Self::planning),
            Phase::Fetching => self.preflight(&place, Self::fetching),
            Phase::Snapshot => self.snapshot(&place),
            Phase::Applying => self.applying(&place),
            Phase::Arming => self.arming(&place),
            Phase::Armed => self.armed(&place),
            Phase::Trial(trial) => self.trial(&place, &trial),
            Phase::Committing { boots, spent_ms } => self.committing(&place, boots, spent_ms),
            Phase::Unsettled => self.unsettled(&place),
            Phase::Removing => self.removing(&place),
            Phase::Resyncing => self.resyncing(&place),
            Phase::Mending(reason) => self.mending(&place, reason),
            Phase::Failing(reason) => self.failing(&place, reason),
            Phase::Returning(reason) => self.returning(&place, reason),
            Phase::Degraded(reason) => self.degraded(&place, reason),
        }
    }

    fn preflight(&mut self, place: &Place, drive: fn(&mut Self) -> Flow) -> Flow {
        match place {
            Place::Clean if self.is_here() => drive(self),
            Place::Clean => {
                let max = self.facts.bounds.preflight_boots;
                let Some(upgrade) = &mut self.ledger.upgrade else { return Flow::Rest };
                upgrade.cut_off = upgrade.cut_off.saturating_add(1);
                if upgrade.cut_off > max { self.end_failed(Reason::Interrupted) } else { self.enter(Phase::Planning) }
            }
            Place::Applying
            | Place::BeforeTrial
            | Place::OnTrial
            | Place::Committed
            | Place::Failed
            | Place::Unknown(_) => self.end_failed(Reason::SnapshotThere),
        }
    }

    fn snapshot(&mut self, place: &Place) -> Flow {
        match (place, self.is_here()) {
            (Place::Clean, true) => match self.drive(Verb::Snapshot) {
                Driven::Waits | Driven::Did(_) => Flow::Rest,
                Driven::Cannot(reason) => self.end_failed(reason),
            },
            (Place::Applying, true) => self.enter(Phase::Applying),
            (_, _) => self.displaced(place, None),
        }
    }

    fn applying(&mut self, place: &Place) -> Flow {
        match (place, self.is_here()) {
            (Place::Applying, true) => match self.drive(Verb::Apply) {
                Driven::Waits => Flow::Rest,
                Driven::Did(_) => self.enter(Phase::Arming),
                Driven::Cannot(reason) => self.enter(Phase::Failing(reason)),
            },
            (_, _) => self.displaced(place, None),
        }
    }

    fn arming(&mut self, place: &Place) -> Flow {
        match (place, self.is_here()) {
            (Place::Applying, true) => match self.drive(Verb::Arm) {
                Driven::Waits | Driven::Did(_) => Flow::Rest,
                Driven::Cannot(reason) => self.enter(Phase::Failing(reason)),
            },
            (Place::BeforeTrial, true) => self.enter(Phase::Armed),
            (_, _) => self.displaced(place, None),
        }
    }

    fn armed(&mut self, place: &Place) -> Flow {
        match (place, self.is_here()) {
            (Place::BeforeTrial, true) => match self.no_reboot() {
                // Firmware that takes no wish never will.
                Some(why) => self.enter(Phase::Failing(Reason::Hindered(format!("no reboot on trial: {why}")))),
                None => self.reboot(Way::Trial),
            },
            (_, _) => self.displaced(place, None),
        }
    }

    fn trial(&mut self, place: &Place, trial: &Trial) -> Flow {
        match (place, self.is_here()) {
            (Place::OnTrial, true) => self.watch(trial),
            (Place::OnTrial, false) => self.try_again(trial.boots, trial.spent_with(&trial.watch)),
            (_, _) => self.displaced(place, None),
        }
    }

    fn watch(&mut self, trial: &Trial) -> Flow {
        let Facts { up_ms, mesh, clock, apps, .. } = self.facts;
        let Some(upgrade) = &mut self.ledger.upgrade else { return Flow::Rest };
        let terms = upgrade.wish.terms();
        let look = Look {
            up_ms: *up_ms,
            spent_ms: trial.spent_ms,
            mesh: *mesh,
            clock,
            apps,
            before: &upgrade.before,
            terms: &terms,
        };
        let (watch, verdict) = probation::probation(&trial.watch, &look);
        upgrade.down_ms = watch.first_well_ms.or(upgrade.down_ms);
        // What changes nothing is stored now and then: as a sign of life.
        let same = Watch { looked_ms: trial.watch.looked_ms, ..watch.clone() } == trial.watch;
        if !same || watch.looked_ms.saturating_sub(trial.watch.looked_ms) >= SIGN_MS {
            upgrade.phase = Phase::Trial(Trial { watch, ..trial.clone() });
        }
        match verdict {
            Verdict::Wait { .. } => Flow::Rest,
            Verdict::Pass => self.enter(Phase::Committing { boots: trial.boots, spent_ms: trial.spent_ms }),
            Verdict::Fail(reason) => self.enter(Phase::Failing(reason)),
        }
    }

    /// The new system is there: in its first boot, or again.
    pub(super) fn try_again(&mut self, boots: u8, spent_ms: u64) -> Flow {
        let outcome = self.facts.record.as_ref().map(|record| record.outcome);
        if outcome != Some(Booted::OnTrial) {
            return self.enter(Phase::Failing(Reason::GuardSilent));
        }
        if self.upgrade().map(|upgrade| &upgrade.ticket) != self.facts.stamp.as_ref() {
            return self.enter(Phase::Failing(Reason::RootIsOther));
        }
        // A later boot cannot be well before it was looked at.
        let watch = Watch { looked_ms: 0, ..Watch::default() };
        self.enter(Phase::Trial(Trial { boots: boots.saturating_add(1), spent_ms, watch }))
    }

    fn committing(&mut self, place: &Place, boots: u8, spent_ms: u64) -> Flow {
        match (place, self.is_here()) {
            // What the unit itself could not confirm is not taken for durable, whatever the file says now.
            (Place::OnTrial | Place::Committed, true) => match self.drive(Verb::Commit) {
                Driven::Did(_) if *place == Place::Committed => self.enter(Phase::Removing),
                // It says it did, and the device does not show it.
                Driven::Did(_) | Driven::Cannot(_) => self.enter(Phase::Unsettled),
                Driven::Waits => Flow::Rest,
            },
            (Place::OnTrial, false) => self.try_again(boots, spent_ms.saturating_add(SIGN_MS)),
            (Place::Clean, true) => self.settle(None),
            (_, _) => self.displaced(place, None),
        }
    }

    fn unsettled(&mut self, place: &Place) -> Flow {
        match (place, self.is_here()) {
            (Place::OnTrial | Place::Committed | Place::BeforeTrial | Place::Applying, true) => self.reboot(Way::Plain),
            (Place::Clean, true) => self.settle(None),
            (_, _) => self.displaced(place, None),
        }
    }

    fn removing(&mut self, place: &Place) -> Flow {
        match place {
            Place::Committed => match self.drive_on(Verb::Remove) {
                Driven::Waits | Driven::Did(_) | Driven::Cannot(_) => Flow::Rest,
            },
            Place::Clean => self.settle(None),
            Place::Applying | Place::BeforeTrial | Place::OnTrial | Place::Failed | Place::Unknown(_) => {
                self.displaced(place, None)
            }
        }
    }

    fn failing(&mut self, place: &Place, reason: Reason) -> Flow {
        match (place, self.is_here()) {
            (Place::Applying | Place::BeforeTrial | Place::OnTrial, true) => match self.drive(Verb::Fail) {
                Driven::Waits | Driven::Did(_) => Flow::Rest,
                // Then the guard finds out by itself, and counts.
                Driven::Cannot(_) => self.enter(Phase::Returning(reason)),
            },
            (Place::Failed, true) => self.enter(Phase::Returning(reason)),
            (_, _) => self.displaced(place, Some(reason)),
        }
    }

    fn returning(&mut self, place: &Place, reason: Reason) -> Flow {
        match (place, self.is_here()) {
            (Place::Applying | Place::BeforeTrial | Place::OnTrial | Place::Failed, true) => self.reboot(Way::Plain),
            (_, _) => self.displaced(place, Some(reason)),
        }
    }

    /// People help, or ask for another try on the way back.
    fn degraded(&mut self, place: &Place, reason: Reason) -> Flow {
        let Some(upgrade) = &mut self.ledger.upgrade else { return Flow::Rest };
        let again = self
            .facts
            .wish
            .as_ref()
            .filter(|wish| (&wish.id, wish.attempt) != (&upgrade.wish.id, upgrade.wish.attempt));
        match (place, again) {
            // Nobody knows what root is; packages written once more make it whole.
            (Place::Clean, Some(_)) if reason == Reason::SnapshotGone => self.end_failed(reason),
            (Place::Clean, None) if reason == Reason::SnapshotGone => Flow::Rest,
            (Place::Clean, _) => self.settle(Some(reason)),
            (_, Some(again)) if again.id == upgrade.wish.id && again.attempt > upgrade.wish.attempt => {
                (upgrade.wish.attempt, upgrade.returns) = (again.attempt, 0);
                self.enter(Phase::Failing(reason))
            }
            (_, _) => Flow::Rest,
        }
    }

    /// The device is not where the phase left it: mostly because it booted. What lasts is right.
    pub(super) fn displaced(&mut self, place: &Place, reason: Option<Reason>) -> Flow {
        let here = self.is_here();
        let failed = reason.clone().unwrap_or(Reason::GuardSilent);
        match place {
            // A root that packages were only half written to says nothing of it.
            Place::Clean if here && !self.has_new_root() => self.enter(Phase::Degraded(Reason::SnapshotGone)),
            Place::Clean => self.settle(reason),
            Place::Committed => self.enter(Phase::Removing),
            Place::OnTrial if reason.is_none() => self.try_again(0, 0),
            // The guard lets none of these go on in another boot, where it runs.
            Place::Applying | Place::BeforeTrial | Place::OnTrial if here => self.enter(Phase::Failing(failed)),
            Place::Applying | Place::BeforeTrial | Place::OnTrial => self.go_back(Phase::Failing(failed)),
            Place::Failed => {
                let reason = reason.unwrap_or_else(|| self.why_back());
                if here { self.enter(Phase::Returning(reason)) } else { self.go_back(Phase::Returning(reason)) }
            }
            Place::Unknown(_) => Flow::Rest,
        }
    }

    /// Another boot that did not end in the old system. The guard has bounds of its own.
    fn go_back(&mut self, phase: Phase) -> Flow {
        let degraded =
            self.facts.record.as_ref().is_some_and(|record| matches!(record.outcome, Booted::Degraded { .. }));
        let max = self.facts.bounds.returns;
        let Some(upgrade) = &mut self.ledger.upgrade else { return Flow::Rest };
        upgrade.returns = upgrade.returns.saturating_add(1);
        match phase {
            Phase::Failing(reason) | Phase::Returning(reason) if degraded || upgrade.returns > max => {
                self.enter(Phase::Degraded(reason))
            }
            other => self.enter(other),
        }
    }
}
