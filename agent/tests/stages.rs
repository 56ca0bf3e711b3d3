//! The way of an app to its revisions on real Podman: each stage with its time, and the check that fails by its name.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bramble_contracts::v1::Status;
use bramble_contracts::v2::{AppReport, Stage, StageName, StageState};
use common::{Device, container, deployment, init, running};
use serde_json::{Value, json};

/// An app that serves files on port 8080, after an init container, and is asked as the probe says.
fn served(probe: Value, script: &str) -> Value {
    let serve = format!("mkdir -p /www; {script}; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait");
    let mut app = deployment("web", &[init("seed", "sleep 0.3")], &[container("main", &serve)]);
    app["spec"]["containers"][0]["probe"] = probe;
    app["spec"]["containers"][0]["probe"]["interval"] = json!("500ms");
    app["spec"]["containers"][0]["probe"]["failures"] = json!(2);
    app["spec"]["lifecycle"] = json!({ "gracePeriod": "5s" });
    app
}

fn stage(report: &AppReport, name: StageName) -> &Stage {
    report.stages.iter().find(|stage| stage.name == name).unwrap()
}

fn states(report: &AppReport) -> Vec<StageState> {
    report.stages.iter().map(|stage| stage.state).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_is_told_with_its_time_and_the_failing_check_with_its_name() {
    use StageState::{Failed, Passed, Skipped, Waiting};
    let mut device = Device::start().await;
    let probe = json!({ "http": { "port": 8080, "path": "/index.html" } });
    device.want(&[(1, served(probe.clone(), "echo hi > /www/index.html"))]);
    let v1 = device.until("web", running).await;
    assert_eq!(states(&v1), [Passed, Skipped, Passed, Passed, Passed, Passed], "{:?}", v1.stages);
    let seeded = stage(&v1, StageName::Init).took_ms.unwrap();
    assert!((300..60_000).contains(&seeded), "{seeded} ms");

    // The file is not there: the server answers, and what it answers is named.
    device.want(&[(2, served(probe.clone(), "true"))]);
    let failed = |report: &AppReport| report.status == Status::Failed;
    let v2 = device.until("web", |r| r.revision.0 == 2 && failed(r)).await;
    assert_eq!(states(&v2), [Passed, Passed, Passed, Passed, Failed, Waiting], "{:?}", v2.stages);
    let probing = stage(&v2, StageName::Probing);
    assert_eq!(probing.detail, "HTTP GET :8080/index.html answered 404 Not Found");
    assert!(probing.took_ms.unwrap() >= 1000, "it was given two intervals: {probing:?}");
    assert!(v2.reason.ends_with(&probing.detail), "{}", v2.reason);

    // Nobody listens on that port.
    device.want(&[(3, served(json!({ "tcp": { "port": 81 } }), "true"))]);
    let v3 = device.until("web", |r| r.revision.0 == 3 && failed(r)).await;
    assert_eq!(stage(&v3, StageName::Probing).detail, "TCP :81 refused the connection");

    // It ends before it can be asked, and again and again.
    device.want(&[(4, served(probe.clone(), "echo no luck; exit 7"))]);
    let v4 = device.until("web", |r| r.revision.0 == 4 && failed(r)).await;
    assert_eq!(stage(&v4, StageName::Starting).detail, "container main ended with exit code 7: no luck");
    assert_eq!(stage(&v4, StageName::Probing).state, Waiting);

    // An image that is nowhere stops it before anything is touched.
    let mut nowhere = served(probe.clone(), "true");
    nowhere["spec"]["containers"][0]["image"] = json!("localhost/nowhere:1");
    device.want(&[(5, nowhere)]);
    let v5 = device.until("web", |r| r.revision.0 == 5 && failed(r)).await;
    let preparing = stage(&v5, StageName::Preparing);
    assert!(preparing.state == Failed && preparing.detail.contains("localhost/nowhere:1"), "{preparing:?}");

    device.want(&[(6, served(probe, "echo hi > /www/index.html"))]);
    let v6 = device.until("web", |r| r.revision.0 == 6 && running(r)).await;
    assert!(states(&v6).iter().all(|state| matches!(state, Passed | Skipped)), "{:?}", v6.stages);
    assert!(v6.stages.iter().all(|stage| stage.detail.is_empty()), "{:?}", v6.stages);

    // What another run of the agent did has no times; what this one asks has.
    device.restart_agent().await;
    device
        .want(&[(6, served(json!({ "http": { "port": 8080, "path": "/index.html" } }), "echo hi > /www/index.html"))]);
    let again = device.until("web", running).await;
    assert_eq!(again.containers[1].id, v6.containers[1].id, "nothing was touched");
    assert!(again.stages.iter().filter(|s| s.name < StageName::Probing).all(|s| s.took_ms.is_none()), "{again:#?}");
}
