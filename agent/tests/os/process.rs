//! Who acts on the simulated device: the agent, which drives the real machine, and the probation timer, which is no part of it.

use std::collections::BTreeMap;

use bramble_agent::core::os::{
    App, Bounds, Effect, Enforced, Event, Facts, Ledger, Order, OwnUpgrade, Phase, Place, Protection, Reason, Sentence,
    Unit, Upgrade, Verb, Volumes, Way, enforce, place, step, wake_at,
};
use bramble_agent::core::upgrade::{Clock, Mesh};
use bramble_contracts::boot::Phase as Tagged;

use super::bugs::Bug;
use super::kinds::Kind;
use super::units::APPLY_MAX;
use super::world::{Done, Due, SECOND, World};

impl World {
    pub fn is_new(&self) -> bool {
        self.root.version > self.base
    }

    pub fn agent_starts(&mut self) {
        self.agents += 1;
        self.agent = Some(self.agents);
        self.connected = (self.mesh_up && !(self.is_new() && self.kind == Kind::NoBroker)).then(|| self.up() + 1);
        if self.is_new() && self.kind == Kind::Reconnects {
            for at in [4, 9] {
                self.after(at * SECOND, Due::News);
            }
        }
        self.after(2, Due::News);
    }

    pub fn kill_agent(&mut self) {
        if self.agent.take().is_some() {
            self.connected = None;
            self.after(SECOND, Due::AgentStarts);
        }
    }

    pub fn mesh(&self) -> Mesh {
        let up = self.up();
        let new = self.is_new();
        // Within a trial: 14 s to 19 s, and every 15 s.
        match self.kind {
            Kind::Reconnects if new && (14 * SECOND..19 * SECOND).contains(&up) => return Mesh::Down,
            Kind::Reconnects if new && up >= 19 * SECOND && self.connected.is_some() => {
                return Mesh::Up { since_ms: self.connected.unwrap_or(0).max(19 * SECOND) };
            }
            Kind::Flaps if new && up % (15 * SECOND) < 2 * SECOND => return Mesh::Down,
            Kind::Flaps if new && self.connected.is_some() => {
                return Mesh::Up { since_ms: up - up % (15 * SECOND) + 2 * SECOND };
            }
            _ => {}
        }
        self.connected.map_or(Mesh::Down, |since_ms| Mesh::Up { since_ms })
    }

    pub fn facts(&self) -> Facts {
        let new = self.is_new();
        let ticket = self.disk.ledger.upgrade.as_ref().map(|upgrade| &upgrade.ticket);
        let unit = |verb: Verb| {
            let named = |order: &Order| order.verb == verb;
            let runs = self.job.as_ref().is_some_and(|job| named(&job.order)) || self.waiting.iter().any(named);
            let ended = || self.result_of(verb, ticket).map(Unit::Ended);
            Some((verb, if runs { Unit::Running } else { ended()? }))
        };
        let unreadable = self.lvm_until > self.now && self.bug != Some(Bug::AgentTakesErrorForNone);
        let sick = new && self.kind == Kind::SickApp && self.bug != Some(Bug::AppsNotAsked);
        Facts {
            up_ms: self.up(),
            boot: self.boot_id(),
            wish: self.wish.clone(),
            protection: if self.bootcount { Protection::Bootcount } else { Protection::Tryboot },
            volumes: match self.disk.volumes() {
                _ if unreadable => Volumes::Unreadable("input/output error".into()),
                _ if self.lvm_until > self.now => Volumes::Plain,
                seen => seen,
            },
            booted: Some(self.slot),
            autoboot: self.autoboot,
            record: self.record.clone(),
            put_back: self.disk.put_back,
            stamp: self.root.stamp.clone(),
            units: Verb::ALL.into_iter().filter_map(unit).collect(),
            sentence: self.disk.sentence.clone(),
            room: Some(self.room),
            apps: BTreeMap::from([
                ("cam".to_owned(), App { revision: 3, sick: Some("it never ran".into()) }),
                ("web".to_owned(), App { revision: 1, sick: sick.then(|| "probe http :80 → 500".into()) }),
            ]),
            mesh: self.mesh(),
            clock: match self.kind {
                Kind::ClockUnfit if new => Clock::Unfit("it is before the floor".into()),
                _ => Clock::Fit,
            },
            window: self.window.clone(),
            own_upgrade: self.own_upgrade,
            panic: self.panic.clone(),
            bounds: Bounds { apply_ms: APPLY_MAX, ..Bounds::default() },
        }
    }

    pub fn look(&mut self, event: &Event) {
        let Some(agent) = self.agent.filter(|_| !self.dark) else { return };
        let facts = self.facts();
        let (next, effects) = step(self.disk.ledger.clone(), event, &facts);
        self.check_beginning(&next);
        let acts_first = self.bug == Some(Bug::ActsBeforeStoring);
        if acts_first && !self.perform(agent, &effects) {
            return;
        }
        if next != self.disk.ledger && !self.store(agent, next) {
            return;
        }
        if !acts_first && !self.perform(agent, &effects) {
            return;
        }
        self.looks += 1;
        let facts = self.facts();
        if let Some(at) = wake_at(&self.disk.ledger, &facts) {
            self.after(at - self.up(), Due::Look(self.looks));
        }
    }

    pub fn check_beginning(&mut self, next: &Ledger) {
        let begins = self.disk.ledger.upgrade.is_none() && next.upgrade.is_some();
        let planned = next.upgrade.as_ref().is_some_and(|upgrade| upgrade.phase == Phase::Planning);
        if begins && planned {
            self.run_number += u32::from(self.disk.ledger.last.is_some());
            if self.disk.tagged().is_some() || self.own_upgrade == OwnUpgrade::UnderWay {
                self.is_wrong("an upgrade begins while another one is under way");
            }
        }
    }

    pub fn store(&mut self, agent: u32, next: Ledger) -> bool {
        let phase = next.upgrade.as_ref().map(|upgrade| format!("{:?}", upgrade.phase));
        let fails = |upgrade: &Upgrade| matches!(upgrade.phase, Phase::Failing(_) | Phase::Returning(_));
        self.judged_failed |= next.upgrade.as_ref().is_some_and(fails);
        let last = next.last.as_ref().map(|last| (last.status, last.reason.clone()));
        let what = || match &phase {
            Some(phase) => format!("agent: store {phase}"),
            None => format!("agent: store {last:?}"),
        };
        // A ledger that lies in the cache alone is as good as none when it is wanted.
        let lost = self.bug == Some(Bug::LedgerNotDurable)
            && next.upgrade.as_ref().is_some_and(|upgrade| upgrade.phase == Phase::Armed);
        let kept = if lost { Ledger::default() } else { next };
        match self.effect(&what, |world| world.disk.ledger = kept) {
            Done::Failed => {
                self.looks += 1;
                self.after(30 * SECOND, Due::Look(self.looks));
                false
            }
            Done::Dead => false,
            Done::Yes => self.agent == Some(agent),
        }
    }

    pub fn perform(&mut self, agent: u32, effects: &[Effect]) -> bool {
        for effect in effects {
            if self.kind == Kind::NoTryboot && matches!(effect, Effect::Reboot(Way::Trial, _)) {
                let why = "it takes no wishes".into();
                self.after(1, Due::Tell(Event::Failed { effect: effect.clone(), why }));
                return true;
            }
            match self.effect(&|| format!("agent: {effect}"), |world| world.agent_does(effect)) {
                Done::Yes if self.agent == Some(agent) => {}
                Done::Yes | Done::Dead => return false,
                Done::Failed => {
                    self.after(1, Due::Tell(Event::Failed { effect: effect.clone(), why: "it fails".into() }));
                    return true;
                }
            }
        }
        true
    }

    pub fn agent_does(&mut self, effect: &Effect) {
        match effect {
            Effect::ForgetPutBack => (self.disk.put_back, self.disk.sentence, self.panic) = (None, None, None),
            Effect::Start(order) => self.start_unit(order),
            Effect::Reboot(way, _) => {
                self.sync();
                self.flag = *way == Way::Trial;
                self.go_down();
            }
        }
    }

    /// The probation unit, which is no part of the agent.
    pub fn timer(&mut self) {
        if self.dark {
            return;
        }
        let facts = self.facts();
        let place = place(&facts);
        match enforce(Some(&self.disk.ledger), &place, facts.record.as_ref(), &facts.boot, facts.up_ms) {
            Enforced::Nothing => {}
            Enforced::LookAgain { at_ms } => self.after(at_ms.saturating_sub(self.up()).max(SECOND), Due::Timer),
            // Another unit holds the lock.
            Enforced::Fail(_) if self.job.is_some() => self.after(SECOND, Due::Timer),
            Enforced::Fail(reason) => self.sentence(&place, reason),
            Enforced::Reboot => self.timer_reboots(),
        }
    }

    pub fn timer_reboots(&mut self) {
        let reboot = |world: &mut Self| {
            world.sync();
            world.go_down();
        };
        if self.effect(&|| "probation: reboot".into(), reboot) == Done::Failed {
            self.after(5 * SECOND, Due::Timer);
        }
    }

    pub fn sentence(&mut self, place: &Place, reason: Reason) {
        assert_eq!(*place, Place::OnTrial);
        let ticket = self.disk.ledger.upgrade.as_ref().map(|upgrade| upgrade.ticket.clone());
        let said = Sentence { ticket, reason };
        self.judged_failed = true;
        let store = |world: &mut Self| world.disk.sentence = Some(said.clone());
        let tag = |world: &mut Self| {
            if world.bug != Some(Bug::FailTagForgotten) {
                world.tag(Tagged::Failed);
            }
        };
        let mut done = self.effect(&|| format!("probation: say why: {}", said.reason), store);
        if done == Done::Yes {
            done = self.effect(&|| "probation: tag it failed".into(), tag);
        }
        match done {
            Done::Yes => {}
            Done::Dead => return,
            // The unit is started again.
            Done::Failed => return self.after(5 * SECOND, Due::Timer),
        }
        self.timer_reboots();
    }
}
