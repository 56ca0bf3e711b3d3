//! The boot guard's machine: the real guard runs on the simulated device, each of its effects can be its last.

use bramble_contracts::boot::{ArmedWatchdog, BootRecord, Slot, SlotBy, Snapshot, Tryboot};
use bramble_initramfs::boot::{Gathered, Host};
use bramble_initramfs::decide::{Facts, Volumes};
use bramble_initramfs::effects::{Count, Effect};

use super::bugs::Bug;
use super::world::{Done, World};

/// As in the guard's program.
const ATTEMPTS_MAX: u32 = 2;
const RETURNS_MAX: u32 = 3;

impl World {
    fn guards_volumes(&mut self) -> Volumes {
        let times = Some(self.disk.unreadable + 1);
        if std::mem::take(&mut self.group_broken) {
            return if self.bug == Some(Bug::GuardTakesErrorForNone) {
                Volumes::Plain
            } else {
                Volumes::Unreadable { times }
            };
        }
        match self.disk.tagged() {
            None if self.disk.snapshot.is_some() => Volumes::Begun,
            None => Volumes::Plain,
            Some(Snapshot { phase, new_slot, attempt, returns }) => {
                Volumes::Snapshot { phase, new_slot, attempt, returns }
            }
        }
    }

    fn guard_does(&mut self, effect: &Effect) -> Result<(), String> {
        let bug = self.bug;
        match effect {
            Effect::Say(_) | Effect::Repair | Effect::Recall | Effect::Wait(_) | Effect::Reboot => {}
            Effect::Drop => self.disk.snapshot = None,
            Effect::CountUnreadable(times) => self.disk.unreadable = *times,
            Effect::WriteAutoboot(slot) => (self.disk.autoboot, self.autoboot) = (Some(*slot), Some(*slot)),
            Effect::Recount(count, _, to) => {
                let tags = self.disk.snapshot.as_mut().and_then(|held| held.tags.as_mut()).ok_or("no snapshot")?;
                match count {
                    Count::Attempt if bug == Some(Bug::AttemptNotCounted) => {}
                    Count::Attempt => tags.attempt = *to,
                    Count::Returns => tags.returns = *to,
                }
            }
            Effect::Note(why) => self.disk.put_back = Some(*why),
            Effect::Merge => {
                let Some(saved) = self.disk.snapshot.take().ok_or("no snapshot")?.saved else {
                    self.is_wrong("root is put back to a snapshot that the pool never made");
                    return Ok(());
                };
                (self.disk.root, self.root) = (saved.clone(), saved);
            }
            Effect::AskTryboot => self.flag = true,
        }
        Ok(())
    }
}

impl Host for World {
    fn arm(&mut self) -> Result<ArmedWatchdog, String> {
        Err("there is none".into())
    }

    fn gather(&mut self) -> Gathered {
        let volumes = self.guards_volumes();
        let times = Some(self.disk.unreadable + 1);
        let booted = if self.bug == Some(Bug::SlotIsGuessed) { Slot::A } else { self.slot };
        let tryboot = if self.bootcount { Tryboot::Unsupported } else { self.tryboot };
        let autoboot = self.autoboot.filter(|_| !self.bootcount);
        let facts = Facts { volumes, booted, tryboot, autoboot, attempts_max: ATTEMPTS_MAX, returns_max: RETURNS_MAX };
        Gathered { facts, slot_by: SlotBy::Firmware, times, trouble: vec![] }
    }

    fn perform(&mut self, effect: &Effect) -> Result<(), String> {
        if self.dark {
            return Err("no power".into());
        }
        if let Effect::Say(text) = effect {
            self.say(|| format!("guard: {text}"));
            return Ok(());
        }
        let mut did = Ok(());
        match self.effect(&|| format!("guard: {effect:?}"), |world| did = world.guard_does(effect)) {
            Done::Yes => did,
            Done::Dead => Err("no power".into()),
            Done::Failed => Err("it fails".into()),
        }
    }

    fn leave(&mut self, record: &BootRecord) -> Result<(), String> {
        if !self.dark {
            (self.record, self.disk.unreadable) = (Some(record.clone()), 0);
        }
        Ok(())
    }
}
