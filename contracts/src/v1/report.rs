//! The reported document: what a device sees on itself. One writer, the device; shown to people as it is.

use serde::{Deserialize, Serialize};

use super::heartbeat::{AgentVersion, Health, Instance};
use crate::{
    bytes::Sha256,
    envelope::{Kind, Message},
    id::{DeviceId, Generation, Name, Revision, SessionId, Tenant, Uid},
};

/// What runs, how, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Who speaks.
    pub device: DeviceId,
    /// This run of the agent.
    pub session: SessionId,
    /// Which of the two agents.
    pub instance: Instance,
    /// Counts up in a session.
    pub seq: u64,
    /// Of the desired document it acts on; 0 before the first.
    pub generation: Generation,
    /// The newest desired document it reads.
    pub newest_document: u8,
    /// Version of the trust document it holds.
    pub trust_version: u64,
    /// Of the agent.
    pub agent: AgentVersion,
    /// How it is.
    pub health: Health,
    /// The machine.
    pub facts: DeviceFacts,
    /// Every app it runs or should run, sorted by tenant and deployment.
    pub apps: Vec<AppReport>,
    /// The last few messages it refused, newest last.
    pub refused: Vec<Refusal>,
    /// What people should look at: a damaged state file, a container that is not ours in our way.
    pub alarms: Vec<String>,
}

impl Message for Report {
    const KIND: Kind = Kind::Report;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = crate::subjects::REPORT_MAX_BYTES - 1024;
}

/// The machine, as far as it tells. Empty where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceFacts {
    /// Host name.
    pub hostname: String,
    /// `Raspberry Pi 4 Model B Rev 1.4`.
    pub model: String,
    /// `aarch64`.
    pub arch: String,
    /// `Debian GNU/Linux 13 (trixie)`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// Version of Podman.
    pub podman: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processors.
    pub cpus: u16,
    /// Bytes free where apps live.
    pub disk_free_bytes: u64,
    /// Bytes in all where apps live.
    pub disk_total_bytes: u64,
}

/// The one vocabulary for every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Known, and nothing running was touched yet.
    Staged,
    /// Being brought in.
    Trial,
    /// Proven.
    Confirmed,
    /// Tried, and the old one is back.
    RolledBack,
    /// Tried, and it did not work.
    Failed,
}

/// The detail below a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Images are fetched, space is checked; the old one runs.
    Preparing,
    /// The old one is asked to stop.
    Stopping,
    /// Init containers, then main containers, start.
    Starting,
    /// Started; its probes have not passed yet.
    Probing,
    /// As it should be.
    Running,
    /// Ended as it should (`restart: never` or `onFailure`, exit code 0).
    Completed,
    /// It keeps stopping; the next start waits.
    CrashLoop,
    /// Not going on by itself.
    Failed,
    /// No longer wanted; on its way out.
    Removing,
    /// What it depends on is not there yet; it goes on by itself.
    Waiting,
}

/// One app on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AppReport {
    /// Of the deployment.
    pub uid: Uid,
    /// Of the deployment.
    pub tenant: Tenant,
    /// Of the deployment.
    pub deployment: Name,
    /// Wanted.
    pub revision: Revision,
    /// Revision of what runs now, if any.
    pub running_revision: Option<Revision>,
    /// Spec hash of what runs now, if any.
    pub running_hash: Option<Sha256>,
    /// How far it is.
    pub status: Status,
    /// The detail.
    pub phase: Phase,
    /// In words: what failed or is waited for. Empty when all is well.
    pub reason: String,
    /// How long the app was down at its last replacement, in milliseconds.
    pub last_downtime_ms: Option<u64>,
    /// Its containers, init containers first.
    pub containers: Vec<ContainerReport>,
}

/// Init or main.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum ContainerRole {
    /// Runs to completion first.
    Init,
    /// The app.
    Main,
}

/// What Podman says of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum ContainerState {
    /// Not there (yet, or no more).
    Missing,
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Stopped.
    Exited,
    /// Something else: paused, removing, unreadable.
    Unknown,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ContainerReport {
    /// As the deployment names it.
    pub name: Name,
    /// Init or main.
    pub role: ContainerRole,
    /// Podman's id, 64 hex digits; empty when missing.
    pub id: String,
    /// What Podman says.
    pub state: ContainerState,
    /// When it is `exited`.
    pub exit_code: Option<i32>,
    /// The kernel killed it for its memory limit.
    pub oom_killed: bool,
    /// Starts by the agent after the first, in this revision.
    pub restarts: u32,
    /// When it started, in milliseconds since 1970 by the device's clock; 0 when never.
    pub started_at_ms: u64,
    /// Digest or id of the image it runs.
    pub image_digest: String,
    /// `None` without a probe.
    pub healthy: Option<bool>,
    /// Its last lines, where it failed.
    pub last_lines: Vec<String>,
}

/// What kind of message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum RefusalKind {
    /// No or a wrong signature.
    Signature,
    /// For another device.
    OtherDevice,
    /// An older generation.
    OlderGeneration,
    /// The generation held, with other content.
    Forked,
    /// Cannot be decoded here.
    Unreadable,
    /// A command of another session, used before, or expired.
    StaleCommand,
}

/// A message a device refused, so that operators hear of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Counts up for ever on a device, so that each is audited once.
    pub number: u64,
    /// Why, as a kind.
    pub kind: RefusalKind,
    /// Why, in words.
    pub detail: String,
    /// The generation it carried, where it could be verified.
    pub generation: Option<Generation>,
    /// How often in a row.
    pub times: u32,
}
