//! What people are shown: devices, deployments, targets and summaries, out of everything known.
//!
//! Decides: the words and the numbers. What is unknown is shown as unknown. Deliberately does not: page or filter.

use bramble_contracts::{
    Generation,
    api::{Connection, DeploymentView, DeviceState, DeviceView, Summary, TargetView},
    id::{DeviceId, Name},
    v1::{Health, Manifest, Status},
    v2::ClockReport,
    v3::Report,
};

use super::{
    Now,
    compose::{self, Composition},
    fleet::{Fleet, Seen},
    hold, lifecycle,
    liveness::{self, Heard},
    record::{DeploymentRecord, DeviceRecord, Note},
    rollout::gate::Gate,
    when::rfc3339,
};

/// The fleet, seen at a moment.
#[derive(Clone, Copy)]
pub struct Lens<'a> {
    /// What is known.
    pub fleet: &'a Fleet,
    /// When it is looked at.
    pub now: Now,
    /// Silence for this long is offline.
    pub timeout_ms: u64,
}

/// How much of a device to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// In a list.
    Brief,
    /// In `describe`, with the report.
    Whole,
}

impl Lens<'_> {
    /// Is it there?
    pub fn connection(&self, id: &DeviceId) -> Connection {
        let heard = self.fleet.device(id).heard();
        let listening = self.fleet.listening();
        match self.fleet.waits_for().is_empty() {
            true => liveness::judge(heard, listening, self.now.mono_ms, self.timeout_ms),
            false => liveness::judge(heard, liveness::Listening::Not, self.now.mono_ms, self.timeout_ms),
        }
    }

    /// Why nothing is decided over the device's head, if so. Only what was looked up in the store counts: a report may
    /// reach the index before the very document it is about.
    pub fn hold(&self, id: &DeviceId) -> Option<String> {
        let seen = self.fleet.device(id);
        if seen.record.is_none() {
            return Some(hold::Ahead::Unrecorded.to_string());
        }
        seen.record().and_then(|r| r.hold.as_ref()).map(|n| n.reason.clone())
    }

    /// A device as people see it.
    pub fn device(&self, id: &DeviceId, detail: Detail) -> DeviceView {
        let seen = self.fleet.device(id);
        let connection = self.connection(id);
        let record = seen.record().cloned().unwrap_or_else(|| unrecorded(id, &seen));
        let damaged = seen.record.and_then(|slot| slot.value.as_ref().err());
        let report = seen.report();
        let health = if connection == Connection::Online { self.health(&seen) } else { Health::Unknown };
        DeviceView {
            id: id.clone(),
            tenant: record.tenant,
            name: record.name,
            labels: record.labels,
            state: record.state,
            connection,
            last_seen: match seen.heard() {
                Heard::At(at) | Heard::Left(at) => Some(rfc3339(at.wall_ms)),
                Heard::Once | Heard::Never => None,
            },
            created: rfc3339(record.created_ms),
            health,
            clock: self.clock(id).cloned().unwrap_or_default(),
            agent: report.map(|r| r.agent.to_string()).unwrap_or_default(),
            desired_generation: seen.desired().map_or(Generation(0), |d| d.generation),
            reported_generation: seen.reported_generation(),
            hold: damaged.map(|why| format!("its record is damaged: {why}")).or_else(|| self.hold(id)),
            quarantine: record.quarantine.map(|n| n.reason),
            report: report.filter(|_| detail == Detail::Whole).cloned(),
            version: seen.record.map_or(0, |slot| slot.seq),
        }
    }

    /// What its wall clock is worth, while it is there to say so.
    pub fn clock(&self, id: &DeviceId) -> Option<&ClockReport> {
        let report = self.fleet.device(id).report()?;
        (self.connection(id) == Connection::Online).then_some(&report.clock)
    }

    fn health(&self, seen: &Seen<'_>) -> Health {
        let said = seen.acting_beat().map_or(Health::Unknown, |b| b.heartbeat.health);
        if said == Health::Unknown { seen.report().map_or(Health::Unknown, |r| r.health) } else { said }
    }

    /// What a device should run.
    pub fn composition(&self, device: &DeviceRecord) -> Composition {
        compose::compose(device, self.fleet.deployment_records(), &Gate::of(self.fleet, &device.id))
    }

    /// Why nothing reaches the device, if so.
    pub fn barrier(&self, device: &DeviceRecord) -> Option<String> {
        match device.state {
            DeviceState::Pending => Some(format!("the device is pending: `bramble device approve {}`", device.name)),
            DeviceState::Quarantined => {
                let why = device.quarantine.as_ref().map_or("", |n| n.reason.as_str());
                Some(format!("the device is quarantined ({why}): `bramble device unquarantine {}`", device.name))
            }
            DeviceState::Decommissioned => Some("the device is decommissioned".to_owned()),
            DeviceState::Active => self.hold(&device.id).map(|why| format!("on hold: {why}")),
        }
    }

    /// The devices that this deployment is for, in order of their names.
    pub fn selected<'a>(&'a self, deployment: &'a DeploymentRecord) -> Vec<&'a DeviceRecord> {
        let selector = &deployment.deployment.spec.selector;
        let mut all: Vec<&DeviceRecord> = self
            .fleet
            .devices
            .readable()
            .map(|(_, _, d)| d)
            .filter(|d| d.state != DeviceState::Decommissioned)
            .filter(|d| compose::selects(deployment.tenant(), selector, d))
            .collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// One device of a deployment.
    pub fn target(&self, deployment: &DeploymentRecord, device: &DeviceRecord) -> TargetView {
        let connection = self.connection(&device.id);
        let composition = self.composition(device);
        let blocked = self
            .barrier(device)
            .or_else(|| composition.blocked(deployment.tenant(), deployment.name()).map(str::to_owned));
        let report = self.fleet.device(&device.id).report();
        let app = report.and_then(|r| {
            r.apps.iter().find(|a| a.tenant == *deployment.tenant() && a.deployment == *deployment.name())
        });
        let current = app.filter(|a| a.uid == deployment.uid && a.revision == deployment.revision);
        let reason = match (&blocked, connection, current) {
            (Some(why), _, _) => why.clone(),
            (None, Connection::Never, _) => "the device has never connected".to_owned(),
            (None, Connection::Offline, None) => "the device is offline and has not seen this revision".to_owned(),
            (None, Connection::Recovering, None) => "the coordinator is recovering".to_owned(),
            (None, Connection::Online, None) => {
                let silent = || "the device has not reported on this revision yet".to_owned();
                self.waits_for_turn(deployment, &device.id).unwrap_or_else(silent)
            }
            (None, Connection::Online | Connection::Offline | Connection::Recovering, Some(app)) => app.reason.clone(),
        };
        TargetView {
            device: device.id.clone(),
            name: device.name.clone(),
            connection,
            blocked,
            status: current.map(|a| a.status),
            phase: current.map(|a| a.phase),
            reason,
            app: app.cloned(),
        }
    }

    /// A deployment as people see it.
    pub fn deployment(&self, record: &DeploymentRecord, version: u64, detail: Detail) -> DeploymentView {
        let devices: Vec<TargetView> = self.selected(record).into_iter().map(|d| self.target(record, d)).collect();
        DeploymentView {
            uid: record.uid.clone(),
            revision: record.revision,
            manifest: Manifest::from(record.deployment.clone()),
            created: rfc3339(record.created_ms),
            updated: rfc3339(record.updated_ms),
            summary: summary(&devices),
            devices: match detail {
                Detail::Whole => devices,
                Detail::Brief => vec![],
            },
            version,
        }
    }
}

/// Adds devices up. Every device counts once: blocked before unreachable before what it reports.
pub fn summary(targets: &[TargetView]) -> Summary {
    let mut sum = Summary::default();
    for target in targets {
        sum.devices += 1;
        let field = match (&target.blocked, target.connection, target.status) {
            (Some(_), _, _) => &mut sum.blocked,
            (None, Connection::Offline | Connection::Recovering | Connection::Never, _) => &mut sum.unreachable,
            (None, Connection::Online, Some(Status::Confirmed)) => &mut sum.confirmed,
            (None, Connection::Online, Some(Status::Failed | Status::RolledBack)) => &mut sum.failed,
            (None, Connection::Online, Some(Status::Staged | Status::Trial) | None) => &mut sum.progressing,
        };
        *field += 1;
    }
    sum
}

/// What can be said of a device that reports and has no readable record.
pub fn unrecorded(id: &DeviceId, seen: &Seen<'_>) -> DeviceRecord {
    let document = seen.desired();
    let report: Option<&Report> = seen.report();
    let by_id: Name = id.as_str().parse().expect("invariant: a device id is a name");
    let tenant = document.map(|d| d.tenant.clone());
    DeviceRecord {
        id: id.clone(),
        tenant: tenant.or_else(|| report?.apps.first().map(|a| a.tenant.clone())).unwrap_or_default(),
        name: document.map_or(by_id, |d| d.name.clone()),
        labels: document.map(|d| d.labels.clone()).unwrap_or_default(),
        state: DeviceState::Active,
        public_key: None,
        token: None,
        newest_document: report.map_or(1, |r| r.newest_document),
        created_ms: 0,
        quarantine: None,
        hold: None,
    }
}

/// A note of something done now.
pub fn note(reason: &str, by: &str, now: Now) -> Note {
    Note { reason: reason.to_owned(), since_ms: now.wall_ms, by: by.to_owned() }
}

/// A device's state in words.
pub fn state_word(state: DeviceState) -> &'static str {
    lifecycle::word(state)
}
