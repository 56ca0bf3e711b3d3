//! Compare-and-set, feed, identity and drift of the store.

use std::collections::BTreeMap;

use bramble_contracts::{
    api::{AuditEvent, Outcome},
    subjects::Bucket,
};
use bramble_coordinator::{
    mesh::Link,
    store::{Change, Expect, JetStream, Replicas, Store, StoreError, feed::FED, jetstream::OpenError},
};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::common::{Fleet, Running, caught_up, feed, kill, read_until, until};

async fn api(up: &Running, name: &str, body: Value) -> Value {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let answer = up.mesh.fleet().client.request(format!("$JS.API.{name}"), body).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

fn conflict<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_compared_and_deleted_keys_are_absent() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    let b = Bucket::Devices;
    let put = async |key: &str, text: &'static str, expect| {
        store.put(b, key, Bytes::from_static(text.as_bytes()), expect).await
    };
    assert_eq!(store.get(b, "a").await.unwrap(), None);
    let one = put("a", "1", Expect::Absent).await.unwrap();
    assert!(conflict(&put("a", "2", Expect::Absent).await));
    let two = put("a", "2", Expect::Seq(one)).await.unwrap();
    assert!(two > one);
    assert!(conflict(&put("a", "3", Expect::Seq(one)).await));
    assert_eq!(store.get(b, "a").await.unwrap().map(|e| (e.seq, e.bytes)), Some((two, Bytes::from_static(b"2"))));
    assert!(conflict(&store.delete(b, "a", one).await));
    let gone = store.delete(b, "a", two).await.unwrap();
    assert!(gone > two);
    assert_eq!(store.get(b, "a").await.unwrap(), None);
    assert!(conflict(&store.delete(b, "a", two).await), "deleted already");
    let back = put("a", "4", Expect::Absent).await.unwrap();
    assert!(back > gone);
    assert!(matches!(put("b", "", Expect::Absent).await, Err(StoreError::Unavailable { .. })), "empty means deleted");
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_one_wins_each_round() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    for _ in 0..20 {
        let now = store.get(Bucket::Deployments, "default.web").await.unwrap();
        let expect = now.map_or(Expect::Absent, |e| Expect::Seq(e.seq));
        let write = |n: u8| store.put(Bucket::Deployments, "default.web", Bytes::from(vec![n]), expect);
        let results = futures::future::join_all((1..=8).map(write)).await;
        assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1, "{results:?}");
        assert!(results.iter().filter(|r| r.is_err()).all(conflict));
    }
    up.down().await;
}

fn values(changes: &[Change], wanted: Bucket) -> BTreeMap<String, Option<Bytes>> {
    let value = |c: &Change| match c {
        Change::Value { bucket, key, bytes, .. } if *bucket == wanted => Some((key.clone(), bytes.clone())),
        Change::Value { .. } | Change::Reset(_) | Change::CaughtUp(_) | Change::Lost => None,
    };
    changes.iter().filter_map(value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_tells_everything_then_what_changes() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    for n in 0..700 {
        store.put(Bucket::Tokens, &format!("t{n}"), Bytes::from(vec![1]), Expect::Absent).await.unwrap();
    }
    store.delete(Bucket::Tokens, "t3", 4).await.unwrap();
    let mut feed = feed(&store);
    let told = caught_up(&mut feed).await;
    assert_eq!(told.iter().filter(|c| matches!(c, Change::Reset(_))).count(), FED.len());
    let tokens = values(&told, Bucket::Tokens);
    assert_eq!(tokens.len(), 700);
    assert_eq!(tokens["t3"], None, "a deletion is told too");
    assert_eq!(values(&told, Bucket::Meta).len(), 1);
    let seq = store.put(Bucket::Devices, "d", Bytes::from_static(b"x"), Expect::Absent).await.unwrap();
    let next = read_until(&mut feed, |c| matches!(c, Change::Value { .. })).await;
    assert_eq!(
        next,
        [Change::Value { bucket: Bucket::Devices, key: "d".into(), seq, bytes: Some(Bytes::from_static(b"x")) }]
    );
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_documents_are_read_faster_than_five_thousand_are_asked_for_one_by_one() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    let client = up.mesh.fleet().client;
    for n in 0..10_000 {
        client.publish(Bucket::Desired.subject(&format!("d{n}")), Bytes::from(vec![7; 1500])).await.unwrap();
    }
    until("all documents are stored", async || {
        api(&up, "STREAM.INFO.KV_desired", Value::Null).await["state"]["messages"] == 10_000
    })
    .await;
    let began = bramble_coordinator::clock::monotonic();
    for n in 0..5_000 {
        assert!(store.get(Bucket::Desired, &format!("d{n}")).await.unwrap().is_some());
    }
    let one_by_one = bramble_coordinator::clock::monotonic() - began;
    let began = bramble_coordinator::clock::monotonic();
    let mut feed = feed(&store);
    let told = caught_up(&mut feed).await;
    let took = bramble_coordinator::clock::monotonic() - began;
    assert_eq!(values(&told, Bucket::Desired).len(), 10_000);
    println!("10,000 documents in {took:?}, 5,000 one by one in {one_by_one:?}");
    assert!(took < one_by_one, "all in {took:?}, half of them one by one in {one_by_one:?}");
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_feed_goes_on_after_the_broker_was_killed() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    store.put(Bucket::Devices, "a", Bytes::from_static(b"1"), Expect::Absent).await.unwrap();
    let mut feed = feed(&store);
    caught_up(&mut feed).await;
    kill(&up.fleet);
    let lost = read_until(&mut feed, |c| *c == Change::Lost).await;
    assert_eq!(lost, [Change::Lost]);
    let told = caught_up(&mut feed).await;
    assert!(!told.contains(&Change::Lost), "said once: {told:?}");
    assert_eq!(values(&told, Bucket::Devices)["a"], Some(Bytes::from_static(b"1")), "another server: told again");
    store.put(Bucket::Devices, "b", Bytes::from_static(b"2"), Expect::Absent).await.unwrap();
    read_until(&mut feed, |c| matches!(c, Change::Value { key, .. } if key == "b")).await;
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_broker_killed_under_writes() {
    let up = Fleet::new().up().await;
    let store = std::sync::Arc::new(up.store().await);
    let mut feed = feed(&store);
    caught_up(&mut feed).await;
    let (tell, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0u64.. {
                let bytes = Bytes::from(n.to_string());
                if let Ok(seq) = store.put(Bucket::Devices, &format!("d{n}"), bytes, Expect::Absent).await {
                    let _ = tell.send((n, seq));
                }
            }
        }
    });
    let mut done = vec![];
    for round in 1..=3 {
        while done.len() < round * 50 {
            done.push(acknowledged.recv().await.unwrap());
        }
        kill(&up.fleet);
    }
    while done.len() < 200 {
        done.push(acknowledged.recv().await.unwrap());
    }
    writer.abort();
    for (n, seq) in &done {
        let kept = store.get(Bucket::Devices, &format!("d{n}")).await.unwrap().expect("acknowledged");
        assert_eq!((kept.seq, kept.bytes), (*seq, Bytes::from(n.to_string())));
    }
    // The feed has told all of it, in order after each (re)start.
    let (mut told, mut last) = (BTreeMap::new(), 0);
    read_until(&mut feed, |change| {
        match change {
            Change::Reset(Bucket::Devices) => {
                told.clear();
                last = 0;
            }
            Change::Value { bucket: Bucket::Devices, key, seq, .. } => {
                assert!(*seq > last, "{seq} after {last}");
                last = *seq;
                told.insert(key.clone(), *seq);
            }
            Change::Value { .. } | Change::Reset(_) | Change::CaughtUp(_) | Change::Lost => {}
        }
        done.iter().all(|(n, seq)| told.get(&format!("d{n}")) == Some(seq))
    })
    .await;
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_break_of_the_connection_tells_nothing_twice() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    store.put(Bucket::Devices, "a", Bytes::from_static(b"1"), Expect::Absent).await.unwrap();
    let mut feed = feed(&store);
    caught_up(&mut feed).await;
    up.mesh.fleet().client.force_reconnect().await.unwrap();
    let mut link = up.mesh.link();
    link.wait_for(|l| matches!(l, Link::Up(2))).await.unwrap();
    store.put(Bucket::Devices, "b", Bytes::from_static(b"2"), Expect::Absent).await.unwrap();
    let told = caught_up(&mut feed).await;
    assert!(!told.iter().any(|c| matches!(c, Change::Reset(_))), "{told:?}");
    assert!(!values(&told, Bucket::Devices).contains_key("a"));
    if !values(&told, Bucket::Devices).contains_key("b") {
        read_until(&mut feed, |c| matches!(c, Change::Value { key, .. } if key == "b")).await;
    }
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_removed_is_made_again_and_told_as_reset() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    store.put(Bucket::Deployments, "default.a", Bytes::from_static(b"1"), Expect::Absent).await.unwrap();
    let mut feed = feed(&store);
    caught_up(&mut feed).await;
    assert_eq!(api(&up, "STREAM.DELETE.KV_deployments", Value::Null).await["success"], true);
    let told = read_until(&mut feed, |c| *c == Change::CaughtUp(Bucket::Deployments)).await;
    assert_eq!(told, [Change::Reset(Bucket::Deployments), Change::CaughtUp(Bucket::Deployments)]);
    store.put(Bucket::Deployments, "default.b", Bytes::from_static(b"2"), Expect::Absent).await.unwrap();
    read_until(&mut feed, |c| matches!(c, Change::Value { key, .. } if key == "default.b")).await;
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_storage_is_another_store() {
    let mut up = Fleet::new().up().await;
    let store = up.store().await;
    let before = store.check().await.unwrap();
    assert_eq!(JetStream::open(up.mesh.fleet(), Replicas::One).await.unwrap().check().await.unwrap(), before);
    store.put(Bucket::Devices, "a", Bytes::from_static(b"1"), Expect::Absent).await.unwrap();
    let mut feed = feed(&store);
    caught_up(&mut feed).await;
    up.broker.take().unwrap().shutdown().await;
    std::fs::remove_dir_all(up.fleet.dir.path().join("broker/jetstream")).unwrap();
    up.broker = Some(up.fleet.broker(&up.keys).await);
    let told = caught_up(&mut feed).await;
    assert!(told.contains(&Change::Reset(Bucket::Devices)));
    assert!(values(&told, Bucket::Devices).is_empty());
    assert_ne!(store.check().await.unwrap().id, before.id);
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_stream_is_refused_by_field() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    let mut config = api(&up, "STREAM.INFO.KV_reported", Value::Null).await["config"].clone();
    config["allow_rollup_hdrs"] = json!(true);
    config["deny_purge"] = json!(true);
    let refused = api(&up, "STREAM.UPDATE.KV_reported", config.clone()).await;
    assert!(refused["error"]["description"].as_str().unwrap().contains("roll-ups"), "deny_purge protects: {refused}");
    config["allow_rollup_hdrs"] = json!(false);
    config["max_msg_size"] = json!(1_000_000);
    assert!(api(&up, "STREAM.UPDATE.KV_reported", config).await["error"].is_null());
    match store.check().await {
        Err(OpenError::Differs { stream, difference }) => {
            assert_eq!((stream.as_str(), difference.field.as_str()), ("KV_reported", "max_msg_size"));
        }
        other => panic!("{other:?}"),
    }
    let err = store.get(Bucket::Devices, "a").await.unwrap_err();
    assert!(err.to_string().contains("max_msg_size"), "nothing is served: {err}");
    assert!(JetStream::open(up.mesh.fleet(), Replicas::One).await.is_err());
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format_stops_reads_and_writes() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    let mut feed = feed(&store);
    caught_up(&mut feed).await;
    let newer = r#"{"format":2,"shape":"unknown to us"}"#;
    let now = store.get(Bucket::Meta, "store").await.unwrap().unwrap();
    store.put(Bucket::Meta, "store", Bytes::from_static(newer.as_bytes()), Expect::Seq(now.seq)).await.unwrap();
    read_until(&mut feed, |c| matches!(c, Change::Value { bucket: Bucket::Meta, .. })).await;
    for result in [
        store.get(Bucket::Devices, "a").await.map(drop),
        store.put(Bucket::Devices, "a", Bytes::from_static(b"1"), Expect::Absent).await.map(drop),
        store.delete(Bucket::Devices, "a", 1).await.map(drop),
        store.audit_trail(None, None, 1).await.map(drop),
    ] {
        assert!(result.unwrap_err().to_string().contains("format 2"));
    }
    assert!(matches!(JetStream::open(up.mesh.fleet(), Replicas::One).await, Err(OpenError::Newer { found: 2 })));
    up.down().await;
}

fn event(tenant: &str, n: usize) -> AuditEvent {
    AuditEvent {
        seq: 0,
        at: String::new(),
        who: "admin".into(),
        action: "device.label".into(),
        object: format!("device/{n}"),
        tenant: tenant.into(),
        reason: String::new(),
        outcome: Outcome::Done,
        detail: String::new(),
        before: None,
        after: None,
        request_id: String::new(),
        correlation_id: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_trail_is_read_newest_first_by_tenant_in_pages() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    assert!(store.audit_trail(None, None, 10).await.unwrap().is_empty());
    store.audit(&event("rare", 0)).await.unwrap();
    for n in 1..=900 {
        store.audit(&event(if n == 5 { "" } else { "default" }, n)).await.unwrap();
    }
    let newest = store.audit_trail(None, None, 3).await.unwrap();
    assert_eq!(
        newest.iter().map(|e| e.object.as_str()).collect::<Vec<_>>(),
        ["device/900", "device/899", "device/898"]
    );
    let next = store.audit_trail(None, Some(newest[2].seq), 2).await.unwrap();
    assert_eq!(next.iter().map(|e| e.object.as_str()).collect::<Vec<_>>(), ["device/897", "device/896"]);
    let rare = store.audit_trail(Some("rare"), None, 10).await.unwrap();
    assert_eq!(rare.iter().map(|e| (e.seq, e.tenant.as_str())).collect::<Vec<_>>(), [(1, "rare")]);
    assert_eq!(store.audit_trail(Some(""), None, 10).await.unwrap().len(), 1);
    assert_eq!(store.audit_trail(Some("nobody"), None, 10).await.unwrap().len(), 0);
    assert_eq!(store.audit_trail(Some("default"), None, 1000).await.unwrap().len(), 899);
    up.down().await;
}
