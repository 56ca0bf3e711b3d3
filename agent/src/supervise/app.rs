//! One app's loop: look, plan, do one thing, look again. Level-triggered; every trigger only says "look".
//!
//! Apps never wait for each other: each has its own loop, and pulls and probes run beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::v2::AppReport;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::healing;
use super::host::Host;
use super::lanes::{Lane, Memories};
use super::ledger::Recall;
use super::streams::Known;
use crate::core::app::{App, AppKey, Role};
use crate::core::backoff::Backoff;
use crate::core::have::Have;
use crate::core::plan::{Facts, Neighbour, Neighbours, Plan, Standing, neighbour, plan};
use crate::core::record::{Instance, Record};
use crate::core::report::{compose, unknown};
use crate::core::stages::Walk;
use crate::core::step::{Device, Outcome, Step, StepError};

/// What is wanted of one app.
#[derive(Clone, Debug)]
pub(super) struct Want {
    /// The app; `None` when a newer document does not list it.
    pub(super) app: Option<Arc<App>>,
    /// Who we are.
    pub(super) device: Device,
}

/// News of one app.
#[derive(Debug)]
pub(super) struct News {
    pub(super) key: AppKey,
    /// `None`: nothing is left of it.
    pub(super) report: Option<AppReport>,
    /// How it stands, for those that depend on it.
    pub(super) neighbour: Neighbour,
    /// Ids of its containers, for logs and exec.
    pub(super) containers: Vec<Known>,
    /// What people should look at.
    pub(super) alarms: Vec<String>,
}

/// Without any trigger, an app is looked at this often.
const AUDIT: Duration = Duration::from_secs(300);
/// When the device cannot be looked at.
const BLIND: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// So many failed looks in a row are told.
const BLIND_TOLD: u32 = 3;
/// A step that succeeds so often in a row changes nothing.
const SAME_STEP_MAX: u32 = 5;

pub(super) struct AppTask<H: Host> {
    pub(super) host: Arc<H>,
    pub(super) key: AppKey,
    pub(super) want: watch::Receiver<Want>,
    pub(super) poke: Arc<Notify>,
    pub(super) news: mpsc::Sender<News>,
    neighbours: watch::Receiver<Arc<Neighbours>>,
    /// How the apps it depends on stood in the last pass; `None`: not wanted here.
    heard: BTreeMap<AppKey, Option<Neighbour>>,
    pub(super) record: Record,
    /// The record was lost and is made anew by the next look.
    from_labels: bool,
    memory: Memories,
    walk: Walk,
    background: JoinSet<(Step, Result<(), StepError>)>,
    pulls: BTreeMap<String, AbortHandle>,
    blind: u32,
    last_step: (String, u32),
    last: Option<AppReport>,
    told: Neighbour,
    /// The alarms that were told last.
    told_alarms: Vec<String>,
}

/// What to do after one pass.
enum Next {
    /// Again, at once.
    Now,
    /// When something happens, or after this.
    After(Duration),
}

impl<H: Host> AppTask<H> {
    pub(super) fn new(
        host: Arc<H>,
        recall: Recall,
        want: watch::Receiver<Want>,
        poke: Arc<Notify>,
        news: mpsc::Sender<News>,
        neighbours: watch::Receiver<Arc<Neighbours>>,
    ) -> Self {
        let (record, from_labels) = match recall {
            Recall::Known(record) => (*record, false),
            Recall::FromLabels(key) => (Record::new(key), true),
        };
        Self {
            host,
            key: record.key.clone(),
            want,
            poke,
            news,
            neighbours,
            heard: BTreeMap::new(),
            record,
            from_labels,
            memory: Memories::default(),
            walk: Walk::default(),
            background: JoinSet::new(),
            pulls: BTreeMap::new(),
            blind: 0,
            last_step: (String::new(), 0),
            last: None,
            told: Neighbour::default(),
            told_alarms: Vec::new(),
        }
    }

    /// Runs until nobody wants to hear of the app any more.
    pub(super) async fn run(mut self) {
        while self.want.has_changed().is_ok() {
            let want = self.want.borrow_and_update().clone();
            let pause = match self.pass(&want).await {
                Next::Now => Duration::ZERO,
                Next::After(pause) => pause,
            };
            if pause.is_zero() {
                while let Some(ended) = self.background.try_join_next() {
                    self.background_ended(ended);
                }
                continue;
            }
            tokio::select! {
                changed = self.want.changed() => if changed.is_err() { return },
                () = self.poke.notified() => {}
                () = moved(&mut self.neighbours, &self.heard) => {}
                Some(ended) = self.background.join_next() => self.background_ended(ended),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn pass(&mut self, want: &Want) -> Next {
        let current = self.record.current_app().map(Arc::new);
        let images = images(want.app.as_deref(), current.as_deref());
        self.cancel_pulls(&images);
        let observed = match self.host.observe(&self.key, &images).await {
            Ok(observed) => observed,
            Err(err) => return self.cannot_look(want, &err.to_string()).await,
        };
        if self.from_labels {
            let record = Record::rebuilt(self.key.clone(), &observed.seen);
            tracing::warn!(app = %self.key, containers = record.instances.len(), "a lost record is made anew");
            if let Err(err) = self.keep(record).await {
                return self.cannot_look(want, &err.to_string()).await;
            }
            self.from_labels = false;
        }
        self.blind = 0;
        let mut have = Have::sort(observed, &self.record);
        let now = self.host.now();
        let hash = current.as_deref().map(|app| app.hash().to_string()).unwrap_or_default();
        let trial_hash = want.app.as_deref().map(|app| app.hash().to_string()).unwrap_or_default();
        let trial = want.app.as_deref().filter(|_| trial_hash != hash);
        self.memory.saw(&have, in_charge(want, current.as_deref()), trial, now);
        healing::saw(&mut self.memory, &mut have, current.as_deref(), want.app.as_deref(), now);
        let facts = Facts {
            key: self.key.clone(),
            boot: self.host.boot(),
            now,
            nonce: self.host.nonce(),
            device: want.device.clone(),
            neighbours: self.listen(want, current.as_deref()),
        };
        let plan =
            plan(want.app.as_ref(), current.as_ref(), &have, &self.memory.in_charge, &self.memory.beside, &facts);
        if plan.gone {
            return self.gone().await;
        }
        let memory = self.memory.of(if trial_hash == hash { Lane::InCharge } else { Lane::Beside });
        self.walk.saw(want.app.as_deref(), current.as_deref(), &have, memory, &plan, now);
        self.publish(want, current.as_deref(), &have, &plan, &facts).await;
        self.memory.in_charge.forget_trouble(&plan.steps);
        self.memory.beside.forget_trouble(&plan.beside);
        let wake = plan.wake.into_iter().chain(healing::next(&self.memory, now)).min();
        let mut wait = wake.map_or(AUDIT, |wake| wake.saturating_sub(now)).min(AUDIT);
        let lanes = [(Lane::InCharge, hash, plan.steps), (Lane::Beside, trial_hash, plan.beside)];
        for (_, _, steps) in &lanes {
            for step in steps.iter().filter(|step| step.background_key().is_some()) {
                self.begin(step.clone());
            }
        }
        for (lane, hash, steps) in lanes {
            let foreground = together(steps);
            let Some(step) = foreground.first() else { continue };
            let trouble = self.memory.of(lane).trouble(&hash);
            if let Some(trouble) = trouble.filter(|trouble| trouble.step == step.to_string() && trouble.next > now) {
                wait = wait.min(trouble.next - now);
                continue;
            }
            if foreground.len() > 1 {
                self.start_together(lane, &foreground, &hash).await;
            } else {
                self.act(lane, &foreground[0], &hash, &facts).await;
            }
            return Next::Now;
        }
        self.last_step = (String::new(), 0);
        Next::After(wait.max(Duration::from_millis(1)))
    }

    /// How the apps stand now that this one depends on.
    fn listen(&mut self, want: &Want, current: Option<&App>) -> Neighbours {
        let all = Arc::clone(&self.neighbours.borrow_and_update());
        let keys = want.app.as_deref().into_iter().chain(current).flat_map(App::dependencies);
        self.heard = keys.map(|(key, _)| (key.clone(), all.get(&key).cloned())).collect();
        self.heard.iter().filter_map(|(key, one)| Some((key.clone(), one.clone()?))).collect()
    }

    /// Podman does not answer: what runs, runs on, and nothing is concluded. A short silence is not worth a word.
    async fn cannot_look(&mut self, want: &Want, why: &str) -> Next {
        self.blind += 1;
        tracing::warn!(app = %self.key, why, "cannot look at the app");
        if self.blind >= BLIND_TOLD
            && let Some(app) = want.app.as_deref()
        {
            let trouble = format!("what runs is unknown: {why}");
            let report = unknown(app, self.last.take(), &trouble);
            self.last = Some(report.clone());
            let spec = self.told.spec;
            self.told = Neighbour { standing: Standing::Unknown, trouble, spec, wanted: None };
            self.tell(Some(report), Vec::new(), Vec::new()).await;
        }
        Next::After(BLIND.delay(self.blind))
    }

    async fn gone(&mut self) -> Next {
        if let Err(err) = self.host.erase(&self.key).await {
            tracing::warn!(app = %self.key, %err, "cannot remove the record of a removed app");
            return Next::After(AUDIT);
        }
        self.record = Record::new(self.key.clone());
        self.memory = Memories::default();
        self.walk = Walk::default();
        self.last = None;
        self.told = Neighbour::default();
        self.tell(None, Vec::new(), Vec::new()).await;
        Next::After(AUDIT)
    }

    async fn publish(&mut self, want: &Want, current: Option<&App>, have: &Have, plan: &Plan, facts: &Facts) {
        let memory = &self.memory.in_charge;
        let Some(report) = compose(want.app.as_deref(), current, have, memory, &self.walk, plan) else { return };
        let neighbour = neighbour(in_charge(want, current), have, memory, facts, plan);
        let alarms = healing::alarms(&self.key, have, &self.memory);
        if self.last.as_ref() == Some(&report) && self.told == neighbour && self.told_alarms == alarms {
            return;
        }
        self.told = neighbour;
        if self.last.as_ref().is_none_or(|last| (last.status, last.phase) != (report.status, report.phase)) {
            tracing::info!(app = %self.key, status = ?report.status, phase = ?report.phase, reason = report.reason, "app");
        }
        self.last = Some(report.clone());
        let mains = have.ours.iter().filter(|seen| seen.role != Role::Pod);
        let known = mains.map(|seen| Known { name: seen.name.to_string(), id: seen.id.clone(), role: seen.role });
        let containers = known.collect();
        self.told_alarms.clone_from(&alarms);
        self.tell(Some(report), containers, alarms).await;
    }

    async fn tell(&self, report: Option<AppReport>, containers: Vec<Known>, alarms: Vec<String>) {
        let news = News { key: self.key.clone(), report, neighbour: self.told.clone(), containers, alarms };
        if self.news.send(news).await.is_err() {
            tracing::debug!(app = %self.key, "nobody listens to this app any more");
        }
    }

    fn begin(&mut self, step: Step) {
        let Some(key) = step.background_key() else { return };
        self.memory.each().into_iter().for_each(|memory| memory.begin(key.clone()));
        let host = Arc::clone(&self.host);
        let image = if let Step::Pull { image, .. } = &step { Some(image.clone()) } else { None };
        let handle = self.background.spawn(async move {
            let result = host.perform(&step).await.map(|_| ());
            (step, result)
        });
        if let Some(image) = image {
            self.pulls.insert(image, handle);
        }
    }

    /// A newer edit may want another image: the pull of the old one is given up.
    fn cancel_pulls(&mut self, images: &[String]) {
        let memory = &mut self.memory;
        self.pulls.retain(|image, handle| {
            let wanted = images.contains(image);
            if !wanted {
                handle.abort();
                memory.each().into_iter().for_each(|memory| memory.cancelled(image));
            }
            wanted
        });
    }

    fn background_ended(&mut self, ended: Result<(Step, Result<(), StepError>), tokio::task::JoinError>) {
        match ended {
            Ok((step, result)) => {
                if let Step::Pull { image, .. } = &step {
                    self.pulls.remove(image);
                    let hash = self.want.borrow().app.as_ref().map(|app| app.hash().to_string());
                    if let Some(hash) = hash {
                        self.memory.each().into_iter().for_each(|memory| memory.refreshed(&hash, image));
                    }
                }
                if let Err(err) = &result {
                    tracing::debug!(app = %self.key, %step, %err, "step failed");
                }
                let now = self.host.now();
                healing::examined(&mut self.memory, &step, &result, now);
                let result = result.map_err(|err| err.to_string());
                self.memory.each().into_iter().for_each(|memory| memory.ended(&step, result.clone(), now));
            }
            Err(err) if err.is_cancelled() => {}
            Err(err) => tracing::error!(app = %self.key, %err, "a background step ended badly"),
        }
    }

    /// The mains of a pod start side by side: none waits for another. Of several failures the first one is told.
    async fn start_together(&mut self, lane: Lane, steps: &[Step], hash: &str) {
        tracing::info!(app = %self.key, count = steps.len(), "starting side by side");
        let host = &self.host;
        let results = futures::future::join_all(steps.iter().map(|step| host.perform(step))).await;
        let now = self.host.now();
        let mut failed = None;
        for (step, result) in steps.iter().zip(results) {
            match result {
                Ok(_) => self.memory.of(lane).done(step, now),
                Err(err) => {
                    tracing::warn!(app = %self.key, %step, %err, "step failed");
                    failed.get_or_insert((step, err));
                }
            }
        }
        if let Some((step, err)) = failed {
            self.failed(lane, step, hash, &err, now);
        } else {
            self.repeated(lane, &steps[0], hash, now);
        }
    }

    fn failed(&mut self, lane: Lane, step: &Step, hash: &str, err: &StepError, now: Duration) {
        self.memory.of(lane).failed(step, hash, err.to_string(), now);
        let app = match lane {
            Lane::InCharge => self.record.current_app(),
            Lane::Beside => self.want.borrow().app.as_deref().cloned(),
        };
        if let Some(app) = app {
            healing::met(self.memory.of(lane), &app, step, err, now);
        }
    }

    /// A step that succeeds again and again changes nothing: a failure, so that it is not done without pause.
    fn repeated(&mut self, lane: Lane, step: &Step, hash: &str, now: Duration) {
        let text = step.to_string();
        let count = if self.last_step.0 == text { self.last_step.1 + 1 } else { 1 };
        if count > SAME_STEP_MAX {
            let message = format!("{step} succeeded {count} times and changed nothing; look at Podman's log");
            self.memory.of(lane).failed(step, hash, message, now);
        }
        self.last_step = (text, count);
    }

    async fn act(&mut self, lane: Lane, step: &Step, hash: &str, facts: &Facts) {
        tracing::info!(app = %self.key, %step, "doing");
        let result = self.perform(step, facts).await;
        let now = self.host.now();
        match result {
            Ok(()) => {
                self.memory.of(lane).done(step, now);
                self.repeated(lane, step, hash, now);
                if lane == Lane::Beside && matches!(step, Step::Adopt { .. }) {
                    self.memory.turn();
                }
            }
            Err(err) => {
                tracing::warn!(app = %self.key, %step, %err, "step failed");
                self.failed(lane, step, hash, &err, now);
            }
        }
    }

    /// One step, with the record kept ahead of it: a nonce before something is made, its id after.
    async fn perform(&mut self, step: &Step, facts: &Facts) -> Result<(), StepError> {
        match step {
            Step::Adopt { app } => {
                let mut record = self.record.clone();
                record.current = Some(app.desired().clone());
                self.keep(record).await
            }
            Step::Forget { nonces, .. } => {
                let mut record = self.record.clone();
                record.instances.retain(|nonce, _| !nonces.contains(nonce));
                self.keep(record).await
            }
            Step::CreatePod { app, nonce } => {
                self.make(step, app.key().name.clone(), Role::Pod, app, nonce, facts).await
            }
            Step::Create { app, name, role, nonce, .. } => {
                self.make(step, name.clone(), *role, app, nonce, facts).await
            }
            Step::Remove { .. }
            | Step::RemovePod { .. }
            | Step::Pull { .. }
            | Step::Examine { .. }
            | Step::Stop { .. }
            | Step::Expire { .. }
            | Step::Start { .. }
            | Step::Map { .. }
            | Step::Unmap { .. }
            | Step::Retire { .. }
            | Step::Probe { .. } => self.host.perform(step).await.map(|_| ()),
        }
    }

    async fn make(
        &mut self,
        step: &Step,
        name: bramble_contracts::Name,
        role: Role,
        app: &App,
        nonce: &str,
        facts: &Facts,
    ) -> Result<(), StepError> {
        let made_up_ms = u64::try_from(facts.now.as_millis()).unwrap_or(u64::MAX);
        let instance =
            Instance { name, role, hash: app.hash().to_string(), boot: facts.boot.clone(), made_up_ms, id: None };
        let mut record = self.record.clone();
        record.instances.insert(nonce.to_owned(), instance);
        self.keep(record).await?;
        match self.host.perform(step).await? {
            Outcome::Made(id) => {
                let mut record = self.record.clone();
                if let Some(instance) = record.instances.get_mut(nonce) {
                    instance.id = Some(id);
                }
                self.keep(record).await
            }
            Outcome::Done => Ok(()),
        }
    }

    /// Durable first, then true for us.
    async fn keep(&mut self, record: Record) -> Result<(), StepError> {
        self.host.save(&record).await?;
        self.record = record;
        Ok(())
    }
}

/// The spec in charge, with the newest policies where only those were changed.
fn in_charge<'a>(want: &'a Want, current: Option<&'a App>) -> Option<&'a App> {
    let current = current?;
    Some(want.app.as_deref().filter(|app| app.hash() == current.hash()).unwrap_or(current))
}

/// Ends when one of them stands otherwise than it was heard to.
async fn moved(neighbours: &mut watch::Receiver<Arc<Neighbours>>, heard: &BTreeMap<AppKey, Option<Neighbour>>) {
    let otherwise = |all: &Arc<Neighbours>| heard.iter().any(|(key, one)| all.get(key) != one.as_ref());
    if neighbours.wait_for(otherwise).await.is_err() {
        // Nobody tells any more: the end of the wish for the app says so too.
        std::future::pending::<()>().await;
    }
}

/// The next step of the foreground; with the start of one main container, those of all others that are due.
fn together(steps: Vec<Step>) -> Vec<Step> {
    let is_start = |step: &Step| matches!(step, Step::Start { role: Role::Main, .. });
    let mut steps = steps.into_iter().filter(|step| step.background_key().is_none());
    let Some(first) = steps.next() else { return Vec::new() };
    if is_start(&first) { std::iter::once(first).chain(steps.filter(is_start)).collect() } else { vec![first] }
}

fn images(want: Option<&App>, current: Option<&App>) -> Vec<String> {
    let both = want.into_iter().chain(current).flat_map(App::images);
    let mut images: Vec<String> = both.map(|image| image.reference).collect();
    images.sort();
    images.dedup();
    images
}
