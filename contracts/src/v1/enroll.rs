//! Enrolment over HTTP (JSON) and renewal over the mesh (postcard).

use serde::{Deserialize, Serialize};

use super::report::DeviceFacts;
use crate::{
    envelope::{Kind, Message},
    id::{DeviceId, Name, Tenant, Uid},
};

/// So many trust documents one answer carries at most: who gets as many asks again.
pub const TRUST_STEPS_MAX: usize = 8;

/// `POST /api/v1/enroll`. The same key asking again gets the same device.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnrollRequest {
    /// Of the token.
    pub token: Uid,
    /// Of the token. Never logged.
    pub secret: String,
    /// The device's public user nkey, `U…`.
    pub public_key: String,
    /// A signature by that nkey (base64url, no padding) over `bramble enroll\0<token>\0<publicKey>`.
    pub proof: String,
    /// What the device would like to be called.
    pub name: Option<Name>,
    /// The newest desired document it reads.
    pub newest_document: u8,
    /// The machine.
    #[serde(default)]
    pub facts: DeviceFacts,
}

impl std::fmt::Debug for EnrollRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EnrollRequest(token {}, key {}, secret hidden)", self.token, self.public_key)
    }
}

impl EnrollRequest {
    /// What `proof` signs.
    pub fn proof_text(token: &Uid, public_key: &str) -> String {
        format!("bramble enroll\0{token}\0{public_key}")
    }
}

/// May it work already?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub enum EnrollState {
    /// An operator has to approve it; ask again.
    Pending,
    /// It has a JWT.
    Active,
}

/// The answer.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct EnrollResponse {
    /// Its id, for ever.
    pub device: DeviceId,
    /// Its tenant.
    pub tenant: Tenant,
    /// Its name.
    pub name: Name,
    /// May it work already?
    pub state: EnrollState,
    /// NATS user JWT, when `active`.
    pub jwt: Option<String>,
    /// Signed trust documents, base64. At enrolment the newest alone: the token pins it. At renewal those after the
    /// one the device holds, in order, at most [`TRUST_STEPS_MAX`].
    pub trust: Vec<String>,
    /// While `pending`: how long to wait before asking again, in seconds.
    pub retry_after_secs: u32,
}

impl std::fmt::Debug for EnrollResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EnrollResponse({} {} {:?}, jwt hidden)", self.device, self.name, self.state)
    }
}

/// `POST /api/v1/enroll/nonce`: something fresh to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nonce {
    /// Used once, for a short time.
    pub nonce: String,
}

/// `POST /api/v1/enroll/renew`: for a device whose JWT expired while it was away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RenewHttpRequest {
    /// Who asks.
    pub device: DeviceId,
    /// From `/enroll/nonce`.
    pub nonce: String,
    /// Signature by the device's nkey (base64url, no padding) over `bramble renew\0<device>\0<nonce>`.
    pub proof: String,
    /// Version of the trust document it holds. Not signed: the documents are public.
    pub trust_version: u64,
}

impl RenewHttpRequest {
    /// What `proof` signs.
    pub fn proof_text(device: &DeviceId, nonce: &str) -> String {
        format!("bramble renew\0{device}\0{nonce}")
    }
}

/// On `up.<id>.renew` and `up.<id>.trust`: the broker has authenticated the device already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// Version of the trust document it holds.
    pub trust_version: u64,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewReply {
    /// New JWT for the same key; absent on `trust`, or when refused.
    pub jwt: Option<String>,
    /// The trust documents after the one it holds, in order, at most [`TRUST_STEPS_MAX`].
    pub trust: Vec<Vec<u8>>,
    /// Why there is no JWT.
    pub refused: Option<String>,
}

impl std::fmt::Debug for RenewReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RenewReply(jwt {}, trust {}, {:?})", self.jwt.is_some(), self.trust.len(), self.refused)
    }
}

impl Message for RenewRequest {
    const KIND: Kind = Kind::RenewRequest;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 64;
}

impl Message for RenewReply {
    const KIND: Kind = Kind::RenewReply;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 640 * 1024;
}
