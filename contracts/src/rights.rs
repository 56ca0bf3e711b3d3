//! Rights: what a caller may do. Deny by default; a route names the one it needs.

use serde::{Deserialize, Serialize};

/// A right, written `<resource>:<verb>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Right {
    /// See devices, their reports and why they are as they are.
    #[serde(rename = "devices:read")]
    DevicesRead,
    /// Label and approve devices.
    #[serde(rename = "devices:write")]
    DevicesWrite,
    /// Cut a device off, and let it back.
    #[serde(rename = "devices:quarantine")]
    DevicesQuarantine,
    /// Run a program inside an app.
    #[serde(rename = "devices:exec")]
    DevicesExec,
    /// Read what an app prints.
    #[serde(rename = "devices:logs")]
    DevicesLogs,
    /// See deployments and plan changes.
    #[serde(rename = "deployments:read")]
    DeploymentsRead,
    /// Apply and delete deployments.
    #[serde(rename = "deployments:write")]
    DeploymentsWrite,
    /// List enrolment tokens (never their secrets).
    #[serde(rename = "enrollment-tokens:read")]
    TokensRead,
    /// Make and revoke enrolment tokens.
    #[serde(rename = "enrollment-tokens:write")]
    TokensWrite,
    /// See releases of the agent and the keys they are signed by.
    #[serde(rename = "releases:read")]
    ReleasesRead,
    /// Publish releases and their keys.
    #[serde(rename = "releases:write")]
    ReleasesWrite,
    /// See rollouts.
    #[serde(rename = "rollouts:read")]
    RolloutsRead,
    /// Start, pause, approve and end rollouts.
    #[serde(rename = "rollouts:write")]
    RolloutsWrite,
    /// Read the audit trail.
    #[serde(rename = "audit:read")]
    AuditRead,
    /// Decide what happens to devices that are ahead of the store.
    #[serde(rename = "fleet:resume")]
    FleetResume,
}

impl Right {
    /// Every right: what the bootstrap admin token holds.
    pub const ALL: [Self; 15] = [
        Self::DevicesRead,
        Self::DevicesWrite,
        Self::DevicesQuarantine,
        Self::DevicesExec,
        Self::DevicesLogs,
        Self::DeploymentsRead,
        Self::DeploymentsWrite,
        Self::TokensRead,
        Self::TokensWrite,
        Self::ReleasesRead,
        Self::ReleasesWrite,
        Self::RolloutsRead,
        Self::RolloutsWrite,
        Self::AuditRead,
        Self::FleetResume,
    ];

    /// Its text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DevicesRead => "devices:read",
            Self::DevicesWrite => "devices:write",
            Self::DevicesQuarantine => "devices:quarantine",
            Self::DevicesExec => "devices:exec",
            Self::DevicesLogs => "devices:logs",
            Self::DeploymentsRead => "deployments:read",
            Self::DeploymentsWrite => "deployments:write",
            Self::TokensRead => "enrollment-tokens:read",
            Self::TokensWrite => "enrollment-tokens:write",
            Self::ReleasesRead => "releases:read",
            Self::ReleasesWrite => "releases:write",
            Self::RolloutsRead => "rollouts:read",
            Self::RolloutsWrite => "rollouts:write",
            Self::AuditRead => "audit:read",
            Self::FleetResume => "fleet:resume",
        }
    }
}
