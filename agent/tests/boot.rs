//! A device that boots alone, on real Podman: everything starts in the order of its dependencies, init containers first,
//! in the first boot and in the next; and what waits says for what.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bramble_contracts::v1::{Phase, Status};
use common::{Device, Part, container, deployment, init, running};
use serde_json::{Value, json};

/// Adds a line with the uptime to a log that all containers of the app share.
fn note(word: &str) -> String {
    format!("echo {word} $(cat /proc/uptime) >> /data/log")
}

const STAY: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn part(make: fn(&str, &str) -> Part, name: &str, script: &str) -> Part {
    make(name, script).volume("data", "/data")
}

/// Healthy a second after it began.
fn server(name: &str) -> Part {
    let script =
        format!("echo > /tmp/well; {}; sleep 1; {}; echo yes > /tmp/well; {STAY}", note("began"), note("well"));
    part(container, name, &script)
}

fn with_probe(mut app: Value, container: usize) -> Value {
    app["spec"]["containers"][container]["probe"] =
        json!({ "exec": { "command": ["sh", "-c", "read well < /tmp/well && [ $well = yes ]"] }, "interval": "200ms" });
    app
}

/// A job, a database after it, a shop after that, in whose pod the front waits for a helper; and one that is on its own.
fn apps() -> Vec<(u64, Value)> {
    let job = format!("{}; sleep 1; {}", note("began"), note("done"));
    let mut migrate = deployment("migrate", &[], &[part(container, "job", &job)]);
    migrate["spec"]["containers"][0]["restart"] = "never".into();
    let mut db = with_probe(deployment("db", &[part(init, "seed", &note("init"))], &[server("db")]), 0);
    db["spec"]["dependsOn"] = json!([{ "name": "migrate", "condition": "completed" }]);
    let front = part(container, "front", &format!("{}; {STAY}", note("front")));
    let mut shop = with_probe(deployment("shop", &[part(init, "warm", &note("init"))], &[front, server("helper")]), 1);
    shop["spec"]["containers"][0]["dependsOn"] = json!([{ "name": "helper", "condition": "healthy" }]);
    shop["spec"]["dependsOn"] = json!([{ "name": "db", "condition": "healthy" }]);
    let free = deployment("free", &[], &[part(container, "free", &format!("{}; {STAY}", note("began")))]);
    [shop, db, migrate, free].map(|app| (1, quick(app))).into()
}

fn quick(mut app: Value) -> Value {
    app["spec"]["lifecycle"] = json!({ "gracePeriod": "2s" });
    app
}

/// When each word was last noted, in seconds since the machine's boot.
fn noted(device: &Device, app: &str) -> Vec<(String, f64)> {
    let log = device.volume_file(app, "data", "log");
    log.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (words[0].to_owned(), words[1].parse().unwrap())
        })
        .collect()
}

async fn in_order(device: &Device, boot: usize) {
    for name in ["shop", "db", "free"] {
        device.until(name, running).await;
    }
    device.until("migrate", |r| r.status == Status::Confirmed && r.phase == Phase::Completed).await;
    let all: Vec<(String, f64)> = ["migrate", "db", "shop"]
        .into_iter()
        .flat_map(|app| {
            let log = noted(device, app);
            let each = log.len() / boot;
            log[each * (boot - 1)..].to_vec()
        })
        .collect();
    let words: Vec<&str> = all.iter().map(|(word, _)| word.as_str()).collect();
    assert_eq!(words, ["began", "done", "init", "began", "well", "init", "began", "well", "front"], "{all:?}");
    assert!(all.is_sorted_by(|(_, one), (_, next)| one <= next), "{all:?}");
    let (free, done) = (noted(device, "free")[boot - 1].1, all[1].1);
    assert!(free < done, "one that depends on nobody waits for nobody: {free}, {done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_starts_in_order_in_the_first_boot_and_in_the_next() {
    let mut device = Device::start().await;
    device.want(&apps());
    in_order(&device, 1).await;
    let main = |device: &Device, app: &str| device.report(app).unwrap().containers.last().unwrap().id.clone();
    let before = main(&device, "db");
    device.reboot().await;
    device.want(&apps());
    in_order(&device, 2).await;
    let db = main(&device, "db");
    assert_ne!(db, before, "made anew in the new boot");

    // Who runs, runs on, whatever becomes of what it depends on.
    let containers = |device: &Device| {
        let report = device.report("shop").unwrap();
        report.containers.into_iter().map(|c| (c.id, c.started_at_ms, c.restarts)).collect::<Vec<_>>()
    };
    let shop = containers(&device);
    device.kill_container(&db).await;
    device.until("db", |r| running(r) && r.containers[1].restarts == 1).await;
    assert_eq!(containers(&device), shop);

    device.want(&[]);
    for name in ["shop", "db", "migrate", "free"] {
        device.until_gone(name).await;
    }
    assert_eq!(device.podman_names().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_that_failed_is_named_by_who_waits_and_its_mending_is_enough() {
    let device = Device::start().await;
    let job = |version: u64, code: u8| {
        let script = format!("echo version {version}: no disk; exit {code}");
        let mut app = deployment("job", &[], &[container("job", &script)]);
        app["spec"]["containers"][0]["restart"] = "never".into();
        (version, quick(app))
    };
    let mut web = quick(deployment("web", &[init("seed", "true")], &[container("web", STAY)]));
    web["spec"]["dependsOn"] = json!([{ "name": "job", "condition": "completed" }]);
    device.want(&[(1, web.clone())]);
    let alone = device.until("web", |r| r.phase == Phase::Waiting).await;
    assert_eq!(alone.reason, "waits for deployment job to complete; job is not wanted on this device");
    device.want(&[(1, web.clone()), job(1, 4)]);
    let waits = device.until("web", |r| r.reason.contains("failed")).await;
    let wanted = "waits for deployment job to complete (failed: container job ended with exit code 4, and its restart policy is never: version 1: no disk)";
    assert_eq!((waits.status, waits.phase, waits.reason.as_str()), (Status::Staged, Phase::Waiting, wanted));
    assert_eq!(device.podman_names().await.len(), 1, "nothing of the one that waits was made");
    device.want(&[(1, web), job(2, 0)]);
    device.until("web", running).await;
}
