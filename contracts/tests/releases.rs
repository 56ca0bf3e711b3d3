//! Release keys, manifests and timestamps: what is genuine is read, and everything else is refused, each by its own error.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod samples;

use bramble_contracts::{
    bytes::{Fixed, Sha256, key_id},
    envelope::{self, DecodeError},
    release::{
        ARTIFACT_MAX, KeyRing, MANIFEST_SIGNED_MAX, ReleaseError, ReleaseKeys, ReleaseKeysError, ReleaseManifest,
        ReleaseTimestamp, Signed, TIMESTAMP_LIFE_MAX, TimestampError,
    },
    signed::{self, Role, VerifyError, public_key},
};
use ed25519_dalek::SigningKey;
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
use samples::{
    key,
    release::{keys, keys_signed, release, release_signed, ring, timestamp},
};

fn sign(manifest: &ReleaseManifest, by: &[u8]) -> Vec<u8> {
    let keys: Vec<SigningKey> = by.iter().map(|seed| key(*seed)).collect();
    manifest.sign(&keys.iter().collect::<Vec<_>>()).unwrap()
}

fn sign_keys(keys: &ReleaseKeys, by: &[u8]) -> Vec<u8> {
    let roots: Vec<SigningKey> = by.iter().map(|seed| key(*seed)).collect();
    keys.sign(&roots.iter().collect::<Vec<_>>()).unwrap()
}

fn open(bytes: &[u8]) -> Result<ReleaseManifest, ReleaseError> {
    ReleaseManifest::open(bytes, &keys())
}

// --- Manifests ----------------------------------------------------------------------------------------------------

#[test]
fn enough_different_release_keys_must_have_signed() {
    for by in [[21, 22], [22, 23], [23, 21]] {
        assert_eq!(open(&sign(&release(), &by)), Ok(release()), "{by:?}");
    }
    assert_eq!(open(&sign(&release(), &[21, 22, 23])), Ok(release()), "more are as good");
    let few = |got| Err(ReleaseError::Signatures { got, need: 2 });
    assert_eq!(open(&sign(&release(), &[])), few(0));
    assert_eq!(open(&sign(&release(), &[21])), few(1));
    assert_eq!(open(&sign(&release(), &[21, 21, 21])), few(1), "one key counts once");
    // The same key listed twice is one key, too.
    let doubled = ReleaseKeys { release: ring(&[21, 21, 22], 2), ..keys() };
    let got = ReleaseManifest::open(&sign(&release(), &[21]), &doubled);
    assert_eq!(got, few(1));
}

#[test]
fn a_signer_that_is_not_listed_makes_the_whole_refused() {
    for (stranger, what) in [(99, "a stranger"), (11, "a root key")] {
        let unknown = ReleaseError::UnknownKey { key: key_id(&public_key(&key(stranger))), keys_version: 1 };
        assert_eq!(open(&sign(&release(), &[21, stranger])), Err(unknown.clone()), "{what} beside one of ours");
        assert_eq!(open(&sign(&release(), &[21, 22, stranger])), Err(unknown), "{what} beside enough of ours");
    }
    let rotated = ReleaseKeys { version: 2, release: ring(&[22, 23, 24], 2), ..keys() };
    let got = ReleaseManifest::open(&release_signed(), &rotated);
    assert!(matches!(got, Err(ReleaseError::UnknownKey { keys_version: 2, .. })), "{got:?}");
    // A known key's id with another key's signature is an invalid signature of the known one.
    let mut lies = sign(&release(), &[21, 99]);
    lies[2 + 72..2 + 80].copy_from_slice(&key_id(&public_key(&key(22))).0);
    assert_eq!(open(&lies), Err(ReleaseError::Signatures { got: 1, need: 2 }));
}

#[test]
fn signatures_can_be_added_one_by_one_and_looked_at() {
    let once = ReleaseManifest::sign_more(&sign(&release(), &[]), &key(22)).unwrap();
    assert_eq!(ReleaseManifest::open_unsigned(&once), Ok(release()));
    let twice = ReleaseManifest::sign_more(&once, &key(22)).unwrap();
    assert_eq!(twice, once, "a second signature of a key replaces its first");
    let both = ReleaseManifest::sign_more(&once, &key(23)).unwrap();
    assert_eq!(open(&both), Ok(release()));
    let mut bad = both.clone();
    bad[20] ^= 1;
    let id = |seed| key_id(&public_key(&key(seed)));
    let all = ReleaseManifest::signers(&bad, &[public_key(&key(22))]).unwrap();
    assert_eq!(all, [(id(22), Signed::Invalid), (id(23), Signed::Unknown)]);
    let all = ReleaseManifest::signers(&both, &keys().release.keys).unwrap();
    assert_eq!(all, [(id(22), Signed::Valid), (id(23), Signed::Valid)]);
    assert_eq!(ReleaseManifest::sign_more(b"no", &key(22)), Err(ReleaseError::Layout));
}

#[test]
fn every_flipped_bit_and_every_truncation_is_refused_before_contents_are_read() {
    let whole = release_signed();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let got = open(&bytes).expect_err("a flipped bit");
        let before_parsing =
            matches!(got, ReleaseError::Layout | ReleaseError::UnknownKey { .. } | ReleaseError::Signatures { .. });
        assert!(before_parsing, "bit {bit}: {got}");
    }
    for cut in 0..whole.len() {
        assert!(open(&whole[..cut]).is_err(), "cut at {cut}");
    }
    let long = [&whole[..], b"x"].concat();
    assert!(matches!(open(&long), Err(ReleaseError::Signatures { got: 0, .. })));
}

#[test]
fn size_and_layout_are_judged_first() {
    let large = vec![0xBB; MANIFEST_SIGNED_MAX + 1];
    assert_eq!(open(&large), Err(ReleaseError::TooLarge { got: MANIFEST_SIGNED_MAX + 1 }));
    for bytes in [&b""[..], &[0xBB], &[0xBB, 17], &[0xBB, 255], &[0xBA, 0], &keys_signed()] {
        assert_eq!(open(bytes), Err(ReleaseError::Layout), "{bytes:?}");
    }
    assert_eq!(open(&[0xBB, 0]), Err(ReleaseError::Signatures { got: 0, need: 2 }));
}

/// Signed in order, and still no manifest of ours.
fn refused(change: impl Fn(&mut ReleaseManifest)) -> ReleaseError {
    let mut manifest = release();
    change(&mut manifest);
    open(&sign(&manifest, &[21, 22])).unwrap_err()
}

#[test]
fn what_is_signed_must_be_sound_and_ours() {
    let product = refused(|m| m.product = "somebody-elses-agent".into());
    assert_eq!(product, ReleaseError::Product("somebody-elses-agent".into()));
    let unsound: [fn(&mut ReleaseManifest); 9] = [
        |m| m.release_seq = 0,
        |m| m.min_seq = 8,
        |m| m.expires_ms = m.created_ms,
        |m| m.artifacts.clear(),
        |m| m.artifacts.reverse(),
        |m| m.artifacts[1].target = m.artifacts[0].target.clone(),
        |m| m.artifacts[0].size = 0,
        |m| m.artifacts[0].size = ARTIFACT_MAX + 1,
        |m| m.artifacts[1].size = u64::MAX,
    ];
    for change in unsound {
        assert!(matches!(refused(change), ReleaseError::Unsound(_)));
    }
    // Bytes that two of us signed, and that are something else or of a newer kind.
    let mut newer = envelope::encode(&release()).unwrap();
    newer[2] = 2;
    assert!(matches!(envelope::decode::<ReleaseManifest>(&newer), Err(DecodeError::Future { got: 2, newest: 1, .. })));
}

#[test]
fn keys_signed_for_one_purpose_never_pass_for_the_other() {
    // The same keys in both roles: only what was signed may count.
    let both = ReleaseKeys { version: 2, root: ring(&[21, 22], 2), release: ring(&[23, 24], 2) };
    let mut as_manifest = sign_keys(&both, &[21, 22]);
    as_manifest[0] = 0xBB;
    assert_eq!(open(&as_manifest), Err(ReleaseError::Signatures { got: 0, need: 2 }), "another domain");
    let mut as_keys = release_signed();
    as_keys[0] = 0xBA;
    let held = ReleaseKeys { root: ring(&[21, 22], 2), release: ring(&[23, 24], 2), ..keys() };
    assert!(matches!(held.open_next(&as_keys), Err(ReleaseKeysError::Signatures { whose: "old", got: 0, need: 2 })));
}

#[test]
fn an_upgrade_begins_only_in_time_above_the_floor_and_with_a_binary() {
    let (manifest, target) = (release(), release().artifacts[0].target.clone());
    let at = manifest.expires_ms;
    assert_eq!(manifest.admit(&target, 7, at - 1), Ok(&manifest.artifacts[0]), "the floor itself is no bar");
    let version = manifest.version;
    assert_eq!(manifest.admit(&target, 0, at), Err(ReleaseError::Expired { version, over_ms: 0 }));
    assert_eq!(manifest.admit(&target, 0, u64::MAX), Err(ReleaseError::Expired { version, over_ms: u64::MAX - at }));
    assert_eq!(manifest.admit(&target, 8, 0), Err(ReleaseError::BelowFloor { version, got: 7, floor: 8 }));
    let other: bramble_contracts::release::Target = "riscv64gc-unknown-linux-gnu".parse().unwrap();
    assert_eq!(manifest.admit(&other, 0, 0), Err(ReleaseError::NoArtifact { version, target: other.clone() }));
}

#[test]
fn every_error_has_words_of_its_own() {
    let target = release().artifacts[0].target.clone();
    let late = release().expires_ms + 1;
    let all = [
        open(&vec![0; MANIFEST_SIGNED_MAX + 1]).unwrap_err(),
        open(b"").unwrap_err(),
        open(&sign(&release(), &[21, 99])).unwrap_err(),
        open(&sign(&release(), &[21])).unwrap_err(),
        refused(|m| m.product = "x".into()),
        refused(|m| m.release_seq = 0),
        release().admit(&target, 0, late).unwrap_err(),
        release().admit(&target, 9, 0).unwrap_err(),
        release().admit(&"a-b-c".parse().unwrap(), 0, 0).unwrap_err(),
    ];
    let texts: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), all.len(), "{texts:?}");
}

#[test]
fn targets_are_triples() {
    for good in ["x86_64-unknown-linux-gnu", "aarch64-apple-darwin", "a-b-c"] {
        assert!(good.parse::<bramble_contracts::release::Target>().is_ok(), "{good}");
    }
    for bad in [
        "",
        "a",
        "a-b",
        "a-b-c-d-e",
        "a--c",
        "A-b-c",
        "a-b-c/",
        "../a-b-c",
        "a-b-c.d",
        &format!("a-b-{}", "c".repeat(64)),
    ] {
        assert!(bad.parse::<bramble_contracts::release::Target>().is_err(), "{bad}");
    }
}

// --- Keys ---------------------------------------------------------------------------------------------------------

#[test]
fn the_first_keys_are_those_that_were_pinned() {
    let bytes = keys_signed();
    let pin = ReleaseKeys::pin(&bytes).unwrap();
    assert_eq!(ReleaseKeys::open_pinned(&bytes, &pin), Ok(keys()));
    // Whoever else signs them, they are the same keys.
    let all = sign_keys(&keys(), &[12, 11, 13]);
    assert_eq!((ReleaseKeys::pin(&all), ReleaseKeys::open_pinned(&all, &pin)), (Ok(pin), Ok(keys())));
    let others = ReleaseKeys { release: ring(&[21, 22, 24], 2), ..keys() };
    let got = ReleaseKeys::pin(&sign_keys(&others, &[11, 12])).unwrap();
    assert_eq!(
        ReleaseKeys::open_pinned(&sign_keys(&others, &[11, 12]), &pin),
        Err(ReleaseKeysError::Pin { got, want: pin })
    );
    let few = sign_keys(&keys(), &[11]);
    assert_eq!(
        ReleaseKeys::open_pinned(&few, &pin),
        Err(ReleaseKeysError::Signatures { whose: "new", got: 1, need: 2 })
    );
    let second = ReleaseKeys { version: 2, ..keys() };
    let bytes = sign_keys(&second, &[11, 12]);
    let got = ReleaseKeys::open_pinned(&bytes, &ReleaseKeys::pin(&bytes).unwrap());
    assert_eq!(got, Err(ReleaseKeysError::Version { got: 2, have: 0 }), "only version 1 is ever pinned");
    assert_eq!(ReleaseKeys::open_stored(b"\xBA"), Err(ReleaseKeysError::Layout));
    assert_eq!(ReleaseKeys::pin(&release_signed()), Err(ReleaseKeysError::Layout));
}

#[test]
fn a_successor_is_one_more_and_signed_by_old_and_new_roots() {
    let next = ReleaseKeys { version: 2, root: ring(&[12, 13, 14], 2), release: ring(&[24], 1) };
    assert_eq!(open_next(&next, &[12, 13]), Ok(next.clone()), "who is in both signs for both");
    assert_eq!(open_next(&next, &[11, 12, 14]), Ok(next.clone()));
    let few = |whose, got| Err(ReleaseKeysError::Signatures { whose, got, need: 2 });
    assert_eq!(open_next(&next, &[12, 14]), few("old", 1));
    assert_eq!(open_next(&next, &[11, 12]), few("new", 1));
    assert_eq!(open_next(&next, &[21, 22]), few("old", 0), "release keys are no roots");
    for version in [0, 1, 3, u64::MAX] {
        let jump = ReleaseKeys { version, ..next.clone() };
        assert_eq!(open_next(&jump, &[12, 13]), Err(ReleaseKeysError::Version { got: version, have: 1 }));
    }
    let unsound = ReleaseKeys { release: ring(&[12], 1), ..next };
    assert_eq!(open_next(&unsound, &[12, 13]), Err(ReleaseKeysError::TwoPurposes(public_key(&key(12)))));
}

fn open_next(next: &ReleaseKeys, by: &[u8]) -> Result<ReleaseKeys, ReleaseKeysError> {
    keys().open_next(&sign_keys(next, by))
}

#[test]
fn rings_ask_for_what_they_can_give_and_list_no_key_that_anybody_has() {
    let stored = |keys: ReleaseKeys| ReleaseKeys::open_stored(&sign_keys(&keys, &[11, 12, 13]));
    for (threshold, listed, different) in [(0, &[21, 22][..], 2), (3, &[21, 22], 2), (2, &[21, 21], 1), (1, &[], 0)] {
        let got = stored(ReleaseKeys { release: ring(listed, threshold), ..keys() });
        assert_eq!(got, Err(ReleaseKeysError::Threshold { ring: "release", threshold, keys: different }));
    }
    // The neutral point: with it as key, a signature of all zeroes verifies for anything in a lax check.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let is_point = |bytes: &[u8; 32]| ed25519_dalek::VerifyingKey::from_bytes(bytes).is_ok();
    let no_point = (0..=255).map(|byte| [byte; 32]).find(|bytes| !is_point(bytes)).unwrap();
    for bytes in [neutral, [0; 32], no_point] {
        let weak = KeyRing { keys: vec![public_key(&key(21)), Fixed(bytes)], threshold: 1 };
        let got = stored(ReleaseKeys { release: weak.clone(), ..keys() });
        assert_eq!(got, Err(ReleaseKeysError::WeakKey { ring: "release", key: Fixed(bytes) }));
        let root = KeyRing { keys: [keys().root.keys, weak.keys[1..].to_vec()].concat(), threshold: 1 };
        let got = stored(ReleaseKeys { root, ..keys() });
        assert_eq!(got, Err(ReleaseKeysError::WeakKey { ring: "root", key: Fixed(bytes) }));
    }
    let mut forged = release_signed();
    let neutral_ring = KeyRing { keys: vec![Fixed(neutral)], threshold: 1 };
    forged[2..10].copy_from_slice(&key_id(&Fixed(neutral)).0);
    forged[10..74].fill(0);
    forged[10] = 1;
    let lax = ReleaseKeys { release: neutral_ring, ..keys() };
    let mut alone = vec![0xBB, 1];
    alone.extend_from_slice(&forged[2..74]);
    alone.extend_from_slice(&envelope::encode(&release()).unwrap());
    let got = ReleaseManifest::open(&alone, &lax);
    assert_eq!(got, Err(ReleaseError::Signatures { got: 0, need: 1 }), "also where nobody checked the ring");
}

#[test]
fn flipped_and_cut_keys_are_refused() {
    let pin = ReleaseKeys::pin(&keys_signed()).unwrap();
    // Only as many signatures as are needed, so that each counts.
    let whole = keys_signed();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(ReleaseKeys::open_pinned(&bytes, &pin).is_err(), "bit {bit}");
    }
    for cut in 0..whole.len() {
        assert!(ReleaseKeys::open_pinned(&whole[..cut], &pin).is_err(), "cut at {cut}");
    }
}

// --- Timestamps ---------------------------------------------------------------------------------------------------

#[test]
fn a_timestamp_vouches_for_one_manifest_and_not_for_long() {
    let trust = samples::trust();
    let lookup = |role, id: &_| trust.key(role, id);
    let (manifest, now_ms) = (timestamp().manifest, timestamp().issued_ms);
    let sign = |stamp: &ReleaseTimestamp| signed::sign(stamp, Role::Time, &key(4)).unwrap();
    let open = |bytes: &[u8], now_ms| ReleaseTimestamp::open(bytes, &manifest, now_ms, lookup);
    assert_eq!(open(&sign(&timestamp()), now_ms), Ok(timestamp()));
    assert_eq!(open(&sign(&timestamp()), timestamp().expires_ms), Err(TimestampError::Expired { over_ms: 0 }));
    let other = ReleaseTimestamp { manifest: Sha256::of(b"other"), ..timestamp() };
    assert_eq!(open(&sign(&other), now_ms), Err(TimestampError::OtherManifest(Sha256::of(b"other"))));
    let life_ms = u64::try_from(TIMESTAMP_LIFE_MAX.as_millis()).unwrap() + 1;
    let long = ReleaseTimestamp { expires_ms: now_ms + life_ms, ..timestamp() };
    assert_eq!(open(&sign(&long), now_ms), Err(TimestampError::TooLong { life_ms }));
    let by_fleet = signed::sign(&timestamp(), Role::Fleet, &key(2)).unwrap();
    let role = TimestampError::Signature(VerifyError::OtherRole { got: 2, need: Role::Time });
    assert_eq!(open(&by_fleet, now_ms), Err(role));
    let stranger = signed::sign(&timestamp(), Role::Time, &key(2)).unwrap();
    assert!(matches!(open(&stranger, now_ms), Err(TimestampError::Signature(VerifyError::UnknownKey { .. }))));
    let whole = sign(&timestamp());
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&bytes, now_ms).is_err(), "bit {bit}");
    }
}

// --- Any of it ----------------------------------------------------------------------------------------------------

proptest! {
    #[test]
    fn only_a_threshold_of_different_listed_keys_opens(by in prop::collection::vec(19u8..26, 0..6), threshold in 1u8..4) {
        let keys = ReleaseKeys { release: ring(&[21, 22, 23], threshold), ..keys() };
        let different: std::collections::BTreeSet<u8> = by.iter().copied().collect();
        let listed = different.iter().all(|seed| (21..24).contains(seed));
        let got = ReleaseManifest::open(&sign(&release(), &by), &keys);
        match (listed, different.len() >= usize::from(threshold)) {
            (true, true) => prop_assert_eq!(got, Ok(release())),
            (true, false) => prop_assert_eq!(got, Err(ReleaseError::Signatures { got: different.len(), need: threshold })),
            (false, true | false) => prop_assert!(matches!(got, Err(ReleaseError::UnknownKey { .. })), "{:?}", got),
        }
    }

    #[test]
    fn any_edit_of_a_signed_manifest_is_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let whole = release_signed();
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(whole.len() + 1).max(whole.len() / 2));
        let got = open(&bytes);
        prop_assert_eq!(got.is_ok(), bytes == whole);
    }

    #[test]
    fn a_chain_goes_on_only_where_both_thresholds_sign(by in prop::collection::btree_set(10u8..16, 0..6)) {
        let next = ReleaseKeys { version: 2, root: ring(&[12, 13, 14], 2), ..keys() };
        let by: Vec<u8> = by.into_iter().collect();
        let of = |root: &[u8]| by.iter().filter(|seed| root.contains(seed)).count();
        let got = open_next(&next, &by);
        prop_assert_eq!(got.is_ok(), of(&[11, 12, 13]) >= 2 && of(&[12, 13, 14]) >= 2, "{:?}", got);
    }

    #[test]
    fn admission_is_what_the_three_bounds_say(floor in 0u64..12, now_ms in any::<u64>()) {
        let (manifest, target) = (release(), release().artifacts[1].target.clone());
        let got = manifest.admit(&target, floor, now_ms);
        prop_assert_eq!(got.is_ok(), now_ms < manifest.expires_ms && floor <= manifest.release_seq);
    }
}
