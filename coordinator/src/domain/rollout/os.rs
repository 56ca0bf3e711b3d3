//! What a device says of an upgrade of its operating system that is rolled out.
//!
//! Decides: who cannot take it, whether its window is open, and what is proof. A device that came back to its old system has failed, whoever is to
//! blame: it is tried again when an operator says so.

use bramble_contracts::{
    id::{DeviceId, Uid},
    v1::Status,
    v3::{OsPhase, OsUpgradeReport, Protection, Report},
    window::Weekly,
};

use super::{
    Before, OsSubject, Rollout,
    facts::{Seen, Word, reach},
    gate::OS_DOCUMENT,
};
use crate::domain::{record::DeviceRecord, view::Lens};

/// Why no device may begin at this moment, in milliseconds since 1970. Devices judge the same by their own clocks.
pub(super) fn closed(rollout: &Rollout, wall_ms: u64) -> Option<String> {
    let window = rollout.policy.window.as_ref()?;
    match Weekly::of(window) {
        Ok(weekly) if weekly.is_open(wall_ms) => None,
        Ok(_) => Some(format!("devices begin only within {window}")),
        Err(flaw) => Some(format!("its window cannot be judged: {flaw}")),
    }
}

/// What is known of one device.
pub(super) fn look(
    lens: &Lens<'_>,
    rollout: &Rollout,
    subject: &OsSubject,
    is_closed: bool,
    device: &DeviceRecord,
) -> Seen {
    let seen = lens.fleet.device(&device.id);
    let report = seen.report();
    let upgrade = report.and_then(|report| of(report, &rollout.uid));
    let attempt = rollout.devices.get(&device.id).map_or(0, |m| m.attempt);
    let wished = seen.desired().and_then(|d| d.os.as_ref()).filter(|wish| wish.id == rollout.uid);
    let taken = |r: &Report| seen.desired().is_some_and(|d| r.generation >= d.generation);
    Seen {
        name: device.name.clone(),
        reach: reach(lens, device),
        refused: refused(subject.least, device, report),
        word: word(upgrade, attempt),
        has_taken: wished.is_some_and(|wish| wish.attempt == attempt) && report.is_some_and(taken),
        is_held: is_closed && upgrade.is_some_and(|u| u.attempt == attempt && u.phase == OsPhase::Waiting),
        in_trial: true,
        attempts: used_up(upgrade, wished.map(|wish| wish.attempt)),
        failures: rollout.failed_before.get(&device.id).copied().unwrap_or(0),
        before: Before::default(),
    }
}

/// What a device says of the upgrade of that rollout.
pub(super) fn said<'a>(lens: &'a Lens<'_>, id: &DeviceId, rollout: &Uid) -> Option<&'a OsUpgradeReport> {
    lens.fleet.device(id).report().and_then(|report| of(report, rollout))
}

fn of<'a>(report: &'a Report, id: &Uid) -> Option<&'a OsUpgradeReport> {
    report.os.upgrade.as_ref().filter(|upgrade| upgrade.id == *id)
}

/// Why it cannot take one, by what is known of it.
pub(super) fn refused(least: Protection, device: &DeviceRecord, report: Option<&Report>) -> Option<String> {
    let reads = report.map_or(device.newest_document, |report| report.newest_document);
    if reads < OS_DOCUMENT {
        return Some("its agent is too old to upgrade the operating system: upgrade the agent first".to_owned());
    }
    let os = &report?.os;
    too_weak(least, os.protection, &os.lacks)
}

/// A device that nothing protects takes none, whatever was asked.
pub(super) fn too_weak(least: Protection, is: Protection, lacks: &str) -> Option<String> {
    let asked = least.max(Protection::Bootcount);
    (is < asked).then(|| {
        let lacks = if lacks.is_empty() { String::new() } else { format!(": {lacks}") };
        format!("it is protected by {}, and {} is asked{lacks}", tier(is), tier(asked))
    })
}

/// A tier of protection in one word.
fn tier(protection: Protection) -> &'static str {
    match protection {
        Protection::None => "nothing",
        Protection::Bootcount => "bootcount",
        Protection::Tryboot => "tryboot",
    }
}

fn used_up(upgrade: Option<&OsUpgradeReport>, wished: Option<u32>) -> u32 {
    let ended = upgrade.map_or(0, |u| match u.status {
        Status::Failed | Status::RolledBack => u.attempt,
        Status::Staged | Status::Trial | Status::Confirmed => u.attempt.saturating_sub(1),
    });
    ended.max(wished.map_or(0, |attempt| attempt.saturating_sub(1)))
}

fn word(upgrade: Option<&OsUpgradeReport>, attempt: u32) -> Word {
    match upgrade {
        Some(u) if u.status == Status::Confirmed => Word::Good,
        Some(u) if u.attempt == attempt => match u.status {
            Status::Failed | Status::RolledBack => Word::Bad(u.reason.clone()),
            Status::Staged | Status::Trial | Status::Confirmed => {
                let progress = u64::from(rank(u.phase)) << 8 | u64::from(u.percent);
                Word::Working { progress, text: words(u) }
            }
        },
        Some(_) | None => Word::Silent,
    }
}

fn rank(phase: OsPhase) -> u8 {
    match phase {
        OsPhase::Waiting => 0,
        OsPhase::Preflight => 1,
        OsPhase::Snapshot => 2,
        OsPhase::Applying => 3,
        OsPhase::Armed => 4,
        OsPhase::Trial => 5,
        OsPhase::Committing => 6,
        OsPhase::Done => 7,
    }
}

/// Where it is, in words.
fn words(u: &OsUpgradeReport) -> String {
    let reason = if u.reason.is_empty() { String::new() } else { format!(": {}", u.reason) };
    format!("{}{reason}", how_far(u))
}

/// Its phase, with percent where a phase takes long enough for that.
pub(super) fn how_far(u: &OsUpgradeReport) -> String {
    match u.phase {
        OsPhase::Preflight | OsPhase::Applying if u.percent > 0 => format!("{} {} %", phase(u.phase), u.percent),
        OsPhase::Waiting
        | OsPhase::Preflight
        | OsPhase::Snapshot
        | OsPhase::Applying
        | OsPhase::Armed
        | OsPhase::Trial
        | OsPhase::Committing
        | OsPhase::Done => phase(u.phase).to_owned(),
    }
}

/// A phase in one word.
fn phase(phase: OsPhase) -> &'static str {
    match phase {
        OsPhase::Waiting => "waiting",
        OsPhase::Preflight => "preflight",
        OsPhase::Snapshot => "snapshot",
        OsPhase::Applying => "applying",
        OsPhase::Armed => "armed",
        OsPhase::Trial => "trial",
        OsPhase::Committing => "committing",
        OsPhase::Done => "done",
    }
}
