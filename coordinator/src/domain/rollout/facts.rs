//! What a rollout looks at: every device it is for, as far as this is known now.
//!
//! Decides: who is meant, who cannot take it, and what a device's report says of it (`Word`). Deliberately does not:
//! conclude anything; `step` does.

use std::collections::BTreeMap;

use bramble_contracts::{
    api::{Connection, DeviceState},
    id::{DeviceId, Name, Tenant},
    v1::{Phase, Status},
    v2::{AppReport, UpgradePhase, UpgradeReport},
    v3::Report,
};

use super::{AgentSubject, Before, Member, Rollout, Subject, TROUBLED_MAX, os};
use crate::domain::{
    record::{DeploymentRecord, DeviceRecord},
    view::Lens,
};

/// Everything one step needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The devices that are meant.
    pub devices: BTreeMap<DeviceId, Seen>,
    /// A newer rollout that has taken every device of this one.
    pub overtaken: Option<Name>,
    /// Why no device may begin now, if so: the window is not open.
    pub closed: Option<String>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What it is called.
    pub name: Name,
    /// Can it be told anything?
    pub reach: Reach,
    /// Why it cannot take it, if so.
    pub refused: Option<String>,
    /// What it says of it.
    pub word: Word,
    /// It acts on a document that says so.
    pub has_taken: bool,
    /// It has taken it, and waits for its window: no time counts against it.
    pub is_held: bool,
    /// It is past the point from which trouble may be the new agent's.
    pub in_trial: bool,
    /// The attempts that were used up before.
    pub attempts: u32,
    /// How often it failed in a row before this rollout.
    pub failures: u8,
    /// How it is, as long as nothing new of the rollout's can be the cause.
    pub before: Before,
}

/// Can a device be told anything?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Yes.
    Online,
    /// No, and why.
    Away(String),
    /// The coordinator has not listened for long enough to say.
    Unknown,
}

/// What a device says of what the rollout brings, at the attempt it was told last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Nothing yet.
    Silent,
    /// It is on its way.
    Working {
        /// Grows as it gets on.
        progress: u64,
        /// In words.
        text: String,
    },
    /// It is as it should be.
    Good,
    /// It failed, and why.
    Bad(String),
}

/// What is known of the devices of `rollout` now; none while nobody can say whom it is for.
pub fn of(lens: &Lens<'_>, rollout: &Rollout) -> Option<Facts> {
    match &rollout.subject {
        Subject::Agent(subject) => {
            let (meant, overtaken) = meant(lens, rollout);
            let devices = meant.into_iter().map(|d| (d.id.clone(), for_agent(lens, rollout, subject, d))).collect();
            Some(Facts { devices, overtaken, closed: None })
        }
        Subject::Os(subject) => {
            let (meant, overtaken) = meant(lens, rollout);
            let closed = os::closed(rollout, lens.now.wall_ms);
            let look = |d: &DeviceRecord| os::look(lens, rollout, subject, closed.is_some(), d);
            let devices = meant.into_iter().map(|d| (d.id.clone(), look(d))).collect();
            Some(Facts { devices, overtaken, closed })
        }
        Subject::Deployment(_) => {
            // Gone, newer or damaged: an empty selection would mean that all is done.
            let record = deployment(lens, rollout)?;
            let selected = lens.selected(record).into_iter();
            let devices = selected.map(|d| (d.id.clone(), for_app(lens, rollout, record, d))).collect();
            Some(Facts { devices, overtaken: None, closed: None })
        }
    }
}

/// The deployment, as long as it is this one and in this revision.
fn deployment<'a>(lens: &'a Lens<'_>, rollout: &Rollout) -> Option<&'a DeploymentRecord> {
    lens.fleet.deployment(&rollout.tenant, &rollout.name)?.ok().filter(|record| rollout.is_of(record))
}

/// The devices a rollout is for that names them itself. Where two of a kind want the same device, the newer one has it for
/// good; so who has taken them all is said beside them.
fn meant<'a>(lens: &'a Lens<'_>, rollout: &Rollout) -> (Vec<&'a DeviceRecord>, Option<Name>) {
    let all = lens.fleet.rollouts.readable().map(|(_, _, other)| other);
    let newer: Vec<&Rollout> = all
        .filter(|other| (&other.tenant, other.kind()) == (&rollout.tenant, rollout.kind()))
        .filter(|other| other.age() > rollout.age())
        .collect();
    let taker = |d: &DeviceRecord| newer.iter().find(|other| other.selects(&d.name, &d.labels));
    let selected = selected(lens, rollout);
    let overtaken = match selected.iter().map(|d| taker(d)).collect::<Option<Vec<_>>>() {
        Some(takers) => takers.first().map(|other| other.name.clone()),
        None => None,
    };
    (selected.into_iter().filter(|d| taker(d).is_none()).collect(), overtaken)
}

/// Every device that such a rollout names, whoever has it.
pub fn selected<'a>(lens: &'a Lens<'_>, rollout: &Rollout) -> Vec<&'a DeviceRecord> {
    chosen(lens, &rollout.tenant, |d| rollout.selects(&d.name, &d.labels))
}

/// The devices of a tenant that this selects.
pub fn chosen<'a>(
    lens: &'a Lens<'_>,
    tenant: &Tenant,
    selects: impl Fn(&DeviceRecord) -> bool,
) -> Vec<&'a DeviceRecord> {
    let all = lens.fleet.devices.readable().map(|(_, _, device)| device);
    all.filter(|d| d.tenant == *tenant && d.state != DeviceState::Decommissioned).filter(|d| selects(d)).collect()
}

/// Can it be told anything?
pub(super) fn reach(lens: &Lens<'_>, device: &DeviceRecord) -> Reach {
    if let Some(why) = lens.barrier(device) {
        return Reach::Away(why);
    }
    match lens.connection(&device.id) {
        Connection::Online => Reach::Online,
        Connection::Offline => Reach::Away("it is not connected".to_owned()),
        Connection::Never => Reach::Away("it has never connected".to_owned()),
        Connection::Recovering => Reach::Unknown,
    }
}

fn for_agent(lens: &Lens<'_>, rollout: &Rollout, subject: &AgentSubject, device: &DeviceRecord) -> Seen {
    let seen = lens.fleet.device(&device.id);
    let report = seen.report();
    let upgrade = report.and_then(|r| r.program.upgrade.as_ref()).filter(|u| u.manifest == subject.manifest);
    let attempt = rollout.devices.get(&device.id).map_or(0, |m| m.attempt);
    let wished = seen.desired().and_then(|d| d.agent.as_ref()).filter(|wish| wish.manifest == subject.manifest);
    let taken = |r: &Report| seen.desired().is_some_and(|d| r.generation >= d.generation);
    Seen {
        name: device.name.clone(),
        reach: reach(lens, device),
        refused: refused(subject, device, report),
        word: word_of_agent(subject, report, upgrade, attempt),
        has_taken: wished.is_some_and(|wish| wish.attempt == attempt) && report.is_some_and(taken),
        is_held: false,
        in_trial: upgrade.is_some_and(is_in_trial),
        attempts: used_up(upgrade, wished.map(|wish| wish.attempt)),
        failures: rollout.failed_before.get(&device.id).copied().unwrap_or(0),
        before: report.map(before).unwrap_or_default(),
    }
}

/// Attempts that ended. One that is under way is gone on with, whichever rollout began it.
fn used_up(upgrade: Option<&UpgradeReport>, wished: Option<u32>) -> u32 {
    let ended = match upgrade {
        Some(u) => match u.status {
            Status::Failed | Status::RolledBack => u.attempt,
            Status::Staged | Status::Trial | Status::Confirmed => u.attempt.saturating_sub(1),
        },
        None => 0,
    };
    ended.max(wished.map_or(0, |attempt| attempt.saturating_sub(1)))
}

fn refused(subject: &AgentSubject, device: &DeviceRecord, report: Option<&Report>) -> Option<String> {
    let by_hand = |agent: String| {
        Some(format!(
            "its agent{agent} cannot upgrade itself: upgrade it by hand once, see docs/guide/agent-upgrade.md"
        ))
    };
    let Some(report) = report else {
        return (device.newest_document < 2).then(|| by_hand(String::new())).flatten();
    };
    let Some(target) = report.program.target.as_ref().filter(|_| report.newest_document >= 2) else {
        return by_hand(format!(" {}", report.agent));
    };
    if !subject.targets.contains(target) {
        return Some(format!("release {} has no binary for {target}: publish one", subject.version));
    }
    let floor = report.program.floor;
    (subject.release_seq < floor)
        .then(|| format!("it takes no release below sequence {floor}, and this one has {}", subject.release_seq))
}

fn word_of_agent(
    subject: &AgentSubject,
    report: Option<&Report>,
    upgrade: Option<&UpgradeReport>,
    attempt: u32,
) -> Word {
    let Some(report) = report else { return Word::Silent };
    let runs = (report.agent, report.program.release_seq) == (subject.version, subject.release_seq);
    match upgrade {
        // At whichever attempt.
        Some(u) if runs && u.status == Status::Confirmed => Word::Good,
        Some(u) if u.attempt == attempt => match u.status {
            Status::Failed | Status::RolledBack if u.blamed => Word::Bad(u.reason.clone()),
            Status::Staged | Status::Trial | Status::Confirmed | Status::Failed | Status::RolledBack => Word::Working {
                progress: (u64::from(rank(u.phase)) << 40) | u.bytes_got.min((1 << 40) - 1),
                text: upgrade_words(u),
            },
        },
        // Installed before anybody wished it.
        None if runs => Word::Good,
        Some(_) | None => Word::Silent,
    }
}

fn rank(phase: UpgradePhase) -> u8 {
    match phase {
        UpgradePhase::Waiting => 0,
        UpgradePhase::Draining => 1,
        UpgradePhase::Staging => 2,
        UpgradePhase::Verifying => 3,
        UpgradePhase::CutoverReady => 4,
        UpgradePhase::Trial => 5,
        UpgradePhase::Stopping => 6,
        UpgradePhase::Done => 7,
    }
}

fn is_in_trial(upgrade: &UpgradeReport) -> bool {
    match upgrade.status {
        Status::Failed | Status::RolledBack => false,
        Status::Staged | Status::Trial | Status::Confirmed => rank(upgrade.phase) >= rank(UpgradePhase::CutoverReady),
    }
}

/// Where an agent's upgrade is, in words.
pub fn upgrade_words(u: &UpgradeReport) -> String {
    let bytes = match u.phase {
        UpgradePhase::Staging => format!(", {} of {} bytes", u.bytes_got, u.bytes_all),
        UpgradePhase::Waiting
        | UpgradePhase::Draining
        | UpgradePhase::Verifying
        | UpgradePhase::CutoverReady
        | UpgradePhase::Trial
        | UpgradePhase::Stopping
        | UpgradePhase::Done => String::new(),
    };
    let reason = if u.reason.is_empty() { String::new() } else { format!(": {}", u.reason) };
    format!("{}{bytes}{reason}", upgrade_phase(u.phase))
}

/// A phase of an agent's upgrade in one word.
pub fn upgrade_phase(phase: UpgradePhase) -> &'static str {
    match phase {
        UpgradePhase::Waiting => "waiting",
        UpgradePhase::Draining => "draining",
        UpgradePhase::Staging => "staging",
        UpgradePhase::Verifying => "verifying",
        UpgradePhase::CutoverReady => "cutover-ready",
        UpgradePhase::Trial => "trial",
        UpgradePhase::Stopping => "stopping",
        UpgradePhase::Done => "done",
    }
}

fn before(report: &Report) -> Before {
    let bad = report.apps.iter().filter(|app| app.status != Status::Confirmed);
    let names = bad.map(|app| format!("{}.{}", app.tenant, app.deployment));
    Before { health: report.health, troubled: names.take(TROUBLED_MAX).collect() }
}

fn for_app(lens: &Lens<'_>, rollout: &Rollout, record: &DeploymentRecord, device: &DeviceRecord) -> Seen {
    let seen = lens.fleet.device(&device.id);
    let report = seen.report();
    let is_it = |app: &&AppReport| (&app.uid, app.revision) == (&record.uid, record.revision);
    let told = seen.desired().filter(|d| d.apps.iter().any(|a| (&a.uid, a.revision) == (&record.uid, record.revision)));
    let member = rollout.devices.get(&device.id);
    let blocked = |m: &Member| {
        // Composing is dear: only for those that were told and have not got it.
        let waits = m.is_in_flight() && told.is_none();
        waits.then(|| lens.composition(device).blocked(record.tenant(), record.name()).map(str::to_owned)).flatten()
    };
    let word = match (report.and_then(|r| r.apps.iter().find(is_it)), member.and_then(blocked)) {
        (_, Some(why)) => Word::Bad(why),
        // What a device says of a revision that it is not to have (any more) says nothing.
        (Some(app), None) if told.is_some() => word_of_app(app),
        (Some(_) | None, None) => Word::Silent,
    };
    Seen {
        name: device.name.clone(),
        reach: reach(lens, device),
        refused: None,
        word,
        has_taken: told.is_some_and(|d| report.is_some_and(|r| r.generation >= d.generation)),
        is_held: false,
        in_trial: true,
        attempts: 0,
        failures: rollout.failed_before.get(&device.id).copied().unwrap_or(0),
        before: Before::default(),
    }
}

fn word_of_app(app: &AppReport) -> Word {
    let progress = match app.phase {
        Phase::Preparing | Phase::Waiting => 1,
        Phase::Stopping | Phase::Removing => 2,
        Phase::Starting | Phase::CrashLoop | Phase::Failed => 3,
        Phase::Probing => 4,
        Phase::Running | Phase::Completed => 5,
    };
    match app.status {
        Status::Confirmed => Word::Good,
        Status::Failed | Status::RolledBack => Word::Bad(app.reason.clone()),
        Status::Staged | Status::Trial => Word::Working { progress, text: app.reason.clone() },
    }
}
