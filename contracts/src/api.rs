//! What the HTTP API says, beside the manifest and the report: JSON views and requests, shared by coordinator and CLI.
//!
//! Times are RFC 3339 by the coordinator's clock. Lists are pages; every object carries `version` for `If-Match`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    id::{DeviceId, Generation, Name, Revision, Tenant, Uid},
    label::Labels,
    problem::FieldError,
    quantity::Millis,
    rights::Right,
    v1::{AppReport, Health, Manifest, Phase, Report, Status},
};

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
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
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
    /// Why it would not happen now (offline, on hold, quarantined); empty otherwise.
    pub waits: String,
}

/// `PATCH /api/v1/devices/{name}/labels`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelChange {
    /// Added or changed.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub set: Labels,
    /// Taken away.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub remove: Vec<crate::label::LabelKey>,
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

/// `POST /api/v1/enrollment-tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// How long it can be used; 7 d by default, 365 d at most.
    #[serde(default = "week")]
    pub ttl: Millis,
    /// By how many devices; 1 by default.
    #[serde(default = "once")]
    pub uses: u32,
    /// Devices are active at once, also with several uses.
    #[serde(default)]
    pub auto_approve: bool,
    /// First labels of its devices.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub labels: Labels,
}

fn week() -> Millis {
    Millis::secs(7 * 86_400)
}
fn once() -> u32 {
    1
}

/// An enrolment token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TokenView {
    /// Which.
    pub id: Uid,
    /// Whose devices it makes.
    pub tenant: Tenant,
    /// When it was made.
    pub created: String,
    /// Until when it can be used.
    pub expires: String,
    /// Uses in all.
    pub uses: u32,
    /// Uses taken.
    pub used: u32,
    /// See the request.
    pub auto_approve: bool,
    /// See the request.
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub labels: Labels,
    /// It was revoked.
    pub revoked: bool,
    /// For `If-Match`.
    pub version: u64,
}

/// The answer to making a token: the only time its text is seen.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct TokenCreated {
    /// The text to hand to the device.
    pub token: String,
    /// What is kept of it.
    pub view: TokenView,
}

/// One event of the audit trail. A mutation leaves an intent before it and an outcome after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    /// Grows; the `cursor` of a list.
    #[serde(default)]
    pub seq: u64,
    /// When.
    pub at: String,
    /// Who: a token's name, `device d-…`, or `coordinator`.
    pub who: String,
    /// What: `deployment.apply`, `device.quarantine`, …
    pub action: String,
    /// To what: `deployment/web`, `device/pi-1`.
    pub object: String,
    /// Whose; empty for what belongs to no tenant.
    pub tenant: String,
    /// Why, as the operator said.
    pub reason: String,
    /// Intent, done, refused or failed.
    pub outcome: Outcome,
    /// In words, when refused or failed.
    pub detail: String,
    /// The object before, where there was one. Never a secret.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub before: Option<serde_json::Value>,
    /// The object after, where there is one. Never a secret.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub after: Option<serde_json::Value>,
    /// Of the request.
    pub request_id: String,
    /// Of the caller's larger work.
    pub correlation_id: String,
}

/// How an audited action stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// About to be done.
    Intent,
    /// Done.
    Done,
    /// Not allowed.
    Refused,
    /// Tried.
    Failed,
}

/// `POST /api/v1/devices/{name}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecRequest {
    /// In which deployment.
    pub deployment: Name,
    /// In which container; may be absent when there is one.
    #[serde(default)]
    pub container: Option<Name>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Ends it after this; 60 s by default, 1 h at most.
    #[serde(default = "minute")]
    pub timeout: Millis,
}

fn minute() -> Millis {
    Millis::secs(60)
}

/// One line of a streamed answer (`application/x-ndjson`): logs and exec. The last one is `end` or `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "type")]
pub enum StreamLine {
    /// One line of a log.
    Line {
        /// Of which device.
        device: Name,
        /// Of which container.
        container: Name,
        /// RFC 3339, by the device's clock.
        at: String,
        /// On standard error?
        stderr: bool,
        /// The text.
        text: String,
    },
    /// Bytes that a program printed, base64.
    Output {
        /// On standard error?
        stderr: bool,
        /// The bytes, base64.
        data: String,
    },
    /// So many lines were left out.
    Skipped {
        /// How many.
        lines: u32,
    },
    /// All was sent.
    End {
        /// Of the program.
        exit_code: Option<i32>,
    },
    /// It broke off.
    Error {
        /// Of which device.
        device: Name,
        /// What, where and what to do next.
        detail: String,
    },
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
    /// Of the coordinator.
    pub version: String,
}
