//! Whether what a privileged unit is asked may be done: looked at again under the lock of all units, just before.
//!
//! Decides that from the order and from what lasts. The agent may have asked in another world, or for another run.

use bramble_contracts::boot::{Phase, Slot, Snapshot};

use super::effect::{Order, Verb};
use super::facts::Volumes;
use super::wish::{Protection, Ticket};

/// What a unit stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// The volume group.
    pub volumes: Volumes,
    /// The slot whose files were booted; absent where nobody knows.
    pub booted: Option<Slot>,
    /// The slot that autoboot.txt names.
    pub autoboot: Option<Slot>,
    /// Which run made this root, by root itself.
    pub stamp: Option<Ticket>,
    /// What brings the old system back here.
    pub protection: Protection,
}

impl Ground {
    fn has_slots(&self) -> bool {
        self.protection == Protection::Tryboot
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, String> {
        match &self.volumes {
            Volumes::Unreadable(why) => Err(format!("the volumes cannot be read: {why}")),
            Volumes::Plain => Ok(None),
            Volumes::Snapshot(snapshot) => Ok(Some(*snapshot)),
        }
    }

    fn without(&self) -> Result<(), String> {
        holds(self.snapshot()?.is_none(), "there is a snapshot of root already")
    }

    fn with(&self) -> Result<Snapshot, String> {
        self.snapshot()?.ok_or_else(|| "there is no snapshot".to_owned())
    }

    fn tagged(&self, phase: Phase) -> Result<Snapshot, String> {
        let snapshot = self.with()?;
        if snapshot.phase == phase {
            return Ok(snapshot);
        }
        Err(format!("the snapshot is tagged {}, not {phase}", snapshot.phase))
    }

    fn is_committed(&self, snapshot: &Snapshot) -> bool {
        self.has_slots() && self.autoboot == Some(snapshot.new_slot)
    }
}

fn holds(so: bool, else_why: &str) -> Result<(), String> {
    so.then_some(()).ok_or_else(|| else_why.to_owned())
}

/// May it be done now? Why not, in words.
///
/// # Errors
/// The condition that does not hold.
pub fn allows(order: &Order, ground: &Ground) -> Result<(), String> {
    let slots = ground.has_slots();
    let is_booted = |slot: Slot| ground.booted == Some(slot);
    match order.verb {
        Verb::Plan | Verb::Fetch => Ok(()),
        Verb::Snapshot | Verb::Mend => ground.without(),
        Verb::Apply => {
            let snapshot = ground.tagged(Phase::Apply)?;
            holds(order.slot == Some(snapshot.new_slot), "the snapshot is of another slot")?;
            holds(!slots || !is_booted(snapshot.new_slot), "the slot that was booted is not written to")
        }
        Verb::Arm => {
            ground.tagged(Phase::Apply)?;
            holds(ground.stamp.as_ref() == Some(&order.ticket), "root is not stamped by this run: it is not whole")
        }
        Verb::Fail => {
            let snapshot = ground.with()?;
            holds(!ground.is_committed(&snapshot), "it is committed: autoboot.txt names the new slot")
        }
        Verb::Commit => {
            let snapshot = ground.tagged(Phase::Trial)?;
            let was_tried = if slots { is_booted(snapshot.new_slot) } else { snapshot.attempt > 0 };
            holds(was_tried, "the new system was not booted")
        }
        Verb::Remove => {
            let snapshot = ground.tagged(Phase::Trial)?;
            holds(ground.is_committed(&snapshot), "it is not committed: autoboot.txt does not name the new slot")?;
            holds(is_booted(snapshot.new_slot), "the new slot was not booted")
        }
        Verb::Resync => {
            ground.without()?;
            holds(ground.booted.is_some(), "which slot was booted is not known")?;
            holds(order.slot.is_none_or(is_booted), "another slot was booted")?;
            holds(ground.autoboot == ground.booted, "autoboot.txt does not name the slot that was booted")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::os::{BootFiles, What};
    use crate::core::upgrade::Moment;

    fn order(verb: Verb) -> Order {
        let began = Moment { boot: "b1".into(), up_ms: 1 };
        let ticket = Ticket { wish: "w1".into(), attempt: 1, began };
        Order { verb, ticket, what: What::Full, slot: Some(Slot::B), boot_files: BootFiles::Upgraded }
    }

    fn ground(volumes: Volumes, booted: Slot, autoboot: Slot) -> Ground {
        let (booted, autoboot) = (Some(booted), Some(autoboot));
        Ground { volumes, booted, autoboot, stamp: Some(order(Verb::Plan).ticket), protection: Protection::Tryboot }
    }

    fn tagged(phase: Phase) -> Volumes {
        Volumes::Snapshot(Snapshot { phase, ..Snapshot::new(Slot::B) })
    }

    fn allowed(ground: &Ground) -> Vec<&'static str> {
        let all = Verb::ALL.into_iter().filter(|verb| allows(&order(*verb), ground).is_ok());
        all.map(Verb::name).collect()
    }

    #[test]
    fn every_place_allows_what_leads_on_from_it() {
        let (a, b) = (Slot::A, Slot::B);
        for (volumes, booted, autoboot, verbs) in [
            (Volumes::Plain, a, a, "plan fetch snapshot mend"),
            (Volumes::Plain, b, b, "plan fetch snapshot resync mend"),
            (Volumes::Plain, b, a, "plan fetch snapshot mend"),
            (tagged(Phase::Apply), a, a, "plan fetch apply arm fail"),
            (tagged(Phase::Apply), b, a, "plan fetch arm fail"),
            (tagged(Phase::Trial), a, a, "plan fetch fail"),
            (tagged(Phase::Trial), b, a, "plan fetch fail commit"),
            (tagged(Phase::Trial), b, b, "plan fetch commit remove"),
            (tagged(Phase::Trial), a, b, "plan fetch"),
            (tagged(Phase::Failed), a, a, "plan fetch fail"),
            (tagged(Phase::Failed), b, b, "plan fetch"),
            (Volumes::Unreadable("torn".into()), a, a, "plan fetch"),
        ] {
            let ground = ground(volumes, booted, autoboot);
            assert_eq!(allowed(&ground).join(" "), verbs, "{ground:?}");
        }
    }

    #[test]
    fn with_one_set_of_boot_files_nothing_but_the_tags_counts() {
        let armed = Ground { protection: Protection::Bootcount, ..ground(tagged(Phase::Trial), Slot::B, Slot::B) };
        assert_eq!(allowed(&armed), ["plan", "fetch", "fail"], "no boot of it was counted");
        let tried = Snapshot { phase: Phase::Trial, attempt: 1, ..Snapshot::new(Slot::B) };
        let on_trial = Ground { volumes: Volumes::Snapshot(tried), ..armed };
        assert_eq!(allowed(&on_trial), ["plan", "fetch", "fail", "commit"]);
        let applying = Ground { volumes: tagged(Phase::Apply), ..on_trial };
        assert_eq!(allowed(&applying), ["plan", "fetch", "apply", "arm", "fail"]);
    }

    #[test]
    fn only_a_root_of_this_run_is_armed() {
        let half = Ground { stamp: None, ..ground(tagged(Phase::Apply), Slot::A, Slot::A) };
        assert!(allows(&order(Verb::Arm), &half).unwrap_err().contains("not whole"));
        let mut other = order(Verb::Apply);
        other.slot = Some(Slot::A);
        assert!(allows(&other, &half).is_err());
    }
}
