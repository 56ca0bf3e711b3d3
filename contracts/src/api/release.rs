//! Releases of the agent as the coordinator shows them. What devices believe is the signed manifest alone.

use serde::{Deserialize, Serialize};

use crate::{
    bytes::{KeyId, Sha256},
    release::{Artifact, KeyRing},
    v1::AgentVersion,
};

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReleaseView {
    /// As people say it.
    pub version: AgentVersion,
    /// Decides what is newer.
    pub release_seq: u64,
    /// Devices that took it take nothing below this any more.
    pub min_seq: u64,
    /// May it be rolled out?
    pub state: ReleaseState,
    /// Why not, in words; empty when it may.
    pub detail: String,
    /// When it was made.
    pub created: String,
    /// No upgrade to it begins after this.
    pub expires: String,
    /// When it was published.
    pub published: String,
    /// By whom.
    pub published_by: String,
    /// Ids of the release keys that signed it.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub signed_by: Vec<KeyId>,
    /// One binary for each target.
    pub artifacts: Vec<Artifact>,
    /// The digest of the signed manifest.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub manifest: Sha256,
    /// The signed manifest itself, in base64.
    pub signed: String,
}

/// May a release be rolled out?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseState {
    /// Yes.
    Usable,
    /// Its time is over.
    Expired,
    /// The release keys have changed since it was signed.
    KeysChanged,
}

/// The release keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReleaseKeysView {
    /// The newest version.
    pub version: u64,
    /// The digest of version 1, which devices pin.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub pin: Sha256,
    /// They certify the keys and their successors.
    pub root: KeyRing,
    /// They sign manifests.
    pub release: KeyRing,
    /// When the newest version was published.
    pub published: String,
    /// By whom.
    pub published_by: String,
    /// Every version as it was signed, from 1, in base64.
    pub chain: Vec<String>,
}

/// A binary that is whole at the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct BinaryView {
    /// Its digest.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub sha256: Sha256,
    /// Bytes.
    pub size: u64,
}
