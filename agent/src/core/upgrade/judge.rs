//! May this release be taken? The papers are judged in one order, from what is cheap and certain to what needs a clock:
//! digest, timestamp, keys, signatures, contents, the wish, expiry, floor, machine. Every step has an error of its own.

use bramble_contracts::bytes::{KeyId, PublicKey, Sha256};
use bramble_contracts::release::{
    ReleaseError, ReleaseKeys, ReleaseKeysError, ReleaseManifest, ReleaseTimestamp, Target, TimestampError,
};
use bramble_contracts::signed::Role;
use bramble_contracts::v1::AgentVersion;
use bramble_contracts::v2::AgentWish;

use super::event::{Admission, Failure, Fault};

/// What was fetched, and by what it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Papers<'a> {
    /// The signed manifest.
    pub manifest: &'a [u8],
    /// The signed timestamp.
    pub stamp: &'a [u8],
    /// The newest release keys this device has.
    pub keys: &'a ReleaseKeys,
    /// The machine.
    pub target: &'a Target,
    /// No release below this is taken.
    pub floor: u64,
    /// Milliseconds since 1970, by a clock that is fit.
    pub now_ms: u64,
}

/// Why a release is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JudgeError {
    /// Somebody gave us other bytes than were asked for.
    #[error(
        "the manifest that came has digest {got}, asked was for {want}: it was altered on its way, or is another one"
    )]
    OtherBytes {
        /// Of what came.
        got: Sha256,
        /// Asked for.
        want: Sha256,
    },
    /// Nobody vouches for it now.
    #[error(transparent)]
    Stamp(#[from] TimestampError),
    /// Newer release keys are out, and did not come with it.
    #[error("the release keys here have version {have}, the newest is {newest}: they did not come in")]
    KeysBehind {
        /// Held.
        have: u64,
        /// Vouched for.
        newest: u64,
    },
    /// The manifest itself is refused.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The timestamp vouches for the digest, and says another sequence.
    #[error("the release timestamp is for sequence {stamp}, the manifest has {manifest}")]
    StampSequence {
        /// Of the timestamp.
        stamp: u64,
        /// Of the manifest.
        manifest: u64,
    },
    /// The wish and its manifest do not say the same.
    #[error("wished is {wished} with sequence {wished_seq}, its manifest is of {version} with sequence {seq}")]
    OtherRelease {
        /// By the wish.
        wished: AgentVersion,
        /// By the wish.
        wished_seq: u64,
        /// By the manifest.
        version: AgentVersion,
        /// By the manifest.
        seq: u64,
    },
}

impl JudgeError {
    /// Whose fault it is: the same bytes will not become right, but other bytes or another day may.
    pub fn fault(&self) -> Fault {
        match self {
            Self::OtherBytes { .. } | Self::Stamp(_) | Self::KeysBehind { .. } | Self::StampSequence { .. } => {
                Fault::Nobody
            }
            Self::Release(_) | Self::OtherRelease { .. } => Fault::Release,
        }
    }
}

impl From<&JudgeError> for Failure {
    fn from(err: &JudgeError) -> Self {
        Self::new(err.fault(), err.to_string())
    }
}

/// Opens the keys that come after `have`, or the pinned first ones. What comes back is stored before the next are opened.
pub fn next_keys(have: Option<&ReleaseKeys>, pin: &Sha256, signed: &[u8]) -> Result<ReleaseKeys, ReleaseKeysError> {
    match have {
        Some(have) => have.open_next(signed),
        None => ReleaseKeys::open_pinned(signed, pin),
    }
}

/// Judges what was fetched for `wish`. `lookup` finds the keys of the coordinator that sign time.
pub fn judge(
    wish: &AgentWish,
    papers: &Papers<'_>,
    lookup: impl FnOnce(Role, &KeyId) -> Option<PublicKey>,
) -> Result<Admission, JudgeError> {
    let Papers { manifest, stamp, keys, target, floor, now_ms } = *papers;
    let got = Sha256::of(manifest);
    if got != wish.manifest {
        return Err(JudgeError::OtherBytes { got, want: wish.manifest });
    }
    let stamp = ReleaseTimestamp::open(stamp, &got, now_ms, lookup)?;
    if stamp.keys_version > keys.version {
        return Err(JudgeError::KeysBehind { have: keys.version, newest: stamp.keys_version });
    }
    let manifest = ReleaseManifest::open(manifest, keys)?;
    let ReleaseManifest { version, release_seq: seq, min_seq, .. } = manifest;
    if stamp.release_seq != seq {
        return Err(JudgeError::StampSequence { stamp: stamp.release_seq, manifest: seq });
    }
    if (wish.version, wish.release_seq) != (version, seq) {
        let (wished, wished_seq) = (wish.version, wish.release_seq);
        return Err(JudgeError::OtherRelease { wished, wished_seq, version, seq });
    }
    let binary = manifest.admit(target, floor, now_ms)?;
    Ok(Admission { version, release_seq: seq, min_seq, size: binary.size, sha256: binary.sha256 })
}
