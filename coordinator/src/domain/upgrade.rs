//! What the coordinator says to the two agents of an upgrade, out of what is stored and heard alone.
//!
//! Decides: when a new agent is confirmed, when the old one is told to stop, and when a release is given up. Nothing is
//! remembered between two looks, so a coordinator that has just started says the same.
//! Deliberately does not: send (`background::upgrade`), nor say who gets which release (`rollout`).

use bramble_contracts::{
    SessionId,
    api::{Connection, DeviceState},
    bytes::Sha256,
    id::DeviceId,
    v1::{Health, Status},
    v2::{AgentWish, DesiredDocument, Report, UpgradePhase, UpgradeReport, UpgradeWord},
};

use super::{
    fleet::{Beat, Seen},
    liveness,
    rollout::{Before, Subject},
    view::Lens,
};

/// A word, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// The run of the agent.
    pub session: SessionId,
    /// What.
    pub word: UpgradeWord,
}

/// What is to be said to an agent of this device now, if anything. It is said until it is heard.
pub fn say(lens: &Lens<'_>, id: &DeviceId) -> Option<Say> {
    let seen = lens.fleet.device(id);
    let (report, document) = (seen.report()?, seen.desired()?);
    let upgrade = report.program.upgrade.as_ref()?;
    if seen.record()?.state != DeviceState::Active || !lens.fleet.waits_for().is_empty() {
        return None;
    }
    match upgrade.status {
        Status::Confirmed => retire(lens, &seen, report),
        Status::Staged | Status::Trial => match wish(document, upgrade) {
            Some(wish) => {
                let is_due = upgrade.phase == UpgradePhase::Trial && lacks(lens, id).is_none();
                is_due.then(|| to(report, UpgradeWord::Confirm { release_seq: wish.release_seq }))
            }
            None => abort(lens, &seen, report, upgrade),
        },
        Status::Failed | Status::RolledBack => None,
    }
}

fn to(report: &Report, word: UpgradeWord) -> Say {
    Say { session: report.session, word }
}

/// The wish that this upgrade follows, as long as it is still wished.
fn wish<'a>(document: &'a DesiredDocument, upgrade: &UpgradeReport) -> Option<&'a AgentWish> {
    document.agent.as_ref().filter(|wish| (wish.manifest, wish.attempt) == (upgrade.manifest, upgrade.attempt))
}

fn is_heard(lens: &Lens<'_>, beat: &Beat) -> bool {
    liveness::judge(beat.heard, lens.fleet.listening(), lens.now.mono_ms, lens.timeout_ms) == Connection::Online
}

/// What a new agent on trial lacks to be confirmed, in words; none when it lacks nothing.
pub fn lacks(lens: &Lens<'_>, id: &DeviceId) -> Option<String> {
    let seen = lens.fleet.device(id);
    let (Some(report), Some(document)) = (seen.report(), seen.desired()) else {
        return Some("nothing is known of it".to_owned());
    };
    let Some((upgrade, wish)) = report.program.upgrade.as_ref().and_then(|u| Some((u, wish(document, u)?))) else {
        return Some("it is not wished any more".to_owned());
    };
    let beat = seen.beats.into_iter().flatten().find(|beat| beat.heartbeat.session == report.session);
    if !beat.is_some_and(|beat| is_heard(lens, beat) && beat.heartbeat.version == wish.version) {
        return Some("no heartbeat of the new agent has come".to_owned());
    }
    if (report.agent, report.program.release_seq) != (upgrade.version, wish.release_seq) {
        return Some("it is not the new agent that reports".to_owned());
    }
    if report.generation != document.generation {
        return Some(format!("it acts on generation {}, the newest is {}", report.generation, document.generation));
    }
    let before = before(lens, id, &wish.manifest);
    match report.health {
        Health::Healthy => {}
        Health::Unknown => return Some("it does not know yet how its apps are".to_owned()),
        // It was in trouble before, and each app is looked at below.
        Health::Progressing | Health::Degraded if is_sick(before.health) => {}
        Health::Progressing => return Some("work is under way on it".to_owned()),
        Health::Degraded => return Some("its health is degraded, and was not before".to_owned()),
    }
    document.apps.iter().find_map(|want| {
        let metadata = &want.deployment.metadata;
        let key = format!("{}.{}", metadata.tenant, metadata.name);
        let app = report.apps.iter().find(|app| (&app.uid, app.revision) == (&want.uid, want.revision));
        match app.map(|app| app.status) {
            Some(Status::Confirmed) => None,
            Some(_) if before.troubled.contains(&key) => None,
            Some(_) => Some(format!("app {} is not as it was before", metadata.name)),
            None => Some(format!("it says nothing of app {} yet", metadata.name)),
        }
    })
}

fn is_sick(health: Health) -> bool {
    match health {
        Health::Progressing | Health::Degraded => true,
        Health::Unknown | Health::Healthy => false,
    }
}

/// How the device was before, as the newest rollout of this release wrote it down.
fn before(lens: &Lens<'_>, id: &DeviceId, manifest: &Sha256) -> Before {
    let of_it = lens.fleet.rollouts.readable().filter(|(_, _, r)| match &r.subject {
        Subject::Agent(agent) => agent.manifest == *manifest && r.devices.contains_key(id),
        Subject::Deployment(_) => false,
    });
    let newest = of_it.max_by(|(_, _, a), (_, _, b)| a.age().cmp(&b.age()));
    newest.and_then(|(_, _, r)| r.devices.get(id)).map(|m| m.before.clone()).unwrap_or_default()
}

/// Another agent is confirmed: whoever beats beside it is told to stop.
fn retire(lens: &Lens<'_>, seen: &Seen<'_>, report: &Report) -> Option<Say> {
    let mut beats = seen.beats.into_iter().flatten();
    let acts = beats.clone().find(|beat| beat.heartbeat.session == report.session)?;
    let other = beats.find(|beat| beat.heartbeat.session != report.session)?;
    // Never the only one.
    let both = is_heard(lens, acts) && is_heard(lens, other) && report.instance != other.heartbeat.instance;
    both.then_some(Say { session: other.heartbeat.session, word: UpgradeWord::Retire })
}

/// It is not wished any more, by anybody: whoever acts gives it up.
fn abort(lens: &Lens<'_>, seen: &Seen<'_>, report: &Report, upgrade: &UpgradeReport) -> Option<Say> {
    let acts = seen.beats.into_iter().flatten().find(|beat| beat.heartbeat.session == report.session)?;
    let in_cutover = match upgrade.phase {
        UpgradePhase::CutoverReady | UpgradePhase::Trial => true,
        // Over, or so far from a cutover that its newest document is enough.
        UpgradePhase::Stopping | UpgradePhase::Done => return None,
        UpgradePhase::Waiting | UpgradePhase::Draining | UpgradePhase::Staging | UpgradePhase::Verifying => false,
    };
    let has_heard = seen.desired().is_some_and(|document| report.generation >= document.generation);
    if !is_heard(lens, acts) || !(in_cutover || has_heard) {
        return None;
    }
    let release_seq = release_seq(lens, report, upgrade)?;
    let why = match seen.desired().and_then(|document| document.agent.as_ref()) {
        Some(other) if other.manifest != upgrade.manifest => format!("release {} is wished instead", other.version),
        Some(other) => format!("attempt {} is wished instead", other.attempt),
        None => "its rollout was aborted".to_owned(),
    };
    Some(to(report, UpgradeWord::Abort { release_seq, why }))
}

fn release_seq(lens: &Lens<'_>, report: &Report, upgrade: &UpgradeReport) -> Option<u64> {
    let published = lens.fleet.releases.now().by_manifest(&upgrade.manifest).map(|release| release.release_seq);
    let rolled_out = || {
        lens.fleet.rollouts.readable().find_map(|(_, _, r)| match &r.subject {
            Subject::Agent(agent) if agent.manifest == upgrade.manifest => Some(agent.release_seq),
            Subject::Agent(_) | Subject::Deployment(_) => None,
        })
    };
    // On trial it is the new one that reports.
    let own = || (report.agent == upgrade.version).then_some(report.program.release_seq);
    published.or_else(rolled_out).or_else(own)
}
