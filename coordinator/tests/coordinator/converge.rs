//! Documents follow deployments and labels, whatever happens to coordinators and the store.

use bramble_contracts::{Generation, subjects::Bucket};
use bramble_coordinator::store::memory::Fault;
use serde_json::json;

use crate::sim::{Sim, manifest};

#[tokio::test]
async fn a_deployment_reaches_the_devices_it_selects_and_leaves_them_again() {
    let sim = Sim::new();
    sim.ready().await;
    let paris = sim.device("pi-1", json!({ "site": "paris" })).await;
    let rome = sim.device("pi-2", json!({ "site": "rome" })).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "site": "paris" }), 8080, 1))).await;
    sim.converged().await;
    assert_eq!((sim.apps(&paris.id), sim.apps(&rome.id)), (vec!["web@1".to_owned()], vec![]));
    let before = sim.document(&paris.id).unwrap();

    let again =
        sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "site": "paris" }), 8080, 1))).await;
    assert_eq!(again["change"], "unchanged");
    sim.must("PATCH", "/api/v1/devices/pi-2/labels", Some(json!({ "set": { "site": "paris" } }))).await;
    sim.until("the other one has it", |_| sim.apps(&rome.id) == ["web@1"]).await;
    assert_eq!(sim.document(&paris.id).unwrap(), before, "nothing was written where nothing changed");

    sim.must("DELETE", "/api/v1/deployments/web", None).await;
    sim.until("it is gone", |_| sim.apps(&paris.id).is_empty() && sim.apps(&rome.id).is_empty()).await;
    assert_eq!(sim.document(&paris.id).unwrap().generation, before.generation.next());
    sim.converged().await;
}

#[tokio::test]
async fn a_deployment_deleted_while_the_coordinator_is_down_goes_when_it_is_back() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "site": "paris" })).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "site": "paris" }), 8080, 1))).await;
    sim.until("it is there", |_| sim.apps(&device.id) == ["web@1"]).await;
    let start = sim.kill();
    let store = start().store.clone();
    store.force(Bucket::Deployments, "default.web", None);
    let sim = start();
    sim.converged().await;
    assert!(sim.apps(&device.id).is_empty());
}

#[tokio::test]
async fn a_restart_writes_nothing_that_is_already_so() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "site": "paris" })).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "site": "paris" }), 8080, 1))).await;
    sim.until("it is there", |_| sim.apps(&device.id) == ["web@1"]).await;
    device.take(&sim);
    let before = sim.store.all(Bucket::Desired);
    let start = sim.kill();
    let sim = start();
    sim.converged().await;
    let ready = sim.ask("GET", "/ready", None).await;
    assert_eq!(ready.status, 200, "{}", ready.body);
    assert_eq!(sim.store.all(Bucket::Desired), before);
}

#[tokio::test]
async fn two_coordinators_race_and_agree() {
    let one = Sim::new();
    one.ready().await;
    let mut devices = vec![];
    for i in 0..8 {
        devices.push(one.device(&format!("pi-{i}"), json!({ "site": "paris" })).await);
    }
    let two = one.another();
    two.ready().await;
    for version in 1..=10 {
        let (left, right) = if version % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let a = manifest("a", json!({ "site": "paris" }), 8080, version);
        let b = manifest("b", json!({ "site": "paris" }), 8081, version);
        tokio::join!(
            left.must("PUT", "/api/v1/deployments/a", Some(a)),
            right.must("PUT", "/api/v1/deployments/b", Some(b)),
        );
    }
    let want = ["a@10".to_owned(), "b@10".to_owned()];
    one.until("all have both", |_| devices.iter().all(|d| one.apps(&d.id) == want)).await;
    one.converged().await;
    two.converged().await;
    for device in &devices {
        let generation = one.document(&device.id).unwrap().generation;
        assert!(
            generation <= Generation(21),
            "each change costs at most one document, not one per coordinator: {generation}"
        );
    }
}

#[tokio::test]
async fn lost_races_failures_and_lost_answers_are_made_good() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "site": "paris" })).await;
    sim.converged().await;
    for (version, fault) in [(1, Fault::Before), (2, Fault::After)] {
        // The first write is the deployment's own, the second the document's.
        let manifest = manifest("web", json!({ "site": "paris" }), 8080, version);
        sim.store.fail_next([fault]);
        let answer = sim.ask("PUT", "/api/v1/deployments/web", Some(manifest.clone())).await;
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert_eq!(answer.body["code"], "unavailable");
        sim.must("PUT", "/api/v1/deployments/web", Some(manifest)).await;
        let want = [format!("web@{version}")];
        sim.until("the device has it", |_| sim.apps(&device.id) == want).await;
    }
    sim.converged().await;
}

#[tokio::test]
async fn nothing_is_written_while_the_broker_is_away() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "site": "paris" })).await;
    sim.converged().await;
    let before = sim.store.all(Bucket::Desired);
    sim.store.go_down();
    sim.until("it noticed", |lens| !lens.fleet.waits_for().is_empty()).await;
    let refused = sim.ask("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "a": "b" }), 1, 1))).await;
    assert_eq!((refused.status.as_u16(), refused.body["code"].as_str()), (503, Some("recovering")));
    let ready = sim.ask("GET", "/ready", None).await;
    assert_eq!((ready.status.as_u16(), ready.body["state"].as_str()), (503, Some("recovering")));
    let shown = sim.must("GET", "/api/v1/devices/pi-1", None).await;
    assert_eq!(shown["connection"], "recovering", "unknown is shown as unknown");
    sim.store.come_back();
    sim.ready().await;
    assert_eq!(sim.store.all(Bucket::Desired), before);
    device.repeat(&sim);
    sim.converged().await;
}

#[tokio::test]
async fn labels_that_make_a_port_clash_block_the_younger_deployment_by_name() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "site": "paris" })).await;
    device.take_when_there(&sim).await;
    sim.must("PUT", "/api/v1/deployments/old", Some(manifest("old", json!({ "site": "paris" }), 8080, 1))).await;
    sim.must("PUT", "/api/v1/deployments/young", Some(manifest("young", json!({ "role": "kiosk" }), 8080, 1))).await;
    sim.must("PATCH", "/api/v1/devices/pi-1/labels", Some(json!({ "set": { "role": "kiosk" } }))).await;
    sim.until("the labels are in its document", |_| sim.document(&device.id).is_some_and(|d| d.labels.len() == 2))
        .await;
    assert_eq!(sim.apps(&device.id), ["old@1"]);
    device.take(&sim);
    sim.converged().await;
    let young = sim.must("GET", "/api/v1/deployments/young", None).await;
    assert_eq!(young["summary"]["blocked"], 1, "{young}");
    assert!(
        young["devices"][0]["blocked"]
            .as_str()
            .unwrap()
            .contains("host port 8080 is taken by the older deployment old")
    );
    let why = sim.must("GET", "/api/v1/devices/pi-1/explain?deployment=young", None).await;
    assert!(why["sentence"].as_str().unwrap().contains("left out"), "{why}");
    let refused =
        sim.ask("PUT", "/api/v1/deployments/third", Some(manifest("third", json!({ "site": "paris" }), 8080, 1))).await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.body["errors"][0]["path"], "spec.containers[0].ports[0].host");
}

#[tokio::test]
async fn a_damaged_record_is_an_alarm_and_changes_nothing() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "site": "paris" })).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "site": "paris" }), 8080, 1))).await;
    sim.until("it is there", |_| sim.apps(&device.id) == ["web@1"]).await;
    sim.store.force(Bucket::Devices, device.id.as_str(), Some("{".into()));
    sim.until("the alarm is raised", |lens| lens.fleet.alarms().len() == 1).await;
    sim.must("DELETE", "/api/v1/deployments/web", None).await;
    let other = sim.device("pi-2", json!({ "site": "paris" })).await;
    sim.until("others go on", |_| sim.document(&other.id).is_some()).await;
    assert_eq!(sim.apps(&device.id), ["web@1"]);
    let why = sim.must("GET", &format!("/api/v1/devices/{}/explain", device.id), None).await;
    assert!(why["sentence"].as_str().unwrap().contains("damaged"), "{why}");
}
