//! Devices that are ahead of the store, and what to do with them.

use serde::{Deserialize, Serialize};

use super::deployment::Change;
use super::deployment::PlannedDeployment;
use crate::id::DeviceId;
use crate::id::Generation;
use crate::id::Name;
use std::collections::BTreeMap;

/// What to do with devices that are ahead of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ResumeMode {
    /// Only show the difference.
    Show,
    /// The devices are right: rebuild deployments from their documents.
    Adopt,
    /// The store is right: send what it says.
    Overwrite,
}

/// `POST /api/v1/resume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResumeRequest {
    /// What to do.
    pub mode: ResumeMode,
    /// Only these devices; all that are on hold when empty.
    #[serde(default)]
    pub devices: Vec<Name>,
    /// In the operator's words.
    #[serde(default)]
    pub reason: String,
}

/// The difference, and what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResumeView {
    /// Devices that were on hold.
    pub devices: Vec<HeldDevice>,
    /// Deployments that adopting brings into the store, and those it changes.
    pub deployments: Vec<PlannedDeployment>,
    /// Was it done, or only shown?
    pub done: bool,
}

/// One device on hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct HeldDevice {
    /// Which.
    pub id: DeviceId,
    /// Its name.
    pub name: Name,
    /// Why it is on hold.
    pub reason: String,
    /// Of the device's own document.
    pub device_generation: Generation,
    /// What overwriting would do to its apps, by deployment.
    pub overwrite: BTreeMap<String, Change>,
}
