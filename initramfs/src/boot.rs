//! One boot, from the watchdog to the record: gather, decide, do, and something else where that does not work.
//!
//! Decides the order of these, and when a boot goes on. What the facts mean is `decide`'s, what an action comes to is
//! `effects`', and everything that touches the machine is behind [`Host`].

use bramble_contracts::boot::{ArmedWatchdog, BootRecord, Outcome, SlotBy};

use crate::decide::{Action, Facts, decide};
use crate::effects::{Effect, Failed, effects, failed};

/// More turns than failures can make.
const TURNS_MAX: usize = 8;

/// What a boot found.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// For the decision.
    pub facts: Facts,
    /// Who said which slot was booted.
    pub slot_by: SlotBy,
    /// How often in a row volumes could not be used, if this boot is one more; absent when that cannot be kept.
    pub times: Option<u32>,
    /// What was not as it should be.
    pub trouble: Vec<String>,
}

/// The machine.
pub trait Host {
    /// Arms the hardware watchdog, if there is one.
    fn arm(&mut self) -> Result<ArmedWatchdog, String>;
    /// Looks at everything, and changes nothing.
    fn gather(&mut self) -> Gathered;
    /// Does one thing. After a reboot there is nothing more to do.
    fn perform(&mut self, effect: &Effect) -> Result<(), String>;
    /// Leaves word for those who run later, and forgets the failures before.
    fn leave(&mut self, record: &BootRecord) -> Result<(), String>;
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Root can be mounted.
    GoesOn,
    /// The machine was told to boot again.
    Reboots,
}

/// Does all of it. An error means that not even a reboot was possible.
pub fn boot(host: &mut impl Host) -> Result<Ended, String> {
    let armed = host.arm();
    let Gathered { mut facts, slot_by, times, mut trouble } = host.gather();
    let watchdog = armed.map_err(|why| trouble.push(format!("watchdog: {why}"))).ok();
    let booted = facts;
    let mut action = decide(&facts);
    for _ in 0..TURNS_MAX {
        match carry_out(host, &facts, action, times, &mut trouble) {
            Turn::Reboots => return Ok(Ended::Reboots),
            Turn::Instead(other, instead) => (facts, action) = (other, instead),
            Turn::Done => {
                let Some(outcome) = outcome(action) else { return Err("the machine does not reboot".into()) };
                let record = BootRecord {
                    format: BootRecord::FORMAT,
                    slot: booted.booted,
                    slot_by,
                    tryboot: booted.tryboot,
                    autoboot: booted.autoboot,
                    outcome,
                    watchdog,
                    trouble,
                };
                // Nothing on the device depends on it so much that it may not boot.
                if let Err(why) = host.leave(&record) {
                    host.perform(&Effect::Say(format!("the record of this boot cannot be left: {why}")))?;
                }
                return Ok(Ended::GoesOn);
            }
        }
    }
    Err("this boot goes round in circles".into())
}

enum Turn {
    Done,
    Reboots,
    Instead(Facts, Action),
}

fn carry_out(
    host: &mut impl Host,
    facts: &Facts,
    action: Action,
    times: Option<u32>,
    trouble: &mut Vec<String>,
) -> Turn {
    for effect in effects(facts, action) {
        let Err(why) = host.perform(&effect) else {
            if effect == Effect::Reboot {
                return Turn::Reboots;
            }
            continue;
        };
        trouble.push(format!("{effect:?}: {why}"));
        // Where even this fails there is nobody to tell.
        let _told = host.perform(&Effect::Say(format!("{effect:?} did not work: {why}")));
        if let Failed::Instead(facts, action) = failed(facts, action, &effect, times) {
            return Turn::Instead(facts, action);
        }
    }
    Turn::Done
}

/// What a boot that goes on was; the others end in a reboot.
fn outcome(action: Action) -> Option<Outcome> {
    match action {
        Action::Boot => Some(Outcome::Plain),
        Action::BootOnTrial => Some(Outcome::OnTrial),
        Action::BootCommitted => Some(Outcome::Committed),
        Action::MergeAndBoot { why } => Some(Outcome::RolledBack { why }),
        Action::BootDegraded { why } => Some(Outcome::Degraded { why }),
        Action::RearmTryboot
        | Action::MendAutoboot { .. }
        | Action::RebootTo { .. }
        | Action::RepairAndReboot
        | Action::RebootToOther { .. }
        | Action::WaitAndReboot { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::boot::{Phase, Slot, Tryboot, Why};

    use super::*;
    use crate::decide::Volumes;
    use crate::effects::Count;

    /// A machine with a firmware, a snapshot and a first partition: each of them can break, and the power can go.
    #[derive(Debug, Clone)]
    struct Sim {
        snapshot: Option<(Phase, Slot, u32, u32)>,
        group_broken: bool,
        text_lost: bool,
        begun: bool,
        merge_broken: bool,
        first_partition_broken: bool,
        autoboot: Slot,
        unreadable: u32,
        tryboot_asked: bool,
        /// Of this boot.
        slot: Slot,
        tryboot: Tryboot,
        /// Whose content root has.
        root_is_new: bool,
        noted: Vec<Why>,
        waited: u32,
        fuse: Option<u32>,
        left: Option<BootRecord>,
    }

    impl Sim {
        fn after_trial(attempt: u32) -> Self {
            Self {
                snapshot: Some((Phase::Trial, Slot::B, attempt, 0)),
                group_broken: false,
                text_lost: false,
                begun: false,
                merge_broken: false,
                first_partition_broken: false,
                autoboot: Slot::A,
                unreadable: 0,
                tryboot_asked: false,
                slot: Slot::A,
                tryboot: Tryboot::Clear,
                root_is_new: true,
                noted: vec![],
                waited: 0,
                fuse: None,
                left: None,
            }
        }

        /// The firmware's part: the flag counts once.
        fn power_on(&mut self) {
            let on_trial = std::mem::take(&mut self.tryboot_asked);
            self.slot = if on_trial { self.autoboot.other() } else { self.autoboot };
            self.tryboot = if on_trial { Tryboot::Set } else { Tryboot::Clear };
        }

        /// Boots until something goes on, as often as it may.
        fn run(&mut self, boots: u32) -> Option<BootRecord> {
            for _ in 0..boots {
                self.power_on();
                self.left = None;
                if boot(self) == Ok(Ended::GoesOn) && self.fuse != Some(0) {
                    return self.left.clone();
                }
                if self.fuse == Some(0) {
                    // The power is back.
                    (self.fuse, self.tryboot_asked) = (None, false);
                }
            }
            None
        }

        fn count(&mut self, wanted: &Effect) -> Result<(), String> {
            let (_, _, attempt, returns) = self.snapshot.as_mut().ok_or("no snapshot")?;
            match wanted {
                Effect::Recount(Count::Attempt, _, to) => *attempt = *to,
                Effect::Recount(Count::Returns, _, to) => *returns = *to,
                _ => return Err("not a count".into()),
            }
            Ok(())
        }
    }

    impl Host for Sim {
        fn arm(&mut self) -> Result<ArmedWatchdog, String> {
            Err("there is none".into())
        }
        fn gather(&mut self) -> Gathered {
            let times = (!self.first_partition_broken).then_some(self.unreadable + 1);
            let volumes = match self.snapshot {
                _ if self.group_broken || self.text_lost => Volumes::Unreadable { times },
                None if self.begun => Volumes::Begun,
                None => Volumes::Plain,
                Some((phase, new_slot, attempt, returns)) => Volumes::Snapshot { phase, new_slot, attempt, returns },
            };
            let autoboot = (!self.first_partition_broken).then_some(self.autoboot);
            let facts =
                Facts { volumes, booted: self.slot, tryboot: self.tryboot, autoboot, attempts_max: 2, returns_max: 3 };
            Gathered { facts, slot_by: SlotBy::Firmware, times, trouble: vec![] }
        }
        fn perform(&mut self, effect: &Effect) -> Result<(), String> {
            match self.fuse {
                Some(0) => return Err("no power".into()),
                Some(left) if !matches!(effect, Effect::Say(_)) => self.fuse = Some(left - 1),
                Some(_) | None => {}
            }
            if self.fuse == Some(0) {
                return Err("no power".into());
            }
            match effect {
                Effect::Say(_) | Effect::Repair | Effect::Reboot => Ok(()),
                Effect::Recall => {
                    self.text_lost = false;
                    Ok(())
                }
                Effect::Drop if self.merge_broken => Err("cannot remove".into()),
                Effect::Drop => {
                    self.begun = false;
                    Ok(())
                }
                Effect::CountUnreadable(_) | Effect::WriteAutoboot(_) if self.first_partition_broken => {
                    Err("read-only".into())
                }
                Effect::CountUnreadable(times) => {
                    self.unreadable = *times;
                    Ok(())
                }
                Effect::WriteAutoboot(slot) => {
                    self.autoboot = *slot;
                    Ok(())
                }
                Effect::Recount(..) => self.count(effect),
                Effect::Note(why) => {
                    self.noted.push(*why);
                    Ok(())
                }
                Effect::Merge if self.merge_broken => Err("cannot merge".into()),
                Effect::Merge => {
                    (self.snapshot, self.root_is_new) = (None, false);
                    Ok(())
                }
                Effect::AskTryboot => {
                    self.tryboot_asked = true;
                    Ok(())
                }
                Effect::Wait(secs) => {
                    self.waited += secs;
                    Ok(())
                }
            }
        }
        fn leave(&mut self, record: &BootRecord) -> Result<(), String> {
            (self.left, self.unreadable) = (Some(record.clone()), 0);
            Ok(())
        }
    }

    #[test]
    fn a_plain_boot_goes_on_and_says_what_is_missing() {
        let mut sim = Sim { snapshot: None, root_is_new: false, ..Sim::after_trial(0) };
        let record = sim.run(1).unwrap();
        assert_eq!((record.outcome, record.slot), (Outcome::Plain, Slot::A));
        assert_eq!(record.trouble, ["watchdog: there is none"]);
    }

    #[test]
    fn a_trial_that_fell_back_is_tried_again_and_then_put_back() {
        let mut sim = Sim::after_trial(0);
        assert_eq!(sim.run(2).unwrap().outcome, Outcome::OnTrial, "re-armed, and there");
        let mut sim = Sim::after_trial(2);
        let why = Why::TrialsUsedUp;
        assert_eq!(sim.run(1).unwrap().outcome, Outcome::RolledBack { why });
        assert_eq!((sim.noted.as_slice(), sim.root_is_new), (&[why][..], false));
    }

    /// Root follows the slot, whichever effect the power is cut at.
    #[test]
    fn a_power_cut_at_any_effect_ends_with_root_and_slot_in_one() {
        let starts = [
            Sim::after_trial(0),
            Sim::after_trial(2),
            Sim { snapshot: Some((Phase::Failed, Slot::B, 1, 0)), ..Sim::after_trial(0) },
            Sim { snapshot: Some((Phase::Failed, Slot::B, 1, 0)), autoboot: Slot::B, ..Sim::after_trial(0) },
            Sim { snapshot: Some((Phase::Apply, Slot::B, 0, 0)), ..Sim::after_trial(0) },
        ];
        for start in starts {
            for fuse in 1..8 {
                let mut sim = Sim { fuse: Some(fuse), ..start.clone() };
                let record = sim.run(8).unwrap_or_else(|| panic!("{start:?} with a cut at {fuse} never comes up"));
                assert_eq!(sim.root_is_new, record.slot == Slot::B, "{start:?} with a cut at {fuse}: {record:?}");
            }
        }
    }

    #[test]
    fn a_group_that_cannot_be_read_gets_a_repair_the_other_slot_and_then_pauses() {
        let mut sim = Sim { group_broken: true, ..Sim::after_trial(0) };
        assert_eq!(sim.run(6), None, "it never goes on");
        assert_eq!((sim.unreadable, sim.waited), (6, 60 + 120 + 240 + 480));
        let mut sim = Sim { first_partition_broken: true, ..sim };
        assert_eq!(sim.run(1), None);
        assert_eq!(sim.waited, 900 + 600, "what cannot be counted counts as high");
    }

    #[test]
    fn a_text_that_is_lost_is_recalled_whenever_the_power_goes_meanwhile() {
        let start = Sim { text_lost: true, snapshot: None, root_is_new: false, ..Sim::after_trial(0) };
        for fuse in 1..6 {
            for unreadable in [0, 1, 2, 5] {
                let mut sim = Sim { fuse: Some(fuse), unreadable, ..start.clone() };
                let record = sim.run(6).unwrap_or_else(|| panic!("with a cut at {fuse} it never comes up: {sim:?}"));
                assert_eq!((record.outcome, sim.unreadable), (Outcome::Plain, 0));
            }
        }
    }

    #[test]
    fn what_had_only_begun_goes_and_hinders_no_boot() {
        let start = Sim { begun: true, snapshot: None, root_is_new: false, ..Sim::after_trial(0) };
        for (merge_broken, stays) in [(false, false), (true, true)] {
            let mut sim = Sim { merge_broken, ..start.clone() };
            assert_eq!(sim.run(1).unwrap().outcome, Outcome::Plain);
            assert_eq!(sim.begun, stays);
        }
    }

    #[test]
    fn a_merge_that_fails_is_not_tried_for_ever() {
        let mut sim = Sim { merge_broken: true, ..Sim::after_trial(2) };
        let record = sim.run(6).unwrap();
        assert_eq!(
            (record.slot, record.outcome),
            (Slot::B, Outcome::OnTrial),
            "root is the new one's, and so is the slot"
        );
        let mut sim = Sim { merge_broken: true, snapshot: Some((Phase::Apply, Slot::B, 0, 0)), ..Sim::after_trial(0) };
        assert_eq!(sim.run(5), None);
        assert!(sim.waited > 0);
    }
}
