//! Rollouts as people see them, each device with what it says now.
//!
//! Decides: the words and the order. Deliberately does not: judge; what counts is in the record.

use bramble_contracts::{
    Name,
    api::{RolloutDevice, RolloutState, RolloutSummary, RolloutTurn, RolloutView},
    id::DeviceId,
    label::Selector,
    v1::Status,
};

use super::{
    Member, Rollout, Subject,
    facts::{self, Facts, Word},
    gate::{Gate, Gets},
    os, word,
};
use crate::domain::{
    explain::phase_word,
    record::DeploymentRecord,
    upgrade,
    view::{Detail, Lens},
    when::rfc3339,
};

impl Lens<'_> {
    /// A rollout as people see it.
    pub fn rollout(&self, rollout: &Rollout, version: u64, detail: Detail) -> RolloutView {
        let facts = facts::of(self, rollout).unwrap_or_default();
        let unassigned = || {
            let open = rollout.is_live();
            facts.devices.keys().filter(move |id| open && !rollout.devices.contains_key(*id))
        };
        let devices = match detail {
            Detail::Brief => vec![],
            Detail::Whole => {
                let members =
                    rollout.devices.iter().map(|(id, member)| device(self, rollout, &facts, id, Some(member)));
                let mut all: Vec<RolloutDevice> =
                    members.chain(unassigned().map(|id| device(self, rollout, &facts, id, None))).collect();
                all.sort_by(|a, b| {
                    let key = |d: &RolloutDevice| (d.batch.unwrap_or(u32::MAX), d.name.clone());
                    key(a).cmp(&key(b))
                });
                all
            }
        };
        let mut summary = summary(rollout);
        let waiting = u32::try_from(unassigned().count()).unwrap_or(u32::MAX);
        summary.devices += waiting;
        summary.waiting += waiting;
        RolloutView {
            uid: rollout.uid.clone(),
            tenant: rollout.tenant.clone(),
            name: rollout.name.clone(),
            kind: rollout.kind(),
            brings: rollout.brings(),
            selector: selector(self, rollout),
            policy: rollout.policy.clone(),
            state: rollout.state,
            reason: rollout.why.clone(),
            batch: rollout.batch,
            batches: rollout.batches(),
            summary,
            devices,
            by: rollout.by.clone(),
            created: rfc3339(rollout.created_ms),
            updated: rfc3339(rollout.updated_ms),
            elapsed_ms: rollout.clock_ms,
            version,
        }
    }

    /// Why a device does not have the newest revision of a deployment, where that is because its turn has not come.
    pub fn waits_for_turn(&self, record: &DeploymentRecord, device: &DeviceId) -> Option<String> {
        let gate = Gate::of(self.fleet, device);
        let keeps = match gate.app(record, device) {
            Gets::New => return None,
            Gets::Old(old) if old.revision == record.revision => return None,
            Gets::Old(old) => format!("it keeps revision {}", old.revision),
            Gets::Nothing => "it does not have it yet".to_owned(),
        };
        let rollout = self.fleet.rollouts.get(&record.key()).and_then(|slot| slot.ok());
        let Some(rollout) = rollout.filter(|r| r.is_of(record)) else {
            return Some(format!("{keeps}: the rollout of revision {} is about to begin", record.revision));
        };
        let reason = match rollout.devices.get(device).map(|m| m.reason.as_str()) {
            Some("") | None => rollout.why.as_str(),
            Some(reason) => reason,
        };
        let because = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        Some(format!(
            "{keeps}: its turn in rollout {} has not come, which is {} in batch {} of {}{because}",
            rollout.name,
            word(rollout.state),
            rollout.batch,
            rollout.batches(),
        ))
    }

    /// The newest rollout of the agent that has this device, and how it does there.
    pub fn rollout_of_agent(&self, id: &DeviceId) -> Option<(&Rollout, &Member)> {
        let all = self.fleet.rollouts.readable().map(|(_, _, rollout)| rollout);
        let of_it = all.filter_map(|rollout| match &rollout.subject {
            Subject::Agent(_) if rollout.state != RolloutState::Superseded => Some((rollout, rollout.devices.get(id)?)),
            Subject::Agent(_) | Subject::Deployment(_) | Subject::Os(_) => None,
        });
        of_it.max_by(|(a, _), (b, _)| a.age().cmp(&b.age()))
    }
}

fn selector(lens: &Lens<'_>, rollout: &Rollout) -> Option<Selector> {
    match &rollout.subject {
        Subject::Agent(agent) => agent.selector.clone(),
        Subject::Os(os) => os.selector.clone(),
        Subject::Deployment(_) => {
            let record = lens.fleet.deployment(&rollout.tenant, &rollout.name)?.ok()?;
            Some(record.deployment.spec.selector.clone())
        }
    }
}

/// Adds devices up.
fn summary(rollout: &Rollout) -> RolloutSummary {
    let mut sum = RolloutSummary::default();
    for member in rollout.devices.values() {
        sum.devices += 1;
        let field = match member.turn {
            RolloutTurn::Waiting => &mut sum.waiting,
            RolloutTurn::Unreachable => &mut sum.unreachable,
            RolloutTurn::Working | RolloutTurn::Proving => &mut sum.working,
            RolloutTurn::Confirmed => &mut sum.confirmed,
            RolloutTurn::Failed => &mut sum.failed,
            RolloutTurn::Boxed | RolloutTurn::Refused => &mut sum.skipped,
        };
        *field += 1;
    }
    sum
}

/// What a device says itself.
#[derive(Default)]
struct Says {
    status: Option<Status>,
    phase: String,
    runs: String,
    reason: String,
}

fn device(lens: &Lens<'_>, rollout: &Rollout, facts: &Facts, id: &DeviceId, member: Option<&Member>) -> RolloutDevice {
    let seen = facts.devices.get(id);
    let by_id = || id.as_str().parse().expect("invariant: a device id is a name");
    let record = lens.fleet.device(id).record();
    let says = match &rollout.subject {
        Subject::Agent(agent) => of_agent(lens, id, &agent.manifest),
        Subject::Os(_) => of_os(lens, rollout, id),
        Subject::Deployment(subject) => of_app(lens, rollout, subject, id),
    };
    let turn = member.map_or(RolloutTurn::Waiting, |m| m.turn);
    let word = seen.filter(|_| member.is_some_and(Member::is_in_flight)).and_then(|seen| match &seen.word {
        Word::Working { text, .. } => Some(text.clone()),
        Word::Bad(why) => Some(why.clone()),
        Word::Silent | Word::Good => None,
    });
    let reason = match member {
        Some(m) if !m.reason.is_empty() => m.reason.clone(),
        Some(m) if m.is_in_flight() && !says.reason.is_empty() => says.reason,
        Some(_) => word.unwrap_or_default(),
        None if seen.is_some_and(|seen| seen.refused.is_some()) => {
            seen.and_then(|seen| seen.refused.clone()).unwrap_or_default()
        }
        None => "its batch has not come".to_owned(),
    };
    RolloutDevice {
        device: id.clone(),
        name: record.map_or_else(by_id, |r: &crate::domain::record::DeviceRecord| -> Name { r.name.clone() }),
        connection: lens.connection(id),
        batch: member.map(|m| m.batch),
        turn,
        status: says.status,
        phase: says.phase,
        runs: says.runs,
        reason,
        attempt: member.map_or(0, |m| m.attempt),
        failures: member.map_or(0, |m| m.failures),
    }
}

fn of_agent(lens: &Lens<'_>, id: &DeviceId, manifest: &bramble_contracts::bytes::Sha256) -> Says {
    let Some(report) = lens.fleet.device(id).report() else { return Says::default() };
    let runs = report.agent.to_string();
    let Some(upgrade) = report.program.upgrade.as_ref().filter(|u| u.manifest == *manifest) else {
        return Says { runs, ..Says::default() };
    };
    let on_trial = upgrade.status == Status::Trial && upgrade.reason.is_empty();
    let lacks = on_trial.then(|| upgrade::lacks(lens, id)).flatten();
    let reason = lacks.map_or_else(|| upgrade.reason.clone(), |lacks| format!("not confirmed yet: {lacks}"));
    Says { status: Some(upgrade.status), phase: facts::upgrade_phase(upgrade.phase).to_owned(), runs, reason }
}

fn of_os(lens: &Lens<'_>, rollout: &Rollout, id: &DeviceId) -> Says {
    let runs = lens.fleet.device(id).report().map(|report| report.facts.kernel.clone()).unwrap_or_default();
    let Some(upgrade) = os::said(lens, id, &rollout.uid) else { return Says { runs, ..Says::default() } };
    let (phase, reason) = (os::how_far(upgrade), upgrade.reason.clone());
    Says { status: Some(upgrade.status), phase, runs, reason }
}

fn of_app(lens: &Lens<'_>, rollout: &Rollout, subject: &super::DeploymentSubject, id: &DeviceId) -> Says {
    let Some(report) = lens.fleet.device(id).report() else { return Says::default() };
    let is_it = |a: &&bramble_contracts::v2::AppReport| (&a.tenant, &a.deployment) == (&rollout.tenant, &rollout.name);
    let Some(app) = report.apps.iter().find(is_it) else { return Says::default() };
    let runs = app.running_revision.map(|r| format!("revision {r}")).unwrap_or_default();
    if (&app.uid, app.revision) != (&subject.uid, subject.revision) {
        return Says { runs, ..Says::default() };
    }
    Says { status: Some(app.status), phase: phase_word(app.phase).to_owned(), runs, reason: app.reason.clone() }
}
