//! Brings every device's desired document in line with what is wanted. Level-triggered: the trigger carries no data.
//!
//! Decides: in what order it looks, and when to look again. A document is written by compare-and-set, signed, and
//! only where its meaning differs; before an app is taken out or changed, the store itself is asked about it, so an
//! index that is behind never undoes what another coordinator did. Deliberately does not: delete documents.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use bramble_contracts::{
    Generation,
    api::{DeviceState, RolloutKind},
    id::DeviceId,
    subjects::Bucket,
    v3::DesiredDocument,
};
use bytes::Bytes;
use futures::StreamExt as _;

use super::{Core, hold, index::Dirty, metrics::count};
use crate::{
    domain::{
        compose,
        fleet::Fleet,
        record::{self, DeviceRecord},
        table::Slot,
    },
    store::{Expect, StoreError},
};

/// Looks at everything at least this often.
const AUDIT: Duration = Duration::from_secs(30);
/// Looks again after a pass that did not finish.
const RETRY: Duration = Duration::from_millis(200);
/// Devices looked at side by side.
const ABREAST: usize = 32;

/// What a look at one device came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// It has what is wanted, or nothing may be written to it.
    Settled,
    /// A document was written.
    Written(Generation),
    /// Not finished: look again.
    Again,
}

/// Everything one look needs, out of the index.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) id: DeviceId,
    pub(crate) record: Option<Slot<DeviceRecord>>,
    pub(crate) desired: Option<Slot<DesiredDocument>>,
    pub(crate) reported: Generation,
    pub(crate) ahead: Option<String>,
}

pub(crate) fn subject(fleet: &Fleet, id: &DeviceId) -> Subject {
    let seen = fleet.device(id);
    let ahead = crate::domain::hold::ahead(seen.desired(), seen.reported_generation(), seen.report());
    Subject {
        id: id.clone(),
        record: seen.record.cloned(),
        desired: seen.desired.cloned(),
        reported: seen.reported_generation(),
        ahead: ahead.map(|why| why.to_string()),
    }
}

/// Runs for ever.
pub async fn run(core: &Core) {
    loop {
        tokio::select! {
            () = core.index.needs_a_look() => {}
            () = tokio::time::sleep(AUDIT) => core.index.mark(Dirty { everything: true, ..Dirty::default() }),
        }
        if pass(core).await == Pass::Unfinished {
            tokio::time::sleep(RETRY).await;
            core.index.mark(Dirty::default());
        }
    }
}

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Nothing is left to do.
    Settled,
    /// Some devices need another look.
    Unfinished,
}

/// One look at everything that needs one.
pub async fn pass(core: &Core) -> Pass {
    let dirty = core.index.take_dirty();
    if dirty == Dirty::default() {
        return Pass::Settled;
    }
    if !core.index.may_write() {
        // A CaughtUp follows and marks everything.
        return Pass::Settled;
    }
    let ids: Vec<DeviceId> = match dirty.everything {
        true => core.index.look(|lens| lens.fleet.device_ids()),
        false => dirty.devices.into_iter().collect(),
    };
    let confirmed = Confirmed::default();
    let looks = futures::stream::iter(ids).map(|id| {
        let confirmed = &confirmed;
        async move { (look_at(core, &id, confirmed).await, id) }
    });
    let again: Vec<DeviceId> = looks
        .buffer_unordered(ABREAST)
        .filter_map(|(looked, id)| async move { (looked == Looked::Again).then_some(id) })
        .collect()
        .await;
    if again.is_empty() {
        return Pass::Settled;
    }
    let devices = again.into_iter().collect();
    core.index.mark(Dirty { everything: false, devices });
    Pass::Unfinished
}

/// What a document rests on: values of the store, each with its place as the index knows it.
type Places = BTreeMap<(Bucket, String), Option<u64>>;

/// What was asked of the store in this pass.
#[derive(Default)]
struct Confirmed(Mutex<Places>);

async fn look_at(core: &Core, id: &DeviceId, confirmed: &Confirmed) -> Looked {
    let subject = core.index.look(|lens| subject(lens.fleet, id));
    let done = match &subject.record {
        None if subject.reported > Generation(0) => hold::unrecorded(core, &subject).await,
        None => return Looked::Settled,
        Some(Slot { value: Err(_), .. }) => return Looked::Settled,
        Some(Slot { value: Ok(record), seq }) => one(core, &subject, record, *seq, confirmed).await,
    };
    match done {
        Ok(looked) => looked,
        Err(StoreError::Conflict { .. }) => {
            count(&core.metrics.conflicts);
            Looked::Again
        }
        Err(err @ StoreError::Unavailable { .. }) => {
            count(&core.metrics.failed);
            tracing::warn!(device = %id, error = %err, "cannot write");
            Looked::Again
        }
    }
}

async fn one(
    core: &Core,
    subject: &Subject,
    record: &DeviceRecord,
    seq: u64,
    confirmed: &Confirmed,
) -> Result<Looked, StoreError> {
    match record.state {
        DeviceState::Active => {}
        DeviceState::Pending | DeviceState::Quarantined | DeviceState::Decommissioned => return Ok(Looked::Settled),
    }
    if record.hold.is_some() {
        return hold::held(core, subject, record, seq).await;
    }
    if let Some(why) = &subject.ahead {
        return hold::begin(core, subject, record, seq, why).await;
    }
    if matches!(subject.desired, Some(Slot { value: Err(_), .. })) {
        return Ok(Looked::Settled);
    }
    let current = subject.desired.as_ref().and_then(Slot::ok);
    let (wanted, places) = core.index.look(|lens| {
        let next = compose::next_document(current, subject.reported, record, &lens.composition(record));
        let places = next.as_ref().map(|next| touched(lens.fleet, current, next));
        (next, places.unwrap_or_default())
    });
    let Some(next) = wanted else { return Ok(Looked::Settled) };
    if !up_to_date(core, places, confirmed).await? {
        count(&core.metrics.stale);
        return Ok(Looked::Again);
    }
    write(core, &next, subject.desired.as_ref().map(|slot| slot.seq)).await
}

/// Signs and writes a document.
pub(crate) async fn write(core: &Core, next: &DesiredDocument, replaces: Option<u64>) -> Result<Looked, StoreError> {
    let signed = match core.keys.sign_desired(next) {
        Ok(signed) => signed,
        Err(err) => {
            tracing::error!(device = %next.device, error = %err, "the document is too large to write");
            return Ok(Looked::Settled);
        }
    };
    let expect = replaces.map_or(Expect::Absent, Expect::Seq);
    core.store.put(Bucket::Desired, next.device.as_str(), Bytes::from(signed), expect).await?;
    count(&core.metrics.written);
    tracing::info!(device = %next.device, generation = %next.generation, apps = next.apps.len(), "wrote a desired document");
    Ok(Looked::Written(next.generation))
}

/// What the difference between two documents rests on: the deployments that differ, and every rollout of the agent
/// where that does.
fn touched(fleet: &Fleet, current: Option<&DesiredDocument>, next: &DesiredDocument) -> Places {
    let have = current.map_or(&[][..], |d| &d.apps);
    let lost = have.iter().filter(|a| !next.apps.contains(a));
    let new = next.apps.iter().filter(|a| !have.contains(a));
    let apps = lost.chain(new).map(|app| {
        let (tenant, name) = compose::app_key(app);
        let key = record::deployment_key(tenant, name);
        let seq = fleet.deployments.get(&key).map(|slot| slot.seq);
        ((Bucket::Deployments, key), seq)
    });
    let agent_differs = current.and_then(|d| d.agent.as_ref()) != next.agent.as_ref();
    let of_agent = fleet.rollouts.readable().filter(|(_, _, r)| agent_differs && r.kind() == RolloutKind::Agent);
    apps.chain(of_agent.map(|(key, seq, _)| ((Bucket::Rollouts, key.clone()), Some(seq)))).collect()
}

/// Does the store say the same of these as the index did?
async fn up_to_date(core: &Core, places: Places, confirmed: &Confirmed) -> Result<bool, StoreError> {
    for (place, seq) in places {
        let known = confirmed.0.lock().expect("invariant: nobody panics while holding it").get(&place).copied();
        let stored = match known {
            Some(stored) => stored,
            None => {
                let stored = core.store.get(place.0, &place.1).await?.map(|entry| entry.seq);
                confirmed.0.lock().expect("invariant: nobody panics while holding it").insert(place, stored);
                stored
            }
        };
        if stored != seq {
            return Ok(false);
        }
    }
    Ok(true)
}
