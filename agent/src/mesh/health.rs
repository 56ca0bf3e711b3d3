//! How the device is, in one word; pure.

use bramble_contracts::v1::{ContainerState, Health, Phase, Status};
use bramble_contracts::v2::{AppReport, ClockReport};
use bramble_contracts::v3::DesiredDocument;

/// Judges by the clock, by what is desired and by what every app says of itself.
pub(crate) fn judge(desired: Option<&DesiredDocument>, apps: &[AppReport], clock: &ClockReport) -> Health {
    if clock.is_wrong() {
        return Health::Degraded;
    }
    let Some(desired) = desired else { return Health::Unknown };
    let unstarted = |state| matches!(state, ContainerState::Missing | ContainerState::Created);
    let sick = |app: &AppReport| {
        let failed = match app.status {
            Status::Failed | Status::RolledBack => true,
            Status::Staged | Status::Trial | Status::Confirmed => false,
        };
        failed
            || matches!(app.phase, Phase::CrashLoop | Phase::Failed)
            // A probe says nothing of one that was not started yet.
            || app.containers.iter().any(|c| c.healthy == Some(false) && !unstarted(c.state))
    };
    if apps.iter().any(sick) {
        return Health::Degraded;
    }
    let proven = desired.apps.iter().all(|want| {
        apps.iter().any(|app| app.uid == want.uid && app.revision == want.revision && app.status == Status::Confirmed)
    });
    if proven && apps.len() == desired.apps.len() { Health::Healthy } else { Health::Progressing }
}
