//! A fleet: one coordinator with its broker, its devices, and the questions every case asks of them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::api::{
    Applied, AuditEvent, Connection, DeploymentView, DeviceView, Page, TargetView, TokenCreated,
};
use bramble_contracts::v1::{ContainerRole, Status};
use serde_json::{Value, json};
use xtask::run::Cmd;

use crate::api::Api;
use crate::app::Running;
use crate::case::Case;
use crate::cli::Bramble;
use crate::clock::{soon, wait_until};
use crate::device::{Device, DeviceSetup};
use crate::manifest::LABEL;
use crate::process::{Line, Proc, kill_pid, lives};
use crate::programs::programs;

/// How a fleet is made.
#[derive(Debug, Clone)]
pub struct FleetSetup {
    /// Where API and broker listen; ports are chosen when they are 0.
    pub listen: Ipv4Addr,
    /// More arguments for `bramble-coordinator serve`.
    pub serve: Vec<String>,
}

impl Default for FleetSetup {
    fn default() -> Self {
        Self { listen: Ipv4Addr::LOCALHOST, serve: vec![] }
    }
}

/// One coordinator process, with the broker it supervises.
#[derive(Debug)]
pub struct Coordinator {
    proc: Proc,
    state: PathBuf,
    api: SocketAddr,
    broker: SocketAddr,
    scheme: &'static str,
}

/// A fleet. Dropping it ends everything.
pub struct Fleet {
    coordinator: Coordinator,
    case: Arc<Case>,
}

/// A port nobody listens on now, and that nobody is given by chance: below the range for outgoing connections.
fn free_port(case: &Case) -> u16 {
    let mut dice = case.dice();
    for _ in 0..2000 {
        let mark = dice.below(1 << 40) ^ u64::from(std::process::id()) ^ next_mark();
        let port = 12_000 + u16::try_from(mark % 18_000).expect("invariant: below 18,000");
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

fn next_mark() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(7919, std::sync::atomic::Ordering::Relaxed)
}

impl Coordinator {
    /// A coordinator on free ports; not started.
    #[must_use]
    pub fn new(case: &Arc<Case>, name: &str, setup: &FleetSetup) -> Self {
        let api = SocketAddr::from((setup.listen, free_port(case)));
        let broker = SocketAddr::from((setup.listen, free_port(case)));
        let state = case.dir().join(name);
        let scheme = if setup.listen.is_loopback() { "http" } else { "https" };
        let line = Line::new(&programs().coordinator)
            .args(["serve", "--listen", &api.to_string(), "--broker-listen", &broker.to_string()])
            .args(["--nats-server", &programs().nats_server.display().to_string()])
            .args(["--state", &state.display().to_string()])
            .args(&setup.serve);
        let log = std::env::var("BRAMBLE_COORDINATOR_LOG").unwrap_or_else(|_| "info".into());
        let line = line.env("RUST_LOG", &log).env("NO_COLOR", "1");
        Self { proc: Proc::new(name, &case.logs(), line), state, api, broker, scheme }
    }

    /// Its process.
    #[must_use]
    pub fn proc(&self) -> &Proc {
        &self.proc
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> &PathBuf {
        &self.state
    }

    /// Where its broker listens.
    #[must_use]
    pub fn broker(&self) -> SocketAddr {
        self.broker
    }

    /// Where its API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.api
    }

    /// Base URL of its API.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.api)
    }

    /// The administrator's token.
    ///
    /// # Panics
    /// When it has not been made.
    #[must_use]
    pub fn admin_token(&self) -> String {
        let file = self.state.join("admin.token");
        let text = fs::read_to_string(&file).unwrap_or_else(|err| panic!("cannot read {}: {err}", file.display()));
        text.trim().to_owned()
    }

    /// Its API, as the administrator.
    #[must_use]
    pub fn api(&self) -> Api {
        let ca = (self.scheme == "https").then(|| fs::read(self.ca()).expect("the authority's certificate is there"));
        Api::new(&self.url(), &self.admin_token(), ca.as_deref())
    }

    /// Waits until it serves.
    pub fn ready(&self) {
        wait_until("the coordinator to be ready", Duration::from_secs(60), || {
            if let Some(end) = self.proc.ended() {
                return Err(format!("it ended with {end}. {}", self.proc.last_words()));
            }
            if !self.state.join("admin.token").exists() {
                return Err("there is no admin token yet".into());
            }
            let answer = self.api().ask("GET", "/ready", None)?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.body)) }
        });
    }

    /// The certificate of its authority.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.state.join("keys/ca.pem")
    }

    /// Starts it and waits until it serves.
    pub fn start(&self) {
        self.proc.start();
        self.ready();
    }

    /// The broker's process id, if it lives: also that of a broker that outlived the coordinator which started it.
    #[must_use]
    pub fn broker_pid(&self) -> Option<i32> {
        let record: Value = serde_json::from_slice(&fs::read(self.broker_dir().join("process.json")).ok()?).ok()?;
        let pid = i32::try_from(record["pid"].as_i64()?).ok()?;
        lives(pid).then_some(pid)
    }

    /// Where the broker's configuration, storage and accounts lie.
    #[must_use]
    pub fn broker_dir(&self) -> PathBuf {
        self.state.join("broker")
    }

    /// SIGKILL to the broker alone; the coordinator starts it again.
    ///
    /// # Panics
    /// When there is none.
    pub fn kill_broker(&self) {
        let pid = soon("the broker to be there", || self.broker_pid().ok_or_else(|| self.proc.last_words()));
        kill_pid(pid);
        soon("the broker to die", || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) });
    }

    /// SIGKILL to coordinator and broker, as a power cut does.
    pub fn kill_both(&self) {
        let broker = self.broker_pid();
        self.proc.kill();
        if let Some(pid) = broker {
            kill_pid(pid);
            soon("the broker to die", || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) });
        }
    }

    /// SIGTERM: the coordinator ends in peace, and the broker is gone too.
    ///
    /// # Panics
    /// When it ends without success.
    pub fn stop(&self) {
        let broker = self.broker_pid();
        let status = self.proc.term(Duration::from_secs(30));
        assert!(status.success(), "the coordinator ended with {status}. {}", self.proc.last_words());
        if let Some(pid) = broker {
            soon("the broker to end with it", || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) });
        }
    }

    /// The broker's storage folder: JetStream's files.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.broker_dir().join("jetstream")
    }

    /// The folder of account JWTs, which the broker updates itself.
    #[must_use]
    pub fn resolver(&self) -> PathBuf {
        self.broker_dir().join("accounts")
    }
}

/// Copies a folder with everything in it, owners and modes too.
///
/// # Panics
/// When that fails.
pub fn copy_dir(from: &Path, to: &Path) {
    let copied = Cmd::new("cp").arg("--archive").arg("--no-target-directory").arg(from).arg(to).check();
    copied.unwrap_or_else(|err| panic!("{err}"));
}

/// Empties a folder, keeping its owner and mode.
///
/// # Panics
/// When that fails.
pub fn empty_dir(dir: &Path) {
    let removed = Cmd::new("find").arg(dir).args(["-mindepth", "1", "-delete"]).check();
    removed.unwrap_or_else(|err| panic!("{err}"));
}

impl Fleet {
    /// A coordinator with its broker, ready.
    #[must_use]
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &FleetSetup::default())
    }

    /// The same, with settings.
    #[must_use]
    pub fn start_with(name: &str, setup: &FleetSetup) -> Self {
        Self::start_in(Case::new(name), setup)
    }

    /// The same, in a case that exists (for instance because a namespace had to be made first).
    #[must_use]
    pub fn start_in(case: Arc<Case>, setup: &FleetSetup) -> Self {
        let coordinator = Coordinator::new(&case, "coordinator", setup);
        let fleet = Self { coordinator, case };
        fleet.coordinator.start();
        fleet
    }

    /// The coordinator.
    #[must_use]
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// The case: folders, seed.
    #[must_use]
    pub fn case(&self) -> &Arc<Case> {
        &self.case
    }

    /// The API, as the administrator.
    #[must_use]
    pub fn api(&self) -> Api {
        self.coordinator.api()
    }

    /// The command line, as the administrator.
    #[must_use]
    pub fn bramble(&self) -> Bramble {
        Self::bramble_of(&self.coordinator, &self.case)
    }

    /// The command line towards another coordinator.
    #[must_use]
    pub fn bramble_of(coordinator: &Coordinator, case: &Case) -> Bramble {
        let mut cmd = Cmd::new(&programs().bramble);
        if coordinator.scheme == "https" {
            cmd = cmd.env("BRAMBLE_CA", coordinator.ca());
        }
        let cmd = cmd
            .env("BRAMBLE_API", coordinator.url())
            .env("BRAMBLE_TOKEN", coordinator.admin_token())
            .env("HOME", case.subdir("home"))
            .without_env("XDG_CONFIG_HOME")
            .dir(case.dir());
        Bramble::new(cmd)
    }

    /// A free port for an app.
    #[must_use]
    pub fn port(&self) -> u16 {
        free_port(&self.case)
    }

    /// An enrolment token for one device that is active at once.
    #[must_use]
    pub fn token(&self) -> String {
        self.token_with(&json!({ "autoApprove": true, "labels": { (LABEL.0): LABEL.1 } })).token
    }

    /// An enrolment token as the request says.
    #[must_use]
    pub fn token_with(&self, request: &Value) -> TokenCreated {
        self.api().must("POST", "/api/v1/enrollment-tokens", request)
    }

    /// How a device of this fleet is set up, with a fresh token.
    #[must_use]
    pub fn device_setup(&self, name: &str) -> DeviceSetup {
        DeviceSetup {
            name: name.to_owned(),
            coordinator: self.coordinator.url(),
            token: Some(self.token()),
            net: None,
            images: vec![1, 2],
            // Ten seconds by default: too long to wait for again and again.
            settings: "heartbeat_secs = 1\n".into(),
        }
    }

    /// A device that is enrolled and online.
    #[must_use]
    pub fn device(&self, name: &str) -> Device {
        let device = Device::new(&self.case, self.device_setup(name));
        device.start_agent();
        self.online_agent(&device);
        device
    }

    /// Waits until a device is online; tells what its agent said last if it is not.
    pub fn online_agent(&self, device: &Device) {
        soon(&format!("{} to be online", device.name()), || {
            if let Some(end) = device.agent().ended() {
                return Err(format!("its agent ended with {end}: {}", device.agent().last_words()));
            }
            self.is(device.name(), Connection::Online).map_err(|e| format!("{e}; {}", device.agent().last_words()))
        });
    }

    /// Waits until the coordinator says a device is online.
    pub fn online(&self, device: &str) {
        soon(&format!("{device} to be online"), || self.is(device, Connection::Online));
    }

    /// Is the device's connection so?
    ///
    /// # Errors
    /// When it is otherwise, with how it is.
    pub fn is(&self, device: &str, connection: Connection) -> Result<(), String> {
        let view = self.device_view(device)?;
        if view.connection == connection { Ok(()) } else { Err(format!("{device} is {:?}", view.connection)) }
    }

    /// A device as the API describes it.
    ///
    /// # Errors
    /// When the API does not answer so.
    pub fn device_view(&self, device: &str) -> Result<DeviceView, String> {
        self.api().get(&format!("/api/v1/devices/{device}"))
    }

    /// A deployment as the API describes it.
    ///
    /// # Errors
    /// When the API does not answer so.
    pub fn deployment_view(&self, deployment: &str) -> Result<DeploymentView, String> {
        self.api().get(&format!("/api/v1/deployments/{deployment}"))
    }

    /// Applies a manifest.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn apply(&self, manifest: &Value) -> Applied {
        let name = manifest["metadata"]["name"].as_str().expect("a manifest has a name");
        self.api().must("PUT", &format!("/api/v1/deployments/{name}"), manifest)
    }

    /// Deletes a deployment.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn delete(&self, deployment: &str) {
        let answer = self.api().ask("DELETE", &format!("/api/v1/deployments/{deployment}"), None);
        let answer = answer.unwrap_or_else(|why| panic!("{why}"));
        assert!((200..300).contains(&answer.status), "DELETE {deployment}: {} {}", answer.status, answer.body);
    }

    /// One device of a deployment, as the API describes it; only what is about the newest revision counts.
    ///
    /// # Errors
    /// When there is nothing yet.
    pub fn target(&self, deployment: &str, device: &str) -> Result<TargetView, String> {
        let view = self.deployment_view(deployment)?;
        let target = view.devices.into_iter().find(|t| t.name.as_str() == device);
        target.ok_or_else(|| format!("{deployment} is not for {device}"))
    }

    /// Waits until the app is confirmed at the newest revision on the device, and gives what runs there.
    #[track_caller]
    pub fn settled(&self, deployment: &str, device: &Device) -> Running {
        soon(&format!("{deployment} to be confirmed on {}", device.name()), || {
            let revision = self.deployment_view(deployment)?.revision;
            let target = self.target(deployment, device.name())?;
            let app = target.app.as_ref().ok_or_else(|| format!("nothing reported: {}", target.reason))?;
            if target.status != Some(Status::Confirmed) || app.running_revision != Some(revision) {
                return Err(format!("{:?} {:?} {}: {app:?}", target.status, target.phase, target.reason));
            }
            let mains = app.containers.iter().filter(|c| c.role == ContainerRole::Main);
            let ids: BTreeMap<String, String> = mains.map(|c| (c.name.to_string(), c.id.clone())).collect();
            device.running(&ids)
        })
    }

    /// Waits until the target says so.
    #[track_caller]
    pub fn target_until(
        &self,
        what: &str,
        deployment: &str,
        device: &str,
        check: impl Fn(&TargetView) -> bool,
    ) -> TargetView {
        soon(&format!("{deployment} on {device}: {what}"), || {
            let target = self.target(deployment, device)?;
            if check(&target) { Ok(target) } else { Err(format!("{target:?}")) }
        })
    }

    /// The newest audit events, newest first.
    #[must_use]
    pub fn audit(&self) -> Vec<AuditEvent> {
        let page: Result<Page<AuditEvent>, String> = self.api().get("/api/v1/audit?limit=200");
        page.unwrap_or_else(|why| panic!("audit: {why}")).items
    }

    /// Waits until an app answers on its port.
    #[track_caller]
    pub fn answers(&self, port: u16, with: &str) {
        soon(&format!("an answer with {with:?} on port {port}"), || {
            let answer = xtask::http::get((Ipv4Addr::LOCALHOST, port).into(), "/").map_err(|err| err.to_string())?;
            if answer.status == 200 && answer.body.contains(with) { Ok(()) } else { Err(format!("{answer:?}")) }
        });
    }
}
