//! What an app's loop tells of damaged storage: to its memory, when a step met it, and to people.
//!
//! Decides nothing: `core::heal` does.

use std::time::Duration;

use crate::core::app::AppKey;
use crate::core::have::Have;
use crate::core::heal::Finding;
use crate::core::memory::Memory;
use crate::core::record::Record;
use crate::core::step::{Step, StepError};

/// A step may have failed because storage is damaged.
pub(super) fn met(memory: &mut Memory, record: &Record, step: &Step, err: &StepError, now: Duration) {
    let StepError::Damaged { damage, why } = err else { return };
    match step {
        Step::Create { app, name, .. } => memory.healing.met(*damage, app, name, "", why, now),
        Step::Start { target, .. } => {
            if let Some(app) = record.current_app() {
                memory.healing.met(*damage, &app, &target.name, &target.id, why, now);
            }
        }
        Step::Adopt { .. }
        | Step::Pull { .. }
        | Step::Examine { .. }
        | Step::Stop { .. }
        | Step::Expire { .. }
        | Step::Remove { .. }
        | Step::RemovePod { .. }
        | Step::Forget { .. }
        | Step::CreatePod { .. }
        | Step::Probe { .. } => {}
    }
}

/// An image's files may have been examined.
pub(super) fn examined(memory: &mut Memory, step: &Step, result: &Result<(), StepError>, now: Duration) {
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
    memory.healing.examined(image, finding, now);
}

/// What people should look at.
pub(super) fn alarms(key: &AppKey, have: &Have, memory: &Memory) -> Vec<String> {
    let strangers = have.strangers.iter().map(|seen| {
        format!(
            "{} carries this agent's labels for {key} but was not made by it, so it is not touched; remove it with `podman rm {}` if it is not wanted",
            seen.podman_name, seen.podman_name
        )
    });
    strangers.chain(memory.healing.notes().map(|note| format!("{key}: {note}"))).collect()
}
