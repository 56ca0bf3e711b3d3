//! The timestamp: which manifest is the newest, said online and for a short time, so that a broker that is taken over
//! cannot hold a fleet at an old release unseen. Signed in [`crate::signed::Role::Time`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    bytes::KeyId,
    bytes::{PublicKey, Sha256},
    envelope::{Kind, Message},
    signed::{self, Role, VerifyError},
};

/// A timestamp that is to live longer is refused.
pub const TIMESTAMP_LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Says that a manifest is to be taken now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseTimestamp {
    /// Its sequence.
    pub release_seq: u64,
    /// The digest of the signed manifest, whole.
    pub manifest: Sha256,
    /// The newest version of the release keys.
    pub keys_version: u64,
    /// Milliseconds since 1970 by the coordinator's clock.
    pub issued_ms: u64,
    /// No upgrade begins after this.
    pub expires_ms: u64,
}

impl Message for ReleaseTimestamp {
    const KIND: Kind = Kind::ReleaseTimestamp;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 256;
}

/// Why a timestamp is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// Not validly signed in the role of time.
    #[error("release timestamp: {0}")]
    Signature(#[from] VerifyError),
    /// Of another manifest than the one at hand.
    #[error("release timestamp vouches for another manifest ({0})")]
    OtherManifest(Sha256),
    /// It vouches for longer than anybody may.
    #[error("release timestamp lives for {life_ms} ms, longer than {} ms", TIMESTAMP_LIFE_MAX.as_millis())]
    TooLong {
        /// For so long.
        life_ms: u64,
    },
    /// Its time is over: the coordinator is out of reach, or somebody holds newer ones back.
    #[error("release timestamp expired {over_ms} ms ago: no upgrade begins until the coordinator vouches anew")]
    Expired {
        /// For so long.
        over_ms: u64,
    },
}

impl ReleaseTimestamp {
    /// Verifies, parses and judges it for the manifest with digest `manifest`.
    pub fn open(
        bytes: &[u8],
        manifest: &Sha256,
        now_ms: u64,
        lookup: impl FnOnce(Role, &KeyId) -> Option<PublicKey>,
    ) -> Result<Self, TimestampError> {
        let stamp: Self = signed::open(bytes, Role::Time, lookup)?;
        if stamp.manifest != *manifest {
            return Err(TimestampError::OtherManifest(stamp.manifest));
        }
        let life_ms = stamp.expires_ms.saturating_sub(stamp.issued_ms);
        if u128::from(life_ms) > TIMESTAMP_LIFE_MAX.as_millis() {
            return Err(TimestampError::TooLong { life_ms });
        }
        if stamp.expires_ms <= now_ms {
            return Err(TimestampError::Expired { over_ms: now_ms - stamp.expires_ms });
        }
        Ok(stamp)
    }
}
