//! What an upgrade of the operating system would do to a device, as the device says when it is asked.

use serde::{Deserialize, Serialize};

use super::{PackageChange, PackageName, Protection};

/// Nothing is changed by asking. Its size is bounded: it fits one frame.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OsPlan {
    /// How an upgrade would be undone.
    pub protection: Protection,
    /// What a better protection lacks, in words; empty when there is none better.
    pub lacks: String,
    /// What would become newer, come or go: the first [`super::OsUpgradeReport::CHANGES_MAX`] by name.
    pub changes: Vec<PackageChange>,
    /// How many there are beyond these.
    pub changes_more: u32,
    /// Would change and are held back on the device, the first [`OsPlan::HELD_MAX`].
    pub held: Vec<PackageName>,
    /// To be downloaded, in bytes.
    pub download_bytes: u64,
    /// How much room it takes and there is; absent where that cannot be read.
    pub room: Option<OsRoom>,
    /// Why the device would refuse it, in words; empty when it would not.
    pub refused: String,
    /// Why it could not begin at this moment, in words; empty when it could.
    pub waits: String,
}

impl OsPlan {
    /// So many held packages are told.
    pub const HELD_MAX: usize = 20;
    /// Bytes of a sentence in it.
    pub const WORDS_MAX: usize = 300;
}

/// Room for an upgrade, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct OsRoom {
    /// Needed where packages are downloaded to, with what stays free beside them.
    pub fetch_need: u64,
    /// Free there.
    pub fetch_free: u64,
    /// Needed in the pool of volumes, for all of root to be written anew while the old one is kept.
    pub pool_need: u64,
    /// Free there.
    pub pool_free: u64,
}
