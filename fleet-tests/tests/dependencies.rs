//! Dependencies, whole: refused at apply where they go in a circle, kept by the device at first and after a boot with
//! nobody to ask, and told by every command that people look with.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use bramble_contracts::v1::{Phase, Status};
use bramble_fleet_tests::clock::wait_until;
use bramble_fleet_tests::{Device, Fleet, manifest, soon};
use serde_json::{Value, json};

fn after(mut app: Value, on: &[(&str, &str)]) -> Value {
    app["spec"]["dependsOn"] =
        on.iter().map(|(name, condition)| json!({ "name": name, "condition": condition })).collect();
    app
}

fn probed(mut container: Value, port: u16) -> Value {
    container["probe"] = json!({ "http": { "port": port }, "interval": "200ms" });
    container
}

/// A job that takes two seconds, a database after it, a shop after that with a pod of its own order, and one that starts
/// when the database does.
fn apps() -> [Value; 4] {
    let mut job = manifest::program("job", &["sleep", "2"]);
    job["restart"] = json!("onFailure");
    let serve = |name: &str, port: u16| manifest::program(name, &["serve", "--port", &port.to_string()]);
    let mut front = serve("front", 8001);
    front["dependsOn"] = json!([{ "name": "helper", "condition": "healthy" }]);
    let shop = manifest::deployment("shop", &[front, probed(serve("helper", 8002), 8002)]);
    let db = manifest::deployment("db", &[probed(serve("db", 80), 80)]);
    [
        manifest::with_init(after(shop, &[("db", "healthy")]), &[manifest::program("seed", &["touch", "/tmp/seed"])]),
        after(manifest::deployment("watcher", &[serve("watcher", 80)]), &[("db", "started")]),
        after(
            manifest::with_init(db, &[manifest::program("init", &["touch", "/tmp/init"])]),
            &[("migrate", "completed")],
        ),
        manifest::deployment("migrate", &[job]),
    ]
}

/// One file of several documents.
fn file(fleet: &Fleet, name: &str, apps: &[Value]) -> String {
    let path = fleet.case().dir().join(name);
    // JSON is YAML too.
    let text: String = apps.iter().map(|app| format!("---\n{app:#}\n")).collect();
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Container → (when it started, when it ended), as Podman says in nanoseconds, of those that run or have completed.
fn times(pi: &Device) -> BTreeMap<String, (String, String)> {
    let ids = pi.all_containers();
    let states = ids.iter().filter_map(|id| pi.inspect(id).ok()).filter(|container| container["IsInfra"] != true);
    let done = |state: &Value| state["Status"] == "running" || (state["Status"] == "exited" && state["ExitCode"] == 0);
    states
        .filter(|container| done(&container["State"]))
        .filter_map(|container| {
            let name = container["Name"].as_str()?.split('.').nth(3)?.to_owned();
            let text = |field: &str| comparable(container["State"][field].as_str().unwrap_or_default());
            Some((name, (text("StartedAt"), text("FinishedAt"))))
        })
        .collect()
}

/// Podman leaves zeros out at the end of a second's fraction.
fn comparable(time: &str) -> String {
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    let digits: String = fraction.chars().take_while(char::is_ascii_digit).collect();
    format!("{}.{digits:0<9}", seconds.trim_end_matches('Z'))
}

const ALL: [&str; 7] = ["job", "init", "db", "watcher", "seed", "helper", "front"];

fn in_order(pi: &Device) {
    let times = wait_until("all containers to run", Duration::from_secs(120), || {
        let times = times(pi);
        if ALL.iter().all(|name| times.contains_key(*name)) {
            Ok(times)
        } else {
            Err(format!("{times:?}; {}", pi.agent().last_words()))
        }
    });
    let (start, end) = (|name: &str| times[name].0.as_str(), |name: &str| times[name].1.as_str());
    // One that ends at once may have ended before Podman noted its start: the two are not compared.
    let order = [start("job"), end("job"), start("init"), start("db"), start("seed"), start("helper"), start("front")];
    assert!(order.is_sorted(), "{times:#?}");
    assert!(end("init") < start("db") && end("seed") < start("helper") && start("db") < start("watcher"), "{times:#?}");
}

#[test]
fn a_device_keeps_the_order_also_when_it_boots_alone_and_says_what_waits() {
    let fleet = Fleet::start("dependencies");
    let pi = fleet.device("pi-1");
    let bramble = fleet.bramble();
    let all = file(&fleet, "all.yaml", &apps());
    let plan = bramble.ok(&["plan", "-f", &all]);
    let heads: Vec<&str> = plan.lines().filter(|line| line.starts_with("deployment/")).collect();
    let order = ["migrate", "db", "shop", "watcher"].map(|name| format!("deployment/{name} created"));
    assert_eq!(heads, order, "{plan}");
    assert!(plan.contains("deployment migrate to complete") && plan.contains("deployment db to be healthy"), "{plan}");
    bramble.ok(&["apply", "-f", &all, "--wait"]);
    in_order(&pi);

    // Nobody to ask, and the power goes.
    fleet.coordinator().stop();
    let before = times(&pi);
    pi.power_cut();
    soon("nothing of the last boot to be left", || {
        let now = times(&pi);
        let old = before.iter().filter(|(name, times)| now.get(*name) == Some(times)).count();
        if old == 0 { Ok(()) } else { Err(format!("{now:#?}")) }
    });
    in_order(&pi);
    fleet.coordinator().start();
    fleet.online_agent(&pi);
    bramble.ok(&["apply", "-f", &all, "--wait"]);

    refused(&fleet);
    failing(&fleet, &pi);
}

/// What goes in a circle, with its line; nothing of it is stored.
fn refused(fleet: &Fleet) {
    let db = after(manifest::deployment("db", &[manifest::program("db", &["serve"])]), &[("shop", "started")]);
    let circle = file(fleet, "circle.yaml", &[db]);
    let told = fleet.bramble().fails(1, &["apply", "-f", &circle]);
    let wanted = "spec.dependsOn[0].name: these wait for each other on device pi-1: db -> shop -> db; take one of the dependencies out";
    assert!(told.contains(wanted) && told.contains("circle.yaml:"), "{told}");
    assert_eq!(fleet.deployment_view("db").unwrap().revision.0, 1);
}

fn failing(fleet: &Fleet, pi: &Device) {
    let broken =
        after(manifest::deployment("late", &[manifest::program("late", &["serve"])]), &[("broken", "completed")]);
    let warned = fleet.bramble().run(&["apply", "-f", &file(fleet, "late.yaml", &[broken])]);
    assert!(warned.err.contains("there is no deployment broken yet: this one waits until it is applied"), "{warned:?}");
    let waits = fleet.target_until("waits", "late", "pi-1", |t| t.phase == Some(Phase::Waiting));
    assert_eq!(waits.reason, "waits for deployment broken to complete; broken is not wanted on this device");
    let mut job = manifest::program("job", &["exit", "4", "no disk"]);
    job["restart"] = json!("never");
    fleet.apply(&manifest::deployment("broken", &[job]));
    let waits = fleet.target_until("waits for a failed one", "late", "pi-1", |t| t.reason.contains("failed"));
    assert!(waits.status == Some(Status::Staged) && waits.reason.contains("exit code 4"), "{waits:?}");
    let explained = fleet.bramble().ok(&["explain", "device", "pi-1", "late"]);
    assert!(
        explained.contains("late on pi-1 is held back: waits for deployment broken to complete (failed"),
        "{explained}"
    );
    let described = fleet.bramble().ok(&["describe", "deployment", "late"]);
    assert!(described.contains("broken to complete") && described.contains("staged, waiting"), "{described}");
    // The dependency is mended: that is enough.
    let mut job = manifest::program("job", &["sleep", "0"]);
    job["restart"] = json!("never");
    fleet.apply(&manifest::deployment("broken", &[job]));
    fleet.settled("late", pi);
    let gone = fleet.bramble().run(&["delete", "deployment", "broken", "--yes"]);
    assert!(gone.err.contains("deployment late depends on broken: it runs on"), "{gone:?}");
}
