//! The main containers of an app whose init containers have completed: start, restart with back-off, probe.

use std::sync::Arc;

use bramble_contracts::v1::{Phase, Restart, Status};

use super::{Facts, LOOK_AGAIN, Plan, last_line, stop_rule, target};
use crate::core::app::{App, Role};
use crate::core::have::{Have, Seen, SeenState};
use crate::core::memory::{CALM, CRASH_LOOP, Memory};
use crate::core::step::Step;

/// A container without a probe is proven when it stayed up this long.
pub(super) const SETTLED: std::time::Duration = std::time::Duration::from_secs(2);

/// Plans the main containers, whose init containers have completed.
pub(super) fn mains(app: &Arc<App>, have: &Have, memory: &Memory, facts: &Facts, plan: &mut Plan) {
    let hash = app.hash().to_string();
    let outlooks: Vec<Outlook> = app
        .mains()
        .iter()
        .filter_map(|c| have.find(Role::Main, &hash, &c.name))
        .map(|seen| main(app, seen, memory, facts, plan))
        .collect();
    // The least settled container decides how the app looks.
    let worst = outlooks.iter().copied().min().unwrap_or(Outlook::Starting);
    plan.phase = match worst {
        Outlook::Failed => Phase::Failed,
        Outlook::CrashLoop => Phase::CrashLoop,
        Outlook::Starting => Phase::Starting,
        Outlook::Probing => Phase::Probing,
        Outlook::Running => Phase::Running,
        Outlook::Completed => Phase::Completed,
    };
    if plan.status != Status::Failed && matches!(worst, Outlook::Running | Outlook::Completed) {
        plan.status = Status::Confirmed;
    }
}

/// How one main container looks; the order is the order of concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outlook {
    Failed,
    CrashLoop,
    Starting,
    Probing,
    Running,
    Completed,
}

fn main(app: &Arc<App>, seen: &Seen, memory: &Memory, facts: &Facts, plan: &mut Plan) -> Outlook {
    match seen.state {
        SeenState::Created => {
            plan.steps.push(Step::Start { target: target(seen), role: Role::Main });
            Outlook::Starting
        }
        SeenState::Exited => exited(app, seen, memory, facts, plan),
        SeenState::Running => running(app, seen, memory, facts, plan),
        SeenState::Paused => {
            plan.fail(format!(
                "container {} was paused by somebody; `podman unpause {}` lets it go on",
                seen.name, seen.podman_name
            ));
            Outlook::Failed
        }
        SeenState::Removing => {
            plan.steps.push(Step::Remove { target: target(seen) });
            Outlook::Starting
        }
        SeenState::Unsettled => {
            plan.wake_at(facts.now + LOOK_AGAIN);
            Outlook::Starting
        }
    }
}

fn exited(app: &App, seen: &Seen, memory: &Memory, facts: &Facts, plan: &mut Plan) -> Outlook {
    let Some(crash) = memory.crash(&seen.name) else {
        if seen.exit_code == 0 || app.restart(&seen.name) != Restart::Never {
            return Outlook::Completed;
        }
        let end = last_line(&seen.last_lines);
        plan.fail(format!(
            "container {} ended with exit code {}, and its restart policy is never{end}",
            seen.name, seen.exit_code
        ));
        return Outlook::Failed;
    };
    let looping = crash.count >= CRASH_LOOP;
    let killed = if crash.oom_killed { " (out of memory)" } else { "" };
    let mut text = format!("container {} ended with exit code {}{killed}", seen.name, crash.exit_code);
    if crash.next > facts.now {
        let wait = (crash.next - facts.now).as_secs().max(1);
        text.push_str(&format!(", {} times in a row; next start in {wait} s", crash.count));
        plan.wake_at(crash.next);
    } else {
        plan.steps.push(Step::Start { target: target(seen), role: Role::Main });
    }
    text.push_str(&last_line(&crash.last_lines));
    if looping {
        plan.fail(format!("crash loop: {text}"));
        return Outlook::CrashLoop;
    }
    if plan.reason.is_empty() {
        plan.reason = text;
    }
    Outlook::Starting
}

fn running(app: &Arc<App>, seen: &Seen, memory: &Memory, facts: &Facts, plan: &mut Plan) -> Outlook {
    let up = memory.up_for(&seen.name, facts.now);
    let crashed = memory.crash(&seen.name).filter(|crash| crash.count >= CRASH_LOOP);
    if let (Some(crash), Some(up)) = (crashed, up)
        && up < CALM
    {
        plan.wake_at(facts.now + (CALM - up));
        let end = last_line(&crash.last_lines);
        plan.fail(format!(
            "crash loop: container {} ended with exit code {} {} times in a row; started again{end}",
            seen.name, crash.exit_code, crash.count
        ));
    }
    if app.probe(&seen.name).is_some() {
        return probing(app, seen, memory, facts, plan);
    }
    match up {
        Some(up) if up < SETTLED => {
            plan.wake_at(facts.now + (SETTLED - up));
            Outlook::Starting
        }
        Some(_) | None => Outlook::Running,
    }
}

fn probing(app: &Arc<App>, seen: &Seen, memory: &Memory, facts: &Facts, plan: &mut Plan) -> Outlook {
    let Some(probe) = app.probe(&seen.name) else { return Outlook::Running };
    let state = memory.probe(&seen.name).cloned().unwrap_or_default();
    // A starting app is asked more often than the interval says, so there time counts, not tries.
    let patience = probe.interval.duration() * u32::from(probe.failures);
    let too_often = match memory.up_for(&seen.name, facts.now) {
        Some(up) if !state.passed => state.failures > 0 && up >= patience,
        Some(_) | None => state.failures >= u32::from(probe.failures),
    };
    if state.failures > 0 {
        let check = probe.check().map_or_else(String::new, |check| format!("{check} "));
        let text =
            format!("probe of container {} failed {} times: {check}{}", seen.name, state.failures, state.last_error);
        if too_often {
            plan.fail(text);
        } else if plan.reason.is_empty() {
            plan.reason = text;
        }
    }
    if too_often && state.passed {
        // It was healthy once and is not any more: a restart is what heals.
        plan.steps.push(Step::Stop { targets: vec![target(seen)], rule: stop_rule(app) });
        return Outlook::Starting;
    }
    let step = Step::Probe { app: Arc::clone(app), target: target(seen) };
    if !memory.is_busy(&step.background_key().unwrap_or_default()) {
        if state.next <= facts.now {
            plan.steps.push(step);
        } else {
            plan.wake_at(state.next);
        }
    }
    if state.passed { Outlook::Running } else { Outlook::Probing }
}
