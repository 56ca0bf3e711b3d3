//! An app's way to the spec that is wanted, stage by stage: where it is, how long each stage took, what failed.
//!
//! Decides which stage a plan is in, out of its phase and its first step, and keeps when each began and ended. It is
//! remembered for one run of the agent: what an earlier run did is shown as passed, without a time, and an app that was
//! settled before this agent came shows no stages at all. Does not decide what to do; `plan` does.
//!
//! The stages have no fixed order in time: a new container may be proven before the old one is stopped. Going back to a
//! stage (a crash, an image that vanished) begins that stage anew and forgets what came after it.

use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::smoke::{Check, CheckResult, CheckState, Suite};
use bramble_contracts::v1::{Phase, Probe, Status};
use bramble_contracts::v2::{Stage, StageName, StageState};

use super::app::{App, Role};
use super::have::{Have, SeenState};
use super::memory::Memory;
use super::plan::{Plan, last_line};
use super::report::cut;
use super::step::{Step, Target};

/// A sentence for people.
const DETAIL_BYTES_MAX: usize = 300;

/// All stages, in the order in which they are shown.
const ALL: [StageName; 6] = [
    StageName::Preparing,
    StageName::Stopping,
    StageName::Init,
    StageName::Starting,
    StageName::Probing,
    StageName::Running,
];

/// One stage that was entered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Visit {
    stage: StageName,
    since: Duration,
    /// When it was left; of the one that is open, when something about it changed last.
    until: Duration,
}

/// How the open stage stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    state: StageState,
    detail: String,
}

/// Whether this run of the agent has seen all of the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Begun {
    /// An earlier run did a part of it.
    #[default]
    Before,
    /// From its first stage on.
    Here,
}

/// The way of one app, as far as this agent has walked it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    hash: String,
    begun: Begun,
    /// In the order in which they were entered; the last one is open.
    visits: Vec<Visit>,
    standing: Option<Standing>,
    /// Stages that are not on the way of this app.
    left_out: Vec<StageName>,
    /// Something of another spec runs and has to be stopped yet.
    old_runs: bool,
}

impl Walk {
    /// Takes in one plan, and what it was made of.
    pub fn saw(
        &mut self,
        want: Option<&App>,
        current: Option<&App>,
        have: &Have,
        memory: &Memory,
        plan: &Plan,
        now: Duration,
    ) {
        let Some(app) = want else {
            // It is on its way out: no way to a spec.
            *self = Self::default();
            return;
        };
        let stage = stage(app, current, have, plan);
        let hash = app.hash().to_string();
        let adopted = current.is_some_and(|current| current.hash() == app.hash());
        if self.hash != hash {
            let begun = if adopted { Begun::Before } else { Begun::Here };
            *self = Self { hash, begun, ..Self::default() };
        }
        let standing = standing(app, stage, have, memory, plan);
        if self.visits.is_empty() && standing.state == StageState::Passed {
            return;
        }
        self.left_out = left_out(app);
        self.old_runs = have.ours.iter().any(|seen| {
            seen.role == Role::Main
                && seen.hash != self.hash
                && matches!(seen.state, SeenState::Running | SeenState::Paused | SeenState::Unsettled)
        });
        self.enter(stage, now);
        if self.standing.as_ref() != Some(&standing) {
            self.standing = Some(standing);
            if let Some(open) = self.visits.last_mut() {
                open.until = now;
            }
        }
    }

    fn enter(&mut self, stage: StageName, now: Duration) {
        let open = self.visits.last_mut().map(|open| {
            if open.stage != stage {
                open.until = now;
            }
            open.stage
        });
        if open == Some(stage) {
            return;
        }
        match self.visits.iter().position(|visit| visit.stage == stage) {
            Some(again) => self.visits.truncate(again),
            // The old one may be stopped when the new one is proven; everything else comes in the order of its name.
            None if stage == StageName::Stopping && open != Some(StageName::Running) => {}
            None => self.visits.retain(|visit| visit.stage < stage),
        }
        self.visits.push(Visit { stage, since: now, until: now });
        self.standing = None;
    }

    /// The pipeline; empty when this agent has not walked it.
    pub fn stages(&self) -> Vec<Stage> {
        let (Some(open), Some(standing)) = (self.visits.last(), &self.standing) else { return Vec::new() };
        let one = |name: StageName| {
            let visit = self.visits.iter().find(|visit| visit.stage == name);
            // How long it has been running is no part of the way there.
            let took = visit.filter(|_| name != StageName::Running);
            let took_ms = took.and_then(|v| u64::try_from(v.until.saturating_sub(v.since).as_millis()).ok());
            if name == open.stage {
                let detail = cut(&standing.detail, DETAIL_BYTES_MAX);
                return Stage { name, state: standing.state, took_ms, detail };
            }
            let state = if visit.is_some() { StageState::Passed } else { self.not_entered(name, open.stage) };
            Stage { name, state, took_ms, detail: String::new() }
        };
        ALL.into_iter().map(one).collect()
    }

    fn not_entered(&self, name: StageName, open: StageName) -> StageState {
        if self.left_out.contains(&name) {
            return StageState::Skipped;
        }
        if name == StageName::Stopping && self.old_runs {
            return StageState::Waiting;
        }
        match self.begun {
            Begun::Here if name < open || name == StageName::Stopping => StageState::Skipped,
            Begun::Before if name < open => StageState::Passed,
            Begun::Here | Begun::Before => StageState::Waiting,
        }
    }
}

/// What an app without init containers or probes never goes through.
fn left_out(app: &App) -> Vec<StageName> {
    let init = app.inits().is_empty().then_some(StageName::Init);
    let probing = app.mains().iter().all(|main| main.probe.is_none()).then_some(StageName::Probing);
    init.into_iter().chain(probing).collect()
}

/// Which stage the plan is in.
fn stage(app: &App, current: Option<&App>, have: &Have, plan: &Plan) -> StageName {
    if current.is_none_or(|current| current.hash() != app.hash()) {
        // Beside the old one it may have come further than that.
        return match plan.phase {
            Phase::Starting | Phase::CrashLoop => by_step(app, have, &plan.beside),
            Phase::Probing => StageName::Probing,
            Phase::Preparing
            | Phase::Stopping
            | Phase::Running
            | Phase::Completed
            | Phase::Failed
            | Phase::Waiting
            | Phase::Removing => StageName::Preparing,
        };
    }
    match plan.phase {
        Phase::Preparing => StageName::Preparing,
        Phase::Stopping | Phase::Removing => StageName::Stopping,
        Phase::Probing => StageName::Probing,
        Phase::Running | Phase::Completed => StageName::Running,
        Phase::Starting | Phase::Waiting | Phase::CrashLoop | Phase::Failed => by_step(app, have, &plan.steps),
    }
}

/// A phase may be several stages: what is done next tells which.
fn by_step(app: &App, have: &Have, steps: &[Step]) -> StageName {
    let hash = app.hash().to_string();
    match steps.iter().find(|step| step.background_key().is_none()) {
        Some(Step::Adopt { .. } | Step::CreatePod { .. }) => StageName::Preparing,
        Some(Step::Create { role, .. } | Step::Start { role, .. }) if *role == Role::Init => StageName::Init,
        Some(Step::Create { .. }) => StageName::Preparing,
        Some(Step::Expire { .. }) => StageName::Init,
        Some(Step::Start { .. } | Step::Stop { .. } | Step::Map { .. } | Step::Unmap { .. }) => StageName::Starting,
        Some(Step::Retire { .. }) => StageName::Stopping,
        Some(Step::Remove { target } | Step::RemovePod { target }) => removal(have, &hash, target),
        Some(Step::Pull { .. } | Step::Examine { .. } | Step::Probe { .. } | Step::Forget { .. }) | None => {
            if inits_pending(app, have, &hash) {
                StageName::Init
            } else {
                StageName::Starting
            }
        }
    }
}

/// What goes is the old one's, a failed init container, or what has to be made anew.
fn removal(have: &Have, hash: &str, target: &Target) -> StageName {
    let seen = have.ours.iter().find(|seen| seen.id == target.id);
    match seen.map(|seen| (seen.hash == hash, seen.role)) {
        Some((true, Role::Init)) => StageName::Init,
        Some((true, Role::Main | Role::Pod)) => StageName::Preparing,
        Some((false, _)) | None => StageName::Stopping,
    }
}

/// No main was started yet, and an init container has not completed.
fn inits_pending(app: &App, have: &Have, hash: &str) -> bool {
    let fresh = have.of(Role::Main, hash).all(|seen| seen.state == SeenState::Created);
    let complete = |name| {
        let seen = have.find(Role::Init, hash, name);
        seen.is_some_and(|seen| seen.state == SeenState::Exited && seen.exit_code == 0)
    };
    fresh && !app.inits().iter().all(|init| complete(&init.name))
}

fn standing(app: &App, stage: StageName, have: &Have, memory: &Memory, plan: &Plan) -> Standing {
    let state = match plan.status {
        Status::Failed | Status::RolledBack => StageState::Failed,
        Status::Confirmed => return Standing { state: StageState::Passed, detail: String::new() },
        Status::Staged | Status::Trial => StageState::Active,
    };
    let answers = match stage {
        StageName::Starting | StageName::Probing | StageName::Running => suite(app, have, memory),
        StageName::Preparing | StageName::Stopping | StageName::Init => Suite::new(""),
    };
    let detail = answers.judge().err().map_or_else(|| plan.reason.clone(), ToString::to_string);
    Standing { state, detail }
}

/// The smoke checks of an app, container by container: is it ready, and does its probe pass?
pub fn suite(app: &App, have: &Have, memory: &Memory) -> Suite {
    let mut suite = Suite::new(app.key().name.as_str());
    for main in app.mains() {
        let ready = ready(app, &main.name, have, memory);
        let asked = ready.state == CheckState::Passed;
        suite.checks.push(ready);
        let Some(check) = main.probe.as_ref().and_then(Probe::check) else { continue };
        suite.checks.push(match memory.probe(&main.name).filter(|_| asked) {
            Some(state) if state.failures > 0 => CheckResult::of(check, Err(state.last_error.clone())),
            Some(state) if state.passed => CheckResult::of(check, Ok("is healthy".into())),
            Some(_) | None => CheckResult::new(check, CheckState::NotAsked, ""),
        });
    }
    suite
}

fn ready(app: &App, name: &Name, have: &Have, memory: &Memory) -> CheckResult {
    let check = Check::ContainerReady { container: name.to_string() };
    let hash = app.hash().to_string();
    let words = match have.find(Role::Main, &hash, name).map(|seen| (seen, seen.state)) {
        Some((_, SeenState::Running)) => Ok("runs".to_owned()),
        Some((_, SeenState::Paused)) => Err("was paused by somebody".to_owned()),
        Some((seen, SeenState::Exited)) => {
            let memory_limit = if seen.oom_killed { " (out of memory)" } else { "" };
            let failed = seen.exit_code != 0 || memory.crash(name).is_some();
            let last = last_line(&seen.last_lines);
            if failed {
                Err(format!("ended with exit code {}{memory_limit}{last}", seen.exit_code))
            } else {
                Ok("has ended".to_owned())
            }
        }
        Some((_, SeenState::Created | SeenState::Removing | SeenState::Unsettled)) | None => {
            return CheckResult::new(check, CheckState::NotAsked, "");
        }
    };
    CheckResult::of(check, words)
}

#[cfg(test)]
mod tests {
    use StageName::{Init, Preparing, Probing, Running, Starting, Stopping};

    use super::*;

    fn walked(begun: Begun, stages: &[StageName]) -> Vec<(StageName, StageState, Option<u64>)> {
        let mut walk = Walk { begun, ..Walk::default() };
        for (second, stage) in (0..).zip(stages) {
            walk.enter(*stage, Duration::from_secs(second));
            walk.standing = Some(Standing { state: StageState::Active, detail: String::new() });
        }
        walk.stages().into_iter().map(|s| (s.name, s.state, s.took_ms)).collect()
    }

    #[test]
    fn the_old_one_may_be_stopped_last() {
        use StageState::{Active, Passed, Skipped, Waiting};
        let one = Some(1000);
        assert_eq!(
            walked(Begun::Here, &[Preparing, Starting, Probing, Stopping]),
            [
                (Preparing, Passed, one),
                (Stopping, Active, Some(0)),
                (Init, Waiting, None),
                (Starting, Passed, one),
                (Probing, Passed, one),
                (Running, Waiting, None)
            ]
        );
        assert_eq!(
            walked(Begun::Here, &[Preparing, Starting, Running, Starting]),
            [
                (Preparing, Passed, one),
                (Stopping, Skipped, None),
                (Init, Skipped, None),
                (Starting, Active, Some(0)),
                (Probing, Waiting, None),
                (Running, Waiting, None)
            ]
        );
    }

    #[test]
    fn what_an_earlier_run_did_has_no_time() {
        use StageState::{Active, Passed, Waiting};
        for way in [&[Starting][..], &[Probing, Running, Starting], &[Probing, Starting]] {
            assert_eq!(
                walked(Begun::Before, way),
                [
                    (Preparing, Passed, None),
                    (Stopping, Passed, None),
                    (Init, Passed, None),
                    (Starting, Active, Some(0)),
                    (Probing, Waiting, None),
                    (Running, Waiting, None)
                ],
                "{way:?}"
            );
        }
    }
}
