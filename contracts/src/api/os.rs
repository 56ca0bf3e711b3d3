//! What an upgrade of the operating system would do, before anything is begun.

use serde::{Deserialize, Serialize};

use crate::{
    id::{DeviceId, Name},
    label::Selector,
    v3::{OsPackages, OsPlan, Protection},
};

/// `POST /api/v1/os-upgrades/plan`: asks devices, and changes nothing on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OsPlanRequest {
    /// Which packages.
    pub packages: OsPackages,
    /// Devices that are protected less are refused, and not asked; `tryboot` when absent.
    #[serde(default)]
    pub least: Option<Protection>,
    /// Which devices; all of the tenant when absent.
    #[serde(default)]
    pub selector: Option<Selector>,
}

/// What would come of it on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OsPlanState {
    /// It would be upgraded.
    Upgrade,
    /// There is nothing to upgrade.
    Nothing,
    /// It would refuse it, or be left out; the reason says why.
    Refused,
    /// It cannot be reached.
    Away,
    /// It was asked and cannot say; the reason says why.
    Failed,
}

/// One device of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OsPlannedDevice {
    /// Which.
    pub device: DeviceId,
    /// Its name.
    pub name: Name,
    /// What would come of it.
    pub state: OsPlanState,
    /// Why, or what it waits for, in words; empty when all is well.
    pub reason: String,
    /// How an upgrade of it would be undone; absent where that is not known.
    pub protection: Option<Protection>,
    /// What it says, where it was asked and could.
    pub plan: Option<OsPlan>,
}

/// One line of the answer (`application/x-ndjson`), as devices answer. The last one is `end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum OsPlanLine {
    /// One device.
    Device {
        /// It.
        planned: Box<OsPlannedDevice>,
    },
    /// All were told.
    End {
        /// How many.
        devices: u32,
    },
}
