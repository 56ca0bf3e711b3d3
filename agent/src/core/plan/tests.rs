//! Plans of one app from states that are hard to reach: each test says what is there and reads the steps.

use bramble_contracts::Name;
use bramble_contracts::v1::{DesiredApp, Handover};
use serde_json::json;

use super::*;
use crate::core::app::AppKey;
use crate::core::have::{ImageSeen, Observed};
use crate::core::mapping::{Address, Publisher, Wanted, wanted};
use crate::core::record::{Instance, Record};
use crate::core::step::Device;

/// An app of main containers, each `name:version`, after init containers likewise.
fn app(revision: u64, inits: &[&str], mains: &[&str]) -> Arc<App> {
    let part = |text: &&str| json!({ "name": text.split(':').next().unwrap(), "image": format!("reg/{text}") });
    let deployment = json!({
        "metadata": { "name": "cam" },
        "spec": {
            "selector": { "devices": ["pi-1"] },
            "initContainers": inits.iter().map(part).collect::<Vec<_>>(),
            "containers": mains.iter().map(part).collect::<Vec<_>>(),
        },
    });
    let desired = json!({ "uid": "a".repeat(20), "revision": revision, "deployment": deployment, "pins": [] });
    Arc::new(App::new(serde_json::from_value::<DesiredApp>(desired).unwrap()))
}

/// A device on which things are made by `add`.
struct World {
    record: Record,
    observed: Observed,
    memory: Memory,
    trial: Memory,
    neighbours: Neighbours,
}

impl World {
    fn new() -> Self {
        let record = Record::new(AppKey::parse("default.cam").unwrap());
        let (memory, trial) = (Memory::default(), Memory::default());
        Self { record, observed: Observed::default(), memory, trial, neighbours: Neighbours::new() }
    }

    fn images(mut self, names: &[&str]) -> Self {
        let seen = || ImageSeen { id: "0".repeat(64), digest: String::new() };
        self.observed.images = names.iter().map(|name| (format!("reg/{name}"), seen())).collect();
        self
    }

    /// Something ours, in that state.
    fn add(mut self, app: &App, role: Role, name: &str, state: SeenState) -> Self {
        let nonce = format!("n{}", self.record.instances.len());
        let name: Name = name.parse().unwrap();
        let id = format!("id-{nonce}");
        let hash = app.hash().to_string();
        let instance = Instance {
            name: name.clone(),
            role,
            hash: hash.clone(),
            boot: "boot-1".into(),
            made_up_ms: 0,
            id: Some(id.clone()),
        };
        self.record.instances.insert(nonce.clone(), instance);
        self.observed.seen.push(Seen {
            id,
            podman_name: name.to_string(),
            name,
            role,
            hash,
            boot: "boot-1".into(),
            revision: 1,
            nonce,
            publisher: Publisher::of(app),
            addresses: vec![],
            state,
            exit_code: 0,
            oom_killed: false,
            started_at_ms: 0,
            image_id: String::new(),
            last_lines: vec![],
        });
        self
    }

    fn main(self, app: &App, name: &str) -> Self {
        self.add(app, Role::Main, name, SeenState::Running)
    }

    /// What was added last is reached there.
    fn at(mut self, ip: &str) -> Self {
        let last = self.observed.seen.last_mut().unwrap();
        last.addresses.push(Address { ip: ip.parse().unwrap(), prefix: 24 });
        self
    }

    /// Host ports lead to this.
    fn mapped(mut self, app: &App) -> Self {
        match wanted(app, &self.have()) {
            Wanted::Routes(mapping, _) => self.observed.mapping = Some(mapping),
            other => panic!("{other:?}"),
        }
        self
    }

    fn have(&self) -> Have {
        Have::sort(self.observed.clone(), &self.record)
    }

    fn plan(&self, want: Option<&Arc<App>>, current: Option<&Arc<App>>, boot: &str) -> Plan {
        let device = Device { id: "d".into(), name: "pi-1".into() };
        let (key, now, nonce) = (AppKey::parse("default.cam").unwrap(), Duration::from_secs(100), "new".into());
        let facts = Facts { key, boot: boot.into(), now, nonce, device, neighbours: self.neighbours.clone() };
        plan(want, current, &self.have(), &self.memory, &self.trial, &facts)
    }
}

fn text(plan: &Plan) -> String {
    plan.steps.iter().map(Step::to_string).collect::<Vec<_>>().join("; ")
}

#[track_caller]
fn check(world: &World, want: Option<&Arc<App>>, current: Option<&Arc<App>>, expected: &str) {
    assert_eq!(text(&world.plan(want, current, "boot-1")), expected);
}

#[test]
fn images_come_first_and_one_decision_follows() {
    let v1 = app(1, &[], &["cam:1"]);
    check(&World::new(), Some(&v1), None, "pull reg/cam:1");
    check(&World::new().images(&["cam:1"]), Some(&v1), None, "adopt revision 1");
    check(&World::new().images(&["cam:1"]), Some(&v1), Some(&v1), "create cam");
}

#[test]
fn an_upgrade_makes_the_new_one_before_it_stops_the_old_one() {
    let (v1, v2) = (app(1, &[], &["cam:1"]), app(2, &[], &["cam:2"]));
    let world = || World::new().images(&["cam:1", "cam:2"]).main(&v1, "cam");
    check(&World::new().images(&["cam:1"]).main(&v1, "cam"), Some(&v2), Some(&v1), "pull reg/cam:2");
    check(&world(), Some(&v2), Some(&v1), "adopt revision 2");
    check(&world(), Some(&v2), Some(&v2), "create cam");
    let made = world().add(&v2, Role::Main, "cam", SeenState::Created);
    check(&made, Some(&v2), Some(&v2), "stop cam (SIGTERM 30s kill); remove cam");
    let gone = World::new().images(&["cam:2"]).add(&v2, Role::Main, "cam", SeenState::Created);
    check(&gone, Some(&v2), Some(&v2), "start cam");
}

#[test]
fn what_runs_as_wanted_is_left_alone() {
    let v1 = app(1, &[], &["cam:1"]);
    let world = World::new().main(&v1, "cam");
    let renamed = app(9, &[], &["cam:1"]);
    check(&world, Some(&v1), Some(&v1), "");
    check(&world, Some(&renamed), Some(&v1), "");
    assert_eq!(world.plan(Some(&v1), Some(&v1), "boot-2").steps, [], "whatever its label says: it runs");
}

#[test]
fn a_removal_that_was_cut_off_is_finished_and_nothing_is_stopped_for_it() {
    let (v1, v2) = (app(1, &["seed:1"], &["cam:1"]), app(2, &["seed:1"], &["cam:2"]));
    let world = || World::new().images(&["seed:1", "cam:1", "cam:2"]);
    let old = world().add(&v1, Role::Init, "seed", SeenState::Removing).add(&v2, Role::Main, "cam", SeenState::Created);
    check(&old, Some(&v2), Some(&v2), "remove seed");
    let init =
        world().add(&v1, Role::Init, "seed", SeenState::Removing).add(&v1, Role::Main, "cam", SeenState::Created);
    check(&init, Some(&v1), Some(&v1), "remove seed");
    let main = world().add(&v1, Role::Init, "seed", SeenState::Exited).add(&v1, Role::Main, "cam", SeenState::Removing);
    check(&main, Some(&v1), Some(&v1), "remove cam");
}

#[test]
fn absence_removes_and_nothing_else_does() {
    let v1 = app(1, &["seed:1"], &["cam:1"]);
    let world = World::new().add(&v1, Role::Init, "seed", SeenState::Exited).main(&v1, "cam");
    check(&world, None, Some(&v1), "stop cam (SIGTERM 30s kill); remove seed; remove cam");
    let empty = World::new();
    assert!(empty.plan(None, Some(&v1), "boot-1").gone);
}

#[test]
fn a_reboot_remakes_what_does_not_run_and_runs_init_containers_again() {
    let v1 = app(1, &["seed:1"], &["cam:1"]);
    let images = World::new().images(&["seed:1", "cam:1"]);
    let world = images.add(&v1, Role::Init, "seed", SeenState::Exited).add(&v1, Role::Main, "cam", SeenState::Exited);
    assert_eq!(text(&world.plan(Some(&v1), Some(&v1), "boot-2")), "remove seed; remove cam");
    let made = World::new().images(&["seed:1"]).add(&v1, Role::Main, "cam", SeenState::Created);
    check(&made, Some(&v1), Some(&v1), "create-init seed");
    let run = made.add(&v1, Role::Init, "seed", SeenState::Created);
    check(&run, Some(&v1), Some(&v1), "run-init seed");
}

#[test]
fn a_crashed_main_starts_again_without_its_init_containers() {
    let v1 = app(1, &["seed:1"], &["cam:1"]);
    let mut world = World::new().add(&v1, Role::Main, "cam", SeenState::Exited);
    let have = world.have();
    world.memory.saw(&have, &v1, Duration::from_secs(100));
    check(&world, Some(&v1), Some(&v1), "start cam");
}

#[test]
fn several_mains_share_a_pod_that_goes_last() {
    let v1 = app(1, &[], &["cam:1", "mic:1"]);
    let images = || World::new().images(&["cam:1", "mic:1"]);
    check(&images(), Some(&v1), Some(&v1), "create-pod cam");
    let pod = images().add(&v1, Role::Pod, "cam", SeenState::Created);
    check(&pod, Some(&v1), Some(&v1), "create cam; create mic");
    let all = pod.main(&v1, "cam").main(&v1, "mic");
    let v2 = app(2, &[], &["cam:2"]);
    let next = all.images(&["cam:2"]).add(&v2, Role::Main, "cam", SeenState::Created);
    let clear = "stop cam mic (SIGTERM 30s kill); remove cam; remove mic; remove-pod cam";
    check(&next, Some(&v2), Some(&v2), clear);
}

#[test]
fn a_part_that_vanished_means_all_of_it_is_made_anew() {
    let v1 = app(1, &["seed:1"], &["cam:1"]);
    let mut world = World::new().images(&["cam:1"]).add(&v1, Role::Init, "seed", SeenState::Exited).main(&v1, "cam");
    world.observed.seen.retain(|seen| seen.role != Role::Main);
    check(&world, Some(&v1), Some(&v1), "remove seed; forget cam");
}

#[test]
fn copied_labels_make_nothing_ours() {
    let v1 = app(1, &[], &["cam:1"]);
    let mut world = World::new().images(&["cam:1"]).main(&v1, "cam");
    world.record.instances.clear();
    assert_eq!(world.have().strangers.len(), 1);
    check(&world, Some(&v1), Some(&v1), "create cam");
    check(&world, None, Some(&v1), "");
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let v1 = app(1, &[], &["cam:1"]);
    let mut desired = app(2, &[], &["cam:2"]).desired().clone();
    let secret = json!([{ "name": "PW", "valueFrom": { "secret": { "path": "a", "key": "b" } } }]);
    desired.deployment.spec.containers[0].env = serde_json::from_value(secret).unwrap();
    let v2 = Arc::new(App::new(desired));
    let plan = World::new().main(&v1, "cam").plan(Some(&v2), Some(&v1), "boot-1");
    assert_eq!((text(&plan).as_str(), plan.status, plan.phase), ("", Status::Failed, Phase::Failed));
    assert!(plan.reason.contains("secret"));
}

/// The same app, handing over start first, with these host ports.
fn start_first(app: &App, ports: &serde_json::Value) -> Arc<App> {
    let mut desired = app.desired().clone();
    desired.deployment.spec.lifecycle.handover = Handover::StartFirst;
    desired.deployment.spec.containers[0].ports = serde_json::from_value(ports.clone()).unwrap();
    Arc::new(App::new(desired))
}

fn both(plan: &Plan) -> String {
    let beside: Vec<String> = plan.beside.iter().map(Step::to_string).collect();
    format!("{} | {}", text(plan), beside.join("; "))
}

#[test]
fn start_first_proves_switches_adopts_and_only_then_lets_go() {
    let ports = json!([{ "host": 80, "container": 80 }]);
    let (v1, v2) = (app(1, &[], &["cam:1"]), app(2, &["seed:2"], &["cam:2"]));
    let (v1, v2) = (start_first(&v1, &ports), start_first(&v2, &ports));
    let images = ["cam:1", "cam:2", "seed:2"];
    let old = || World::new().images(&images).main(&v1, "cam").at("10.0.0.1").mapped(&v1);
    let plan = |world: &World, current: &Arc<App>| both(&world.plan(Some(&v2), Some(current), "boot-1"));
    assert_eq!(
        plan(&World::new().images(&["cam:1"]).main(&v1, "cam").at("10.0.0.1").mapped(&v1), &v1),
        " | pull reg/cam:2; pull reg/seed:2"
    );
    assert_eq!(plan(&old(), &v1), " | create cam");
    let made = || old().add(&v2, Role::Main, "cam", SeenState::Created);
    assert_eq!(plan(&made(), &v1), " | create-init seed", "its init containers run beside the old one too");
    let ready = old().add(&v2, Role::Init, "seed", SeenState::Exited).main(&v2, "cam").at("10.0.0.2");
    assert_eq!(plan(&ready, &v1), " | map 80/tcp to 10.0.0.2; adopt revision 2");
    // An agent that died between the two does not prove it again, and does not go back.
    let switched = ready.mapped(&v2);
    assert_eq!(plan(&switched, &v1), " | adopt revision 2");
    assert_eq!(plan(&switched, &v2), "retire cam (SIGTERM 30s kill) | ");
}

#[test]
fn start_first_waits_a_moment_longer_than_the_first_passed_probe() {
    let ports = json!([{ "host": 80, "container": 80 }]);
    let (v1, v2) = (start_first(&app(1, &[], &["cam:1"]), &ports), start_first(&app(2, &[], &["cam:2"]), &ports));
    let mut world = World::new().images(&["cam:1", "cam:2"]).main(&v1, "cam").at("10.0.0.1").mapped(&v1);
    world = world.main(&v2, "cam").at("10.0.0.2");
    let new = world.observed.seen.last().unwrap().clone();
    let target = Target { name: new.name.clone(), id: new.id.clone(), nonce: new.nonce.clone() };
    world.trial.saw(&world.have(), &v2, Duration::from_secs(99));
    world.trial.done(&Step::Start { target, role: Role::Main }, Duration::from_secs(99));
    let plan = world.plan(Some(&v2), Some(&v1), "boot-1");
    assert_eq!((both(&plan).as_str(), plan.wake), (" | ", Some(Duration::from_secs(101))));
}

#[test]
fn what_two_cannot_share_makes_the_old_one_stop_first() {
    let v1 = app(1, &[], &["cam:1"]);
    let mut writes = v1.desired().clone();
    let volumes = |read_only: bool| json!([{ "name": "data", "path": "/data", "readOnly": read_only }]);
    writes.deployment.spec.containers[0].volumes = serde_json::from_value(volumes(false)).unwrap();
    let writes = Arc::new(App::new(writes));
    let mut reads = start_first(&app(2, &[], &["cam:2"]), &json!([])).desired().clone();
    reads.deployment.spec.containers[0].volumes = serde_json::from_value(volumes(true)).unwrap();
    let reads = Arc::new(App::new(reads));
    let world = |old: &App| World::new().images(&["cam:1", "cam:2"]).main(old, "cam");
    let plan = |old: &Arc<App>| both(&world(old).plan(Some(&reads), Some(old), "boot-1"));
    assert_eq!(plan(&writes), "adopt revision 2 | ", "the old one writes what the new one reads");
    assert_eq!(plan(&v1), " | create cam");
    let made = world(&writes).add(&reads, Role::Main, "cam", SeenState::Created);
    assert_eq!(both(&made.plan(Some(&reads), Some(&reads), "boot-1")), "stop cam (SIGTERM 30s kill); remove cam | ");
}

#[test]
fn an_address_that_the_network_does_not_have_is_named() {
    let ports = json!([{ "host": 80, "container": 80, "hostIP": "2001:db8::1" }]);
    let v1 = start_first(&app(1, &[], &["cam:1"]), &ports);
    let world = World::new().main(&v1, "cam").at("10.0.0.1");
    let plan = world.plan(Some(&v1), Some(&v1), "boot-1");
    assert_eq!((both(&plan).as_str(), plan.status), (" | ", Status::Failed));
    assert!(plan.reason.contains("2001:db8::1") && plan.reason.contains("IPv6"), "{}", plan.reason);
}

#[test]
fn what_is_made_anew_costs_the_one_that_still_runs_nothing() {
    let (v1, v2) = (app(1, &[], &["cam:1"]), app(2, &[], &["cam:2", "mic:2"]));
    let old = World::new().images(&["cam:2", "mic:2"]).main(&v1, "cam");
    // A pod whose making was cut off.
    let world = old.add(&v2, Role::Pod, "cam", SeenState::Exited);
    assert_eq!(both(&world.plan(Some(&v2), Some(&v2), "boot-1")), "remove-pod cam | ");
}

#[test]
fn nothing_goes_while_ports_lead_to_it() {
    let ports = json!([{ "host": 80, "container": 80 }]);
    let (v1, v2) = (start_first(&app(1, &[], &["cam:1"]), &ports), start_first(&app(2, &[], &["cam:2"]), &ports));
    // As when an upgrade in flight is changed to stop first: it is adopted at once, with both of them running.
    let world = World::new().main(&v1, "cam").at("10.0.0.1").mapped(&v1).main(&v2, "cam").at("10.0.0.2");
    let plan = |world: &World| both(&world.plan(Some(&v2), Some(&v2), "boot-1"));
    assert_eq!(plan(&world), "map 80/tcp to 10.0.0.2 | ");
    assert_eq!(plan(&world.mapped(&v2)), "retire cam (SIGTERM 30s kill) | ");
}

#[test]
fn ports_that_cannot_be_led_are_in_nobodys_way() {
    let ports = json!([{ "host": 80, "container": 80 }]);
    let v1 = start_first(&app(1, &[], &["cam:1", "mic:1"]), &ports);
    let pod = World::new().add(&v1, Role::Pod, "cam", SeenState::Running).at("10.0.0.1");
    let mut world = pod.main(&v1, "cam").add(&v1, Role::Main, "mic", SeenState::Created);
    assert_eq!(both(&world.plan(Some(&v1), Some(&v1), "boot-1")), "start mic; map 80/tcp to 10.0.0.1 | ");
    // What nft cannot tell is written anew, and when the app goes it is the last thing to be done.
    world.observed.mapping = Some(crate::core::mapping::Mapping::default());
    let gone = "stop cam (SIGTERM 30s kill); remove cam; remove mic; remove-pod cam; unmap | ";
    assert_eq!(both(&world.plan(None, Some(&v1), "boot-1")), gone);
}
