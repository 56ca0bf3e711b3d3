//! The trust document: which keys, which CA, which addresses. Signed by a threshold of root keys.
//!
//! A device pins the first one at enrolment (the token carries a digest of it) and follows it step by step: version
//! + 1 only, signed by the old roots *and* the new ones. So keys, CA and addresses change without a site visit.
//!
//! Layout: `[0xB9][n][n × (key id, 8; signature, 64)][envelope…]`.

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::{
    bytes::{KeyId, PublicKey, Sha256, key_id},
    envelope::{self, DecodeError, EncodeError, Kind, Message},
    multisig::{Layout, Parts},
    signed::Role,
};

const LAYOUT: Layout = Layout { magic: 0xB9, domain: b"bramble trust document v1\0" };

/// One certified key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedKey {
    /// What it may sign.
    pub role: Role,
    /// The key.
    pub key: PublicKey,
}

/// What a device trusts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustDocument {
    /// Starts at 1; every successor is one more.
    pub version: u64,
    /// How many root signatures a document needs; at least 1.
    pub root_threshold: u8,
    /// All keys, root keys among them.
    pub keys: Vec<TrustedKey>,
    /// PEM certificates that server certificates must chain to; empty where everything is on loopback without TLS.
    pub ca_bundle: String,
    /// Base URLs of the coordinator's HTTP API.
    pub coordinators: Vec<String>,
    /// Broker addresses (`nats://` or `tls://host:port`).
    pub brokers: Vec<String>,
}

impl Message for TrustDocument {
    const KIND: Kind = Kind::Trust;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 64 * 1024;
}

/// Why a trust document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Not the layout of one.
    #[error("not a signed trust document")]
    Layout,
    /// Contents do not decode.
    #[error("trust document cannot be read: {0}")]
    Contents(#[from] DecodeError),
    /// The threshold is 0 or higher than the number of root keys.
    #[error("trust document asks for {threshold} root signatures and lists {roots} root keys")]
    Threshold {
        /// Signatures asked for.
        threshold: u8,
        /// Root keys listed.
        roots: usize,
    },
    /// Too few valid signatures.
    #[error("trust document has {got} valid signatures by the {whose} root keys, needs {need}")]
    Signatures {
        /// `old` or `new`.
        whose: &'static str,
        /// Valid ones found.
        got: usize,
        /// Needed.
        need: u8,
    },
    /// Not the successor of what the device holds.
    #[error("trust document has version {got}, the one after {have} is wanted")]
    Version {
        /// The version offered.
        got: u64,
        /// The version held.
        have: u64,
    },
    /// The enrolment token was made for another coordinator.
    #[error("the server's CA and root keys have digest {got}, the token wants {want}: wrong server, or an old token")]
    Pin {
        /// The digest of what the server offers.
        got: Sha256,
        /// The digest in the token.
        want: Sha256,
    },
}

impl TrustDocument {
    /// The key with this id, if it may sign in this role.
    pub fn key(&self, role: Role, id: &KeyId) -> Option<PublicKey> {
        self.keys.iter().find(|k| k.role == role && key_id(&k.key) == *id).map(|k| k.key)
    }

    /// Digest of CA bundle and root keys: what an enrolment token pins.
    pub fn pin(&self) -> Sha256 {
        let mut roots: Vec<_> = self.roots().map(|k| k.0).collect();
        roots.sort_unstable();
        Sha256::of(&[b"bramble pin v1\0".as_slice(), self.ca_bundle.as_bytes(), b"\0", &roots.concat()].concat())
    }

    fn roots(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys.iter().filter(|k| k.role == Role::Root).map(|k| &k.key)
    }

    /// Signs with each of `roots`.
    pub fn sign(&self, roots: &[&SigningKey]) -> Result<Vec<u8>, EncodeError> {
        LAYOUT.sign(self, roots)
    }

    /// Opens the first document a device ever sees: it must fit the token's pin and be signed by its own roots.
    pub fn open_pinned(bytes: &[u8], pin: &Sha256) -> Result<Self, TrustError> {
        let parts = LAYOUT.split(bytes).ok_or(TrustError::Layout)?;
        let doc: Self = envelope::decode(parts.envelope)?;
        if doc.pin() != *pin {
            return Err(TrustError::Pin { got: doc.pin(), want: *pin });
        }
        doc.check_threshold()?;
        doc.check_signatures(&parts, "new")?;
        Ok(doc)
    }

    /// Opens a document the device stored itself.
    pub fn open_stored(bytes: &[u8]) -> Result<Self, TrustError> {
        let parts = LAYOUT.split(bytes).ok_or(TrustError::Layout)?;
        let doc: Self = envelope::decode(parts.envelope)?;
        doc.check_threshold()?;
        doc.check_signatures(&parts, "new")?;
        Ok(doc)
    }

    /// Opens the successor of `self`: the old roots' signatures are checked before anything is parsed.
    pub fn open_next(&self, bytes: &[u8]) -> Result<Self, TrustError> {
        let parts = LAYOUT.split(bytes).ok_or(TrustError::Layout)?;
        self.check_signatures(&parts, "old")?;
        let doc: Self = envelope::decode(parts.envelope)?;
        if doc.version != self.version.saturating_add(1) {
            return Err(TrustError::Version { got: doc.version, have: self.version });
        }
        doc.check_threshold()?;
        doc.check_signatures(&parts, "new")?;
        Ok(doc)
    }

    fn check_threshold(&self) -> Result<(), TrustError> {
        let roots = self.roots().count();
        let fits = self.root_threshold > 0 && usize::from(self.root_threshold) <= roots;
        fits.then_some(()).ok_or(TrustError::Threshold { threshold: self.root_threshold, roots })
    }

    fn check_signatures(&self, parts: &Parts<'_>, whose: &'static str) -> Result<(), TrustError> {
        let got = parts.signers(self.roots());
        let enough = got >= usize::from(self.root_threshold);
        enough.then_some(()).ok_or(TrustError::Signatures { whose, got, need: self.root_threshold })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signed;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn doc(version: u64, roots: &[&SigningKey], threshold: u8) -> TrustDocument {
        let root = |k: &&SigningKey| TrustedKey { role: Role::Root, key: signed::public_key(k) };
        TrustDocument {
            version,
            root_threshold: threshold,
            keys: roots.iter().map(root).collect(),
            ca_bundle: String::new(),
            coordinators: vec![],
            brokers: vec![],
        }
    }

    #[test]
    fn rotation_needs_old_and_new_roots_and_the_next_version() {
        let (a, b) = (key(1), key(2));
        let one = doc(1, &[&a], 1);
        let two = doc(2, &[&b], 1);
        assert_eq!(one.open_next(&two.sign(&[&a, &b]).unwrap()), Ok(two.clone()));
        assert!(matches!(one.open_next(&two.sign(&[&b]).unwrap()), Err(TrustError::Signatures { whose: "old", .. })));
        assert!(matches!(one.open_next(&two.sign(&[&a]).unwrap()), Err(TrustError::Signatures { whose: "new", .. })));
        let three = doc(3, &[&a], 1);
        assert_eq!(one.open_next(&three.sign(&[&a]).unwrap()), Err(TrustError::Version { got: 3, have: 1 }));
    }

    #[test]
    fn the_same_signature_twice_counts_once() {
        let (a, b) = (key(1), key(2));
        let two_of_two = doc(1, &[&a, &b], 2);
        let got = TrustDocument::open_stored(&two_of_two.sign(&[&a, &a]).unwrap());
        assert_eq!(got, Err(TrustError::Signatures { whose: "new", got: 1, need: 2 }));
    }

    #[test]
    fn a_key_listed_twice_as_root_is_one_signer() {
        let a = key(1);
        let twice = doc(1, &[&a, &a], 2);
        assert!(TrustDocument::open_stored(&twice.sign(&[&a]).unwrap()).is_err());
    }

    #[test]
    fn a_pin_is_for_one_ca_and_one_set_of_roots() {
        let a = key(1);
        let bytes = doc(1, &[&a], 1).sign(&[&a]).unwrap();
        let pin = doc(7, &[&a], 1).pin();
        assert!(TrustDocument::open_pinned(&bytes, &pin).is_ok(), "the version does not count");
        let other = doc(1, &[&key(9)], 1).pin();
        assert!(matches!(TrustDocument::open_pinned(&bytes, &other), Err(TrustError::Pin { .. })));
    }
}
