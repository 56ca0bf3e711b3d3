//! The real device: what the supervisor asks for, done with Podman and files.
//!
//! Decides how an app's containers look in Podman (names, labels, mounts, environment). When they come and go is decided
//! in `core`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use tokio::sync::mpsc;

use super::leash::{self, Leash};
use super::logs::{self, Budget};
use super::naming::{label, labels, podman_name, published, read_line, read_pod};
use super::podman::{ContainerSpec, LogFile, Mount, MountMode, Output, PodSpec, Podman, PodmanError, Stream, Users};
use super::ports::{self, Ports};
use super::room::Room;
use super::starts::Starts;
use super::state::StateError;
use super::{clock, facts, layers, probe, records, session};
use crate::core::app::{App, AppKey, Role};
use crate::core::disk::DiskRules;
use crate::core::have::{ImageSeen, Observed, Seen, SeenState};
use crate::core::heal::{Damage, Wounds};
use crate::core::mapping::{Address, Publisher};
use crate::core::record::Record;
use crate::core::report::{LINES_BYTES_MAX, LINES_MAX};
use crate::core::step::{Device, Outcome, Step, StepError};
use crate::supervise::{Ends, FoundRecord, Host, HostError, HostEvent, OutputStream, Piece, Program};

const EVENTS_MAX: usize = 256;
/// What Podman calls the image that it makes pods of, by itself.
const PAUSE_IMAGE: &str = "localhost/podman-pause";

/// Where things lie.
#[derive(Clone, Debug)]
pub struct Places {
    /// Records, one file per app.
    pub records: PathBuf,
    /// Volumes: `<volumes>/<tenant>.<name>/<volume>`.
    pub volumes: PathBuf,
    /// What containers print.
    pub logs: PathBuf,
    /// Bytes of a log after which conmon begins a new file.
    pub log_bytes: u64,
    /// Podman's store.
    pub store: PathBuf,
    /// All of it; the room on its disk is looked after.
    pub apps: PathBuf,
    /// What stays free there.
    pub rules: DiskRules,
}

impl Places {
    /// The usual places below the agent's directory for apps.
    pub fn below(apps: &Path) -> Self {
        let logs = logs::Places::below(apps);
        Self {
            records: logs.records,
            volumes: apps.join("volumes"),
            logs: logs.root,
            log_bytes: Budget::default().segment(),
            store: apps.join("store"),
            apps: apps.to_owned(),
            rules: DiskRules::default(),
        }
    }
}

/// This device.
#[derive(Debug)]
pub struct PodmanHost {
    pub(super) podman: Podman,
    ports: Ports,
    places: Places,
    boot: String,
    room: Arc<Room>,
    starts: Starts,
}

impl PodmanHost {
    /// A device whose Podman answers on the client's socket.
    pub fn new(podman: Podman, places: Places) -> Self {
        Self::in_boot(podman, places, facts::boot_id())
    }

    /// The same, in a boot of that id: how tests reboot.
    pub fn in_boot(podman: Podman, places: Places, boot: String) -> Self {
        let ports = Ports::of(places.records.parent().unwrap_or(&places.records));
        let room = Room::new(podman.clone(), &places.apps, &places.store, &places.records, places.rules);
        let starts = Starts::new(podman.clone(), &places.store);
        Self { podman, ports, places, boot, room: Arc::new(room), starts }
    }

    async fn seen(&self, key: &AppKey, wounds: &mut Wounds) -> Result<Vec<Seen>, PodmanError> {
        let filter = [format!("{}={key}", label::APP)];
        let (containers, pods) = tokio::try_join!(self.podman.list(&filter), self.podman.pod_list(&filter))?;
        let (mut seen, mut holders) = (Vec::new(), Vec::new());
        for line in containers.into_iter().filter(|line| !line.is_infra) {
            let Some(mut one) = read_line(&line) else { continue };
            if one.state == SeenState::Exited && one.exit_code != 0 {
                match self.add_end(&mut one).await {
                    Err(err) if err.is_container_damage() => {
                        wounds.containers.insert(one.id.clone(), text(&err));
                    }
                    ended => ended?,
                }
            }
            if one.role == Role::Main && line.pod.is_empty() {
                holders.push((seen.len(), line.id));
            }
            seen.push(one);
        }
        for pod in pods {
            if let Some(one) = read_pod(&pod) {
                holders.push((seen.len(), pod.infra_id));
                seen.push(one);
            }
        }
        // Where the agent leads ports it must know where to; and where connections lead to what Podman led ports to.
        if seen.iter().any(|one| one.publisher == Publisher::Agent) {
            holders.retain(|(at, _)| seen[*at].state == SeenState::Running);
            for (at, id) in holders {
                seen[at].addresses = self.addresses(&id).await?;
            }
        }
        Ok(seen)
    }

    async fn addresses(&self, id: &str) -> Result<Vec<Address>, PodmanError> {
        let detail = match self.podman.inspect(id).await {
            // What runs on damaged storage keeps the addresses it has; ports stay as they are led.
            Err(err) if err.is_container_damage() => return Ok(Vec::new()),
            detail => detail?,
        };
        let found = detail.into_iter().flat_map(|detail| detail.addresses());
        Ok(found.map(|(ip, prefix)| Address { ip, prefix }).collect())
    }

    /// How a container ended: only asked of those that failed.
    async fn add_end(&self, seen: &mut Seen) -> Result<(), PodmanError> {
        if let Some(detail) = self.podman.inspect(&seen.id).await? {
            seen.oom_killed = detail.state.oom_killed;
        }
        match self.podman.last_lines(&seen.id, LINES_MAX, LINES_BYTES_MAX).await {
            Ok(lines) => seen.last_lines = lines,
            Err(err) if err.is_outage() => return Err(err),
            Err(err) => tracing::debug!(%err, "no last lines"),
        }
        Ok(())
    }

    async fn images(&self, references: &[String]) -> Result<(BTreeMap<String, ImageSeen>, Wounds), PodmanError> {
        let (mut images, mut wounds) = (BTreeMap::new(), Wounds::default());
        for reference in references {
            match self.podman.image(reference).await {
                Ok(Some(image)) => {
                    images.insert(reference.clone(), ImageSeen { id: image.id, digest: image.digest });
                }
                Ok(None) => {}
                Err(err) if err.is_image_damage() => {
                    wounds.images.insert(reference.clone(), text(&err));
                }
                Err(err) => return Err(err),
            }
        }
        Ok((images, wounds))
    }

    async fn start(&self, id: &str) -> Result<Outcome, StepError> {
        self.starts.start(id).await?;
        match self.podman.bridges().await {
            Ok(bridges) => ports::keep_bridges(bridges).await,
            Err(err) => tracing::warn!(%err, "the networks of containers cannot be listed"),
        }
        Ok(Outcome::Done)
    }

    async fn create_pod(&self, app: &App, nonce: &str) -> Result<Outcome, StepError> {
        let spec = PodSpec {
            name: podman_name(app, "pod"),
            labels: labels(app, app.key().name.as_str(), Role::Pod, &self.boot, nonce),
            ports: published(app, app.mains().iter().flat_map(|c| &c.ports)),
            local_names: app.mains().iter().map(|c| c.name.to_string()).collect(),
            host_network: app.host_network(),
        };
        match self.podman.pod_create(&spec).await {
            Ok(id) => Ok(Outcome::Made(id)),
            Err(err) if err.is_name_taken() => Err(StepError::NameTaken { name: format!("pod {}", spec.name) }),
            Err(err) => {
                if err.is_image_damage() {
                    self.drop_pause_image().await;
                }
                Err(refused(&err))
            }
        }
    }

    /// Podman makes the image of its pause containers anew when there is none. One that others use stays.
    async fn drop_pause_image(&self) {
        let images = self.podman.images().await.unwrap_or_default();
        for image in images.into_iter().filter(|i| i.repo_tags.iter().any(|tag| tag.starts_with(PAUSE_IMAGE))) {
            if let Err(err) = self.podman.image_remove(&image.id, Users::Kept).await {
                tracing::warn!(%err, "the damaged image of pause containers stays");
            }
        }
    }

    async fn create(&self, order: &Order<'_>) -> Result<Outcome, StepError> {
        let spec = self.spec(order).await?;
        let mut made = self.podman.create(&spec).await;
        if made.as_ref().is_err_and(PodmanError::is_name_taken) && self.clear_leftover(&spec.name).await {
            made = self.podman.create(&spec).await;
        }
        match made {
            Ok(id) => {
                self.starts.made(&id);
                Ok(Outcome::Made(id))
            }
            Err(err) if err.is_name_taken() => Err(StepError::NameTaken { name: spec.name }),
            Err(err) if err.is_image_damage() => Err(damaged(Damage::Image, &err)),
            Err(err) => Err(refused(&err)),
        }
    }

    /// A name that no container of Podman has is held by storage of which Podman has lost the container: nobody's, and of
    /// a name that only we give.
    async fn clear_leftover(&self, name: &str) -> bool {
        match self.podman.exists(name).await {
            Ok(false) => self.podman.remove(name).await.is_ok(),
            Ok(true) | Err(_) => false,
        }
    }

    async fn examine(&self, image: &str) -> Result<Outcome, StepError> {
        let found = self.podman.image(image).await.map_err(|err| refused(&err))?;
        let Some(found) = found else { return Ok(Outcome::Done) };
        let store = self.places.store.clone();
        let examined = tokio::task::spawn_blocking(move || layers::examine(&store, &found.id)).await;
        match examined.map_err(|err| StepError::Refused(format!("the examination broke off: {err}")))? {
            Ok(None) => Ok(Outcome::Done),
            Ok(Some(why)) => Err(StepError::Damaged { damage: Damage::Image, why }),
            Err(err) => Err(StepError::Refused(format!("cannot examine image {image}: {err}"))),
        }
    }

    async fn spec(&self, order: &Order<'_>) -> Result<ContainerSpec, StepError> {
        let Order { app, name, role, pod, nonce, device } = *order;
        let view = app
            .container(name)
            .ok_or_else(|| StepError::Refused(format!("the deployment has no container {name}: a bug of the agent")))?;
        let mut env: BTreeMap<String, String> = BTreeMap::from([
            ("BRAMBLE_DEVICE".to_owned(), device.name.clone()),
            ("BRAMBLE_DEVICE_ID".to_owned(), device.id.clone()),
            ("BRAMBLE_DEPLOYMENT".to_owned(), app.key().name.to_string()),
        ]);
        env.extend(view.env.iter().filter_map(|e| Some((e.name.to_string(), e.value.clone()?))));
        let mut mounts = Vec::new();
        for volume in view.volumes {
            mounts.push(Mount {
                source: self.volume(app.key(), volume.name.as_str()).await?,
                target: volume.path.to_string(),
                mode: if volume.read_only { MountMode::ReadOnly } else { MountMode::ReadWrite },
            });
        }
        let own_ports = app.main(name).filter(|_| role == Role::Main && pod.is_none());
        Ok(ContainerSpec {
            name: podman_name(app, name.as_str()),
            image: app.reference(view.image),
            entrypoint: view.command.to_vec(),
            command: view.args.to_vec(),
            env,
            labels: labels(app, name.as_str(), role, &self.boot, nonce),
            mounts,
            ports: own_ports.map(|c| published(app, c.ports.iter())).unwrap_or_default(),
            pod: pod.map(str::to_owned),
            host_network: app.host_network(),
            log: Some(self.log(app.key(), name).await?),
            memory_bytes: view.resources.memory.map(|size| size.0),
            cpu_millis: view.resources.cpus.map(|cpus| u64::from(cpus.0)),
        })
    }

    /// A new file for a container that is being made; what it prints outlives it there.
    async fn log(&self, key: &AppKey, name: &bramble_contracts::Name) -> Result<LogFile, StepError> {
        let (root, key, name) = (self.places.logs.clone(), key.clone(), name.clone());
        let made = tokio::task::spawn_blocking(move || {
            let path = logs::reserve(&root, &key, &name);
            path.map_err(|err| StepError::Refused(format!("cannot make a log file in {}: {err}", root.display())))
        });
        let path = made.await.unwrap_or_else(|err| Err(StepError::State(format!("file work broke off: {err}"))))?;
        Ok(LogFile { path: path.display().to_string(), bytes_max: self.places.log_bytes })
    }

    /// Names cannot hold a slash or a dot, so the path cannot leave our directory.
    async fn volume(&self, key: &AppKey, name: &str) -> Result<String, StepError> {
        let dir = self.places.volumes.join(key.to_string()).join(name);
        tokio::fs::create_dir_all(&dir)
            .await
            .map_err(|err| StepError::Refused(format!("cannot make the volume directory {}: {err}", dir.display())))?;
        Ok(dir.display().to_string())
    }
}

/// What `Step::Create` says.
struct Order<'a> {
    app: &'a App,
    name: &'a bramble_contracts::Name,
    role: Role,
    pod: Option<&'a str>,
    nonce: &'a str,
    device: &'a Device,
}

pub(super) fn damaged(damage: Damage, err: &PodmanError) -> StepError {
    StepError::Damaged { damage, why: text(err) }
}

pub(super) fn refused(err: &PodmanError) -> StepError {
    StepError::Refused(text(err))
}

/// The error and what is below it.
pub(super) fn text(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut below = err.source();
    while let Some(err) = below {
        text.push_str(": ");
        text.push_str(&err.to_string());
        below = err.source();
    }
    text
}

fn host_error(err: &PodmanError) -> HostError {
    HostError(text(err))
}

/// File work waits for the disk, so it is done where waiting hurts nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|err| StepError::State(text(&err))),
        Err(err) => Err(StepError::State(format!("file work broke off: {err}"))),
    }
}

impl Host for PodmanHost {
    fn now(&self) -> Duration {
        clock::uptime()
    }

    fn boot(&self) -> String {
        self.boot.clone()
    }

    fn nonce(&self) -> String {
        let mut bytes = [0u8; 16];
        getrandom::fill(&mut bytes).expect("invariant: the kernel gives random bytes");
        HEXLOWER.encode(&bytes)
    }

    fn events(&self) -> mpsc::Receiver<HostEvent> {
        let (out, events) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(ports::forward(self.ports.mark().to_owned(), out.clone()));
        tokio::spawn(super::watch::forward(self.podman.clone(), out.clone(), label::APP));
        let (podman, room) = (self.podman.clone(), Arc::clone(&self.room));
        tokio::spawn(while_heard(out.clone(), async move { leash::end_strays(&podman).await }));
        tokio::spawn(while_heard(out.clone(), async move { room.keep(out).await }));
        events
    }

    async fn records(&self) -> Result<Vec<FoundRecord>, HostError> {
        let dir = self.places.records.clone();
        let read = tokio::task::spawn_blocking(move || {
            records::read(&dir).map_err(|err| HostError(format!("cannot read the records in {}: {err}", dir.display())))
        });
        read.await.unwrap_or_else(|err| Err(HostError(format!("reading records broke off: {err}"))))
    }

    async fn save(&self, record: &Record) -> Result<(), StepError> {
        let (file, record) = (records::file(&self.places.records, &record.key), record.clone());
        blocking(move || file.store_json(&record)).await
    }

    async fn erase(&self, key: &AppKey) -> Result<(), StepError> {
        let file = records::file(&self.places.records, key);
        blocking(move || file.remove()).await?;
        self.room.forget(key);
        Ok(())
    }

    async fn observe(&self, key: &AppKey, images: &[String]) -> Result<Observed, HostError> {
        self.room.needs(key, images);
        let mut broken = Wounds::default();
        let both = async { tokio::try_join!(self.seen(key, &mut broken), self.images(images)) };
        let (seen, (images, mut wounds)) = both.await.map_err(|err| host_error(&err))?;
        wounds.containers = broken.containers;
        let mapping = self.ports.look(key).await.map_err(HostError)?;
        Ok(Observed { seen, images, mapping, wounds })
    }

    async fn perform(&self, step: &Step) -> Result<Outcome, StepError> {
        let done = match step {
            Step::Adopt { .. } | Step::Forget { .. } => Ok(()),
            Step::Pull { image, need } => {
                return self.room.pull(image, *need).await.map(|()| Outcome::Done).map_err(StepError::Refused);
            }
            Step::Examine { image } => return self.examine(image).await,
            Step::Stop { targets, rule } => return self.stop(targets, rule).await.map(|()| Outcome::Done),
            Step::Expire { target, .. } => return self.kill(&target.id).await.map(|()| Outcome::Done),
            Step::Remove { target } => self.starts.remove(&target.id).await,
            Step::RemovePod { target } => self.starts.remove_pod(&target.id).await,
            Step::CreatePod { app, nonce } => return self.create_pod(app, nonce).await,
            Step::Create { app, name, role, pod, nonce, device } => {
                let app: &App = app;
                let order = Order { app, name, role: *role, pod: pod.as_deref(), nonce, device };
                return self.create(&order).await;
            }
            Step::Map { key, mapping, addresses, stale, listeners } => {
                return self.ports.map(key, mapping, addresses, stale, *listeners).await.map(|()| Outcome::Done);
            }
            Step::Unmap { key } => return self.ports.unmap(key).await.map(|()| Outcome::Done),
            Step::Retire { targets, addresses, rule } => {
                self.ports.drain(addresses, rule.grace).await;
                self.stop(targets, rule).await?;
                self.ports.forget(addresses.clone()).await;
                return Ok(Outcome::Done);
            }
            Step::Start { target, .. } => return self.start(&target.id).await,
            Step::Probe { app, target } => {
                let asked = probe::ask(&self.podman, app, &target.name, &target.id).await;
                return asked.map(|()| Outcome::Done).map_err(StepError::Unhealthy);
            }
        };
        done.map(|()| Outcome::Done).map_err(|err| refused(&err))
    }

    async fn exec(&self, id: &str, argv: &[String], out: mpsc::Sender<Piece>) -> Result<i32, HostError> {
        let fail = |err: PodmanError| host_error(&err);
        let command = Leash::prepare(&self.podman, id, argv).await.map_err(fail)?;
        let output = self.podman.exec_start(command.session()).await.map_err(fail)?;
        send_on(output, &out).await?;
        if out.is_closed() {
            return Err(HostError("nobody listens any more, so the command is ended".into()));
        }
        command.end().await.map_err(fail)
    }

    async fn session(&self, id: &str, program: &Program, ends: Ends) -> Result<i32, HostError> {
        let code = session::run(&self.podman, id, program, ends).await.map_err(|err| host_error(&err))?;
        code.ok_or_else(|| HostError("nobody listens any more, so the program is ended".into()))
    }
}

/// Whoever does not supervise any more changes nothing any more.
async fn while_heard(out: mpsc::Sender<HostEvent>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = out.closed() => {}
    }
}

/// Ends when the output ends or nobody listens any more.
async fn send_on(mut output: Output, out: &mpsc::Sender<Piece>) -> Result<(), HostError> {
    loop {
        let next = tokio::select! {
            next = output.next() => next,
            () = out.closed() => return Ok(()),
        };
        let Some((stream, bytes)) = next.map_err(|err| host_error(&err))? else { return Ok(()) };
        let stream = match stream {
            Stream::Out => OutputStream::Out,
            Stream::Err => OutputStream::Err,
        };
        if out.send(Piece { stream, bytes }).await.is_err() {
            return Ok(());
        }
    }
}
