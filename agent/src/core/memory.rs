//! What one run of the agent remembers of one app and may forget: crash counts, probe results, failed tries.
//!
//! Losing it costs nothing but patience: after a restart of the agent a crashed container is simply started at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::v1::{Probe, Restart};

use super::app::{App, Role};
use super::backoff::{RETRY, restart_delay};
use super::have::{Have, Seen, SeenState};
use super::heal::Healing;
use super::step::Step;

/// A container that stayed up this long starts counting crashes from one again.
pub const STABLE: Duration = Duration::from_secs(60);
/// A container that stayed up this long is out of its crash loop, as people see it.
pub const CALM: Duration = Duration::from_secs(10);
/// From so many crashes in a row on it is a crash loop.
pub const CRASH_LOOP: u32 = 3;

/// One run of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    id: String,
    up: bool,
    /// When this agent started it; `None` when it ran before this agent.
    pub since: Option<Duration>,
}

/// How a container ended, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// In a row.
    pub count: u32,
    /// When it may be started again.
    pub next: Duration,
    /// Exit code of the last.
    pub exit_code: i32,
    /// The kernel killed it for its memory.
    pub oom_killed: bool,
    /// Last lines of the last.
    pub last_lines: Vec<String>,
    /// It was killed because it took longer than this.
    pub expired: Option<Duration>,
}

/// What probes of one container said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeState {
    /// The probe that was asked: a changed one begins anew.
    asked: Option<Probe>,
    /// It passed at least once since the container started.
    pub passed: bool,
    /// Failures in a row.
    pub failures: u32,
    /// When to ask again.
    pub next: Duration,
    /// What the last failure said, so that it goes on where the check's name ends.
    pub last_error: String,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The step, as text.
    pub step: String,
    /// Of which spec.
    hash: String,
    /// In a row.
    pub count: u32,
    /// When to try again.
    pub next: Duration,
    /// What it said.
    pub message: String,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    hash: String,
    runs: BTreeMap<Name, Run>,
    crashes: BTreeMap<Name, Crash>,
    probes: BTreeMap<Name, ProbeState>,
    restarts: BTreeMap<Name, u32>,
    expired: BTreeMap<Name, Duration>,
    unhealthy: BTreeSet<Name>,
    trouble: Option<Trouble>,
    pulls: BTreeMap<String, Trouble>,
    retiring: Option<Trouble>,
    refreshed: BTreeSet<(String, String)>,
    busy: BTreeSet<String>,
    down_since: Option<Duration>,
    last_downtime_ms: Option<u64>,
    /// What was damaged, and what became of it.
    pub healing: Healing,
}

impl Memory {
    /// Takes in one look at the spec in charge.
    pub fn saw(&mut self, have: &Have, app: &App, now: Duration) {
        let hash = app.hash().to_string();
        if self.hash != hash {
            self.turn_to(hash.clone());
        }
        for seen in have.ours.iter().filter(|seen| seen.hash == hash && seen.role != Role::Pod) {
            match seen.state {
                SeenState::Running => self.saw_up(seen, app, now),
                SeenState::Exited => self.saw_down(seen, app, now),
                SeenState::Created | SeenState::Removing => {
                    self.runs.remove(&seen.name);
                }
                SeenState::Paused | SeenState::Unsettled => {}
            }
        }
        self.probes.retain(|name, state| state.asked.as_ref() == app.probe(name));
        let running = have.of(Role::Main, &hash).any(|seen| seen.state == SeenState::Running);
        if running && let Some(since) = self.down_since.take() {
            self.last_downtime_ms = u64::try_from(now.saturating_sub(since).as_millis()).ok();
        }
    }

    /// Another spec is in charge: its past is not this one's.
    fn turn_to(&mut self, hash: String) {
        let old = std::mem::take(self);
        *self = Self {
            hash,
            pulls: old.pulls,
            retiring: old.retiring,
            refreshed: old.refreshed,
            busy: old.busy,
            down_since: old.down_since,
            last_downtime_ms: old.last_downtime_ms,
            healing: old.healing.turned(),
            ..Self::default()
        };
    }

    fn saw_up(&mut self, seen: &Seen, app: &App, now: Duration) {
        let known = self.runs.get(&seen.name).is_some_and(|run| run.up && run.id == seen.id);
        if !known {
            // What ran before this agent counts as settled; an init container's time begins anew, so that it is bounded.
            let since = (seen.role == Role::Init).then_some(now);
            self.runs.insert(seen.name.clone(), Run { id: seen.id.clone(), up: true, since });
        }
        if seen.role == Role::Main && self.up_for(&seen.name, now).is_none_or(|up| up >= STABLE) {
            self.crashes.remove(&seen.name);
            self.healing.proven(app, &seen.name);
        }
    }

    fn saw_down(&mut self, seen: &Seen, app: &App, now: Duration) {
        let before = self.runs.get(&seen.name);
        if before.is_some_and(|run| !run.up && run.id == seen.id) {
            return;
        }
        let stable = before.is_none_or(|run| run.since.is_none_or(|since| now.saturating_sub(since) >= STABLE));
        self.runs.insert(seen.name.clone(), Run { id: seen.id.clone(), up: false, since: None });
        let expired = self.expired.remove(&seen.name);
        let unhealthy = self.unhealthy.remove(&seen.name);
        let failed = seen.exit_code != 0 || expired.is_some() || unhealthy;
        let counts = match seen.role {
            Role::Init | Role::Pod => failed,
            Role::Main => match app.restart(&seen.name) {
                Restart::Always => true,
                Restart::OnFailure => failed,
                Restart::Never => unhealthy,
            },
        };
        if !counts {
            self.crashes.remove(&seen.name);
            return;
        }
        let past = self.crashes.get(&seen.name).map_or(0, |crash| crash.count);
        let count = if stable && seen.role == Role::Main { 1 } else { past.saturating_add(1) };
        let delay = match seen.role {
            Role::Init | Role::Pod => RETRY.delay(count),
            Role::Main => restart_delay(count),
        };
        let crash = Crash {
            count,
            next: now + delay,
            exit_code: seen.exit_code,
            oom_killed: seen.oom_killed,
            last_lines: seen.last_lines.clone(),
            expired,
        };
        self.probes.remove(&seen.name);
        if count >= CRASH_LOOP
            && let Some(view) = app.container(&seen.name)
        {
            self.healing.suspect(&app.reference(view.image));
        }
        self.crashes.insert(seen.name.clone(), crash);
    }

    /// A step of the foreground succeeded.
    pub fn done(&mut self, step: &Step, now: Duration) {
        if self.trouble.as_ref().is_some_and(|trouble| trouble.step == step.to_string()) {
            self.trouble = None;
        }
        match step {
            Step::Start { target, role } => {
                let again = self.runs.contains_key(&target.name);
                let run = Run { id: target.id.clone(), up: true, since: Some(now) };
                self.runs.insert(target.name.clone(), run);
                if again && *role == Role::Main {
                    *self.restarts.entry(target.name.clone()).or_default() += 1;
                }
                self.probes.remove(&target.name);
            }
            Step::Expire { target, after } => {
                self.expired.insert(target.name.clone(), *after);
            }
            Step::Stop { targets, .. } => {
                self.down_since.get_or_insert(now);
                for target in targets {
                    if self.probes.get(&target.name).is_some_and(|p| p.passed && p.failures > 0) {
                        self.unhealthy.insert(target.name.clone());
                    }
                }
            }
            Step::Pull { image, .. } => {
                self.pulls.remove(image);
            }
            Step::Adopt { .. }
            | Step::Examine { .. }
            | Step::Remove { .. }
            | Step::RemovePod { .. }
            | Step::Forget { .. }
            | Step::CreatePod { .. }
            | Step::Create { .. }
            | Step::Map { .. }
            | Step::Unmap { .. }
            | Step::Retire { .. }
            | Step::Probe { .. } => {}
        }
    }

    /// A step of the foreground failed.
    pub fn failed(&mut self, step: &Step, hash: &str, message: String, now: Duration) {
        let text = step.to_string();
        let past = self.trouble.as_ref().filter(|t| t.step == text && t.hash == hash).map_or(0, |t| t.count);
        let count = past.saturating_add(1);
        self.trouble =
            Some(Trouble { step: text, hash: hash.to_owned(), count, next: now + RETRY.delay(count), message });
    }

    /// A background step begins.
    pub fn begin(&mut self, key: String) {
        self.busy.insert(key);
    }

    /// A pull was given up, because nobody wants the image any more.
    pub fn cancelled(&mut self, image: &str) {
        self.busy.remove(&format!("pull {image}"));
        self.pulls.remove(image);
    }

    /// A background step ended.
    pub fn ended(&mut self, step: &Step, result: Result<(), String>, now: Duration) {
        if let Some(key) = step.background_key() {
            self.busy.remove(&key);
        }
        match step {
            Step::Pull { image, .. } => match result {
                Ok(()) => {
                    self.pulls.remove(image);
                    self.healing.mended(image);
                }
                Err(message) => {
                    let trouble = again(self.pulls.get(image), step, message, now);
                    self.pulls.insert(image.clone(), trouble);
                }
            },
            Step::Probe { app, target } => self.probed(app, target.name.clone(), result, now),
            Step::Retire { .. } => {
                self.retiring = result.err().map(|message| again(self.retiring.as_ref(), step, message, now));
            }
            Step::Adopt { .. }
            | Step::Examine { .. }
            | Step::Stop { .. }
            | Step::Expire { .. }
            | Step::Remove { .. }
            | Step::RemovePod { .. }
            | Step::Forget { .. }
            | Step::CreatePod { .. }
            | Step::Create { .. }
            | Step::Map { .. }
            | Step::Unmap { .. }
            | Step::Start { .. } => {}
        }
    }

    fn probed(&mut self, app: &App, name: Name, result: Result<(), String>, now: Duration) {
        let Some(probe) = app.probe(&name).filter(|_| app.hash().to_string() == self.hash) else { return };
        let state = self.probes.entry(name).or_default();
        state.asked = Some(probe.clone());
        match result {
            Ok(()) => {
                state.passed = true;
                state.failures = 0;
                state.last_error.clear();
                state.next = now + probe.interval.duration();
            }
            Err(message) => {
                state.failures = state.failures.saturating_add(1);
                state.last_error = message;
                // A starting app is asked more often, so that a quick one is seen to be quick.
                let quick = Duration::from_millis(100) * (1 << state.failures.min(10));
                let interval = probe.interval.duration();
                state.next = now + if state.passed { interval } else { interval.min(quick) };
            }
        }
    }

    /// A fresh pull of this image was tried for this spec, with whatever result.
    pub fn refreshed(&mut self, hash: &str, image: &str) {
        self.refreshed.insert((hash.to_owned(), image.to_owned()));
    }

    /// Was it?
    pub fn was_refreshed(&self, hash: &str, image: &str) -> bool {
        self.refreshed.contains(&(hash.to_owned(), image.to_owned()))
    }

    /// Is this background step under way?
    pub fn is_busy(&self, key: &str) -> bool {
        self.busy.contains(key)
    }

    /// Why pulls of this image fail.
    pub fn pull_trouble(&self, image: &str) -> Option<&Trouble> {
        self.pulls.get(image)
    }

    /// Why containers that were replaced do not go.
    pub fn retire_trouble(&self) -> Option<&Trouble> {
        self.retiring.as_ref()
    }

    /// The step that failed last, while that spec is the one wanted.
    pub fn trouble(&self, hash: &str) -> Option<&Trouble> {
        self.trouble.as_ref().filter(|trouble| trouble.hash == hash)
    }

    /// Forgets a trouble whose step is not planned any more.
    pub fn forget_trouble(&mut self, steps: &[Step]) {
        let planned = |trouble: &Trouble| steps.iter().any(|step| step.to_string() == trouble.step);
        if self.trouble.as_ref().is_some_and(|trouble| !planned(trouble)) {
            self.trouble = None;
        }
    }

    /// How a container ended.
    pub fn crash(&self, name: &Name) -> Option<&Crash> {
        self.crashes.get(name)
    }

    /// What probes said.
    pub fn probe(&self, name: &Name) -> Option<&ProbeState> {
        self.probes.get(name)
    }

    /// How often this agent started it again.
    pub fn restarts(&self, name: &Name) -> u32 {
        self.restarts.get(name).copied().unwrap_or_default()
    }

    /// How long it has been up, when this agent started it.
    pub fn up_for(&self, name: &Name, now: Duration) -> Option<Duration> {
        let run = self.runs.get(name).filter(|run| run.up)?;
        run.since.map(|since| now.saturating_sub(since))
    }

    /// What was learnt of a spec that ran beside the one in charge, now that it is in charge itself. The app was not down.
    pub fn promote(&mut self, trial: Self) {
        let past = std::mem::replace(self, trial);
        self.retiring = past.retiring;
        self.busy.extend(past.busy);
        self.healing.inherit(&past.healing);
        self.last_downtime_ms = Some(0);
    }

    /// How long the app was down when it was last replaced.
    pub fn last_downtime_ms(&self) -> Option<u64> {
        self.last_downtime_ms
    }
}

/// A background step that failed, perhaps once more.
fn again(past: Option<&Trouble>, step: &Step, message: String, now: Duration) -> Trouble {
    let count = past.map_or(0, |trouble| trouble.count).saturating_add(1);
    Trouble { step: step.to_string(), hash: String::new(), count, next: now + RETRY.delay(count), message }
}
