//! A damaged desired document on disk: what runs, runs on, people are told, and no older document slips in.

use bramble_contracts::subjects::Bucket;

use crate::coordinator::{Coordinator, Tls};
use crate::device::Device;
use crate::eventually;

/// A device on which web runs since generation 1 and db since generation 2.
async fn two_apps(coordinator: &Coordinator) -> (Device, Vec<u8>, Vec<String>) {
    let device = Device::connected(coordinator).await;
    let first = device.signed(&device.document_of(1, &["web"]));
    device.put(first.clone()).await;
    device.reaches(1).await;
    device.put(device.signed(&device.document_of(2, &["web", "db"]))).await;
    device.reaches(2).await;
    eventually("both apps", || async { ids(&device).len() == 2 }).await;
    let ids = ids(&device);
    (device, first, ids)
}

fn ids(device: &Device) -> Vec<String> {
    device.host.things().into_iter().map(|thing| thing.seen.id).collect()
}

fn spoil(device: &Device, name: &str) {
    std::fs::write(device.dir.path().join("state").join(name), "rubbish").unwrap();
}

#[tokio::test]
async fn after_a_damaged_document_nothing_is_removed_until_the_network_says_so() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let (mut device, _, before) = two_apps(&coordinator).await;
    device.stop().await;
    coordinator.broker.lock().await.kill().await;
    spoil(&device, "desired");
    device.start();
    assert_eq!(device.generation(), 1, "the document before");
    let mut reports = device.agent().supervisor().unwrap().reports();
    let both = reports.wait_for(|apps| apps.len() == 2);
    let both = tokio::time::timeout(crate::PATIENCE, both).await.map(|apps| apps.unwrap().len());
    assert_eq!((both, ids(&device)), (Ok(2), before.clone()), "the app that it does not list is kept");
    let alarms = device.agent().view().alarms;
    assert!(alarms.values().any(|alarm| alarm.contains("nothing is removed")), "{alarms:?}");
    coordinator.broker.lock().await.run().await;
    device.is_connected().await;
    device.reaches(2).await;
    assert!(device.agent().view().alarms.is_empty(), "{:?}", device.agent().view().alarms);
    assert_eq!(ids(&device), before);
    device.put(device.signed(&device.document_of(3, &["web"]))).await;
    eventually("the removal", || async { ids(&device).len() == 1 }).await;
}

#[tokio::test]
async fn a_damaged_document_lets_no_older_one_in() {
    for files in [&["desired"][..], &["desired", "desired.prev"]] {
        let coordinator = Coordinator::start(Tls::Plain).await;
        let (mut device, first, before) = two_apps(&coordinator).await;
        let id = device.id();
        device.stop().await;
        files.iter().for_each(|file| spoil(&device, file));
        // The broker holds what was signed long ago: restored from a backup, or replayed by somebody.
        let subject = Bucket::Desired.subject(id.as_str());
        device.client.request(subject, first.into()).await.unwrap();
        device.start();
        let refused = || async { device.agent().view().refused.iter().any(|bad| bad.detail.contains("older")) };
        eventually("the refusal", refused).await;
        assert_eq!(ids(&device), before);
        device.put(device.signed(&device.document_of(3, &["db"]))).await;
        device.reaches(3).await;
        eventually("the removal", || async { ids(&device).len() == 1 }).await;
    }
}
