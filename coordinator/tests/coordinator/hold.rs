//! Devices that know more than the store, and devices that are cut off.

use std::sync::Arc;

use bramble_contracts::{
    Generation,
    api::Connection,
    subjects::Bucket,
    v1::{Refusal, RefusalKind},
};
use bramble_coordinator::{background::quarantine::KeeperError, domain::view::Lens, keys::Quarantined};
use serde_json::json;

use crate::sim::{Sim, manifest};

const ALL: [Bucket; 6] =
    [Bucket::Desired, Bucket::Reported, Bucket::Liveness, Bucket::Devices, Bucket::Deployments, Bucket::Tokens];

#[tokio::test]
async fn a_wiped_store_stops_nothing_and_adopting_brings_everything_back() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "site": "paris" })).await;
    let web = manifest("web", json!({ "site": "paris" }), 8080, 1);
    sim.must("PUT", "/api/v1/deployments/web", Some(web)).await;
    sim.until("it is there", |_| sim.apps(&device.id) == ["web@1"]).await;
    device.take(&sim);
    let held = sim.document(&device.id).unwrap();
    sim.store.go_down();
    sim.store.come_back_without(&ALL);
    sim.until("nothing is known", |lens| lens.fleet.waits_for().is_empty() && lens.fleet.device_ids().is_empty()).await;
    device.repeat(&sim);
    sim.until("its own document was taken over", |_| sim.document(&device.id).is_some()).await;
    let taken = sim.document(&device.id).unwrap();
    assert!(taken.same_meaning(&held), "it lists what the device has, not less");
    assert_eq!(taken.generation, held.generation.next());
    device.take(&sim);

    let shown = sim.must("POST", "/api/v1/resume", Some(json!({ "mode": "show" }))).await;
    assert_eq!(
        (shown["done"].as_bool(), shown["devices"][0]["overwrite"]["web"].as_str()),
        (Some(false), Some("removed"))
    );
    assert_eq!(shown["deployments"][0]["change"], "created");
    assert!(sim.must("GET", "/api/v1/devices/pi-1", None).await["hold"].is_string());
    assert!(sim.store.all(Bucket::Deployments).is_empty(), "deployments come back only by resume");

    let done = sim.must("POST", "/api/v1/resume", Some(json!({ "mode": "adopt" }))).await;
    assert_eq!(done["done"], true);
    sim.until("it is off hold", |lens| lens.hold(&device.id).is_none()).await;
    sim.converged().await;
    assert_eq!(sim.document(&device.id).unwrap(), taken, "nothing changes for the device");
    assert!(sim.must("GET", "/api/v1/devices/pi-1", None).await["hold"].is_null());
}

#[tokio::test]
async fn overwriting_sends_what_the_store_says_above_what_the_device_has() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "site": "paris" })).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "site": "paris" }), 8080, 1))).await;
    sim.until("it is there", |_| sim.apps(&device.id) == ["web@1"]).await;
    // The store is an older one: the device is at generation 40 and its document cannot be had.
    device.speak(&sim, Generation(40), vec![]);
    sim.until("it is on hold", |lens| lens.fleet.device(&device.id).record().is_some_and(|r| r.hold.is_some())).await;
    sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "site": "paris" }), 8080, 2))).await;
    let adopt = sim.ask("POST", "/api/v1/resume", Some(json!({ "mode": "adopt" }))).await;
    assert_eq!((adopt.status.as_u16(), adopt.body["code"].as_str()), (409, Some("conflict")), "{}", adopt.body);
    assert_eq!(sim.apps(&device.id), ["web@1"], "nothing is written to a device on hold");
    sim.must("POST", "/api/v1/resume", Some(json!({ "mode": "overwrite", "devices": ["pi-1"] }))).await;
    let document = sim.document(&device.id).unwrap();
    assert_eq!((document.generation, sim.apps(&device.id)), (Generation(41), vec!["web@2".to_owned()]));
    sim.converged().await;
}

#[tokio::test]
async fn the_same_generation_with_other_content_is_noticed() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({ "site": "paris" })).await;
    device.take_when_there(&sim).await;
    let generation = sim.document(&device.id).unwrap().generation;
    let refusal = Refusal {
        number: 3,
        kind: RefusalKind::Forked,
        detail: "forked".into(),
        generation: Some(generation),
        times: 1,
    };
    device.speak(&sim, generation, vec![refusal]);
    sim.until("its own document was taken over and agrees", |_| {
        sim.document(&device.id).is_some_and(|d| d.generation > generation)
    })
    .await;
    device.take(&sim);
    sim.until("it is off hold again", |lens| lens.hold(&device.id).is_none()).await;
    sim.converged().await;
    let refused = |trail: &serde_json::Value| {
        trail["items"].as_array().unwrap().iter().filter(|e| e["action"] == "device.refused").count()
    };
    let mut trail = sim.must("GET", "/api/v1/audit", None).await;
    for _ in 0..100 {
        if refused(&trail) > 0 {
            break;
        }
        sim.until("a moment passes", |_| true).await;
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        trail = sim.must("GET", "/api/v1/audit", None).await;
    }
    assert_eq!(refused(&trail), 1, "told once: {trail}");
}

#[tokio::test]
async fn quarantine_cuts_at_once_and_survives_wipes_restarts_and_races() {
    let sim = Sim::new();
    sim.ready().await;
    let device = sim.device("pi-1", json!({})).await;
    device.take_when_there(&sim).await;
    let key = device.key.public_key();
    let without_reason = sim.ask("POST", "/api/v1/devices/pi-1/quarantine", Some(json!({}))).await;
    assert_eq!(without_reason.status, 422);
    sim.must("POST", "/api/v1/devices/pi-1/quarantine", Some(json!({ "reason": "stolen" }))).await;
    assert_eq!(sim.cut(), std::slice::from_ref(&key));
    let shown = async || sim.must("GET", "/api/v1/devices/pi-1", None).await["connection"].clone();
    assert_eq!(shown().await, "offline", "at once, without waiting for heartbeats that do not come");
    let newest = |lens: &Lens<'_>| lens.fleet.beats.iter().map(|(_, slot)| slot.seq).max();
    let before = sim.core.index.look(newest);
    device.repeat(&sim);
    sim.until("the late heartbeat has come in", |lens| newest(lens) > before).await;
    assert_eq!(shown().await, "offline", "what was on its way at the cut does not count");
    let approve = sim.ask("POST", "/api/v1/devices/pi-1/approve", None).await;
    assert_eq!(approve.status, 409);

    let start = sim.kill();
    let sim = start();
    sim.converged().await;
    assert_eq!(sim.cut(), std::slice::from_ref(&key));

    // An older backup, in which the device was still active.
    let mut record: serde_json::Value =
        serde_json::from_slice(&sim.store.all(Bucket::Devices)[device.id.as_str()]).unwrap();
    record["state"] = "active".into();
    record["quarantine"] = serde_json::Value::Null;
    let start = sim.kill();
    start().store.force(Bucket::Devices, device.id.as_str(), Some(record.to_string().into()));
    let sim = start();
    sim.until("the record was put right", |lens| {
        lens.fleet.device(&device.id).record().is_some_and(|r| r.quarantine.is_some())
    })
    .await;
    assert_eq!(sim.cut(), [key]);

    sim.must("POST", "/api/v1/devices/pi-1/unquarantine", None).await;
    assert!(sim.cut().is_empty());
    device.repeat(&sim);
    sim.until("it is there again", |lens| lens.connection(&device.id) == Connection::Online).await;
    let start = sim.kill();
    let sim = start();
    sim.converged().await;
    assert!(sim.cut().is_empty());
}

#[tokio::test]
async fn a_lost_file_of_quarantined_keys_is_never_replaced_by_a_shorter_list() {
    let sim = Sim::new();
    sim.ready().await;
    let (one, two) = (sim.device("pi-1", json!({})).await, sim.device("pi-2", json!({})).await);
    sim.must("POST", "/api/v1/devices/pi-1/quarantine", Some(json!({ "reason": "stolen" }))).await;
    let (first, second) = (one.key.public_key(), two.key.public_key());
    assert_eq!(sim.cut(), std::slice::from_ref(&first));
    std::fs::remove_file(sim.keys_dir().join("quarantined.json")).unwrap();
    let idle = Sim::idle(&sim.store, &sim.mesh, &sim.keys_dir());
    let cut = idle.quarantine.cut(&idle, &second).await;
    assert!(matches!(cut, Err(KeeperError::Lost)), "{cut:?}");
    assert!(matches!(idle.quarantine.release(&idle, &first).await, Err(KeeperError::Lost)));
    assert!(matches!(idle.keys.quarantined(), Quarantined::Unreadable { .. }), "everybody stays cut off");

    let feed = idle.store.feed();
    let following = tokio::spawn({
        let idle = Arc::clone(&idle);
        async move { idle.index.follow(feed).await }
    });
    let mut ticks = idle.index.ticks();
    while !idle.index.may_write() {
        ticks.changed().await.unwrap();
    }
    idle.quarantine.cut(&idle, &second).await.unwrap();
    let Quarantined::Known(keys) = idle.keys.quarantined() else { panic!("it was written again") };
    let mut want = [first, second];
    want.sort_unstable();
    assert_eq!(keys.into_keys().collect::<Vec<_>>(), want);
    following.abort();
}
