//! What the host is to do. The changed ledger is durable before the first of a list is done. They are done in order; one
//! that fails ends its list and is told as [`super::Event::Failed`]. Each is idempotent: it may be asked for again, and then
//! costs nothing where it is done already.

use std::fmt;

use bramble_contracts::v1::{AgentVersion, Instance};
use bramble_contracts::v2::AgentWish;
use serde::{Deserialize, Serialize};

use super::event::{Admission, Attempt};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// Let what may not be cut in two come to its end, fetch keys, manifest and timestamp, and judge them. In the
    /// background; answers `Judged`. Of `Judge`, `Stage` and `SelfTest` at most one is under way: a new one ends it.
    Judge(AgentWish),
    /// Fetch the binary, or go on fetching it; bounded, checked, durable, in its place. In the background; answers `Staged`.
    Stage {
        /// For which attempt.
        of: Attempt,
        /// What.
        what: Admission,
    },
    /// Have the staged binary test itself, within `bounds.test_ms`. In the background; answers `Tested`.
    SelfTest {
        /// For which attempt.
        of: Attempt,
        /// Which binary.
        version: AgentVersion,
    },
    /// End what is under way of the three above; what was fetched may stay.
    Abandon,
    /// Make `state/bin/current` name this version: by rename, with the folder synced. Answers `LinkTurned`.
    TurnLink(AgentVersion),
    /// Make `state/bin/confirmed` name this version, as durably.
    MarkConfirmed(AgentVersion),
    /// Keep this as the least sequence; never lower it.
    RaiseFloor(u64),
    /// Have the supervisor start this instance (it runs what `current` names). Answers `Ready` when an upgrade waits for it.
    StartInstance(Instance),
    /// Have the supervisor end this instance, also by force, and not start it again. Done when its process is gone.
    StopInstance(Instance),
    /// A boot starts this instance, and not the other one.
    EnableInstance(Instance),
    /// Finish the step under way, then stop supervising, answering commands and reporting. Connection and heartbeats
    /// stay. In the background; answers `Halted`.
    Halt,
    /// Let the lease go.
    ReleaseLease,
    /// Wait for the lease, behind everybody who waits already: who lets it go must not overtake who was waiting for it
    /// (`state/next.lock` first, then `state/acting.lock`, then let `next` go). Answers `LeaseGot`.
    WaitForLease,
    /// Supervise apps, answer commands, report. Also ends a `Halt` that is under way.
    Act,
    /// Remove the binaries that [`super::prune`] names.
    Prune,
    /// End this process, in good order, with this code.
    Exit(ExitCode),
}

/// How a process ends, and what its supervisor makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitCode {
    /// It is not needed any more: it is not started again.
    Retire,
    /// Another version is to run in its place: it is started again, by what `current` names then.
    Restart,
}

impl ExitCode {
    /// The number that the supervisor sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Retire => 64,
            Self::Restart => 65,
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Judge(wish) => write!(f, "judge {} attempt {}", wish.version, wish.attempt),
            Self::Stage { what, .. } => write!(f, "stage {}", what.version),
            Self::SelfTest { version, .. } => write!(f, "self-test {version}"),
            Self::Abandon => f.write_str("abandon"),
            Self::TurnLink(version) => write!(f, "turn link to {version}"),
            Self::MarkConfirmed(version) => write!(f, "mark {version} confirmed"),
            Self::RaiseFloor(floor) => write!(f, "raise floor to {floor}"),
            Self::StartInstance(instance) => write!(f, "start instance {}", instance.name()),
            Self::StopInstance(instance) => write!(f, "stop instance {}", instance.name()),
            Self::EnableInstance(instance) => write!(f, "enable instance {}", instance.name()),
            Self::Halt => f.write_str("halt"),
            Self::ReleaseLease => f.write_str("release lease"),
            Self::WaitForLease => f.write_str("wait for lease"),
            Self::Act => f.write_str("act"),
            Self::Prune => f.write_str("prune"),
            Self::Exit(ExitCode::Retire) => f.write_str("exit, retired"),
            Self::Exit(ExitCode::Restart) => f.write_str("exit, to be restarted"),
        }
    }
}
