//! What one client or one device may do to everybody else: clients that go away, devices that flood, clocks that jump.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{body::Body, http::Request};
use bramble_contracts::{
    Generation,
    api::{Connection, Outcome},
    subjects::Bucket,
    v1::{Refusal, RefusalKind},
};
use bramble_coordinator::{
    clock,
    domain::view::Lens,
    mesh::{DeviceLink, LinkChange, LinkNews},
    store::Store as _,
};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::Barrier;
use tower::ServiceExt as _;

use crate::sim::{Sim, manifest};

/// How often the trail has this event.
async fn told(sim: &Sim, action: &str, outcome: Outcome) -> usize {
    let trail = sim.store.audit_trail(None, None, 100_000).await.unwrap();
    trail.iter().filter(|e| e.action == action && e.outcome == outcome).count()
}

/// Waits until the trail has so many of these events.
async fn until_told(sim: &Sim, action: &str, outcome: Outcome, times: usize) {
    let waiting = async {
        while told(sim, action, outcome).await < times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "no {action} {outcome:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_mutation_without_its_outcome() {
    let sim = Sim::new();
    sim.ready().await;
    sim.device("pi-1", json!({})).await;
    // Nobody follows the store any more: the handler has written, and waits to see what it wrote.
    sim.running.abort();
    let request = Request::patch("/api/v1/devices/pi-1/labels")
        .header("authorization", format!("Bearer {}", sim.admin))
        .header("x-tenant-id", "default")
        .header("content-type", "application/json")
        .body(Body::from(json!({ "set": { "a": "b" } }).to_string()))
        .unwrap();
    let asking = tokio::spawn(sim.router.clone().oneshot(request));
    until_told(&sim, "device.label", Outcome::Intent, 1).await;
    assert_eq!(told(&sim, "device.label", Outcome::Done).await, 0);
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    until_told(&sim, "device.label", Outcome::Done, 1).await;
    assert!(sim.store.all(Bucket::Devices).values().any(|r| String::from_utf8_lossy(r).contains("\"a\":\"b\"")));
}

#[tokio::test]
async fn one_device_cannot_flood_the_audit_trail() {
    let sim = Sim::new();
    sim.ready().await;
    let (loud, quiet) = (sim.device("loud", json!({})).await, sim.device("quiet", json!({})).await);
    let refusals = |numbers: std::ops::Range<u64>| -> Vec<Refusal> {
        let one = |number| Refusal {
            number,
            kind: RefusalKind::StaleCommand,
            detail: String::new(),
            generation: None,
            times: 1,
        };
        numbers.map(one).collect()
    };
    loud.speak(&sim, Generation(0), refusals(1..1001));
    until_told(&sim, "device.refused", Outcome::Refused, 17).await;
    quiet.speak(&sim, Generation(0), refusals(1..2));
    until_told(&sim, "device.refused", Outcome::Refused, 18).await;
    let trail = sim.store.audit_trail(None, None, 100).await.unwrap();
    let said = |text: &str| trail.iter().filter(|e| e.detail.contains(text)).count();
    assert_eq!((said("StaleCommand"), said("984 more refusals")), (17, 1));
    loud.repeat(&sim);
    quiet.speak(&sim, Generation(0), refusals(2..3));
    until_told(&sim, "device.refused", Outcome::Refused, 19).await;
    assert_eq!(told(&sim, "device.refused", Outcome::Refused).await, 19, "nothing is told twice");
}

#[tokio::test]
async fn heartbeats_are_no_reason_to_look_at_every_record() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({})).await;
    device.take_when_there(&sim).await;
    sim.converged().await;
    let looks = || sim.core.metrics.quarantine_looks.load(Ordering::Relaxed);
    let beats = async |times: usize| {
        for _ in 0..times {
            device.repeat(&sim);
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    };
    beats(5).await;
    let before = looks();
    assert!(before > 0);
    beats(20).await;
    assert_eq!(looks(), before);
    sim.must("PATCH", "/api/v1/devices/pi-1/labels", Some(json!({ "set": { "a": "b" } }))).await;
    beats(5).await;
    assert!(looks() > before, "a record has changed");
}

#[tokio::test]
async fn commands_work_at_once_when_the_clock_was_set_back() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "a": "b" })).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "a": "b" }), 80, 1))).await;
    sim.until("it is there", |_| sim.apps(&device.id) == ["web@1"]).await;
    device.take(&sim);
    sim.converged().await;
    // The coordinator before this one lived an hour in the future.
    let used = (clock::unix_ms() + 3_600_000) << 16;
    sim.mesh.gates.lock().unwrap().insert(device.id.clone(), used);
    sim.store.force(Bucket::Meta, "commands", Some(Bytes::from((used + 5).to_string())));
    let exec = json!({ "deployment": "web", "argv": ["true"] });
    for _ in 0..2 {
        let answer = sim.ask("POST", "/api/v1/devices/pi-1/exec", Some(exec.clone())).await;
        let text = answer.body.as_str().unwrap_or_default().to_owned();
        assert!(text.ends_with("{\"type\":\"end\",\"exitCode\":3}\n"), "{}", answer.body);
    }
    let highest = sim.mesh.gates.lock().unwrap()[&device.id];
    let marked: u64 = std::str::from_utf8(&sim.store.all(Bucket::Meta)["commands"]).unwrap().parse().unwrap();
    assert!(used < highest && highest <= marked, "the next coordinator knows: {used} {highest} {marked}");
}

#[tokio::test]
async fn logs_are_asked_of_all_devices_side_by_side() {
    let sim = Sim::new();
    sim.ready().await;
    let mut devices = vec![];
    for name in ["pi-1", "pi-2", "pi-3"] {
        devices.push(sim.device(name, json!({ "a": "b" })).await);
    }
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "a": "b" }), 80, 1))).await;
    for device in &devices {
        device.take_when_there(&sim).await;
    }
    *sim.mesh.logs_together.lock().unwrap() = Some(Arc::new(Barrier::new(3)));
    let asked = tokio::time::timeout(Duration::from_secs(10), sim.ask("GET", "/api/v1/deployments/web/logs", None));
    let answer = asked.await.expect("nobody waits for another device");
    assert_eq!((answer.status.as_u16(), answer.body["type"].as_str()), (200, Some("end")), "{}", answer.body);
}

#[tokio::test]
async fn the_key_of_a_device_that_connected_before_us_is_learnt_and_it_can_be_quarantined() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "site": "paris" })).await;
    device.take_when_there(&sim).await;
    sim.store.go_down();
    let all = [Bucket::Desired, Bucket::Reported, Bucket::Liveness, Bucket::Devices, Bucket::Tokens];
    sim.store.come_back_without(&all);
    sim.until("nothing is known", |lens| lens.fleet.waits_for().is_empty() && lens.fleet.device_ids().is_empty()).await;
    device.repeat(&sim);
    sim.until("it has a record again", |lens| lens.fleet.device(&device.id).record().is_some()).await;
    let quarantine = async || {
        sim.ask("POST", "/api/v1/devices/pi-1/quarantine", Some(json!({ "reason": "stolen" }))).await.status.as_u16()
    };
    assert_eq!(quarantine().await, 409, "the key is not known");
    let key = device.key.public_key();
    let link = DeviceLink {
        device: device.id.clone(),
        public_key: key.clone(),
        connection: 1,
        told_over: 1,
        change: LinkChange::Connected,
    };
    sim.links.send(LinkNews::All(vec![link])).await.unwrap();
    until_told(&sim, "device.key", Outcome::Done, 1).await;
    let online = |lens: &Lens<'_>| lens.connection(&device.id) == Connection::Online;
    assert!(sim.core.index.look(online));
    sim.links.send(LinkNews::All(vec![])).await.unwrap();
    sim.until("it has gone, as the list says", |lens| !online(lens)).await;
    assert_eq!(quarantine().await, 200);
    assert_eq!(sim.cut(), [key]);
}

#[tokio::test]
async fn what_strangers_ask_for_is_made_once_and_tokens_stay_small() {
    let sim = Sim::new();
    sim.ready().await;
    for n in 0..50 {
        let request = Request::builder().method(format!("M{n}").as_str()).uri(format!("/x{n}"));
        assert_eq!(sim.send(request.body(Body::empty()).unwrap()).await.status, 404);
    }
    let numbers = sim.ask("GET", "/metrics", None).await.body;
    let text = numbers.as_str().unwrap();
    assert!(text.contains("{method=\"other\",route=\"-\",status=\"404\"} 50"), "{text}");
    let again = sim.ask("GET", "/metrics", None).await.body;
    assert_eq!(again, numbers, "a second old at most");
    let described = sim.must("GET", "/api/v1/openapi.json", None).await;
    assert_eq!(described, bramble_coordinator::http::openapi::document());
    let large = sim.ask("POST", "/api/v1/enrollment-tokens", Some(json!({ "uses": 5001 }))).await;
    assert_eq!(large.status, 422);
    assert!(large.body["detail"].as_str().unwrap().contains("make several tokens"), "{}", large.body);
}
