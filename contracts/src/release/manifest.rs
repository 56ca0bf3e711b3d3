//! The manifest: one version of the agent, its binaries and their digests, signed offline.

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::{
    bytes::{KeyId, PublicKey, Sha256, key_id},
    envelope::{self, DecodeError, EncodeError, Kind, Message},
    id::checked_text,
    multisig::{Layout, Signed},
    release::ReleaseKeys,
    v1::AgentVersion,
};

const LAYOUT: Layout = Layout { magic: 0xBB, domain: b"bramble release manifest v1\0" };
/// The largest signed manifest, in bytes.
pub const MANIFEST_SIGNED_MAX: usize = 2 + 16 * 72 + ReleaseManifest::MAX_BYTES;
/// The largest binary: nothing larger is downloaded, whatever a manifest says.
pub const ARTIFACT_MAX: u64 = 128 << 20;

checked_text!(
    /// A target triple: `aarch64-unknown-linux-musl`.
    Target,
    "target",
    "a target triple of a-z, 0-9, _ and -, such as aarch64-unknown-linux-gnu",
    |t| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let parts: Vec<&str> = t.split('-').collect();
        t.len() <= 64 && (3..=4).contains(&parts.len()) && parts.iter().all(|p| !p.is_empty() && p.bytes().all(plain))
    }
);

/// One version of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseManifest {
    /// [`ReleaseManifest::PRODUCT`]: a manifest of something else is refused.
    pub product: String,
    /// As people say it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub version: AgentVersion,
    /// Grows with every release; decides what is newer.
    pub release_seq: u64,
    /// A device that has taken this release takes none below this any more, and runs none after a rollback.
    pub min_seq: u64,
    /// Milliseconds since 1970, by who made it.
    pub created_ms: u64,
    /// After this nobody begins an upgrade to it. Milliseconds since 1970.
    pub expires_ms: u64,
    /// One for each target; sorted by target.
    pub artifacts: Vec<Artifact>,
}

/// One binary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artifact {
    /// For which machines.
    pub target: Target,
    /// Bytes.
    pub size: u64,
    /// Its digest.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub sha256: Sha256,
}

impl Message for ReleaseManifest {
    const KIND: Kind = Kind::ReleaseManifest;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 16 * 1024;
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Nothing was parsed: the size alone is wrong.
    #[error("release manifest of {got} bytes is larger than the limit of {MANIFEST_SIGNED_MAX}")]
    TooLarge {
        /// Its size.
        got: usize,
    },
    /// Not the layout of one.
    #[error("not a signed release manifest")]
    Layout,
    /// It names a signer that the release keys do not list: rotated, revoked, another fleet's, or a root key.
    #[error("release manifest is signed by key {key}, which version {keys_version} of the release keys does not list")]
    UnknownKey {
        /// The signer.
        key: KeyId,
        /// Of the keys held.
        keys_version: u64,
    },
    /// Too few valid signatures by different release keys.
    #[error(
        "release manifest has {got} valid signatures, needs {need}: it was altered, or not signed by enough people"
    )]
    Signatures {
        /// Valid ones found.
        got: usize,
        /// Needed.
        need: u8,
    },
    /// The signatures are right and the contents cannot be read.
    #[error("release manifest cannot be read: {0}")]
    Contents(#[from] DecodeError),
    /// Of another product.
    #[error("release manifest is of {0:?}, not of bramble-agent")]
    Product(String),
    /// It contradicts itself.
    #[error("release manifest is not sound: {0}")]
    Unsound(String),
    /// Its time is over.
    #[error("release {version} expired {over_ms} ms ago: publish it again with a later date")]
    Expired {
        /// Which.
        version: AgentVersion,
        /// For so long.
        over_ms: u64,
    },
    /// It is below what this device has taken already, or was told never to go below.
    #[error("release {version} has sequence {got}, this device takes none below {floor}")]
    BelowFloor {
        /// Which.
        version: AgentVersion,
        /// Its sequence.
        got: u64,
        /// The floor.
        floor: u64,
    },
    /// Nothing for this machine.
    #[error("release {version} has no binary for {target}")]
    NoArtifact {
        /// Which.
        version: AgentVersion,
        /// The machine's.
        target: Target,
    },
}

impl ReleaseManifest {
    /// The only product there is.
    pub const PRODUCT: &'static str = "bramble-agent";

    /// Signs with each of `keys`.
    pub fn sign(&self, keys: &[&SigningKey]) -> Result<Vec<u8>, EncodeError> {
        LAYOUT.sign(self, keys)
    }

    /// Adds a signature to a signed manifest.
    pub fn sign_more(bytes: &[u8], key: &SigningKey) -> Result<Vec<u8>, ReleaseError> {
        LAYOUT.add(bytes, key).ok_or(ReleaseError::Layout)
    }

    /// Who is named as a signer of these bytes, and what the signature is worth if `keys` are the release keys.
    pub fn signers(bytes: &[u8], keys: &[PublicKey]) -> Result<Vec<(KeyId, Signed)>, ReleaseError> {
        Ok(split(bytes)?.judged(keys))
    }

    /// Reads a manifest that is not signed enough yet: for those who are to sign it. Nobody acts on it.
    pub fn open_unsigned(bytes: &[u8]) -> Result<Self, ReleaseError> {
        let parts = split(bytes)?;
        let manifest: Self = envelope::decode(parts.envelope)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Verifies size, signers and threshold, then parses. In that order.
    pub fn open(bytes: &[u8], keys: &ReleaseKeys) -> Result<Self, ReleaseError> {
        let parts = split(bytes)?;
        let listed = |id: &KeyId| keys.release.keys.iter().any(|key| key_id(key) == *id);
        if let Some(key) = parts.named().find(|id| !listed(id)) {
            return Err(ReleaseError::UnknownKey { key: *key, keys_version: keys.version });
        }
        let (got, need) = (parts.signers(keys.release.keys.iter()), keys.release.threshold);
        if got < usize::from(need) {
            return Err(ReleaseError::Signatures { got, need });
        }
        let manifest: Self = envelope::decode(parts.envelope)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// May an upgrade to it begin now, on a machine of `target` that takes nothing below `floor`? Answers its binary.
    pub fn admit(&self, target: &Target, floor: u64, now_ms: u64) -> Result<&Artifact, ReleaseError> {
        let version = self.version;
        if self.expires_ms <= now_ms {
            return Err(ReleaseError::Expired { version, over_ms: now_ms - self.expires_ms });
        }
        if self.release_seq < floor {
            return Err(ReleaseError::BelowFloor { version, got: self.release_seq, floor });
        }
        let artifact = self.artifacts.iter().find(|artifact| artifact.target == *target);
        artifact.ok_or_else(|| ReleaseError::NoArtifact { version, target: target.clone() })
    }

    fn check(&self) -> Result<(), ReleaseError> {
        let bad = |why: String| Err(ReleaseError::Unsound(why));
        if self.product != Self::PRODUCT {
            return Err(ReleaseError::Product(self.product.chars().take(40).collect()));
        }
        if self.release_seq == 0 || self.min_seq > self.release_seq {
            return bad(format!("sequence {} with a least sequence of {}", self.release_seq, self.min_seq));
        }
        if self.expires_ms <= self.created_ms {
            return bad("it expires before it is made".into());
        }
        if self.artifacts.is_empty() || !self.artifacts.is_sorted_by(|a, b| a.target < b.target) {
            return bad("its binaries are none, or not one for each target in order".into());
        }
        match self.artifacts.iter().find(|artifact| artifact.size == 0 || artifact.size > ARTIFACT_MAX) {
            Some(Artifact { target, size, .. }) => bad(format!("the binary for {target} has {size} bytes")),
            None => Ok(()),
        }
    }
}

fn split(bytes: &[u8]) -> Result<crate::multisig::Parts<'_>, ReleaseError> {
    if bytes.len() > MANIFEST_SIGNED_MAX {
        return Err(ReleaseError::TooLarge { got: bytes.len() });
    }
    LAYOUT.split(bytes).ok_or(ReleaseError::Layout)
}
