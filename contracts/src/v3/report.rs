//! The reported document, with the operating system.

use serde::{Deserialize, Serialize};

use super::OsReport;
use crate::{
    envelope::{self, DecodeError, Kind, Message},
    id::{DeviceId, Generation, SessionId},
    v1::{self, AgentVersion, DeviceFacts, Health, Instance, Refusal},
    v2::{self, AgentReport, AppReport, ClockReport},
};

/// All that a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Who says it.
    pub device: DeviceId,
    /// The run of the agent that says it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
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
    /// Its operating system.
    #[serde(default)]
    pub os: OsReport,
    /// Every app it runs, or is to run.
    pub apps: Vec<AppReport>,
    /// What it refused to act on, the newest last.
    pub refused: Vec<Refusal>,
    /// What a person should look at.
    pub alarms: Vec<String>,
}

impl Message for Report {
    const KIND: Kind = Kind::Report;
    const VERSION: u8 = 3;
    const MAX_BYTES: usize = crate::subjects::REPORT_MAX_BYTES - 1024;

    fn older(version: u8, body: &[u8]) -> Option<Result<Self, DecodeError>> {
        match version {
            v2::Report::VERSION => Some(envelope::contents::<v2::Report>(body).map(Self::from)),
            _ => Some(v2::Report::older(version, body)?.map(Self::from)),
        }
    }
}

impl From<v2::Report> for Report {
    fn from(report: v2::Report) -> Self {
        let v2::Report {
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
            clock,
            program,
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
            clock,
            program,
            os: OsReport::default(),
            apps,
            refused,
            alarms,
        }
    }
}

impl From<v1::Report> for Report {
    fn from(report: v1::Report) -> Self {
        v2::Report::from(report).into()
    }
}
