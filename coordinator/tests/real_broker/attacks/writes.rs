//! Attempts to change what belongs to others, or to say something in their name.

use std::time::Duration;

use async_nats::HeaderMap;
use bramble_contracts::{
    envelope,
    subjects::{self, Bucket},
    v1::RenewRequest,
};
use bramble_coordinator::store::Store as _;
use bytes::Bytes;

use super::{allowed, api, scene, targets, visible_only};
use crate::common::until;
#[tokio::test(flavor = "multi_thread")]
async fn reply_subjects_change_nothing() {
    let s = scene().await;
    let before = s.snapshot().await;
    let body = envelope::encode(&RenewRequest { trust_version: 1 }).unwrap();
    let (me, victim) = (&s.attacker.id, &s.victim.id);
    let everywhere: Vec<String> = targets(me, victim).into_iter().chain(visible_only(victim)).collect();
    let mut sent = 0;
    for subject in allowed(me) {
        for target in &everywhere {
            let sends = s.attacker.client.publish_with_reply(subject.clone(), target.clone(), body.clone().into());
            sends.await.unwrap();
            sent += 1;
        }
    }
    println!("{sent} attacks by reply subject");
    s.unchanged(&before).await;
    assert!(s.asked.lock().unwrap().iter().all(|id| id == me), "the coordinator never answered for the victim");
    for (subject, payload) in s.heard.lock().unwrap().iter() {
        assert!(visible_only(victim).contains(subject), "{subject}");
        let fleet = s.up.keys.open_desired(payload);
        assert!(fleet.is_err(), "what appears on {subject} is not signed by the fleet");
    }
    s.up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_elsewhere_is_denied_and_said() {
    let mut s = scene().await;
    let before = s.snapshot().await;
    let (me, victim) = (s.attacker.id.clone(), s.victim.id.clone());
    let mut all = targets(&me, &victim);
    all.extend(visible_only(&victim));
    all.extend(
        ["dev.x", ">", "*", "$KV.reported.*", "JSF.GET.*", "JSF.GET.>", "cmd.>", "up.>", "a"].map(str::to_owned),
    );
    all.push(format!("$KV.reported.{me}.x"));
    all.push(format!("$KV.liveness.{me}"));
    all.push(format!("$KV.liveness.{me}.a.b"));
    all.push(subjects::device_push_desired(&me));
    all.extend(["exec", "session", "input"].map(|verb| subjects::command(&me, verb)));
    s.attacker.heard();
    let mut denied = vec![];
    // Not all at once: the client keeps 128 events for a reader that is busy, and drops the rest.
    for some in all.chunks(60) {
        let wanted = denied.len() + some.len();
        for subject in some {
            s.attacker.client.publish(subject.clone(), Bytes::from_static(b"evil")).await.unwrap();
        }
        until("every one is denied", async || {
            denied
                .extend(s.attacker.heard().into_iter().filter(|e| e.to_lowercase().contains("permissions violation")));
            denied.len() >= wanted
        })
        .await;
    }
    for subject in &all {
        assert!(denied.iter().any(|e| e.contains(&format!("\"{subject}\"")) || e.contains(subject)), "{subject}");
    }
    s.unchanged(&before).await;
    assert!(s.heard.lock().unwrap().is_empty(), "the victim heard nothing: {:?}", s.heard.lock().unwrap());
    s.up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_reach_nobody_elses_key() {
    let s = scene().await;
    let before = s.snapshot().await;
    let victim = s.victim.id.as_str();
    let theirs = Bucket::Reported.subject(victim);
    let attacks: Vec<Vec<(&str, &str)>> = vec![
        vec![("Nats-Rollup", "all")],
        vec![("Nats-Rollup", "sub")],
        vec![("KV-Operation", "PURGE"), ("Nats-Rollup", "sub")],
        vec![("KV-Operation", "DEL")],
        vec![("Nats-Msg-Id", "1")],
        vec![("Nats-Expected-Stream", "KV_desired")],
        vec![("Nats-Expected-Last-Sequence", "1")],
        vec![("Nats-Expected-Last-Msg-Id", "1")],
        vec![("Nats-Expected-Last-Subject-Sequence", "0")],
        vec![("Nats-Expected-Last-Subject-Sequence", "2"), ("Nats-Expected-Last-Subject-Sequence-Subject", &theirs)],
        vec![("Nats-TTL", "1s")],
        vec![("Nats-TTL", "1s"), ("Nats-Rollup", "all")],
        vec![("Nats-Batch-Id", "b"), ("Nats-Batch-Sequence", "1")],
        vec![("Nats-Batch-Id", "b"), ("Nats-Batch-Sequence", "2"), ("Nats-Batch-Commit", "1")],
        vec![("Nats-Incr", "1")],
        vec![("Nats-Schedule", "@every 1s"), ("Nats-Schedule-Target", &theirs)],
        vec![
            ("Nats-Schedule", "@at 2020-01-01T00:00:00Z"),
            ("Nats-Schedule-Target", &theirs),
            ("Nats-Schedule-TTL", "1s"),
        ],
        vec![("Nats-Marker-Reason", "Purge")],
        vec![("Nats-Stream-Source", "KV_desired 1 > > $KV.desired.x")],
        vec![("Nats-Subject", &theirs), ("Nats-Sequence", "1")],
        vec![("Nats-Pending-Messages", "0"), ("Nats-Last-Consumer", "1")],
        vec![("Nats-Request-Info", "{\"acc\":\"FLEET\"}")],
        vec![("Nats-Required-Api-Level", "9")],
        vec![("Status", "503")],
    ];
    for headers in attacks {
        for subject in allowed(&s.attacker.id) {
            let mut map = HeaderMap::new();
            headers.iter().for_each(|(name, value)| map.insert(*name, *value));
            s.attacker
                .client
                .publish_with_headers(subject.clone(), map.clone(), Bytes::from_static(b"x"))
                .await
                .unwrap();
            let asked = s.attacker.client.request_with_headers(subject, map, Bytes::new());
            let _ = tokio::time::timeout(Duration::from_millis(30), asked).await;
        }
    }
    s.unchanged(&before).await;
    let ack = s.victim.client.request(theirs, Bytes::from_static(b"still mine")).await.unwrap();
    assert!(!String::from_utf8_lossy(&ack.payload).contains("error"), "the victim still reports");
    assert!(s.heard.lock().unwrap().is_empty());
    s.up.down().await;
}

/// The broker can be asked to tell the way of a message to any subject: it must not be told on somebody's key.
#[tokio::test(flavor = "multi_thread")]
async fn message_traces_go_nowhere() {
    let s = scene().await;
    let before = s.snapshot().await;
    let everywhere = targets(&s.attacker.id, &s.victim.id).into_iter().chain(visible_only(&s.victim.id));
    for target in everywhere {
        for subject in allowed(&s.attacker.id) {
            for only in ["false", "true"] {
                let mut map = HeaderMap::new();
                map.insert("Nats-Trace-Dest", target.as_str());
                map.insert("Nats-Trace-Only", only);
                map.insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
                s.attacker.client.publish_with_headers(subject.clone(), map, Bytes::from_static(b"x")).await.unwrap();
            }
        }
    }
    s.unchanged(&before).await;
    assert!(s.heard.lock().unwrap().is_empty(), "{:?}", s.heard.lock().unwrap());
    s.up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_device_cannot_fill_what_all_share() {
    let mut s = scene().await;
    let before = s.snapshot().await;
    let me = s.attacker.id.clone();
    for n in 0..500 {
        let subject = Bucket::Liveness.subject(&format!("{me}.{n}"));
        s.attacker.client.publish(subject, Bytes::from(vec![1; 100])).await.unwrap();
        let too_large = Bytes::from(vec![1; subjects::LIVENESS_MAX_BYTES + 1]);
        s.attacker.client.publish(Bucket::Liveness.subject(&format!("{me}.b")), too_large).await.unwrap();
    }
    s.settle().await;
    let kept = api(&s.up, "STREAM.INFO.KV_liveness").await["state"]["messages"].as_u64().unwrap();
    assert!(kept <= 4, "two devices, two agents each: {kept}");
    s.unchanged(&before).await;
    // A report that is too large for its JWT ends the connection and stores nothing.
    s.attacker.heard();
    let huge = Bytes::from(vec![1; subjects::DEVICE_MAX_PAYLOAD + 1]);
    let sent = s.attacker.client.publish(Bucket::Reported.subject(me.as_str()), huge).await;
    if sent.is_ok() {
        s.attacker.hears("maximum payload").await;
    }
    let stored = s.store.get(Bucket::Reported, me.as_str()).await.unwrap().unwrap();
    assert!(stored.bytes.len() < 100);
    s.up.down().await;
}
