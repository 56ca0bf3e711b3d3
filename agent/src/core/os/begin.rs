//! When an upgrade begins, and what it looks at before anything is touched.
//!
//! Decides what stands in its way: for a while, which is told, or for good, which is refused until a retry. No wish is no
//! change, and a change of mind wins until the snapshot is made.

use bramble_contracts::boot::{Slot, Snapshot};
use bramble_contracts::v1::Status;

use super::drive::Driven;
use super::effect::Verb;
use super::facts::{Facts, OwnUpgrade, Room, Unit, Volumes};
use super::ledger::{Denied, Ledger, Outcome, Phase, Upgrade};
use super::packages::Plan;
use super::reason::{Reason, time};
use super::step::{Flow, Turn};
use super::wish::{Protection, Ticket, Wish};
use crate::core::upgrade::{Clock, Mesh};

/// What keeps the wish from beginning now, in words; nobody is to blame for it.
pub fn hindrance(ledger: &Ledger, wish: &Wish, facts: &Facts) -> Option<String> {
    let tally = ledger.tally.as_ref().filter(|tally| (&tally.wish, tally.attempt) == (&wish.id, wish.attempt));
    if let Some(left_ms) = tally.and_then(|tally| tally.left_ms(facts)) {
        return Some(format!("it is tried again by itself after a pause of {}", time(left_ms)));
    }
    closed(facts).or_else(|| not_now(facts))
}

/// What waits for its window is waited for, and is no failure.
fn closed(facts: &Facts) -> Option<String> {
    facts.window.as_ref().err().map(|closed| closed.why.clone())
}

/// The same, whatever its window and its failures.
pub(super) fn not_now(facts: &Facts) -> Option<String> {
    if facts.own_upgrade == OwnUpgrade::UnderWay {
        return Some("the agent replaces itself just now".into());
    }
    if let Volumes::Unreadable(why) = &facts.volumes {
        return Some(format!("the volumes cannot be read: {why}"));
    }
    if facts.volumes != Volumes::Plain {
        return Some("there is a snapshot of root already".into());
    }
    if facts.record.is_none() {
        return Some("the boot guard did not run in this boot: nothing could be put back".into());
    }
    if facts.protection == Protection::Tryboot && (facts.booted.is_none() || facts.booted != facts.autoboot) {
        return Some("autoboot.txt does not name the slot that was booted".into());
    }
    if facts.mesh == Mesh::Down {
        return Some("there is no connection to the mesh: it begins when there is one".into());
    }
    if let Clock::Unfit(why) = &facts.clock {
        return Some(format!("the clock is not fit: {why}"));
    }
    if facts.units.values().any(|unit| *unit == Unit::Running) {
        return Some("a unit of an earlier upgrade still runs".into());
    }
    match &facts.room {
        None => Some("how much room there is cannot be read".into()),
        Some(room) => too_small(room, facts),
    }
}

fn too_small(room: &Room, facts: &Facts) -> Option<String> {
    let mib = |bytes: u64| bytes >> 20;
    let Room { pool_free, root, metadata_percent, state_free, .. } = *room;
    if pool_free < root {
        return Some(format!("{} MiB are free in the pool, root has {}", mib(pool_free), mib(root)));
    }
    if metadata_percent >= facts.bounds.metadata_percent {
        return Some(format!("the pool's metadata is {metadata_percent} % full"));
    }
    let need = facts.bounds.state_bytes;
    (state_free < need).then(|| format!("{} MiB are free for state, {} are needed", mib(state_free), mib(need)))
}

/// Why its packages do not fit, in words.
pub(super) fn too_large(plan: &Plan, facts: &Facts) -> Option<String> {
    let need = plan.fetch_bytes.saturating_add(facts.bounds.reserve_bytes);
    let free = facts.room.map_or(0, |room| room.fetch_free);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    (free < need).then(|| format!("{} MiB are free for packages, {} are needed", free >> 20, mib(need)))
}

impl Turn<'_> {
    /// Takes in the newest wish, and begins what can begin.
    pub(super) fn consider(&mut self) -> Flow {
        let facts = self.facts;
        let Some(wish) = &facts.wish else { return Flow::Rest };
        let over = self.ledger.last.as_ref().is_some_and(|last| {
            last.status == Status::Confirmed && (&last.ticket.wish, last.ticket.attempt) == (&wish.id, wish.attempt)
        });
        if over || self.ledger.denial(wish).is_some() {
            return Flow::Rest;
        }
        if let Some(flaw) = wish.flaw() {
            return self.refuse(wish, Reason::Flaw(flaw));
        }
        if facts.protection < wish.least.max(Protection::Bootcount) {
            let asked = wish.least.max(Protection::Bootcount);
            return self.refuse(wish, Reason::Weak { is: facts.protection, asked });
        }
        if hindrance(&self.ledger, wish, facts).is_some() {
            return Flow::Rest;
        }
        let ticket = Ticket { wish: wish.id.clone(), attempt: wish.attempt, began: self.now() };
        self.ledger.upgrade = Some(self.fresh(ticket, wish.clone(), Phase::Planning));
        Flow::Again
    }

    fn fresh(&self, ticket: Ticket, wish: Wish, phase: Phase) -> Upgrade {
        Upgrade {
            ticket,
            wish,
            protection: self.facts.protection,
            slot: None,
            plan: None,
            before: self.facts.apps.clone(),
            phase,
            since: self.now(),
            started: None,
            cut_off: 0,
            returns: 0,
            spent_ms: 0,
            down_ms: None,
            trouble: None,
        }
    }

    /// An upgrade of which only the device knows.
    pub(super) fn adopt(&mut self, phase: Phase) -> Flow {
        let nobody = Ticket { wish: String::new(), attempt: 0, began: self.now() };
        let ticket = self.facts.stamp.clone().unwrap_or(nobody);
        let wish = Wish { id: ticket.wish.clone(), attempt: ticket.attempt, ..Wish::unknown() };
        let slot = match self.facts.volumes {
            Volumes::Snapshot(Snapshot { new_slot, .. }) => Some(new_slot),
            Volumes::Plain | Volumes::Unreadable(_) => None,
        };
        self.ledger.upgrade = Some(Upgrade { slot, ..self.fresh(ticket, wish, phase) });
        Flow::Again
    }

    fn refuse(&mut self, wish: &Wish, reason: Reason) -> Flow {
        let ticket = Ticket { wish: wish.id.clone(), attempt: wish.attempt, began: self.now() };
        let status = Status::Failed;
        self.ledger.deny(Denied {
            wish: wish.id.clone(),
            attempt: wish.attempt,
            set: None,
            status,
            reason: reason.clone(),
        });
        self.ledger.last = Some(Outcome {
            ticket,
            status,
            reason: Some(reason),
            blamed: false,
            plan: None,
            sick_before: vec![],
            took_ms: 0,
            down_ms: None,
        });
        Flow::Rest
    }

    /// Is the wish still the one that is under way? None changes nothing.
    fn changed_mind(&mut self) -> bool {
        let (Some(upgrade), Some(wish)) = (&self.ledger.upgrade, &self.facts.wish) else { return false };
        let same = (&wish.id, wish.attempt) == (&upgrade.wish.id, upgrade.wish.attempt);
        if !same {
            self.ledger.upgrade = None;
        }
        !same
    }

    pub(super) fn planning(&mut self) -> Flow {
        if self.changed_mind() {
            return Flow::Again;
        }
        let plan = match self.drive(Verb::Plan) {
            Driven::Waits => return Flow::Rest,
            Driven::Cannot(reason) => return self.end_failed(reason),
            Driven::Did(None) => {
                let why = "it left no plan".into();
                return self.end_failed(Reason::Step { verb: Verb::Plan, why });
            }
            Driven::Did(Some(plan)) => plan,
        };
        let Some(upgrade) = &mut self.ledger.upgrade else { return Flow::Rest };
        upgrade.plan = Some(plan.clone());
        if plan.delta.is_empty() {
            return self.end_confirmed(Some(Reason::NothingToDo));
        }
        let wish = upgrade.wish.clone();
        if let Some(before) = self.ledger.refuses(&wish, &plan.set) {
            let reason = Reason::FailedBefore(Box::new(before.reason.clone()));
            return self.end_failed(reason);
        }
        if let Some(why) = too_large(&plan, self.facts) {
            return self.end_failed(Reason::NoRoom(why));
        }
        self.enter(Phase::Fetching)
    }

    pub(super) fn fetching(&mut self) -> Flow {
        if self.changed_mind() {
            return Flow::Again;
        }
        match self.drive(Verb::Fetch) {
            Driven::Waits => return Flow::Rest,
            Driven::Cannot(reason) => return self.end_failed(reason),
            Driven::Did(_) => {}
        }
        if closed(self.facts).is_some() {
            // Nothing is touched yet, and what was fetched stays: it begins anew when the window opens.
            self.ledger.upgrade = None;
            return Flow::Rest;
        }
        if let Some(why) = not_now(self.facts) {
            return self.end_failed(Reason::Hindered(why));
        }
        let facts = self.facts;
        if let Some(upgrade) = &mut self.ledger.upgrade {
            upgrade.before = facts.apps.clone();
            let here = facts.booted.unwrap_or(Slot::A);
            upgrade.protection = facts.protection;
            upgrade.slot = Some(match facts.protection {
                Protection::Tryboot => here.other(),
                Protection::Bootcount | Protection::None => here,
            });
        }
        self.enter(Phase::Snapshot)
    }
}
