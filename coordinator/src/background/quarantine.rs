//! Keeps quarantined devices cut off. The truth is twofold: device records, and the file beside the operator's key.
//!
//! Decides: when to write the file, to push the accounts, and to put a record right. What only one of the two says is
//! quarantined stays so; only a seen step out of quarantine lets a key back. Deliberately does not: sign; `keys` does.

use std::collections::{BTreeMap, BTreeSet};

use bramble_contracts::{
    api::{DeviceState, Outcome},
    id::DeviceId,
    subjects::Bucket,
};
use tokio::sync::{Mutex, Notify};

use super::{Core, Own, metrics::count, now, port::MeshError};
use crate::{
    domain::{
        quarantine::{Known, settle},
        record, view,
    },
    keys::Quarantined,
    store::{Expect, StoreError},
};

/// Between two tries to tell the broker.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Between two looks. An operator's quarantine does not wait for a look.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// Looks at least this often, whatever changed.
const LOOK: std::time::Duration = std::time::Duration::from_secs(30);

/// Serializes everything that changes who is cut off.
#[derive(Debug, Default)]
pub struct Keeper(Mutex<Memory>, Notify);

#[derive(Debug, Default)]
struct Memory {
    seen: BTreeMap<DeviceId, DeviceState>,
    pushed: Option<BTreeMap<String, u64>>,
}

/// Why a device is not cut off, or not back, yet.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The file beside the keys, or the broker.
    #[error("it is noted, and the broker has not been told yet: {0}")]
    Mesh(#[from] MeshError),
    /// The file cannot be read, and the records are not known either: whatever is written now could let devices back.
    #[error(
        "the file of quarantined keys cannot be read, and every device is cut off until the store has been read: \
         nobody more can be cut off and nobody let back before"
    )]
    Lost,
}

impl Keeper {
    /// Cuts a key off now: the file first, then the broker.
    pub async fn cut(&self, core: &Core, key: &str) -> Result<(), KeeperError> {
        let mut memory = self.0.lock().await;
        let mut keys = listed(core)?;
        keys.entry(key.to_owned()).or_insert(now().wall_ms / 1000);
        self.again_unless_done(apply(core, &mut memory, keys).await)
    }

    /// Lets a key back: the file first, then the broker.
    pub async fn release(&self, core: &Core, key: &str) -> Result<(), KeeperError> {
        let mut memory = self.0.lock().await;
        let mut keys = listed(core)?;
        keys.remove(key);
        self.again_unless_done(apply(core, &mut memory, keys).await)
    }

    fn again_unless_done<T, E>(&self, done: Result<T, E>) -> Result<T, E> {
        if done.is_err() {
            self.1.notify_one();
        }
        done
    }
}

/// The whole list, before a change to it. A file that cannot be read is made again out of all records, or not at all:
/// while it is lost every device is cut off, and a list with one key in it would let all others back.
fn listed(core: &Core) -> Result<BTreeMap<String, u64>, KeeperError> {
    match core.keys.quarantined() {
        Quarantined::Known(keys) => Ok(keys),
        Quarantined::Unreadable { .. } => {
            let devices = known(core);
            if devices.is_empty() || !core.index.may_write() {
                return Err(KeeperError::Lost);
            }
            Ok(settle(&BTreeMap::new(), &devices, &BTreeSet::new(), now().wall_ms / 1000).keys)
        }
    }
}

fn known(core: &Core) -> Vec<Known> {
    core.index.look(|lens| {
        let records = lens.fleet.devices.readable();
        records
            .filter_map(|(id, _, r)| Some(Known { id: id.clone(), key: r.public_key.clone()?, state: r.state }))
            .collect()
    })
}

async fn apply(core: &Core, memory: &mut Memory, keys: BTreeMap<String, u64>) -> Result<(), KeeperError> {
    memory.pushed = None;
    core.mesh.set_quarantined(&keys).await?;
    // The broker has closed their connections: nobody need wait for heartbeats that do not come.
    let cut = known(core).into_iter().filter(|d| keys.contains_key(&d.key)).map(|d| d.id).collect();
    core.index.cut_off(&cut);
    memory.pushed = Some(keys);
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Now,
    IfChanged,
}

/// Runs for ever.
pub async fn run(core: &Core) {
    let mut ticks = core.index.ticks();
    let mut seen = None;
    loop {
        let due = tokio::select! {
            ticked = ticks.changed() => match ticked {
                Ok(()) => Due::IfChanged,
                Err(_) => return,
            },
            () = core.quarantine.1.notified() => Due::Now,
            () = tokio::time::sleep(LOOK) => Due::Now,
        };
        // Heartbeats of a large fleet tick all the time, and a look walks every record.
        let there = core.index.look(|lens| (lens.fleet.devices.changes(), lens.fleet.waits_for().is_empty()));
        if due == Due::IfChanged && seen == Some(there) {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        seen = Some(there);
        while let Err(err) = keep(core).await {
            tracing::error!(error = %err, "quarantine is not enforced yet");
            tokio::time::sleep(RETRY).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One look. While recovering, what the file says holds; the mesh sees to it.
pub async fn keep(core: &Core) -> Result<(), KeeperError> {
    let mut memory = core.quarantine.0.lock().await;
    if !core.index.may_write() {
        // The broker was away: what it refuses beyond our list stays until we say the whole list again.
        memory.pushed = None;
        return Ok(());
    }
    count(&core.metrics.quarantine_looks);
    let devices = known(core);
    let file = match core.keys.quarantined() {
        Quarantined::Known(keys) => keys,
        Quarantined::Unreadable { .. } if devices.is_empty() => return Ok(()),
        Quarantined::Unreadable { .. } => BTreeMap::new(),
    };
    let left: BTreeSet<DeviceId> = devices
        .iter()
        .filter(|d| memory.seen.get(&d.id) == Some(&DeviceState::Quarantined))
        .map(|d| d.id.clone())
        .collect();
    let settled = settle(&file, &devices, &left, now().wall_ms / 1000);
    for id in &settled.requarantine {
        if let Err(err) = requarantine(core, id).await {
            tracing::warn!(device = %id, error = %err, "cannot put the record right yet");
            core.quarantine.1.notify_one();
        }
    }
    memory.seen = devices.into_iter().map(|d| (d.id, d.state)).collect();
    for id in &settled.requarantine {
        memory.seen.insert(id.clone(), DeviceState::Active);
    }
    if memory.pushed.as_ref() == Some(&settled.keys) && settled.keys == file {
        return Ok(());
    }
    apply(core, &mut memory, settled.keys).await
}

/// The file says quarantined and the record does not (an older backup was restored): the record is put right.
async fn requarantine(core: &Core, id: &DeviceId) -> Result<(), StoreError> {
    let slot = core.index.look(|lens| lens.fleet.devices.get(id).cloned());
    let Some((seq, mut next)) = slot.and_then(|slot| Some((slot.seq, slot.value.ok()?))) else { return Ok(()) };
    let why = "the file of quarantined keys lists its key, and the store was older";
    next.state = DeviceState::Quarantined;
    next.quarantine = Some(view::note(why, "coordinator", now()));
    core.store.put(Bucket::Devices, id.as_str(), record::encode(&next), Expect::Seq(seq)).await?;
    let object = format!("device/{}", next.name);
    let own = Own {
        who: "coordinator",
        action: "device.quarantine",
        object: &object,
        reason: why,
        outcome: Outcome::Done,
        detail: "",
    };
    core.audit_own(&next.tenant, own).await.map(drop)
}
