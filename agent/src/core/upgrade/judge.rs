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

#[cfg(test)]
mod tests {
    use bramble_contracts::bytes::key_id;
    use bramble_contracts::release::{Artifact, KeyRing};
    use bramble_contracts::signed::{self, public_key};
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::core::upgrade::testing::version;

    const NOW: u64 = 1_790_000_000_000;
    const DAY: u64 = 86_400_000;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn ring(keys: &[u8]) -> KeyRing {
        KeyRing { keys: keys.iter().map(|n| public_key(&key(*n))).collect(), threshold: 2 }
    }

    fn keys(version: u64, release: &[u8]) -> ReleaseKeys {
        ReleaseKeys { version, root: ring(&[1, 2, 3]), release: ring(release) }
    }

    fn manifest() -> ReleaseManifest {
        let sha256 = Sha256::of(b"binary");
        ReleaseManifest {
            product: ReleaseManifest::PRODUCT.into(),
            version: version(6),
            release_seq: 6,
            min_seq: 4,
            created_ms: NOW - DAY,
            expires_ms: NOW + DAY,
            artifacts: vec![Artifact { target: target(), size: 7, sha256 }],
        }
    }

    fn target() -> Target {
        "aarch64-unknown-linux-musl".parse().unwrap()
    }

    fn stamp(manifest: &[u8]) -> ReleaseTimestamp {
        let manifest = Sha256::of(manifest);
        ReleaseTimestamp { release_seq: 6, manifest, keys_version: 1, issued_ms: NOW, expires_ms: NOW + DAY }
    }

    fn wish(manifest: &[u8]) -> AgentWish {
        AgentWish { manifest: Sha256::of(manifest), ..crate::core::upgrade::testing::wish(6, 1) }
    }

    struct Case {
        manifest: Vec<u8>,
        stamp: ReleaseTimestamp,
        wish: AgentWish,
        keys: ReleaseKeys,
        target: Target,
        floor: u64,
        now_ms: u64,
    }

    impl Case {
        fn of(manifest: Vec<u8>) -> Self {
            let (stamp, wish) = (stamp(&manifest), wish(&manifest));
            Self { manifest, stamp, wish, keys: keys(1, &[4, 5, 6]), target: target(), floor: 4, now_ms: NOW }
        }

        fn good() -> Self {
            Self::of(manifest().sign(&[&key(4), &key(5)]).unwrap())
        }

        fn judge(&self) -> Result<Admission, (JudgeError, Fault)> {
            let stamp = signed::sign(&self.stamp, Role::Time, &key(9)).unwrap();
            let (manifest, keys, target) = (&self.manifest[..], &self.keys, &self.target);
            let papers = Papers { manifest, stamp: &stamp, keys, target, floor: self.floor, now_ms: self.now_ms };
            let time = public_key(&key(9));
            let lookup = |role, id: &KeyId| (role == Role::Time && *id == key_id(&time)).then_some(time);
            judge(&self.wish, &papers, lookup).map_err(|err| (err.clone(), err.fault()))
        }

        fn fails(&self, words: &str, fault: Fault) {
            let (err, blamed) = self.judge().unwrap_err();
            assert!(err.to_string().contains(words), "{err}");
            assert_eq!(blamed, fault, "{err}");
        }
    }

    #[test]
    fn a_release_that_is_in_order_is_admitted() {
        let sha256 = Sha256::of(b"binary");
        let want = Admission { version: version(6), release_seq: 6, min_seq: 4, size: 7, sha256 };
        assert_eq!(Case::good().judge(), Ok(want));
        assert_eq!(Case { floor: 6, ..Case::good() }.judge(), Ok(want), "the floor itself is no bar");
    }

    #[test]
    fn what_other_bytes_or_another_day_may_mend_is_nobodys_fault() {
        let mut case = Case::good();
        case.manifest.push(0);
        case.fails("altered on its way", Fault::Nobody);
        let other = |change: fn(&mut ReleaseTimestamp)| {
            let mut case = Case::good();
            change(&mut case.stamp);
            case
        };
        other(|stamp| stamp.manifest = Sha256::of(b"other")).fails("vouches for another", Fault::Nobody);
        other(|stamp| stamp.expires_ms = NOW).fails("release timestamp expired", Fault::Nobody);
        other(|stamp| stamp.expires_ms = NOW + 8 * DAY).fails("release timestamp lives", Fault::Nobody);
        other(|stamp| stamp.keys_version = 2).fails("the newest is 2", Fault::Nobody);
        other(|stamp| stamp.release_seq = 7).fails("timestamp is for sequence 7", Fault::Nobody);
    }

    #[test]
    fn what_the_manifest_itself_is_wrong_about_is_the_releases_fault() {
        let signed = |by: &[u8]| {
            let by: Vec<SigningKey> = by.iter().map(|n| key(*n)).collect();
            Case::of(manifest().sign(&by.iter().collect::<Vec<_>>()).unwrap())
        };
        signed(&[4]).fails("1 valid signatures, needs 2", Fault::Release);
        signed(&[4, 4]).fails("1 valid signatures, needs 2", Fault::Release);
        signed(&[4, 7]).fails("version 1 of the release keys does not list", Fault::Release);
        signed(&[1, 2]).fails("does not list", Fault::Release);
        Case { keys: keys(2, &[4, 7, 8]), ..Case::good() }.fails("version 2 of the release keys", Fault::Release);
        Case { floor: 7, ..Case::good() }.fails("takes none below 7", Fault::Release);
        Case { target: "x86_64-unknown-linux-musl".parse().unwrap(), ..Case::good() }
            .fails("no binary for x86_64", Fault::Release);
        let mut late = Case::good();
        (late.now_ms, late.stamp.expires_ms) = (NOW + DAY, NOW + 2 * DAY);
        late.fails("expired 0 ms ago", Fault::Release);
        let mut other = Case::good();
        other.wish.version = version(7);
        other.fails("wished is 0.7.0", Fault::Release);
        let mut other = Case::good();
        other.wish.release_seq = 5;
        other.fails("with sequence 5, its manifest is of 0.6.0 with sequence 6", Fault::Release);
    }

    #[test]
    fn release_keys_begin_with_the_pin_and_go_on_one_by_one() {
        let first = keys(1, &[4, 5, 6]).sign(&[&key(1), &key(2)]).unwrap();
        let second = keys(2, &[4, 7, 8]).sign(&[&key(1), &key(3)]).unwrap();
        let pin = ReleaseKeys::pin(&first).unwrap();
        let held = next_keys(None, &pin, &first).unwrap();
        assert!(matches!(next_keys(None, &pin, &second), Err(ReleaseKeysError::Pin { .. })));
        assert!(matches!(next_keys(Some(&held), &pin, &first), Err(ReleaseKeysError::Version { .. })));
        assert_eq!(next_keys(Some(&held), &Sha256::of(b"ignored"), &second).unwrap().version, 2);
    }
}
