//! What the broker tells of devices' connections: who has gone, and with which key who came.
//!
//! Decides: a device whose last known connection is gone is offline at once; a device whose key was lost with the
//! store is known again by the key its (our own) JWT carried. Deliberately does not: replace heartbeats.

use std::collections::{BTreeMap, BTreeSet};

use bramble_contracts::{api::Outcome, id::DeviceId, subjects::Bucket};
use tokio::sync::mpsc;

use super::{Core, Own};
use crate::{
    domain::record::{self, DeviceRecord},
    mesh::{DeviceLink, LinkChange, LinkNews},
    store::{Expect, StoreError},
};

/// Looks for records without a key this often.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

/// Connections and keys of devices, as far as they were told.
#[derive(Debug, Default)]
struct Told {
    connections: BTreeMap<DeviceId, BTreeSet<u64>>,
    keys: BTreeMap<DeviceId, String>,
    /// Over which connection of ours: connections that ended while it was broken are not told.
    over: u64,
}

/// Runs until the events end.
pub async fn run(core: &Core, mut links: mpsc::Receiver<LinkNews>) {
    let mut told = Told::default();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            news = links.recv() => match news {
                Some(LinkNews::One(link)) => note(core, &mut told, link),
                Some(LinkNews::All(all)) => replace(core, &mut told, all),
                None => return,
            },
            _ = look.tick() => learn(core, &told.keys).await,
        }
    }
}

/// Whoever was connected and is not listed any more has gone. A key stays that device's key.
fn replace(core: &Core, told: &mut Told, all: Vec<DeviceLink>) {
    let before = std::mem::take(&mut told.connections);
    for link in all {
        note(core, told, link);
    }
    for device in before.keys().filter(|id| !told.connections.contains_key(*id)) {
        core.index.disconnected(device);
    }
}

fn note(core: &Core, told: &mut Told, link: DeviceLink) {
    let DeviceLink { device, public_key, connection, told_over, change } = link;
    if told_over != told.over {
        told.connections.clear();
        told.over = told_over;
    }
    match change {
        LinkChange::Connected => {
            told.connections.entry(device.clone()).or_default().insert(connection);
            told.keys.insert(device, public_key);
        }
        LinkChange::Disconnected { reason } => {
            let left = told.connections.entry(device.clone()).or_default();
            left.remove(&connection);
            if left.is_empty() {
                told.connections.remove(&device);
                tracing::debug!(%device, reason, "disconnected");
                core.index.disconnected(&device);
            }
        }
    }
}

/// Writes keys into records that lack them: devices that were taken over from their own documents.
async fn learn(core: &Core, keys: &BTreeMap<DeviceId, String>) {
    if !core.index.may_write() {
        return;
    }
    let lacking: Vec<(u64, DeviceRecord)> = core.index.look(|lens| {
        let records =
            lens.fleet.devices.readable().filter(|(id, _, r)| r.public_key.is_none() && keys.contains_key(*id));
        records.map(|(_, seq, r)| (seq, r.clone())).collect()
    });
    for (seq, mut record) in lacking {
        record.public_key = keys.get(&record.id).cloned();
        match core.store.put(Bucket::Devices, record.id.as_str(), record::encode(&record), Expect::Seq(seq)).await {
            Ok(_) => learnt(core, &record).await,
            // Somebody else changed it: the next look sees what it is now.
            Err(StoreError::Conflict { .. }) => {}
            Err(err @ StoreError::Unavailable { .. }) => {
                tracing::warn!(device = %record.id, error = %err, "cannot write its key yet");
            }
        }
    }
}

async fn learnt(core: &Core, record: &DeviceRecord) {
    tracing::info!(device = %record.id, "learnt the key of a device that was taken over");
    let object = format!("device/{}", record.name);
    let own = Own {
        who: "coordinator",
        action: "device.key",
        object: &object,
        reason: "its record was lost with the store",
        outcome: Outcome::Done,
        detail: record.public_key.as_deref().unwrap_or_default(),
    };
    if let Err(err) = core.audit_own(&record.tenant, own).await {
        tracing::error!(error = %err, "cannot write an audit event");
    }
}
