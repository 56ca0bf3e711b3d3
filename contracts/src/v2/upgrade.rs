//! What a device says of its agent's own upgrade, and what the coordinator says to the two agents that take part.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::Sha256,
    release::Target,
    v1::{AgentVersion, Status},
};

/// The agent as a program: what it is, and how its last upgrade went or goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AgentReport {
    /// For which machines this binary was made; absent in the report of an agent that does not upgrade itself.
    pub target: Option<Target>,
    /// Of the release it is, 0 when it was installed by hand.
    pub release_seq: u64,
    /// No release below this is taken.
    pub floor: u64,
    /// The release keys it holds, 0 for none.
    pub keys_version: u64,
    /// The upgrade that is under way, or the last one.
    pub upgrade: Option<UpgradeReport>,
}

/// One upgrade of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UpgradeReport {
    /// To this version.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub version: AgentVersion,
    /// By this signed manifest.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub manifest: Sha256,
    /// The attempt it was wished at.
    pub attempt: u32,
    /// In one word.
    pub status: Status,
    /// In detail.
    pub phase: UpgradePhase,
    /// Why it waits, failed or was rolled back, in words; empty when all is well.
    pub reason: String,
    /// Is the release to blame? Then it is refused until an operator retries. Else it is tried again by itself.
    pub blamed: bool,
    /// Bytes of the binary that are there.
    pub bytes_got: u64,
    /// Bytes of it in all.
    pub bytes_all: u64,
    /// From the wish to the end, in milliseconds of uptime.
    pub took_ms: Option<u64>,
    /// For how long nobody managed the device: the old agent had let go, and the new one had not taken over.
    pub unmanaged_ms: Option<u64>,
}

/// Where an agent's upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum UpgradePhase {
    /// It is wished and cannot begin yet: no mesh, no right clock, no room; `reason` says which.
    Waiting,
    /// What may not be cut in two comes to its end.
    Draining,
    /// The binary comes in.
    Staging,
    /// The new binary tests itself.
    Verifying,
    /// The new agent starts beside the old one, which lets go.
    CutoverReady,
    /// The new agent acts and is on trial.
    Trial,
    /// The old agent was told to stop.
    Stopping,
    /// Over: `status` says how.
    Done,
}

/// What the coordinator says to one of the two agents of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpgradeWord {
    /// To the new one: you were seen to be connected and to have reconciled. You are confirmed.
    Confirm {
        /// Of the release.
        release_seq: u64,
    },
    /// To the old one: another one is confirmed. Stop.
    Retire,
    /// To the one that acts: give this release up.
    Abort {
        /// Of the release.
        release_seq: u64,
        /// In words, for people.
        why: String,
    },
}
