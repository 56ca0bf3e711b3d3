//! The reported document, with the device's clock and the stages of every app's way to its newest revision.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::Sha256,
    envelope::{self, DecodeError, Kind, Message},
    id::{DeviceId, Generation, Name, Revision, SessionId, Tenant, Uid},
    v1::{self, AgentVersion, ContainerReport, DeviceFacts, Health, Instance, Phase, Refusal, Status},
    v2::AgentReport,
};

/// All that a device says of itself. Superseded by [`crate::v3::Report`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Who says it.
    pub device: DeviceId,
    /// The run of the agent that says it.
    pub session: SessionId,
    /// Which agent instance.
    pub instance: Instance,
    /// Counts the reports of this session.
    pub seq: u64,
    /// The generation it acts on; 0 before the first document.
    pub generation: Generation,
    /// The newest desired document version it reads.
    pub newest_document: u8,
    /// The trust document it holds.
    pub trust_version: u64,
    /// Its program.
    pub agent: AgentVersion,
    /// In one word.
    pub health: Health,
    /// The machine.
    pub facts: DeviceFacts,
    /// What its clock is worth.
    #[serde(default)]
    pub clock: ClockReport,
    /// The agent itself.
    #[serde(default)]
    pub program: AgentReport,
    /// Every app it runs, or is to run.
    pub apps: Vec<AppReport>,
    /// What it refused to act on, the newest last.
    pub refused: Vec<Refusal>,
    /// What a person should look at.
    pub alarms: Vec<String>,
}

impl Message for Report {
    const KIND: Kind = Kind::Report;
    const VERSION: u8 = 2;
    const MAX_BYTES: usize = crate::subjects::REPORT_MAX_BYTES - 1024;

    fn older(version: u8, body: &[u8]) -> Option<Result<Self, DecodeError>> {
        (version == v1::Report::VERSION).then(|| envelope::contents::<v1::Report>(body).map(Self::from))
    }
}

impl From<v1::Report> for Report {
    fn from(report: v1::Report) -> Self {
        let v1::Report {
            device,
            session,
            instance,
            seq,
            generation,
            newest_document,
            trust_version,
            agent,
            health,
            facts,
            apps,
            refused,
            alarms,
        } = report;
        Self {
            device,
            session,
            instance,
            seq,
            generation,
            newest_document,
            trust_version,
            agent,
            health,
            facts,
            clock: ClockReport::default(),
            program: AgentReport::default(),
            apps: apps.into_iter().map(AppReport::from).collect(),
            refused,
            alarms,
        }
    }
}

/// What a device's wall clock is worth, as the device judges it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ClockReport {
    /// In one word.
    pub verdict: ClockVerdict,
    /// By how many milliseconds the device's clock is ahead of (negative: behind) the time of `sources`; absent when
    /// nobody told it the time, or nobody is believed.
    pub skew_ms: Option<i64>,
    /// Who told it the time, in words; also the floor, below which a clock is wrong without anybody's word.
    pub sources: String,
    /// What follows and what to do, in words; empty when all is well.
    pub detail: String,
}

impl ClockReport {
    /// Is it known to be wrong? One that nobody has judged yet is no fault of the device's.
    pub fn is_wrong(&self) -> bool {
        match self.verdict {
            ClockVerdict::Skewed | ClockVerdict::Disputed => true,
            ClockVerdict::Fit | ClockVerdict::Unknown => false,
        }
    }
}

/// A wall clock in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ClockVerdict {
    /// Nobody has told the device the time yet.
    #[default]
    Unknown,
    /// Right, within the bound.
    Fit,
    /// Wrong by more than the bound.
    Skewed,
    /// Its sources contradict each other.
    Disputed,
}

/// How one app is on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct AppReport {
    /// Of the deployment.
    pub uid: Uid,
    /// Whose.
    pub tenant: Tenant,
    /// Its name.
    pub deployment: Name,
    /// The revision that is wanted.
    pub revision: Revision,
    /// The revision that runs, if any.
    pub running_revision: Option<Revision>,
    /// Its spec hash.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub running_hash: Option<Sha256>,
    /// Where the change is.
    pub status: Status,
    /// In detail.
    pub phase: Phase,
    /// Why, in words; empty when all is well.
    pub reason: String,
    /// How long it was down at the last replacement.
    pub last_downtime_ms: Option<u64>,
    /// Its containers, init containers first.
    pub containers: Vec<ContainerReport>,
    /// The way to the wanted revision, in order; empty when this agent has not walked it.
    #[serde(default)]
    pub stages: Vec<Stage>,
}

impl From<v1::AppReport> for AppReport {
    fn from(app: v1::AppReport) -> Self {
        let v1::AppReport {
            uid,
            tenant,
            deployment,
            revision,
            running_revision,
            running_hash,
            status,
            phase,
            reason,
            last_downtime_ms,
            containers,
        } = app;
        Self {
            uid,
            tenant,
            deployment,
            revision,
            running_revision,
            running_hash,
            status,
            phase,
            reason,
            last_downtime_ms,
            containers,
            stages: Vec::new(),
        }
    }
}

/// One stage of an app's way to a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Which.
    pub name: StageName,
    /// How it stands.
    pub state: StageState,
    /// How long it took, or has taken so far; absent before it began.
    pub took_ms: Option<u64>,
    /// In words: what it waits for, or what failed (the probe by name).
    pub detail: String,
}

/// The stages, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StageName {
    /// Images and room on the disk.
    Preparing,
    /// The old containers are asked to stop.
    Stopping,
    /// The init containers run.
    Init,
    /// The main containers start.
    Starting,
    /// Probes are asked.
    Probing,
    /// It is proven.
    Running,
}

/// How a stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StageState {
    /// Not begun.
    Waiting,
    /// Under way.
    Active,
    /// Done.
    Passed,
    /// It failed; it may be tried again.
    Failed,
    /// There was nothing to do.
    Skipped,
}
