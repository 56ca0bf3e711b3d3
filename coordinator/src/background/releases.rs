//! Answers devices that ask for release keys, manifests, timestamps and parts of binaries.
//!
//! Decides: who is answered (active devices), with what (only what is published and what the newest keys stand for), and
//! how many at once, so that downloads never keep others from being answered. Deliberately does not: say which device
//! should take which release; its document does.

use std::time::Duration;

use bramble_contracts::{
    api::DeviceState,
    bytes::Sha256,
    envelope::{self, EncodeError},
    id::DeviceId,
    release::{CHUNK_MAX, ReleaseAnswer, ReleaseAsk, ReleaseTimestamp},
};
use tokio::sync::Semaphore;

use super::{Core, now};
use crate::{
    domain::{lifecycle, releases::Releases},
    store::blobs,
};

/// Questions about releases that are answered at once; fewer than devices may ask in all.
const AT_ONCE: usize = 24;
/// Signed keys in one answer; each is below 10 KiB.
const KEYS_AT_ONCE: usize = 8;
/// How long a timestamp vouches.
const TIMESTAMP_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Places for those who ask.
#[derive(Debug)]
pub(super) struct Counter(Semaphore);

impl Default for Counter {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// The answer to one question of one device.
pub(super) async fn answer(
    core: &Core,
    counter: &Counter,
    device: &DeviceId,
    ask: ReleaseAsk,
) -> Result<Vec<u8>, EncodeError> {
    let answer = match counter.0.try_acquire() {
        Ok(_place) => decide(core, device, ask).await,
        Err(_) => ReleaseAnswer::Later("many devices ask at once: ask again in a moment".into()),
    };
    envelope::encode(&answer)
}

async fn decide(core: &Core, device: &DeviceId, ask: ReleaseAsk) -> ReleaseAnswer {
    if let Some(no) = core.index.look(|lens| may_ask(lens.fleet, device)) {
        return no;
    }
    let releases = |see: &dyn Fn(&Releases) -> ReleaseAnswer| core.index.look(|lens| see(lens.fleet.releases.now()));
    match ask {
        ReleaseAsk::Keys { after } => releases(&|all| keys(all, after)),
        ReleaseAsk::Manifest { manifest } => releases(&|all| match taken(all, &manifest) {
            Ok(release) => ReleaseAnswer::Manifest(release.published.signed.clone()),
            Err(no) => no,
        }),
        ReleaseAsk::Timestamp { manifest } => releases(&|all| timestamp(core, all, &manifest)),
        ReleaseAsk::Chunk { sha256, offset, len } => chunk(core, &sha256, offset, len).await,
    }
}

/// Why this device is not answered.
fn may_ask(fleet: &crate::domain::fleet::Fleet, device: &DeviceId) -> Option<ReleaseAnswer> {
    if !fleet.known() {
        return Some(ReleaseAnswer::Later("the coordinator is reading its store: ask again in a moment".into()));
    }
    match fleet.device(device).record().map(|record| record.state) {
        Some(DeviceState::Active) => None,
        Some(state @ (DeviceState::Pending | DeviceState::Quarantined | DeviceState::Decommissioned)) => {
            Some(ReleaseAnswer::Absent(format!("the device is {}", lifecycle::word(state))))
        }
        None => Some(ReleaseAnswer::Absent("the store has no record of this device: see `bramble resume`".into())),
    }
}

fn keys(all: &Releases, after: u64) -> ReleaseAnswer {
    let chain = all.keys.as_ref().map(|held| held.chain.as_slice()).unwrap_or_default();
    let skip = usize::try_from(after).unwrap_or(usize::MAX);
    ReleaseAnswer::Keys(chain.iter().skip(skip).take(KEYS_AT_ONCE).map(|kept| kept.signed.clone()).collect())
}

fn taken<'a>(all: &'a Releases, manifest: &Sha256) -> Result<&'a crate::domain::releases::Release, ReleaseAnswer> {
    let absent = |why: &str| ReleaseAnswer::Absent(format!("manifest {manifest}: {why}"));
    let release = all.by_manifest(manifest).ok_or_else(|| absent("no such release is published here"))?;
    match &release.refused {
        None => Ok(release),
        Some(why) => Err(absent(why)),
    }
}

fn timestamp(core: &Core, all: &Releases, manifest: &Sha256) -> ReleaseAnswer {
    let release = match taken(all, manifest) {
        Ok(release) => release,
        Err(no) => return no,
    };
    let issued_ms = now().wall_ms;
    let stamp = ReleaseTimestamp {
        release_seq: release.release_seq,
        manifest: *manifest,
        keys_version: all.keys.as_ref().map_or(0, |held| held.newest.version),
        issued_ms,
        expires_ms: issued_ms + TIMESTAMP_LIFE.as_secs() * 1000,
    };
    match core.keys.sign_timestamp(&stamp) {
        Ok(signed) => ReleaseAnswer::Timestamp(signed),
        Err(err) => ReleaseAnswer::Later(err.to_string()),
    }
}

async fn chunk(core: &Core, sha256: &Sha256, offset: u64, len: u32) -> ReleaseAnswer {
    let absent = |why: &str| ReleaseAnswer::Absent(format!("binary {sha256}: {why}"));
    let size = core.index.look(|lens| lens.fleet.releases.now().artifact(sha256).map(|artifact| artifact.size));
    let Some(size) = size else { return absent("it belongs to no release that is published here") };
    if offset > size {
        return absent(&format!("it ends at {size}, before {offset}"));
    }
    match blobs::read(&*core.store, sha256, size, offset, len.min(CHUNK_MAX) as usize).await {
        Ok(Some(bytes)) => ReleaseAnswer::Chunk(bytes.to_vec()),
        Ok(None) => absent("a part of it is missing in the store: restore a backup, or send the binary again"),
        Err(err) => ReleaseAnswer::Later(err.to_string()),
    }
}
