//! What to do next for one app: `plan(want, current, have, memory, facts) -> steps`, pure and level-triggered.
//!
//! The supervisor performs the first step and plans again. Order: prepare the new spec while the old one runs, adopt it,
//! stop the old one gracefully, remove it, run the init containers in order, start the mains, probe them. `waits` says
//! which of it waits for others. With start first, all of that happens beside the old one.
//! Absence of an app in a newer document is the only thing that removes it.

mod handover;
mod mains;
#[cfg(test)]
mod tests;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::v1::{ImagePullPolicy, Phase, Status};

use crate::core::app::{App, AppKey, Image, Role};
use crate::core::have::{Have, Seen, SeenState};
use crate::core::heal::Mending;
use crate::core::memory::{Crash, Memory};
use crate::core::step::{AfterGrace, Device, PullNeed, Step, StopRule, Target};

pub use waits::{Neighbour, Neighbours, Standing, neighbour};

/// Inputs that are neither wanted nor observed.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Which app.
    pub key: AppKey,
    /// Changes with every boot.
    pub boot: String,
    /// Time since boot.
    pub now: Duration,
    /// Fresh random text, for whatever is made next.
    pub nonce: String,
    /// Who we are, for the environment of containers.
    pub device: Device,
    /// How the apps stand that this one depends on.
    pub neighbours: Neighbours,
}

/// What to do, and how it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In order; each background step may begin at once, of the others only the first, and starts of mains together.
    pub steps: Vec<Step>,
    /// Likewise, for a spec that is brought up beside the one in charge.
    pub beside: Vec<Step>,
    /// For people.
    pub status: Status,
    /// The detail.
    pub phase: Phase,
    /// In words; empty when all is well.
    pub reason: String,
    /// Uptime at which to look again, if nothing happens before.
    pub wake: Option<Duration>,
    /// Nothing of the app is left.
    pub gone: bool,
}

const LOOK_AGAIN: Duration = Duration::from_secs(1);
const IMAGE_LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Plan {
    fn new(status: Status, phase: Phase) -> Self {
        Self { steps: Vec::new(), beside: Vec::new(), status, phase, reason: String::new(), wake: None, gone: false }
    }

    fn wake_at(&mut self, at: Duration) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn fail(&mut self, reason: impl Into<String>) {
        self.status = Status::Failed;
        if self.reason.is_empty() {
            self.reason = reason.into();
        }
    }
}

/// Plans one app. `memory` is of the spec in charge, `trial` of the wanted one, while that runs beside it.
pub fn plan(
    want: Option<&Arc<App>>,
    current: Option<&Arc<App>>,
    have: &Have,
    memory: &Memory,
    trial: &Memory,
    facts: &Facts,
) -> Plan {
    let Some(want) = want else { return remove(current, have, facts) };
    let in_charge = current.filter(|current| current.hash() == want.hash());
    if in_charge.is_some() {
        // Same containers: policies that may change while they run come from the newest document.
        let mut plan = converge(want, have, memory, facts);
        if let Some(why) = want.refused() {
            plan.reason.clear();
            plan.fail(why);
        }
        return plan;
    }
    if let Some(current) = current
        && want.refused().is_none()
        && handover::overlaps(want, current)
    {
        return handover::upgrade(want, current, have, memory, trial, facts);
    }
    let mut plan = match current {
        Some(current) => converge(current, have, memory, facts),
        None => Plan::new(Status::Staged, Phase::Preparing),
    };
    plan.status = Status::Staged;
    plan.phase = Phase::Preparing;
    plan.reason.clear();
    if let Some(why) = want.refused() {
        plan.phase = Phase::Failed;
        plan.fail(why);
        return plan;
    }
    if prepare(want, have, memory, facts, &mut plan) && waits::may_adopt(want, facts, &mut plan) {
        plan.steps = vec![Step::Adopt { app: Arc::clone(want) }];
    }
    if let Some(trouble) = memory.trouble("") {
        plan.fail(trouble.message.clone());
    }
    plan
}

/// Adds what the images need. True when they are all there.
fn prepare(app: &App, have: &Have, memory: &Memory, facts: &Facts, plan: &mut Plan) -> bool {
    let hash = app.hash().to_string();
    let mut ready = true;
    for image in app.images() {
        let there = have.images.get(&image.reference);
        let need = match (there, image.policy) {
            _ if let Some(mending) = memory.healing.mending(&image, facts.now) => mend(&image, mending, plan),
            (Some(seen), _) if image.pinned_id.is_some_and(|pin| pin.to_string() != seen.id) => {
                plan.fail(format!(
                    "image {} on this device has id {}, the rollout pins another; load the image that was rolled out",
                    image.reference, seen.id
                ));
                None
            }
            (Some(_), ImagePullPolicy::Always) if !image.local && !memory.was_refreshed(&hash, &image.reference) => {
                Some(PullNeed::Refresh)
            }
            (Some(_), _) => continue,
            (None, _) if image.local => {
                plan.fail(format!(
                    "image {} is not on this device, and localhost/ images are never pulled; load it into the agent's store",
                    image.reference
                ));
                None
            }
            (None, ImagePullPolicy::Never) => {
                plan.fail(format!(
                    "image {} is not on this device, and imagePullPolicy is never; load it or allow pulling",
                    image.reference
                ));
                None
            }
            (None, ImagePullPolicy::IfNotPresent | ImagePullPolicy::Always) => Some(PullNeed::Missing),
        };
        ready = false;
        let Some(need) = need else {
            plan.wake_at(facts.now + IMAGE_LOOK_AGAIN);
            continue;
        };
        let step = Step::Pull { image: image.reference.clone(), need };
        if let Some(trouble) = memory.pull_trouble(&image.reference) {
            plan.fail(format!("{} (try {})", trouble.message, trouble.count));
            if trouble.next > facts.now {
                plan.wake_at(trouble.next);
                continue;
            }
        }
        if !memory.is_busy(&step.background_key().unwrap_or_default()) {
            plan.steps.insert(0, step);
        }
    }
    ready
}

/// What a damaged image needs; nothing while it may not be mended, and then people are told why.
fn mend(image: &Image, mending: Mending<'_>, plan: &mut Plan) -> Option<PullNeed> {
    let damaged = |why: &str| format!("image {} in the agent's store is damaged ({why})", image.reference);
    match mending {
        Mending::Now => return Some(PullNeed::Repair),
        Mending::At(at, why) => {
            plan.wake_at(at);
            plan.fail(format!("{}; it was pulled again and is still damaged, so that waits a while", damaged(why)));
        }
        Mending::ByHand(why) => plan.fail(format!(
            "{}, and it is never pulled: remove it (`podman rmi --force {}` on the agent's store) and load it again",
            damaged(why),
            image.reference
        )),
        Mending::GivenUp(why) => {
            plan.fail(format!("{}, also after it was pulled again and again; look at the disk", damaged(why)));
        }
    }
    None
}

/// Brings the spec in charge to life, or keeps it alive, with its host ports.
fn converge(app: &Arc<App>, have: &Have, memory: &Memory, facts: &Facts) -> Plan {
    let mut plan = toward(app, have, memory, facts);
    handover::follow(app, have, facts, &mut plan);
    if let Some(trouble) = memory.trouble(&app.hash().to_string()) {
        plan.fail(trouble.message.clone());
    }
    plan
}

/// Brings a spec to life, or keeps it alive.
///
/// New containers are made while the old ones still run, so that an app is down only between stop and start.
fn toward(app: &Arc<App>, have: &Have, memory: &Memory, facts: &Facts) -> Plan {
    let hash = app.hash().to_string();
    let mut plan = Plan::new(Status::Trial, Phase::Starting);
    let leave = outdated(app, have, facts);
    let remake = was_lost(have, &hash) || leave.iter().any(|seen| seen.hash == hash);
    if remake {
        // Another spec runs on until this one is made.
        let own: Vec<&Seen> = leave.iter().copied().filter(|seen| seen.hash == hash).collect();
        clear(&own, &stop_rule(app), &mut plan);
    } else if create_missing(app, have, memory, facts, &mut plan) {
        if leave.is_empty() {
            bring_up(app, have, memory, facts, &mut plan);
        } else if handover::has_begun(app, have) {
            bring_up(app, have, memory, facts, &mut plan);
            handover::retire(app, &leave, have, memory, facts, &mut plan);
        } else {
            clear(&leave, &stop_rule(app), &mut plan);
        }
    } else if leave.iter().any(|seen| is_up(seen)) {
        plan.phase = Phase::Preparing;
    }
    plan.steps.extend(forget(have));
    let exams = memory.healing.exams(facts.now).map(|image| Step::Examine { image: image.clone() });
    plan.steps.extend(exams.filter(|step| !memory.is_busy(&step.background_key().unwrap_or_default())));
    plan
}

/// A part that was made and is not there any more, because somebody removed it; one whose storage is damaged; or a pod
/// without a network: it lost it, which its members cannot get back, or was never given one, as its making was cut off.
fn was_lost(have: &Have, hash: &str) -> bool {
    let broken = have.of(Role::Pod, hash).any(|pod| pod.state == SeenState::Exited);
    let damaged = have.ours.iter().any(|seen| seen.hash == hash && have.wounds.containers.contains_key(&seen.id));
    broken || damaged || have.lost.iter().any(|(_, i)| i.hash == hash && i.role != Role::Init && i.id.is_some())
}

/// Taking out of the record what is gone; never urgent.
fn forget(have: &Have) -> Option<Step> {
    let (names, nonces): (Vec<Name>, Vec<String>) =
        have.lost.iter().map(|(nonce, i)| (i.name.clone(), nonce.clone())).unzip();
    (!nonces.is_empty()).then_some(Step::Forget { names, nonces })
}

/// Makes the pod and the mains that are missing. True when they are all there.
fn create_missing(app: &Arc<App>, have: &Have, memory: &Memory, facts: &Facts, plan: &mut Plan) -> bool {
    let hash = app.hash().to_string();
    let mains = app.mains().iter().map(|c| &c.name);
    let missing: Vec<&Name> = mains.filter(|name| have.find(Role::Main, &hash, name).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    // Images can vanish between adoption and creation: a repaired store, an image removed by hand.
    if !prepare(app, have, memory, facts, plan) {
        plan.phase = Phase::Preparing;
        return false;
    }
    let mut pod = None;
    if app.needs_pod() {
        let Some(seen) = have.of(Role::Pod, &hash).next() else {
            plan.steps.push(Step::CreatePod { app: Arc::clone(app), nonce: facts.nonce.clone() });
            return false;
        };
        pod = Some(seen.id.clone());
    }
    plan.steps.extend(missing.iter().map(|name| create(app, name, Role::Main, pod.clone(), facts)));
    false
}

/// Runs the init containers, unless a main was started since, and then the mains; what depends on others waits for them.
fn bring_up(app: &Arc<App>, have: &Have, memory: &Memory, facts: &Facts, plan: &mut Plan) {
    let hash = app.hash().to_string();
    let fresh = have.of(Role::Main, &hash).all(|seen| seen.state == SeenState::Created);
    if !fresh || inits(app, have, memory, facts, plan) {
        mains::mains(app, have, memory, facts, plan);
    }
    waits::hold(app, have, memory, facts, plan);
}

/// What has to go before the spec can be started: other specs, an earlier boot, and all of it when a part was lost.
fn outdated<'a>(app: &App, have: &'a Have, facts: &Facts) -> Vec<&'a Seen> {
    let hash = app.hash().to_string();
    let lost = was_lost(have, &hash);
    let alive = have.of(Role::Main, &hash).any(|seen| matches!(seen.state, SeenState::Running | SeenState::Paused));
    have.ours.iter().filter(|seen| seen.hash != hash || lost || (!alive && seen.boot != facts.boot)).collect()
}

/// Stop what runs, then remove all of it, the pod last.
fn clear(leave: &[&Seen], rule: &StopRule, plan: &mut Plan) {
    let containers = || leave.iter().filter(|seen| seen.role != Role::Pod);
    let running: Vec<Target> = containers().filter(|seen| is_up(seen)).map(|seen| target(seen)).collect();
    if !running.is_empty() {
        plan.phase = Phase::Stopping;
        plan.steps.push(Step::Stop { targets: running, rule: rule.clone() });
    }
    plan.steps.extend(containers().map(|seen| Step::Remove { target: target(seen) }));
    let pods = leave.iter().filter(|seen| seen.role == Role::Pod);
    plan.steps.extend(pods.map(|seen| Step::RemovePod { target: target(seen) }));
}

fn is_up(seen: &Seen) -> bool {
    match seen.state {
        SeenState::Running | SeenState::Paused | SeenState::Unsettled => true,
        SeenState::Created | SeenState::Exited | SeenState::Removing => false,
    }
}

fn target(seen: &Seen) -> Target {
    Target { name: seen.name.clone(), id: seen.id.clone(), nonce: seen.nonce.clone() }
}

fn stop_rule(app: &App) -> StopRule {
    let lifecycle = app.lifecycle();
    StopRule {
        signal: lifecycle.stop_signal.as_str().to_owned(),
        grace: lifecycle.grace_period.duration(),
        then: if lifecycle.sigkill_fallback { AfterGrace::Kill } else { AfterGrace::GiveUp },
    }
}

/// Plans the init containers. True when all have completed.
fn inits(app: &Arc<App>, have: &Have, memory: &Memory, facts: &Facts, plan: &mut Plan) -> bool {
    let hash = app.hash().to_string();
    for init in app.inits() {
        if let Some(crash) = memory.crash(&init.name) {
            plan.fail(describe_init(&init.name, crash));
        }
        let Some(seen) = have.find(Role::Init, &hash, &init.name) else {
            plan.steps.push(create(app, &init.name, Role::Init, None, facts));
            return false;
        };
        let timeout = init.timeout.duration();
        match seen.state {
            SeenState::Exited if seen.exit_code == 0 && memory.crash(&init.name).is_none() => {}
            SeenState::Exited => {
                let next = memory.crash(&init.name).map_or(facts.now, |crash| crash.next);
                if next <= facts.now {
                    plan.steps.push(Step::Remove { target: target(seen) });
                } else {
                    plan.phase = Phase::CrashLoop;
                    plan.wake_at(next);
                }
                return false;
            }
            SeenState::Removing => {
                plan.steps.push(Step::Remove { target: target(seen) });
                return false;
            }
            SeenState::Created => {
                plan.steps.push(Step::Start { target: target(seen), role: Role::Init });
                return false;
            }
            SeenState::Running | SeenState::Paused => {
                let up = memory.up_for(&init.name, facts.now);
                let deadline = facts.now.saturating_sub(up.unwrap_or_default()) + timeout;
                if up.is_some_and(|up| up >= timeout) {
                    plan.steps.push(Step::Expire { target: target(seen), after: timeout });
                } else {
                    plan.wake_at(deadline);
                }
                return false;
            }
            SeenState::Unsettled => {
                plan.wake_at(facts.now + LOOK_AGAIN);
                return false;
            }
        }
    }
    true
}

fn describe_init(name: &Name, crash: &Crash) -> String {
    let how = match crash.expired {
        Some(after) => format!("did not end within {} s and was killed", after.as_secs()),
        None => format!("ended with exit code {}", crash.exit_code),
    };
    let tries = if crash.count > 1 { format!(" ({} times)", crash.count) } else { String::new() };
    format!("init container {name} {how}{tries}{}", last_line(&crash.last_lines))
}

/// The last thing a container said, to be put after what became of it.
pub(super) fn last_line(lines: &[String]) -> String {
    lines.iter().rev().find(|line| !line.trim().is_empty()).map_or(String::new(), |line| format!(": {line}"))
}

fn create(app: &Arc<App>, name: &Name, role: Role, pod: Option<String>, facts: &Facts) -> Step {
    let (device, nonce) = (facts.device.clone(), facts.nonce.clone());
    Step::Create { app: Arc::clone(app), name: name.clone(), role, pod, nonce, device }
}

/// Takes an app down that a newer document does not list. Its volumes stay.
fn remove(current: Option<&Arc<App>>, have: &Have, facts: &Facts) -> Plan {
    let mut plan = Plan::new(Status::Trial, Phase::Removing);
    let rule = current.map_or_else(
        || StopRule { signal: "SIGTERM".into(), grace: Duration::from_secs(30), then: AfterGrace::Kill },
        |app| stop_rule(app),
    );
    let all: Vec<&Seen> = have.ours.iter().collect();
    clear(&all, &rule, &mut plan);
    if have.mapping.is_some() {
        plan.steps.push(Step::Unmap { key: facts.key.clone() });
    }
    plan.phase = Phase::Removing;
    plan.steps.extend(forget(have));
    plan.gone = plan.steps.is_empty();
    plan
}
