//! A simulated device with an agent that can be killed, for tests with paused time.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;
use std::time::Duration;

use bramble_agent::core::app::{App, Role};
use bramble_agent::sim::{SimContainer, SimHost};
use bramble_agent::supervise::{Supervisor, SupervisorHandle};
use bramble_contracts::v1::{DependencyCondition, Deployment, DesiredApp, Phase, Status};
use bramble_contracts::v2::AppReport;
use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{DeviceId, Generation, Name, Revision, Tenant, Uid};
use serde_json::{Value, json};

pub(crate) struct Agent {
    pub(crate) host: Arc<SimHost>,
    handle: Option<SupervisorHandle>,
    wanted: Vec<DesiredApp>,
    generation: u64,
}

impl Agent {
    pub(crate) fn new() -> Self {
        let host = SimHost::new();
        let handle = Some(Supervisor::start(Arc::clone(&host)));
        Self { host, handle, wanted: Vec::new(), generation: 0 }
    }

    pub(crate) fn want(&mut self, app: DesiredApp) {
        self.drop_app(app.deployment.metadata.name.as_str());
        self.wanted.push(app);
        self.send();
    }

    /// Several apps by one document.
    pub(crate) fn want_all(&mut self, apps: Vec<DesiredApp>) {
        for app in apps {
            self.drop_app(app.deployment.metadata.name.as_str());
            self.wanted.push(app);
        }
        self.send();
    }

    pub(crate) fn unwant(&mut self, name: &str) {
        self.drop_app(name);
        self.send();
    }

    pub(crate) fn unwant_all(&mut self) {
        self.wanted.clear();
        self.send();
    }

    pub(crate) fn wanted(&self) -> &[DesiredApp] {
        &self.wanted
    }

    fn drop_app(&mut self, name: &str) {
        self.wanted.retain(|app| app.deployment.metadata.name.as_str() != name);
    }

    fn send(&mut self) {
        let document = self.document();
        self.handle.as_ref().unwrap().set_desired(document);
    }

    /// A new agent that found the newest document damaged, and has the one before it: that with these apps.
    pub(crate) async fn restart_with_older(&mut self, older: Vec<DesiredApp>) {
        if let Some(handle) = self.handle.take() {
            handle.shutdown().await;
        }
        self.host.revive();
        self.handle = Some(Supervisor::start(Arc::clone(&self.host)));
        let newest = std::mem::replace(&mut self.wanted, older);
        let document = self.document();
        self.handle.as_ref().unwrap().set_fallback(document);
        self.wanted = newest;
    }

    fn document(&mut self) -> Arc<DesiredDocument> {
        self.generation += 1;
        Arc::new(DesiredDocument {
            device: DeviceId::from_entropy([1; 13]),
            generation: Generation(self.generation),
            tenant: Tenant::default(),
            name: "pi-1".parse().unwrap(),
            labels: Default::default(),
            apps: self.wanted.clone(),
            agent: None,
            os: None,
        })
    }

    /// kill -9 of the agent; containers run on. A new one acts on the document that was durable.
    pub(crate) async fn restart(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.shutdown().await;
        }
        self.host.revive();
        self.handle = Some(Supervisor::start(Arc::clone(&self.host)));
        self.send();
    }

    pub(crate) async fn reboot(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.shutdown().await;
        }
        self.host.reboot();
        self.handle = Some(Supervisor::start(Arc::clone(&self.host)));
        self.send();
    }

    pub(crate) fn reports(&self) -> Arc<Vec<AppReport>> {
        self.handle.as_ref().unwrap().reports().borrow().clone()
    }

    pub(crate) fn alarms(&self) -> Arc<Vec<String>> {
        self.handle.as_ref().unwrap().alarms().borrow().clone()
    }

    /// Waits (virtual time) until all wanted apps are confirmed in the wanted revision, and no others are there.
    pub(crate) async fn settled(&self) -> bool {
        let wanted: &Vec<_> =
            &self.wanted.iter().map(|app| (app.deployment.metadata.name.clone(), app.revision)).collect();
        let mut reports = self.handle.as_ref().unwrap().reports();
        let done = reports.wait_for(|all| {
            all.len() == wanted.len()
                && all.iter().all(|report| {
                    let steady = matches!(report.phase, Phase::Running | Phase::Completed);
                    report.status == Status::Confirmed
                        && steady
                        && wanted.contains(&(report.deployment.clone(), report.revision))
                })
        });
        let nothing_more = async {
            // An agent that has just started reports nothing yet: the disk tells whether anything is left.
            while self.host.stored().len() > wanted.len() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        // The guard a watch gives must not be held while others wait for it.
        let both = async {
            done.await.is_ok() && {
                nothing_more.await;
                true
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), both).await.is_ok_and(|done| done)
    }
}

pub(crate) fn app_of(app: &DesiredApp) -> App {
    App::new(app.clone())
}

/// `name revision word…`, where a word is `init:NAME=IMAGE`, `main:NAME=IMAGE`, `probe`, `grace=5s`, `nofallback`,
/// `restart=never`, `timeout=10s`, `pull=always`, `secret`, `port=8080`, `startFirst`, `after=DEPLOYMENT:CONDITION`,
/// `after:NAME=CONTAINER:CONDITION`.
/// Of `probe:NAME` and `restart:NAME` only that main is meant.
pub(crate) fn parse_app(words: &[&str]) -> DesiredApp {
    let [name, revision, words @ ..] = words else { panic!("an app needs a name and a revision") };
    let (mut inits, mut mains, mut lifecycle, mut after) = (vec![], vec![], json!({}), vec![]);
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key.split_once(':') {
            Some(("init", name)) => inits.push(json!({ "name": name, "image": value })),
            Some(("main", name)) => mains.push(json!({ "name": name, "image": value })),
            Some((key, name)) => {
                let main: &mut Value = mains.iter_mut().find(|main| main["name"] == name).unwrap();
                match key {
                    "probe" => main["probe"] = json!({ "http": { "port": 80 } }),
                    "restart" => main["restart"] = value.into(),
                    "after" => {
                        let mut all = main["dependsOn"].as_array().cloned().unwrap_or_default();
                        all.push(dependency(value));
                        main["dependsOn"] = all.into();
                    }
                    other => panic!("unknown word {other}"),
                }
            }
            None if key == "after" => after.push(dependency(value)),
            None => option(key, value, &mut inits, &mut mains, &mut lifecycle),
        }
    }
    let deployment = json!({
        "metadata": { "name": name },
        "spec": { "selector": { "devices": ["pi-1"] }, "initContainers": inits, "containers": mains, "lifecycle": lifecycle,
                  "dependsOn": after },
    });
    let deployment: Deployment = serde_json::from_value(deployment).unwrap();
    let revision = Revision(revision.parse().unwrap());
    DesiredApp { uid: Uid::from_entropy([7; 13]), revision, deployment, pins: vec![] }
}

fn dependency(text: &str) -> Value {
    let (name, condition) = text.split_once(':').unwrap();
    json!({ "name": name, "condition": condition })
}

fn option(key: &str, value: &str, inits: &mut [Value], mains: &mut [Value], lifecycle: &mut Value) {
    match key {
        "probe" => {
            for main in mains {
                main["probe"] = json!({ "http": { "port": 80 } });
            }
        }
        "restart" => mains.iter_mut().for_each(|main| main["restart"] = value.into()),
        "pull" => mains.iter_mut().for_each(|main| main["imagePullPolicy"] = value.into()),
        "timeout" => inits.iter_mut().for_each(|init| init["timeout"] = value.into()),
        "secret" => mains.iter_mut().for_each(|main| {
            main["env"] = json!([{ "name": "PW", "valueFrom": { "secret": { "path": "a", "key": "b" } } }]);
        }),
        "grace" => lifecycle["gracePeriod"] = value.into(),
        "nofallback" => lifecycle["sigkillFallback"] = false.into(),
        "port" => mains[0]["ports"] = json!([{ "host": value.parse::<u16>().unwrap(), "container": 80 }]),
        "startFirst" => lifecycle["handover"] = "startFirst".into(),
        other => panic!("unknown option {other}"),
    }
}

/// Every container was started when what it depends on had come as far as it asks, by the device's own times. `takes`
/// says how long after its start a container of an image meets a condition.
pub(crate) fn check_starts(
    agent: &Agent,
    apps: &[DesiredApp],
    takes: impl Fn(&str, DependencyCondition) -> Duration,
    context: &str,
) {
    let things = agent.host.things();
    let started = |thing: &SimContainer| Duration::from_millis(thing.seen.started_at_ms);
    let of = |app: &App, role: Role| {
        let key = app.key().clone();
        things.iter().filter(move |thing| thing.app == key && thing.seen.role == role)
    };
    let met = |thing: &SimContainer, condition| started(thing) + takes(&thing.image, condition);
    for app in apps.iter().map(app_of) {
        for (key, condition) in app.dependencies() {
            let other = apps.iter().map(app_of).find(|other| *other.key() == key).unwrap();
            let met = of(&other, Role::Main).map(|thing| met(thing, condition)).max().unwrap();
            let first = of(&app, Role::Init).chain(of(&app, Role::Main)).map(started).min().unwrap();
            assert!(
                first >= met,
                "{context}: {} began at {first:?}, {key} {} at {met:?}",
                app.key(),
                condition.words()
            );
        }
        for main in app.mains() {
            let find = |name: &Name| of(&app, Role::Main).find(|thing| thing.seen.name == *name).unwrap();
            for dependency in &main.depends_on {
                let (at, met) = (started(find(&main.name)), met(find(&dependency.name), dependency.condition));
                assert!(at >= met, "{context}: {} began at {at:?}, {} was met at {met:?}", main.name, dependency.name);
            }
        }
    }
}
