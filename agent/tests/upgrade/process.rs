//! An agent in the world: reads the facts, takes a step, stores the ledger, does the effects, one after the other.

use bramble_agent::core::upgrade::{
    Admission, Attempt, Binary, Clock, Confirmed, Effect, Event, ExitCode, Facts, Failure, Fault, JudgeError, Lease,
    Line, Mesh, Phase, System, Whole, prune, step, wake_at,
};
use bramble_contracts::bytes::Sha256;
use bramble_contracts::release::ReleaseError;
use bramble_contracts::v1::{AgentVersion, Instance};
use bramble_contracts::v2::{AgentWish, UpgradeWord};

use super::kinds::Kind;
use super::world::{Done, Due, SECOND, World};

const MIB: u64 = 1 << 20;
/// Of every binary.
const SIZE: u64 = 20 * MIB;

/// Something that takes time, and ends with its process.
#[derive(Clone, Debug)]
pub enum Job {
    Judge(AgentWish),
    Stage(Attempt, AgentVersion),
    Test(Attempt, AgentVersion),
    Halt,
}

/// A process.
#[derive(Clone, Debug)]
pub struct Proc {
    pub pid: u32,
    pub instance: Instance,
    pub version: AgentVersion,
    pub connected: Option<u64>,
    /// Supervises apps.
    pub acts: bool,
    /// Does nothing any more, and holds what it holds.
    pub hangs: bool,
    started: bool,
    reconciled: bool,
    job: u64,
    ticks: u64,
}

impl World {
    pub fn spawn(&mut self, instance: Instance, version: AgentVersion) {
        self.next += 1;
        let pid = u32::try_from(self.next).unwrap();
        let up = self.up();
        self.say(|| format!("{}.{}s {} {version}: begins", up / 1000, up % 1000 / 100, instance.name()));
        let proc = Proc {
            pid,
            instance,
            version,
            connected: None,
            acts: false,
            hangs: false,
            started: false,
            reconciled: false,
            job: 0,
            ticks: 0,
        };
        self.procs.insert(instance, proc);
        match self.kind(version) {
            Kind::CannotStart => return self.after(10, Due::Die(pid)),
            Kind::CrashesStarting => self.after(500, Due::Die(pid)),
            Kind::HangsStarting => return self.after(0, Due::Hang(pid)),
            _ => {}
        }
        self.after(100, Due::Begin(pid));
        self.after(SECOND, Due::Connect(pid));
    }

    /// Tries for the lease once, then takes its first step.
    pub fn begin(&mut self, pid: u32) {
        let Some(proc) = self.proc_mut(pid) else { return };
        proc.started = true;
        if self.lease.is_none() {
            self.lease = Some(pid);
        }
        self.tell(pid, &Event::Started);
        self.say_ready(pid);
    }

    pub fn connect(&mut self, pid: u32) {
        let (up, mesh_up) = (self.up(), self.mesh_up);
        let Some(version) = self.proc(pid).map(|proc| proc.version) else { return };
        let kind = self.kind(version);
        let Some(proc) = self.proc_mut(pid) else { return };
        let able = !(kind == Kind::NeverConnects || kind == Kind::Disconnects && proc.acts);
        if mesh_up && able && proc.connected.is_none() {
            proc.connected = Some(up);
            self.look_soon();
            self.tell(pid, &Event::Wished);
            self.say_ready(pid);
        }
    }

    /// To who started it, once it has started and is connected.
    fn say_ready(&mut self, pid: u32) {
        let ready = |proc: &Proc| proc.started && proc.connected.is_some() && !proc.hangs;
        let Some(holder) = self.lease.filter(|_| self.proc(pid).is_some_and(ready)) else { return };
        let of = self.disk.ledger.upgrade.as_ref().filter(|upgrade| upgrade.phase == Phase::Starting).map(|u| u.of);
        if let Some(of) = of.filter(|_| holder != pid) {
            self.after(10, Due::Tell(holder, Event::Ready { of, result: Ok(()) }));
        }
    }

    pub fn tick(&mut self, pid: u32, number: u64) {
        if self.proc(pid).is_some_and(|proc| proc.ticks == number) {
            self.tell(pid, &Event::Tick);
        }
    }

    /// What was begun has come to its end; nobody hears of what was given up.
    pub fn done(&mut self, pid: u32, number: u64, job: &Job) {
        if self.proc(pid).is_none_or(|proc| proc.job != number) {
            return;
        }
        let event = match job {
            Job::Judge(wish) => self.judged(wish),
            Job::Stage(of, version) => self.staged(*of, *version),
            Job::Test(_, version) if self.kind(*version) == Kind::SelfTestHangs => return,
            Job::Test(of, version) => self.tested(*of, *version),
            Job::Halt => {
                self.proc_mut(pid).into_iter().for_each(|proc| proc.acts = false);
                Event::Halted
            }
        };
        self.tell(pid, &event);
    }

    pub fn facts(&self, proc: &Proc) -> Facts {
        Facts {
            up_ms: self.up(),
            boot: self.boot_id(),
            own: proc.version,
            instance: proc.instance,
            lease: if self.lease == Some(proc.pid) { Lease::Held } else { Lease::NotHeld },
            links: Some(self.disk.links),
            target: Some(self.target.clone()),
            wish: self.wish.clone(),
            mesh: proc.connected.map_or(Mesh::Down, |since_ms| Mesh::Up { since_ms }),
            clock: if self.clock_fit { Clock::Fit } else { Clock::Unfit("nobody has told the time".into()) },
            free_bytes: self.free_bytes,
            floor: self.disk.floor,
            guard: self.turned_back(),
            system: System::Settled,
            bounds: self.bounds,
        }
    }

    /// One step of one agent.
    pub fn tell(&mut self, pid: u32, event: &Event) {
        let Some(proc) = self.proc(pid).filter(|proc| proc.started && !proc.hangs) else { return };
        let (facts, ledger) = (self.facts(proc), self.disk.ledger.clone());
        if self.recording {
            let ledger = (*event == Event::Started || self.lines.is_empty()).then(|| ledger.clone());
            let line = Line { ledger, facts: facts.clone(), event: event.clone() };
            self.lines.push(serde_json::to_string(&line).unwrap());
            self.say(|| format!("      {} {} hears: {event}", facts.instance.name(), facts.own));
        }
        let (next, effects) = step(ledger.clone(), event, &facts);
        if effects.iter().any(|effect| matches!(effect, Effect::Judge(_)))
            && (facts.mesh == Mesh::Down || facts.clock != Clock::Fit)
        {
            self.wrong.push("an upgrade begins without a connection or a clock".into());
        }
        if self.recording {
            self.decided.extend(effects.iter().map(ToString::to_string));
        }
        if next != ledger {
            if facts.lease == Lease::NotHeld {
                self.wrong.push("who does not hold the lease writes the ledger".into());
            }
            self.check_confirmation(pid, event, &next.confirmed);
            match self.effect(Some(pid), &|| "store".into(), |world| world.disk.ledger = next.clone()) {
                Done::Yes => {}
                Done::Dead => return,
                // What could not be stored did not happen: it is told again.
                Done::Failed => return self.after(facts.bounds.mend_ms, Due::Tell(pid, event.clone())),
            }
            self.look_soon();
        }
        for effect in effects {
            match self.perform(pid, &effect) {
                Done::Yes => {}
                Done::Dead => return,
                // There is no way for a process not to end.
                Done::Failed if matches!(effect, Effect::Exit(_)) => return self.apply(pid, &effect),
                Done::Failed => {
                    self.after(1, Due::Tell(pid, Event::Failed { effect, why: "it is not possible".into() }));
                    break;
                }
            }
        }
        self.set_timer(pid, &facts);
    }

    /// After each step, of both agents: the ledger may have changed.
    fn set_timer(&mut self, pid: u32, asked: &Facts) {
        let pids: Vec<u32> = self.procs.values().map(|proc| proc.pid).collect();
        for each in pids {
            let Some(proc) = self.proc(each) else { continue };
            let facts = self.facts(proc);
            let due = wake_at(&self.disk.ledger, &facts);
            let (number, up) = (proc.ticks + 1, self.up());
            if each == pid && due.is_some_and(|due| due <= asked.up_ms) {
                self.wrong.push("the next tick is due at once".into());
            }
            if let Some(proc) = self.proc_mut(each) {
                proc.ticks = number;
            }
            if let Some(due) = due {
                self.after(due.saturating_sub(up).max(1), Due::Tick(each, number));
            }
        }
    }

    /// Only a sound agent that has reconciled in this very run is ever confirmed, and only by a word that names it.
    fn check_confirmation(&mut self, pid: u32, event: &Event, confirmed: &Confirmed) {
        let Confirmed { version, release_seq, .. } = *confirmed;
        if version == self.disk.ledger.confirmed.version {
            return;
        }
        let said = *event == Event::Word(UpgradeWord::Confirm { release_seq });
        let proven = self.proc(pid).is_some_and(|proc| proc.reconciled && proc.version == version);
        if !said || !proven || !self.kind(version).is_sound() {
            self.wrong.push(format!("{version} is confirmed, and was not proven"));
        }
    }

    fn perform(&mut self, pid: u32, effect: &Effect) -> Done {
        self.effect(Some(pid), &|| effect.to_string(), |world| world.apply(pid, effect))
    }

    fn apply(&mut self, pid: u32, effect: &Effect) {
        let Some(proc) = self.proc(pid).cloned() else { return };
        match effect {
            Effect::Judge(wish) => {
                if self.disk.ledger.denial(&Attempt::from(wish)).is_some() {
                    self.wrong.push(format!("{} was refused, and is begun again", wish.version));
                }
                self.job(pid, 2 * SECOND, Job::Judge(wish.clone()));
            }
            Effect::Stage { of, what } => self.job(pid, 5 * SECOND, Job::Stage(*of, what.version)),
            Effect::SelfTest { of, version } => self.job(pid, 2 * SECOND, Job::Test(*of, *version)),
            Effect::Abandon => self.proc_mut(pid).into_iter().for_each(|proc| proc.job += 1),
            Effect::TurnLink(version) => {
                self.disk.links.current = *version;
                self.after(1, Due::Tell(pid, Event::LinkTurned(*version)));
            }
            Effect::MarkConfirmed(version) => self.disk.links.confirmed = *version,
            Effect::RaiseFloor(floor) => {
                if *floor > self.disk.floor {
                    self.disk.floor = *floor;
                }
            }
            Effect::StartInstance(instance) => {
                self.wanted.insert(*instance);
                self.after(20, Due::Start(*instance));
            }
            Effect::StopInstance(instance) => {
                self.wanted.remove(instance);
                let there = self.procs.get(instance).map(|proc| proc.pid);
                there.into_iter().for_each(|pid| self.kill(pid));
            }
            Effect::EnableInstance(instance) => self.disk.enabled = *instance,
            Effect::Halt => self.job(pid, SECOND, Job::Halt),
            Effect::ReleaseLease => {
                let phase = self.disk.ledger.upgrade.as_ref().map(|upgrade| &upgrade.phase);
                if proc.acts || phase != Some(&Phase::Released) {
                    self.wrong.push("the lease is let go by one who acts, or before that is stored".into());
                }
                if self.lease == Some(pid) {
                    self.let_go();
                }
            }
            Effect::WaitForLease => self.wait(pid),
            Effect::Act => self.act(&proc),
            Effect::Prune => self.prune(&proc),
            Effect::Exit(code) => {
                if *code == ExitCode::Retire {
                    self.wanted.remove(&proc.instance);
                }
                self.kill(pid);
            }
        }
    }

    fn job(&mut self, pid: u32, ms: u64, job: Job) {
        let Some(proc) = self.proc_mut(pid) else { return };
        proc.job += 1;
        let number = proc.job;
        self.after(ms, Due::Done(pid, number, job));
    }

    fn wait(&mut self, pid: u32) {
        if self.lease.is_none() {
            self.lease = Some(pid);
            self.after(1, Due::Tell(pid, Event::LeaseGot));
        } else if self.lease != Some(pid) && !self.queue.contains(&pid) {
            self.queue.push_back(pid);
        }
    }

    fn act(&mut self, was: &Proc) {
        let Some(proc) = self.proc_mut(was.pid) else { return };
        proc.acts = true;
        proc.job += 1;
        if was.acts {
            return;
        }
        match self.kind(was.version) {
            Kind::CrashesActing => self.after(1500, Due::Die(was.pid)),
            Kind::HangsActing | Kind::HangsLong => self.after(1500, Due::Hang(was.pid)),
            Kind::NeverReconciles => return,
            Kind::Disconnects => self.procs.values_mut().filter(|p| p.pid == was.pid).for_each(|p| p.connected = None),
            _ => {}
        }
        self.after(2 * SECOND, Due::Tell(was.pid, Event::Reconciled));
        self.proc_mut(was.pid).into_iter().for_each(|proc| proc.reconciled = true);
    }

    fn prune(&mut self, proc: &Proc) {
        let there = self.disk.binaries.iter();
        let there: Vec<Binary> =
            there.map(|version| Binary { version: *version, bytes: SIZE, whole: Whole::Whole }).collect();
        for gone in prune(&self.disk.ledger, &self.facts(proc), &there, SIZE) {
            self.disk.binaries.remove(&gone.version);
        }
    }

    fn judged(&self, wish: &AgentWish) -> Event {
        let of = Attempt::from(wish);
        let (version, release_seq) = (wish.version, wish.release_seq);
        let err = match self.kind(version) {
            Kind::WrongSignature => Some(ReleaseError::Signatures { got: 1, need: 2 }),
            Kind::Replayed => Some(ReleaseError::Expired { version, over_ms: 1 }),
            Kind::BelowFloor => Some(ReleaseError::BelowFloor { version, got: release_seq, floor: self.disk.floor }),
            _ => None,
        };
        let result = match err {
            _ if !self.mesh_up => Err(Failure::new(Fault::Nobody, "nobody answers")),
            Some(err) => Err(Failure::from(&JudgeError::from(err))),
            None => {
                let sha256 = Sha256::of(b"binary");
                Ok(Admission { version, release_seq, min_seq: release_seq - 1, size: SIZE, sha256 })
            }
        };
        Event::Judged { of, result }
    }

    fn staged(&mut self, of: Attempt, version: AgentVersion) -> Event {
        let once = self.heard.insert(format!("staged {version}"));
        let result = match self.kind(version) {
            _ if !self.mesh_up => Err(Failure::new(Fault::Nobody, "the download was cut off")),
            Kind::WrongDigest => Err(Failure::new(Fault::Release, "the binary has another digest")),
            Kind::Truncated if once => Err(Failure::new(Fault::Nobody, "the download was cut off")),
            Kind::DiskFull if once => Err(Failure::new(Fault::Nobody, "no space left on the device")),
            _ => Ok(()),
        };
        if result.is_ok() {
            self.disk.binaries.insert(version);
        }
        Event::Staged { of, result }
    }

    fn tested(&self, of: Attempt, version: AgentVersion) -> Event {
        let result = match self.kind(version) {
            Kind::SelfTestFails => Err(Failure::new(Fault::Release, "the store cannot be opened")),
            _ if !self.mesh_up => Err(Failure::new(Fault::Nobody, "the mesh is out of reach")),
            _ => Ok(()),
        };
        Event::Tested { of, result }
    }
}
