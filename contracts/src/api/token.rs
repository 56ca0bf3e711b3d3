//! Enrolment tokens; their secret is seen once.

use serde::{Deserialize, Serialize};

use crate::id::Tenant;
use crate::id::Uid;
use crate::label::Labels;
use crate::quantity::Millis;

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
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
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
    #[cfg_attr(feature = "openapi", schema(value_type = std::collections::BTreeMap<String, String>))]
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
