//! Podman's storage on real Podman with a real registry: damaged and mended, full, and filled over bad links.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::time::Duration;

use bramble_agent::core::disk::DiskRules;
use bramble_agent::host::podman::Users;
use bramble_agent::host::podman::service::Registries;
use bramble_contracts::v1::{ContainerState, Status};
use bramble_contracts::v2::AppReport;
use common::registry::Registry;
use common::{Device, Part, Setup, container, deployment, image_with, running};
use serde_json::Value;

/// Writes a line into its volume at every start, prints its version and runs.
const LOOP: &str = "echo started $V >> /data/log; trap 'exit 0' TERM; echo up $V; while :; do sleep 0.1; done";

fn part(name: &str, image: &str) -> Part {
    container(name, LOOP).volume("data", "/data").image(image)
}

fn app(name: &str, image: &str) -> Value {
    version(name, image, 1)
}

fn version(name: &str, image: &str, version: u64) -> Value {
    deployment(name, &[], &[part(name, image).env("V", &version.to_string())])
}

/// A device that knows how to reach the registry.
async fn device_of(registry: &Registry, setup: Setup) -> Device {
    let conf = registry.dir().join("registries.conf");
    std::fs::write(&conf, registry.conf()).unwrap();
    let registries = Registries { conf: Some(conf), ..setup.registries };
    Device::start_with(Setup { registries, ..setup }).await
}

/// What a damage does to a container that ran, to an image that runs, or to both.
type Deed = fn(&Path, &Store);

/// Where things of one app lie in the store.
struct Store {
    image: String,
    top_layer: String,
    container: String,
    container_layer: String,
}

impl Store {
    fn of(store: &Path, report: &AppReport) -> Self {
        let read =
            |file: &str| -> Vec<Value> { serde_json::from_slice(&std::fs::read(store.join(file)).unwrap()).unwrap() };
        let container = report.containers[0].id.clone();
        let of_container =
            read("overlay-containers/containers.json").into_iter().find(|c| c["id"] == *container).unwrap();
        let image = of_container["image"].as_str().unwrap().to_owned();
        let of_image = read("overlay-images/images.json").into_iter().find(|i| i["id"] == *image).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self { image, top_layer: text(&of_image["layer"]), container, container_layer: text(&of_container["layer"]) }
    }
}

fn zero(file: std::path::PathBuf) {
    std::fs::write(file, "").unwrap();
}

/// When damage shows.
#[derive(Clone, Copy, PartialEq)]
enum Shows {
    /// At the next start.
    AtStart,
    /// When a new container is made.
    AtCreation,
}

/// Each with what it is called; after the agent has mended it, the next one is done to the same device.
const DEEDS: &[(&str, Shows, Deed)] = &[
    ("the container's layer is gone", Shows::AtStart, |store, of| {
        std::fs::remove_dir_all(store.join("overlay").join(&of.container_layer)).unwrap();
    }),
    ("the container's list of layers is empty, as after a power cut", Shows::AtStart, |store, of| {
        zero(store.join("overlay").join(&of.container_layer).join("lower"));
    }),
    ("the container's directory is gone", Shows::AtStart, |store, of| {
        std::fs::remove_dir_all(store.join("overlay-containers").join(&of.container)).unwrap();
    }),
    ("the image's layer is gone", Shows::AtStart, |store, of| {
        std::fs::remove_dir_all(store.join("overlay").join(&of.top_layer)).unwrap();
    }),
    ("the image's files are empty, as after a power cut, and Podman does not notice", Shows::AtStart, |store, of| {
        for entry in std::fs::read_dir(store.join("overlay").join(&of.top_layer).join("diff/bin")).unwrap() {
            let file = entry.unwrap().path();
            if !file.is_symlink() {
                zero(file);
            }
        }
    }),
    ("the list of layers is empty", Shows::AtStart, |store, _| zero(store.join("overlay-layers/layers.json"))),
    ("the list of containers is empty", Shows::AtStart, |store, _| {
        zero(store.join("overlay-containers/containers.json"));
    }),
    ("the image's directory is gone", Shows::AtCreation, |store, of| {
        std::fs::remove_dir_all(store.join("overlay-images").join(&of.image)).unwrap();
    }),
    ("the image's manifest is empty", Shows::AtCreation, |store, of| {
        for entry in std::fs::read_dir(store.join("overlay-images").join(&of.image)).unwrap() {
            zero(entry.unwrap().path());
        }
    }),
    ("the list of images is empty", Shows::AtCreation, |store, _| zero(store.join("overlay-images/images.json"))),
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_damaged_of_one_app_is_mended_and_its_neighbour_never_notices() {
    let registry = Registry::start().await;
    let mut device = device_of(&registry, Setup::default()).await;
    registry.publish(&device, "web:1", b"of web").await;
    let image = registry.image("web:1");
    let wanted = |revision: u64| [(revision, version("web", &image, revision)), (1, app("neighbour", common::IMAGE))];
    let mut revision = 1;
    device.want(&wanted(revision));
    let mut before = device.until("web", running).await;
    let neighbour = device.until("neighbour", running).await;
    for (what, shows, deed) in DEEDS {
        let began = device.uptime();
        let id = before.containers[0].id.clone();
        let of = Store::of(&device.path("apps/store"), &before);
        let killed: &[&str] = if *shows == Shows::AtStart { &[&id] } else { &[] };
        device.while_down(killed, |store| deed(store, &of)).await;
        revision += u64::from(*shows == Shows::AtCreation);
        device.want(&wanted(revision));
        before = device.until("web", |r| running(r) && r.containers[0].id != id).await;
        println!("{what}: {} ms", (device.uptime() - began).as_millis());
        let now = device.until("neighbour", running).await;
        let same = |r: &AppReport| (r.containers[0].id.clone(), r.containers[0].started_at_ms);
        assert_eq!(same(&now), same(&neighbour), "{what}");
    }
    let log = device.volume_file("web", "data", "log");
    assert_eq!(log.lines().next(), Some("started 1"), "the volume has kept everything: {log:?}");
    assert!(log.lines().count() > DEEDS.len(), "{log:?}");
    assert_eq!(device.volume_file("neighbour", "data", "log"), "started 1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layer_that_two_images_stand_on_is_fetched_anew() {
    let registry = Registry::start().await;
    let mut device = device_of(&registry, Setup::default()).await;
    device.podman.import("localhost/base:1", image_with(b"base").into(), &[]).await.unwrap();
    for name in ["one:1", "two:1"] {
        registry.publish_on(&device, "localhost/base:1", name, name.as_bytes());
    }
    device.podman_cli(&["rmi", "-f", "localhost/base:1"]);
    let wanted = ["one", "two"].map(|name| (1, app(name, &registry.image(&format!("{name}:1")))));
    let mut all = wanted.to_vec();
    all.push((1, app("neighbour", common::IMAGE)));
    device.want(&all);
    let (one, two) = (device.until("one", running).await, device.until("two", running).await);
    let neighbour = device.until("neighbour", running).await;
    let base = layer_below(&device.path("apps/store"), &Store::of(&device.path("apps/store"), &one).top_layer);
    let busybox = device.path("apps/store/overlay").join(&base).join("diff/bin/busybox");
    device.while_down(&[&one.containers[0].id, &two.containers[0].id], |_| zero(busybox)).await;
    device.want(&all);
    for (name, before) in [("one", &one), ("two", &two)] {
        device.until(name, |r| running(r) && r.containers[0].id != before.containers[0].id).await;
        assert!(device.volume_file(name, "data", "log").lines().count() >= 2);
    }
    let now = device.report("neighbour").unwrap();
    assert_eq!(now.containers[0].id, neighbour.containers[0].id);
}

fn layer_below(store: &Path, layer: &str) -> String {
    let all = std::fs::read(store.join("overlay-layers/layers.json")).unwrap();
    let all: Vec<Value> = serde_json::from_slice(&all).unwrap();
    let one = all.iter().find(|one| one["id"] == layer).unwrap();
    one["parent"].as_str().unwrap().to_owned()
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// Answers on a port of the host, from a container or from one of two in a pod.
fn server(name: &str, port: u16, pod: bool) -> Value {
    let script = "mkdir -p /www; echo here > /www/index.html; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait";
    let (web, side) = (container("web", script), container("side", "trap 'exit 0' TERM; while :; do sleep 0.1; done"));
    let mut app = if pod { deployment(name, &[], &[web, side]) } else { deployment(name, &[], &[web]) };
    app["spec"]["containers"][0]["ports"] =
        serde_json::json!([{ "host": port, "hostIP": "127.0.0.1", "container": 8080 }]);
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_cut_off_at_any_moment_is_done_again() {
    let (seed, rounds) = (common::seed(), if common::full() { 40 } else { 4 });
    println!("seed {seed} (BRAMBLE_SEED={seed} repeats it)");
    let mut dice = Dice(seed);
    let mut device = Device::start().await;
    let port = common::free_port();
    let (mut left_behind, mut took) = (0, 1);
    for round in 0..=rounds {
        let name = format!("server-{round}");
        let pod = round % 2 == 0;
        let asked = device.uptime();
        device.want(&[(1, server(&name, port, pod))]);
        // The first one is left alone and tells how long it takes; then the service is shot somewhere in there.
        let after = Duration::from_millis(dice.below(took));
        if round > 0 {
            tokio::time::sleep(after).await;
            device.shoot_podman_service();
        }
        common::http_until(port, "here\n").await;
        if round == 0 {
            took = u64::try_from((device.uptime() - asked).as_millis()).unwrap();
        }
        let report = device.until(&name, running).await;
        assert_eq!(report.reason, "", "round {round}, shot after {} ms", after.as_millis());
        let alarms = device.agent().alarms().borrow().clone();
        left_behind += u32::from(alarms.iter().any(|alarm| alarm.contains("left processes behind")));
        let names = device.podman_names().await;
        // With the pod's own.
        assert_eq!(names.len(), if pod { 3 } else { 1 }, "nothing else is left: {names:?}");
        device.want(&[]);
        device.until_gone(&name).await;
        assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok(), "round {round}: nobody holds the port");
        // A service that ends so often is started again ever later.
        device.restart_agent().await;
    }
    println!("{rounds} starts of about {took} ms cut off, {left_behind} of them left processes behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_which_podman_cannot_work_is_made_anew() {
    let registry = Registry::start().await;
    let mut device = device_of(&registry, Setup::default()).await;
    registry.publish(&device, "web:1", b"of web").await;
    let wanted = [(1, app("web", &registry.image("web:1"))), (1, app("local", common::IMAGE))];
    device.want(&wanted);
    let (web, local) = (device.until("web", running).await, device.until("local", running).await);

    // The database first: no image is lost, nothing is pulled.
    let pulled = registry.carried();
    device.while_down(&[], |store| std::fs::write(store.join("libpod/bolt_state.db"), [7u8; 65536]).unwrap()).await;
    let said = device.mended().unwrap();
    assert!(said.contains("invalid database") && said.contains("images and volumes are kept"), "{said}");
    device.want(&wanted);
    for (name, before) in [("web", &web), ("local", &local)] {
        let after = device.until(name, |r| running(r) && r.containers[0].id != before.containers[0].id).await;
        assert_eq!(after.containers.len(), 1);
        assert_eq!(device.volume_file(name, "data", "log"), "started 1\nstarted 1\n");
    }
    assert_eq!(registry.carried(), pulled, "nothing was pulled");
    assert_eq!(device.podman_names().await.len(), 2, "each once");

    // Then all of it: what a registry has comes back, what was loaded by hand is named.
    device
        .while_down(&[], |store| {
            std::fs::remove_dir_all(store.join("overlay-layers")).unwrap();
            std::fs::write(store.join("overlay-layers"), "").unwrap();
        })
        .await;
    let said = device.mended().unwrap();
    assert!(said.contains("images that were loaded by hand (localhost/tiny:1) must be loaded again"), "{said}");
    device.want(&wanted);
    device.until("web", running).await;
    let report = device.until("local", |r| r.reason.contains("localhost/tiny:1")).await;
    assert!(report.reason.contains("never pulled; load it"), "{}", report.reason);
    device.podman.import(common::IMAGE, image_with(&[]).into(), &[]).await.unwrap();
    device.until("local", running).await;
    for name in ["web", "local"] {
        assert_eq!(
            device.volume_file(name, "data", "log"),
            "started 1\nstarted 1\nstarted 1\n",
            "{name}'s volume is whole"
        );
    }
}

/// A disk of 96 MiB, of which 24 are to stay free for good and 9 always.
fn small_disk() -> Setup {
    let rules = DiskRules { low_percent: 0, low_bytes: 24 << 20, reserve_bytes: 1 << 30 };
    Setup { disk_mib: Some(96), rules, ..Setup::default() }
}

async fn images_of(device: &Device) -> Vec<String> {
    let mut names: Vec<String> =
        device.podman.images().await.unwrap().into_iter().flat_map(|image| image.repo_tags).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_in_where_they_fit_and_go_when_room_runs_out() {
    let registry = Registry::start().await;
    let device = device_of(&registry, small_disk()).await;
    for (seed, name, mib) in [(1, "web:1", 16), (2, "web:2", 24), (3, "web:3", 4), (4, "other:1", 18)] {
        registry.publish(&device, name, &common::noise(seed, mib << 20)).await;
    }
    let web = |version: u64| (version, app("web", &registry.image(&format!("web:{version}"))));
    device.want(&[web(1)]);
    let before = device.until("web", running).await;

    // What cannot fit is refused with numbers, before anything is fetched or touched.
    let carried = registry.carried();
    device.want(&[web(2)]);
    let report = device.until("web", |r| r.status == Status::Failed).await;
    for part in ["web:2 needs about 8", "are to stay free", "of 96.0 MiB are free", "0 bytes can be collected"] {
        assert!(report.reason.contains(part), "{part}: {}", report.reason);
    }
    assert!(registry.carried() - carried < 1 << 20, "only manifests were asked for");
    assert_eq!(report.containers[0].id, before.containers[0].id, "the old one runs on");

    // A smaller one fits. The old image stays as long as there is room.
    device.want(&[web(3)]);
    device.until("web", |r| running(r) && r.running_revision.is_some_and(|v| v.0 == 3)).await;
    let all = [registry.image("web:1"), registry.image("web:3"), "localhost/tiny:1".to_owned()];
    assert_eq!(images_of(&device).await, all);

    // Where another one is to come, what nobody needs goes; what no registry gives back stays.
    device.want(&[web(3), (1, app("other", &registry.image("other:1")))]);
    device.until("other", running).await;
    let kept = [registry.image("other:1"), registry.image("web:3"), "localhost/tiny:1".to_owned()];
    assert_eq!(images_of(&device).await, kept);

    // And when the disk fills by itself.
    device.want(&[web(3)]);
    device.until_gone("other").await;
    let free = bramble_agent::host::facts::space(&device.path("apps")).free;
    std::fs::write(device.path("apps/volumes/filler"), vec![1u8; usize::try_from(free - (20 << 20)).unwrap()]).unwrap();
    let alarm = device.until_alarm("is low").await;
    assert!(alarm.contains("other:1") && alarm.contains("were freed"), "{alarm}");
    assert_eq!(images_of(&device).await, [registry.image("web:3"), "localhost/tiny:1".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_eats_the_reserve_is_stopped_and_leaves_nothing() {
    let registry = Registry::start().await;
    let device = device_of(&registry, small_disk()).await;
    registry.publish(&device, "web:2", &common::noise(2, 16 << 20)).await;
    device.want(&[(1, app("web", common::IMAGE))]);
    let before = device.until("web", running).await;
    registry.slow(4096);
    let carried = registry.carried();
    device.want(&[(2, app("web", &registry.image("web:2")))]);
    registry.until_carried(carried + (2 << 20)).await;
    let free = bramble_agent::host::facts::space(&device.path("apps")).free;
    std::fs::write(device.path("apps/volumes/filler"), vec![1u8; usize::try_from(free - (8 << 20)).unwrap()]).unwrap();
    let report = device.until("web", |r| r.reason.contains("was stopped")).await;
    assert!(report.reason.contains("web:2") && report.reason.contains("are to stay free"), "{}", report.reason);
    assert_eq!(report.containers[0].id, before.containers[0].id);
    common::until("nothing is left of the pull", || std::fs::read_dir(device.path("apps/pulls")).unwrap().count() == 0)
        .await;
    // With room it goes on by itself.
    registry.fast();
    std::fs::remove_file(device.path("apps/volumes/filler")).unwrap();
    device.until("web", |r| running(r) && r.running_revision.is_some_and(|v| v.0 == 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_slow_and_broken_link_apps_live_on_and_the_image_comes_at_last() {
    let registry = Registry::start().await;
    let device = device_of(&registry, Setup::default()).await;
    registry.publish(&device, "web:2", &common::noise(2, 3 << 20)).await;
    let neighbour = (1, app("neighbour", common::IMAGE));
    device.want(&[(1, app("web", common::IMAGE)), neighbour.clone()]);
    let old = device.until("web", running).await;
    let other = device.until("neighbour", running).await;

    registry.slow(256);
    let carried = registry.carried();
    device.want(&[(2, app("web", &registry.image("web:2"))), neighbour]);
    registry.until_carried(carried + (256 << 10)).await;
    // While it trickles in, a crash of either is mended at once.
    for (name, id) in [("neighbour", &other.containers[0].id), ("web", &old.containers[0].id)] {
        let asked = device.uptime();
        device.kill_container(id).await;
        device.until(name, |r| r.containers[0].restarts == 1 && r.containers[0].state == ContainerState::Running).await;
        println!("{name} was up again after {} ms, while web:2 was pulled", (device.uptime() - asked).as_millis());
    }
    assert!(registry.carried() - carried < 3 << 20, "the pull was still under way");
    // Cut in the middle: told, tried again, and the old one runs on.
    registry.cut();
    let report = device.until("web", |r| r.reason.contains("(try ")).await;
    assert!(report.reason.contains("web:2"), "{}", report.reason);
    assert_eq!(report.containers[0].id, old.containers[0].id);
    registry.fast();
    device.until("web", |r| running(r) && r.running_revision.is_some_and(|v| v.0 == 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_pinned_is_not_run() {
    let registry = Registry::start().await;
    let device = device_of(&registry, Setup::default()).await;
    let good = registry.publish(&device, "web:1", b"good").await;
    let bad = registry.publish(&device, "web:2", b"bad").await;
    let pinned = format!("{}@{good}", registry.image("web"));
    device.want(&[(1, app("web", &pinned))]);
    let before = device.until("web", running).await;
    device.want(&[]);
    device.until_gone("web").await;
    device.podman.image_remove(&pinned, Users::Removed).await.unwrap();
    // Somebody who owns the registry serves another manifest under the pinned digest.
    std::fs::copy(registry.blob(&bad), registry.blob(&good)).unwrap();
    registry.restart().await;
    device.want(&[(2, app("web", &pinned))]);
    let report = device.until("web", |r| r.status == Status::Failed).await;
    assert!(report.reason.contains(&good) && report.reason.contains("digest"), "{}", report.reason);
    assert_eq!(report.containers[0].state, ContainerState::Missing, "{:?}", before.containers[0].id);
    // Something that is no registry at all.
    let rubbish = format!("127.0.0.1:{}/web:1", common::serve_rubbish().await);
    device.want(&[(3, app("web", &rubbish))]);
    let report = device.until("web", |r| r.status == Status::Failed && r.revision.0 == 3).await;
    assert!(report.reason.contains(&rubbish) && report.reason.contains("(try "), "{}", report.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_handed_to_podman_and_half_pulled_images_do_not_pile_up() {
    let registry = Registry::start_with("auth: { htpasswd: { realm: test, path: DIR/htpasswd } }").await;
    let auth = registry.dir().join("auth.json");
    let setup =
        Setup { registries: Registries { auth_file: Some(auth.clone()), ..Registries::default() }, ..Setup::default() };
    let mut device = device_of(&registry, setup).await;
    device.want(&[(1, app("web", &registry.image("web:1")))]);
    let report = device.until("web", |r| r.status == Status::Failed).await;
    assert!(report.reason.contains("authentication required"), "{}", report.reason);
    // The file may come later: it is Podman that reads it, at every pull.
    std::fs::write(&auth, registry.auth_json()).unwrap();
    registry.publish(&device, "web:1", &common::noise(1, 2 << 20)).await;
    registry.slow(256);
    registry.until_carried(registry.carried() + (512 << 10)).await;
    let half = device.path("apps/pulls");
    assert!(std::fs::read_dir(&half).unwrap().count() > 0, "the pull lies where it should");
    device.kill_podman_service().await;
    device.restart_agent().await;
    assert_eq!(std::fs::read_dir(&half).unwrap().count(), 0, "what a killed pull left is gone");
    registry.fast();
    device.want(&[(1, app("web", &registry.image("web:1")))]);
    device.until("web", running).await;
}
