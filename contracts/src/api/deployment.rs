//! Deployments as people see them: apply, plan, and how each device does.

use serde::{Deserialize, Serialize};

use super::device::Connection;
use crate::id::DeviceId;
use crate::id::Name;
use crate::id::Revision;
use crate::id::Tenant;
use crate::id::Uid;
use crate::problem::FieldError;
use crate::v1::Manifest;
use crate::v1::Phase;
use crate::v1::Status;
use crate::v2::AppReport;

/// A deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeploymentView {
    /// For ever.
    pub uid: Uid,
    /// Grows with every change.
    pub revision: Revision,
    /// As it was applied, defaults filled in.
    pub manifest: Manifest,
    /// When it was first applied.
    pub created: String,
    /// When it last changed.
    pub updated: String,
    /// How many devices it is for, and how they do.
    pub summary: Summary,
    /// Each device, in `describe` only.
    pub devices: Vec<TargetView>,
    /// For `If-Match`.
    pub version: u64,
}

/// How the devices of a deployment do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Devices selected.
    pub devices: u32,
    /// Proven on the newest revision.
    pub confirmed: u32,
    /// On their way.
    pub progressing: u32,
    /// Failed.
    pub failed: u32,
    /// Not connected, so nothing is known of them now.
    pub unreachable: u32,
    /// On hold, quarantined or refused by name.
    pub blocked: u32,
}

/// One device of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TargetView {
    /// Which.
    pub device: DeviceId,
    /// Its name.
    pub name: Name,
    /// Is it there?
    pub connection: Connection,
    /// Why nothing is sent to it, when nothing is.
    pub blocked: Option<String>,
    /// Status on the newest revision; absent while the device has not reported on it.
    pub status: Option<Status>,
    /// The detail.
    pub phase: Option<Phase>,
    /// In words.
    pub reason: String,
    /// What the device says, whole.
    pub app: Option<AppReport>,
}

/// The answer to an apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// What was done.
    pub change: Change,
    /// The deployment, as it is now.
    pub deployment: DeploymentView,
    /// What is allowed and probably not meant.
    pub warnings: Vec<FieldError>,
}

/// What a change does to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is new.
    Created,
    /// It changes; containers are replaced.
    Replaced,
    /// It changes; containers run on.
    Updated,
    /// It goes.
    Removed,
    /// Nothing changes.
    Unchanged,
}

/// `POST /api/v1/plan`: what would happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanRequest {
    /// As they would be applied, in this order.
    pub manifests: Vec<Manifest>,
}

/// What would happen, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PlanView {
    /// Per deployment.
    pub deployments: Vec<PlannedDeployment>,
}

/// What would happen to one deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PlannedDeployment {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub name: Name,
    /// To the deployment itself.
    pub change: Change,
    /// On each device, in the order it would reach them.
    pub devices: Vec<PlannedDevice>,
    /// Why it would be refused.
    pub errors: Vec<FieldError>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<FieldError>,
}

/// What would happen on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct PlannedDevice {
    /// Which.
    pub name: Name,
    /// To the app there.
    pub change: Change,
    /// What it would wait for (the device to be back, other deployments on it); empty when it would happen at once.
    pub waits: String,
}
