//! How one app looks to people: plan, observation and memory folded into the wire's `AppReport`, bounded in size.

use bramble_contracts::Name;
use bramble_contracts::bytes::Sha256;
use bramble_contracts::v1::{ContainerReport, ContainerRole, ContainerState, Phase, Status};
use bramble_contracts::v2::{AppReport, StageState};

use super::app::{App, Role};
use super::have::{Have, Seen, SeenState};
use super::memory::Memory;
use super::plan::Plan;
use super::stages::Walk;

/// Last lines kept per container.
pub const LINES_MAX: usize = 20;
/// Their bytes, per container.
pub const LINES_BYTES_MAX: usize = 2048;
/// A sentence for people.
const REASON_BYTES_MAX: usize = 800;
/// All apps together; the rest of a device's report has the remainder of 64 KiB.
const REPORT_BYTES_MAX: usize = 48 * 1024;

/// Folds it.
pub fn compose(
    want: Option<&App>,
    current: Option<&App>,
    have: &Have,
    memory: &Memory,
    walk: &Walk,
    plan: &Plan,
) -> Option<AppReport> {
    let app = want.or(current)?;
    // Containers are shown of the spec in charge; before there is one, of the wanted one.
    let shown = current.unwrap_or(app);
    let hash = shown.hash().to_string();
    let one = |name: &Name, role: Role| container(name, role, have.find(role, &hash, name), shown, memory);
    let inits = shown.inits().iter().map(|c| one(&c.name, Role::Init));
    let mains = shown.mains().iter().map(|c| one(&c.name, Role::Main));
    let containers: Vec<ContainerReport> = inits.chain(mains).collect();
    let runs = serving(have, &hash);
    Some(AppReport {
        uid: app.uid().clone(),
        tenant: app.key().tenant.clone(),
        deployment: app.key().name.clone(),
        revision: app.revision(),
        running_revision: runs.map(|seen| running_revision(seen, want, current)),
        running_hash: runs.and_then(|seen| seen.hash.parse::<Sha256>().ok()),
        status: plan.status,
        phase: plan.phase,
        reason: cut(&plan.reason, REASON_BYTES_MAX),
        last_downtime_ms: memory.last_downtime_ms(),
        containers,
        stages: walk.stages(),
    })
}

/// A running main of the spec that serves: where host ports lead, else what is in charge, else whatever runs.
fn serving<'a>(have: &'a Have, in_charge: &str) -> Option<&'a Seen> {
    let running = || have.ours.iter().filter(|seen| seen.role == Role::Main && seen.state == SeenState::Running);
    let of = |hash: &str| running().find(|seen| seen.hash == hash);
    let mapped = have.mapping.as_ref().and_then(|mapping| of(&mapping.spec));
    mapped.or_else(|| of(in_charge)).or_else(|| running().next())
}

/// A revision that changes no container is running as soon as it is wanted.
fn running_revision(seen: &Seen, want: Option<&App>, current: Option<&App>) -> bramble_contracts::Revision {
    let same = |app: &&App| app.hash().to_string() == seen.hash;
    let newest = want.filter(same).or(current.filter(same)).map(App::revision);
    newest.unwrap_or(bramble_contracts::Revision(seen.revision))
}

/// A report for an app whose state cannot be read or observed: nothing is done, and it is said why.
pub fn blocked(app: &App, phase: Phase, reason: &str) -> AppReport {
    AppReport {
        uid: app.uid().clone(),
        tenant: app.key().tenant.clone(),
        deployment: app.key().name.clone(),
        revision: app.revision(),
        running_revision: None,
        running_hash: None,
        status: Status::Failed,
        phase,
        reason: cut(reason, REASON_BYTES_MAX),
        last_downtime_ms: None,
        containers: Vec::new(),
        stages: Vec::new(),
    }
}

/// A report for an app that cannot be looked at: what was known of it stays, marked as unknown.
pub fn unknown(app: &App, last: Option<AppReport>, reason: &str) -> AppReport {
    let phase = last.as_ref().map_or(Phase::Preparing, |last| last.phase);
    let mut report = blocked(app, phase, reason);
    if let Some(last) = last {
        report.running_revision = last.running_revision;
        report.running_hash = last.running_hash;
        report.last_downtime_ms = last.last_downtime_ms;
        report.containers = last.containers;
        report.containers.iter_mut().for_each(|container| container.state = ContainerState::Unknown);
    }
    report
}

fn container(name: &Name, role: Role, seen: Option<&Seen>, app: &App, memory: &Memory) -> ContainerReport {
    let crash = memory.crash(name);
    let exited = seen.filter(|seen| seen.state == SeenState::Exited);
    let lines = exited.map(|seen| seen.last_lines.as_slice()).filter(|lines| !lines.is_empty());
    let lines = lines.or(crash.map(|crash| crash.last_lines.as_slice())).unwrap_or_default();
    ContainerReport {
        name: name.clone(),
        role: match role {
            Role::Init => ContainerRole::Init,
            Role::Main | Role::Pod => ContainerRole::Main,
        },
        id: seen.map(|seen| seen.id.clone()).unwrap_or_default(),
        state: seen.map_or(ContainerState::Missing, |seen| match seen.state {
            SeenState::Created => ContainerState::Created,
            SeenState::Running => ContainerState::Running,
            SeenState::Exited => ContainerState::Exited,
            SeenState::Removing => ContainerState::Missing,
            SeenState::Paused | SeenState::Unsettled => ContainerState::Unknown,
        }),
        exit_code: exited.map(|seen| seen.exit_code).or(crash.map(|crash| crash.exit_code)),
        oom_killed: exited.is_some_and(|seen| seen.oom_killed) || crash.is_some_and(|crash| crash.oom_killed),
        restarts: memory.restarts(name),
        started_at_ms: seen.map_or(0, |seen| seen.started_at_ms),
        image_digest: seen.map(|seen| seen.image_id.clone()).unwrap_or_default(),
        healthy: app.probe(name).map(|probe| {
            let state = memory.probe(name);
            state.is_some_and(|state| state.passed && state.failures < u32::from(probe.failures))
        }),
        last_lines: last_lines(lines),
    }
}

/// The newest lines that fit.
fn last_lines(lines: &[String]) -> Vec<String> {
    let mut left = LINES_BYTES_MAX;
    let mut kept: Vec<String> = Vec::new();
    for line in lines.iter().rev().take(LINES_MAX) {
        if left == 0 {
            break;
        }
        let line = cut(line, left);
        left = left.saturating_sub(line.len() + 1);
        kept.push(line);
    }
    kept.reverse();
    kept
}

/// At most `bytes` bytes, at a character's edge.
pub fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes.saturating_sub(3);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// Keeps a device's report below the broker's limit: last lines go first, then the stages of what is well, then container
/// details, never an app's status or the stage that failed.
pub fn fit(mut apps: Vec<AppReport>) -> Vec<AppReport> {
    if size(&apps) <= REPORT_BYTES_MAX {
        return apps;
    }
    for keep in [5, 1, 0] {
        for container in apps.iter_mut().flat_map(|app| &mut app.containers) {
            let drop = container.last_lines.len().saturating_sub(keep);
            container.last_lines.drain(..drop);
        }
        if size(&apps) <= REPORT_BYTES_MAX {
            return apps;
        }
    }
    apps.iter_mut().filter(|app| app.status == Status::Confirmed).for_each(|app| app.stages.clear());
    if size(&apps) <= REPORT_BYTES_MAX {
        return apps;
    }
    for app in &mut apps {
        app.reason = cut(&app.reason, 120);
        app.stages.retain(|stage| stage.state == StageState::Failed);
        app.stages.iter_mut().for_each(|stage| stage.detail = cut(&stage.detail, 120));
        app.containers.clear();
    }
    apps
}

/// About as many bytes as postcard needs, never fewer.
fn size(apps: &[AppReport]) -> usize {
    let lines = |c: &ContainerReport| c.last_lines.iter().map(|line| line.len() + 3).sum::<usize>();
    let container = |c: &ContainerReport| 64 + c.name.as_str().len() + c.id.len() + c.image_digest.len() + lines(c);
    let stages = |a: &AppReport| a.stages.iter().map(|stage| 14 + stage.detail.len()).sum::<usize>();
    let app =
        |a: &AppReport| 160 + 63 * 2 + a.reason.len() + stages(a) + a.containers.iter().map(container).sum::<usize>();
    apps.iter().map(app).sum()
}

#[cfg(test)]
mod tests {
    use bramble_contracts::v2::{Stage, StageName};
    use bramble_contracts::{Revision, Tenant, Uid};

    use super::*;

    #[test]
    fn of_many_apps_the_stage_that_failed_is_kept() {
        let stage = |state, detail: &str| Stage {
            name: StageName::Probing,
            state,
            took_ms: Some(u64::MAX),
            detail: detail.to_owned(),
        };
        let app = |status| AppReport {
            uid: Uid::from_entropy([1; 13]),
            tenant: Tenant::default(),
            deployment: "web".parse().unwrap(),
            revision: Revision(1),
            running_revision: None,
            running_hash: None,
            status,
            phase: Phase::Probing,
            reason: "r".repeat(REASON_BYTES_MAX),
            last_downtime_ms: None,
            containers: vec![],
            stages: vec![stage(StageState::Passed, ""), stage(StageState::Failed, &"d".repeat(300))],
        };
        for (count, kept) in [(10, 2), (80, 1)] {
            let apps = fit((0..count).map(|_| app(Status::Failed)).collect());
            assert!(size(&apps) <= REPORT_BYTES_MAX, "{count} apps: {} bytes", size(&apps));
            assert!(
                apps.iter().all(|app| app.stages.len() == kept && app.stages[kept - 1].state == StageState::Failed)
            );
        }
        let well: Vec<AppReport> =
            (0..400).map(|_| AppReport { reason: String::new(), ..app(Status::Confirmed) }).collect();
        assert!(fit(well).iter().all(|app| app.stages.is_empty()));
    }
}
