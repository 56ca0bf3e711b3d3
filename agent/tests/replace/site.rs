//! A device whose agents are supervised, and the coordinator's hand on it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::Client;
use bramble_agent::host::cmd;
use bramble_agent::host::podman::Podman;
use bramble_agent::version::MARK;
use bramble_contracts::bytes::Sha256;
use bramble_contracts::signed::{Role, sign};
use bramble_contracts::subjects::{self, Bucket};
use bramble_contracts::v1::{
    AgentVersion, Command, Deployment, DesiredApp, FrameBody, Heartbeat, Instance, ReplyFrame, Verb,
};
use bramble_contracts::v2::{AgentWish, UpgradePhase, UpgradeReport, UpgradeWord};
use bramble_contracts::v3::{DesiredDocument, Report};
use bramble_contracts::{DeviceId, Generation, Revision, SessionId, Tenant, Uid, envelope};
use futures::StreamExt as _;
use serde_json::json;
use tokio::process::Child;
use tokio::task::JoinSet;

use crate::broker::last;
use crate::common::{self, IMAGE, container, deployment, free_port, tiny_image};
use crate::coordinator::{Coordinator, Tls};
use crate::{PATIENCE, eventually};

pub(crate) fn version(patch: u16) -> AgentVersion {
    let own = bramble_agent::version::number();
    AgentVersion { patch: own.patch + patch, ..own }
}

/// This agent as another version: the number in it is exchanged for one that is as long.
pub(crate) fn agent_of(version: AgentVersion) -> Vec<u8> {
    static STRIPPED: OnceLock<(Vec<u8>, usize)> = OnceLock::new();
    let (agent, at) = STRIPPED.get_or_init(stripped);
    let (old, new) = (bramble_agent::version::text(), version.to_string());
    assert_eq!(old.len(), new.len());
    let mut agent = agent.clone();
    agent[*at..*at + new.len()].copy_from_slice(new.as_bytes());
    agent
}

/// This agent without what is for debuggers, and where its version stands in it: both take a while, and it is sent often.
#[allow(clippy::disallowed_methods, reason = "people use it, the agent does not")]
fn stripped() -> (Vec<u8>, usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let mut strip = std::process::Command::new("strip");
    let status = strip.arg("-o").arg(&path).arg(env!("CARGO_BIN_EXE_bramble-agent")).status().unwrap();
    assert!(status.success(), "{status}");
    let agent = std::fs::read(&path).unwrap();
    let places = find(&agent, format!("{MARK}{}", bramble_agent::version::text()).as_bytes());
    assert_eq!(places.len(), 1, "the version stands in one place");
    (agent, places[0] + MARK.len())
}

fn find(haystack: &[u8], needle: &[u8]) -> Vec<usize> {
    let first = |from: usize| haystack[from..].iter().position(|byte| *byte == needle[0]).map(|at| from + at);
    let mut found = vec![];
    let mut from = 0;
    while let Some(at) = first(from) {
        if haystack[at..].starts_with(needle) {
            found.push(at);
        }
        from = at + 1;
    }
    found
}

/// One device with its coordinator.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    pub(crate) coordinator: Coordinator,
    pub(crate) client: Client,
    supervisor: Option<Child>,
    port: u16,
    generation: AtomicU64,
    counter: AtomicU64,
    visitor: Option<Visitor>,
}

/// Asks the app all the time.
struct Visitor {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(u64, Vec<String>)>,
}

impl Site {
    /// A device that runs, is connected, and whose app answers. `settings` is for `[upgrade]`.
    pub(crate) async fn start(settings: &str) -> Self {
        let coordinator = Coordinator::start(Tls::Plain).await;
        let client = coordinator.broker.lock().await.coordinator().await;
        let dir = tempfile::tempdir().unwrap();
        common::write_conf(dir.path());
        let mut site = Self {
            dir,
            coordinator,
            client,
            supervisor: None,
            port: free_port(),
            generation: AtomicU64::new(0),
            counter: AtomicU64::new(0),
            visitor: None,
        };
        site.configure(settings);
        site.supervise();
        eventually("the device to be connected", || async { site.report().await.is_some() }).await;
        let podman = Podman::new(site.path("run/podman.sock"));
        eventually("Podman to answer", || async { podman.version().await.is_ok() }).await;
        podman.import(IMAGE, tiny_image().into(), &[]).await.unwrap();
        site.want(None).await;
        site.reports("the app to run", |report| report.apps.iter().any(common::running)).await;
        common::http_until(site.port, "here\n").await;
        site.visit();
        site
    }

    /// Publishes a version, and lays its binary where `source` looks for it.
    pub(crate) fn publish(&self, patch: u16, seq: u64, binary: Vec<u8>) -> AgentWish {
        std::fs::create_dir_all(self.path("source")).unwrap();
        std::fs::write(self.path("source").join(Sha256::of(&binary).to_string()), &binary).unwrap();
        self.coordinator.state().releases.publish(version(patch), seq, binary)
    }

    fn configure(&self, settings: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "name = \"pi-1\"\ncoordinator = {:?}\ntoken_file = {:?}\nstate_dir = {:?}\napps_dir = {:?}\nheartbeat_secs = 1\n\
             [podman]\nrun_dir = {:?}\ncontainers_conf = {:?}\n[clock]\nservers = []\n\
             [disk]\nlow_percent = 0\nlow_mib = 0\nreserve_mib = 0\n[upgrade]\n{settings}\n",
            self.coordinator.url,
            path("token"),
            path("state"),
            path("apps"),
            path("run"),
            path("containers.conf"),
        );
        let text = text.replace("SOURCE", &format!("source = {:?}", path("source")));
        std::fs::write(path("agent.toml"), text).unwrap();
        std::fs::write(path("token"), self.coordinator.state().token.reveal().as_bytes()).unwrap();
        std::fs::set_permissions(path("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Starts `bramble-agent supervise`.
    pub(crate) fn supervise(&mut self) {
        let args = ["supervise", "--config", &self.path("agent.toml").display().to_string()].map(str::to_owned);
        let program = Path::new(env!("CARGO_BIN_EXE_bramble-agent"));
        self.supervisor = Some(cmd::start_child(program, &args, &[]).unwrap());
    }

    /// Kills it, and the agents with it.
    pub(crate) async fn kill_supervisor(&mut self) {
        self.supervisor.take().unwrap().kill().await.unwrap();
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.coordinator.state().devices.values().next().unwrap().clone()
    }

    /// Writes a new document: the app, and this release.
    pub(crate) async fn want(&self, agent: Option<&AgentWish>) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let document = DesiredDocument {
            device: self.id(),
            generation: Generation(generation),
            tenant: Tenant::default(),
            name: "pi-1".parse().unwrap(),
            labels: Default::default(),
            apps: vec![self.app()],
            agent: agent.cloned(),
            os: None,
        };
        let bytes = document.sign(&self.coordinator.state().fleet).unwrap();
        let answer = self.client.request(Bucket::Desired.subject(self.id().as_str()), bytes.into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
    }

    fn app(&self) -> DesiredApp {
        let script = "mkdir -p /www; echo here > /www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait";
        let mut app = deployment("web", &[], &[container("web", script)]);
        app["spec"]["containers"][0]["ports"] = json!([{ "host": self.port, "container": 8080 }]);
        let deployment: Deployment = serde_json::from_value(app).unwrap();
        DesiredApp { uid: Uid::from_entropy([7; 13]), revision: Revision(1), deployment, pins: vec![] }
    }

    pub(crate) async fn report(&self) -> Option<Report> {
        let device = self.coordinator.state().devices.values().next()?.clone();
        let bytes = last(&self.client, Bucket::Reported, device.as_str()).await?;
        Some(envelope::decode(&bytes).unwrap())
    }

    pub(crate) async fn reports(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let asking = async {
            loop {
                if let Some(report) = self.report().await.filter(|report| wanted(report)) {
                    return report;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(report) => report,
            Err(_) => {
                let program = self.report().await.map(|report| (report.instance, report.agent, report.program));
                panic!("waited in vain for {what}; the last report: {program:#?}\n{}", self.replay().await)
            }
        }
    }

    /// Waits for a report of an upgrade that fits.
    pub(crate) async fn upgrade(&self, what: &str, wanted: impl Fn(&Report, &UpgradeReport) -> bool) -> Report {
        self.reports(what, |report| report.program.upgrade.as_ref().is_some_and(|upgrade| wanted(report, upgrade)))
            .await
    }

    /// What the agents have kept of it.
    pub(crate) async fn replay(&self) -> String {
        let program = Path::new(env!("CARGO_BIN_EXE_bramble-agent"));
        let log = self.path("state/upgrade.log").display().to_string();
        Box::pin(cmd::run(program, &["replay", &log], cmd::Bounds::default())).await.unwrap().stdout
    }

    /// Says something to one run of the agent; answers how it ended.
    pub(crate) async fn say(&self, session: SessionId, word: UpgradeWord) -> FrameBody {
        let uptime = bramble_agent::host::clock::up_ms();
        let counter = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
        let verb = Verb::Upgrade(word);
        let subject = subjects::command(&self.id(), verb.name());
        let command = Command { device: self.id(), session, counter, expires_uptime_ms: uptime + 30_000, verb };
        let bytes = sign(&command, Role::Fleet, &self.coordinator.state().fleet).unwrap();
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.unwrap();
        self.client.publish_with_reply(subject, inbox, bytes.into()).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(20), answers.next()).await.expect("an answer").unwrap();
        envelope::decode::<ReplyFrame>(&answer.payload).unwrap().body
    }

    /// As a coordinator confirms: once the new run has reported that it acts on the newest document, with all done.
    pub(crate) async fn confirm(&self, wish: &AgentWish, old: SessionId) -> Report {
        let generation = self.generation.load(Ordering::Relaxed);
        let on_trial = self
            .upgrade("the new agent to act", |report, upgrade| {
                report.session != old
                    && report.agent == wish.version
                    && report.generation.0 == generation
                    && upgrade.phase == UpgradePhase::Trial
                    && report.apps.iter().all(common::running)
                    && !report.apps.is_empty()
            })
            .await;
        let word = || UpgradeWord::Confirm { release_seq: wish.release_seq };
        eventually("the new agent to be confirmed", || async {
            matches!(self.say(on_trial.session, word()).await, FrameBody::End { .. })
        })
        .await;
        on_trial
    }

    /// Processes of this device's agents, as instance and process.
    pub(crate) fn agents(&self) -> Vec<(Instance, i32)> {
        let config = self.path("agent.toml").display().to_string();
        let read = |entry: std::fs::DirEntry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = String::from_utf8(std::fs::read(entry.path().join("cmdline")).ok()?).ok()?;
            let words: Vec<&str> = line.split('\0').collect();
            let is_ours = words.contains(&"run") && words.contains(&config.as_str());
            let instance = if words.contains(&"a") { Instance::A } else { Instance::B };
            is_ours.then_some((instance, pid))
        };
        let mut all: Vec<_> = std::fs::read_dir("/proc").unwrap().flatten().filter_map(read).collect();
        all.sort_unstable();
        all
    }

    pub(crate) fn link(&self, name: &str) -> String {
        let target = std::fs::read_link(self.path("state/bin").join(name)).unwrap();
        target.display().to_string().replace("bramble-agent-v", "")
    }

    /// Acts as a coordinator does, until it is dropped: confirms whoever is on trial and has done everything, retires whoever
    /// is not needed any more.
    pub(crate) fn coordinate(&self) -> JoinSet<()> {
        let (client, coordinator, device) = (self.client.clone(), self.coordinator.clone(), self.id());
        let hand = Hand { client, coordinator, device, counter: Arc::new(AtomicU64::new(1000)) };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { hand.work().await });
        tasks
    }

    /// Starts of processes, kills and all: exactly one agent acts, and runs this version.
    pub(crate) async fn settles(&self, patch: u16) -> Report {
        self.reports("peace", |report| {
            let done = report.program.upgrade.as_ref().is_none_or(|upgrade| upgrade.phase == UpgradePhase::Done);
            report.agent == version(patch) && done && report.apps.iter().all(common::running) && !report.apps.is_empty()
        })
        .await
    }

    fn visit(&mut self) {
        let (stop, port) = (Arc::new(AtomicBool::new(false)), self.port);
        let told = stop.clone();
        let task = tokio::spawn(async move {
            let (mut answers, mut failures) = (0, vec![]);
            while !told.load(Ordering::Relaxed) {
                match tokio::time::timeout(Duration::from_secs(20), common::try_get(port)).await {
                    Ok(Ok(text)) if text.ends_with("here\n") => answers += 1,
                    other => failures.push(format!("{other:?}")),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (answers, failures)
        });
        self.visitor = Some(Visitor { stop, task });
    }

    /// How often the app answered until now: every time it was asked.
    pub(crate) async fn every_answer(&mut self) -> u64 {
        let Visitor { stop, task } = self.visitor.take().unwrap();
        stop.store(true, Ordering::Relaxed);
        let (answers, failures) = task.await.unwrap();
        assert!(failures.is_empty(), "{} of {} failed: {:?}", failures.len(), answers, failures.first());
        answers
    }
}

/// A coordinator's hand on its device.
struct Hand {
    client: Client,
    coordinator: Coordinator,
    device: DeviceId,
    counter: Arc<AtomicU64>,
}

impl Hand {
    async fn work(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let Some(bytes) = last(&self.client, Bucket::Reported, self.device.as_str()).await else { continue };
            let report: Report = envelope::decode(&bytes).unwrap();
            let Some(upgrade) = &report.program.upgrade else { continue };
            match upgrade.phase {
                UpgradePhase::Trial if report.apps.iter().all(common::running) && !report.apps.is_empty() => {
                    let word = UpgradeWord::Confirm { release_seq: report.program.release_seq };
                    self.say(report.session, word).await;
                }
                UpgradePhase::Stopping => {
                    let other = if report.instance == Instance::A { Instance::B } else { Instance::A };
                    let key = subjects::liveness_key(&self.device, other);
                    if let Some(beat) = last(&self.client, Bucket::Liveness, &key).await {
                        let beat: Heartbeat = envelope::decode(&beat).unwrap();
                        self.say(beat.session, UpgradeWord::Retire).await;
                    }
                }
                _ => {}
            }
        }
    }

    async fn say(&self, session: SessionId, word: UpgradeWord) {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed) + 1;
        let verb = Verb::Upgrade(word);
        let subject = subjects::command(&self.device, verb.name());
        let expires_uptime_ms = bramble_agent::host::clock::up_ms() + 30_000;
        let command = Command { device: self.device.clone(), session, counter, expires_uptime_ms, verb };
        let bytes = sign(&command, Role::Fleet, &self.coordinator.state().fleet).unwrap();
        // Whoever it is for may have been killed.
        let asked = self.client.request(subject, bytes.into());
        drop(tokio::time::timeout(Duration::from_secs(2), asked).await);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let agents: Vec<i32> = self.agents().into_iter().map(|(_, pid)| pid).collect();
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.start_kill().ok();
        }
        for pid in agents {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
        }
        std::thread::sleep(Duration::from_millis(200));
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path("state/upgrade.log")).unwrap_or_default();
            match bramble_agent::core::upgrade::replay(&log) {
                Ok(story) => eprintln!("{story}"),
                Err(err) => eprintln!("{err}"),
            }
        }
        common::clear_up(self.dir.path());
    }
}
