//! A device with a disk, a firmware, the real boot guard, units, a probation timer and an agent, in virtual time. Accidents
//! happen before or after any effect. What must always hold is checked whenever it could break.

use std::collections::BTreeMap;

use bramble_agent::core::os::{Closed, Event, Ledger, LedgerFile, Order, OwnUpgrade, Protection, Room, What, Wish};
use bramble_contracts::boot::{BootRecord, Outcome, Slot, Tryboot};
use bramble_contracts::v1::Status;
use bramble_initramfs::boot::{Ended, boot};

use super::bugs::Bug;
use super::disk::{Disk, Files, Root};
use super::kinds::Kind;
use super::units::Job;

pub const SECOND: u64 = 1000;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
/// From power to the boot that goes on.
const FIRMWARE_TIME: u64 = 5 * SECOND;
/// From there to the agent.
const START_TIME: u64 = 10 * SECOND;
/// When a watchdog resets.
const WATCHDOG: u64 = MINUTE;
/// More boots in a row than it may take until one goes on.
const BOOTS_MAX: u32 = 25;
const EVENTS_MAX: u32 = 30_000;

/// What goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accident {
    /// It comes back after some seconds.
    Power,
    /// SIGKILL.
    KillAgent,
    /// The unit that runs dies without a result.
    KillUnit,
    /// The effect cannot be done, this once.
    Fails,
    /// No connection for a quarter of an hour.
    MeshLost,
    /// LVM cannot be read for a while, and not at the next boot.
    Lvm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

/// The accident at an effect, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fuse {
    pub effect: u32,
    pub when: When,
    pub accident: Accident,
}

/// How an effect went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Yes,
    Failed,
    Dead,
}

/// Something that is due.
#[derive(Clone, Debug)]
pub enum Due {
    PowerOn,
    AgentStarts,
    Look(u32),
    News,
    Tell(Event),
    UnitStep(u32),
    Timer,
    MeshUp,
}

#[derive(Clone)]
pub struct World {
    pub now: u64,
    pub up_since: u64,
    pub boots: u32,
    pub silent_boots: u32,
    pub disk: Disk,
    /// As it looks to who runs now; without power it is lost where it is not on disk.
    pub root: Root,
    pub files: [Files; 2],
    pub autoboot: Option<Slot>,
    pub flag: bool,
    pub dark: bool,
    pub slot: Slot,
    pub tryboot: Tryboot,
    pub record: Option<BootRecord>,
    pub bootcount: bool,
    pub base: u32,
    pub packages: u32,
    pub kind: Kind,
    pub went_wrong: bool,
    pub run_number: u32,
    pub bug: Option<Bug>,
    pub job: Option<Job>,
    pub waiting: Vec<Order>,
    pub unit_starts: u32,
    pub agent: Option<u32>,
    pub agents: u32,
    pub looks: u32,
    pub connected: Option<u64>,
    pub mesh_up: bool,
    pub lvm_until: u64,
    pub group_broken: bool,
    pub wish: Option<Wish>,
    pub own_upgrade: OwnUpgrade,
    pub room: Room,
    pub window: Result<(), Closed>,
    pub panic: Option<String>,
    pub agenda: BTreeMap<(u64, u64), Due>,
    pub next: u64,
    pub fuses: Vec<Fuse>,
    pub burnt: u32,
    pub effects: u32,
    pub judged_failed: bool,
    pub recording: bool,
    pub story: Vec<String>,
    pub wrong: Vec<String>,
}

pub fn wish(attempt: u32) -> Wish {
    Wish {
        id: "campaign".into(),
        attempt,
        what: What::Full,
        least: Protection::Bootcount,
        confirm_for_ms: 20 * SECOND,
        give_up_after_ms: 60 * SECOND,
        give_up_in_all_ms: 180 * SECOND,
        window: None,
    }
}

/// A window that is not open, and opens then.
pub fn closed(opens_in_ms: Option<u64>) -> Closed {
    Closed { why: "its window is not open".into(), opens_in_ms }
}

impl World {
    /// A device in good order, which boots from this slot; with one set of boot files where `bootcount` says so.
    pub fn new(active: Slot, protection: Protection) -> Self {
        let (root, files) = (Root { version: 1, half: false, stamp: None }, Files { version: 1, half: false });
        let bootcount = protection == Protection::Bootcount;
        let autoboot = (!bootcount).then_some(active);
        let mut world = Self {
            now: 0,
            up_since: 0,
            boots: 0,
            silent_boots: 0,
            disk: Disk::new(root.clone(), files, autoboot),
            root,
            files: [files; 2],
            autoboot,
            flag: false,
            dark: true,
            slot: active,
            tryboot: Tryboot::Clear,
            record: None,
            bootcount,
            base: 1,
            packages: 1,
            kind: Kind::Good,
            went_wrong: false,
            run_number: 1,
            bug: None,
            job: None,
            waiting: vec![],
            unit_starts: 0,
            agent: None,
            agents: 0,
            looks: 0,
            connected: None,
            mesh_up: true,
            lvm_until: 0,
            group_broken: false,
            wish: None,
            own_upgrade: OwnUpgrade::Idle,
            room: Room {
                pool_free: 9 << 30,
                root: 4 << 30,
                metadata_percent: 10,
                fetch_free: 2 << 30,
                state_free: 1 << 30,
            },
            window: Ok(()),
            panic: None,
            agenda: BTreeMap::new(),
            next: 1,
            fuses: vec![],
            burnt: 0,
            effects: 0,
            judged_failed: false,
            recording: false,
            story: vec![],
            wrong: vec![],
        };
        world.after(0, Due::PowerOn);
        world.run(MINUTE);
        world
    }

    pub fn up(&self) -> u64 {
        self.now - self.up_since
    }

    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boots)
    }

    pub fn after(&mut self, ms: u64, due: Due) {
        self.next += 1;
        self.agenda.insert((self.now + ms, self.next), due);
    }

    /// Something may have changed.
    pub fn news(&mut self) {
        self.after(10, Due::News);
    }

    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if self.recording {
            let (at, text) = (self.now, text());
            self.story.push(format!("{}.{}s {text}", at / 1000, at % 1000 / 100));
        }
    }

    pub fn is_wrong(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.say(|| format!("WRONG: {what}"));
        self.wrong.push(what);
    }

    /// Lets so much time pass.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        self.run_until(end, |_| false);
        self.now = end.max(self.now);
    }

    /// Goes on until `done` says so, at most until `end`. Says whether it was done.
    pub fn run_until(&mut self, end: u64, done: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..EVENTS_MAX {
            if done(self) {
                return true;
            }
            if !self.wrong.is_empty() {
                return false;
            }
            let Some(first) = self.agenda.first_entry().filter(|entry| entry.key().0 <= end) else { return false };
            let (at, due) = (first.key().0, first.get().clone());
            first.remove();
            self.now = self.now.max(at);
            self.happen(due);
        }
        self.is_wrong(format!("it does not come to rest: {EVENTS_MAX} events"));
        false
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::PowerOn => self.power_on(),
            Due::AgentStarts => self.agent_starts(),
            Due::Look(number) if number == self.looks => self.look(&Event::Look),
            Due::Look(_) => {}
            Due::News => self.look(&Event::Look),
            Due::Tell(event) => self.look(&event),
            Due::UnitStep(number) => self.unit_step(number),
            Due::Timer => self.timer(),
            Due::MeshUp => {
                self.mesh_up = true;
                self.connected = self.agent.map(|_| self.up());
                self.news();
            }
        }
    }

    /// One effect, and the accidents that are meant for it.
    pub fn effect(&mut self, what: &dyn Fn() -> String, doit: impl FnOnce(&mut Self)) -> Done {
        if self.dark {
            return Done::Dead;
        }
        self.effects += 1;
        let number = self.effects;
        self.say(|| format!("#{number} {}", what()));
        match self.burn(number, When::Before) {
            Done::Yes => {}
            end @ (Done::Dead | Done::Failed) => return end,
        }
        doit(self);
        match self.burn(number, When::After) {
            Done::Yes | Done::Failed => Done::Yes,
            Done::Dead => Done::Dead,
        }
    }

    fn burn(&mut self, effect: u32, when: When) -> Done {
        let Some(at) = self.fuses.iter().position(|fuse| (fuse.effect, fuse.when) == (effect, when)) else {
            return Done::Yes;
        };
        let accident = self.fuses.remove(at).accident;
        self.burnt += 1;
        self.say(|| format!("-- {accident:?}"));
        match accident {
            Accident::Power => {
                self.lose_power();
                return Done::Dead;
            }
            Accident::KillAgent => self.kill_agent(),
            Accident::KillUnit => self.kill_unit(),
            Accident::Fails => return Done::Failed,
            Accident::MeshLost => {
                (self.mesh_up, self.connected) = (false, None);
                self.after(15 * MINUTE, Due::MeshUp);
                self.news();
            }
            Accident::Lvm => {
                (self.lvm_until, self.group_broken) = (self.now + 90 * SECOND, true);
                self.news();
            }
        }
        Done::Yes
    }

    pub fn sync(&mut self) {
        self.disk.root = self.root.clone();
        (self.disk.files, self.disk.autoboot) = (self.files, self.autoboot);
    }

    /// What was not synced is half there, or not at all.
    fn lose_unsynced(&mut self) {
        let half = self.root != self.disk.root;
        self.disk.root.half |= half;
        for (on_disk, files) in self.disk.files.iter_mut().zip(self.files) {
            on_disk.half |= *on_disk != files;
        }
        self.root = self.disk.root.clone();
        (self.files, self.autoboot) = (self.disk.files, self.disk.autoboot);
    }

    pub fn go_down(&mut self) {
        self.dark = true;
        (self.agent, self.job, self.record) = (None, None, None);
        self.waiting.clear();
        self.unit_starts += 1;
        self.agenda.retain(|_, due| matches!(due, Due::MeshUp));
        self.after(FIRMWARE_TIME, Due::PowerOn);
    }

    /// The flag goes with the power.
    pub fn lose_power(&mut self) {
        self.lose_unsynced();
        self.flag = false;
        self.go_down();
    }

    /// A reset by a watchdog, so long from now.
    fn reset_in(&mut self, ms: u64) {
        self.lose_unsynced();
        self.go_down();
        self.agenda.retain(|_, due| !matches!(due, Due::PowerOn));
        self.after(ms, Due::PowerOn);
    }

    fn power_on(&mut self) {
        // What is on disk is read back as it was written.
        let json = serde_json::to_string(&LedgerFile::V1(self.disk.ledger.clone())).unwrap();
        assert_eq!(Ledger::from(serde_json::from_str::<LedgerFile>(&json).unwrap()), self.disk.ledger);
        self.dark = false;
        self.boots += 1;
        self.silent_boots += 1;
        if self.silent_boots > BOOTS_MAX {
            return self.is_wrong("it boots again and again: a brick");
        }
        let on_trial = std::mem::take(&mut self.flag) && !self.bootcount;
        let plain = self.autoboot.unwrap_or(Slot::A);
        self.slot = if on_trial { plain.other() } else { plain };
        self.tryboot = if on_trial { Tryboot::Set } else { Tryboot::Clear };
        let files = self.files[self.slot as usize];
        let (slot, tryboot) = (self.slot, self.tryboot);
        self.say(|| format!("== boot from {slot} ({tryboot:?}), {files:?}"));
        let new_files = files.version > self.base;
        if files.half || new_files && self.kind == Kind::PanicsEarly {
            return self.reset_in(WATCHDOG);
        }
        if !(new_files && self.kind == Kind::NoGuard) {
            match boot(self) {
                Ok(Ended::GoesOn) if self.dark => return,
                Ok(Ended::GoesOn) => {}
                Ok(Ended::Reboots) | Err(_) if self.dark => return,
                Ok(Ended::Reboots) => return self.go_down(),
                // The script that called it ends in the guard's own panic, which waits and reboots.
                Err(why) => {
                    self.say(|| format!("guard: {why}"));
                    return self.go_down();
                }
            }
        }
        self.goes_on();
    }

    /// Root is mounted.
    fn goes_on(&mut self) {
        (self.up_since, self.silent_boots, self.connected) = (self.now, 0, None);
        let (files, root) = (self.files[self.slot as usize], self.root.clone());
        let outcome = self.record.as_ref().map(|record| record.outcome);
        self.say(|| format!("   goes on: {outcome:?}, {root:?}"));
        if root.half {
            self.is_wrong("a root that is half written is booted");
        }
        if !self.bootcount && files.version != root.version {
            self.is_wrong(format!("root is {}, the boot files are {}", root.version, files.version));
        }
        let disturbed = self.burnt > 0 || !self.fuses.is_empty();
        if outcome == Some(Outcome::OnTrial) && self.judged_failed && !disturbed {
            self.is_wrong("what was judged failed is tried again");
        }
        if self.disk.tagged().is_none() {
            self.judged_failed = false;
        }
        let new = self.is_new();
        if new && self.kind == Kind::Hangs {
            return self.reset_in(WATCHDOG);
        }
        if self.bug != Some(Bug::NoTimer) {
            self.after(5 * SECOND, Due::Timer);
        }
        if !(new && matches!(self.kind, Kind::NoAgent | Kind::AgentCrashes)) {
            self.after(START_TIME, Due::AgentStarts);
        }
    }

    /// Nothing is under way, and the agent is there.
    pub fn is_at_rest(&self) -> bool {
        let alive = !self.dark && self.agent.is_some() && self.job.is_none();
        alive && self.disk.ledger.upgrade.is_none() && self.disk.tagged().is_none()
    }

    /// Is this wish answered for good?
    pub fn is_answered(&self) -> bool {
        let Some(wish) = &self.wish else { return true };
        let last = self.disk.ledger.last.as_ref();
        let confirmed =
            last.is_some_and(|last| last.status == Status::Confirmed && last.ticket.attempt == wish.attempt);
        confirmed || self.disk.ledger.denial(wish).is_some()
    }
}
