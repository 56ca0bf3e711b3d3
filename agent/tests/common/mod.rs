//! A device for tests: real Podman with its own store, a supervisor that can be restarted, tiny images.
#![allow(dead_code, reason = "each test file uses its part")]

mod image;
mod net;
pub(crate) mod registry;
mod store;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bramble_agent::core::app::{App, AppKey};
use bramble_agent::core::disk::DiskRules;
use bramble_agent::host::device::{Places, PodmanHost};
use bramble_agent::host::logs::{self, Budget, Logs};
use bramble_agent::host::podman::service::{Registries, Service, ServiceConfig, ServiceState};
use bramble_agent::host::podman::{ContainerSpec, Podman};
use bramble_agent::host::ports::Ports;
use bramble_agent::supervise::{Chunk, ExecWish, OutputStream, Supervisor, SupervisorHandle};
use bramble_contracts::v1::{Deployment, DesiredApp, LogPart, LogSpan, LogWindow, LogWish, Phase, Status};
use bramble_contracts::v2::AppReport;
use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{DeviceId, Generation, Revision, Tenant, Uid};
use serde_json::{Value, json};

#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use image::{image_with, noise, tiny_image};
#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use net::{free_port, http_get, http_until, serve_rubbish, try_get, until};

/// Everything here is done within this, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
pub(crate) const IMAGE: &str = "localhost/tiny:1";

/// What this build machine needs of containers.conf; harmless elsewhere.
const CONTAINERS_CONF: &str = r#"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "NETWORKS"
default_network = "NETWORK"
"#;

/// Devices know nothing of each other, so each gets its own bridge, addresses, and name for netavark's chains.
/// Chosen once: 10.N.0.0/16 in which this machine reaches nobody yet. Bridges of a test that was killed stay, and two with
/// the same addresses reach neither's containers.
fn own_range() -> u32 {
    static RANGE: OnceLock<u32> = OnceLock::new();
    *RANGE.get_or_init(|| {
        let routes = std::fs::read_to_string("/proc/net/route").unwrap();
        // The second word is the address with its bytes in the machine's order: 10.134.0.0 is 0000860A.
        let taken = |range: u32| {
            let end = format!("{range:02X}0A");
            routes.lines().filter_map(|line| line.split_whitespace().nth(1)).any(|to| to.ends_with(&end))
        };
        let mut all = (0..64).map(|step| 128 + (std::process::id() + step) % 64);
        all.find(|range| !taken(*range)).expect("not all of 10.128.0.0/10 is in use")
    })
}

fn make_network(dir: &Path) -> String {
    static DEVICES: AtomicU64 = AtomicU64::new(0);
    let (device, pid) = (DEVICES.fetch_add(1, Ordering::Relaxed), std::process::id());
    let (name, net) = (format!("brt-{pid}-{device}"), format!("10.{}.{}", own_range(), device % 256));
    let network = json!({
        "name": name,
        "id": format!("{pid:032x}{device:032x}"),
        "driver": "bridge",
        "network_interface": name,
        "created": "2026-01-01T00:00:00Z",
        "subnets": [{ "subnet": format!("{net}.0/24"), "gateway": format!("{net}.1") }],
        "ipv6_enabled": false,
        "internal": false,
        "dns_enabled": false,
        "ipam_options": { "driver": "host-local" },
    });
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join(format!("{name}.json")), network.to_string()).unwrap();
    name
}

#[derive(Clone)]
pub(crate) struct Part(Value);

impl Part {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0["env"] = json!([{ "name": name, "value": value }]);
        self
    }

    pub(crate) fn image(mut self, image: &str) -> Self {
        self.0["image"] = image.into();
        self
    }

    pub(crate) fn volume(mut self, name: &str, path: &str) -> Self {
        self.0["volumes"] = json!([{ "name": name, "path": path }]);
        self
    }
}

/// A container that runs a shell script.
pub(crate) fn container(name: &str, script: &str) -> Part {
    Part(json!({ "name": name, "image": IMAGE, "command": ["sh", "-c", script] }))
}

pub(crate) fn init(name: &str, script: &str) -> Part {
    container(name, script)
}

pub(crate) fn deployment(name: &str, inits: &[Part], mains: &[Part]) -> Value {
    let list = |parts: &[Part]| parts.iter().map(|p| p.0.clone()).collect::<Vec<_>>();
    json!({
        "metadata": { "name": name },
        "spec": { "selector": { "devices": ["pi-1"] }, "initContainers": list(inits), "containers": list(mains) },
    })
}

pub(crate) fn running(report: &AppReport) -> bool {
    report.status == Status::Confirmed && report.phase == Phase::Running
}

fn app(name: &str) -> AppKey {
    AppKey::parse(&format!("default.{name}")).unwrap()
}

fn desired((revision, deployment): &(u64, Value)) -> DesiredApp {
    let deployment: Deployment = serde_json::from_value(deployment.clone()).unwrap();
    DesiredApp { uid: Uid::from_entropy([7; 13]), revision: Revision(*revision), deployment, pins: vec![] }
}

/// What is special about a device.
#[derive(Clone)]
pub(crate) struct Setup {
    /// Its apps lie on a disk of this size, in MiB.
    pub(crate) disk_mib: Option<u32>,
    /// What stays free; nothing unless it is said.
    pub(crate) rules: DiskRules,
    pub(crate) registries: Registries,
}

impl Default for Setup {
    fn default() -> Self {
        let rules = DiskRules { low_percent: 0, low_bytes: 0, reserve_bytes: 0 };
        Self { disk_mib: None, rules, registries: Registries::default() }
    }
}

pub(crate) struct Device {
    dir: tempfile::TempDir,
    setup: Setup,
    pub(crate) podman: Podman,
    service: Option<Service>,
    agent: Option<SupervisorHandle>,
    logs: Option<Logs>,
    pub(crate) budget: Budget,
    generation: AtomicU64,
    boot: u32,
}

impl Device {
    pub(crate) async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    pub(crate) async fn start_with(setup: Setup) -> Self {
        // `RUST_LOG=bramble_agent=debug` shows what a failing test did.
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init()
            .ok();
        let dir = tempfile::tempdir().unwrap();
        write_conf(dir.path());
        let mut device = Self {
            podman: Podman::new(dir.path().join("run/podman.sock")),
            dir,
            setup,
            service: None,
            agent: None,
            logs: None,
            budget: Budget::default(),
            generation: AtomicU64::new(0),
            boot: 1,
        };
        if let Some(mib) = device.setup.disk_mib {
            let apps = device.path("apps");
            std::fs::create_dir(&apps).unwrap();
            let size = format!("size={mib}M");
            let tmpfs = Some("tmpfs");
            nix::mount::mount(tmpfs, &apps, tmpfs, nix::mount::MsFlags::empty(), Some(size.as_str())).unwrap();
        }
        device.start_agent().await;
        device.podman.import(IMAGE, tiny_image().into(), &[]).await.unwrap();
        device
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    async fn start_agent(&mut self) {
        let mut config = ServiceConfig::below(&self.path("apps"), &self.path("run"));
        config.containers_conf = Some(self.path("containers.conf"));
        config.registries = self.setup.registries.clone();
        let service = Service::start(config);
        service.ready(PATIENCE).await.unwrap();
        self.service = Some(service);
        let apps = self.path("apps");
        let places = Places { log_bytes: self.budget.segment(), rules: self.setup.rules, ..Places::below(&apps) };
        self.logs = Some(Logs::start(logs::Places::below(&apps), self.budget));
        let host = PodmanHost::in_boot(Podman::new(self.podman.socket()), places, format!("boot-{}", self.boot));
        self.agent = Some(Supervisor::start(Arc::new(host)));
    }

    /// Ends the supervisor and Podman's service, as at an upgrade of the agent, and starts both again.
    pub(crate) async fn restart_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.shutdown().await;
        }
        if let Some(service) = self.service.take() {
            service.stop().await;
        }
        self.start_agent().await;
    }

    /// What a reboot does to containers: all are killed, and the boot id is another.
    pub(crate) async fn reboot(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.shutdown().await;
        }
        for line in self.podman.list(&[]).await.unwrap() {
            if self.podman.kill(&line.id, "SIGKILL").await.is_ok() {
                self.podman.wait_stopped(&line.id, PATIENCE).await.unwrap();
            }
        }
        self.boot += 1;
        self.restart_agent().await;
    }

    /// SIGKILL to Podman's service, as from the kernel when memory is short.
    pub(crate) fn shoot_podman_service(&self) {
        end_service(self.podman.socket());
    }

    pub(crate) async fn kill_podman_service(&self) {
        let mut told = self.service.as_ref().unwrap().told();
        told.mark_unchanged();
        self.shoot_podman_service();
        let down = told.wait_for(|told| matches!(told.state, ServiceState::Down(_)));
        tokio::time::timeout(PATIENCE, down).await.unwrap().unwrap();
    }

    /// Podman's command line, as somebody at the device has it.
    pub(crate) fn podman_command(&self) -> std::process::Command {
        podman_command(self.dir.path())
    }

    /// The host's address on the device's bridge.
    pub(crate) fn gateway(&self) -> String {
        let mut files = std::fs::read_dir(self.path("networks")).unwrap().map(|entry| entry.unwrap().path());
        let file = files.find(|file| file.extension().is_some_and(|e| e == "json")).unwrap();
        let network: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        network["subnets"][0]["gateway"].as_str().unwrap().to_owned()
    }

    /// The agent's own nftables tables.
    pub(crate) fn tables(&self) -> Vec<String> {
        tables(self.dir.path())
    }

    pub(crate) fn uptime(&self) -> Duration {
        bramble_agent::host::clock::uptime()
    }

    pub(crate) fn agent(&self) -> &SupervisorHandle {
        self.agent.as_ref().unwrap()
    }

    /// Hands a new desired document to the agent.
    pub(crate) fn want(&self, apps: &[(u64, Value)]) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.agent().set_desired(Arc::new(DesiredDocument {
            device: DeviceId::from_entropy([1; 13]),
            generation: Generation(generation),
            tenant: Tenant::default(),
            name: "pi-1".parse().unwrap(),
            labels: Default::default(),
            apps: apps.iter().map(desired).collect(),
            agent: None,
            os: None,
        }));
    }

    pub(crate) fn report(&self, name: &str) -> Option<AppReport> {
        let reports = self.agent().reports();
        let reports = reports.borrow();
        reports.iter().find(|r| r.deployment.as_str() == name).cloned()
    }

    /// Waits for a report that fits; says what there was when none came.
    pub(crate) async fn until(&self, name: &str, fits: impl Fn(&AppReport) -> bool) -> AppReport {
        let mut reports = self.agent().reports();
        let found = reports.wait_for(|all| all.iter().any(|r| r.deployment.as_str() == name && fits(r)));
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found.unwrap().iter().find(|r| r.deployment.as_str() == name).cloned().unwrap(),
            Err(_) => panic!("no such report of {name}; the last was {:#?}", self.report(name)),
        }
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        let mut reports = self.agent().reports();
        let gone = reports.wait_for(|all| all.iter().all(|r| r.deployment.as_str() != name));
        assert!(tokio::time::timeout(PATIENCE, gone).await.is_ok(), "still there: {:#?}", self.report(name));
    }

    pub(crate) async fn kill_container(&self, id: &str) {
        self.podman.kill(id, "SIGKILL").await.unwrap();
    }

    pub(crate) async fn podman_names(&self) -> Vec<String> {
        let lines = self.podman.list(&[]).await.unwrap();
        lines.into_iter().flat_map(|line| line.names).collect()
    }

    pub(crate) fn podman_name(&self, deployment: &Value, container: &str) -> String {
        let app = App::new(desired(&(1, deployment.clone())));
        format!("bramble.{}.{container}.{}", app.key(), app.short_hash())
    }

    pub(crate) async fn make_stranger(&self, name: &str) -> String {
        let command = vec!["sleep".to_owned(), "1000".to_owned()];
        let spec =
            ContainerSpec { name: name.to_owned(), image: IMAGE.to_owned(), command, ..ContainerSpec::default() };
        self.podman.create(&spec).await.unwrap()
    }

    pub(crate) fn volume_file(&self, name: &str, volume: &str, file: &str) -> String {
        std::fs::read_to_string(self.path("apps/volumes").join(format!("default.{name}")).join(volume).join(file))
            .unwrap()
    }

    /// The logs of this device.
    pub(crate) fn log_files(&self) -> &Logs {
        self.logs.as_ref().unwrap()
    }

    pub(crate) fn log_dir(&self, name: &str, container: &str) -> PathBuf {
        self.path("apps/logs").join(format!("default.{name}")).join(container)
    }

    /// One window of an app's logs, up to its end.
    pub(crate) fn window(&self, name: &str, span: LogSpan) -> LogWindow {
        let deployment = name.parse().unwrap();
        LogWindow { tenant: Tenant::default(), deployment, container: None, span, wait: None, bytes: u32::MAX }
    }

    /// Everything an app has printed that a wish finds.
    pub(crate) async fn log_parts(&self, name: &str, wish: LogWish) -> Vec<LogPart> {
        let ask = self.window(name, LogSpan::Wish(wish));
        let (mut window, _) = self.log_files().open(ask).await.unwrap();
        let mut all = Vec::new();
        loop {
            let (read, parts) = self.log_files().batch(window).await.unwrap();
            if parts.is_empty() {
                return all;
            }
            all.extend(parts);
            window = read;
        }
    }

    /// The lines an app has printed in its newest containers, without their times.
    pub(crate) async fn logs(&self, name: &str) -> Vec<String> {
        let all = texts(&self.log_parts(name, LogWish::default()).await);
        all.into_iter().map(|(_, text)| text).collect()
    }

    pub(crate) async fn exec(&self, name: &str, container: &str, argv: &[&str]) -> (Option<i32>, String) {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        let wish = ExecWish { app: app(name), container: Some(container.to_owned()), argv, timeout: PATIENCE };
        let mut output = self.agent().exec(wish).await.unwrap();
        let mut text = String::new();
        while let Some(chunk) = output.recv().await {
            match chunk {
                Chunk::Output { piece, .. } => {
                    assert_eq!(piece.stream, OutputStream::Out);
                    text.push_str(&String::from_utf8_lossy(&piece.bytes));
                }
                Chunk::End { exit_code } => return (exit_code, text),
                Chunk::Broken { why } => panic!("{why}"),
            }
        }
        panic!("the stream ended without an end")
    }
}

impl Drop for Device {
    /// Containers outlive everything by design, so tests clear up themselves.
    fn drop(&mut self) {
        // Or the agent would heal what is cleared up here.
        drop(self.agent.take());
        drop(self.service.take());
        std::thread::sleep(Duration::from_millis(100));
        clear_up(self.dir.path());
        if self.setup.disk_mib.is_some() {
            nix::mount::umount2(&self.path("apps"), nix::mount::MntFlags::MNT_DETACH).ok();
        }
    }
}

/// What Podman has to know for a device in this folder.
pub(crate) fn write_conf(dir: &Path) {
    let networks = dir.join("networks");
    let network = make_network(&networks);
    let conf = CONTAINERS_CONF.replace("NETWORKS", networks.to_str().unwrap()).replace("NETWORK", &network);
    std::fs::write(dir.join("containers.conf"), conf).unwrap();
}

/// Podman's command line on the store of a device in this folder.
#[allow(clippy::disallowed_methods, reason = "people use it, the agent does not")]
pub(crate) fn podman_command(dir: &Path) -> std::process::Command {
    let mut podman = std::process::Command::new("podman");
    for (option, below) in [("--root", "apps/store"), ("--runroot", "run/store"), ("--tmpdir", "run/tmp")] {
        podman.arg(option).arg(dir.join(below));
    }
    podman.env("CONTAINERS_CONF", dir.join("containers.conf"));
    podman
}

/// The nftables tables of the agent whose device is in this folder.
pub(crate) fn tables(dir: &Path) -> Vec<String> {
    let ports = Ports::of(&dir.join("apps"));
    let all = nft(&["list", "tables", "inet"]);
    let ours = all.lines().filter_map(|line| line.strip_prefix("table inet "));
    ours.filter(|table| table.starts_with(ports.mark())).map(str::to_owned).collect()
}

/// Removes everything that outlives a device in this folder, once nothing keeps it alive any more.
pub(crate) fn clear_up(dir: &Path) {
    for last in [&["pod", "rm", "-f", "-a", "-t", "0"][..], &["rm", "-f", "-a", "-t", "0"], &["system", "reset", "-f"]]
    {
        if let Err(err) = podman_command(dir).args(last).output() {
            eprintln!("cannot clear up: {err}");
        }
    }
    #[allow(clippy::disallowed_methods, reason = "a test clears up after itself")]
    let unmounted = std::process::Command::new("umount").arg(dir.join("apps/store/overlay")).output();
    drop(unmounted);
    end_service(&dir.join("run/podman.sock"));
    for table in tables(dir) {
        nft(&["delete", "table", "inet", &table]);
    }
}

/// Lines as life of the container and text.
pub(crate) fn texts(parts: &[LogPart]) -> Vec<(u32, String)> {
    let lines = parts.iter().flat_map(|part| match part {
        LogPart::Lines { lines, .. } => lines.as_slice(),
        LogPart::Span { .. } | LogPart::Gap { .. } | LogPart::Rest(_) => &[],
    });
    lines.map(|line| (line.next.life, line.text.clone())).collect()
}

/// `nft` with these words; its output.
pub(crate) fn nft(words: &[&str]) -> String {
    #[allow(clippy::disallowed_methods, reason = "a test looks for itself")]
    let done = std::process::Command::new("nft").args(words).output().unwrap();
    String::from_utf8(done.stdout).unwrap()
}

fn end_service(socket: &Path) {
    let url = format!("unix://{}", socket.display());
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if line.contains("system\0service")
            && line.contains(&url)
            && let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse().ok())
        {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).ok();
        }
    }
}

/// `--full` runs more of everything.
pub(crate) fn full() -> bool {
    std::env::var_os("BRAMBLE_FULL").is_some()
}

/// For random moments: another one in every run, unless one is given.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("BRAMBLE_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |time| u64::from(time.subsec_nanos())))
}
