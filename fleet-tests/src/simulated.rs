//! Simulated devices: the real agent library with its real mesh, keys and state files, hundreds of them in this process,
//! each on a device that is simulated. Decides how they are made, started and waited for.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bramble_agent::host::logs::{self, Logs};
use bramble_agent::mesh::http::Base;
use bramble_agent::mesh::{Agent, Config, Settings};
use bramble_agent::sim::SimHost;
use bramble_contracts::DeviceId;
use bramble_contracts::v1::{DeviceFacts, Instance};
use futures::StreamExt as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::api::runtime;
use crate::case::Case;

/// A device of which only Podman is simulated.
pub struct SimDevice {
    name: String,
    dir: PathBuf,
    coordinator: String,
    heartbeat: Duration,
    host: Arc<SimHost>,
    agent: Option<Agent>,
}

impl SimDevice {
    /// A device with an enrolment token; its agent is not started.
    ///
    /// # Panics
    /// When its folder cannot be made.
    #[must_use]
    pub fn new(case: &Case, name: &str, coordinator: &str, token: &str) -> Self {
        let dir = case.subdir(name);
        let write = || {
            let mut options = fs::OpenOptions::new();
            let mut file = options.create_new(true).write(true).mode(0o600).open(dir.join("token"))?;
            file.write_all(token.as_bytes())
        };
        write().unwrap_or_else(|err| panic!("cannot write the token of {name}: {err}"));
        let coordinator = coordinator.to_owned();
        let (name, heartbeat) = (name.to_owned(), Duration::from_secs(5));
        Self { name, dir, coordinator, heartbeat, host: SimHost::new(), agent: None }
    }

    /// Starts its agent, in the harness's runtime.
    ///
    /// # Panics
    /// When it cannot start, or runs already.
    pub fn start(&mut self) {
        assert!(self.agent.is_none(), "the agent of {} runs already", self.name);
        let slow = Duration::from_secs(300);
        let settings = Settings {
            state_dir: self.dir.join("state"),
            coordinator: Base::parse(&self.coordinator).expect("the coordinator's address is one"),
            instance: Instance::A,
            heartbeat: self.heartbeat,
            report: slow,
            desired: slow,
            ntp: vec![],
        };
        let config = Config {
            settings,
            name: Some(self.name.parse().expect("a name")),
            token_file: Some(self.dir.join("token")),
            facts: watch::channel(DeviceFacts::default()).1,
            words: mpsc::channel(1).0,
            questions: mpsc::channel(1).0,
        };
        let _inside = runtime().enter();
        // A kernel lets one user watch 128 times, and there are more simulated devices.
        let logs = Logs::unkept(logs::Places::below(&self.dir));
        let agent = Agent::start(config, Arc::clone(&self.host), logs);
        self.agent = Some(agent.unwrap_or_else(|err| panic!("{} cannot start: {err}", self.name)));
    }

    /// Ends its agent in good order; what the device runs, runs on.
    pub fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            runtime().block_on(agent.shutdown());
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The simulated device.
    #[must_use]
    pub fn host(&self) -> &Arc<SimHost> {
        &self.host
    }

    /// Its agent.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap_or_else(|| panic!("the agent of {} does not run", self.name))
    }

    /// Its id.
    ///
    /// # Panics
    /// When it has not enrolled.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.agent().device().borrow().clone().unwrap_or_else(|| panic!("{} has not enrolled", self.name))
    }

    /// What enrolment gave it, as it lies on its disk, and its nkey seed.
    ///
    /// # Panics
    /// When it has not enrolled.
    #[must_use]
    pub fn credentials(&self) -> (Value, String) {
        let read = |file: &str| {
            let text = fs::read_to_string(self.dir.join("state/keys").join(file)).expect("the device has enrolled");
            text.split_once('\n').expect("a head line, then the body").1.trim().to_owned()
        };
        (serde_json::from_str(&read("identity")).expect("the identity is JSON"), read("device"))
    }

    /// Waits until it has enrolled and is connected.
    ///
    /// # Errors
    /// When it is not in time; with what the agent says of its link.
    pub async fn connected(&self, limit: Duration) -> Result<(), String> {
        let mut changes = self.agent().changes();
        let connected = tokio::time::timeout(limit, changes.wait_for(|view| view.connected)).await;
        match connected {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(format!("{} is not connected: {}", self.name, self.agent().view().link)),
        }
    }
}

impl Drop for SimDevice {
    fn drop(&mut self) {
        // Its tasks end with it; they need no runtime for that.
        drop(self.agent.take());
    }
}

/// Starts devices, at most `abreast` of them enrolling at once.
///
/// # Panics
/// When one is not connected within `limit`.
pub fn start_all(devices: &mut [SimDevice], abreast: usize, limit: Duration) {
    raise_files();
    let starts = futures::stream::iter(devices.iter_mut()).map(|device| async move {
        device.start();
        device.connected(limit).await
    });
    let ended: Vec<Result<(), String>> = runtime().block_on(starts.buffer_unordered(abreast).collect());
    let failed: Vec<String> = ended.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} devices did not connect, for instance: {}", failed.len(), failed[0]);
}

/// As many open files as this process may have.
fn raise_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(err) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        println!("cannot raise the limit of open files from {soft} to {hard}: {err}");
    }
}
