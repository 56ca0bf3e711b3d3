//! Units and reboots: started, waited for, started again, given up.
//!
//! Decides how often and how long. What is proven by the device itself (a snapshot, a tag) is not taken from a unit's word.

use std::time::Duration;

use super::effect::{BootFiles, Effect, Manner, Order, Verb, Way};
use super::facts::{About, Unit};
use super::ledger::Started;
use super::packages::Plan;
use super::reason::Reason;
use super::step::{Flow, Turn};
use super::wish::Protection;
use crate::core::backoff::Backoff;

/// What became of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Driven {
    /// It runs, or is started (again) now or later.
    Waits,
    /// It did it.
    Did(Option<Plan>),
    /// It did not, and is not tried again.
    Cannot(Reason),
}

/// What was seen of a unit, of this run and in this boot.
enum Seen {
    Nothing,
    Runs,
    Did(Option<Plan>),
    Failed(About, Reason),
}

impl Turn<'_> {
    /// Has a unit do it, within its bounds.
    pub(super) fn drive(&mut self, verb: Verb) -> Driven {
        self.drive_until(verb, self.facts.bounds.starts)
    }

    /// Has a unit do it, however often it fails, with pauses that grow.
    pub(super) fn drive_on(&mut self, verb: Verb) -> Driven {
        self.drive_until(verb, u8::MAX)
    }

    fn drive_until(&mut self, verb: Verb, starts_max: u8) -> Driven {
        let waits_ms = self.since_start_ms();
        let lost = match self.seen(verb) {
            Seen::Did(plan) => match verb {
                // The device shows it, or does not; then it is done again.
                Verb::Snapshot | Verb::Arm | Verb::Fail | Verb::Remove => None,
                Verb::Plan | Verb::Fetch | Verb::Apply | Verb::Commit | Verb::Resync | Verb::Mend => {
                    return Driven::Did(plan);
                }
            },
            Seen::Runs if waits_ms > self.facts.bounds.unit(verb) => return Driven::Cannot(Reason::Hung(verb)),
            Seen::Runs => return Driven::Waits,
            Seen::Failed(About::Packages | About::Room | About::Archive | About::Condition, reason) => {
                return Driven::Cannot(reason);
            }
            Seen::Failed(About::Other, reason) => match verb {
                Verb::Plan | Verb::Fetch | Verb::Snapshot | Verb::Apply => return Driven::Cannot(reason),
                Verb::Arm | Verb::Fail | Verb::Commit | Verb::Remove | Verb::Resync | Verb::Mend => Some(reason),
            },
            Seen::Nothing => None,
        };
        let times = self.ledger.upgrade.as_ref().and_then(|upgrade| upgrade.started.as_ref()).map_or(0, |s| s.times);
        if let Some(reason) = &lost {
            self.trouble(reason.to_string());
        }
        if times > 0 && waits_ms < self.pause_ms(times) {
            return Driven::Waits;
        }
        if times >= starts_max && starts_max < u8::MAX {
            return Driven::Cannot(lost.unwrap_or(Reason::Lost(verb)));
        }
        self.start(verb, times.saturating_add(1));
        Driven::Waits
    }

    /// The first few come soon after each other.
    fn pause_ms(&self, times: u8) -> u64 {
        let bounds = &self.facts.bounds;
        let longer = Backoff::new(Duration::from_millis(bounds.mend_ms), Duration::from_millis(bounds.pause_max_ms));
        let failures = u32::from(times.saturating_sub(bounds.starts.saturating_sub(1)).max(1));
        u64::try_from(longer.delay(failures).as_millis()).unwrap_or(bounds.pause_max_ms)
    }

    fn since_start_ms(&self) -> u64 {
        let started = self.ledger.upgrade.as_ref().and_then(|upgrade| upgrade.started.as_ref());
        started.map_or(0, |started| started.at.passed_ms(&self.facts.boot, self.facts.up_ms))
    }

    fn seen(&self, verb: Verb) -> Seen {
        let Some(upgrade) = &self.ledger.upgrade else { return Seen::Nothing };
        match self.facts.units.get(&verb) {
            Some(Unit::Running) => Seen::Runs,
            Some(Unit::Ended(ended)) if ended.ticket == upgrade.ticket && ended.boot == self.facts.boot => {
                match &ended.result {
                    Ok(plan) => Seen::Did(plan.clone()),
                    Err(failure) => Seen::Failed(failure.about, failure.reason(verb)),
                }
            }
            Some(Unit::Ended(_)) | None => Seen::Nothing,
        }
    }

    fn start(&mut self, verb: Verb, times: u8) {
        let at = self.now();
        let Some(upgrade) = &mut self.ledger.upgrade else { return };
        upgrade.started = Some(Started { at, times });
        let boot_files = match upgrade.protection {
            Protection::Tryboot => BootFiles::Upgraded,
            Protection::Bootcount | Protection::None => BootFiles::Held,
        };
        let slot = match verb {
            Verb::Mend => self.root_slot(),
            Verb::Plan
            | Verb::Fetch
            | Verb::Snapshot
            | Verb::Apply
            | Verb::Arm
            | Verb::Fail
            | Verb::Commit
            | Verb::Remove
            | Verb::Resync => upgrade.slot,
        };
        let Some(upgrade) = &self.ledger.upgrade else { return };
        let (ticket, what) = (upgrade.ticket.clone(), upgrade.wish.what.clone());
        if verb == Verb::Snapshot {
            // Else the guard's note of an earlier upgrade would be taken for one of this.
            self.out.push(Effect::ForgetPutBack);
        }
        self.out.push(Effect::Start(Order { verb, ticket, what, slot, boot_files }));
    }

    /// It was asked for often enough, also by force, and did not come. In words.
    pub(super) fn no_reboot(&self) -> Option<String> {
        let upgrade = self.ledger.upgrade.as_ref()?;
        let times = upgrade.started.as_ref().map_or(0, |started| started.times);
        let over = times >= self.facts.bounds.starts && self.since_start_ms() >= self.facts.bounds.reboot_ms;
        over.then(|| upgrade.trouble.clone().unwrap_or_else(|| "it was asked for and did not come".to_owned()))
    }

    /// Asks for a reboot, by force when it does not come.
    pub(super) fn reboot(&mut self, way: Way) -> Flow {
        let (at, waits_ms) = (self.now(), self.since_start_ms());
        let Some(upgrade) = &mut self.ledger.upgrade else { return Flow::Rest };
        let times = upgrade.started.as_ref().map_or(0, |started| started.times);
        if times > 0 && waits_ms < self.facts.bounds.mend_ms.max(self.facts.bounds.reboot_ms) {
            return Flow::Rest;
        }
        upgrade.started = Some(Started { at, times: times.saturating_add(1) });
        self.out.push(Effect::Reboot(way, if times == 0 { Manner::Orderly } else { Manner::Forced }));
        Flow::Rest
    }
}
