//! Devices as people see them: state, connection, labels, why they are not up to date.

use serde::{Deserialize, Serialize};

use crate::id::DeviceId;
use crate::id::Generation;
use crate::id::Name;
use crate::id::Tenant;
use crate::label::LabelKey;
use crate::label::Labels;
use crate::v1::Health;
use crate::v2::ClockReport;
use crate::v3::Report;

/// Where a device is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// Waits for approval.
    Pending,
    /// Works.
    Active,
    /// Cut off until `unquarantine`.
    Quarantined,
    /// Gone for good; its id is never reused.
    Decommissioned,
}

/// What is known of a device's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Connection {
    /// Heartbeats arrive.
    Online,
    /// None for a while.
    Offline,
    /// The coordinator has just started and has not heard long enough to say.
    Recovering,
    /// It never connected.
    Never,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    /// For ever.
    pub id: DeviceId,
    /// Whose.
    pub tenant: Tenant,
    /// Unique in the tenant.
    pub name: Name,
    /// What selectors see.
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub labels: Labels,
    /// Where in its life.
    pub state: DeviceState,
    /// Is it there?
    pub connection: Connection,
    /// When it was last heard.
    pub last_seen: Option<String>,
    /// When it enrolled.
    pub created: String,
    /// Its own judgement; `unknown` unless it is online.
    pub health: Health,
    /// What its wall clock is worth by its own judgement; `unknown` unless it is online.
    #[serde(default)]
    pub clock: ClockReport,
    /// Version of its agent; empty before its first report.
    #[serde(default)]
    pub agent: String,
    /// Of the document the coordinator wants.
    pub desired_generation: Generation,
    /// Of the document the device acts on.
    pub reported_generation: Generation,
    /// Why it is on hold, when it is.
    pub hold: Option<String>,
    /// Why it is quarantined, when it is.
    pub quarantine: Option<String>,
    /// The whole report, in `describe` only.
    pub report: Option<Report>,
    /// For `If-Match`.
    pub version: u64,
}

/// `PATCH /api/v1/devices/{name}/labels`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelChange {
    /// Added or changed.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
    pub set: Labels,
    /// Taken away.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub remove: Vec<LabelKey>,
}

/// `GET /api/v1/devices/{name}/explain`: one answer, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Is it as it should be?
    pub up_to_date: bool,
    /// The answer.
    pub sentence: String,
    /// What it rests on.
    pub evidence: Vec<String>,
    /// What to do next; empty when nothing.
    pub next: String,
}
