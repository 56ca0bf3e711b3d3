//! A simulated device: it has state, obeys the supervisor, can fail, and can lose its agent or its power at any effect.
//!
//! It stands for Podman, the registry and the disk behind [`crate::supervise::Host`]. It decides nothing the agent decides; time is
//! tokio's, so a test with paused time runs hours in milliseconds, and hundreds of these fit in one process.

mod damage;
mod doing;
mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::core::app::{App, AppKey, Role};
use crate::core::have::{Seen, SeenState};
use crate::core::mapping::{Address, Mapping, Publisher};
use crate::core::record::Record;
use crate::core::step::StepError;
use crate::supervise::HostEvent;

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

/// What is wrong with the record of an app on the simulated disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoilt {
    /// Neither it nor the one before it is whole, until it is written anew.
    Damaged,
    /// The disk does not give it, for now.
    Unread,
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
    addresses: u32,
    things: BTreeMap<String, SimContainer>,
    images: BTreeSet<String>,
    every_image: bool,
    pullable: BTreeSet<String>,
    registry: Link,
    podman: Link,
    behaviours: BTreeMap<String, Behaviour>,
    sick: BTreeSet<String>,
    warm_ups: BTreeMap<String, Duration>,
    looks: BTreeMap<AppKey, u64>,
    pull_time: Duration,
    records: BTreeMap<AppKey, Record>,
    mappings: BTreeMap<AppKey, Mapping>,
    nft: Link,
    drain_time: Duration,
    guarded: Option<AppKey>,
    unserved: Vec<String>,
    disk: Link,
    spoilt: BTreeMap<AppKey, Spoilt>,
    store: damage::Store,
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
                addresses: 0,
                things: BTreeMap::new(),
                images: BTreeSet::new(),
                every_image: true,
                pullable: BTreeSet::new(),
                registry: Link::Up,
                podman: Link::Up,
                behaviours: BTreeMap::new(),
                sick: BTreeSet::new(),
                warm_ups: BTreeMap::new(),
                looks: BTreeMap::new(),
                pull_time: Duration::ZERO,
                records: BTreeMap::new(),
                mappings: BTreeMap::new(),
                nft: Link::Up,
                drain_time: Duration::ZERO,
                guarded: None,
                unserved: Vec::new(),
                disk: Link::Up,
                spoilt: BTreeMap::new(),
                store: damage::Store::default(),
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

    /// Records can be read or not.
    pub fn set_disk(&self, link: Link) {
        self.state().disk = link;
    }

    /// The records of all apps of that name are spoilt, or good again.
    pub fn spoil(&self, name: &str, how: Option<Spoilt>) {
        let mut state = self.state();
        let keys: Vec<AppKey> = state.records.keys().filter(|key| key.name.as_str() == name).cloned().collect();
        for key in keys {
            match how {
                Some(how) => state.spoilt.insert(key, how),
                None => state.spoilt.remove(&key),
            };
        }
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

    /// Probes of containers of this image fail for so long after every start.
    pub fn set_warm_up(&self, image: &str, time: Duration) {
        self.state().warm_ups.insert(image.to_owned(), time);
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
        state.mappings.clear();
        for thing in state.things.values_mut() {
            thing.seen.addresses.clear();
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

    /// How often the agent has looked at apps of that name.
    pub fn looks(&self, name: &str) -> u64 {
        self.state().looks.iter().filter(|(key, _)| key.name.as_str() == name).map(|(_, count)| count).sum()
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
            thing.seen.addresses.clear();
            if code != 0 {
                thing.seen.last_lines = vec![format!("simulated end with {code}")];
            }
            thing.app.clone()
        };
        self.look_at_ports("a container ended");
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
        self.look_at_ports(&format!("before {text}"));
        match self.fate(text) {
            Fate::Apply => {
                let done = work.await;
                self.look_at_ports(&format!("after {text}"));
                done
            }
            Fate::Skip(mishap) => Err(self.suffer(mishap).await),
            Fate::ApplyThen(mishap) => {
                let done = work.await;
                // Whoever dies after it does so also when it did not succeed.
                let err = self.suffer(mishap).await;
                done.and(Err(err))
            }
        }
    }
}

impl State {
    /// Every start gives another one, as Podman does.
    fn next_address(&mut self) -> Address {
        self.addresses = self.addresses.wrapping_add(1);
        Address { ip: Ipv4Addr::from(0x0a00_0000 + self.addresses).into(), prefix: 8 }
    }

    fn next_id(&mut self) -> String {
        self.counter += 1;
        format!("{:064x}", self.counter)
    }
}

fn podman_name(app: &App, part: &str) -> String {
    app.key().podman_name(part, &app.short_hash())
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
        publisher: Publisher::of(app),
        addresses: Vec::new(),
        state: SeenState::Created,
        exit_code: 0,
        oom_killed: false,
        started_at_ms: 0,
        image_id: String::new(),
        last_lines: Vec::new(),
    }
}
