//! A fleet: one coordinator with its broker, its devices, and the questions every case asks of them.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;

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
use crate::clock::soon;
use crate::coordinator::{Coordinator, FleetSetup, copy_dir, free_port};
use crate::device::{Device, DeviceSetup, Starter};
use crate::manifest::LABEL;
use crate::programs::programs;

/// A fleet. Dropping it ends everything.
pub struct Fleet {
    coordinator: Coordinator,
    case: Arc<Case>,
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

    /// A second coordinator with the same keys, on the first one's broker; not started. It shows its own state folder,
    /// where the keys are a copy.
    #[must_use]
    pub fn second(&self, name: &str) -> Coordinator {
        let setup = FleetSetup { listen: self.coordinator.api_ip(), serve: vec![] };
        let second = Coordinator::new(&self.case, name, &setup);
        fs::create_dir_all(second.state()).expect("the case's folder can be written");
        copy_dir(&self.coordinator.state().join("keys"), &second.state().join("keys"));
        second.on_broker_of(&self.coordinator)
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
        if coordinator.uses_tls() {
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
            podman: String::new(),
            ntp: vec![],
            clock: None,
            starter: Starter::Case,
        }
    }

    /// A device that is enrolled and online, and whose agent can replace itself.
    #[must_use]
    pub fn supervised(&self, name: &str) -> Device {
        self.started(DeviceSetup { starter: Starter::Supervisor, ..self.device_setup(name) })
    }

    /// A device that is enrolled and online.
    #[must_use]
    pub fn device(&self, name: &str) -> Device {
        self.started(self.device_setup(name))
    }

    fn started(&self, setup: DeviceSetup) -> Device {
        let device = Device::new(&self.case, setup);
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
