//! The coordinator's own readiness, and stages of apps as whoever watches sees them.

use axum::{body::Body, http::Request};
use bramble_contracts::{
    Generation, Revision,
    smoke::{CheckResult, CheckState},
    v1::{Phase, Status},
    v2::{AppReport, Stage, StageName, StageState},
};
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::sim::{Sim, manifest};

#[tokio::test]
async fn readiness_names_the_check_that_fails() {
    let sim = Sim::new();
    sim.ready().await;
    let ready = sim.ask("GET", "/ready", None).await;
    assert_eq!(ready.status, 200, "{}", ready.body);
    let checks: Vec<CheckResult> = serde_json::from_value(ready.body["checks"].clone()).unwrap();
    assert!(checks.iter().all(|one| one.state == CheckState::Passed) && checks.len() >= 2, "{checks:?}");
    sim.store.go_down();
    sim.until("it knows", |lens| !lens.fleet.waits_for().is_empty()).await;
    // Answers are given again for a second: that is what makes asking cheap.
    let failing = async {
        loop {
            let ready = sim.ask("GET", "/ready", None).await;
            let checks: Vec<CheckResult> = serde_json::from_value(ready.body["checks"].clone()).unwrap();
            let failed: Vec<String> =
                checks.iter().filter(|c| c.state == CheckState::Failed).map(ToString::to_string).collect();
            assert_eq!(ready.status, 503);
            if failed.len() == 2 {
                return failed;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let failed = tokio::time::timeout(std::time::Duration::from_secs(10), failing).await.unwrap();
    assert_eq!(failed, ["TCP memory refused the connection", "index waits for the broker to be reachable again"]);
    let alive = sim.ask("GET", "/health", None).await;
    assert_eq!((alive.status.as_u16(), alive.body["state"].as_str()), (200, Some("recovering")));
}

/// The stages of the first device in the next event.
async fn next(events: &mut (impl Stream<Item = Result<axum::body::Bytes, axum::Error>> + Unpin)) -> (String, Value) {
    let chunk = tokio::time::timeout(std::time::Duration::from_secs(10), events.next()).await.unwrap();
    let text = String::from_utf8(chunk.unwrap().unwrap().to_vec()).unwrap();
    let line = |field: &str| text.lines().find_map(|l| l.strip_prefix(field)).unwrap().trim().to_owned();
    let data: Value = serde_json::from_str(&line("data:")).unwrap();
    (line("event:"), data)
}

#[tokio::test]
async fn a_watched_deployment_tells_each_stage() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "a": "b" })).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "a": "b" }), 80, 1))).await;
    device.take_when_there(&sim).await;
    sim.converged().await;
    let request = Request::get("/api/v1/deployments/web?watch=1")
        .header("authorization", format!("Bearer {}", sim.admin))
        .header("x-tenant-id", "default")
        .body(Body::empty())
        .unwrap();
    let response = sim.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = response.into_body().into_data_stream();
    let (kind, first) = next(&mut events).await;
    assert_eq!((kind.as_str(), &first["devices"][0]["app"]), ("put", &Value::Null));
    let stage = |state, detail: &str| {
        vec![Stage { name: StageName::Probing, state, took_ms: Some(9000), detail: detail.into() }]
    };
    let failing = "HTTP GET :80/ answered 500 Internal Server Error";
    for (state, detail) in [(StageState::Active, ""), (StageState::Failed, failing)] {
        let document = sim.document(&device.id).unwrap();
        let app = AppReport {
            uid: document.apps[0].uid.clone(),
            tenant: document.tenant.clone(),
            deployment: "web".parse().unwrap(),
            revision: Revision(1),
            running_revision: None,
            running_hash: None,
            status: Status::Trial,
            phase: Phase::Probing,
            reason: String::new(),
            last_downtime_ms: None,
            containers: vec![],
            stages: stage(state, detail),
        };
        device.report(&sim, Generation(document.generation.0), vec![app]);
        let (kind, view) = next(&mut events).await;
        let told = &view["devices"][0]["app"]["stages"][0];
        assert_eq!((kind.as_str(), told), ("put", &serde_json::to_value(&stage(state, detail)[0]).unwrap()));
    }
    sim.must("DELETE", "/api/v1/deployments/web", None).await;
    assert_eq!(next(&mut events).await.0, "deleted");
    assert_eq!(sim.ask("GET", "/api/v1/deployments/web?watch=1", None).await.status, 404);
}
