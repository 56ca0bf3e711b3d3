//! A coordinator with everything real but the broker, and devices that obey.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{
    Generation, SessionId,
    bytes::Fixed,
    envelope::{self, Message},
    id::{DeviceId, Tenant},
    signed::{self, Role},
    subjects::{Bucket, liveness_key},
    token::EnrollmentToken,
    v1::{
        Command, EnrollRequest, EnrollResponse, FrameBody, Health, Heartbeat, Instance, LogPart, LogRest, Refusal,
        ReplyFrame,
    },
    v2::AppReport,
    v3::{OsPlan, Report},
};
use bramble_coordinator::{
    background::{
        self, Core, Times,
        port::{Mesh, MeshError, Opened},
    },
    domain::{invariants::violations, view::Lens},
    http::{self, App, auth::Auth},
    keys::{Addresses, Keys, Quarantined},
    mesh::LinkNews,
    store::memory::Memory,
};
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    sync::{Barrier, mpsc},
    task::JoinHandle,
};
use tower::ServiceExt as _;

use crate::sessions::Sessions;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The mesh as devices make it: each answers with the signed document it holds.
#[derive(Default)]
pub(crate) struct SimMesh {
    documents: Mutex<BTreeMap<DeviceId, Bytes>>,
    /// The keys the broker refuses.
    pub(crate) cut: Mutex<BTreeMap<String, u64>>,
    keys: Mutex<Option<Arc<Keys>>>,
    /// Devices that carry out a command only above this counter.
    pub(crate) gates: Mutex<BTreeMap<DeviceId, u64>>,
    /// Logs come once all who share this have been asked.
    pub(crate) logs_together: Mutex<Option<Arc<Barrier>>>,
    pub(crate) sessions: Sessions,
    /// What agents were told of their upgrade, the newest last.
    pub(crate) words: Mutex<Vec<Command>>,
    /// What devices answer when they are asked what an upgrade would do; the others are silent.
    pub(crate) plans: Mutex<BTreeMap<DeviceId, Result<OsPlan, String>>>,
}

impl SimMesh {
    fn open<M: Message>(&self, signed: &[u8]) -> M {
        let keys = self.keys.lock().unwrap().clone().unwrap();
        let trust = keys.trust_document();
        signed::open(signed, Role::Fleet, |role, id| trust.key(role, id)).unwrap()
    }
}

impl Mesh for SimMesh {
    fn command<'a>(
        &'a self,
        device: &'a DeviceId,
        verb: &'static str,
        signed: Vec<u8>,
        _silence: Duration,
    ) -> BoxFuture<'a, Result<Opened, MeshError>> {
        if verb == "session" {
            return Box::pin(async move { self.sessions.begin(&self.open(&signed)) });
        }
        let opened = |frames| Opened { frames, inbox: "_INBOX.sim".to_owned() };
        let document = self.documents.lock().unwrap().get(device).cloned();
        let refused = self.gates.lock().unwrap().get_mut(device).and_then(|last| {
            let command: Command = self.open(&signed);
            let stale = command.counter <= *last;
            *last = command.counter.max(*last);
            stale.then(|| "command was used before, or came after a later one; try again".to_owned())
        });
        let together = self.logs_together.lock().unwrap().clone();
        let plan = self.plans.lock().unwrap().get(device).cloned();
        Box::pin(async move {
            if let Some(why) = refused {
                let frame = ReplyFrame { seq: 0, body: FrameBody::Refused { why } };
                return Ok(opened(stream::iter([Ok(frame)]).boxed()));
            }
            let unreachable = || MeshError::Unreachable { why: "it is not connected".to_owned() };
            if verb == "upgrade" {
                let command = self.open(&signed);
                self.words.lock().unwrap().push(command);
            }
            let bodies = match verb {
                "upgrade" => vec![FrameBody::End { exit_code: None }],
                "os-plan" => match plan.ok_or_else(unreachable)? {
                    Ok(plan) => {
                        let alive = || FrameBody::Stdout(vec![]);
                        vec![alive(), alive(), FrameBody::OsPlan(Box::new(plan)), FrameBody::End { exit_code: None }]
                    }
                    Err(why) => vec![FrameBody::Refused { why }],
                },
                "desired" => {
                    let document = document.ok_or_else(unreachable)?;
                    vec![FrameBody::Document(document.to_vec()), FrameBody::End { exit_code: None }]
                }
                "exec" => vec![FrameBody::Stdout(b"hi".to_vec()), FrameBody::End { exit_code: Some(3) }],
                "log" => {
                    let together = together.ok_or_else(unreachable)?;
                    let end = vec![FrameBody::Log(LogPart::Rest(LogRest::Done)), FrameBody::End { exit_code: None }];
                    let frames = end.into_iter().zip(0..).map(|(body, seq)| Ok(ReplyFrame { seq, body }));
                    let wait = stream::once(async move { together.wait().await }).filter_map(async |_| None);
                    return Ok(opened(wait.chain(stream::iter(frames.collect::<Vec<_>>())).boxed()));
                }
                _ => return Err(unreachable()),
            };
            let frames = bodies.into_iter().zip(0..).map(|(body, seq)| Ok(ReplyFrame { seq, body }));
            Ok(opened(stream::iter(frames.collect::<Vec<_>>()).boxed()))
        })
    }

    fn input<'a>(
        &'a self,
        _device: &'a DeviceId,
        signed: Vec<u8>,
        reply: Option<&'a str>,
    ) -> BoxFuture<'a, Result<(), MeshError>> {
        Box::pin(async move {
            self.sessions.hear(self.open(&signed), reply.is_some());
            Ok(())
        })
    }

    fn set_quarantined<'a>(&'a self, keys: &'a BTreeMap<String, u64>) -> BoxFuture<'a, Result<(), MeshError>> {
        self.keys.lock().unwrap().as_ref().unwrap().set_quarantined(keys).unwrap();
        self.cut.lock().unwrap().clone_from(keys);
        Box::pin(async { Ok(()) })
    }
}

/// One coordinator.
pub(crate) struct Sim {
    pub(crate) core: Arc<Core>,
    pub(crate) store: Memory,
    pub(crate) mesh: Arc<SimMesh>,
    pub(crate) router: Router,
    pub(crate) admin: String,
    pub(crate) links: mpsc::Sender<LinkNews>,
    state: Arc<TempDir>,
    pub(crate) running: JoinHandle<()>,
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) body: Value,
}

impl Sim {
    /// On an empty store.
    pub(crate) fn new() -> Self {
        let state = Arc::new(tempfile::tempdir().unwrap());
        Self::start(Memory::new(), Arc::default(), state)
    }

    /// Another coordinator on the same store, with the same keys.
    pub(crate) fn another(&self) -> Self {
        Self::start(self.store.clone(), Arc::clone(&self.mesh), Arc::clone(&self.state))
    }

    /// The same coordinator after it has been told another address.
    pub(crate) fn moved_to(self, url: &str) -> Self {
        let addresses = Addresses { coordinators: vec![url.to_owned()], brokers: vec![] };
        Keys::load_or_create(&self.state.path().join("keys"), &addresses).unwrap();
        self.kill()()
    }

    /// A coordinator that knows nothing yet and does nothing by itself.
    pub(crate) fn idle(store: &Memory, mesh: &Arc<SimMesh>, keys: &Path) -> Arc<Core> {
        let keys = Arc::new(Keys::load_or_create(keys, &Addresses::default()).unwrap());
        *mesh.keys.lock().unwrap() = Some(Arc::clone(&keys));
        let times = Times { heartbeat_timeout: Duration::from_secs(600), device_jwt: Duration::from_secs(3600) };
        Core::new(Arc::new(store.clone()), keys, Arc::clone(mesh) as Arc<dyn Mesh>, times)
    }

    /// The folder of the keys.
    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.state.path().join("keys")
    }

    fn start(store: Memory, mesh: Arc<SimMesh>, state: Arc<TempDir>) -> Self {
        let core = Self::idle(&store, &mesh, &state.path().join("keys"));
        let (tell, links) = mpsc::channel(8);
        let running = {
            let core = Arc::clone(&core);
            tokio::spawn(async move { background::run(core, links).await })
        };
        std::fs::write(state.path().join("api-tokens.json"), crate::api::powerless().to_string()).unwrap();
        let auth = Auth::load(state.path()).unwrap();
        let admin = std::fs::read_to_string(state.path().join("admin.token")).unwrap().trim().to_owned();
        let router = http::router(App::new(
            Arc::clone(&core),
            auth,
            state.path().to_owned(),
            tokio::sync::watch::channel(false).1,
        ));
        Self { core, store, mesh, router, admin, links: tell, state, running }
    }

    /// Stops it, as kill -9 would.
    pub(crate) fn kill(self) -> impl Fn() -> Self {
        let (store, mesh, state) = (self.store.clone(), Arc::clone(&self.mesh), Arc::clone(&self.state));
        self.running.abort();
        move || Self::start(store.clone(), Arc::clone(&mesh), Arc::clone(&state))
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 16 << 20).await.unwrap();
        let body =
            serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// As the administrator of tenant `default`.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.admin))
            .header("x-tenant-id", "default");
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        self.send(request.unwrap()).await
    }

    /// The same, which must succeed.
    pub(crate) async fn must(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let answer = self.ask(method, path, body).await;
        assert!(answer.status.is_success(), "{method} {path}: {} {}", answer.status, answer.body);
        answer.body
    }

    /// Waits until what is known is so.
    pub(crate) async fn until(&self, what: &str, so: impl Fn(&Lens<'_>) -> bool) {
        let mut ticks = self.core.index.ticks();
        let waiting = async {
            while !self.core.index.look(&so) {
                // The index does not tick when only a pass of the reconciler is awaited.
                let _ = tokio::time::timeout(Duration::from_millis(20), ticks.changed()).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "waited in vain until {what}");
    }

    /// Waits until it has caught up.
    pub(crate) async fn ready(&self) {
        self.until("it is ready", |lens| lens.fleet.waits_for().is_empty()).await;
    }

    /// Waits until nothing is left to do, and checks what must always hold.
    pub(crate) async fn converged(&self) {
        self.until("all has converged", |lens| lens.fleet.waits_for().is_empty() && violations(lens.fleet).is_empty())
            .await;
    }

    /// A token's text.
    pub(crate) async fn token(&self, request: Value) -> EnrollmentToken {
        let made = self.must("POST", "/api/v1/enrollment-tokens", Some(request)).await;
        made["token"].as_str().unwrap().parse().unwrap()
    }

    /// Presents a token with a key.
    pub(crate) async fn enroll(&self, token: &EnrollmentToken, key: &KeyPair, name: &str) -> Answer {
        let public_key = key.public_key();
        let text = EnrollRequest::proof_text(&token.id, &public_key);
        let proof = data_encoding::BASE64URL_NOPAD.encode(&key.sign(text.as_bytes()).unwrap());
        let body = json!({
            "token": token.id, "secret": *token.secret_text(), "publicKey": public_key, "proof": proof,
            "name": name, "newestDocument": 1,
        });
        let request = Request::post("/api/v1/enroll").header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    /// A device that is enrolled, active and online.
    pub(crate) async fn device(&self, name: &str, labels: Value) -> SimDevice {
        let token = self.token(json!({ "labels": labels })).await;
        let key = KeyPair::new_user();
        let answer = self.enroll(&token, &key, name).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        let enrolled: EnrollResponse = serde_json::from_value(answer.body).unwrap();
        let device = SimDevice { id: enrolled.device, key, generation: Mutex::default(), refused: Mutex::default() };
        device.speak(self, Generation(0), vec![]);
        device
    }

    /// A device's document as the store has it.
    pub(crate) fn document(&self, id: &DeviceId) -> Option<DesiredDocument> {
        let bytes = self.store.all(Bucket::Desired).get(id.as_str()).cloned()?;
        Some(self.core.keys.open_desired(&bytes).unwrap())
    }

    /// The apps of a device's document.
    pub(crate) fn apps(&self, id: &DeviceId) -> Vec<String> {
        let apps = self.document(id).map(|d| d.apps).unwrap_or_default();
        apps.iter().map(|a| format!("{}@{}", a.deployment.metadata.name, a.revision)).collect()
    }

    pub(crate) fn cut(&self) -> Vec<String> {
        let Quarantined::Known(listed) = self.core.keys.quarantined() else { panic!("the file is whole") };
        assert_eq!(*self.mesh.cut.lock().unwrap(), listed, "the broker has what the file says");
        listed.into_keys().collect()
    }
}

/// One device.
pub(crate) struct SimDevice {
    pub(crate) id: DeviceId,
    pub(crate) key: KeyPair,
    generation: Mutex<Generation>,
    refused: Mutex<Vec<Refusal>>,
}

impl SimDevice {
    /// Takes the document the store has, and says so.
    pub(crate) fn take(&self, sim: &Sim) {
        let bytes = sim.store.all(Bucket::Desired).get(self.id.as_str()).cloned().unwrap();
        let document = sim.core.keys.open_desired(&bytes).unwrap();
        let mut generation = self.generation.lock().unwrap();
        assert!(document.generation >= *generation, "the device refuses an older generation");
        *generation = document.generation;
        sim.mesh.documents.lock().unwrap().insert(self.id.clone(), bytes);
        self.speak(sim, document.generation, vec![]);
    }

    /// The same, once there is one.
    pub(crate) async fn take_when_there(&self, sim: &Sim) {
        sim.until("it has a document", |_| sim.document(&self.id).is_some()).await;
        self.take(sim);
    }

    /// Says again what it has, as after a restart of the broker.
    pub(crate) fn repeat(&self, sim: &Sim) {
        self.speak(sim, *self.generation.lock().unwrap(), vec![]);
    }

    /// Heartbeat and report; what it refused stays in the report.
    pub(crate) fn speak(&self, sim: &Sim, generation: Generation, refused: Vec<Refusal>) {
        self.refused.lock().unwrap().extend(refused);
        self.report(sim, generation, vec![]);
    }

    /// Heartbeat and report, with these apps.
    pub(crate) fn report(&self, sim: &Sim, generation: Generation, apps: Vec<AppReport>) {
        let refused = self.refused.lock().unwrap().clone();
        let session: SessionId = Fixed([7; 8]);
        let heartbeat = Heartbeat {
            session,
            instance: Instance::A,
            seq: 1,
            uptime_ms: 1000,
            generation,
            version: "0.1.0".parse().unwrap(),
            newest_document: 1,
            health: Health::Healthy,
        };
        let report = Report {
            device: self.id.clone(),
            session,
            instance: Instance::A,
            seq: 1,
            generation,
            newest_document: 1,
            trust_version: 1,
            agent: "0.1.0".parse().unwrap(),
            health: Health::Healthy,
            facts: Default::default(),
            clock: Default::default(),
            program: Default::default(),
            os: Default::default(),
            apps,
            refused,
            alarms: vec![],
        };
        let bytes = |b: Vec<u8>| Some(Bytes::from(b));
        sim.store.force(Bucket::Reported, self.id.as_str(), bytes(envelope::encode(&report).unwrap()));
        let key = liveness_key(&self.id, Instance::A);
        sim.store.force(Bucket::Liveness, &key, bytes(envelope::encode(&heartbeat).unwrap()));
    }
}

/// A manifest of one container.
pub(crate) fn manifest(name: &str, labels: impl Into<Value>, port: u16, version: u32) -> Value {
    let labels: Value = labels.into();
    json!({
        "apiVersion": "bramble/v1", "kind": "Deployment",
        "metadata": { "name": name, "tenant": Tenant::default() },
        "spec": {
            "selector": { "matchLabels": labels },
            "containers": [{
                "name": "main", "image": format!("localhost/app:{version}"),
                "ports": [{ "host": port, "container": 80 }],
            }],
        },
    })
}
