//! The heartbeat: at most 40 bytes, so that thousands of devices cost a broker nothing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Kind, Message},
    id::{Generation, SessionId},
};

/// Which of the two agents on a device speaks; during the agent's own upgrade there are two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Instance {
    /// The first unit.
    #[default]
    A,
    /// The second unit.
    B,
}

impl Instance {
    /// As it stands in subjects and unit names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// A release version, `1.2.3`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentVersion {
    /// Breaks.
    pub major: u16,
    /// Adds.
    pub minor: u16,
    /// Mends.
    pub patch: u16,
}

impl fmt::Display for AgentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A text that is not `1.2.3`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version such as 1.2.3")]
pub struct NotAVersion(String);

impl FromStr for AgentVersion {
    type Err = NotAVersion;
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let bad = || NotAVersion(text.chars().take(40).collect());
        let parts: Vec<u16> = text.split('.').map(|p| p.parse().map_err(|_| bad())).collect::<Result<_, _>>()?;
        let [major, minor, patch] = parts[..] else { return Err(bad()) };
        Ok(Self { major, minor, patch })
    }
}

impl Serialize for AgentVersion {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { (self.major, self.minor, self.patch).serialize(s) }
    }
}

impl<'de> Deserialize<'de> for AgentVersion {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            return String::deserialize(d)?.parse().map_err(serde::de::Error::custom);
        }
        let (major, minor, patch) = Deserialize::deserialize(d)?;
        Ok(Self { major, minor, patch })
    }
}

/// The device's own judgement of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// Every desired app is as it should be.
    Healthy,
    /// Work is under way.
    Progressing,
    /// Something failed; the report says what.
    Degraded,
}

/// Sent every few seconds; says only what decides about liveness and addressing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct Heartbeat {
    /// This run of the agent.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub session: SessionId,
    /// Which of the two agents.
    pub instance: Instance,
    /// Counts up in a session.
    pub seq: u32,
    /// The device's monotonic clock since boot, in milliseconds: commands expire by it.
    pub uptime_ms: u64,
    /// Of the desired document it acts on.
    pub generation: Generation,
    /// Of the agent.
    pub version: AgentVersion,
    /// The newest desired document it reads.
    pub newest_document: u8,
    /// How it is.
    pub health: Health,
}

impl Message for Heartbeat {
    const KIND: Kind = Kind::Heartbeat;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = crate::subjects::LIVENESS_MAX_BYTES;
}
