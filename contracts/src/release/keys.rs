//! Which keys may sign releases. Made and signed where no network is; a device pins the first one and follows it step by
//! step: version + 1 only, signed by the old roots *and* the new ones.

use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::{
    bytes::{KeyId, PublicKey, Sha256},
    envelope::{self, DecodeError, EncodeError, Kind, Message},
    multisig::{Layout, Parts, Signed},
};

const LAYOUT: Layout = Layout { magic: 0xBA, domain: b"bramble release keys v1\0" };

/// Keys of one purpose, and how many of them have to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyRing {
    /// The keys.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub keys: Vec<PublicKey>,
    /// So many different ones; at least 1.
    pub threshold: u8,
}

/// The keys of a fleet's releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseKeys {
    /// Starts at 1; every successor is one more.
    pub version: u64,
    /// They certify this document and its successor.
    pub root: KeyRing,
    /// They sign manifests.
    pub release: KeyRing,
}

impl Message for ReleaseKeys {
    const KIND: Kind = Kind::ReleaseKeys;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 8 * 1024;
}

/// Why keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseKeysError {
    /// Not the layout of them.
    #[error("not a signed file of release keys")]
    Layout,
    /// Contents do not decode.
    #[error("release keys cannot be read: {0}")]
    Contents(#[from] DecodeError),
    /// A threshold is 0 or higher than the number of different keys.
    #[error("release keys ask for {threshold} {ring} signatures and list {keys} different {ring} keys")]
    Threshold {
        /// `root` or `release`.
        ring: &'static str,
        /// Signatures asked for.
        threshold: u8,
        /// Different keys listed.
        keys: usize,
    },
    /// A key is no point of the curve, or one with which anybody can sign.
    #[error("release keys list a {ring} key that is malformed or weak: {key}")]
    WeakKey {
        /// `root` or `release`.
        ring: &'static str,
        /// The key.
        key: PublicKey,
    },
    /// One key is to do two things.
    #[error("release keys list {0} both as a root and as a release key: each key has one purpose")]
    TwoPurposes(PublicKey),
    /// Too few valid signatures.
    #[error("release keys have {got} valid signatures by the {whose} root keys, need {need}")]
    Signatures {
        /// `old` or `new`.
        whose: &'static str,
        /// Valid ones found.
        got: usize,
        /// Needed.
        need: u8,
    },
    /// Not the successor of what is held.
    #[error("release keys have version {got}, the one after {have} is wanted")]
    Version {
        /// The version offered.
        got: u64,
        /// The version held.
        have: u64,
    },
    /// Not what the device pinned.
    #[error("release keys of version 1 have digest {got}, pinned is {want}: they are not this fleet's")]
    Pin {
        /// The digest of what is offered.
        got: Sha256,
        /// The digest that was pinned.
        want: Sha256,
    },
}

impl KeyRing {
    fn check(&self, ring: &'static str) -> Result<(), ReleaseKeysError> {
        let sound = |key: &PublicKey| VerifyingKey::from_bytes(&key.0).is_ok_and(|key| !key.is_weak());
        if let Some(key) = self.keys.iter().find(|key| !sound(key)) {
            return Err(ReleaseKeysError::WeakKey { ring, key: *key });
        }
        let mut keys = self.keys.clone();
        keys.sort_unstable();
        keys.dedup();
        let fits = self.threshold > 0 && usize::from(self.threshold) <= keys.len();
        fits.then_some(()).ok_or(ReleaseKeysError::Threshold { ring, threshold: self.threshold, keys: keys.len() })
    }
}

impl ReleaseKeys {
    /// Signs with each of `roots`.
    pub fn sign(&self, roots: &[&SigningKey]) -> Result<Vec<u8>, EncodeError> {
        LAYOUT.sign(self, roots)
    }

    /// Adds a root's signature to a signed file.
    pub fn sign_more(bytes: &[u8], root: &SigningKey) -> Result<Vec<u8>, ReleaseKeysError> {
        LAYOUT.add(bytes, root).ok_or(ReleaseKeysError::Layout)
    }

    /// Who is named as a signer of these bytes, and what the signature is worth if `keys` are the roots.
    pub fn signers(bytes: &[u8], keys: &[PublicKey]) -> Result<Vec<(KeyId, Signed)>, ReleaseKeysError> {
        Ok(LAYOUT.split(bytes).ok_or(ReleaseKeysError::Layout)?.judged(keys))
    }

    /// What devices pin: the digest of the signed contents of version 1, whoever signed them.
    pub fn pin(bytes: &[u8]) -> Result<Sha256, ReleaseKeysError> {
        Ok(Sha256::of(LAYOUT.split(bytes).ok_or(ReleaseKeysError::Layout)?.envelope))
    }

    /// Reads a file that is not signed enough yet: for those who are to sign it. Nobody acts on it.
    pub fn open_unsigned(bytes: &[u8]) -> Result<Self, ReleaseKeysError> {
        let parts = LAYOUT.split(bytes).ok_or(ReleaseKeysError::Layout)?;
        let keys: Self = envelope::decode(parts.envelope)?;
        keys.check()?;
        Ok(keys)
    }

    /// Opens the first file a device ever sees. The pin is compared before anything is parsed.
    pub fn open_pinned(bytes: &[u8], pin: &Sha256) -> Result<Self, ReleaseKeysError> {
        let got = Self::pin(bytes)?;
        if got != *pin {
            return Err(ReleaseKeysError::Pin { got, want: *pin });
        }
        let keys = Self::open_stored(bytes)?;
        (keys.version == 1).then_some(()).ok_or(ReleaseKeysError::Version { got: keys.version, have: 0 })?;
        Ok(keys)
    }

    /// Opens a file that the caller stored itself, or the first one a coordinator is given.
    pub fn open_stored(bytes: &[u8]) -> Result<Self, ReleaseKeysError> {
        let parts = LAYOUT.split(bytes).ok_or(ReleaseKeysError::Layout)?;
        let keys: Self = envelope::decode(parts.envelope)?;
        keys.check()?;
        keys.check_signatures(&parts, "new")?;
        Ok(keys)
    }

    /// Opens the successor of `self`: the old roots' signatures are checked before anything is parsed.
    pub fn open_next(&self, bytes: &[u8]) -> Result<Self, ReleaseKeysError> {
        let parts = LAYOUT.split(bytes).ok_or(ReleaseKeysError::Layout)?;
        self.check_signatures(&parts, "old")?;
        let keys: Self = envelope::decode(parts.envelope)?;
        if keys.version != self.version.saturating_add(1) {
            return Err(ReleaseKeysError::Version { got: keys.version, have: self.version });
        }
        keys.check()?;
        keys.check_signatures(&parts, "new")?;
        Ok(keys)
    }

    fn check(&self) -> Result<(), ReleaseKeysError> {
        self.root.check("root")?;
        self.release.check("release")?;
        let both = self.root.keys.iter().find(|key| self.release.keys.contains(key));
        both.map_or(Ok(()), |key| Err(ReleaseKeysError::TwoPurposes(*key)))
    }

    fn check_signatures(&self, parts: &Parts<'_>, whose: &'static str) -> Result<(), ReleaseKeysError> {
        let (got, need) = (parts.signers(self.root.keys.iter()), self.root.threshold);
        (got >= usize::from(need)).then_some(()).ok_or(ReleaseKeysError::Signatures { whose, got, need })
    }
}
