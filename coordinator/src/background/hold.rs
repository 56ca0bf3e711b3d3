//! Devices that know more than the store. Their own signed document is fetched from them, verified under the fleet key
//! and taken over for that device only, one generation above; everything else waits for `bramble resume`.
//!
//! Decides: when to ask a device again. Deliberately does not: bring deployments back; `resume` does, when told to.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{
    Generation,
    api::{Connection, Outcome},
    id::DeviceId,
    subjects::Bucket,
    v1::{FrameBody, Verb},
};
use bytes::Bytes;
use futures::StreamExt as _;

use super::{
    Core, Own,
    metrics::count,
    now,
    port::MeshError,
    reconcile::{Looked, Subject, write},
};
use crate::{
    domain::{
        compose, enrollment, hold,
        record::{self, DeviceRecord, Note},
        table::Slot,
        view,
    },
    store::{Expect, StoreError},
};

/// Between two questions to the same device.
const ASK_AGAIN_MS: u64 = 5_000;
/// For the whole answer.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_DOCUMENT: usize = 600 * 1024;

/// When each device was asked for its own document.
#[derive(Debug, Default)]
pub(crate) struct Asked(Mutex<BTreeMap<DeviceId, u64>>);

impl Asked {
    fn due(&self, id: &DeviceId, mono_ms: u64) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, at| mono_ms.saturating_sub(*at) < ASK_AGAIN_MS);
        asked.insert(id.clone(), mono_ms).is_none()
    }
}

/// A device is ahead: believed only after a look at the store itself, then noted, durably, before anything else.
pub(crate) async fn begin(
    core: &Core,
    subject: &Subject,
    record: &DeviceRecord,
    seq: u64,
    why: &str,
) -> Result<Looked, StoreError> {
    if behind(core, subject).await? {
        count(&core.metrics.stale);
        return Ok(Looked::Again);
    }
    let mut next = record.clone();
    next.hold = Some(view::note(why, "coordinator", now()));
    core.store.put(Bucket::Devices, subject.id.as_str(), record::encode(&next), Expect::Seq(seq)).await?;
    tell(core, &next, why).await;
    Ok(Looked::Settled)
}

async fn tell(core: &Core, record: &DeviceRecord, why: &str) {
    count(&core.metrics.holds);
    tracing::warn!(device = %record.id, name = %record.name, why, "on hold");
    let object = format!("device/{}", record.name);
    let own = Own {
        who: "coordinator",
        action: "device.hold",
        object: &object,
        reason: why,
        outcome: Outcome::Done,
        detail: "",
    };
    if let Err(err) = core.audit_own(&record.tenant, own).await {
        tracing::error!(error = %err, "cannot write an audit event");
    }
}

/// Is the index behind the store in what it knows of this device's document?
async fn behind(core: &Core, subject: &Subject) -> Result<bool, StoreError> {
    let stored = core.store.get(Bucket::Desired, subject.id.as_str()).await?.map(|entry| entry.seq);
    Ok(stored != subject.desired.as_ref().map(|slot| slot.seq))
}

/// A device that reports and has no record: its own document says who it is.
pub(crate) async fn unrecorded(core: &Core, subject: &Subject) -> Result<Looked, StoreError> {
    if core.store.get(Bucket::Devices, subject.id.as_str()).await?.is_some() {
        return Ok(Looked::Again);
    }
    let Some(document) = own_document(core, &subject.id).await else { return Ok(Looked::Settled) };
    let why = hold::Ahead::Unrecorded.to_string();
    let at = now();
    let mut record = core.index.look(|lens| view::unrecorded(&subject.id, &lens.fleet.device(&subject.id)));
    record.tenant = document.tenant.clone();
    record.labels = document.labels.clone();
    record.created_ms = at.wall_ms;
    record.hold = Some(view::note(&why, "coordinator", at));
    record.name = reserve_name(core, &record, Some(&document.name), "").await?;
    core.store.put(Bucket::Devices, subject.id.as_str(), record::encode(&record), Expect::Absent).await?;
    tell(core, &record, &why).await;
    take_over(core, subject, document).await?;
    Ok(Looked::Settled)
}

/// Reserves the first free name for a device, durably; its own reservation counts as free.
pub(crate) async fn reserve_name(
    core: &Core,
    record: &DeviceRecord,
    wanted: Option<&bramble_contracts::Name>,
    hostname: &str,
) -> Result<bramble_contracts::Name, StoreError> {
    let mine = Bytes::from(record.id.as_str().to_owned());
    for name in enrollment::names(wanted, hostname, &record.id) {
        let key = record::name_key(&record.tenant, &name);
        match core.store.put(Bucket::Meta, &key, mine.clone(), Expect::Absent).await {
            Ok(_) => return Ok(name),
            Err(StoreError::Conflict { .. }) => {
                let holder = core.store.get(Bucket::Meta, &key).await?;
                if holder.is_some_and(|entry| entry.bytes == mine) {
                    return Ok(name);
                }
            }
            Err(err @ StoreError::Unavailable { .. }) => return Err(err),
        }
    }
    Ok(record.id.as_str().parse().expect("invariant: a device id is a name"))
}

/// A device on hold: get its own document first; then, if the store wants exactly that, the hold is over.
pub(crate) async fn held(
    core: &Core,
    subject: &Subject,
    record: &DeviceRecord,
    seq: u64,
) -> Result<Looked, StoreError> {
    if subject.ahead.is_some() {
        if behind(core, subject).await? {
            return Ok(Looked::Again);
        }
        if let Some(document) = own_document(core, &subject.id).await {
            take_over(core, subject, document).await?;
        }
        return Ok(Looked::Settled);
    }
    let current = subject.desired.as_ref().and_then(Slot::ok);
    let differs = core
        .index
        .look(|lens| compose::next_document(current, Generation(0), record, &lens.composition(record)).is_some());
    if differs {
        return Ok(Looked::Settled);
    }
    let mut next = record.clone();
    let note: Option<Note> = next.hold.take();
    core.store.put(Bucket::Devices, subject.id.as_str(), record::encode(&next), Expect::Seq(seq)).await?;
    let why = note.map_or_else(String::new, |n| n.reason);
    let object = format!("device/{}", record.name);
    let detail = "the store wants exactly what the device has";
    let own = Own {
        who: "coordinator",
        action: "device.release",
        object: &object,
        reason: &why,
        outcome: Outcome::Done,
        detail,
    };
    core.audit_own(&record.tenant, own).await?;
    Ok(Looked::Again)
}

/// Writes the device's own document, one generation above what it and the store have.
async fn take_over(core: &Core, subject: &Subject, mut document: DesiredDocument) -> Result<(), StoreError> {
    let stored = subject.desired.as_ref().and_then(Slot::ok).map_or(Generation(0), |d| d.generation);
    document.generation = document.generation.max(stored).max(subject.reported).next();
    write(core, &document, subject.desired.as_ref().map(|slot| slot.seq)).await?;
    Ok(())
}

/// Asks a device for the signed document it holds. None: not reachable, asked a moment ago, or not credible.
async fn own_document(core: &Core, id: &DeviceId) -> Option<DesiredDocument> {
    let online = core.index.look(|lens| lens.connection(id)) == Connection::Online;
    if !online || !core.asked.due(id, now().mono_ms) {
        return None;
    }
    let bytes = match tokio::time::timeout(PATIENCE, fetch(core, id)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(err)) => {
            tracing::warn!(device = %id, error = %err, "cannot get the device's own document");
            return None;
        }
        Err(_) => {
            tracing::warn!(device = %id, "the device did not send its own document in time");
            return None;
        }
    };
    match core.keys.open_desired(&bytes) {
        Ok(document) if document.device == *id => Some(document),
        Ok(document) => {
            tracing::error!(device = %id, other = %document.device, "the device sent a document of another device");
            None
        }
        Err(err) => {
            tracing::error!(device = %id, error = %err, "the device's own document is not credible");
            None
        }
    }
}

async fn fetch(core: &Core, id: &DeviceId) -> Result<Vec<u8>, MeshError> {
    let mut frames = core.command(id, Verb::Desired, PATIENCE).await?;
    let broken = |why: String| MeshError::Unreachable { why };
    let mut document = vec![];
    while let Some(frame) = frames.next().await {
        match frame?.body {
            FrameBody::Document(part) => document.extend_from_slice(&part),
            FrameBody::End { .. } => return Ok(document),
            FrameBody::Refused { why } => return Err(broken(why)),
            FrameBody::Stdout(_)
            | FrameBody::Stderr(_)
            | FrameBody::Line { .. }
            | FrameBody::Log(_)
            | FrameBody::Skipped(_)
            | FrameBody::Taken(_)
            | FrameBody::OsPlan(_) => {
                return Err(broken("it answered something else than its document".to_owned()));
            }
        }
        if document.len() > MAX_DOCUMENT {
            return Err(broken("its document is too large".to_owned()));
        }
    }
    Err(broken("its answer broke off".to_owned()))
}
