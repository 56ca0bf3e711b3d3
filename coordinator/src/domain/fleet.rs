//! Everything that is known of the fleet, as the store's feed told it.
//!
//! Decides: what each message of the feed changes, and when the whole is known well enough to act on. A record that
//! cannot be read stays in its place as an alarm: it is never taken for a missing one.
//! Deliberately does not: act. `background` does.

use std::collections::{BTreeMap, BTreeSet};

use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{
    envelope,
    id::{DeviceId, Generation, Name, Tenant, Uid},
    signed::{self, Role},
    subjects::Bucket,
    trust::TrustDocument,
    v1::{Heartbeat, Instance},
    v3::Report,
};
use serde::Deserialize;

use super::{
    Now,
    liveness::{Heard, Listening},
    record::{self, DeploymentRecord, DeviceRecord, TokenRecord},
    releases::{NotAKey, Shelf},
    rollout::Rollout,
    table::{Slot, Table},
    view::unrecorded,
};
use crate::store::{
    Change,
    jetstream::{FORMAT, META_KEY},
};

/// A heartbeat may have been on its way for this long when its sender was cut off.
const LATE_MS: u64 = 5000;
/// An agent that acts is no longer taken for it when another one beats and it has not for so long.
const ACTING_SILENT_MS: u64 = 20_000;

/// A heartbeat and when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// What it said.
    pub heartbeat: Heartbeat,
    /// When it came, or that it was there before we listened.
    pub heard: Heard,
}

/// What a message of the feed may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// Nothing that anybody acts on.
    Nothing,
    /// One device.
    Device(DeviceId),
    /// These devices.
    Devices(Vec<DeviceId>),
    /// Anything.
    Everything,
}

/// Is the whole known, and may be acted on?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    Lost,
}

/// What the coordinator knows.
#[derive(Debug, Clone)]
pub struct Fleet {
    trust: TrustDocument,
    /// Device records.
    pub devices: Table<DeviceId, DeviceRecord>,
    /// Desired documents, verified.
    pub desired: Table<DeviceId, DesiredDocument>,
    /// Reports.
    pub reports: Table<DeviceId, Report>,
    /// Heartbeats.
    pub beats: Table<(DeviceId, Instance), Beat>,
    /// Deployments, by `<tenant>.<name>`.
    pub deployments: Table<String, DeploymentRecord>,
    /// Enrolment tokens.
    pub tokens: Table<Uid, TokenRecord>,
    /// Releases of the agent, and their keys.
    pub releases: Shelf,
    /// Facts about the store.
    meta: Table<String, u32>,
    /// Rollouts, by `<tenant>.<name>`.
    pub rollouts: Table<String, Rollout>,
    link: Link,
    listening: Listening,
    /// Devices the broker has cut off, and when.
    cut: BTreeMap<DeviceId, Now>,
    strange: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Fleet {
    /// Nothing is known yet. Documents are verified under the keys of `trust`.
    pub fn new(trust: TrustDocument) -> Self {
        Self {
            trust,
            devices: Table::default(),
            desired: Table::default(),
            reports: Table::default(),
            beats: Table::default(),
            deployments: Table::default(),
            tokens: Table::default(),
            releases: Shelf::default(),
            meta: Table::default(),
            rollouts: Table::default(),
            link: Link::Up,
            listening: Listening::Not,
            cut: BTreeMap::new(),
            strange: BTreeMap::new(),
        }
    }

    /// Takes one message of the feed.
    pub fn apply(&mut self, change: Change, now: Now) -> Touched {
        match change {
            Change::Lost => {
                self.link = Link::Lost;
                self.listening = Listening::Not;
                Touched::Everything
            }
            Change::Reset(bucket) => {
                self.link = Link::Up;
                self.reset(bucket);
                Touched::Nothing
            }
            Change::CaughtUp(bucket) => {
                self.link = Link::Up;
                self.caught_up(bucket, now);
                Touched::Everything
            }
            Change::Value { bucket, key, seq, bytes } => self.value(bucket, &key, seq, bytes.as_deref(), now),
        }
    }

    fn reset(&mut self, bucket: Bucket) {
        match bucket {
            Bucket::Desired => self.desired.reset(),
            Bucket::Reported => self.reports.reset(),
            Bucket::Liveness => {
                self.beats.reset();
                self.listening = Listening::Not;
            }
            Bucket::Devices => self.devices.reset(),
            Bucket::Deployments => self.deployments.reset(),
            Bucket::Tokens => self.tokens.reset(),
            Bucket::Releases => self.releases.reset(),
            Bucket::Meta => self.meta.reset(),
            Bucket::Rollouts => self.rollouts.reset(),
            Bucket::Jobs | Bucket::Leases => {}
        }
    }

    fn caught_up(&mut self, bucket: Bucket, now: Now) {
        match bucket {
            Bucket::Desired => self.desired.caught_up(),
            Bucket::Reported => self.reports.caught_up(),
            Bucket::Liveness => {
                self.beats.caught_up();
                self.listening = Listening::Since(now.mono_ms);
            }
            Bucket::Devices => self.devices.caught_up(),
            Bucket::Deployments => self.deployments.caught_up(),
            Bucket::Tokens => self.tokens.caught_up(),
            Bucket::Releases => self.releases.caught_up(),
            Bucket::Meta => self.meta.caught_up(),
            Bucket::Rollouts => self.rollouts.caught_up(),
            Bucket::Jobs | Bucket::Leases => {}
        }
    }

    fn value(&mut self, bucket: Bucket, key: &str, seq: u64, bytes: Option<&[u8]>, now: Now) -> Touched {
        match bucket {
            Bucket::Desired => {
                let trust = &self.trust;
                let open = |b: &[u8]| signed::open(b, Role::Fleet, |r, id| trust.key(r, id)).map_err(|e| e.to_string());
                device_value(&mut self.desired, &mut self.strange, bucket, key, seq, bytes.map(open))
            }
            Bucket::Reported => {
                let read = |b: &[u8]| envelope::decode(b).map_err(|e| e.to_string());
                device_value(&mut self.reports, &mut self.strange, bucket, key, seq, bytes.map(read))
            }
            Bucket::Devices => {
                let read = |b: &[u8]| record::decode(b).map_err(|e| e.to_string());
                device_value(&mut self.devices, &mut self.strange, bucket, key, seq, bytes.map(read))
            }
            Bucket::Liveness => self.heartbeat(key, seq, bytes, now),
            Bucket::Deployments => {
                let read = |b: &[u8]| record::decode(b).map_err(|e| e.to_string());
                self.deployments.set(key.to_owned(), seq, bytes.map(read));
                Touched::Everything
            }
            Bucket::Tokens => {
                let Ok(id) = key.parse() else { return self.strange(bucket, key) };
                let read = |b: &[u8]| record::decode(b).map_err(|e| e.to_string());
                self.tokens.set(id, seq, bytes.map(read));
                Touched::Nothing
            }
            Bucket::Meta => {
                if key == META_KEY {
                    let read =
                        |b: &[u8]| serde_json::from_slice::<Format>(b).map(|f| f.format).map_err(|e| e.to_string());
                    self.meta.set(key.to_owned(), seq, bytes.map(read));
                }
                Touched::Nothing
            }
            Bucket::Rollouts => self.rollout(key, seq, bytes),
            Bucket::Releases => match self.releases.set(key, seq, bytes) {
                Ok(()) => Touched::Everything,
                Err(NotAKey) => self.strange(bucket, key),
            },
            Bucket::Jobs | Bucket::Leases => Touched::Nothing,
        }
    }

    /// Documents follow only from who may begin with what, and not from every number of a rollout.
    fn rollout(&mut self, key: &str, seq: u64, bytes: Option<&[u8]>) -> Touched {
        let next = bytes.map(|b| record::decode::<Rollout>(b).map_err(|e| e.to_string()));
        let touched = match (self.rollouts.get(key).and_then(Slot::ok), &next) {
            (Some(before), Some(Ok(next))) => next.changes_for(before),
            (None | Some(_), None | Some(_)) => None,
        };
        self.rollouts.set(key.to_owned(), seq, next);
        touched.map_or(Touched::Everything, Touched::Devices)
    }

    fn strange(&mut self, bucket: Bucket, key: &str) -> Touched {
        self.strange.insert(format!("{}/{key}", bucket.name()), "is not a key of this bucket".to_owned());
        Touched::Nothing
    }

    fn heartbeat(&mut self, key: &str, seq: u64, bytes: Option<&[u8]>, now: Now) -> Touched {
        let parts = key.split_once('.').and_then(|(device, instance)| {
            let instance = [Instance::A, Instance::B].into_iter().find(|i| i.name() == instance)?;
            Some((device.parse::<DeviceId>().ok()?, instance))
        });
        let Some((device, instance)) = parts else { return self.strange(Bucket::Liveness, key) };
        let cut = self.cut.get(&device).filter(|cut| now.mono_ms.saturating_sub(cut.mono_ms) < LATE_MS);
        let heard = match (self.listening, cut) {
            (Listening::Since(_), None) => Heard::At(now),
            // It was sent before the cut and was on its way.
            (Listening::Since(_), Some(cut)) => Heard::Left(*cut),
            (Listening::Not, None | Some(_)) => Heard::Once,
        };
        let read = |b: &[u8]| envelope::decode(b).map(|heartbeat| Beat { heartbeat, heard }).map_err(|e| e.to_string());
        let key = (device, instance);
        let generation = |table: &Table<_, Beat>| table.get(&key).and_then(Slot::ok).map(|b| b.heartbeat.generation);
        let before = generation(&self.beats);
        self.beats.set(key.clone(), seq, bytes.map(read));
        if generation(&self.beats) == before { Touched::Nothing } else { Touched::Device(key.0) }
    }

    /// The broker says that the last connection of a device is gone: it is offline until it is heard again.
    pub fn disconnected(&mut self, device: &DeviceId) {
        for instance in [Instance::A, Instance::B] {
            let beat = self.beats.live.get_mut(&(device.clone(), instance)).and_then(|slot| slot.value.as_mut().ok());
            if let Some(Beat { heard, .. }) = beat
                && let Heard::At(at) = *heard
            {
                *heard = Heard::Left(at);
            }
        }
    }

    /// The broker has cut off these devices, and no others: they are offline until they are heard again. What was on
    /// its way to us at that moment does not count; what still comes later does, and shows that the cut does not hold.
    pub fn cut_off(&mut self, devices: &BTreeSet<DeviceId>, now: Now) {
        self.cut.retain(|id, _| devices.contains(id));
        for id in devices {
            if !self.cut.contains_key(id) {
                self.cut.insert(id.clone(), now);
                self.disconnected(id);
            }
        }
    }

    /// What is still waited for before anything is written, in words; empty when the whole is known.
    pub fn waits_for(&self) -> Vec<String> {
        if self.link == Link::Lost {
            return vec!["the broker to be reachable again".to_owned()];
        }
        let tables = [
            (Bucket::Desired, self.desired.fresh.is_none()),
            (Bucket::Reported, self.reports.fresh.is_none()),
            (Bucket::Liveness, self.beats.fresh.is_none()),
            (Bucket::Devices, self.devices.fresh.is_none()),
            (Bucket::Deployments, self.deployments.fresh.is_none()),
            (Bucket::Tokens, self.tokens.fresh.is_none()),
            (Bucket::Meta, self.meta.fresh.is_none()),
            (Bucket::Rollouts, self.rollouts.fresh.is_none()),
            (Bucket::Releases, self.releases.is_told()),
        ];
        let waiting = tables.into_iter().filter(|(_, done)| !done);
        waiting.map(|(bucket, _)| format!("bucket {} to be read", bucket.name())).collect()
    }

    /// Was the whole known at least once? Before, there is nothing to show.
    pub fn known(&self) -> bool {
        let tables = self.desired.known && self.reports.known && self.devices.known && self.deployments.known;
        tables && self.tokens.known && self.rollouts.known && self.releases.is_known()
    }

    /// The layout of the store is newer than this coordinator's, or cannot be read: it may not write.
    pub fn foreign_format(&self) -> Option<String> {
        match self.meta.get(META_KEY).map(|slot| &slot.value) {
            None => None,
            Some(Ok(format)) if *format <= FORMAT => None,
            Some(Ok(format)) => Some(format!(
                "the store has format {format} and this coordinator writes {FORMAT}: upgrade it; until then it only reads"
            )),
            Some(Err(why)) => Some(format!("the store's format cannot be read ({why}): restore bucket meta")),
        }
    }

    /// Since when heartbeats are heard.
    pub fn listening(&self) -> Listening {
        self.listening
    }

    /// The trust document whose keys count.
    pub fn trust(&self) -> &TrustDocument {
        &self.trust
    }

    /// Every device that has a record or has reported.
    pub fn device_ids(&self) -> Vec<DeviceId> {
        let mut ids: Vec<DeviceId> = self.devices.iter().map(|(id, _)| id.clone()).collect();
        ids.extend(self.reports.iter().map(|(id, _)| id).filter(|id| self.devices.get(*id).is_none()).cloned());
        ids.sort_unstable();
        ids
    }

    /// A device's record by what people call it; its id is taken as well.
    pub fn device_named(&self, tenant: &Tenant, name: &str) -> Option<DeviceId> {
        let by_name = self.devices.readable().find(|(_, _, d)| d.tenant == *tenant && d.name.as_str() == name);
        if let Some((id, _, _)) = by_name {
            return Some(id.clone());
        }
        let id: DeviceId = name.parse().ok()?;
        let ours = match self.devices.get(&id) {
            Some(slot) => slot.ok().is_none_or(|d| d.tenant == *tenant),
            // What has no record is whose its document or report says it is, as everywhere it is shown.
            None => self.reports.get(&id).is_some() && unrecorded(&id, &self.device(&id)).tenant == *tenant,
        };
        ours.then_some(id)
    }

    /// One device, from all sides.
    pub fn device(&self, id: &DeviceId) -> Seen<'_> {
        let beats = [Instance::A, Instance::B].map(|i| self.beats.get(&(id.clone(), i)).and_then(Slot::ok));
        Seen { record: self.devices.get(id), desired: self.desired.get(id), report: self.reports.get(id), beats }
    }

    /// Deployments that can be read.
    pub fn deployment_records(&self) -> impl Iterator<Item = &DeploymentRecord> {
        self.deployments.readable().map(|(_, _, d)| d)
    }

    /// A deployment by tenant and name.
    pub fn deployment(&self, tenant: &Tenant, name: &Name) -> Option<&Slot<DeploymentRecord>> {
        self.deployments.get(&record::deployment_key(tenant, name))
    }

    /// Every value that cannot be read, in words.
    pub fn alarms(&self) -> Vec<String> {
        fn damaged<K: Ord + std::fmt::Debug, T>(
            name: &str,
            table: &Table<K, T>,
            text: impl Fn(&K) -> String,
        ) -> Vec<String> {
            let bad = table.iter().filter_map(|(k, s)| s.value.as_ref().err().map(|why| (k, why)));
            bad.map(|(key, why)| format!("{name}/{}: {why}", text(key))).collect()
        }
        let mut all = damaged("devices", &self.devices, ToString::to_string);
        all.extend(damaged("desired", &self.desired, ToString::to_string));
        all.extend(damaged("reported", &self.reports, ToString::to_string));
        all.extend(damaged("deployments", &self.deployments, Clone::clone));
        all.extend(damaged("tokens", &self.tokens, ToString::to_string));
        all.extend(damaged("rollouts", &self.rollouts, Clone::clone));
        all.extend(self.releases.alarms());
        all.extend(self.strange.iter().map(|(key, why)| format!("{key} {why}")));
        all.extend(self.foreign_format());
        all
    }
}

fn device_value<T>(
    table: &mut Table<DeviceId, T>,
    strange: &mut BTreeMap<String, String>,
    bucket: Bucket,
    key: &str,
    seq: u64,
    value: Option<Result<T, String>>,
) -> Touched {
    match key.parse::<DeviceId>() {
        Ok(id) => {
            table.set(id.clone(), seq, value);
            Touched::Device(id)
        }
        Err(err) => {
            strange.insert(format!("{}/{key}", bucket.name()), err.to_string());
            Touched::Nothing
        }
    }
}

/// One device, from all sides.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its record.
    pub record: Option<&'a Slot<DeviceRecord>>,
    /// Its desired document.
    pub desired: Option<&'a Slot<DesiredDocument>>,
    /// Its report.
    pub report: Option<&'a Slot<Report>>,
    /// The last heartbeats of its two agents.
    pub beats: [Option<&'a Beat>; 2],
}

/// When a heartbeat came, for comparing; 0 for one that was there before we listened.
fn heard_ms(beat: &Beat) -> u64 {
    match beat.heard {
        Heard::At(at) | Heard::Left(at) => at.mono_ms + 1,
        Heard::Once | Heard::Never => 0,
    }
}

impl<'a> Seen<'a> {
    /// Its record, where it can be read.
    pub fn record(&self) -> Option<&'a DeviceRecord> {
        self.record.and_then(Slot::ok)
    }
    /// Its desired document, where it can be read.
    pub fn desired(&self) -> Option<&'a DesiredDocument> {
        self.desired.and_then(Slot::ok)
    }
    /// Its report, where it can be read.
    pub fn report(&self) -> Option<&'a Report> {
        self.report.and_then(Slot::ok)
    }
    /// The newest heartbeat, of whichever agent.
    pub fn newest_beat(&self) -> Option<&'a Beat> {
        self.beats.into_iter().flatten().max_by_key(|beat| heard_ms(beat))
    }
    /// The heartbeat of the agent that acts: commands go there, and its health counts. While an agent upgrades itself
    /// two of them beat, and only the one that acts reports. One that has fallen silent acts no more.
    pub fn acting_beat(&self) -> Option<&'a Beat> {
        let newest = self.newest_beat()?;
        let session = self.report().map(|r| r.session);
        let acting = self.beats.into_iter().flatten().find(|beat| Some(beat.heartbeat.session) == session);
        Some(acting.filter(|beat| heard_ms(beat) + ACTING_SILENT_MS >= heard_ms(newest)).unwrap_or(newest))
    }
    /// Was it ever there, and when last? Whichever of its agents beats, the device is there.
    pub fn heard(&self) -> Heard {
        match (self.newest_beat(), self.report) {
            (Some(beat), _) => beat.heard,
            (None, Some(_)) => Heard::Once,
            (None, None) => Heard::Never,
        }
    }
    /// The highest generation the device says it acts on.
    pub fn reported_generation(&self) -> Generation {
        let beats = self.beats.into_iter().flatten().map(|b| b.heartbeat.generation);
        beats.chain(self.report().map(|r| r.generation)).max().unwrap_or(Generation(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::testing;

    #[test]
    fn a_device_without_a_record_is_found_by_its_own_tenant_alone() {
        let (document, key) = testing::trust();
        let mut fleet = Fleet::new(document);
        let device = testing::device(1, &[]);
        let now = Now { wall_ms: 1, mono_ms: 1 };
        let mut tell = |bucket, bytes: Vec<u8>| {
            fleet.apply(Change::Reset(bucket), now);
            let bytes = Some(bytes.into());
            fleet.apply(Change::Value { bucket, key: device.id.to_string(), seq: 1, bytes }, now);
            fleet.apply(Change::CaughtUp(bucket), now);
        };
        tell(Bucket::Reported, envelope::encode(&testing::report(&device, 1)).unwrap());
        let document = DesiredDocument {
            device: device.id.clone(),
            generation: Generation(1),
            tenant: "theirs".parse().unwrap(),
            name: device.name.clone(),
            labels: device.labels.clone(),
            apps: vec![],
            agent: None,
            os: None,
        };
        tell(Bucket::Desired, signed::sign(&document, Role::Fleet, &key).unwrap());
        let found = |tenant: &str| fleet.device_named(&tenant.parse().unwrap(), device.id.as_str());
        assert_eq!((found("theirs"), found("default")), (Some(device.id.clone()), None));
    }
}
