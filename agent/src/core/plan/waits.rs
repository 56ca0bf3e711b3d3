//! Dependencies: which starts wait, for what, and how an app stands towards those that wait for it.
//!
//! Decides that every start waits, the first one as well as one after a crash or a reboot, and that a change waits before
//! the old containers are stopped. Nothing that runs is ever stopped for the sake of a dependency, and nothing is removed
//! later because of one.

use std::collections::BTreeMap;
use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::bytes::Sha256;
use bramble_contracts::v1::{DependencyCondition, Phase, Status};

use super::mains::SETTLED;
use super::{Facts, Plan, outdated};
use crate::core::app::{App, AppKey, Role};
use crate::core::have::{Have, SeenState};
use crate::core::memory::{CALM, CRASH_LOOP, Memory};
use crate::core::report::cut;
use crate::core::step::Step;

/// Of what a failed neighbour says, in the words of one that waits for it.
const TROUBLE_BYTES_MAX: usize = 200;

/// How far an app, or one of its main containers, has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Not looked at yet, or it cannot be looked at.
    #[default]
    Unknown,
    /// Not started since the boot, or about to be made anew.
    Down,
    /// It was started; whether it is well is not proven, or it is not.
    Started,
    /// It runs: its probe passes, or it has none and stays up.
    Healthy,
    /// It ended with exit code 0 and is not started again.
    Completed,
}

impl Standing {
    fn meets(self, condition: DependencyCondition) -> bool {
        match condition {
            DependencyCondition::Started => self >= Self::Started,
            DependencyCondition::Healthy => self == Self::Healthy,
            DependencyCondition::Completed => self == Self::Completed,
        }
    }
}

/// A wanted app, as the others on the device see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Of the spec in charge.
    pub standing: Standing,
    /// Why it failed, in words; empty when it did not.
    pub trouble: String,
    /// The spec in charge, if any.
    pub spec: Option<Sha256>,
    /// The spec that is wanted.
    pub wanted: Option<Sha256>,
}

impl Neighbour {
    /// Its own change is under way, and has not failed.
    fn changes(&self) -> bool {
        self.spec != self.wanted && self.trouble.is_empty()
    }
}

/// Wanted apps; one that is absent is not wanted on this device.
pub type Neighbours = BTreeMap<AppKey, Neighbour>;

/// Says how an app stands: its spec in charge, with the newest policies, and the plan that was made for it.
pub fn neighbour(current: Option<&App>, have: &Have, memory: &Memory, facts: &Facts, plan: &Plan) -> Neighbour {
    let standing = current.map_or(Standing::Down, |app| standing(app, have, memory, facts));
    let failed = plan.status == Status::Failed;
    let trouble = if failed { format!("failed: {}", cut(&plan.reason, TROUBLE_BYTES_MAX)) } else { String::new() };
    Neighbour { standing, trouble, spec: current.map(App::hash), wanted: None }
}

fn standing(app: &App, have: &Have, memory: &Memory, facts: &Facts) -> Standing {
    let hash = app.hash().to_string();
    if outdated(app, have, facts).iter().any(|seen| seen.hash == hash) {
        return Standing::Down;
    }
    // Jobs that have ended leave what runs beside them as healthy as it is.
    app.mains().iter().map(|c| of(app, &c.name, have, memory, facts.now)).min().unwrap_or(Standing::Down)
}

/// How far one main container has come.
fn of(app: &App, name: &Name, have: &Have, memory: &Memory, now: Duration) -> Standing {
    let hash = app.hash().to_string();
    let Some(seen) = have.find(Role::Main, &hash, name) else { return Standing::Down };
    match seen.state {
        SeenState::Created | SeenState::Removing | SeenState::Unsettled => Standing::Down,
        SeenState::Paused => Standing::Started,
        SeenState::Exited if seen.exit_code == 0 && memory.crash(name).is_none() => Standing::Completed,
        SeenState::Exited => Standing::Started,
        SeenState::Running if is_healthy(app, name, memory, now) => Standing::Healthy,
        SeenState::Running => Standing::Started,
    }
}

fn is_healthy(app: &App, name: &Name, memory: &Memory, now: Duration) -> bool {
    if let Some(probe) = app.probe(name) {
        let state = memory.probe(name);
        return state.is_some_and(|state| state.passed && state.failures < u32::from(probe.failures));
    }
    let looping = memory.crash(name).is_some_and(|crash| crash.count >= CRASH_LOOP);
    memory.up_for(name, now).is_none_or(|up| up >= if looping { CALM } else { SETTLED })
}

/// May a new spec take charge? Until it may, the one before it runs on.
pub(super) fn may_adopt(app: &App, facts: &Facts, plan: &mut Plan) -> bool {
    let changing = app.dependencies().filter(|(key, _)| facts.neighbours.get(key).is_some_and(Neighbour::changes));
    let changing =
        changing.map(|(key, _)| format!("waits for the change of deployment {}, which comes first", key.name));
    let waits: Vec<String> = for_neighbours(app, facts).chain(changing).collect();
    if waits.is_empty() {
        return true;
    }
    plan.phase = Phase::Waiting;
    say(plan, &waits);
    false
}

/// Takes the starts out of the plan that have to wait, and says for what.
pub(super) fn hold(app: &App, have: &Have, memory: &Memory, facts: &Facts, plan: &mut Plan) {
    let outside: Vec<String> = for_neighbours(app, facts).collect();
    let (mut held, mut inside) = (false, Vec::new());
    plan.steps.retain(|step| {
        let Step::Start { target, role } = step else { return true };
        let before = inside.len();
        if *role == Role::Main {
            inside.extend(for_siblings(app, &target.name, have, memory, facts.now));
        }
        let waits = !outside.is_empty() || inside.len() > before;
        held |= waits;
        !waits
    });
    if !held {
        return;
    }
    if plan.phase == Phase::Starting {
        plan.phase = Phase::Waiting;
    }
    say(plan, &outside);
    say(plan, &inside);
}

fn say(plan: &mut Plan, waits: &[String]) {
    for text in waits {
        let comma = if plan.reason.is_empty() { "" } else { "; " };
        plan.reason.push_str(comma);
        plan.reason.push_str(text);
    }
}

/// What a deployment still waits for.
fn for_neighbours(app: &App, facts: &Facts) -> impl Iterator<Item = String> {
    app.dependencies().filter_map(|(key, condition)| {
        let waits = format!("waits for deployment {} {}", key.name, condition.words());
        match facts.neighbours.get(&key) {
            None => Some(format!("{waits}; {} is not wanted on this device", key.name)),
            Some(neighbour) if neighbour.standing.meets(condition) => None,
            Some(neighbour) if neighbour.trouble.is_empty() => Some(waits),
            Some(neighbour) => Some(format!("{waits} ({})", neighbour.trouble)),
        }
    })
}

/// What one main container still waits for in its own deployment.
fn for_siblings(app: &App, name: &Name, have: &Have, memory: &Memory, now: Duration) -> Vec<String> {
    let dependencies = app.main(name).into_iter().flat_map(|c| &c.depends_on);
    let unmet = dependencies.filter(|d| !of(app, &d.name, have, memory, now).meets(d.condition));
    unmet.map(|d| format!("container {name} waits for container {} {}", d.name, d.condition.words())).collect()
}
