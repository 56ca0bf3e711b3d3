//! A device with a disk, a supervisor with its guard, two agents, a mesh and a coordinator, in virtual time. Accidents
//! happen before or after any effect. What must always hold is checked at every moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bramble_agent::core::upgrade::{Bounds, Event, Ledger, LedgerFile, Links, Starts, TurnedBack, Verdict, guard};
use bramble_contracts::bytes::Sha256;
use bramble_contracts::release::Target;
use bramble_contracts::v1::{AgentVersion, Instance};
use bramble_contracts::v2::{AgentWish, UpgradeWord};

use super::coordinator::Mood;
use super::kinds::Kind;
use super::process::{Job, Proc};

pub const SECOND: u64 = 1000;
pub const MINUTE: u64 = 60 * SECOND;
pub const HOUR: u64 = 60 * MINUTE;
/// From power to the first start.
const BOOT_TIME: u64 = 10 * SECOND;
/// From the end of a process to its next start.
const RESTART_TIME: u64 = SECOND;
/// No story is longer than this.
const EVENTS_MAX: u32 = 20_000;

/// What lasts.
#[derive(Clone, Debug)]
pub struct Disk {
    pub ledger: Ledger,
    pub links: Links,
    pub floor: u64,
    pub starts: Starts,
    pub binaries: BTreeSet<AgentVersion>,
    pub enabled: Instance,
}

/// What goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accident {
    /// Every process dies, and the device boots.
    Power,
    /// The process whose effect it is gets a SIGKILL.
    KillSelf,
    /// The other process does.
    KillPeer,
    /// No connection for a quarter of an hour.
    MeshLost,
    /// No connection for hours.
    MeshGone,
    /// The effect cannot be done, this once.
    Fails,
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

/// Something that is due.
#[derive(Clone, Debug)]
pub enum Due {
    Tell(u32, Event),
    Tick(u32, u64),
    Done(u32, u64, Job),
    Begin(u32),
    Connect(u32),
    Die(u32),
    Hang(u32),
    Start(Instance),
    MeshUp,
    Look,
}

#[derive(Clone)]
pub struct World {
    pub now: u64,
    booted: u64,
    boots: u32,
    pub disk: Disk,
    pub procs: BTreeMap<Instance, Proc>,
    pub wanted: BTreeSet<Instance>,
    pub lease: Option<u32>,
    pub queue: VecDeque<u32>,
    pub mesh_up: bool,
    pub mood: Mood,
    pub look_due: bool,
    pub heard: BTreeSet<String>,
    pub kinds: BTreeMap<AgentVersion, Kind>,
    pub wish: Option<AgentWish>,
    pub clock_fit: bool,
    pub free_bytes: u64,
    pub bounds: Bounds,
    pub target: Target,
    agenda: BTreeMap<(u64, u64), Due>,
    pub next: u64,
    pub fuses: Vec<Fuse>,
    pub effects: u32,
    pub story: Vec<String>,
    pub lines: Vec<String>,
    /// Effects as they were decided, whether they came to be done or not.
    pub decided: Vec<String>,
    /// Keep `story` and `lines`.
    pub recording: bool,
    unmanaged_since: Option<u64>,
    pub unmanaged_max: u64,
    pub wrong: Vec<String>,
}

pub fn version(minor: u16) -> AgentVersion {
    AgentVersion { major: 0, minor, patch: 0 }
}

/// The wish for a version whose sequence is its minor number.
pub fn wish(minor: u16, attempt: u32) -> AgentWish {
    AgentWish {
        version: version(minor),
        release_seq: u64::from(minor),
        manifest: Sha256::of(&minor.to_be_bytes()),
        keys_pin: Sha256::of(b"keys"),
        attempt,
    }
}

impl World {
    /// A device on which 0.5.0 was installed by hand; it boots.
    pub fn new() -> Self {
        let old = version(5);
        let mut world = Self {
            now: 0,
            booted: 0,
            boots: 0,
            disk: Disk {
                ledger: Ledger::new(old, Instance::A),
                links: Links { current: old, confirmed: old },
                floor: 3,
                starts: Starts::default(),
                binaries: BTreeSet::from([old]),
                enabled: Instance::A,
            },
            procs: BTreeMap::new(),
            wanted: BTreeSet::new(),
            lease: None,
            queue: VecDeque::new(),
            mesh_up: true,
            mood: Mood::Good,
            look_due: false,
            heard: BTreeSet::new(),
            kinds: BTreeMap::new(),
            wish: None,
            clock_fit: true,
            free_bytes: 1 << 30,
            bounds: Bounds::default(),
            target: "aarch64-unknown-linux-musl".parse().unwrap(),
            agenda: BTreeMap::new(),
            next: 1,
            fuses: Vec::new(),
            effects: 0,
            story: Vec::new(),
            lines: Vec::new(),
            decided: Vec::new(),
            recording: false,
            unmanaged_since: Some(0),
            unmanaged_max: 0,
            wrong: Vec::new(),
        };
        world.boot();
        world
    }

    pub fn up(&self) -> u64 {
        self.now - self.booted
    }

    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boots)
    }

    pub fn kind(&self, version: AgentVersion) -> Kind {
        self.kinds.get(&version).copied().unwrap_or(Kind::Good)
    }

    pub fn after(&mut self, ms: u64, due: Due) {
        self.next += 1;
        self.agenda.insert((self.now + ms, self.next), due);
    }

    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if self.recording {
            self.story.push(text());
        }
    }

    /// Lets so much time pass.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        self.run_until(end, |_| false);
        self.now = end.max(self.now);
        self.watch();
    }

    /// Goes on until `done` says so, at most until `end`. Says whether it was done.
    pub fn run_until(&mut self, end: u64, done: impl Fn(&Self) -> bool) -> bool {
        for _ in 0..EVENTS_MAX {
            if done(self) {
                return true;
            }
            let Some(first) = self.agenda.first_entry().filter(|entry| entry.key().0 <= end) else { return false };
            let (at, due) = (first.key().0, first.get().clone());
            first.remove();
            self.now = self.now.max(at);
            self.happen(due);
            self.watch();
        }
        self.wrong.push(format!("it does not come to rest: {EVENTS_MAX} events"));
        false
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Tell(pid, event) => self.tell(pid, &event),
            Due::Tick(pid, number) => self.tick(pid, number),
            Due::Done(pid, number, job) => self.done(pid, number, &job),
            Due::Begin(pid) => self.begin(pid),
            Due::Connect(pid) => self.connect(pid),
            Due::Die(pid) => self.kill(pid),
            Due::Hang(pid) => {
                if let Some(proc) = self.proc_mut(pid) {
                    proc.hangs = true;
                    let version = proc.version;
                    self.after(self.kind(version).watchdog_ms(), Due::Die(pid));
                }
            }
            Due::Start(instance) => self.start(instance),
            Due::MeshUp => self.regain_mesh(),
            Due::Look => self.look(),
        }
    }

    /// What must hold at every moment.
    pub fn watch(&mut self) {
        let acting: Vec<&Proc> = self.procs.values().filter(|proc| proc.acts).collect();
        let mut wrong = Vec::new();
        if acting.len() > 1 {
            wrong.push("two agents act".to_owned());
        }
        if let Some(proc) = acting.iter().find(|proc| self.lease != Some(proc.pid)) {
            wrong.push(format!("{:?} acts without the lease", proc.instance));
        }
        for link in [self.disk.links.current, self.disk.links.confirmed] {
            if !self.disk.binaries.contains(&link) {
                wrong.push(format!("a link leads to {link}, which is not there"));
            }
        }
        let Disk { ledger, links, .. } = &self.disk;
        let upgrade = ledger.upgrade.as_ref();
        let cut_over = upgrade.is_some_and(|upgrade| upgrade.is_cut_over() && upgrade.version == links.current);
        if links.current != ledger.confirmed.version && !cut_over {
            wrong.push(format!("current leads to {}, and that is not stored", links.current));
        }
        if upgrade.is_some_and(|upgrade| upgrade.version == links.confirmed) {
            wrong.push(format!("{} is marked confirmed, and that is not stored", links.confirmed));
        }
        let managed = acting.iter().any(|proc| !proc.hangs);
        match (managed, self.unmanaged_since) {
            (true, Some(since)) => {
                self.unmanaged_max = self.unmanaged_max.max(self.now - since);
                self.unmanaged_since = None;
            }
            (true, None) => {}
            (false, Some(since)) => self.unmanaged_max = self.unmanaged_max.max(self.now - since),
            (false, None) => self.unmanaged_since = Some(self.now),
        }
        self.wrong.extend(wrong);
    }

    /// One effect, and the accidents that are meant for it. False when the one who does it is dead, or it failed.
    pub fn effect(&mut self, pid: Option<u32>, what: &dyn Fn() -> String, doit: impl FnOnce(&mut Self)) -> Done {
        self.effects += 1;
        let (number, up) = (self.effects, self.up());
        if self.recording {
            let who =
                pid.and_then(|pid| self.proc(pid)).map(|proc| format!("{} {}", proc.instance.name(), proc.version));
            self.story.push(format!(
                "{}.{}s {}: {}",
                up / 1000,
                up % 1000 / 100,
                who.unwrap_or("guard".into()),
                what()
            ));
        }
        match self.burn(number, When::Before, pid) {
            Done::Yes => {}
            end @ (Done::Dead | Done::Failed) => return end,
        }
        doit(self);
        self.watch();
        match self.burn(number, When::After, pid) {
            Done::Yes | Done::Failed if pid.is_none_or(|pid| self.proc(pid).is_some()) => Done::Yes,
            Done::Yes | Done::Failed | Done::Dead => Done::Dead,
        }
    }

    fn burn(&mut self, effect: u32, when: When, pid: Option<u32>) -> Done {
        let Some(at) = self.fuses.iter().position(|fuse| (fuse.effect, fuse.when) == (effect, when)) else {
            return Done::Yes;
        };
        let accident = self.fuses.remove(at).accident;
        self.say(|| format!("-- {accident:?}"));
        let boots = self.boots;
        match accident {
            Accident::Power => self.boot(),
            Accident::KillSelf => pid.into_iter().for_each(|pid| self.kill(pid)),
            Accident::KillPeer => {
                let peer = self.procs.values().map(|proc| proc.pid).find(|peer| Some(*peer) != pid);
                peer.into_iter().for_each(|peer| self.kill(peer));
            }
            Accident::MeshLost => self.lose_mesh(Some(15 * MINUTE)),
            Accident::MeshGone => self.lose_mesh(Some(4 * HOUR)),
            Accident::Fails => return Done::Failed,
        }
        let alive = self.boots == boots && pid.is_none_or(|pid| self.proc(pid).is_some());
        if alive { Done::Yes } else { Done::Dead }
    }

    pub fn lose_mesh(&mut self, back_in: Option<u64>) {
        self.mesh_up = false;
        self.procs.values_mut().for_each(|proc| proc.connected = None);
        if let Some(ms) = back_in {
            self.after(ms, Due::MeshUp);
        }
    }

    pub fn regain_mesh(&mut self) {
        self.mesh_up = true;
        let pids: Vec<u32> = self.procs.values().map(|proc| proc.pid).collect();
        pids.into_iter().for_each(|pid| self.after(SECOND, Due::Connect(pid)));
    }

    /// The power goes and comes. What is on disk is read back as it was written.
    pub fn boot(&mut self) {
        let json = serde_json::to_string(&LedgerFile::V1(self.disk.ledger.clone())).unwrap();
        let back: LedgerFile = serde_json::from_str(&json).unwrap();
        assert_eq!(Ledger::from(back), self.disk.ledger);
        self.procs.clear();
        (self.lease, self.look_due) = (None, false);
        self.queue.clear();
        self.agenda.retain(|_, due| matches!(due, Due::MeshUp));
        self.watch();
        self.booted = self.now;
        self.boots += 1;
        self.wanted = BTreeSet::from([self.disk.enabled]);
        self.after(BOOT_TIME, Due::Start(self.disk.enabled));
    }

    /// The supervisor starts an instance, by what the guard says.
    fn start(&mut self, instance: Instance) {
        if self.procs.contains_key(&instance) || !self.wanted.contains(&instance) {
            return;
        }
        let Disk { ledger, links, starts, .. } = &self.disk;
        let (starts, verdict) = guard(Some(ledger), *links, starts.clone(), instance, &self.boot_id(), &self.bounds);
        if starts != self.disk.starts {
            let boots = self.boots;
            let count = || format!("count a start of {}", instance.name());
            match self.effect(None, &count, |world| world.disk.starts = starts.clone()) {
                Done::Yes if boots == self.boots => {}
                Done::Yes | Done::Dead => return,
                Done::Failed => return self.after(RESTART_TIME, Due::Start(instance)),
            }
        }
        if let Verdict::TurnBack(version) = verdict {
            let boots = self.boots;
            match self.effect(None, &|| format!("turn back to {version}"), |world| world.disk.links.current = version) {
                Done::Yes if boots == self.boots => {}
                Done::Yes | Done::Dead => return,
                Done::Failed => return self.after(RESTART_TIME, Due::Start(instance)),
            }
        }
        let version = self.disk.links.current;
        self.spawn(instance, version);
    }

    pub fn proc(&self, pid: u32) -> Option<&Proc> {
        self.procs.values().find(|proc| proc.pid == pid)
    }

    pub fn proc_mut(&mut self, pid: u32) -> Option<&mut Proc> {
        self.procs.values_mut().find(|proc| proc.pid == pid)
    }

    pub fn kill(&mut self, pid: u32) {
        let Some(instance) = self.proc(pid).map(|proc| proc.instance) else { return };
        self.say(|| format!("-- {} died", instance.name()));
        self.procs.remove(&instance);
        self.queue.retain(|waiting| *waiting != pid);
        if self.lease == Some(pid) {
            self.let_go();
        }
        if self.wanted.contains(&instance) {
            self.after(RESTART_TIME, Due::Start(instance));
        }
        let peers: Vec<u32> = self.procs.values().map(|proc| proc.pid).collect();
        for peer in peers {
            self.after(1, Due::Tell(peer, Event::InstanceGone(instance)));
        }
        self.watch();
    }

    /// The kernel gives the lease to who waits first.
    pub fn let_go(&mut self) {
        self.lease = self.queue.pop_front();
        if let Some(pid) = self.lease {
            self.after(1, Due::Tell(pid, Event::LeaseGot));
        }
    }

    pub fn turned_back(&self) -> Option<TurnedBack> {
        self.disk.starts.of(&self.disk.ledger)
    }

    pub fn word(&mut self, pid: u32, word: UpgradeWord) {
        self.after(50, Due::Tell(pid, Event::Word(word)));
    }

    /// Which version acts, by a process that is well.
    pub fn acting(&self) -> Option<AgentVersion> {
        self.procs.values().find(|proc| proc.acts && !proc.hangs).map(|proc| proc.version)
    }
}

/// How an effect went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    Yes,
    Dead,
    Failed,
}
