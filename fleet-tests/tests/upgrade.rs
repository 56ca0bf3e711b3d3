//! The life of an app: init containers, one main or several in a pod, upgrades with a graceful stop, volumes that
//! outlive it, removal.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::path::PathBuf;
use std::time::Duration;

use bramble_contracts::v1::ContainerRole;
use bramble_fleet_tests::clock::{Watch, wait_until};
use bramble_fleet_tests::{Device, Fleet, manifest, soon};
use serde_json::{Value, json};

fn volume(mut container: Value) -> Value {
    container["volumes"] = json!([{ "name": "data", "path": "/data" }]);
    container
}

fn below_apps(pi: &Device, name: &str) -> Vec<PathBuf> {
    let found = xtask::run::Cmd::new("find").arg(pi.apps_dir().join("volumes")).args(["-name", name]).output().unwrap();
    found.stdout.lines().map(PathBuf::from).collect()
}

fn empty(pi: &Device) {
    soon("all containers to be gone", || {
        let left = pi.all_containers();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}; {}", pi.agent().last_words())) }
    });
}

#[test]
fn an_app_is_upgraded_gracefully_and_its_neighbour_never_notices() {
    let fleet = Fleet::start("upgrade");
    let pi = fleet.device("pi-1");
    let (port, other, deaf_port) = (fleet.port(), fleet.port(), fleet.port());
    fleet.apply(&manifest::hello("neighbour", other, 1));
    let neighbour = fleet.settled("neighbour", &pi);
    fleet.apply(&manifest::hello("web", port, 1));
    let first = fleet.settled("web", &pi);
    fleet.answers(port, "version 1");

    fleet.apply(&manifest::hello("web", port, 2));
    let second = fleet.settled("web", &pi);
    fleet.answers(port, "version 2");
    assert_ne!(first.id("web"), second.id("web"));
    assert!(pi.inspect(first.id("web")).is_err(), "the old container is removed");
    let target = fleet.target("web", "pi-1").unwrap();
    let down = target.app.unwrap().last_downtime_ms.expect("the device measures how long the app was down");
    println!("down for {down} ms");
    assert!(down < 10_000, "{down} ms");

    // What changes no container replaces none: labels, grace period.
    let mut relabelled = manifest::hello("web", port, 2);
    relabelled["metadata"]["labels"] = json!({ "team": "kiosk" });
    relabelled["spec"]["lifecycle"]["gracePeriod"] = json!("9s");
    fleet.apply(&relabelled);
    assert_eq!(fleet.settled("web", &pi), second);

    // One that does not listen to SIGTERM is killed after its grace, not before.
    let deaf = |version: u32| {
        let mut container = manifest::server("app", deaf_port, version);
        container["args"] = json!(["ignore-term"]);
        let mut manifest = manifest::deployment("deaf", &[container]);
        manifest["spec"]["lifecycle"]["gracePeriod"] = json!("3s");
        manifest
    };
    fleet.apply(&deaf(1));
    fleet.settled("deaf", &pi);
    fleet.answers(deaf_port, "version 1");
    let watch = Watch::start();
    fleet.apply(&deaf(2));
    fleet.answers(deaf_port, "version 2");
    assert!(watch.elapsed() >= Duration::from_secs(3), "its grace was cut short: {:?}", watch.elapsed());
    fleet.settled("deaf", &pi);

    // A crash is mended by the agent, the one that starts things.
    let id = fleet.settled("web", &pi).id("web").to_owned();
    pi.podman().args(["kill", "--signal", "KILL", &id]).check().unwrap();
    let after = wait_until("the app to be started again", Duration::from_secs(60), || {
        let now = fleet.settled("web", &pi);
        if now == second { Err(format!("{now:?}")) } else { Ok(now) }
    });
    assert_eq!(after.id("web"), id, "a crash is a restart of the same container");
    fleet.answers(port, "version 2");

    assert_eq!(fleet.settled("neighbour", &pi), neighbour);
    for name in ["web", "deaf", "neighbour"] {
        fleet.bramble().ok(&["delete", "deployment", name, "--yes"]);
    }
    empty(&pi);
    let reported = soon("nothing to be reported any more", || {
        let report = fleet.device_view("pi-1")?.report.ok_or("no report")?;
        if report.apps.is_empty() { Ok(report) } else { Err(format!("{:?}", report.apps)) }
    });
    assert!(reported.alarms.is_empty(), "{:?}", reported.alarms);
}

#[test]
fn init_containers_pods_and_volumes() {
    let fleet = Fleet::start("pods");
    let pi = fleet.device("pi-1");
    // A container that is not the fleet's, with a name that could be: nobody touches it.
    let strangers = pi.podman().args(["run", "-d", "--name", "stranger", &manifest::image(1), "sleep", "3600"]).check();
    let stranger = strangers.unwrap().trim().to_owned();
    let (a, b) = (fleet.port(), fleet.port());
    let container = |name: &str, inside: u16, port: u16, version: u32| {
        json!({ "name": name, "image": manifest::image(version), "args": ["serve", "--port", inside.to_string()],
                "ports": [{ "host": port, "container": inside }] })
    };
    let pod = |version: u32| {
        let inits = [
            volume(manifest::program("one", &["touch", "/data/one"])),
            volume(manifest::program("two", &["touch", "/data/two"])),
        ];
        let mains = [volume(container("left", 8001, a, version)), container("right", 8002, b, version)];
        manifest::with_init(manifest::deployment("pod", &mains), &inits)
    };
    fleet.apply(&pod(1));
    let first = fleet.settled("pod", &pi);
    assert_eq!(first.len(), 2);
    fleet.answers(a, "version 1");
    fleet.answers(b, "version 1");
    assert_eq!((below_apps(&pi, "one").len(), below_apps(&pi, "two").len()), (1, 1), "both init containers have run");
    let report = fleet.target("pod", "pi-1").unwrap().app.unwrap();
    let inits: Vec<_> = report.containers.iter().filter(|c| c.role == ContainerRole::Init).collect();
    assert_eq!(inits.iter().map(|c| c.exit_code).collect::<Vec<_>>(), [Some(0), Some(0)], "{inits:?}");

    std::fs::write(below_apps(&pi, "one")[0].with_file_name("kept"), "precious").unwrap();
    fleet.apply(&pod(2));
    let second = fleet.settled("pod", &pi);
    fleet.answers(a, "version 2");
    fleet.answers(b, "version 2");
    assert!(first.id("left") != second.id("left") && first.id("right") != second.id("right"));
    assert_eq!(below_apps(&pi, "kept").len(), 1, "the volume survives the upgrade");

    pi.kill_agent();
    pi.start_agent();
    fleet.online_agent(&pi);
    assert_eq!(fleet.settled("pod", &pi), second, "a pod survives its agent too");

    fleet.delete("pod");
    soon("the pod and its containers to be gone", || {
        let left = pi.all_containers();
        if left == [stranger.clone()] { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let pods = pi.podman().args(["pod", "ps", "--quiet"]).check().unwrap();
    assert_eq!(pods.trim(), "", "no pod is left");
    assert_eq!(below_apps(&pi, "kept").len(), 1, "the volume survives the deployment");
    fleet.apply(&pod(1));
    fleet.settled("pod", &pi);
    let kept = below_apps(&pi, "kept");
    assert_eq!(std::fs::read_to_string(&kept[0]).unwrap(), "precious");
    assert_eq!(pi.inspect(&stranger).unwrap()["State"]["Status"], "running", "the stranger was never touched");
}
