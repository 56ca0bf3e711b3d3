//! A device with a disk, a firmware, the real boot guard, units, a probation timer and an agent, in virtual time. Accidents
//! happen before or after any effect. What must always hold is checked whenever it could break.

use std::collections::BTreeMap;

use bramble_agent::core::os::{
    App, Bounds, Effect, Enforced, Event, Facts, Ledger, LedgerFile, OwnUpgrade, Phase, Place, Protection, Room,
    Sentence, Ticket, Unit, UnitResult, Upgrade, Verb, Volumes, Way, What, Wish, enforce, place, step, wake_at,
};
use bramble_agent::core::upgrade::{Clock, Mesh};
use bramble_contracts::boot::{BootRecord, Outcome, Phase as Tagged, Slot, Snapshot, Tryboot, Why};
use bramble_initramfs::boot::{Ended, boot};

use super::bugs::Bug;
use super::kinds::Kind;
use super::units::{APPLY_MAX, Job};

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

/// What root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub version: u32,
    pub half: bool,
    pub stamp: Option<Ticket>,
}

/// What a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    pub version: u32,
    pub half: bool,
}

/// What lasts.
#[derive(Clone, Debug)]
pub struct Disk {
    pub ledger: Ledger,
    pub snapshot: Option<(Snapshot, Root)>,
    pub root: Root,
    pub files: [Files; 2],
    pub autoboot: Option<Slot>,
    pub results: BTreeMap<Verb, UnitResult>,
    pub sentence: Option<Sentence>,
    pub put_back: Option<Why>,
    pub unreadable: u32,
}

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
    up_since: u64,
    pub boots: u32,
    silent_boots: u32,
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
    pub waiting: Vec<bramble_agent::core::os::Order>,
    pub unit_starts: u32,
    agent: Option<u32>,
    agents: u32,
    looks: u32,
    connected: Option<u64>,
    mesh_up: bool,
    lvm_until: u64,
    pub group_broken: bool,
    pub wish: Option<Wish>,
    pub own_upgrade: OwnUpgrade,
    pub room: Room,
    pub window: Result<(), String>,
    pub panic: Option<String>,
    agenda: BTreeMap<(u64, u64), Due>,
    next: u64,
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
        until_ms: None,
    }
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
            disk: Disk {
                ledger: Ledger::default(),
                snapshot: None,
                root: root.clone(),
                files: [files; 2],
                autoboot,
                results: BTreeMap::new(),
                sentence: None,
                put_back: None,
                unreadable: 0,
            },
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

    fn go_down(&mut self) {
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
        if self.disk.snapshot.is_none() {
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

    pub fn is_new(&self) -> bool {
        self.root.version > self.base
    }

    fn agent_starts(&mut self) {
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

    fn mesh(&self) -> Mesh {
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
            let named = |order: &bramble_agent::core::os::Order| order.verb == verb;
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
            volumes: match &self.disk.snapshot {
                _ if unreadable => Volumes::Unreadable("input/output error".into()),
                Some((tags, _)) if self.lvm_until <= self.now => Volumes::Snapshot(*tags),
                Some(_) | None => Volumes::Plain,
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

    fn look(&mut self, event: &Event) {
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

    fn check_beginning(&mut self, next: &Ledger) {
        let begins = self.disk.ledger.upgrade.is_none() && next.upgrade.is_some();
        let planned = next.upgrade.as_ref().is_some_and(|upgrade| upgrade.phase == Phase::Planning);
        if begins && planned {
            self.run_number += u32::from(self.disk.ledger.last.is_some());
            if self.disk.snapshot.is_some() || self.own_upgrade == OwnUpgrade::UnderWay {
                self.is_wrong("an upgrade begins while another one is under way");
            }
        }
    }

    fn store(&mut self, agent: u32, next: Ledger) -> bool {
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

    fn perform(&mut self, agent: u32, effects: &[Effect]) -> bool {
        for effect in effects {
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

    fn agent_does(&mut self, effect: &Effect) {
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
    fn timer(&mut self) {
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
            Enforced::Fail(reason) => self.sentence(place, reason),
            Enforced::Reboot => {
                let reboot = |world: &mut Self| {
                    world.sync();
                    world.go_down();
                };
                if self.effect(&|| "probation: reboot".into(), reboot) == Done::Failed {
                    self.after(5 * SECOND, Due::Timer);
                }
            }
        }
    }

    fn sentence(&mut self, place: Place, reason: bramble_agent::core::os::Reason) {
        assert_eq!(place, Place::OnTrial);
        let ticket = self.disk.ledger.upgrade.as_ref().map(|upgrade| upgrade.ticket.clone());
        let said = Sentence { ticket, reason };
        self.judged_failed = true;
        let store = |world: &mut Self| world.disk.sentence = Some(said.clone());
        let tag = |world: &mut Self| {
            if let Some((tags, _)) = &mut world.disk.snapshot {
                tags.phase = Tagged::Failed;
            }
        };
        let all: [(&str, &dyn Fn(&mut Self)); 2] = [("say why", &store), ("tag it failed", &tag)];
        for (what, doit) in all {
            match self.effect(&|| format!("probation: {what}: {}", said.reason), doit) {
                Done::Yes => {}
                Done::Dead => return,
                // The unit is started again.
                Done::Failed => return self.after(5 * SECOND, Due::Timer),
            }
        }
        self.after(1, Due::Timer);
    }

    /// Nothing is under way, and the agent is there.
    pub fn is_at_rest(&self) -> bool {
        let alive = !self.dark && self.agent.is_some() && self.job.is_none();
        alive && self.disk.ledger.upgrade.is_none() && self.disk.snapshot.is_none()
    }

    /// Is this wish answered for good?
    pub fn is_answered(&self) -> bool {
        let Some(wish) = &self.wish else { return true };
        let last = self.disk.ledger.last.as_ref();
        let confirmed = last.is_some_and(|last| {
            last.status == bramble_contracts::v1::Status::Confirmed && last.ticket.attempt == wish.attempt
        });
        confirmed || self.disk.ledger.denial(wish).is_some()
    }
}
