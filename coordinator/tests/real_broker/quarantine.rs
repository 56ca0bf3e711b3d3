//! Quarantine: instant, and it stays through every restart. Each test ends with the device refused again, and with
//! another device that still works, so that nothing passes because nobody can connect.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bramble_coordinator::{
    clock,
    keys::{Keys, accounts, jwt},
    mesh::{Endpoint, Link, Mesh, Security},
};
use futures::{FutureExt as _, StreamExt as _};

use crate::common::{Device, Fleet, PATIENCE, Running, device_identity, free_port, kill, until};

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

/// A second coordinator's keys: the same in a folder of its own, as after a copy to another machine.
fn second_keys(up: &Running, copy: &std::path::Path) -> Arc<Keys> {
    let keys_dir = copy.join("keys");
    std::fs::create_dir_all(keys_dir.join("trust")).unwrap();
    let files = std::fs::read_dir(up.fleet.dir.path().join("keys")).unwrap().map(Result::unwrap);
    for entry in files.filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), keys_dir.join(entry.file_name())).unwrap();
    }
    std::fs::copy(up.fleet.dir.path().join("keys/trust/000001"), keys_dir.join("trust/000001")).unwrap();
    let brokers = vec![format!("nats://{}", up.fleet.listen)];
    let addresses = bramble_coordinator::keys::Addresses { coordinators: vec![], brokers };
    Arc::new(Keys::load_or_create(&keys_dir, &addresses).unwrap())
}

/// Passes connections on to the broker until it is dropped.
async fn way(from: SocketAddr, to: SocketAddr) -> tokio::task::JoinSet<()> {
    let listener = tokio::net::TcpListener::bind(from).await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    all.spawn(async move {
        let mut each = tokio::task::JoinSet::new();
        while let Ok((mut here, _)) = listener.accept().await {
            each.spawn(async move {
                let mut there = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
            });
        }
    });
    all
}

/// Every list that is pushed from now on.
async fn pushes(up: &Running) -> async_nats::Subscriber {
    let (endpoint, creds) = (up.broker.as_ref().unwrap().endpoint(), up.keys.sys_creds());
    let sys = bramble_coordinator::mesh::connect::connect(endpoint, &creds, "watch").await.unwrap();
    let heard = sys.client.subscribe("$SYS.REQ.CLAIMS.UPDATE").await.unwrap();
    // Answered, so the subscription before it stands.
    let lookup = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.LOOKUP", up.keys.dev_id());
    sys.client.request(lookup, "".into()).await.unwrap();
    heard
}

/// No push so far was without this device.
fn never_lifted(heard: &mut async_nats::Subscriber, up: &Running, seed: u8) {
    let key = device_identity(seed).1.public_key();
    while let Some(Some(message)) = heard.next().now_or_never() {
        let claims = jwt::decode(std::str::from_utf8(&message.payload).unwrap()).unwrap();
        if claims["sub"] == up.keys.dev_id() {
            assert!(accounts::revoked(&claims["nats"]).contains_key(&key), "lifted: {claims}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_missed_a_quarantine_does_not_lift_it_at_its_start() {
    let up = Fleet::new().up().await;
    let copy = tempfile::tempdir().unwrap();
    let keys = second_keys(&up, copy.path());
    up.mesh.set_quarantined(&list(&[1])).await.unwrap();
    let mut heard = pushes(&up).await;
    let second = Mesh::connect(keys, up.broker.as_ref().unwrap().endpoint(), None).await.unwrap();
    refused_and_other_works(&up).await;
    never_lifted(&mut heard, &up, 1);
    // Once it knows the whole list it counts, also for lifting.
    second.set_quarantined(&list(&[1])).await.unwrap();
    up.mesh.set_quarantined(&list(&[])).await.unwrap();
    second.set_quarantined(&list(&[])).await.unwrap();
    until("device 1 is let back", async || may_connect(&up, 1).await).await;
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_was_cut_off_meanwhile_does_not_lift_a_quarantine() {
    let up = Fleet::new().up().await;
    let copy = tempfile::tempdir().unwrap();
    let keys = second_keys(&up, copy.path());
    let at = free_port();
    let endpoint = Endpoint { urls: vec![format!("nats://{at}")], security: Security::Plain };
    let open = way(at, up.fleet.listen).await;
    let second = Mesh::connect(keys, &endpoint, None).await.unwrap();
    second.set_quarantined(&list(&[])).await.unwrap(); // it knows the whole list
    drop(open);
    let link = second.link();
    until("it notices", async || matches!(*link.borrow(), Link::Down(_))).await;
    up.mesh.set_quarantined(&list(&[1])).await.unwrap();
    let mut heard = pushes(&up).await;
    let _open = way(at, up.fleet.listen).await;
    until("it is back", async || matches!(*link.borrow(), Link::Up(_))).await;
    // It looks at the accounts with its first request after the break; this one comes after it, or is the same look.
    until("it pushes what it knows", async || second.set_quarantined(&list(&[1, 3])).await.is_ok()).await;
    never_lifted(&mut heard, &up, 1);
    assert!(!may_connect(&up, 1).await && !may_connect(&up, 3).await && may_connect(&up, 2).await);
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_started_anew_refuses_what_another_coordinator_had_it_refuse() {
    let mut up = Fleet::new().up().await;
    let copy = tempfile::tempdir().unwrap();
    let second = Mesh::connect(second_keys(&up, copy.path()), up.broker.as_ref().unwrap().endpoint(), None);
    let second = second.await.unwrap();
    up.broker.take().unwrap().abandon().await;
    second.set_quarantined(&list(&[1])).await.unwrap();
    kill(&up.fleet);
    drop(second);
    // From the files of the first, which has not heard of it.
    up.keys = up.fleet.keys();
    up.broker = Some(up.fleet.broker(&up.keys).await);
    refused_and_other_works(&up).await;
    up.mesh = Mesh::connect(up.keys.clone(), up.broker.as_ref().unwrap().endpoint(), None).await.unwrap();
    refused_and_other_works(&up).await;
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_coordinators_that_race_cut_off_both_devices() {
    let up = Fleet::new().up().await;
    let copy = tempfile::tempdir().unwrap();
    let keys = second_keys(&up, copy.path());
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
