//! One agent on a simulated device, and what the tests see of it from the coordinator's side.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bramble_agent::host::logs::{self, Logs};
use bramble_agent::mesh::http::Base;
use bramble_agent::mesh::{Agent, Config, Question, Settings};
use bramble_agent::sim::SimHost;
use bramble_contracts::signed::{Role, sign};
use bramble_contracts::subjects::{self, Bucket};
use bramble_contracts::v1::{Command, DesiredApp, DeviceFacts, FrameBody, Heartbeat, Instance, ReplyFrame, Verb};
use bramble_contracts::v2::{ClockReport, ClockVerdict, CommandInput};
use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::v3::Report;
use bramble_contracts::{DeviceId, Generation, Revision, Tenant, Uid, envelope};
use ed25519_dalek::SigningKey;
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::broker::last;
use crate::coordinator::Coordinator;
use crate::eventually;

pub(crate) struct Device {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) host: Arc<SimHost>,
    agent: Option<Agent>,
    coordinator: Coordinator,
    pub(crate) client: Client,
    /// NTP servers it asks.
    pub(crate) ntp: Vec<String>,
    /// What is asked of upgrades of the operating system; nobody answers by himself.
    pub(crate) questions: Option<mpsc::Receiver<Question>>,
}

impl Device {
    /// A device with a token, not started.
    pub(crate) async fn new(coordinator: &Coordinator) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let client = coordinator.broker.lock().await.coordinator().await;
        let new = Self {
            dir,
            host: SimHost::new(),
            agent: None,
            coordinator: coordinator.clone(),
            client,
            ntp: vec![],
            questions: None,
        };
        let token = coordinator.state().token.reveal();
        new.write_token(&token);
        new
    }

    /// A device that is enrolled and connected.
    pub(crate) async fn connected(coordinator: &Coordinator) -> Self {
        let mut device = Self::new(coordinator).await;
        device.start();
        device.is_connected().await;
        device
    }

    pub(crate) fn write_token(&self, text: &str) {
        use std::io::Write as _;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(self.token()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn token(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    pub(crate) fn start(&mut self) {
        self.start_holding(false);
    }

    /// The same, as on a device whose operating system is upgraded where that is so.
    pub(crate) fn start_holding(&mut self, holds: bool) {
        let settings = Settings {
            state_dir: self.dir.path().join("state"),
            coordinator: Base::parse(&self.coordinator.url).unwrap(),
            instance: Instance::A,
            heartbeat: Duration::from_secs(1),
            report: Duration::from_secs(60),
            desired: Duration::from_secs(60),
            ntp: self.ntp.clone(),
        };
        let (questions, asked) = mpsc::channel(1);
        self.questions = Some(asked);
        let config = Config {
            settings,
            name: Some("pi-1".parse().unwrap()),
            token_file: Some(self.token()),
            facts: watch::channel(DeviceFacts::default()).1,
            words: mpsc::channel(1).0,
            questions,
        };
        let logs = Logs::start(logs::Places::below(&self.dir.path().join("apps")), logs::Budget::default());
        let mut agent = Agent::ready(config).unwrap();
        agent.board().update(|view| view.holds_apps = holds);
        agent.act(self.host.clone(), logs).unwrap();
        self.agent = Some(agent);
    }

    pub(crate) async fn stop(&mut self) {
        self.agent.take().unwrap().shutdown().await;
    }

    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    pub(crate) async fn is_connected(&self) {
        let mut changes = self.agent().changes();
        let connected = changes.wait_for(|view| view.connected);
        assert!(tokio::time::timeout(crate::PATIENCE, connected).await.is_ok(), "waited in vain for the connection");
    }

    pub(crate) fn id(&self) -> DeviceId {
        self.agent().device().borrow().clone().expect("enrolled")
    }

    pub(crate) fn generation(&self) -> u64 {
        self.agent().view().desired.map_or(0, |document| document.generation.0)
    }

    pub(crate) async fn reaches(&self, generation: u64) {
        eventually(&format!("generation {generation}"), || async { self.generation() == generation }).await;
    }

    /// A document with one app of that name, or none.
    pub(crate) fn document(&self, generation: u64, app: Option<&str>) -> DesiredDocument {
        DesiredDocument {
            device: self.id(),
            generation: Generation(generation),
            tenant: Tenant::default(),
            name: "pi-1".parse().unwrap(),
            labels: Default::default(),
            apps: app.map(desired_app).into_iter().collect(),
            agent: None,
            os: None,
        }
    }

    /// A document with apps of those names.
    pub(crate) fn document_of(&self, generation: u64, apps: &[&str]) -> DesiredDocument {
        let apps = apps.iter().map(|name| desired_app(name)).collect();
        DesiredDocument { apps, ..self.document(generation, None) }
    }

    pub(crate) fn signed(&self, document: &DesiredDocument) -> Vec<u8> {
        sign(document, Role::Fleet, &self.coordinator.state().fleet).unwrap()
    }

    /// Writes bytes as the coordinator writes a desired document: JetStream pushes them.
    pub(crate) async fn put(&self, bytes: Vec<u8>) {
        let subject = Bucket::Desired.subject(self.id().as_str());
        let answer = self.client.request(subject, bytes.into()).await.unwrap();
        assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
    }

    pub(crate) async fn report(&self) -> Option<Report> {
        let bytes = last(&self.client, Bucket::Reported, self.id().as_str()).await?;
        Some(envelope::decode(&bytes).unwrap())
    }

    pub(crate) async fn reports(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        eventually(what, || async { self.report().await.is_some_and(|report| wanted(&report)) }).await;
        self.report().await.unwrap()
    }

    /// The clock as the agent's board has it.
    pub(crate) async fn clock_is(&self, verdict: ClockVerdict) -> ClockReport {
        let mut changes = self.agent().changes();
        let judged =
            tokio::time::timeout(crate::PATIENCE, changes.wait_for(|view| view.clock.verdict == verdict)).await;
        let now = self.agent().view().clock;
        judged.map(|view| view.unwrap().clock.clone()).unwrap_or_else(|_| panic!("not {verdict:?} but {now:?}"))
    }

    pub(crate) async fn heartbeat(&self) -> Option<Heartbeat> {
        let key = subjects::liveness_key(&self.id(), Instance::A);
        let bytes = last(&self.client, Bucket::Liveness, &key).await?;
        assert!(bytes.len() <= 40, "a heartbeat has {} bytes", bytes.len());
        Some(envelope::decode(&bytes).unwrap())
    }

    pub(crate) fn command(&self, counter: u64, verb: Verb) -> Command {
        let uptime = u64::try_from(bramble_agent::host::clock::uptime().as_millis()).unwrap();
        Command {
            device: self.id(),
            session: self.agent().session(),
            counter,
            expires_uptime_ms: uptime + 30_000,
            verb,
        }
    }

    pub(crate) fn sign_command(&self, command: &Command) -> Vec<u8> {
        sign(command, Role::Fleet, &self.coordinator.state().fleet).unwrap()
    }

    pub(crate) fn sign_input(&self, input: &CommandInput) -> Vec<u8> {
        sign(input, Role::Fleet, &self.coordinator.state().fleet).unwrap()
    }

    pub(crate) fn sign_by(&self, document: &DesiredDocument, key: &SigningKey) -> Vec<u8> {
        sign(document, Role::Fleet, key).unwrap()
    }

    /// Sends bytes as a command and gathers the answer until its last frame, or nothing within `patience`.
    pub(crate) async fn ask(&self, verb: &str, bytes: Vec<u8>, patience: Duration) -> Vec<FrameBody> {
        // A coordinator commands only whom it hears; the heartbeat comes after the subscriptions on the same connection.
        eventually("a heartbeat of this run", || async {
            self.heartbeat().await.is_some_and(|beat| beat.session == self.agent().session())
        })
        .await;
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.unwrap();
        let subject = subjects::command(&self.id(), verb);
        self.client.publish_with_reply(subject, inbox, bytes.into()).await.unwrap();
        let mut frames = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(patience, answers.next()).await {
            assert!(message.status.is_none(), "{message:?}");
            let frame: ReplyFrame = envelope::decode(&message.payload).unwrap();
            assert_eq!(frame.seq as usize, frames.len(), "frames come in order, none is lost");
            let last = matches!(frame.body, FrameBody::End { .. } | FrameBody::Refused { .. });
            frames.push(frame.body);
            if last {
                break;
            }
        }
        frames
    }
}

fn desired_app(name: &str) -> DesiredApp {
    let deployment = json!({
        "apiVersion": "bramble/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "selector": { "devices": ["pi-1"] }, "containers": [{ "name": "main", "image": "localhost/hello:1" }] },
    });
    let manifest: bramble_contracts::v1::Manifest = serde_json::from_value(deployment).unwrap();
    DesiredApp { uid: Uid::from_entropy([9; 13]), revision: Revision(1), deployment: manifest.into(), pins: vec![] }
}
