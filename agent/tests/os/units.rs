//! The privileged units, in small steps. Each step can be the last one before the power goes, or fail. One lock: one unit at a
//! time. What is written is lost without power until it is synced.

use bramble_agent::core::os::{
    About, Change, Ground, Order, Plan, Protection, Ticket, UnitFailure, UnitResult, Verb, allows,
};
use bramble_contracts::boot::{Phase, Slot, Snapshot};

use super::bugs::Bug;
use super::disk::{Files, Held, Root};
use super::kinds::Kind;
use super::world::{Done, Due, MINUTE, SECOND, World};

/// A unit at work.
#[derive(Clone, Debug)]
pub struct Job {
    pub order: Order,
    step: usize,
}

/// What a step of a unit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Look,
    DropUntagged,
    NameSnapshot,
    MakeSnapshot,
    TagSnapshot,
    CopySlot,
    HalfRoot,
    Hang,
    WholeRoot,
    WriteSlot,
    Sync,
    TagTrial,
    TagFailed,
    Flip,
    FlipBack,
    RemoveSnapshot,
    ResyncHalf,
    Resync,
    End,
}

fn steps(verb: Verb, world: &World) -> Vec<Step> {
    use Step::*;
    let bug = world.bug;
    match verb {
        Verb::Plan | Verb::Fetch => vec![End],
        Verb::Snapshot if bug == Some(Bug::TaggedBeforeMade) => {
            vec![Look, DropUntagged, NameSnapshot, TagSnapshot, MakeSnapshot, End]
        }
        Verb::Snapshot => vec![Look, DropUntagged, NameSnapshot, MakeSnapshot, TagSnapshot, End],
        Verb::Apply if world.kind == Kind::AptHangs => vec![Look, CopySlot, HalfRoot, Hang, End],
        Verb::Apply if bug == Some(Bug::ApplyNotSynced) => vec![Look, CopySlot, HalfRoot, WholeRoot, WriteSlot, End],
        Verb::Apply => vec![Look, CopySlot, HalfRoot, WholeRoot, WriteSlot, Sync, End],
        Verb::Arm if bug == Some(Bug::TrialTagForgotten) => vec![Look, End],
        Verb::Arm => vec![Look, TagTrial, End],
        Verb::Fail if bug == Some(Bug::FailTagForgotten) => vec![Look, End],
        Verb::Fail => vec![Look, TagFailed, End],
        Verb::Commit if world.bootcount => vec![Look, RemoveSnapshot, End],
        Verb::Commit if bug == Some(Bug::FlipNotSynced) => vec![Look, Flip, End],
        Verb::Commit if bug == Some(Bug::RemovedBeforeFlip) => vec![Look, RemoveSnapshot, Flip, Sync, End],
        Verb::Commit => vec![Look, Flip, Sync, End],
        Verb::Remove => vec![Look, RemoveSnapshot, End],
        Verb::Resync => vec![Look, ResyncHalf, Resync, Sync, End],
        Verb::Mend => vec![Look, FlipBack, Sync, End],
    }
}

impl World {
    /// The condition of a verb, looked at under the lock.
    fn allows(&self, order: &Order) -> bool {
        let ground = Ground {
            volumes: self.disk.volumes(),
            booted: Some(self.slot),
            autoboot: self.autoboot,
            stamp: self.root.stamp.clone(),
            protection: if self.bootcount { Protection::Bootcount } else { Protection::Tryboot },
        };
        allows(order, &ground).is_ok()
    }

    /// Starts it, or lets it go on where it runs.
    pub fn start_unit(&mut self, order: &Order) {
        if self.bug != Some(Bug::StaleResults) {
            self.disk.results.remove(&order.verb);
        }
        if self.job.as_ref().is_some_and(|job| job.order.verb == order.verb) {
            return;
        }
        if self.job.is_some() {
            return self.waiting.push(order.clone());
        }
        self.job = Some(Job { order: order.clone(), step: 0 });
        self.unit_starts += 1;
        self.after(SECOND, Due::UnitStep(self.unit_starts));
    }

    fn next_unit(&mut self) {
        self.job = None;
        if !self.waiting.is_empty() {
            let order = self.waiting.remove(0);
            self.start_unit(&order);
        }
    }

    pub fn unit_step(&mut self, number: u32) {
        if number != self.unit_starts {
            return;
        }
        let Some(job) = self.job.clone() else { return };
        let verb = job.order.verb;
        let step = steps(verb, self)[job.step];
        if step == Step::Look && !self.allows(&job.order) {
            return self.end_unit(&job.order, Err((About::Condition, "its condition does not hold".into())));
        }
        if step == Step::Hang {
            return;
        }
        if step == Step::End {
            return self.end_unit(&job.order, Ok(()));
        }
        let boots = self.boots;
        match self.effect(&|| format!("{verb}: {step:?}"), |world| world.unit_does(step, &job.order)) {
            Done::Dead => return,
            Done::Failed => return self.end_unit(&job.order, Err((About::Other, "input/output error".into()))),
            Done::Yes if self.boots != boots || self.job.is_none() => return,
            Done::Yes => {}
        }
        if let Some(job) = &mut self.job {
            job.step += 1;
        }
        self.after(SECOND, Due::UnitStep(self.unit_starts));
    }

    fn unit_does(&mut self, step: Step, order: &Order) {
        let (running, slot) = (self.slot, order.slot);
        match step {
            Step::Look | Step::Hang | Step::End => {}
            Step::DropUntagged => drop(self.disk.snapshot.take_if(|held| held.tags.is_none())),
            Step::NameSnapshot => self.disk.snapshot = Some(Held { tags: None, saved: None }),
            Step::MakeSnapshot => self.held().saved = Some(self.root.clone()),
            Step::TagSnapshot if self.bug == Some(Bug::SlotTagForgotten) => {
                self.held().tags = Snapshot::from_tags("bramble.phase=apply");
            }
            Step::TagSnapshot => self.held().tags = Some(Snapshot::new(slot.unwrap())),
            Step::CopySlot if self.bootcount => {}
            Step::CopySlot => {
                let from = self.files[running as usize];
                *self.files_mut(self.written_slot(order)) = Files { half: false, ..from };
            }
            Step::HalfRoot => self.root.half = true,
            Step::WholeRoot => {
                self.root = Root { version: self.new_version(), half: false, stamp: Some(order.ticket.clone()) };
            }
            Step::WriteSlot if self.bootcount => {}
            Step::WriteSlot => {
                let files = Files { version: self.new_version(), half: false };
                *self.files_mut(self.written_slot(order)) = files;
            }
            Step::Sync => self.sync(),
            Step::TagTrial => self.tag(Phase::Trial),
            Step::TagFailed => self.tag(Phase::Failed),
            Step::Flip => self.autoboot = slot,
            Step::FlipBack => self.autoboot = slot,
            Step::RemoveSnapshot => self.disk.snapshot = None,
            Step::ResyncHalf => self.files_mut(running.other()).half = true,
            Step::Resync => *self.files_mut(running.other()) = self.files[running as usize],
        }
    }

    fn written_slot(&self, order: &Order) -> Slot {
        if self.bug == Some(Bug::ActiveSlotWritten) { self.slot } else { order.slot.unwrap() }
    }

    fn files_mut(&mut self, slot: Slot) -> &mut Files {
        &mut self.files[slot as usize]
    }

    fn held(&mut self) -> &mut Held {
        self.disk.snapshot.as_mut().expect("there is a snapshot")
    }

    pub fn tag(&mut self, phase: Phase) {
        if let Some(tags) = self.disk.snapshot.as_mut().and_then(|held| held.tags.as_mut()) {
            tags.phase = phase;
            if phase == Phase::Failed {
                tags.returns = 0;
            }
        }
    }

    /// The version that the packages of this story bring.
    fn new_version(&self) -> u32 {
        self.disk.snapshot.as_ref().and_then(|held| held.saved.as_ref()).unwrap_or(&self.root).version + 1
    }

    fn end_unit(&mut self, order: &Order, ended: Result<(), (About, String)>) {
        let verb = order.verb;
        let (once, again) = (self.run_number == 1, &mut self.went_wrong);
        let kind = self.kind;
        let ended = match (verb, kind) {
            (Verb::Fetch, Kind::FetchFails) if once && !*again => {
                *again = true;
                Err((About::Archive, "no route to host".to_owned()))
            }
            (Verb::Apply, Kind::NoRoom) if once && !*again => {
                *again = true;
                Err((About::Room, "root is full".to_owned()))
            }
            (Verb::Apply, Kind::AptFails) => Err((About::Packages, "bad-postinst: exit status 3".to_owned())),
            (_, _) => ended,
        };
        let plan = (verb == Verb::Plan).then(|| plan(kind == Kind::Nothing, self.packages));
        let result = ended.map(|()| plan).map_err(|(about, why)| UnitFailure { about, why });
        let result = UnitResult { ticket: order.ticket.clone(), boot: self.boot_id(), result };
        let said = if result.result.is_ok() { "done" } else { "failed" };
        let store = |world: &mut Self| drop(world.disk.results.insert(verb, result.clone()));
        match self.effect(&|| format!("{verb}: {said}"), store) {
            Done::Dead => {}
            Done::Failed | Done::Yes => {
                self.next_unit();
                self.news();
            }
        }
    }

    /// Somebody kills what runs; it leaves no result.
    pub fn kill_unit(&mut self) {
        if self.job.is_some() {
            self.unit_starts += 1;
            self.next_unit();
            self.news();
        }
    }

    pub fn result_of(&self, verb: Verb, ticket: Option<&Ticket>) -> Option<UnitResult> {
        let found = self.disk.results.get(&verb)?.clone();
        match (self.bug, ticket) {
            (Some(Bug::StaleResults), Some(ticket)) => {
                Some(UnitResult { ticket: ticket.clone(), boot: self.boot_id(), ..found })
            }
            (_, _) => Some(found),
        }
    }
}

fn plan(nothing: bool, version: u32) -> Plan {
    let change = |name: &str| Change {
        name: name.into(),
        from: Some("1".into()),
        to: Some(format!("{}", version + 1)),
        bytes: 1 << 20,
    };
    Plan::new(if nothing { vec![] } else { vec![change("podman"), change("linux-image-rpi-v8")] }, vec![])
}

/// How long apt may hang before it is given up, in the tests.
pub const APPLY_MAX: u64 = 5 * MINUTE;
