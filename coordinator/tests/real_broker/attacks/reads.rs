//! Attempts to hear, read or answer what is meant for others, and to connect as somebody else.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::Message;
use bramble_contracts::subjects::{self, Bucket};
use bramble_coordinator::{
    keys::{accounts, jwt},
    store::{Expect, Store as _},
};
use bytes::Bytes;
use futures::StreamExt as _;
use nkeys::KeyPair;
use serde_json::json;

use super::{Scene, allowed, collect, scene, targets};
use crate::common::{Device, device_identity, until};
#[tokio::test(flavor = "multi_thread")]
async fn listening_elsewhere_hears_nothing() {
    let mut s = scene().await;
    let victim = s.victim.id.clone();
    let heard = Arc::new(Mutex::new(vec![]));
    let mut all: Vec<String> = [
        ">",
        "*",
        "*.>",
        "dev.>",
        "dev.*.desired",
        "cmd.>",
        "cmd.*.*",
        "up.>",
        "_INBOX.>",
        "_R_.>",
        "$KV.>",
        "$JS.>",
        "$JS.EVENT.>",
        "$JS.ACK.>",
        "$SYS.>",
        "$SYS.ACCOUNT.>",
        "JSF.>",
        "audit.>",
        "$O.>",
    ]
    .map(str::to_owned)
    .to_vec();
    all.push(subjects::device_push_all(&victim));
    all.push(subjects::command_all(&victim));
    all.push(format!("{}.>", subjects::inbox_prefix(&victim)));
    all.push("_INBOX_*.>".into());
    s.attacker.heard();
    for subject in &all {
        collect(s.attacker.client.subscribe(subject.clone()).await.unwrap(), &heard);
        collect(s.attacker.client.queue_subscribe(subject.clone(), "coordinators".into()).await.unwrap(), &heard);
    }
    let mut denied = 0;
    until("every one is denied", async || {
        denied += s.attacker.heard().iter().filter(|e| e.to_lowercase().contains("permissions violation")).count();
        denied >= all.len() * 2
    })
    .await;
    // Now everything moves.
    let now = s.store.get(Bucket::Desired, victim.as_str()).await.unwrap().unwrap();
    s.store.put(Bucket::Desired, victim.as_str(), Bytes::from_static(b"new"), Expect::Seq(now.seq)).await.unwrap();
    let mut answer = s.up.mesh.send_command(&victim, "logs", b"signed".to_vec()).await.unwrap();
    let _ = answer.next(Duration::from_millis(100)).await;
    s.victim.client.request(Bucket::Reported.subject(victim.as_str()), Bytes::from_static(b"r")).await.unwrap();
    s.victim.client.request(subjects::device_get(&victim), Bytes::new()).await.unwrap();
    until("the victim heard its document and its command", async || s.heard.lock().unwrap().len() == 2).await;
    s.settle().await;
    assert!(heard.lock().unwrap().is_empty(), "{:?}", heard.lock().unwrap());
    s.up.down().await;
}

async fn ask(s: &Scene, subject: &str, body: &str) -> Option<Message> {
    s.attacker.client.request(subject.to_owned(), Bytes::from(body.to_owned())).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_ones_own_document_can_be_read() {
    let s = scene().await;
    let before = s.snapshot().await;
    let own = subjects::device_get(&s.attacker.id);
    let mine = format!("document of {}", s.attacker.id);
    assert_eq!(ask(&s, &own, "").await.unwrap().payload, mine);
    let theirs = Bucket::Desired.subject(s.victim.id.as_str());
    let bodies = [
        json!({ "seq": 2 }),
        json!({ "last_by_subj": theirs }),
        json!({ "next_by_subj": ">", "seq": 1 }),
        json!({ "next_by_subj": ">", "seq": 1, "batch": 10 }),
        json!({ "multi_last": [">"] }),
        json!({ "multi_last": ["$KV.desired.*"], "batch": 10 }),
        json!({ "start_time": "2000-01-01T00:00:00Z", "batch": 10 }),
    ];
    for body in bodies {
        let mut inbox =
            s.attacker.client.subscribe(format!("{}.r", subjects::inbox_prefix(&s.attacker.id))).await.unwrap();
        let reply = format!("{}.r", subjects::inbox_prefix(&s.attacker.id));
        s.attacker.client.publish_with_reply(own.clone(), reply, body.to_string().into()).await.unwrap();
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(200), inbox.next()).await {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            assert!(text == mine || text.is_empty(), "{body}: {text}");
            assert!(!format!("{:?}", message.headers).contains(s.victim.id.as_str()), "{body}");
        }
    }
    for subject in targets(&s.attacker.id, &s.victim.id) {
        let quick = tokio::time::timeout(Duration::from_millis(20), ask(&s, &subject, "")).await;
        assert!(quick.is_err() || quick.unwrap().is_none(), "{subject} was answered");
    }
    s.unchanged(&before).await;
    s.up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_be_given_to_the_asker_only() {
    let mut s = scene().await;
    let before = s.snapshot().await;
    let mut commands = s.attacker.client.subscribe(subjects::command_all(&s.attacker.id)).await.unwrap();
    let mut pushes = s.attacker.client.subscribe(subjects::device_push_all(&s.attacker.id)).await.unwrap();
    s.attacker.client.flush().await.unwrap();
    // It makes messages appear on its own subjects, hoping for one whose "reply" it may then publish to.
    let own = [subjects::command(&s.attacker.id, "x"), subjects::device_push_desired(&s.attacker.id)];
    for subject in allowed(&s.attacker.id) {
        for reply in &own {
            s.attacker.client.publish_with_reply(subject.clone(), reply.clone(), Bytes::new()).await.unwrap();
        }
    }
    s.settle().await;
    for stream in [&mut commands, &mut pushes] {
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(100), stream.next()).await {
            assert!(message.reply.is_none(), "{message:?}");
        }
    }
    // A real command: its answer goes to the coordinator; the same right does not reach further.
    let mut answer = s.up.mesh.send_command(&s.attacker.id, "logs", b"signed".to_vec()).await.unwrap();
    let command = commands.next().await.unwrap();
    let reply = command.reply.unwrap();
    assert!(reply.starts_with("_R_."), "{reply}");
    s.attacker.client.publish(reply.clone(), Bytes::from_static(b"rubbish")).await.unwrap();
    assert!(answer.next(Duration::from_secs(5)).await.is_err(), "rubbish is an error, not a frame");
    s.attacker.heard();
    s.attacker.client.publish(format!("{reply}x"), Bytes::from_static(b"x")).await.unwrap();
    s.attacker.hears("permissions violation").await;
    s.unchanged(&before).await;
    s.up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_were_not_issued_do_not_connect() {
    let s = scene().await;
    let at = s.up.fleet.listen;
    let hour = Duration::from_secs(3600);
    let (id, key) = device_identity(1);
    let (victim, other) = device_identity(2);
    let now = bramble_coordinator::clock::unix_secs();
    let good = s.up.keys.device_jwt(&id, &key.public_key(), hour).unwrap();
    assert!(Device::connect_with(at, id.clone(), key.clone(), good.clone()).await.is_ok());
    let try_with =
        async |jwt: String, key: &Arc<KeyPair>| Device::connect_with(at, victim.clone(), key.clone(), jwt).await;
    let theirs = s.up.keys.device_jwt(&victim, &other.public_key(), hour).unwrap();
    assert!(try_with(theirs, &key).await.is_err(), "another's JWT without its key");
    let past = s.up.keys.device_jwt_at(&id, &key.public_key(), now - 7200, hour).unwrap();
    assert!(try_with(past, &key).await.is_err(), "expired");
    let (dev, fleet) = (s.up.keys.dev_id(), s.up.keys.fleet_id());
    let subject = key.public_key();
    let head = |name| jwt::Head { subject: &subject, name, issued_at: now, expires: None };
    let own_account = KeyPair::new_account();
    for account in [&dev, &fleet] {
        let forged = jwt::encode(&own_account, &head("coordinator"), &accounts::insider(account));
        assert!(try_with(forged, &key).await.is_err(), "signed by an account of its own");
        let forged = jwt::encode(&key, &head("coordinator"), &accounts::insider(account));
        assert!(try_with(forged, &key).await.is_err(), "signed by itself");
    }
    let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    let base64 = data_encoding::BASE64URL_NOPAD;
    let body = String::from_utf8(base64.decode(parts[1].as_bytes()).unwrap()).unwrap();
    parts[1] = base64.encode(body.replace(id.as_str(), victim.as_str()).as_bytes());
    assert!(try_with(parts.join("."), &key).await.is_err(), "altered");
    let nobody = async_nats::ConnectOptions::new().connect(format!("nats://{at}")).await;
    assert!(nobody.is_err(), "no credentials at all");
    s.up.down().await;
}
