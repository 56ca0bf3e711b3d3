//! What may be published: the successor of the release keys, and the next release.
//!
//! Decides: order and errors. Signatures come before contents, contents before what is there already.
//! Deliberately does not: read or write the store.

use bramble_contracts::{
    bytes::Sha256,
    release::{Artifact, ReleaseError, ReleaseKeys, ReleaseKeysError, ReleaseManifest},
    v1::AgentVersion,
};

use super::releases::{HeldKeys, Releases};

/// The largest signed release keys that are looked at, in bytes; as many signatures as fit, and the contents.
pub const KEYS_SIGNED_MAX: usize = 2 + 16 * 72 + 8 * 1024;

/// What was sent, compared with what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered<T> {
    /// It is new, and may be published.
    New(T),
    /// It is what is there already: nothing is to be done.
    Same,
}

/// Why release keys are not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysRefused {
    /// Nothing was parsed: the size alone is wrong.
    #[error("release keys of {got} bytes are larger than the limit of {KEYS_SIGNED_MAX}")]
    TooLarge {
        /// Their size.
        got: usize,
    },
    /// Not sound, or not enough signatures.
    #[error(transparent)]
    Keys(#[from] ReleaseKeysError),
    /// The first ones must be version 1.
    #[error("release keys of version {got} are no beginning: publish version 1 first, devices pin that one")]
    NotTheFirst {
        /// Their version.
        got: u64,
    },
    /// They were replaced already.
    #[error("release keys of version {got} are older than version {have}, which is held: they were sent again")]
    Replayed {
        /// Their version.
        got: u64,
        /// The version held.
        have: u64,
    },
    /// The version that is held, with other contents.
    #[error(
        "release keys of version {0} are held with other contents: whoever signed twice must make the next version"
    )]
    Forked(u64),
}

/// May these become the newest release keys?
pub fn keys(held: Option<&HeldKeys>, bytes: &[u8]) -> Result<Offered<ReleaseKeys>, KeysRefused> {
    if bytes.len() > KEYS_SIGNED_MAX {
        return Err(KeysRefused::TooLarge { got: bytes.len() });
    }
    let Some(held) = held else {
        let first = ReleaseKeys::open_stored(bytes)?;
        return if first.version == 1 {
            Ok(Offered::New(first))
        } else {
            Err(KeysRefused::NotTheFirst { got: first.version })
        };
    };
    // What was signed counts, not by whom it was signed besides.
    let pin = ReleaseKeys::pin(bytes)?;
    let is_held = |signed: &[u8]| ReleaseKeys::pin(signed).is_ok_and(|kept| kept == pin);
    let have = held.newest.version;
    match held.chain.iter().rposition(|kept| is_held(&kept.signed)) {
        Some(at) if at + 1 == held.chain.len() => return Ok(Offered::Same),
        Some(at) => return Err(KeysRefused::Replayed { got: at as u64 + 1, have }),
        None => {}
    }
    match held.newest.open_next(bytes) {
        Ok(next) => Ok(Offered::New(next)),
        Err(ReleaseKeysError::Version { got, have }) if got == have => Err(KeysRefused::Forked(got)),
        Err(err) => Err(err.into()),
    }
}

/// Why a release is not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseRefused {
    /// Nobody could check it.
    #[error("no release keys are published: publish them first, by `bramble keys publish`")]
    NoKeys,
    /// Forged, of other keys, expired, or not sound.
    #[error(transparent)]
    Manifest(#[from] ReleaseError),
    /// It was published before, and a newer one since.
    #[error(
        "release {version} (sequence {got}) was published before, and {newest} (sequence {have}) is newer: sending its \
         manifest again changes nothing; give devices an older release by `bramble agent upgrade --to {version}`"
    )]
    Replayed {
        /// Its version.
        version: AgentVersion,
        /// Its sequence.
        got: u64,
        /// The newest version.
        newest: AgentVersion,
        /// Its sequence.
        have: u64,
    },
    /// The version is taken.
    #[error(
        "release {version} is published already with other contents (sequence {have}): a version is published once, take \
         the next one"
    )]
    VersionTaken {
        /// Which.
        version: AgentVersion,
        /// The sequence of what is there.
        have: u64,
    },
    /// It would come before what is there.
    #[error(
        "release {version} has sequence {got}, and the newest one ({newest}) has {have}: sequences only grow, take {} or \
         more", have.saturating_add(1)
    )]
    RolledBack {
        /// Its version.
        version: AgentVersion,
        /// Its sequence.
        got: u64,
        /// The newest version.
        newest: AgentVersion,
        /// Its sequence.
        have: u64,
    },
    /// A binary of it is not here.
    #[error("the binary of release {version} for {} ({}) is not here: send it first", artifact.target, artifact.sha256)]
    NoBinary {
        /// Of which release.
        version: AgentVersion,
        /// Which binary.
        artifact: Artifact,
    },
    /// A binary has another size than the manifest says.
    #[error("the binary of release {version} for {} has {got} bytes, its manifest says {}", artifact.target, artifact.size)]
    OtherSize {
        /// Of which release.
        version: AgentVersion,
        /// Which binary.
        artifact: Artifact,
        /// Its size here.
        got: u64,
    },
}

/// May this become the newest release? Its binaries are looked at by the caller.
pub fn release(there: &Releases, bytes: &[u8], now_ms: u64) -> Result<Offered<ReleaseManifest>, ReleaseRefused> {
    let keys = there.keys.as_ref().ok_or(ReleaseRefused::NoKeys)?;
    let manifest = ReleaseManifest::open(bytes, &keys.newest)?;
    let (version, got) = (manifest.version, manifest.release_seq);
    let newest = there.newest();
    if let Some(same) = there.by_manifest(&Sha256::of(bytes)) {
        return match newest.filter(|newest| newest.release_seq > same.release_seq) {
            None => Ok(Offered::Same),
            Some(newest) => {
                Err(ReleaseRefused::Replayed { version, got, newest: newest.version, have: newest.release_seq })
            }
        };
    }
    if manifest.expires_ms <= now_ms {
        return Err(ReleaseError::Expired { version, over_ms: now_ms - manifest.expires_ms }.into());
    }
    if let Some(taken) = there.get(&version) {
        return Err(ReleaseRefused::VersionTaken { version, have: taken.release_seq });
    }
    match newest.filter(|newest| newest.release_seq >= got) {
        Some(newest) => {
            Err(ReleaseRefused::RolledBack { version, got, newest: newest.version, have: newest.release_seq })
        }
        None => Ok(Offered::New(manifest)),
    }
}

/// Is this binary here as the manifest says? `size` is what is here, if anything is.
pub fn binary(version: AgentVersion, artifact: &Artifact, size: Option<u64>) -> Result<(), ReleaseRefused> {
    let artifact = artifact.clone();
    match size {
        None => Err(ReleaseRefused::NoBinary { version, artifact }),
        Some(got) if got != artifact.size => Err(ReleaseRefused::OtherSize { version, artifact, got }),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::{release::KeyRing, signed::public_key};
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::domain::releases::{CatalogueRecord, KeysRecord, Published};

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn published(signed: Vec<u8>) -> Published {
        Published { signed, at_ms: 5, by: "ann".into() }
    }

    fn ring(seeds: &[u8]) -> KeyRing {
        KeyRing { keys: seeds.iter().map(|s| public_key(&key(*s))).collect(), threshold: 2 }
    }

    /// Version 1 has roots 1 2 3 and release keys 4 5 6.
    fn first() -> (ReleaseKeys, Vec<u8>) {
        let keys = ReleaseKeys { version: 1, root: ring(&[1, 2, 3]), release: ring(&[4, 5, 6]) };
        let signed = keys.sign(&[&key(1), &key(2)]).unwrap();
        (keys, signed)
    }

    fn manifest(version: &str, seq: u64) -> ReleaseManifest {
        let target = "x86_64-unknown-linux-gnu".parse().unwrap();
        ReleaseManifest {
            product: ReleaseManifest::PRODUCT.into(),
            version: version.parse().unwrap(),
            release_seq: seq,
            min_seq: 1,
            created_ms: 10,
            expires_ms: 1000,
            artifacts: vec![Artifact { target, size: 3, sha256: Sha256::of(b"abc") }],
        }
    }

    fn there(chain: &[Vec<u8>], manifests: &[Vec<u8>]) -> Releases {
        let keys = KeysRecord { chain: chain.iter().cloned().map(published).collect() };
        let releases = CatalogueRecord { releases: manifests.iter().cloned().map(published).collect() };
        Releases::of(&keys, &releases, &Releases::default()).unwrap()
    }

    #[test]
    fn keys_follow_each_other_and_nothing_else_is_taken() {
        let (one, signed) = first();
        assert_eq!(keys(None, &signed), Ok(Offered::New(one.clone())));
        let held = there(std::slice::from_ref(&signed), &[]).keys.unwrap();
        assert_eq!(keys(Some(&held), &signed), Ok(Offered::Same));
        let also = ReleaseKeys::sign_more(&signed, &key(3)).unwrap();
        assert_eq!(keys(Some(&held), &also), Ok(Offered::Same), "a third signature says nothing else");

        let two = ReleaseKeys { version: 2, release: ring(&[4, 5, 7]), ..one.clone() };
        let next = two.sign(&[&key(1), &key(3)]).unwrap();
        assert_eq!(keys(None, &next), Err(KeysRefused::NotTheFirst { got: 2 }));
        assert_eq!(keys(Some(&held), &next), Ok(Offered::New(two.clone())));
        let by_one = two.sign(&[&key(1)]).unwrap();
        let old = ReleaseKeysError::Signatures { whose: "old", got: 1, need: 2 };
        assert_eq!(keys(Some(&held), &by_one), Err(KeysRefused::Keys(old)));
        let forked = ReleaseKeys { version: 1, release: ring(&[4, 5, 7]), ..one }.sign(&[&key(1), &key(2)]).unwrap();
        assert_eq!(keys(Some(&held), &forked), Err(KeysRefused::Forked(1)));
        let held = there(&[signed.clone(), next], &[]).keys.unwrap();
        assert_eq!(keys(Some(&held), &signed), Err(KeysRefused::Replayed { got: 1, have: 2 }));
        assert!(matches!(keys(None, &vec![0xBA; KEYS_SIGNED_MAX + 1]), Err(KeysRefused::TooLarge { .. })));
    }

    #[test]
    fn a_release_is_forged_of_other_keys_expired_replayed_or_rolled_back_each_with_its_own_error() {
        let (_, chain) = first();
        let sign = |m: &ReleaseManifest, by: [u8; 2]| m.sign(&[&key(by[0]), &key(by[1])]).unwrap();
        let one = sign(&manifest("1.0.0", 5), [4, 5]);
        let two = sign(&manifest("1.1.0", 6), [5, 6]);
        let chain = [chain];
        assert_eq!(release(&Releases::default(), &one, 20), Err(ReleaseRefused::NoKeys));
        let empty = there(&chain, &[]);
        assert_eq!(release(&empty, &one, 20), Ok(Offered::New(manifest("1.0.0", 5))));
        assert_eq!(release(&there(&chain, std::slice::from_ref(&one)), &one, 5000), Ok(Offered::Same));
        let both = there(&chain, &[one.clone(), two]);

        let refused = |there: &Releases, bytes: &[u8]| release(there, bytes, 20).unwrap_err();
        let mut forged = one.clone();
        *forged.last_mut().unwrap() ^= 1;
        let forged = refused(&empty, &forged);
        assert!(matches!(forged, ReleaseRefused::Manifest(ReleaseError::Signatures { got: 0, need: 2 })));
        let mixed = refused(&empty, &sign(&manifest("1.0.0", 5), [4, 1]));
        assert!(matches!(mixed, ReleaseRefused::Manifest(ReleaseError::UnknownKey { keys_version: 1, .. })));
        let expired = release(&empty, &one, 1000).unwrap_err();
        assert!(matches!(expired, ReleaseRefused::Manifest(ReleaseError::Expired { over_ms: 0, .. })));
        let replayed = refused(&both, &one);
        assert!(matches!(replayed, ReleaseRefused::Replayed { got: 5, have: 6, .. }));
        let taken = refused(&both, &sign(&manifest("1.0.0", 7), [4, 5]));
        assert!(matches!(taken, ReleaseRefused::VersionTaken { have: 5, .. }));
        let back = refused(&both, &sign(&manifest("1.2.0", 6), [4, 5]));
        assert!(matches!(back, ReleaseRefused::RolledBack { got: 6, have: 6, .. }));
        let texts = [forged, mixed, expired, replayed, taken, back].map(|err| err.to_string());
        let different: std::collections::BTreeSet<_> = texts.iter().collect();
        assert_eq!(different.len(), texts.len(), "{texts:?}");
    }

    #[test]
    fn rotated_keys_take_a_release_back_and_are_no_reason_to_forget_it() {
        let (one, signed) = first();
        let manifests = [manifest("1.0.0", 5).sign(&[&key(4), &key(5)]).unwrap()];
        let before = there(std::slice::from_ref(&signed), &manifests);
        assert_eq!(before.get(&"1.0.0".parse().unwrap()).unwrap().refused, None);
        let two = ReleaseKeys { version: 2, release: ring(&[6, 7, 8]), ..one };
        let after = there(&[signed, two.sign(&[&key(1), &key(2)]).unwrap()], &manifests);
        let release = after.newest().unwrap();
        assert!(release.refused.as_ref().unwrap().contains("version 2 of the release keys"), "{:?}", release.refused);
        assert_eq!(release.keys_pin, before.newest().unwrap().keys_pin, "the pin is that of version 1 for ever");
    }

    #[test]
    fn a_binary_must_be_there_with_its_size() {
        let m = manifest("1.0.0", 5);
        assert_eq!(binary(m.version, &m.artifacts[0], Some(3)), Ok(()));
        assert!(binary(m.version, &m.artifacts[0], None).unwrap_err().to_string().contains("send it first"));
        assert!(binary(m.version, &m.artifacts[0], Some(4)).unwrap_err().to_string().contains("has 4 bytes"));
    }
}
