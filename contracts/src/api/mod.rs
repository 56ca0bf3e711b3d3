//! What the HTTP API says, beside the manifest and the report: JSON views and requests, shared by coordinator and CLI.
//!
//! Times are RFC 3339 by the coordinator's clock. Lists are pages; every object carries `version` for `If-Match`.

mod audit;
mod deployment;
mod device;
mod os;
mod release;
mod resume;
mod rollout;
mod session;
mod stream;
mod token;

pub use audit::{AuditEvent, Outcome};
pub use deployment::{
    Applied, Change, DeploymentView, PlanRequest, PlanView, PlannedDeployment, PlannedDevice, Summary, TargetView,
};
pub use device::{Connection, DeviceState, DeviceView, Explanation, LabelChange};
pub use os::{OsPlanLine, OsPlanRequest, OsPlanState, OsPlannedDevice};
pub use release::{BinaryView, ReleaseKeysView, ReleaseState, ReleaseView};
pub use resume::{HeldDevice, ResumeMode, ResumeRequest, ResumeView};
pub use rollout::{RolloutDevice, RolloutKind, RolloutRequest, RolloutState, RolloutSummary, RolloutTurn, RolloutView};
pub use session::{
    CHANNEL_ERR, CHANNEL_IN, CHANNEL_OUT, OUTPUT_WINDOW, SESSION_MAX, SessionRequest, SessionSays, SessionTells,
};
pub use stream::{ExecRequest, StreamLine};
pub use token::{TokenCreated, TokenRequest, TokenView};

use serde::{Deserialize, Serialize};

use crate::{id::Tenant, rights::Right, smoke::CheckResult};

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// In a fixed order.
    pub items: Vec<T>,
    /// Give this as `cursor` for the next page; absent on the last.
    pub next_cursor: Option<String>,
}

/// Who asks, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Me {
    /// Name of the token or person.
    pub subject: String,
    /// Their rights.
    pub rights: Vec<Right>,
    /// Version of the coordinator.
    pub coordinator: String,
}

/// Why somebody does something: goes to the audit trail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Because {
    /// In the operator's words; required for a quarantine.
    #[serde(default)]
    pub reason: String,
}

/// A tenant and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TenantView {
    /// Its name.
    pub name: Tenant,
    /// Devices it has.
    pub devices: u32,
    /// Deployments it has.
    pub deployments: u32,
}

/// Is the coordinator caught up?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It is catching up with its store; what it shows may be old.
    Recovering,
}

/// `GET /ready` and `GET /health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReadyView {
    /// Is it?
    pub state: Readiness,
    /// What it waits for, in words.
    pub waits_for: Vec<String>,
    /// What was asked to know that, with the answers; older coordinators do not say.
    #[serde(default)]
    pub checks: Vec<CheckResult>,
    /// Of the coordinator.
    pub version: String,
}
