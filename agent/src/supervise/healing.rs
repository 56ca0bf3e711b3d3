//! What an app's loop tells of damaged storage: to its memory, when a step met it, and to people.
//!
//! Decides nothing: `core::heal` does.

use std::time::Duration;

use super::lanes::Memories;
use crate::core::app::{App, AppKey};
use crate::core::have::Have;
use crate::core::heal::Finding;
use crate::core::memory::Memory;
use crate::core::step::{Step, StepError};

/// Takes in one look at both specs, and leaves in it what is to be mended now.
pub(super) fn saw(memory: &mut Memories, have: &mut Have, current: Option<&App>, want: Option<&App>, now: Duration) {
    memory.in_charge.healing.saw(have, current, now);
    memory.beside.healing.saw(have, want, now);
    have.wounds.containers = memory.in_charge.healing.due(now);
    have.wounds.containers.extend(memory.beside.healing.due(now));
}

/// When something more is to be mended.
pub(super) fn next(memory: &Memories, now: Duration) -> Option<Duration> {
    memory.in_charge.healing.next(now).into_iter().chain(memory.beside.healing.next(now)).min()
}

/// A step of this spec may have failed because storage is damaged.
pub(super) fn met(memory: &mut Memory, app: &App, step: &Step, err: &StepError, now: Duration) {
    let StepError::Damaged { damage, why } = err else { return };
    match step {
        Step::Create { name, .. } => memory.healing.met(*damage, app, name, "", why, now),
        Step::Start { target, .. } => memory.healing.met(*damage, app, &target.name, &target.id, why, now),
        Step::Adopt { .. }
        | Step::Pull { .. }
        | Step::Examine { .. }
        | Step::Stop { .. }
        | Step::Retire { .. }
        | Step::Expire { .. }
        | Step::Remove { .. }
        | Step::RemovePod { .. }
        | Step::Forget { .. }
        | Step::CreatePod { .. }
        | Step::Map { .. }
        | Step::Unmap { .. }
        | Step::Probe { .. } => {}
    }
}

/// An image's files may have been examined.
pub(super) fn examined(memory: &mut Memories, step: &Step, result: &Result<(), StepError>, now: Duration) {
    let Step::Examine { image } = step else { return };
    let finding = match result {
        Ok(()) => Finding::Whole,
        Err(StepError::Damaged { why, .. }) => Finding::Damaged(why),
        Err(
            StepError::NameTaken { .. }
            | StepError::StillRunning { .. }
            | StepError::Unhealthy(_)
            | StepError::Refused(_)
            | StepError::State(_),
        ) => Finding::Unknown,
    };
    memory.each().into_iter().for_each(|memory| memory.healing.examined(image, finding, now));
}

/// What people should look at.
pub(super) fn alarms(key: &AppKey, have: &Have, memory: &Memories) -> Vec<String> {
    let strangers = have.strangers.iter().map(|seen| {
        format!(
            "{} carries this agent's labels for {key} but was not made by it, so it is not touched; remove it with `podman rm {}` if it is not wanted",
            seen.podman_name, seen.podman_name
        )
    });
    let mut notes: Vec<&str> = memory.in_charge.healing.notes().collect();
    // What concerns both specs is told once.
    notes.extend(
        memory.beside.healing.notes().filter(|note| memory.in_charge.healing.notes().all(|told| told != *note)),
    );
    strangers.chain(notes.into_iter().map(|note| format!("{key}: {note}"))).collect()
}
