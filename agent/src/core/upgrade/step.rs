//! One event, told to the process that holds the lease: what it stores, and what it has done about it.
//!
//! Decides when an upgrade goes on, is turned back and is confirmed. When one begins is `begin`'s word, who is to blame
//! `blame`'s, and what the process that waits does `standby`'s.

use bramble_contracts::v1::{AgentVersion, Instance, Status};
use bramble_contracts::v2::UpgradeWord;

use super::effect::{Effect, ExitCode};
use super::event::{Attempt, Event, Failure, Fault};
use super::facts::{Facts, Lease, TurnedBack};
use super::ledger::{Confirmed, Ledger, Moment, Phase, Proof, Upgrade};
use super::standby;

/// What follows from `event`. The ledger that comes back is stored, where it changed, before the first effect is done.
/// When it cannot be stored, the step has not happened: the event is told again after `bounds.mend_ms`.
pub fn step(ledger: Ledger, event: &Event, facts: &Facts) -> (Ledger, Vec<Effect>) {
    match facts.lease {
        Lease::Held => {
            let mut turn = Turn { ledger, facts, out: Vec::new() };
            turn.take(event);
            (turn.ledger, turn.out)
        }
        Lease::NotHeld => {
            let out = standby::step(&ledger, event, facts);
            (ledger, out)
        }
    }
}

/// What this process is to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The version that runs when nothing is under way.
    Confirmed,
    /// The version that an upgrade has started.
    New,
    /// Neither: it does not act.
    Stranger,
}

impl Who {
    pub(super) fn of(own: AgentVersion, ledger: &Ledger) -> Self {
        let new = ledger.upgrade.as_ref().is_some_and(|upgrade| upgrade.version == own && upgrade.is_cut_over());
        if own == ledger.confirmed.version {
            Self::Confirmed
        } else if new {
            Self::New
        } else {
            Self::Stranger
        }
    }
}

impl Upgrade {
    /// Has `current` been turned, perhaps?
    pub fn is_cut_over(&self) -> bool {
        match self.phase {
            Phase::Judging | Phase::Staging | Phase::Verifying => false,
            Phase::Starting | Phase::Halting | Phase::Released | Phase::Trial { .. } | Phase::Returning(_) => true,
        }
    }
}

/// How a process ends that another one is to replace: the instance that a boot starts is started again by its supervisor.
pub(super) fn end(instance: Instance, ledger: &Ledger) -> Effect {
    let home = instance == ledger.confirmed.instance;
    Effect::Exit(if home { ExitCode::Restart } else { ExitCode::Retire })
}

/// One step of the holder.
pub(super) struct Turn<'a> {
    pub(super) ledger: Ledger,
    pub(super) facts: &'a Facts,
    pub(super) out: Vec<Effect>,
}

impl Turn<'_> {
    fn take(&mut self, event: &Event) {
        match event {
            // A stranger only goes.
            Event::Judged { .. }
            | Event::Staged { .. }
            | Event::Tested { .. }
            | Event::Ready { .. }
            | Event::Halted
            | Event::Reconciled
            | Event::Word(_)
            | Event::InstanceGone(_)
            | Event::Wished
                if self.who() == Who::Stranger => {}
            Event::Started | Event::LeaseGot => self.acquired(),
            Event::Judged { of, result } => self.judged(of, result),
            Event::Staged { of, result } => self.staged(of, result),
            Event::Tested { of, result } => self.tested(of, result),
            Event::Ready { of, result } => self.ready(of, result),
            Event::LinkTurned(version) => self.link_turned(*version),
            Event::Halted => self.halted(),
            Event::Reconciled => self.reconciled(),
            Event::Word(word) => self.word(word),
            Event::InstanceGone(instance) => self.gone(*instance),
            Event::Failed { effect, why } => self.failed(effect, why),
            Event::Wished | Event::Tick => self.overdue(),
        }
        self.consider();
    }

    pub(super) fn who(&self) -> Who {
        Who::of(self.facts.own, &self.ledger)
    }

    pub(super) fn now(&self) -> Moment {
        Moment::now(self.facts)
    }

    /// The upgrade, where it is in this phase and `of` names it.
    fn waits_for(&mut self, of: &Attempt, phase: &Phase) -> Option<&mut Upgrade> {
        self.ledger.upgrade.as_mut().filter(|upgrade| upgrade.of == *of && upgrade.phase == *phase)
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        let now = self.now();
        if let Some(upgrade) = &mut self.ledger.upgrade {
            (upgrade.phase, upgrade.since) = (phase, now);
        }
    }

    /// The lease is this process's: from its start on, or because the other one let it go or died.
    fn acquired(&mut self) {
        self.count_boot();
        let by_hand = self.facts.links.is_none_or(|links| {
            let here = (links.current, links.confirmed) == (self.facts.own, self.facts.own);
            here && self.who() != Who::Confirmed
        });
        if by_hand {
            return self.adopt();
        }
        let phase = self.ledger.upgrade.as_ref().map(|upgrade| upgrade.phase.clone());
        match (self.who(), phase) {
            (Who::Confirmed, None) => self.settle(),
            (Who::Confirmed, Some(phase)) => self.old_acquired(phase),
            (Who::New, Some(phase)) => self.new_acquired(&phase),
            (Who::New, None) | (Who::Stranger, _) => self.out.push(Effect::TurnLink(self.ledger.confirmed.version)),
        }
    }

    /// Somebody put this version here by hand, or it does not replace itself at all: what was under way is void.
    fn adopt(&mut self) {
        self.ledger.upgrade = None;
        let Facts { own, instance, .. } = *self.facts;
        if self.ledger.confirmed.version != own {
            self.ledger.confirmed = Confirmed { version: own, release_seq: 0, min_seq: 0, instance };
        }
        self.settle();
    }

    /// Nothing is under way: this process acts, and all is made as the ledger says.
    fn settle(&mut self) {
        self.ledger.confirmed.instance = self.facts.instance;
        if let Some(last) = &mut self.ledger.last {
            last.beside = None;
        }
        self.out.push(Effect::Act);
        self.repair();
    }

    pub(super) fn repair(&mut self) {
        self.ledger.mend = None;
        if self.facts.links.is_none() {
            return;
        }
        let Confirmed { version, min_seq, instance, .. } = self.ledger.confirmed;
        self.out.extend([
            Effect::RaiseFloor(min_seq),
            Effect::TurnLink(version),
            Effect::MarkConfirmed(version),
            Effect::EnableInstance(instance),
            Effect::Prune,
        ]);
    }

    /// The old version acts (again), in the middle of an upgrade.
    fn old_acquired(&mut self, phase: Phase) {
        let interrupted = "the agent was restarted in the middle of it";
        let guard = self.facts.guard.map(|turned| {
            let fault = match turned {
                TurnedBack::Crashes => Fault::Release,
                TurnedBack::Boots => Fault::Doubt,
            };
            Failure::new(fault, format!("the guard turned back: {turned}"))
        });
        match phase {
            Phase::Judging | Phase::Staging => self.fail(&Failure::new(Fault::Nobody, interrupted)),
            Phase::Verifying => self.fail(&Failure::new(Fault::Doubt, format!("{interrupted}, at its self-test"))),
            Phase::Starting | Phase::Halting => {
                return self.turn_back(guard.unwrap_or_else(|| Failure::new(Fault::Nobody, interrupted)));
            }
            Phase::Released | Phase::Trial { .. } => {
                return self.turn_back(guard.unwrap_or_else(|| self.left_by_new(&phase)));
            }
            Phase::Returning(failure) => return self.turn_back(failure),
        }
        self.settle();
    }

    /// Why the new one does not hold the lease any more, when it did not say so.
    fn left_by_new(&self, phase: &Phase) -> Failure {
        let bounds = &self.facts.bounds;
        let time_ms = if *phase == Phase::Released { bounds.handover_ms } else { bounds.trial_ms };
        let elapsed_ms = self.ledger.upgrade.as_ref().map_or(0, |upgrade| upgrade.since.elapsed_ms(self.facts));
        if elapsed_ms >= time_ms.saturating_add(bounds.grace_ms) {
            return Failure::new(Fault::Release, "the new agent did nothing when its time was over, and was ended");
        }
        Failure::new(Fault::Doubt, "the new agent ended before it was confirmed")
    }

    /// The new version has the lease: its trial begins, or goes on after a restart of it.
    fn new_acquired(&mut self, phase: &Phase) {
        let (instance, facts) = (self.facts.instance, self.facts);
        let Some(upgrade) = &mut self.ledger.upgrade else { return };
        let boots = match phase {
            Phase::Returning(_) | Phase::Judging | Phase::Staging | Phase::Verifying => {
                return self.out.push(Effect::TurnLink(self.ledger.confirmed.version));
            }
            Phase::Starting | Phase::Halting | Phase::Released => {
                // The halt, and the way of the lease; unknown when the old one did not come to a halt by itself.
                let halt_ms = upgrade.unmanaged_ms.filter(|_| *phase == Phase::Released);
                upgrade.unmanaged_ms =
                    halt_ms.zip(upgrade.since.exactly_ms(facts)).map(|(halt, way)| halt.saturating_add(way));
                upgrade.since = Moment::now(facts);
                1
            }
            Phase::Trial { boots, .. } if upgrade.since.boot == facts.boot => *boots,
            Phase::Trial { boots, .. } => {
                upgrade.since = Moment::now(facts);
                boots.saturating_add(1)
            }
        };
        upgrade.phase = Phase::Trial { instance, boots, proof: Proof::Acts };
        if boots > facts.bounds.trial_boots {
            let why = format!("it was not confirmed in {} boots", facts.bounds.trial_boots);
            return self.give_up(Failure::new(Fault::Nobody, why));
        }
        self.out.push(Effect::Act);
        self.overdue();
    }

    fn staged(&mut self, of: &Attempt, result: &Result<(), Failure>) {
        let Some(upgrade) = self.waits_for(of, &Phase::Staging) else { return };
        let version = upgrade.version;
        match result {
            Ok(()) => {
                self.enter(Phase::Verifying);
                // One that an earlier upgrade left there goes: its place is needed.
                self.out.push(Effect::StopInstance(self.facts.instance.other()));
                self.out.push(Effect::SelfTest { of: *of, version });
            }
            Err(failure) => self.fail(failure),
        }
    }

    fn tested(&mut self, of: &Attempt, result: &Result<(), Failure>) {
        let Some(upgrade) = self.waits_for(of, &Phase::Verifying) else { return };
        let version = upgrade.version;
        if let Err(failure) = result {
            return self.fail(failure);
        }
        if !self.facts.mesh.stands_for(self.facts.up_ms, 0) {
            return self.fail(&Failure::new(Fault::Nobody, "the connection was lost before the new agent was started"));
        }
        self.enter(Phase::Starting);
        self.out.extend([Effect::TurnLink(version), Effect::StartInstance(self.facts.instance.other())]);
    }

    fn ready(&mut self, of: &Attempt, result: &Result<(), Failure>) {
        if self.waits_for(of, &Phase::Starting).is_none() {
            return;
        }
        match result {
            Ok(()) => {
                self.enter(Phase::Halting);
                self.out.push(Effect::Halt);
            }
            Err(failure) => self.turn_back(failure.clone()),
        }
    }

    fn halted(&mut self) {
        let facts = self.facts;
        if let Some(upgrade) = self.ledger.upgrade.as_mut().filter(|upgrade| upgrade.phase == Phase::Halting) {
            upgrade.unmanaged_ms = upgrade.since.exactly_ms(facts);
            self.enter(Phase::Released);
            self.out.extend([Effect::ReleaseLease, Effect::WaitForLease]);
        }
    }

    fn reconciled(&mut self) {
        if self.who() == Who::New
            && let Some(Upgrade { phase: Phase::Trial { proof, .. }, .. }) = &mut self.ledger.upgrade
        {
            *proof = Proof::Reconciled;
        }
    }

    fn word(&mut self, word: &UpgradeWord) {
        match word {
            UpgradeWord::Confirm { release_seq } => self.confirm(*release_seq),
            UpgradeWord::Abort { release_seq, why } => {
                self.abort(*release_seq, &Failure::new(Fault::Release, format!("given up by the coordinator: {why}")));
            }
            // Who acts never stops itself.
            UpgradeWord::Retire => {}
        }
    }

    fn confirm(&mut self, release_seq: u64) {
        let proven = |upgrade: &Upgrade| matches!(upgrade.phase, Phase::Trial { proof: Proof::Reconciled, .. });
        let named = |upgrade: &Upgrade| upgrade.release_seq == release_seq;
        if self.who() != Who::New || !self.ledger.upgrade.as_ref().is_some_and(|u| named(u) && proven(u)) {
            return;
        }
        let Some(upgrade) = self.ledger.upgrade.take() else { return };
        let (old, instance) = (self.ledger.confirmed.instance, self.facts.instance);
        let min_seq = upgrade.admitted.map_or(0, |admitted| admitted.min_seq);
        self.ledger.confirmed = Confirmed { version: upgrade.version, release_seq, min_seq, instance };
        self.ledger.tally = None;
        self.ledger.denied.retain(|denied| denied.of.manifest != upgrade.of.manifest);
        let mut last = self.outcome(&upgrade, Status::Confirmed, String::new());
        last.beside = (old != instance).then_some(old);
        self.ledger.last = Some(last);
        self.repair();
    }

    fn abort(&mut self, release_seq: u64, failure: &Failure) {
        match &self.ledger.upgrade {
            Some(upgrade) if upgrade.release_seq == release_seq => match upgrade.phase {
                Phase::Judging | Phase::Staging | Phase::Verifying => {
                    self.out.push(Effect::Abandon);
                    self.fail(failure);
                }
                Phase::Starting | Phase::Halting | Phase::Released => self.turn_back(failure.clone()),
                Phase::Trial { .. } => self.give_up(failure.clone()),
                Phase::Returning(_) => {}
            },
            Some(_) => {}
            None => self.refuse_wish(release_seq, failure),
        }
    }

    fn gone(&mut self, instance: Instance) {
        let starts = |upgrade: &Upgrade| matches!(upgrade.phase, Phase::Starting | Phase::Halting);
        if self.ledger.upgrade.as_ref().is_some_and(starts) {
            if instance != self.facts.instance {
                self.turn_back(Failure::new(Fault::Doubt, "the new agent ended before it took over"));
            }
        } else if let Some(last) = self.ledger.last.as_mut().filter(|last| last.beside == Some(instance)) {
            last.beside = None;
        }
    }

    /// The old version acts, and all goes back.
    pub(super) fn turn_back(&mut self, failure: Failure) {
        self.ledger.mend = None;
        self.enter(Phase::Returning(failure));
        let (version, instance) = (self.ledger.confirmed.version, self.facts.instance.other());
        self.out.extend([Effect::Act, Effect::TurnLink(version), Effect::StopInstance(instance)]);
    }

    /// The new version ends its own trial.
    pub(super) fn give_up(&mut self, failure: Failure) {
        self.ledger.mend = None;
        self.enter(Phase::Returning(failure));
        self.out.push(Effect::TurnLink(self.ledger.confirmed.version));
    }

    fn link_turned(&mut self, version: AgentVersion) {
        if version != self.ledger.confirmed.version {
            return;
        }
        match (self.who(), self.returning()) {
            (Who::Confirmed, Some(failure)) => {
                self.returned(&failure);
                // The guard may have brought it back in the other instance.
                if self.ledger.confirmed.instance != self.facts.instance {
                    self.ledger.confirmed.instance = self.facts.instance;
                    self.out.push(Effect::EnableInstance(self.facts.instance));
                }
            }
            (Who::New, Some(_)) | (Who::Stranger, _) => self.leave(),
            (Who::Confirmed | Who::New, None) => {}
        }
    }

    /// Ends this process in favour of the confirmed version's instance.
    pub(super) fn leave(&mut self) {
        let home = self.ledger.confirmed.instance;
        if home != self.facts.instance {
            self.out.push(Effect::StartInstance(home));
        }
        self.out.push(end(self.facts.instance, &self.ledger));
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::bytes::Sha256;

    use super::*;
    use crate::core::upgrade::testing::{facts, version, wish};
    use crate::core::upgrade::{Admission, Links, Mesh, Outcome, wake_at};

    fn after(ledger: Ledger, events: &[Event], facts: &Facts) -> Ledger {
        events.iter().fold(ledger, |ledger, event| step(ledger, event, facts).0)
    }

    fn admitted(minor: u16) -> Admission {
        let (sha256, seq) = (Sha256::of(b"binary"), minor.into());
        Admission { version: version(minor), release_seq: seq, min_seq: 1, size: 1, sha256 }
    }

    fn wished(minor: u16, attempt: u32) -> Facts {
        Facts { wish: Some(wish(minor, attempt)), ..facts(version(5)) }
    }

    /// On its way to 0.6.0, where the new agent starts.
    fn starting() -> (Ledger, Facts, Attempt) {
        let (facts, of) = (wished(6, 1), Attempt::from(&wish(6, 1)));
        let events = [
            Event::Wished,
            Event::Judged { of, result: Ok(admitted(6)) },
            Event::Staged { of, result: Ok(()) },
            Event::Tested { of, result: Ok(()) },
        ];
        let ledger = after(Ledger::new(version(5), Instance::A), &events, &facts);
        assert_eq!(ledger.upgrade.as_ref().unwrap().phase, Phase::Starting);
        (ledger, facts, of)
    }

    #[test]
    fn a_late_answer_changes_nothing() {
        let old = Attempt::from(&wish(6, 1));
        let bad = Failure::new(Fault::Release, "it is bad");
        let late = [
            Event::Judged { of: old, result: Err(bad.clone()) },
            Event::Staged { of: old, result: Err(bad.clone()) },
            Event::Tested { of: old, result: Err(bad.clone()) },
            Event::Ready { of: old, result: Err(bad.clone()) },
            Event::Staged { of: old, result: Ok(()) },
        ];
        let (now, of) = (wished(7, 1), Attempt::from(&wish(7, 1)));
        let mut ledger = after(Ledger::new(version(5), Instance::A), &[Event::Wished], &wished(6, 1));
        let on_time = [
            Event::Wished,
            Event::Judged { of, result: Ok(admitted(7)) },
            Event::Staged { of, result: Ok(()) },
            Event::Tested { of, result: Ok(()) },
            Event::Ready { of, result: Ok(()) },
        ];
        for event in on_time {
            ledger = after(ledger, &[event], &now);
            assert_eq!(after(ledger.clone(), &late, &now), ledger);
        }
        let again = wished(7, 2);
        let retried = after(Ledger::new(version(5), Instance::A), &[Event::Wished], &again);
        let of_first = Event::Judged { of, result: Err(bad) };
        assert_eq!(after(retried.clone(), &[of_first], &again), retried, "of another attempt");
    }

    #[test]
    fn who_waits_writes_nothing_and_goes_only_when_it_is_spare() {
        let (ledger, facts, _) = starting();
        let waits = Facts { lease: Lease::NotHeld, own: version(6), instance: Instance::B, ..facts };
        let confirm = Event::Word(UpgradeWord::Confirm { release_seq: 6 });
        for event in [Event::Wished, Event::Halted, Event::Reconciled, confirm, Event::Tick, Event::LeaseGot] {
            assert_eq!(step(ledger.clone(), &event, &waits), (ledger.clone(), vec![]), "{event}");
        }
        let retire = Event::Word(UpgradeWord::Retire);
        assert_eq!(step(ledger.clone(), &retire, &waits).1, [], "a hand-over is under way");
        let idle = Ledger::new(version(5), Instance::A);
        assert_eq!(step(idle.clone(), &retire, &waits).1, [Effect::Exit(ExitCode::Retire)]);
        let home = Facts { own: version(5), instance: Instance::A, ..waits.clone() };
        assert_eq!(step(idle.clone(), &retire, &home).1, [], "a boot starts this one");
        assert_eq!(step(idle, &Event::Started, &waits).1, [Effect::Exit(ExitCode::Retire)], "one too many");
    }

    #[test]
    fn what_somebody_installs_by_hand_is_taken_over_and_what_is_not_linked_goes() {
        let (ledger, mut facts, _) = starting();
        facts.own = version(9);
        facts.links = Some(Links { current: version(9), confirmed: version(9) });
        let (taken, effects) = step(ledger.clone(), &Event::Started, &Facts { wish: None, ..facts.clone() });
        assert_eq!((taken.confirmed.version, taken.upgrade), (version(9), None));
        assert!(effects.contains(&Effect::Act));
        facts.links = Some(Links { current: version(9), confirmed: version(5) });
        let (same, effects) = step(ledger.clone(), &Event::Started, &facts);
        assert_eq!((same, effects), (ledger.clone(), vec![Effect::TurnLink(version(5))]));
        let gone = step(ledger.clone(), &Event::LinkTurned(version(5)), &facts).1;
        assert_eq!(gone, [Effect::Exit(ExitCode::Restart)]);
        let unmanaged = Facts { links: None, own: version(9), ..facts };
        let (taken, effects) = step(ledger, &Event::Started, &unmanaged);
        assert_eq!((taken.upgrade, effects), (None, vec![Effect::Act]), "one that is run from anywhere just acts");
    }

    #[test]
    fn a_release_that_is_run_already_is_there_and_an_abort_before_it_begins_refuses_it() {
        let (ledger, same) = (Ledger::new(version(5), Instance::A), wished(5, 1));
        let last = after(ledger.clone(), &[Event::Wished], &same).last.unwrap();
        assert_eq!((last.status, last.of), (Status::Confirmed, Attempt::from(&wish(5, 1))));
        let offline = Facts { mesh: Mesh::Down, ..wished(6, 1) };
        let abort = Event::Word(UpgradeWord::Abort { release_seq: 6, why: "stop".into() });
        let given_up = after(ledger, &[Event::Wished, abort], &offline);
        assert!(matches!(given_up.last, Some(Outcome { blamed: true, .. })));
        assert_eq!(after(given_up.clone(), &[Event::Wished], &wished(6, 1)).upgrade, None);
        assert!(after(given_up, &[Event::Wished], &wished(6, 2)).upgrade.is_some(), "an operator retries");
    }

    #[test]
    fn time_is_news_at_the_end_of_every_phase() {
        let (ledger, facts, _) = starting();
        let due = wake_at(&ledger, &facts).unwrap();
        assert_eq!(due, facts.up_ms + facts.bounds.start_ms);
        let early = Facts { up_ms: due - 1, ..facts.clone() };
        assert_eq!(step(ledger.clone(), &Event::Tick, &early), (ledger.clone(), vec![]));
        let (late, effects) = step(ledger, &Event::Tick, &Facts { up_ms: due, ..facts.clone() });
        assert!(matches!(late.upgrade.unwrap().phase, Phase::Returning(_)));
        assert_eq!(effects[..2], [Effect::Act, Effect::TurnLink(version(5))]);
        assert_eq!(wake_at(&Ledger::new(version(5), Instance::A), &facts), None, "nothing is due");
    }
}
