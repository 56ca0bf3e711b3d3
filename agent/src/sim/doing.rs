//! What a simulated device does when it is told to.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{BLINK, Behaviour, EVENTS_MAX, Link, SimContainer, SimHost, Spoilt, podman_name, seen};
use crate::core::app::{App, AppKey, Role};
use crate::core::have::{ImageSeen, Observed, SeenState};
use crate::core::mapping::Publisher;
use crate::core::record::Record;
use crate::core::step::{AfterGrace, Outcome, PullNeed, Step, StepError, StopRule, Target};
use crate::supervise::{Ends, FoundRecord, Host, HostError, HostEvent, OutputStream, Piece, Program};

impl SimHost {
    async fn pull(&self, image: &str, need: PullNeed) -> Result<Outcome, StepError> {
        let time = self.state().pull_time;
        tokio::time::sleep(time).await;
        let mut state = self.state();
        if state.registry == Link::Down {
            return Err(StepError::Refused(format!("cannot pull {image}: the registry is away")));
        }
        if !state.every_image && !state.pullable.contains(image) {
            return Err(StepError::Refused(format!("cannot pull {image}: manifest unknown")));
        }
        state.admit(image)?;
        state.pulled(image, need);
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

    fn make(
        &self,
        app: &App,
        name: &bramble_contracts::Name,
        role: Role,
        pod: Option<&str>,
        nonce: &str,
    ) -> Result<Outcome, StepError> {
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
        if role != Role::Pod {
            state.usable_image(&image)?;
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
        state.usable_container(id)?;
        let Some(thing) = state.things.get(id) else {
            return Err(StepError::Refused(format!("no container {id}")));
        };
        let init = thing.seen.role == Role::Init;
        let default = if init { Behaviour::Ends { code: 0, after: BLINK } } else { Behaviour::Runs };
        let behaviour = state.behaviours.get(&thing.image).cloned().unwrap_or(default);
        let lost = Behaviour::Ends { code: 1, after: BLINK };
        let behaviour = if state.is_hollow(&thing.image) { lost } else { behaviour };
        if behaviour == Behaviour::Unstartable {
            return Err(StepError::Refused("executable file not found".into()));
        }
        let pod = thing.pod.clone();
        let address = state.next_address();
        for id in pod.iter().map(String::as_str).chain([id]) {
            if let Some(thing) = state.things.get_mut(id) {
                let has_network = thing.seen.role != Role::Init && thing.pod.is_none();
                if has_network && thing.seen.publisher == Publisher::Agent && thing.seen.addresses.is_empty() {
                    thing.seen.addresses.push(address);
                }
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
            return Err(StepError::Unhealthy("answered 500 Internal Server Error".into()));
        }
        let warm_up = state.warm_ups.get(&thing.image).copied().unwrap_or_default();
        if self.started.elapsed() < Duration::from_millis(thing.seen.started_at_ms) + warm_up {
            return Err(StepError::Unhealthy("answered 503 Service Unavailable".into()));
        }
        Ok(Outcome::Done)
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
        let state = self.state();
        if state.disk == Link::Down {
            return Err(HostError("cannot read the records: too many open files".into()));
        }
        let found = state.records.values().cloned().map(|record| match state.spoilt.get(&record.key) {
            None => FoundRecord::Good(Box::new(record), None),
            Some(Spoilt::Damaged) => FoundRecord::Damaged(record.key, "its checksum does not match".into()),
            Some(Spoilt::Unread) => FoundRecord::Unread(record.key, "cannot read it: input/output error".into()),
        });
        Ok(found.collect())
    }

    async fn save(&self, record: &Record) -> Result<(), StepError> {
        let work = async {
            let mut state = self.state();
            state.records.insert(record.key.clone(), record.clone());
            state.spoilt.remove(&record.key);
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
        let mut state = self.state();
        *state.looks.entry(key.clone()).or_default() += 1;
        if state.podman == Link::Down {
            return Err(HostError("Podman does not answer".into()));
        }
        let seen = state.things.values().filter(|c| c.app == *key).map(|c| c.seen.clone()).collect();
        let there = |image: &&String| (state.every_image || state.images.contains(*image)) && state.is_readable(image);
        let image = |image: &String| (image.clone(), ImageSeen { id: "0".repeat(64), digest: String::new() });
        let (mapping, wounds) = (state.mappings.get(key).cloned(), state.wounds(images));
        Ok(Observed { seen, images: images.iter().filter(there).map(image).collect(), mapping, wounds })
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
                Step::Pull { image, need } => self.pull(image, *need).await,
                Step::Examine { image } => self.state().examine(image),
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
                Step::Map { key, mapping, .. } => self.map(key, Some(mapping)),
                Step::Unmap { key } => self.map(key, None),
                Step::Retire { targets, rule, .. } => {
                    let drain = self.state().drain_time.min(rule.grace);
                    tokio::time::sleep(drain).await;
                    self.stop(targets, rule).await
                }
            }
        };
        self.effect(&step.to_string(), work).await
    }

    async fn exec(&self, id: &str, argv: &[String], out: mpsc::Sender<Piece>) -> Result<i32, HostError> {
        if self.state().things.get(id).is_none_or(|c| c.seen.state != SeenState::Running) {
            return Err(HostError(format!("container {id} does not run")));
        }
        let piece = Piece { stream: OutputStream::Out, bytes: Bytes::from(argv.join(" ")) };
        if out.send(piece).await.is_err() {
            tracing::trace!("nobody listens to a simulated command");
        }
        Ok(0)
    }
    /// Sends back what it reads, until there is no more; `exit` on a line of its own ends it as well.
    async fn session(&self, id: &str, program: &Program, mut ends: Ends) -> Result<i32, HostError> {
        if self.state().things.get(id).is_none_or(|c| c.seen.state != SeenState::Running) {
            return Err(HostError(format!("container {id} does not run")));
        }
        let hello = Bytes::from(format!("{}\n", program.argv.join(" ")));
        let mut next = Some(hello);
        while let Some(bytes) = next {
            let ends_it = bytes == "exit\n";
            if ends.out.send(Piece { stream: OutputStream::Out, bytes }).await.is_err() || ends_it {
                break;
            }
            next = tokio::select! {
                next = ends.input.recv() => next,
                () = ends.out.closed() => None,
                Ok(()) = ends.size.changed() => {
                    let size = *ends.size.borrow_and_update();
                    Some(Bytes::from(format!("{} by {}\n", size.columns, size.rows)))
                }
            };
        }
        Ok(0)
    }
}
