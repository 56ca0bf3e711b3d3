//! A simulated device: it has state, obeys the supervisor, can fail, and can lose its agent or its power at any effect.
//!
//! It stands for Podman, the registry and the disk behind [`Host`]. It decides nothing the agent decides; time is
//! tokio's, so a test with paused time runs hours in milliseconds, and hundreds of these fit in one process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::core::app::{App, AppKey, Role};
use crate::core::have::{ImageSeen, Observed, Seen, SeenState};
use crate::core::record::Record;
use crate::core::step::{AfterGrace, Outcome, Step, StepError, StopRule, Target};
use crate::supervise::{FoundRecord, Host, HostError, HostEvent, LogWish, OutputStream, Piece};

/// What a container made of an image does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Runs until it is stopped, and stops when asked.
    Runs,
    /// Runs, and does not stop when asked.
    Stubborn,
    /// Ends by itself.
    Ends {
        /// With this code.
        code: i32,
        /// After this.
        after: Duration,
    },
    /// Cannot even be started.
    Unstartable,
}

/// Whether something outside the agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It does.
    Up,
    /// It does not.
    Down,
}

/// How an effect goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// It fails and changes nothing.
    FailsBefore,
    /// It does its work and then reports failure.
    FailsAfter,
    /// The agent dies before it.
    DiesBefore,
    /// The agent dies after it.
    DiesAfter,
}

/// What a container is, for whoever looks from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimContainer {
    /// As Podman would show it.
    pub seen: Seen,
    /// Which app it is labelled for.
    pub app: AppKey,
    /// Image.
    pub image: String,
    /// Pod it is in.
    pub pod: Option<String>,
}

#[derive(Debug)]
struct State {
    boot: u32,
    counter: u64,
    things: BTreeMap<String, SimContainer>,
    images: BTreeSet<String>,
    every_image: bool,
    pullable: BTreeSet<String>,
    registry: Link,
    podman: Link,
    behaviours: BTreeMap<String, Behaviour>,
    sick: BTreeSet<String>,
    pull_time: Duration,
    records: BTreeMap<AppKey, Record>,
    mishap: Option<(u32, Mishap)>,
    effects: Vec<String>,
    listener: Option<mpsc::Sender<HostEvent>>,
}

/// A simulated device.
#[derive(Debug)]
pub struct SimHost {
    me: Weak<Self>,
    started: Instant,
    state: Mutex<State>,
    dead: watch::Sender<bool>,
}

/// A container that ends by itself does so after this at the earliest.
const BLINK: Duration = Duration::from_millis(10);
const EVENTS_MAX: usize = 1024;

enum Fate {
    Apply,
    ApplyThen(Mishap),
    Skip(Mishap),
}

impl SimHost {
    /// A device on which every image is there and runs.
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            started: Instant::now(),
            state: Mutex::new(State {
                boot: 1,
                counter: 0,
                things: BTreeMap::new(),
                images: BTreeSet::new(),
                every_image: true,
                pullable: BTreeSet::new(),
                registry: Link::Up,
                podman: Link::Up,
                behaviours: BTreeMap::new(),
                sick: BTreeSet::new(),
                pull_time: Duration::ZERO,
                records: BTreeMap::new(),
                mishap: None,
                effects: Vec::new(),
                listener: None,
            }),
            dead: watch::Sender::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on only these images are in the store, and only those in the registry.
    pub fn set_images(&self, store: &[&str], registry: &[&str]) {
        let mut state = self.state();
        state.every_image = false;
        state.images = store.iter().map(|&image| image.to_owned()).collect();
        state.pullable = registry.iter().map(|&image| image.to_owned()).collect();
    }

    /// Pulls fail or work, and take so long.
    pub fn set_registry(&self, link: Link, pull_time: Duration) {
        let mut state = self.state();
        state.registry = link;
        state.pull_time = pull_time;
    }

    /// Podman answers or does not.
    pub fn set_podman(&self, link: Link) {
        self.state().podman = link;
        self.tell(HostEvent::Everything);
    }

    /// What containers of this image do from their next start on.
    pub fn set_behaviour(&self, image: &str, behaviour: Behaviour) {
        self.state().behaviours.insert(image.to_owned(), behaviour);
    }

    /// Probes of containers of this image fail from now on.
    pub fn sicken(&self, image: &str) {
        self.state().sick.insert(image.to_owned());
    }

    /// They pass again.
    pub fn heal(&self, image: &str) {
        self.state().sick.remove(image);
    }

    /// Arms a mishap at the effect with this number, counted from 0 on from now.
    pub fn arm(&self, effect: u32, mishap: Mishap) {
        self.state().mishap = Some((effect, mishap));
    }

    /// Whether the armed mishap has happened.
    pub fn is_armed(&self) -> bool {
        self.state().mishap.is_some()
    }

    /// Ends when the agent has died of an armed mishap.
    pub async fn agent_died(&self) {
        let mut dead = self.dead.subscribe();
        if dead.wait_for(|dead| *dead).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A new agent may work on the device. Containers ran on meanwhile.
    pub fn revive(&self) {
        self.state().mishap = None;
        self.dead.send_replace(false);
    }

    /// The device boots: nothing runs, the disk is as it was.
    pub fn reboot(&self) {
        let mut state = self.state();
        state.boot += 1;
        for thing in state.things.values_mut() {
            if thing.seen.state == SeenState::Running {
                thing.seen.state = if thing.seen.role == Role::Pod { SeenState::Created } else { SeenState::Exited };
            }
        }
        drop(state);
        self.revive();
    }

    /// A container ends, as if by itself.
    pub fn end(&self, name: &str, code: i32) {
        let id = {
            let state = self.state();
            let up = state.things.values().find(|c| c.seen.name.as_str() == name && c.seen.state == SeenState::Running);
            up.map(|c| c.seen.id.clone())
        };
        if let Some(id) = id {
            self.end_id(&id, code);
        }
    }

    /// Somebody removes a container by hand.
    pub fn vanish(&self, name: &str) {
        self.state().things.retain(|_, c| c.seen.name.as_str() != name);
        self.tell(HostEvent::Everything);
    }

    /// Somebody makes a container with labels and a name like ours.
    pub fn plant_stranger(&self, app: &App, name: &str) {
        let mut state = self.state();
        let id = state.next_id();
        let nonce = "planted".to_owned();
        if let Ok(parsed) = name.parse() {
            let seen = seen(&id, podman_name(app, name), parsed, Role::Main, app, "boot-0", &nonce);
            let thing = SimContainer { seen, app: app.key().clone(), image: String::new(), pod: None };
            state.things.insert(id, thing);
        }
    }

    /// Somebody removes what was planted.
    pub fn remove_strangers(&self) {
        self.state().things.retain(|_, c| c.seen.nonce != "planted");
        self.tell(HostEvent::Everything);
    }

    /// Every container and pod there is.
    pub fn things(&self) -> Vec<SimContainer> {
        self.state().things.values().cloned().collect()
    }

    /// Every record on the disk.
    pub fn stored(&self) -> Vec<Record> {
        self.state().records.values().cloned().collect()
    }

    /// What was done since the last call, as text.
    pub fn take_effects(&self) -> Vec<String> {
        std::mem::take(&mut self.state().effects)
    }

    fn tell(&self, event: HostEvent) {
        let listener = self.state().listener.clone();
        if let Some(listener) = listener
            && let Err(err) = listener.try_send(event)
        {
            tracing::trace!(%err, "a simulated event was not heard");
        }
    }

    fn end_id(&self, id: &str, code: i32) {
        let app = {
            let mut state = self.state();
            let Some(thing) = state.things.get_mut(id) else { return };
            thing.seen.state = SeenState::Exited;
            thing.seen.exit_code = code;
            if code != 0 {
                thing.seen.last_lines = vec![format!("simulated end with {code}")];
            }
            thing.app.clone()
        };
        self.tell(HostEvent::App(app));
    }

    /// Counts an effect and decides what becomes of it.
    fn fate(&self, text: &str) -> Fate {
        let mut state = self.state();
        let mishap = match &mut state.mishap {
            Some((0, mishap)) => {
                let mishap = *mishap;
                state.mishap = None;
                Some(mishap)
            }
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        match mishap {
            None => {
                state.effects.push(text.to_owned());
                Fate::Apply
            }
            Some(mishap @ (Mishap::FailsBefore | Mishap::DiesBefore)) => {
                state.effects.push(format!("{text}: {mishap:?}"));
                Fate::Skip(mishap)
            }
            Some(mishap @ (Mishap::FailsAfter | Mishap::DiesAfter)) => {
                state.effects.push(format!("{text}: {mishap:?}"));
                Fate::ApplyThen(mishap)
            }
        }
    }

    async fn suffer(&self, mishap: Mishap) -> StepError {
        match mishap {
            Mishap::FailsBefore | Mishap::FailsAfter => StepError::Refused("a simulated failure".into()),
            Mishap::DiesBefore | Mishap::DiesAfter => {
                self.dead.send_replace(true);
                std::future::pending().await
            }
        }
    }

    /// A dead agent does nothing at all.
    async fn alive(&self) {
        if *self.dead.borrow() {
            std::future::pending::<()>().await;
        }
    }

    async fn effect<T>(
        &self,
        text: &str,
        work: impl Future<Output = Result<T, StepError>> + Send,
    ) -> Result<T, StepError> {
        self.alive().await;
        match self.fate(text) {
            Fate::Apply => work.await,
            Fate::Skip(mishap) => Err(self.suffer(mishap).await),
            Fate::ApplyThen(mishap) => {
                work.await?;
                Err(self.suffer(mishap).await)
            }
        }
    }

    async fn pull(&self, image: &str) -> Result<Outcome, StepError> {
        let time = self.state().pull_time;
        tokio::time::sleep(time).await;
        let mut state = self.state();
        if state.registry == Link::Down {
            return Err(StepError::Refused(format!("cannot pull {image}: the registry is away")));
        }
        if !state.pullable.contains(image) {
            return Err(StepError::Refused(format!("cannot pull {image}: manifest unknown")));
        }
        state.images.insert(image.to_owned());
        Ok(Outcome::Done)
    }

    async fn stop(&self, targets: &[Target], rule: &StopRule) -> Result<Outcome, StepError> {
        let mut left = Vec::new();
        for target in targets {
            let stubborn = {
                let state = self.state();
                let thing = state.things.get(&target.id).filter(|c| c.seen.state == SeenState::Running);
                let Some(thing) = thing else { continue };
                state.behaviours.get(&thing.image) == Some(&Behaviour::Stubborn)
            };
            if stubborn { left.push(target) } else { self.end_id(&target.id, 0) }
        }
        if left.is_empty() {
            return Ok(Outcome::Done);
        }
        tokio::time::sleep(rule.grace).await;
        match rule.then {
            AfterGrace::Kill => left.iter().for_each(|target| self.end_id(&target.id, 137)),
            AfterGrace::GiveUp => {
                let names = left.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(StepError::StillRunning { names, grace_s: rule.grace.as_secs() });
            }
        }
        Ok(Outcome::Done)
    }

    fn make(&self, app: &App, name: &bramble_contracts::Name, role: Role, pod: Option<&str>, nonce: &str) -> Result<Outcome, StepError> {
        let mut state = self.state();
        let part = if role == Role::Pod { "pod" } else { name.as_str() };
        let podman_name = podman_name(app, part);
        if state.things.values().any(|c| c.seen.podman_name == podman_name) {
            return Err(StepError::NameTaken { name: podman_name });
        }
        let image = app.container(name).filter(|_| role != Role::Pod).map(|view| app.reference(view.image));
        let image = image.unwrap_or_default();
        if role != Role::Pod && !state.every_image && !state.images.contains(&image) {
            return Err(StepError::Refused(format!("image {image} is not known")));
        }
        if let Some(pod) = pod
            && !state.things.contains_key(pod)
        {
            return Err(StepError::Refused(format!("no pod {pod}")));
        }
        let id = state.next_id();
        let boot = format!("boot-{}", state.boot);
        let seen = seen(&id, podman_name, name.clone(), role, app, &boot, nonce);
        let thing = SimContainer { seen, app: app.key().clone(), image, pod: pod.map(str::to_owned) };
        state.things.insert(id.clone(), thing);
        Ok(Outcome::Made(id))
    }

    fn start(&self, id: &str) -> Result<Outcome, StepError> {
        let mut state = self.state();
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Some(thing) = state.things.get(id) else {
            return Err(StepError::Refused(format!("no container {id}")));
        };
        let init = thing.seen.role == Role::Init;
        let default = if init { Behaviour::Ends { code: 0, after: BLINK } } else { Behaviour::Runs };
        let behaviour = state.behaviours.get(&thing.image).cloned().unwrap_or(default);
        if behaviour == Behaviour::Unstartable {
            return Err(StepError::Refused("executable file not found".into()));
        }
        let pod = thing.pod.clone();
        for id in pod.iter().map(String::as_str).chain([id]) {
            if let Some(thing) = state.things.get_mut(id) {
                thing.seen.state = SeenState::Running;
                thing.seen.started_at_ms = now_ms;
                thing.seen.exit_code = 0;
            }
        }
        if let Behaviour::Ends { code, after } = behaviour {
            let (me, id, run) = (self.me.clone(), id.to_owned(), now_ms);
            tokio::spawn(async move {
                tokio::time::sleep(after.max(BLINK)).await;
                let Some(me) = me.upgrade() else { return };
                let same = |c: &SimContainer| c.seen.state == SeenState::Running && c.seen.started_at_ms == run;
                let up = me.state().things.get(&id).is_some_and(same);
                if up {
                    me.end_id(&id, code);
                }
            });
        }
        Ok(Outcome::Done)
    }

    fn remove(&self, id: &str) -> Outcome {
        let mut state = self.state();
        state.things.remove(id);
        state.things.retain(|_, c| c.pod.as_deref() != Some(id));
        Outcome::Done
    }

    fn probe(&self, id: &str) -> Result<Outcome, StepError> {
        let state = self.state();
        let thing = state.things.get(id).filter(|c| c.seen.state == SeenState::Running);
        let thing = thing.ok_or_else(|| StepError::Unhealthy("it does not run".into()))?;
        if state.sick.contains(&thing.image) {
            return Err(StepError::Unhealthy("HTTP GET :80/: answered 500".into()));
        }
        Ok(Outcome::Done)
    }
}

impl State {
    fn next_id(&mut self) -> String {
        self.counter += 1;
        format!("{:064x}", self.counter)
    }
}

fn podman_name(app: &App, part: &str) -> String {
    format!("bramble.{}.{part}.{}", app.key(), app.short_hash())
}

fn seen(
    id: &str,
    podman_name: String,
    name: bramble_contracts::Name,
    role: Role,
    app: &App,
    boot: &str,
    nonce: &str,
) -> Seen {
    Seen {
        id: id.to_owned(),
        podman_name,
        name,
        role,
        hash: app.hash().to_string(),
        boot: boot.to_owned(),
        revision: app.revision().0,
        nonce: nonce.to_owned(),
        state: SeenState::Created,
        exit_code: 0,
        oom_killed: false,
        started_at_ms: 0,
        image_id: String::new(),
        last_lines: Vec::new(),
    }
}

impl Host for SimHost {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn boot(&self) -> String {
        format!("boot-{}", self.state().boot)
    }

    fn nonce(&self) -> String {
        let mut state = self.state();
        state.counter += 1;
        format!("nonce-{}", state.counter)
    }

    fn events(&self) -> mpsc::Receiver<HostEvent> {
        let (out, events) = mpsc::channel(EVENTS_MAX);
        self.state().listener = Some(out);
        events
    }

    async fn records(&self) -> Result<Vec<FoundRecord>, HostError> {
        self.alive().await;
        Ok(self.state().records.values().cloned().map(|record| FoundRecord::Good(record, None)).collect())
    }

    async fn save(&self, record: &Record) -> Result<(), StepError> {
        let work = async {
            self.state().records.insert(record.key.clone(), record.clone());
            Ok(())
        };
        self.effect(&format!("save {}", record.key.name), work).await
    }

    async fn erase(&self, key: &AppKey) -> Result<(), StepError> {
        let work = async {
            self.state().records.remove(key);
            Ok(())
        };
        self.effect(&format!("erase {}", key.name), work).await
    }

    async fn observe(&self, key: &AppKey, images: &[String]) -> Result<Observed, HostError> {
        self.alive().await;
        let state = self.state();
        if state.podman == Link::Down {
            return Err(HostError("Podman does not answer".into()));
        }
        let seen = state.things.values().filter(|c| c.app == *key).map(|c| c.seen.clone()).collect();
        let there = |image: &&String| state.every_image || state.images.contains(*image);
        let image = |image: &String| (image.clone(), ImageSeen { id: "0".repeat(64), digest: String::new() });
        Ok(Observed { seen, images: images.iter().filter(there).map(image).collect() })
    }

    async fn perform(&self, step: &Step) -> Result<Outcome, StepError> {
        if let Step::Probe { target, .. } = step {
            self.alive().await;
            return self.probe(&target.id);
        }
        let link = self.state().podman;
        let work = async {
            if link == Link::Down {
                return Err(StepError::Refused("Podman does not answer".into()));
            }
            match step {
                Step::Adopt { .. } | Step::Forget { .. } => Ok(Outcome::Done),
                Step::Pull { image, .. } => self.pull(image).await,
                Step::Stop { targets, rule } => self.stop(targets, rule).await,
                Step::Expire { target, .. } => {
                    self.end_id(&target.id, 137);
                    Ok(Outcome::Done)
                }
                Step::Remove { target } | Step::RemovePod { target } => Ok(self.remove(&target.id)),
                Step::CreatePod { app, nonce } => self.make(app, &app.key().name, Role::Pod, None, nonce),
                Step::Create { app, name, role, pod, nonce, .. } => self.make(app, name, *role, pod.as_deref(), nonce),
                Step::Start { target, .. } => self.start(&target.id),
                Step::Probe { target, .. } => self.probe(&target.id),
            }
        };
        self.effect(&step.to_string(), work).await
    }

    async fn logs(&self, id: &str, wish: LogWish, out: mpsc::Sender<Piece>) -> Result<(), HostError> {
        let lines = self.state().things.get(id).map(|c| c.seen.last_lines.clone());
        let lines = lines.ok_or_else(|| HostError(format!("no container {id}")))?;
        for line in lines.iter().rev().take(wish.tail).rev() {
            let piece = Piece { stream: OutputStream::Out, bytes: Bytes::from(format!("{line}\n")) };
            if out.send(piece).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn exec(&self, id: &str, argv: &[String], out: mpsc::Sender<Piece>) -> Result<i32, HostError> {
        if !self.state().things.get(id).is_some_and(|c| c.seen.state == SeenState::Running) {
            return Err(HostError(format!("container {id} does not run")));
        }
        let piece = Piece { stream: OutputStream::Out, bytes: Bytes::from(argv.join(" ")) };
        if out.send(piece).await.is_err() {
            tracing::trace!("nobody listens to a simulated command");
        }
        Ok(0)
    }
}
