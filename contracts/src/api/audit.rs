//! The audit trail.

use serde::{Deserialize, Serialize};

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
    /// In words: why it was refused or failed, how a program ended.
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
