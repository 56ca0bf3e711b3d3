//! A device: its folders, its Podman store, its agent. Decides nothing about the coordinator's view of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bramble_agent::status::Status;
use bramble_contracts::smoke::Suite;
use bramble_contracts::token::EnrollmentToken;
use serde_json::Value;
use xtask::prepare::{self, Store};
use xtask::run::Cmd;

use crate::app::Running;
use crate::case::Case;
use crate::cleanup;
use crate::clock::soon;
use crate::faketime::FakeClock;
use crate::net::NetNs;
use crate::process::{Line, Proc, kill_pid};
use crate::programs::{place, programs};

/// How a device is made.
#[derive(Debug, Clone)]
pub struct DeviceSetup {
    /// Its name.
    pub name: String,
    /// Base URL of the coordinator.
    pub coordinator: String,
    /// The enrolment token's text; none for a device that is enrolled already.
    pub token: Option<String>,
    /// The network it lives in, if not this machine's.
    pub net: Option<Arc<NetNs>>,
    /// Versions of the demo image in its store.
    pub images: Vec<u32>,
    /// More lines for the top of `agent.toml`.
    pub settings: String,
    /// More lines for its `[podman]`.
    pub podman: String,
    /// NTP servers, on this machine's own addresses.
    pub ntp: Vec<String>,
    /// The clock its programs see, if not this machine's.
    pub clock: Option<FakeClock>,
    /// Who starts its agent.
    pub starter: Starter,
}

/// Who starts a device's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starter {
    /// The case does: it is one process, and does not replace itself.
    Case,
    /// `bramble-agent supervise` does, so that it can. What is said of the agent's process is then said of that one, and
    /// the agents end with it.
    Supervisor,
}

/// One device.
#[derive(Debug)]
pub struct Device {
    setup: DeviceSetup,
    dir: PathBuf,
    run: PathBuf,
    store: Store,
    agent: Proc,
    _case: Arc<Case>,
}

/// Writes a file that only we can read.
fn private(file: &Path, text: &str) {
    let write = || -> std::io::Result<()> {
        drop(fs::remove_file(file));
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        std::io::Write::write_all(&mut out, text.as_bytes())
    };
    write().unwrap_or_else(|err| panic!("cannot write {}: {err}", file.display()));
}

impl Device {
    /// Makes its folders, its Podman surroundings and its configuration; starts nothing.
    ///
    /// # Panics
    /// When the machine does not allow it.
    #[must_use]
    pub fn new(case: &Arc<Case>, setup: DeviceSetup) -> Self {
        let dir = case.subdir(&setup.name);
        let run = case.new_run_dir();
        fs::create_dir_all(&run).expect("the run folder can be made");
        fs::write(dir.join("run-dir"), run.display().to_string()).expect("the device's folder can be written");
        if let Some(net) = &setup.net {
            fs::write(dir.join(cleanup::NETNS), net.name()).expect("the device's folder can be written");
        }
        let conf = prepare::podman_env(&dir.join("podman")).unwrap_or_else(|err| panic!("{err:#}"));
        let store = Store::of_device(&dir.join("apps"), &run, &conf);
        for version in &setup.images {
            prepare::hello_image(&store, *version).unwrap_or_else(|err| panic!("{err:#}"));
        }
        let command = match setup.starter {
            Starter::Case => "run",
            Starter::Supervisor => "supervise",
        };
        let line =
            Line::new(&place("bramble-agent")).args([command, "--config"]).args([dir.join("agent.toml").display()]);
        let log = std::env::var("BRAMBLE_AGENT_LOG").unwrap_or_else(|_| "info".into());
        let line = line.env("CONTAINERS_CONF", &conf.display().to_string()).env("RUST_LOG", &log).env("NO_COLOR", "1");
        let clock = setup.clock.iter().flat_map(FakeClock::env);
        let line = clock.fold(line, |line, (name, value)| line.env(name, &value));
        let line = line.inside(setup.net.as_ref().map(|net| net.name()));
        let agent = Proc::new(&setup.name, &case.logs(), line);
        let device = Self { setup, dir, run, store, agent, _case: Arc::clone(case) };
        device.configure();
        device
    }

    fn configure(&self) {
        let quoted = |path: &Path| format!("{:?}", path.display().to_string());
        let mut text = format!("name = {:?}\ncoordinator = {:?}\n", self.setup.name, self.setup.coordinator);
        if let Some(token) = &self.setup.token {
            let file = self.dir.join("token");
            private(&file, token);
            text += &format!("token_file = {}\n", quoted(&file));
        }
        text += &format!("state_dir = {}\napps_dir = {}\n", quoted(&self.state_dir()), quoted(&self.dir.join("apps")));
        text += &self.setup.settings;
        text += &format!("\n[podman]\nprogram = \"podman\"\nrun_dir = {}\n", quoted(&self.run));
        text += &self.setup.podman;
        // How full this machine is, is not what a case is about.
        text += "\n[disk]\nlow_percent = 0\nlow_mib = 0\nreserve_mib = 0\n";
        text += &format!("\n[clock]\nservers = {:?}\n", self.setup.ntp);
        private(&self.dir.join("agent.toml"), &text);
    }

    /// Another token or address for the next start of the agent.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut DeviceSetup)) {
        change(&mut self.setup);
        self.configure();
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.setup.name
    }

    /// Where the agent keeps its state.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where its apps, volumes and Podman store lie.
    #[must_use]
    pub fn apps_dir(&self) -> PathBuf {
        self.dir.join("apps")
    }

    /// Where the Podman service that its agent starts listens.
    #[must_use]
    pub fn podman_socket(&self) -> PathBuf {
        self.run.join("podman.sock")
    }

    /// What the agents of a supervised device say of themselves on it, those that run now.
    #[must_use]
    pub fn statuses(&self) -> Vec<Status> {
        let said = |(name, pid): (String, i32)| {
            let status = Status::read(&self.run.join(format!("status-{name}.json")))?;
            (i32::try_from(status.pid) == Ok(pid)).then_some(status)
        };
        self.agents().into_iter().filter_map(said).collect()
    }

    /// The agent's process.
    #[must_use]
    pub fn agent(&self) -> &Proc {
        &self.agent
    }

    /// Starts the agent.
    pub fn start_agent(&self) {
        programs();
        self.agent.start();
    }

    /// What the agent's program says on the device itself (`status`, `check`), under the device's clock.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn says(&self, command: &str) -> String {
        let cmd = Cmd::new(place("bramble-agent")).args([command, "--config"]).arg(self.dir.join("agent.toml"));
        let cmd = self.setup.clock.iter().flat_map(FakeClock::env).fold(cmd, |cmd, (name, value)| cmd.env(name, value));
        cmd.output().unwrap_or_else(|err| panic!("{err}")).stdout
    }

    /// The agents of a supervised device, as instance and process; for a moment there may be none.
    #[must_use]
    pub fn agents(&self) -> Vec<(String, i32)> {
        let config = self.dir.join("agent.toml").display().to_string();
        let instance = |line: &str| {
            let words: Vec<&str> = line.split('\0').collect();
            let is_ours = words.contains(&"run") && words.contains(&config.as_str());
            let at = words.iter().position(|word| *word == "--instance")?;
            words.get(at + 1).filter(|_| is_ours).map(|name| (*name).to_owned())
        };
        let named = ["a", "b"].into_iter().flat_map(|name| {
            let pids = processes(|line| instance(line).as_deref() == Some(name));
            pids.into_iter().map(move |pid| (name.to_owned(), pid))
        });
        named.collect()
    }

    /// SIGKILL to the agent; what it started lives on.
    pub fn kill_agent(&self) {
        self.agent.kill();
    }

    /// The power goes and comes back: agent and containers are killed, what only lives until the next boot is lost, and the
    /// agent starts in a boot with another id. (Each container's network is still taken down by Podman, as it would be gone
    /// too.)
    ///
    /// # Panics
    /// When something survives, or the machine allows no mount namespace.
    pub fn power_cut(&self) {
        self.kill_agent();
        self.kill_podman_service();
        // That some of them have ended by themselves is as good.
        drop(self.podman().args(["kill", "--all"]).output());
        soon("all containers to have ended", || match (self.monitors(), self.podman().args(["ps", "-q"]).check()) {
            (0, Ok(none)) if none.trim().is_empty() => Ok(()),
            (monitors, left) => Err(format!("{monitors} monitors, {left:?}")),
        });
        for place in cleanup::mounts_below(&[&self.dir, &self.run]) {
            nix::mount::umount(place.as_path())
                .unwrap_or_else(|err| panic!("cannot unmount {}: {err}", place.display()));
        }
        fs::remove_dir_all(&self.run).expect("the run folder can be removed");
        fs::create_dir_all(&self.run).expect("the run folder can be made");
        let boot = self.dir.join("boot_id");
        let count = fs::read_to_string(&boot).ok().and_then(|id| id.trim().rsplit('-').next()?.parse::<u64>().ok());
        let id = format!("00000000-0000-4000-8000-{:012}\n", count.unwrap_or_default() + 1);
        fs::write(&boot, id).expect("the device's folder can be written");
        // What the agent mounts for containers is seen by all; the other boot id by it alone.
        let script = format!(
            "mount --make-private /proc && mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"",
            boot.display()
        );
        let mut line = self.agent.line();
        if line.words.first().is_none_or(|word| word != "unshare") {
            let words = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", &script, "sh"];
            line.words.splice(0..0, words.map(str::to_owned));
            self.agent.set_line(line);
        }
        self.start_agent();
    }

    /// SIGKILL to the Podman service that the agent started; containers and their monitors live on.
    pub fn kill_podman_service(&self) {
        let socket = self.podman_socket().display().to_string();
        for pid in processes(|line| line.contains("system\0service") && line.contains(&socket)) {
            kill_pid(pid);
        }
    }

    /// How many of Podman's monitors watch a container of this device: one for each that runs, or something is wrong.
    #[must_use]
    pub fn monitors(&self) -> usize {
        let store = self.apps_dir().join("store").display().to_string();
        processes(|line| {
            let program = line.split('\0').next().unwrap_or_default();
            program.ends_with("conmon") && line.contains(&store)
        })
        .len()
    }

    /// SIGTERM to the agent, and waits for its end.
    pub fn stop_agent(&self) -> ExitStatus {
        self.agent.term(Duration::from_secs(30))
    }

    /// What `bramble-agent check` says of it, whether its agent runs or not; within the time it promises.
    ///
    /// # Panics
    /// When it says nothing, or takes too long.
    #[must_use]
    pub fn check(&self) -> Suite {
        let config = self.dir.join("agent.toml");
        let said = Cmd::new(place("bramble-agent")).args(["check", "-o", "json", "--config"]).arg(&config);
        let output = said.within(Duration::from_secs(15)).output().unwrap_or_else(|err| panic!("{err}"));
        serde_json::from_str(&output.stdout).unwrap_or_else(|err| panic!("{err} in {output:?}"))
    }

    /// Podman's command line on the device's own store.
    #[must_use]
    pub fn podman(&self) -> Cmd {
        self.store.podman()
    }

    /// Ids of all containers in its store, running or not.
    ///
    /// # Panics
    /// When Podman fails.
    #[must_use]
    pub fn all_containers(&self) -> Vec<String> {
        let out = self.podman().args(["ps", "--all", "--no-trunc", "--quiet"]).check();
        out.unwrap_or_else(|err| panic!("{err}")).lines().map(String::from).collect()
    }

    /// What Podman says of a container.
    ///
    /// # Errors
    /// When there is none with this id.
    pub fn inspect(&self, id: &str) -> Result<Value, String> {
        let out = self.podman().args(["container", "inspect", id]).check().map_err(|err| err.to_string())?;
        let all: Value = serde_json::from_str(&out).map_err(|err| err.to_string())?;
        Ok(all[0].clone())
    }

    /// These containers as they run: name → id.
    ///
    /// # Errors
    /// When one of them does not run.
    pub fn running(&self, containers: &BTreeMap<String, String>) -> Result<Running, String> {
        let mut found = BTreeMap::new();
        for (name, id) in containers {
            let container = self.inspect(id)?;
            let state = &container["State"];
            if state["Status"] != "running" {
                return Err(format!("{name} is {}", state["Status"]));
            }
            let started = state["StartedAt"].as_str().unwrap_or_default().to_owned();
            found.insert(name.clone(), (id.clone(), started));
        }
        Ok(Running::new(found))
    }

    /// The device's own nkey seed, as it lies on its disk.
    ///
    /// # Panics
    /// When it has none yet.
    #[must_use]
    pub fn seed(&self) -> String {
        let text = fs::read_to_string(self.state_dir().join("keys/device")).expect("the device has a key");
        text.lines().nth(1).expect("a head line, then the seed").trim().to_owned()
    }

    /// What enrolment gave the device: id, JWT and so on, as it lies on its disk.
    ///
    /// # Panics
    /// When it has not enrolled.
    #[must_use]
    pub fn identity(&self) -> Value {
        let text = fs::read_to_string(self.state_dir().join("keys/identity")).expect("the device has enrolled");
        let body = text.split_once('\n').expect("a head line, then JSON").1;
        serde_json::from_str(body).expect("the identity is JSON")
    }
}

/// Ids of the processes whose command line, its words apart by NUL, fits.
fn processes(fits: impl Fn(&str) -> bool) -> Vec<i32> {
    let pid = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        fits(&String::from_utf8_lossy(&line)).then_some(pid)
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(pid).collect()
}

/// A token's text with another pin: as if it had been made by another coordinator.
///
/// # Panics
/// When it is no token.
#[must_use]
pub fn with_other_pin(token: &str) -> String {
    let parsed: EnrollmentToken = token.parse().expect("a token");
    let pin = bramble_contracts::bytes::Sha256::of(b"another CA");
    format!("bramble1.{}.{}.{pin}", parsed.id, *parsed.secret_text())
}
