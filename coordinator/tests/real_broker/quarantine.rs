//! Quarantine: instant, and it stays through every restart. Each test ends with the device refused again, and with
//! another device that still works, so that nothing passes because nobody can connect.

use std::{collections::BTreeMap, time::Duration};

use bramble_coordinator::{clock, keys::Keys, mesh::Mesh};

use crate::common::{Device, Fleet, PATIENCE, Running, device_identity, kill, until};

fn list(seeds: &[u8]) -> BTreeMap<String, u64> {
    seeds.iter().map(|s| (device_identity(*s).1.public_key(), clock::unix_secs())).collect()
}

async fn may_connect(up: &Running, seed: u8) -> bool {
    // A JWT issued now: quarantine is about the key, whatever its JWT.
    Device::connect(&up.keys, up.fleet.listen, seed, Duration::from_secs(600)).await.is_ok()
}

async fn refused_and_other_works(up: &Running) {
    assert!(may_connect(up, 2).await, "device 2 is not quarantined");
    assert!(!may_connect(up, 1).await, "device 1 is quarantined");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_cuts_at_once_and_unquarantine_lets_back() {
    let up = Fleet::new().up().await;
    let mut bad = up.device(1).await;
    let good = up.device(2).await;
    let began = clock::monotonic();
    up.mesh.set_quarantined(&list(&[1])).await.unwrap();
    bad.hears("disconnected").await;
    let took = clock::monotonic() - began;
    println!("cut after {took:?}");
    assert!(took < Duration::from_millis(100), "{took:?}");
    refused_and_other_works(&up).await;
    assert!(good.client.flush().await.is_ok());
    up.mesh.set_quarantined(&list(&[])).await.unwrap();
    assert!(may_connect(&up, 1).await, "let back");
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_a_killed_broker() {
    let up = Fleet::new().up().await;
    up.mesh.set_quarantined(&list(&[1])).await.unwrap();
    kill(&up.fleet);
    until("the broker is back", async || may_connect(&up, 2).await).await;
    refused_and_other_works(&up).await;
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_a_new_coordinator_and_a_wiped_resolver() {
    let mut up = Fleet::new().up().await;
    up.mesh.set_quarantined(&list(&[1])).await.unwrap();
    for wipe in [false, true] {
        up.broker.take().unwrap().shutdown().await;
        if wipe {
            std::fs::remove_dir_all(up.fleet.dir.path().join("broker/accounts")).unwrap();
        }
        // Everything anew from the files; nobody has pushed anything yet.
        up.keys = up.fleet.keys();
        up.broker = Some(up.fleet.broker(&up.keys).await);
        refused_and_other_works(&up).await;
        up.mesh = Mesh::connect(up.keys.clone(), up.broker.as_ref().unwrap().endpoint(), None).await.unwrap();
        refused_and_other_works(&up).await;
    }
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adopted_broker_learns_what_was_quarantined_while_nobody_watched() {
    let mut up = Fleet::new().up().await;
    up.broker.take().unwrap().abandon().await;
    let Running { fleet, mesh, .. } = &up;
    drop(mesh.clone());
    let keys = fleet.keys();
    keys.set_quarantined(&list(&[1])).unwrap(); // written, and killed before the push
    up.keys = keys;
    up.broker = Some(up.fleet.broker(&up.keys).await);
    up.mesh = Mesh::connect(up.keys.clone(), up.broker.as_ref().unwrap().endpoint(), None).await.unwrap();
    until("the new coordinator has pushed it", async || !may_connect(&up, 1).await).await;
    refused_and_other_works(&up).await;
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_account_pushed_by_somebody_is_put_right() {
    let up = Fleet::new().up().await;
    let old = up.keys.account_jwts(1).dev;
    up.mesh.set_quarantined(&list(&[1])).await.unwrap();
    // Somebody with the operator's key replays what was true before.
    let (endpoint, creds) = (up.broker.as_ref().unwrap().endpoint(), up.keys.sys_creds());
    let sys = bramble_coordinator::mesh::connect::connect(endpoint, &creds, "replay").await.unwrap();
    sys.client.request("$SYS.REQ.CLAIMS.UPDATE", old.into()).await.unwrap();
    until("it is refused again", async || !may_connect(&up, 1).await).await;
    refused_and_other_works(&up).await;
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_coordinators_that_race_cut_off_both_devices() {
    let up = Fleet::new().up().await;
    // A second coordinator with the same keys in a folder of its own, as after a copy to another machine.
    let copy = tempfile::tempdir().unwrap();
    let status = std::fs::read_dir(up.fleet.dir.path().join("keys")).unwrap();
    let keys_dir = copy.path().join("keys");
    std::fs::create_dir_all(keys_dir.join("trust")).unwrap();
    for entry in status.map(Result::unwrap).filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), keys_dir.join(entry.file_name())).unwrap();
    }
    std::fs::copy(up.fleet.dir.path().join("keys/trust/000001"), keys_dir.join("trust/000001")).unwrap();
    let addresses = bramble_coordinator::keys::Addresses {
        coordinators: vec![],
        brokers: vec![format!("nats://{}", up.fleet.listen)],
    };
    let keys = std::sync::Arc::new(Keys::load_or_create(&keys_dir, &addresses).unwrap());
    let second = Mesh::connect(keys, up.broker.as_ref().unwrap().endpoint(), None).await.unwrap();

    // Each knows of one quarantine only, and they push at the same time.
    let (one, three) = (list(&[1]), list(&[3]));
    let (a, b) = tokio::join!(up.mesh.set_quarantined(&one), second.set_quarantined(&three));
    a.unwrap();
    b.unwrap();
    until("both are refused", async || !may_connect(&up, 1).await && !may_connect(&up, 3).await).await;
    assert!(may_connect(&up, 2).await);
    // Both learn the whole truth (from the store); it stays.
    let both = list(&[1, 3]);
    let (a, b) = tokio::join!(up.mesh.set_quarantined(&both), second.set_quarantined(&both));
    a.unwrap();
    b.unwrap();
    assert!(!may_connect(&up, 1).await && !may_connect(&up, 3).await && may_connect(&up, 2).await);
    // One lets a device back, then the other learns of it.
    up.mesh.set_quarantined(&three).await.unwrap();
    second.set_quarantined(&three).await.unwrap();
    until("device 1 is let back", async || may_connect(&up, 1).await).await;
    assert!(!may_connect(&up, 3).await);
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_list_cuts_everybody_until_they_renew() {
    let mut up = Fleet::new().up().await;
    let (id, key) = device_identity(2);
    let issued = clock::unix_secs() - 10;
    let old = up.keys.device_jwt_at(&id, &key.public_key(), issued, Duration::from_secs(600)).unwrap();
    assert!(Device::connect_with(up.fleet.listen, id.clone(), key.clone(), old.clone()).await.is_ok());
    up.broker.take().unwrap().shutdown().await;
    std::fs::remove_file(up.fleet.dir.path().join("keys/quarantined.json")).unwrap();
    up.keys = up.fleet.keys();
    up.broker = Some(up.fleet.broker(&up.keys).await);
    up.mesh = Mesh::connect(up.keys.clone(), up.broker.as_ref().unwrap().endpoint(), None).await.unwrap();
    assert!(Device::connect_with(up.fleet.listen, id.clone(), key.clone(), old.clone()).await.is_err(), "an old JWT");
    let later = clock::unix_secs() + 2;
    let renewed = up.keys.device_jwt_at(&id, &key.public_key(), later, Duration::from_secs(600)).unwrap();
    assert!(Device::connect_with(up.fleet.listen, id.clone(), key.clone(), renewed).await.is_ok(), "it renewed");
    // Once the list is known again, old JWTs work, but for those on it.
    up.mesh.set_quarantined(&list(&[1])).await.unwrap();
    tokio::time::timeout(PATIENCE, async {
        while Device::connect_with(up.fleet.listen, id.clone(), key.clone(), old.clone()).await.is_err() {}
    })
    .await
    .unwrap();
    assert!(!may_connect(&up, 1).await);
    up.down().await;
}
