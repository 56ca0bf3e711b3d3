//! Rollouts as people see them: what goes through the fleet, in which batches, and how each device does.

use serde::{Deserialize, Serialize};

use super::device::Connection;
use crate::{
    id::{DeviceId, Name, Tenant, Uid},
    label::Selector,
    v1::{AgentVersion, Rollout, Status},
    v3::{OsPackages, Probation, Protection},
};

/// What goes through the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RolloutKind {
    /// A release of the agent.
    Agent,
    /// A revision of a deployment.
    Deployment,
    /// Newer packages of the operating system.
    Os,
}

/// Where a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// A batch is under way.
    Running,
    /// An operator stopped it: no further device begins, those that have begun come to their end.
    Paused,
    /// The next batch waits for an operator's approval.
    Approval,
    /// Too many devices of a batch failed: no further device begins.
    Halted,
    /// Every batch is through.
    Done,
    /// An operator ended it.
    Aborted,
    /// A newer one took its place.
    Superseded,
}

/// How one device does in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RolloutTurn {
    /// Its turn has not come.
    Waiting,
    /// It is not connected; it gets it when it is back.
    Unreachable,
    /// It was told, and is on its way.
    Working,
    /// It has it and is healthy, not yet for long enough.
    Proving,
    /// It has proven it.
    Confirmed,
    /// It failed, or was silent for too long.
    Failed,
    /// It failed again and again and is left out until a retry.
    Boxed,
    /// It cannot take it; the reason says why.
    Refused,
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RolloutView {
    /// Of this run of it.
    pub uid: Uid,
    /// Whose.
    pub tenant: Tenant,
    /// A deployment's rollout is called as the deployment.
    pub name: Name,
    /// Of what.
    pub kind: RolloutKind,
    /// What it brings: `agent 1.2.3`, `web revision 4`.
    pub brings: String,
    /// For which devices; absent for all of the tenant.
    pub selector: Option<Selector>,
    /// How it goes.
    pub policy: Rollout,
    /// Where it is.
    pub state: RolloutState,
    /// Why it is there and what to do next, in words; empty when all is well.
    pub reason: String,
    /// The batch that is under way, from 1; 0 before the first.
    pub batch: u32,
    /// Batches in all.
    pub batches: u32,
    /// How its devices do.
    pub summary: RolloutSummary,
    /// Each device, in `describe` only; those whose batch has not come at the end.
    pub devices: Vec<RolloutDevice>,
    /// Who began it.
    pub by: String,
    /// When.
    pub created: String,
    /// When it last changed.
    pub updated: String,
    /// For how long it has been under way, in milliseconds; while no coordinator works, no time passes.
    pub elapsed_ms: u64,
    /// For `If-Match`.
    pub version: u64,
}

/// How the devices of a rollout do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RolloutSummary {
    /// Devices it is for.
    pub devices: u32,
    /// Their turn has not come.
    pub waiting: u32,
    /// On their way, or being proven.
    pub working: u32,
    /// Proven.
    pub confirmed: u32,
    /// Failed.
    pub failed: u32,
    /// Not connected at their turn; they get it when they are back.
    pub unreachable: u32,
    /// Left out: they cannot take it, or failed again and again.
    pub skipped: u32,
}

/// One device of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct RolloutDevice {
    /// Which.
    pub device: DeviceId,
    /// Its name.
    pub name: Name,
    /// Is it there?
    pub connection: Connection,
    /// In which batch; absent while that is open.
    pub batch: Option<u32>,
    /// How it does.
    pub turn: RolloutTurn,
    /// What it says itself; absent while it has said nothing of this.
    pub status: Option<Status>,
    /// The detail of it, as the device words it; empty while it has said nothing.
    pub phase: String,
    /// What it runs now: `0.1.0`, `revision 3`; empty where unknown.
    pub runs: String,
    /// Why it waits or failed, in words.
    pub reason: String,
    /// How often it was told; 0 before its turn.
    pub attempt: u32,
    /// How often it failed in a row.
    pub failures: u8,
}

/// `POST /api/v1/rollouts`: begin one. A deployment's begins when the deployment is applied. Which fields belong to which
/// kind is checked by the coordinator, which names those that are missing or too many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RolloutRequest {
    /// Of what; `agent` or `os`.
    pub kind: RolloutKind,
    /// What it is to be called; made from what it brings when absent.
    #[serde(default)]
    pub name: Option<Name>,
    /// Of the agent, to which version.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, pattern = "^[0-9]{1,4}[.][0-9]{1,4}[.][0-9]{1,4}$"))]
    #[serde(default)]
    pub version: Option<AgentVersion>,
    /// Of the operating system, which packages.
    #[serde(default)]
    pub packages: Option<OsPackages>,
    /// Of the operating system: devices that are protected less are left out; `tryboot` when absent.
    #[serde(default)]
    pub least: Option<Protection>,
    /// Of the operating system, how the new one proves itself.
    #[serde(default)]
    pub probation: Option<Probation>,
    /// For which devices; all of the tenant when absent.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// How it goes.
    #[serde(default)]
    pub policy: Rollout,
    /// In the operator's words, for the audit trail.
    #[serde(default)]
    pub reason: String,
}
