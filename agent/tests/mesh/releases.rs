//! What is published of the agent, as a coordinator answers it, and who signs it.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;

use bramble_contracts::bytes::Sha256;
use bramble_contracts::release::{
    Artifact, KeyRing, ReleaseAnswer, ReleaseAsk, ReleaseKeys, ReleaseManifest, ReleaseTimestamp,
};
use bramble_contracts::signed::{Role, public_key, sign};
use bramble_contracts::v1::AgentVersion;
use bramble_contracts::v2::AgentWish;
use ed25519_dalek::SigningKey;

use crate::unix_now;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// All of it, and how the coordinator misbehaves.
pub(crate) struct Releases {
    /// Signed, in order.
    pub(crate) keys: Vec<Vec<u8>>,
    pub(crate) manifests: BTreeMap<Sha256, (u64, Vec<u8>)>,
    pub(crate) blobs: BTreeMap<Sha256, Vec<u8>>,
    /// Chunks that were given.
    pub(crate) chunks: u64,
    /// After so many chunks none is given any more.
    pub(crate) chunks_max: u64,
    /// Timestamps are over already.
    pub(crate) stale: bool,
}

impl Default for Releases {
    fn default() -> Self {
        let ring = |seeds: [u8; 2]| KeyRing { keys: seeds.map(|seed| public_key(&key(seed))).to_vec(), threshold: 2 };
        let keys = ReleaseKeys { version: 1, root: ring([51, 52]), release: ring([61, 62]) };
        Self {
            keys: vec![keys.sign(&[&key(51), &key(52)]).unwrap()],
            manifests: BTreeMap::new(),
            blobs: BTreeMap::new(),
            chunks: 0,
            chunks_max: u64::MAX,
            stale: false,
        }
    }
}

impl Releases {
    /// Publishes a binary as a version, signed by two people; answers the wish for it.
    pub(crate) fn publish(&mut self, version: AgentVersion, release_seq: u64, binary: Vec<u8>) -> AgentWish {
        let artifact = Artifact {
            target: bramble_agent::version::target(),
            size: binary.len() as u64,
            sha256: Sha256::of(&binary),
        };
        self.blobs.insert(artifact.sha256, binary);
        self.announce(version, release_seq, artifact)
    }

    /// The same, for a binary that is elsewhere, or is not what it should be.
    pub(crate) fn announce(&mut self, version: AgentVersion, release_seq: u64, artifact: Artifact) -> AgentWish {
        let now = unix_now() * 1000;
        let manifest = ReleaseManifest {
            product: ReleaseManifest::PRODUCT.into(),
            version,
            release_seq,
            min_seq: 0,
            created_ms: now - 1000,
            expires_ms: now + 3_600_000,
            artifacts: vec![artifact],
        };
        self.wish_for(&manifest, manifest.sign(&[&key(61), &key(62)]).unwrap())
    }

    /// A wish for a signed manifest.
    pub(crate) fn wish_for(&mut self, manifest: &ReleaseManifest, signed: Vec<u8>) -> AgentWish {
        let digest = Sha256::of(&signed);
        self.manifests.insert(digest, (manifest.release_seq, signed));
        AgentWish {
            version: manifest.version,
            release_seq: manifest.release_seq,
            manifest: digest,
            keys_pin: ReleaseKeys::pin(&self.keys[0]).unwrap(),
            attempt: 1,
        }
    }

    pub(crate) fn answer(&mut self, ask: &ReleaseAsk, time: &SigningKey) -> ReleaseAnswer {
        match ask {
            ReleaseAsk::Keys { after } => {
                let after = usize::try_from(*after).unwrap().min(self.keys.len());
                ReleaseAnswer::Keys(self.keys[after..].to_vec())
            }
            ReleaseAsk::Manifest { manifest } => match self.manifests.get(manifest) {
                Some((_, signed)) => ReleaseAnswer::Manifest(signed.clone()),
                None => ReleaseAnswer::Absent("no such manifest".into()),
            },
            ReleaseAsk::Timestamp { manifest } => {
                let Some((release_seq, _)) = self.manifests.get(manifest) else {
                    return ReleaseAnswer::Absent("no such manifest".into());
                };
                let now = unix_now() * 1000;
                let stamp = ReleaseTimestamp {
                    release_seq: *release_seq,
                    manifest: *manifest,
                    keys_version: self.keys.len() as u64,
                    issued_ms: now - 2000,
                    expires_ms: if self.stale { now - 1000 } else { now + 60_000 },
                };
                ReleaseAnswer::Timestamp(sign(&stamp, Role::Time, time).unwrap())
            }
            ReleaseAsk::Chunk { sha256, offset, len } => {
                if self.chunks >= self.chunks_max {
                    return ReleaseAnswer::Later("the store is on its way".into());
                }
                let Some(blob) = self.blobs.get(sha256) else {
                    return ReleaseAnswer::Absent("no such binary".into());
                };
                self.chunks += 1;
                let from = usize::try_from(*offset).unwrap().min(blob.len());
                let to = (from + *len as usize).min(blob.len());
                ReleaseAnswer::Chunk(blob[from..to].to_vec())
            }
        }
    }
}
