//! What is the matter with one app on a device, out of what the device reported: a sentence, evidence, the next step.
//!
//! Decides which app of several matters most, and the words for every phase and status there is. Says nothing of the
//! device's connection or document: those come first, and are decided before.

use bramble_contracts::{
    api::Explanation,
    id::{Name, Revision},
    v1::{ContainerReport, ContainerRole, ContainerState, DesiredApp, Phase, Status},
    v2::{AppReport, Stage, StageName, StageState},
};

use super::super::compose;

/// One app that is not as it should be.
enum Trouble<'a> {
    /// It reports, and is not confirmed.
    Reported(&'a AppReport),
    /// It is wanted in this revision, and the device has not said anything about it.
    Silent(&'a Name, Revision),
    /// It is there and not wanted any more.
    Leaving(&'a AppReport),
}

impl Trouble<'_> {
    fn name(&self) -> &Name {
        match self {
            Self::Reported(app) | Self::Leaving(app) => &app.deployment,
            Self::Silent(name, _) => name,
        }
    }

    /// The lower the more it matters: what is down comes before what runs in an older revision.
    fn rank(&self) -> u8 {
        match self {
            Self::Reported(app) => match (app.status, app.running_revision) {
                (Status::Failed | Status::RolledBack, None) => 0,
                (Status::Failed | Status::RolledBack, Some(_)) => 1,
                // One that waits is seldom the cause.
                (Status::Trial | Status::Staged | Status::Confirmed, _) if app.phase == Phase::Waiting => 4,
                (Status::Trial, _) => 2,
                (Status::Staged | Status::Confirmed, _) => 3,
            },
            Self::Silent(..) => 5,
            Self::Leaving(_) => 6,
        }
    }

    /// In few words, for a list.
    fn brief(&self) -> String {
        match self {
            Self::Reported(app) => {
                let (words, _) = words(app);
                format!("{} {words}", app.deployment)
            }
            Self::Silent(name, _) => format!("{name} has not been begun with"),
            Self::Leaving(app) => format!("{} is being removed", app.deployment),
        }
    }
}

/// Explains the app that matters most of those that are not as they should be, and names the others.
pub(super) fn explain(
    device: &Name,
    wanted: &[DesiredApp],
    reported: &[AppReport],
    only: Option<&Name>,
) -> Option<Explanation> {
    let asked = |name: &Name| only.is_none_or(|only| only == name);
    let mut found: Vec<Trouble<'_>> = vec![];
    for app in reported.iter().filter(|app| asked(&app.deployment)) {
        let want = wanted.iter().find(|want| compose::app_key(want) == (&app.tenant, &app.deployment));
        match want {
            None => found.push(Trouble::Leaving(app)),
            Some(want) if want.revision != app.revision || want.uid != app.uid => {
                found.push(Trouble::Silent(&app.deployment, want.revision));
            }
            Some(_) if app.status != Status::Confirmed => found.push(Trouble::Reported(app)),
            Some(_) => {}
        }
    }
    for want in wanted.iter().filter(|want| asked(&want.deployment.metadata.name)) {
        let (tenant, name) = compose::app_key(want);
        if !reported.iter().any(|app| (&app.tenant, &app.deployment) == (tenant, name)) {
            found.push(Trouble::Silent(name, want.revision));
        }
    }
    found.sort_by(|a, b| (a.rank(), a.name()).cmp(&(b.rank(), b.name())));
    let (first, others) = found.split_first()?;
    let mut answer = one(device, first);
    if let Trouble::Reported(app) = first {
        answer.evidence.extend(neighbours(device, wanted, reported, app));
    }
    answer.evidence.extend(others.iter().map(|other| format!("also: {}", other.brief())));
    Some(answer)
}

fn one(device: &Name, trouble: &Trouble<'_>) -> Explanation {
    match trouble {
        Trouble::Reported(app) => reported(device, app),
        Trouble::Silent(name, revision) => super::answer(
            format!("{device} has the newest document and has not reported on revision {revision} of {name} yet."),
            vec![],
            "Ask again in a moment.",
        ),
        Trouble::Leaving(app) => super::answer(
            format!("{} is no longer wanted on {device} and is being removed.", app.deployment),
            vec![format!("phase {}", phase_word(app.phase))],
            "Wait for the grace period.",
        ),
    }
}

fn reported(device: &Name, app: &AppReport) -> Explanation {
    let (words, next) = words(app);
    let because = match app.reason.trim_end_matches('.') {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let sentence = format!("{} on {device} {words}{because}.", app.deployment);
    super::answer(sentence, evidence(app), next)
}

/// How the deployments are that an app waits for.
fn neighbours(device: &Name, wanted: &[DesiredApp], reported: &[AppReport], app: &AppReport) -> Vec<String> {
    if app.phase != Phase::Waiting {
        return vec![];
    }
    let wanted = |name: &Name| wanted.iter().find(|want| compose::app_key(want) == (&app.tenant, name));
    let depends = wanted(&app.deployment).map(|want| want.deployment.spec.depends_on.as_slice()).unwrap_or_default();
    let one = |name: &Name| match reported.iter().find(|a| (&a.tenant, &a.deployment) == (&app.tenant, name)) {
        Some(other) if other.reason.is_empty() => format!("deployment {name} is in phase {}", phase_word(other.phase)),
        Some(other) => format!("deployment {name} is in phase {}: {}", phase_word(other.phase), other.reason),
        None if wanted(name).is_some() => format!("deployment {name} is not reported yet"),
        None => format!("deployment {name} is not wanted on {device}"),
    };
    depends.iter().map(|d| one(&d.name)).collect()
}

/// What is known of an app, also of one that is as it should be.
pub(super) fn evidence(app: &AppReport) -> Vec<String> {
    let runs = match app.running_revision {
        Some(runs) if runs == app.revision => "it runs".to_owned(),
        Some(runs) => format!("revision {runs} runs meanwhile"),
        None => "nothing of it runs".to_owned(),
    };
    let mut evidence = vec![format!("phase {}, revision {}: {runs}", phase_word(app.phase), app.revision)];
    evidence.extend(open_stage(&app.stages).map(stage_words));
    if let Some(c) = culprit(app).filter(|_| app.status != Status::Confirmed) {
        evidence.push(container_words(c));
        evidence.extend(c.last_lines.iter().map(|line| format!("it printed: {line}")));
    }
    evidence.extend(app.last_downtime_ms.map(|ms| format!("it was down for {ms} ms at the last replacement")));
    evidence
}

/// The stage that is under way or failed.
fn open_stage(stages: &[Stage]) -> Option<&Stage> {
    stages.iter().find(|stage| matches!(stage.state, StageState::Active | StageState::Failed))
}

fn stage_words(stage: &Stage) -> String {
    let state = match stage.state {
        StageState::Failed => "failed",
        StageState::Active => "is under way",
        StageState::Waiting => "has not begun",
        StageState::Passed => "has passed",
        StageState::Skipped => "was not needed",
    };
    let took = stage.took_ms.filter(|ms| *ms > 0 && stage.state == StageState::Failed);
    let took = took.map(|ms| format!(", tried for {}.{} s", ms / 1000, ms % 1000 / 100)).unwrap_or_default();
    let detail = if stage.detail.is_empty() { String::new() } else { format!(": {}", stage.detail) };
    format!("stage {} {state}{took}{detail}", stage_word(stage.name))
}

/// The container that the trouble is about.
fn culprit(app: &AppReport) -> Option<&ContainerReport> {
    app.containers.iter().find(|c| troubled(c)).or_else(|| {
        let main = app.containers.iter().find(|c| c.role == ContainerRole::Main);
        main.or(app.containers.first())
    })
}

fn troubled(c: &ContainerReport) -> bool {
    c.exit_code.is_some_and(|code| code != 0) || c.oom_killed || is_sick(c) || !c.last_lines.is_empty()
}

/// A probe says nothing of one that was not started yet.
fn is_sick(c: &ContainerReport) -> bool {
    let started = !matches!(c.state, ContainerState::Missing | ContainerState::Created);
    c.healthy == Some(false) && started
}

/// What becomes of the app, and what to do: for every phase and status there is.
fn words(app: &AppReport) -> (String, &'static str) {
    let culprit = culprit(app);
    let main = culprit.map(|c| format!("container {}", c.name));
    // Named once: the reason that follows may do it.
    let main = main.filter(|name| !app.reason.contains(name));
    let (of, in_it) = match &main {
        Some(name) => (format!("the probe of {name}"), format!(" in {name}")),
        None => ("its probe".to_owned(), String::new()),
    };
    let it = main.map(|name| format!(" {name}")).unwrap_or_default();
    // An init container that is there and has not ended well holds everything up.
    let init =
        culprit.filter(|c| c.role == ContainerRole::Init && troubled(c)).map(|c| format!("init container {}", c.name));
    let init = init.map(|name| if app.reason.contains(&name) { "init container".to_owned() } else { name });
    let failed = match app.status {
        Status::Failed | Status::RolledBack => true,
        Status::Staged | Status::Trial | Status::Confirmed => false,
    };
    let unseen = |c: &ContainerReport| c.state == ContainerState::Unknown;
    if failed && app.phase != Phase::Failed && !app.containers.is_empty() && app.containers.iter().all(unseen) {
        return ("cannot be looked at".into(), "On the device: `bramble-agent check` tells whether Podman answers.");
    }
    let fix = "Correct the manifest and apply again.";
    let wait = "Ask again in a moment.";
    let output = "See the app's output with `bramble logs`; check the probe's port and path.";
    match (app.phase, init, failed) {
        (Phase::Preparing, _, true) => (
            "cannot be prepared".into(),
            "Correct the image in the manifest, or load it on the device; then apply again.",
        ),
        (Phase::Preparing, _, false) => (
            "is being prepared; its images are fetched".into(),
            "Wait; if it takes long, check the device's way to the registry.",
        ),
        (Phase::Stopping, _, true) => {
            ("cannot stop its old containers".into(), "Stop them by hand, or allow sigkillFallback.")
        }
        (Phase::Stopping, _, false) => ("is stopping its old containers".into(), "Wait for the grace period."),
        (Phase::Starting, Some(init), true) => (
            format!("cannot start, because {init} fails"),
            "Correct the init container and apply again; it must be idempotent.",
        ),
        (Phase::Starting, Some(init), false) => {
            (format!("waits for its {init}"), "See its output with `bramble logs`.")
        }
        (Phase::Starting, None, true) => (format!("cannot start{it}"), fix),
        (Phase::Starting, None, false) => (format!("is starting{it}"), wait),
        (Phase::Probing, _, true) => (format!("runs, and {of} fails"), output),
        (Phase::Probing, _, false) => (format!("runs, and {of} has not passed yet"), output),
        (Phase::CrashLoop, Some(init), _) => (
            format!("keeps failing in its {init}"),
            "Correct the init container and apply again; it must be idempotent.",
        ),
        (Phase::CrashLoop, None, _) => (
            format!("keeps stopping{in_it}"),
            "See its last output with `bramble logs`; correct the app and apply again.",
        ),
        (Phase::Failed, Some(init), _) => {
            (format!("failed in its {init}"), "Correct the init container and apply again; it must be idempotent.")
        }
        (Phase::Failed, None, _) => ("failed".into(), fix),
        (Phase::Running, _, true) => ("runs and is not well".into(), output),
        (Phase::Running, _, false) => ("runs and is not confirmed yet".into(), wait),
        (Phase::Completed, _, true) => ("has ended and is not well".into(), fix),
        (Phase::Completed, _, false) => ("has ended as it should".into(), "Nothing: it is not started again."),
        (Phase::Waiting, _, _) => {
            ("is held back".into(), "It goes on by itself; explain what it waits for, or apply that.")
        }
        (Phase::Removing, _, true) => ("cannot be removed".into(), "On the device: `journalctl -u bramble-agent`."),
        (Phase::Removing, _, false) => ("is being removed".into(), "Wait for the grace period."),
    }
}

/// The API's word for a phase.
pub(in crate::domain) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Preparing => "preparing",
        Phase::Stopping => "stopping",
        Phase::Starting => "starting",
        Phase::Probing => "probing",
        Phase::Running => "running",
        Phase::Completed => "completed",
        Phase::CrashLoop => "crashLoop",
        Phase::Failed => "failed",
        Phase::Removing => "removing",
        Phase::Waiting => "waiting",
    }
}

/// The API's word for a stage.
fn stage_word(stage: StageName) -> &'static str {
    match stage {
        StageName::Preparing => "preparing",
        StageName::Stopping => "stopping",
        StageName::Init => "init",
        StageName::Starting => "starting",
        StageName::Probing => "probing",
        StageName::Running => "running",
    }
}

fn container_words(c: &ContainerReport) -> String {
    let state = match (c.state, c.exit_code) {
        (ContainerState::Missing, _) => "is not there".to_owned(),
        (ContainerState::Created, _) => "was made and not started".to_owned(),
        (ContainerState::Running, None) => "runs".to_owned(),
        (ContainerState::Running, Some(code)) => format!("runs, after it ended with exit code {code}"),
        (ContainerState::Exited, Some(code)) => format!("ended with exit code {code}"),
        (ContainerState::Exited, None) => "has ended".to_owned(),
        (ContainerState::Unknown, _) => "is in an unknown state".to_owned(),
    };
    let again = match c.restarts {
        0 => String::new(),
        1 => ", was started again once".to_owned(),
        times => format!(", was started again {times} times"),
    };
    let memory = if c.oom_killed { ", was killed for its memory limit" } else { "" };
    let probe = if is_sick(c) { ", its probe does not pass" } else { "" };
    format!("container {} {state}{again}{memory}{probe}", c.name)
}

#[cfg(test)]
mod tests;
