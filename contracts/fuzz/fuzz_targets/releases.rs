//! Any bytes into every reader of releases, signed in order or not. `cargo +nightly fuzz run releases` in `contracts/`;
//! seeds: the golden files of release keys and manifests.
#![no_main]

use bramble_contracts::{
    bytes::Sha256,
    envelope::{self, decode, encode},
    release::{KeyRing, ReleaseAnswer, ReleaseAsk, ReleaseKeys, ReleaseManifest, ReleaseTimestamp},
    signed::public_key,
};
use ed25519_dalek::{Signer as _, SigningKey};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn ring(seed: u8) -> KeyRing {
    KeyRing { keys: vec![public_key(&key(seed))], threshold: 1 }
}

/// What a signer's machine would hand out that signs whatever it is given: behind a right signature the contents are read.
fn signed(magic: u8, domain: &[u8], seed: u8, contents: &[u8]) -> Vec<u8> {
    let id = bramble_contracts::bytes::key_id(&public_key(&key(seed)));
    let signature = key(seed).sign(&[domain, contents].concat()).to_bytes();
    [&[magic, 1][..], &id.0, &signature, contents].concat()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let keys = ReleaseKeys { version: 1, root: ring(1), release: ring(2) };
    let target = "x86_64-unknown-linux-gnu".parse().expect("a target");

    let _ = ReleaseManifest::open(bytes, &keys);
    let _ = ReleaseManifest::open_unsigned(bytes);
    let _ = ReleaseManifest::signers(bytes, &keys.release.keys);
    let _ = ReleaseManifest::sign_more(bytes, &key(2));
    let manifest = signed(0xBB, b"bramble release manifest v1\0", 2, bytes);
    if let Ok(manifest) = ReleaseManifest::open(&manifest, &keys) {
        let again = encode(&manifest).map(|b| decode::<ReleaseManifest>(&b));
        assert_eq!(again, Ok(Ok(manifest.clone())));
        if let Ok(artifact) = manifest.admit(&target, 5, 5) {
            assert!(artifact.size > 0 && manifest.release_seq >= 5 && manifest.expires_ms > 5);
        }
    }

    let _ = ReleaseKeys::open_stored(bytes);
    let _ = ReleaseKeys::open_pinned(bytes, &Sha256::of(b""));
    let _ = keys.open_next(bytes);
    if let Ok(next) = keys.open_next(&signed(0xBA, b"bramble release keys v1\0", 1, bytes)) {
        assert_eq!(next.version, 2);
        assert!(next.root.threshold > 0 && next.release.threshold > 0);
    }

    let _ = ReleaseTimestamp::open(bytes, &Sha256::of(b""), 5, |_, _| None);
    let _ = decode::<ReleaseAsk>(bytes);
    let _ = envelope::decode::<ReleaseAnswer>(bytes);
});
