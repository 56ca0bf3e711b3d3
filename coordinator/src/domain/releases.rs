//! Releases of the agent that are published, and the keys that vouch for them, as the store keeps them.
//!
//! Decides: the layout of bucket `releases`, and whether the newest release keys still stand for a release.
//! Deliberately does not: say what may be published next (`publish`), hold binaries (`store::blobs`), nor choose who gets
//! which release (rollouts do).

use std::collections::BTreeMap;

use bramble_contracts::{
    api::{ReleaseState, ReleaseView},
    bytes::Sha256,
    release::{Artifact, ReleaseKeys, ReleaseManifest, Target},
    v1::AgentVersion,
};
use serde::{Deserialize, Serialize};

use super::{record, table::Table, when::rfc3339};

/// The key of [`KeysRecord`].
pub const KEYS: &str = "keys";
/// The key of [`CatalogueRecord`]. One value for all, so that what is newest has one writer at a time.
pub const CATALOGUE: &str = "catalogue";

/// Signed bytes, and who brought them here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// As they were signed.
    #[serde(with = "base64")]
    pub signed: Vec<u8>,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// A person's or token's name.
    pub by: String,
}

/// Every version of the release keys, in order from the first: devices follow them one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRecord {
    /// The chain.
    pub chain: Vec<Published>,
}

/// Every manifest, in the order of its sequence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueRecord {
    /// The manifests.
    pub releases: Vec<Published>,
}

mod base64 {
    use data_encoding::BASE64;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        BASE64.decode(String::deserialize(d)?.as_bytes()).map_err(D::Error::custom)
    }
}

/// The release keys that count, and how devices get there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldKeys {
    /// The newest.
    pub newest: ReleaseKeys,
    /// What devices pin: the digest of version 1.
    pub pin: Sha256,
    /// Every version as it was signed, from 1.
    pub chain: Vec<Published>,
}

impl HeldKeys {
    /// Follows a chain as a device does; none for an empty one.
    pub fn follow(record: &KeysRecord) -> Result<Option<Self>, String> {
        let Some(first) = record.chain.first() else { return Ok(None) };
        let words = |err: bramble_contracts::release::ReleaseKeysError| err.to_string();
        let pin = ReleaseKeys::pin(&first.signed).map_err(words)?;
        let mut newest = ReleaseKeys::open_pinned(&first.signed, &pin).map_err(words)?;
        for next in &record.chain[1..] {
            newest = newest.open_next(&next.signed).map_err(words)?;
        }
        Ok(Some(Self { newest, pin, chain: record.chain.clone() }))
    }
}

/// A release that is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// As people say it.
    pub version: AgentVersion,
    /// Decides what is newer.
    pub release_seq: u64,
    /// Devices that took it take nothing below this.
    pub min_seq: u64,
    /// The digest of the signed manifest, whole.
    pub manifest: Sha256,
    /// The digest of version 1 of the release keys.
    pub keys_pin: Sha256,
    /// The binary for each kind of machine.
    pub targets: BTreeMap<Target, Artifact>,
    /// When it was made, in milliseconds since 1970, by who made it.
    pub created_ms: u64,
    /// No upgrade to it begins after this, in milliseconds since 1970.
    pub expires_ms: u64,
    /// The signed manifest, and who published it when.
    pub published: Published,
    /// Why no device takes it any more, in words: the keys have changed since. Expiry is not part of it.
    pub refused: Option<String>,
}

impl Release {
    /// Reads a manifest of the catalogue, and judges it by the keys that are held.
    pub fn of(published: &Published, keys: &HeldKeys) -> Result<Self, String> {
        let signed = &published.signed;
        let manifest = ReleaseManifest::open_unsigned(signed).map_err(|err| err.to_string())?;
        let refused = ReleaseManifest::open(signed, &keys.newest).err().map(|err| err.to_string());
        let ReleaseManifest { product: _, version, release_seq, min_seq, created_ms, expires_ms, artifacts } = manifest;
        Ok(Self {
            version,
            release_seq,
            min_seq,
            manifest: Sha256::of(signed),
            keys_pin: keys.pin,
            targets: artifacts.into_iter().map(|artifact| (artifact.target.clone(), artifact)).collect(),
            created_ms,
            expires_ms,
            published: published.clone(),
            refused,
        })
    }

    /// May it be rolled out, now? Else why not, in words.
    pub fn state(&self, now_ms: u64) -> (ReleaseState, String) {
        match &self.refused {
            Some(why) => (ReleaseState::KeysChanged, why.clone()),
            None if self.expires_ms <= now_ms => {
                (ReleaseState::Expired, "its time is over: publish a newer one".to_owned())
            }
            None => (ReleaseState::Usable, String::new()),
        }
    }

    /// As people are shown it.
    pub fn view(&self, now_ms: u64) -> ReleaseView {
        let (state, detail) = self.state(now_ms);
        let signers = ReleaseManifest::signers(&self.published.signed, &[]).unwrap_or_default();
        ReleaseView {
            version: self.version,
            release_seq: self.release_seq,
            min_seq: self.min_seq,
            state,
            detail,
            created: rfc3339(self.created_ms),
            expires: rfc3339(self.expires_ms),
            published: rfc3339(self.published.at_ms),
            published_by: self.published.by.clone(),
            signed_by: signers.into_iter().map(|(key, _)| key).collect(),
            artifacts: self.targets.values().cloned().collect(),
            manifest: self.manifest,
            signed: data_encoding::BASE64.encode(&self.published.signed),
        }
    }
}

/// All that is published, read and judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Releases {
    /// The keys; none were published yet.
    pub keys: Option<HeldKeys>,
    by_seq: BTreeMap<u64, Release>,
}

impl Releases {
    /// Reads and judges both records. What `before` has judged under the same keys is not judged again.
    pub fn of(keys: &KeysRecord, catalogue: &CatalogueRecord, before: &Self) -> Result<Self, String> {
        let keys = HeldKeys::follow(keys)?;
        let known = before.keys == keys;
        let mut by_seq = BTreeMap::new();
        for published in &catalogue.releases {
            let judged = before.by_seq.values().find(|r| known && r.published == *published).cloned();
            let missing = || "the catalogue has releases and the release keys are missing".to_owned();
            let judge = || Release::of(published, keys.as_ref().ok_or_else(missing)?);
            let release = judged.map_or_else(judge, Ok)?;
            by_seq.insert(release.release_seq, release);
        }
        Ok(Self { keys, by_seq })
    }

    /// A release by its version.
    pub fn get(&self, version: &AgentVersion) -> Option<&Release> {
        self.by_seq.values().find(|release| release.version == *version)
    }

    /// A release by the digest of its signed manifest.
    pub fn by_manifest(&self, manifest: &Sha256) -> Option<&Release> {
        self.by_seq.values().find(|release| release.manifest == *manifest)
    }

    /// A binary of a release that devices still take.
    pub fn artifact(&self, sha256: &Sha256) -> Option<&Artifact> {
        let taken = self.by_seq.values().filter(|release| release.refused.is_none());
        taken.flat_map(|release| release.targets.values()).find(|artifact| artifact.sha256 == *sha256)
    }

    /// The one with the highest sequence.
    pub fn newest(&self) -> Option<&Release> {
        self.by_seq.values().next_back()
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Release> {
        self.by_seq.values()
    }
}

/// A key that is none of bucket `releases`.
#[derive(Debug)]
pub struct NotAKey;

/// One of the two records.
#[derive(Debug, Clone)]
enum Kept {
    Keys(KeysRecord),
    Catalogue(CatalogueRecord),
}

/// Bucket `releases` as the store's feed told it.
#[derive(Debug, Clone, Default)]
pub struct Shelf {
    table: Table<String, Kept>,
    now: Releases,
    alarm: Option<String>,
}

impl Shelf {
    /// What is published. What cannot be read is an alarm, and leaves what was known before.
    pub fn now(&self) -> &Releases {
        &self.now
    }

    /// The newest place in the bucket's history that was seen.
    pub fn head(&self) -> u64 {
        self.table.head()
    }

    /// Was the whole told at least once?
    pub(super) fn is_known(&self) -> bool {
        self.table.known
    }

    pub(super) fn is_told(&self) -> bool {
        self.table.fresh.is_none()
    }

    pub(super) fn reset(&mut self) {
        self.table.reset();
    }

    pub(super) fn caught_up(&mut self) {
        self.table.caught_up();
        self.judge();
    }

    pub(super) fn set(&mut self, key: &str, seq: u64, bytes: Option<&[u8]>) -> Result<(), NotAKey> {
        let read = |bytes: &[u8]| {
            let kept = match key {
                KEYS => record::decode(bytes).map(Kept::Keys),
                _ => record::decode(bytes).map(Kept::Catalogue),
            };
            kept.map_err(|err| err.to_string())
        };
        if key != KEYS && key != CATALOGUE {
            return Err(NotAKey);
        }
        self.table.set(key.to_owned(), seq, bytes.map(read));
        if self.is_told() {
            self.judge();
        }
        Ok(())
    }

    fn judge(&mut self) {
        let (mut keys, mut catalogue) = (KeysRecord::default(), CatalogueRecord::default());
        for (key, slot) in self.table.iter() {
            match &slot.value {
                Ok(Kept::Keys(record)) => keys = record.clone(),
                Ok(Kept::Catalogue(record)) => catalogue = record.clone(),
                Err(why) => {
                    self.alarm = Some(format!("releases/{key}: {why}"));
                    return;
                }
            }
        }
        match Releases::of(&keys, &catalogue, &self.now) {
            Ok(now) => (self.now, self.alarm) = (now, None),
            Err(why) => self.alarm = Some(format!("releases: {why}")),
        }
    }

    pub(super) fn alarms(&self) -> Option<String> {
        self.alarm.clone()
    }
}
