//! Start first: the new containers are made, started and proven beside the old ones, then the host ports are led to them
//! in one transaction, then the old ones are retired.
//!
//! The old spec stays in charge, and is kept alive, until the new one is proven and the ports lead to it. Whether ports
//! lead where they should is convergent state like everything else: it is looked at and put right in every pass, for
//! whatever handover. A change of `handover` alone replaces nothing: it says how the next replacement goes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::v1::{Handover, Phase, Status};

use super::mains::SETTLED;
use super::waits::may_adopt;
use super::{Facts, LOOK_AGAIN, Plan, is_up, prepare, stop_rule, target, toward};
use crate::core::app::{App, Role};
use crate::core::have::{Have, Seen, SeenState};
use crate::core::mapping::{Address, Mapping, Publisher, Wanted, wanted};
use crate::core::memory::Memory;
use crate::core::step::{Listeners, RETIRE, Step, Target};

/// Whether `want` can run beside `current`. Otherwise the old one stops first, whatever is wanted: what it holds, the
/// device's own ports or a volume that one of the two writes, cannot be shared.
pub(super) fn overlaps(want: &App, current: &App) -> bool {
    want.lifecycle().handover == Handover::StartFirst
        && !want.host_network()
        && !current.host_network()
        && !writes_what_the_other_uses(want, current)
        && !writes_what_the_other_uses(current, want)
}

fn writes_what_the_other_uses(writer: &App, other: &App) -> bool {
    let used: BTreeSet<&Name> = other.volumes().map(|volume| &volume.name).collect();
    writer.volumes().any(|volume| !volume.read_only && used.contains(&volume.name))
}

/// Whether a spec was started: from then on what is of other specs waits until the ports lead here.
pub(super) fn has_begun(app: &App, have: &Have) -> bool {
    have.of(Role::Main, &app.hash().to_string()).any(|seen| seen.state != SeenState::Created)
}

/// Brings `want` up beside `current`, which stays in charge until the ports lead to the new one.
pub(super) fn upgrade(
    want: &Arc<App>,
    current: &Arc<App>,
    have: &Have,
    memory: &Memory,
    trial: &Memory,
    facts: &Facts,
) -> Plan {
    let hash = want.hash().to_string();
    let (new, old) = have.split(&hash);
    let routes = wanted(want, &new);
    // Ports led to the new one only because it was proven; that is not forgotten with the agent's memory.
    let switched = matches!(&routes, Wanted::Routes(mapping, _) if have.mapping.as_ref() == Some(mapping));
    let mut plan = toward(current, &old, memory, facts);
    if !switched {
        follow(current, &old, facts, &mut plan);
    }
    let mut next = Plan::new(Status::Staged, Phase::Preparing);
    if memory.is_busy(RETIRE) && new.ours.iter().any(is_up) {
        // A newer edit wants back what is just being stopped: it is started again once it has ended.
        next.wake_at(facts.now + LOOK_AGAIN);
    } else if prepare(want, &new, memory, facts, &mut next) && (switched || may_adopt(want, facts, &mut next)) {
        next = toward(want, &new, trial, facts);
        let young = youngest(want, trial, facts).filter(|up| *up < SETTLED);
        if switched || (next.status == Status::Confirmed && young.is_none()) {
            switch(want, &routes, have, facts, &mut next);
        } else if let (Some(up), Status::Confirmed) = (young, next.status) {
            // A probe that passed once is not enough to let go of what runs.
            next.wake_at(facts.now + (SETTLED - up));
            (next.status, next.phase) = (Status::Trial, Phase::Probing);
        }
    }
    if let Some(trouble) = trial.trouble(&hash) {
        next.fail(trouble.message.clone());
    }
    if next.status == Status::Failed && old.of(Role::Main, &current.hash().to_string()).any(is_up) {
        next.reason.push_str(&format!(" (meanwhile revision {} runs on)", current.revision()));
    }
    plan.beside = next.steps;
    (plan.status, plan.phase, plan.reason) = (next.status, next.phase, next.reason);
    if let Some(wake) = next.wake {
        plan.wake_at(wake);
    }
    plan
}

/// How long the main that was started last has been up.
fn youngest(app: &App, memory: &Memory, facts: &Facts) -> Option<Duration> {
    app.mains().iter().filter_map(|c| memory.up_for(&c.name, facts.now)).min()
}

/// The new one is proven: the ports are led to it, and it takes charge.
fn switch(want: &Arc<App>, routes: &Wanted, have: &Have, facts: &Facts, next: &mut Plan) {
    next.status = Status::Trial;
    next.phase = Phase::Probing;
    match routes {
        Wanted::Routes(mapping, addresses) if have.mapping.as_ref() != Some(mapping) => {
            next.steps.push(map(want, mapping, addresses, have));
        }
        Wanted::Routes(..) | Wanted::Nothing | Wanted::Nowhere => {}
        Wanted::NotYet => return next.wake_at(facts.now + LOOK_AGAIN),
        Wanted::Impossible(why) => return next.fail(why),
    }
    next.steps.push(Step::Adopt { app: Arc::clone(want) });
}

/// Leads the host ports to the spec in charge, or nowhere when nothing runs behind them. After everything else: where ports
/// cannot be led, containers are looked after all the same.
pub(super) fn follow(app: &App, have: &Have, facts: &Facts, plan: &mut Plan) {
    match wanted(app, have) {
        Wanted::Routes(mapping, addresses) => {
            if have.mapping.as_ref() != Some(&mapping) {
                plan.steps.push(map(app, &mapping, &addresses, have));
                if plan.status == Status::Confirmed {
                    (plan.status, plan.phase) = (Status::Trial, Phase::Starting);
                }
            }
        }
        Wanted::NotYet => plan.wake_at(facts.now + LOOK_AGAIN),
        Wanted::Impossible(why) => plan.fail(why),
        Wanted::Nothing => {
            if have.mapping.is_some() {
                plan.steps.push(Step::Unmap { key: app.key().clone() });
            }
        }
        Wanted::Nowhere => {
            if have.mapping.as_ref().is_some_and(|mapping| !is_served(mapping, have)) {
                plan.steps.push(Step::Unmap { key: app.key().clone() });
            }
        }
    }
}

/// What is behind a mapping runs, of whatever spec.
fn is_served(mapping: &Mapping, have: &Have) -> bool {
    have.ours.iter().any(|seen| seen.state == SeenState::Running && mapping.leads_to(&seen.addresses))
}

fn map(app: &App, mapping: &Mapping, addresses: &[Address], have: &Have) -> Step {
    let alive: BTreeSet<IpAddr> = have.ours.iter().flat_map(|seen| &seen.addresses).map(|address| address.ip).collect();
    let before = have.mapping.iter().flat_map(|mapping| &mapping.routes).map(|route| route.to.ip());
    let published = |seen: &&Seen| is_up(seen) && seen.publisher == Publisher::Podman && seen.role != Role::Init;
    Step::Map {
        key: app.key().clone(),
        mapping: mapping.clone(),
        addresses: addresses.to_vec(),
        stale: before.filter(|ip| !alive.contains(ip)).collect(),
        listeners: if have.ours.iter().any(|seen| published(&seen)) { Listeners::Podman } else { Listeners::Nobody },
    }
}

/// Lets go of what was replaced: not before the ports lead elsewhere, connections first, then containers, pods last.
pub(super) fn retire(app: &App, leave: &[&Seen], have: &Have, memory: &Memory, facts: &Facts, plan: &mut Plan) {
    plan.phase = Phase::Stopping;
    if plan.status == Status::Confirmed {
        plan.status = Status::Trial;
    }
    if have.mapping.as_ref().is_some_and(|mapping| leave.iter().any(|seen| mapping.leads_to(&seen.addresses))) {
        return;
    }
    let containers = || leave.iter().filter(|seen| seen.role != Role::Pod);
    let up: Vec<Target> = containers().filter(|seen| is_up(seen)).map(|seen| target(seen)).collect();
    let ended = containers().filter(|seen| !is_up(seen));
    plan.steps.extend(ended.map(|seen| Step::Remove { target: target(seen) }));
    if up.is_empty() {
        let pods = leave.iter().filter(|seen| seen.role == Role::Pod);
        plan.steps.extend(pods.map(|seen| Step::RemovePod { target: target(seen) }));
        return;
    }
    let addresses = leave.iter().flat_map(|seen| &seen.addresses).map(|address| address.ip).collect();
    let step = Step::Retire { targets: up, addresses, rule: stop_rule(app) };
    if let Some(trouble) = memory.retire_trouble().filter(|trouble| trouble.step == step.to_string()) {
        plan.fail(trouble.message.clone());
        if trouble.next > facts.now {
            return plan.wake_at(trouble.next);
        }
    }
    if !memory.is_busy(RETIRE) {
        plan.steps.push(step);
    }
}
