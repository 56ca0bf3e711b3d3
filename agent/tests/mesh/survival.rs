//! What a connection survives: brokers that die, JWTs that end, quarantine, new addresses.

use bramble_contracts::subjects;

use crate::coordinator::{Coordinator, Tls};
use crate::device::Device;
use crate::eventually;

#[tokio::test]
async fn a_killed_broker_is_found_again_and_what_was_missed_is_read() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(1, Some("web")))).await;
    device.reaches(1).await;
    for generation in 2..4 {
        coordinator.broker.lock().await.kill().await;
        eventually("the loss to be noticed", || async { !device.agent().view().connected }).await;
        coordinator.broker.lock().await.run().await;
        device.is_connected().await;
        device.put(device.signed(&device.document(generation, Some("web")))).await;
        device.reaches(generation).await;
        device.reports("the new generation", |report| report.generation.0 == generation).await;
    }
    assert_eq!(device.host.things().len(), 1);
}

#[tokio::test]
async fn a_device_starts_and_runs_with_no_broker_at_all() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let mut device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(1, Some("web")))).await;
    device.reaches(1).await;
    device.stop().await;
    coordinator.broker.lock().await.kill().await;
    device.host.reboot();
    device.start();
    assert_eq!(device.generation(), 1, "before any network");
    eventually("the app to run again", || async { device.host.things().len() == 1 }).await;
    assert!(!device.agent().view().connected);
    coordinator.broker.lock().await.run().await;
    device.is_connected().await;
}

#[tokio::test]
async fn a_jwt_is_renewed_before_its_end_and_the_new_connection_takes_over_first() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    coordinator.state().jwt_secs = 8;
    let device = Device::connected(&coordinator).await;
    let mut beats = device.client.subscribe(format!("$KV.liveness.{}.a", device.id())).await.unwrap();
    let mut view = device.agent().changes();
    // Longer than one JWT lives: without a hand-over the broker would have closed the connection.
    let mut last = None;
    let watch = async {
        while coordinator.state().renewals < 3 {
            let message = futures::StreamExt::next(&mut beats).await.unwrap();
            let beat: bramble_contracts::v1::Heartbeat = bramble_contracts::envelope::decode(&message.payload).unwrap();
            assert!(last.is_none_or(|last| beat.seq == last + 1), "{last:?} {beat:?}");
            last = Some(beat.seq);
            assert!(view.borrow_and_update().connected, "the device was never without a connection");
        }
    };
    assert!(tokio::time::timeout(crate::PATIENCE, watch).await.is_ok(), "no renewals");
    let said = coordinator.broker.lock().await.said();
    assert!(!said.contains("User Authentication Expired"), "{said}");
    device.put(device.signed(&device.document(1, None))).await;
    device.reaches(1).await;
}

#[tokio::test]
async fn a_jwt_that_expired_while_away_is_renewed_over_http() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    coordinator.state().jwt_age = 7200;
    let device = Device::connected(&coordinator).await;
    let asked = coordinator.state().asked.clone();
    assert!(asked.contains(&"POST /api/v1/enroll/renew".to_owned()), "{asked:?}");
    device.put(device.signed(&device.document(1, None))).await;
    device.reaches(1).await;
}

#[tokio::test]
async fn rotations_missed_while_the_jwt_expired_are_followed_step_by_step() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    coordinator.state().jwt_age = 7200;
    // The answer to the enrolment carries version 1; more root keys come and go than one answer has room for.
    let mut device = Device::new(&coordinator).await;
    coordinator.broker.lock().await.kill().await;
    device.start();
    eventually("the enrolment", || async { device.agent().device().borrow().is_some() }).await;
    device.stop().await;
    for _ in 0..10 {
        coordinator.rotate_root();
    }
    coordinator.broker.lock().await.run().await;
    device.start();
    device.is_connected().await;
    device.reports("the newest trust document", |report| report.trust_version == 11).await;
    let asked = coordinator.state().asked.clone();
    let renewals = asked.iter().filter(|what| *what == "POST /api/v1/enroll/renew").count();
    assert_eq!(renewals, 2, "eight documents, then two: {asked:?}");
    assert!(device.agent().view().alarms.is_empty(), "{:?}", device.agent().view().alarms);
    device.put(device.signed(&device.document(1, None))).await;
    device.reaches(1).await;
}

#[tokio::test]
async fn quarantine_cuts_at_once_and_its_end_lets_the_device_back() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(1, Some("web")))).await;
    device.reaches(1).await;
    eventually("the container", || async { device.host.things().len() == 1 }).await;
    let key = coordinator.key_of(&device.id());
    coordinator.state().quarantined = true;
    coordinator.broker.lock().await.revoke(&key, true).await;
    eventually("the cut", || async { !device.agent().view().connected }).await;
    eventually("the coordinator's word", || async { device.agent().view().link.contains("quarantined") }).await;
    assert_eq!(device.host.things().len(), 1, "apps run on");
    coordinator.state().quarantined = false;
    coordinator.broker.lock().await.revoke(&key, false).await;
    device.is_connected().await;
    device.put(device.signed(&device.document(2, Some("web")))).await;
    device.reaches(2).await;
}

#[tokio::test]
async fn the_smallest_permissions_are_enough_and_a_denial_is_an_alarm() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = Device::connected(&coordinator).await;
    device.put(device.signed(&device.document(1, Some("web")))).await;
    device.reports("the generation", |report| report.generation.0 == 1).await;
    eventually("a heartbeat", || async { device.heartbeat().await.is_some() }).await;
    assert!(device.agent().view().alarms.is_empty(), "{:?}", device.agent().view().alarms);
    let said = coordinator.broker.lock().await.said();
    assert!(!said.contains("Permissions Violation"), "{said}");

    let coordinator = Coordinator::start(Tls::Plain).await;
    coordinator.broker.lock().await.withheld = vec!["liveness"];
    let device = Device::connected(&coordinator).await;
    device.reports("the alarm", |report| report.alarms.iter().any(|alarm| alarm.contains("denied"))).await;
}

#[tokio::test]
async fn a_broker_that_moved_is_found_by_the_trust_document() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    coordinator.state().jwt_secs = 6;
    let device = Device::connected(&coordinator).await;
    let port = coordinator.broker.lock().await.port;
    coordinator.succeed(|doc| doc.brokers = vec![format!("nats://localhost:{port}")]);
    device.reports("the new trust document", |report| report.trust_version == 2).await;
    device.is_connected().await;
    device.put(device.signed(&device.document(1, None))).await;
    device.reaches(1).await;
    assert!(subjects::device_get(&device.id()).starts_with("JSF.GET."));
}
