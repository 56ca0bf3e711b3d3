//! A device with its own valid credentials against everybody else's data. Each test compares every stream before and
//! after: what is stored under keys that are not the attacker's must be the same, byte by byte and number by number.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{HeaderMap, Message, Subscriber};
use bramble_contracts::{
    DeviceId, envelope,
    subjects::{self, AUDIT_STREAM, Bucket, Up},
    v1::{RenewReply, RenewRequest},
};
use bramble_coordinator::{
    keys::{accounts, jwt},
    store::{Expect, JetStream, Store as _},
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::common::{Device, Fleet, Running, device_identity, until};

/// Attacker, victim and everything the victim hears.
struct Scene {
    up: Running,
    store: JetStream,
    attacker: Device,
    victim: Device,
    heard: Arc<Mutex<Vec<(String, Bytes)>>>,
    /// For whom the coordinator was asked to renew.
    asked: Arc<Mutex<Vec<DeviceId>>>,
}

fn collect(mut from: Subscriber, into: &Arc<Mutex<Vec<(String, Bytes)>>>) {
    let into = into.clone();
    tokio::spawn(async move {
        while let Some(message) = from.next().await {
            into.lock().unwrap().push((message.subject.to_string(), message.payload));
        }
    });
}

async fn api(up: &Running, name: &str) -> Value {
    let answer = up.mesh.fleet().client.request(format!("$JS.API.{name}"), Bytes::new()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn scene() -> Scene {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    let (attacker, victim) = (up.device(1).await, up.device(2).await);
    for device in [&attacker, &victim] {
        let id = device.id.as_str();
        let text = |what: &str| Bytes::from(format!("{what} of {id}"));
        store.put(Bucket::Desired, id, text("document"), Expect::Absent).await.unwrap();
        store.put(Bucket::Devices, id, text("record"), Expect::Absent).await.unwrap();
        device.client.request(Bucket::Reported.subject(id), text("report")).await.unwrap();
        device.client.request(Bucket::Liveness.subject(&format!("{id}.a")), text("beat")).await.unwrap();
    }
    store.put(Bucket::Deployments, "default.web", Bytes::from_static(b"web"), Expect::Absent).await.unwrap();
    let heard = Arc::new(Mutex::new(vec![]));
    for subject in [subjects::device_push_all(&victim.id), subjects::command_all(&victim.id)] {
        collect(victim.client.subscribe(subject).await.unwrap(), &heard);
    }
    victim.client.flush().await.unwrap();
    let asked: Arc<Mutex<Vec<DeviceId>>> = Arc::default();
    let ask = asked.clone();
    up.mesh.answer_devices(Arc::new(move |device, _, _| {
        ask.lock().unwrap().push(device);
        async { RenewReply { jwt: None, trust: vec![], refused: Some("no".into()) } }.boxed()
    }));
    Scene { up, store, attacker, victim, heard, asked }
}

/// Streams with their configuration, and every message that is not under one of the attacker's own keys.
type Snapshot = BTreeMap<String, (Value, u64, Vec<(u64, String, String)>)>;

impl Scene {
    fn own(&self, subject: &str) -> bool {
        let id = self.attacker.id.as_str();
        subject == Bucket::Reported.subject(id) || subject.starts_with(&Bucket::Liveness.subject(&format!("{id}.")))
    }

    async fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::new();
        let names = api(&self.up, "STREAM.NAMES").await["streams"].clone();
        assert_eq!(names.as_array().unwrap().len(), Bucket::ALL.len() + 1, "no stream more, none less");
        for name in names.as_array().unwrap().iter().map(|n| n.as_str().unwrap()) {
            let info = api(&self.up, &format!("STREAM.INFO.{name}")).await;
            let last = info["state"]["last_seq"].as_u64().unwrap();
            let mut messages = vec![];
            for seq in 1..=last {
                let get = format!("$JS.API.STREAM.MSG.GET.{name}");
                let body = json!({ "seq": seq }).to_string();
                let answer = self.up.mesh.fleet().client.request(get, body.into()).await.unwrap();
                let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
                let message = &answer["message"];
                if let Some(subject) = message["subject"].as_str().filter(|s| !self.own(s)) {
                    let data = format!("{} {}", message["data"], message["hdrs"]);
                    messages.push((seq, subject.to_owned(), data));
                }
            }
            let shared = [Bucket::Reported.stream(), Bucket::Liveness.stream()].contains(&name.to_owned());
            // The attacker may write under its own keys of these two, so their numbers go on.
            let last = if shared { 0 } else { last };
            let consumers = info["state"]["consumer_count"].clone();
            all.insert(name.to_owned(), (json!([info["config"], info["created"], consumers]), last, messages));
        }
        all
    }

    /// After this, whatever the attacker sent has been worked on: its connection and the coordinator's are in order.
    async fn settle(&self) {
        let _ = self.attacker.client.flush().await;
        let answered = self.attacker.client.request(subjects::device_get(&self.attacker.id), Bytes::new()).await;
        assert!(answered.is_ok(), "the attacker's connection works: the attacks were not lost with it");
        self.up.mesh.fleet().client.flush().await.unwrap();
        self.victim.client.flush().await.unwrap();
        // Answers take up to a few hops more; the victim's own report, sent last, is a fence behind them.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    async fn unchanged(&self, before: &Snapshot) {
        self.settle().await;
        let after = self.snapshot().await;
        for (name, was) in before {
            assert_eq!(&after[name], was, "{name}");
        }
        self.store.check().await.unwrap();
    }
}

fn allowed(id: &DeviceId) -> Vec<String> {
    vec![
        subjects::device_get(id),
        Bucket::Reported.subject(id.as_str()),
        Bucket::Liveness.subject(&format!("{id}.a")),
        Bucket::Liveness.subject(&format!("{id}.other")),
        Up::Renew.subject(id),
        Up::Trust.subject(id),
        format!("up.{id}.a.b.c"),
    ]
}

/// Where an attacker would like its words to appear.
fn targets(me: &DeviceId, victim: &DeviceId) -> Vec<String> {
    let mut all = vec![
        Bucket::Liveness.subject(&format!("{victim}.a")),
        Bucket::Deployments.subject("default.web"),
        Bucket::Meta.subject("store"),
        Bucket::Desired.subject(me.as_str()),
        "audit.default".into(),
        "audit._".into(),
        subjects::device_get(victim),
        Up::Renew.subject(victim),
        "$JS.API.INFO".into(),
        "$JS.API.STREAM.NAMES".into(),
        "$JS.API.STREAM.CREATE.EVIL".into(),
        "$JS.API.DIRECT.GET.KV_desired".into(),
        format!("$JS.API.DIRECT.GET.KV_desired.{}", Bucket::Desired.subject(victim.as_str())),
        "$JS.API.META.LEADER.STEPDOWN".into(),
        "$SYS.REQ.SERVER.PING".into(),
        "$SYS.REQ.CLAIMS.UPDATE".into(),
        "$SYS.REQ.USER.INFO".into(),
        "_INBOX.x".into(),
        "_R_.x".into(),
        "$NRG.x".into(),
        "$JSC.CI.x".into(),
    ];
    for bucket in [Bucket::Desired, Bucket::Reported, Bucket::Devices] {
        all.push(bucket.subject(victim.as_str()));
    }
    for stream in ["KV_desired", "KV_reported", "KV_liveness", "KV_devices", AUDIT_STREAM] {
        for verb in ["PURGE", "DELETE", "INFO", "UPDATE", "MSG.DELETE", "MSG.GET", "SNAPSHOT", "LEADER.STEPDOWN"] {
            all.push(format!("$JS.API.STREAM.{verb}.{stream}"));
        }
        all.push(format!("$JS.API.CONSUMER.CREATE.{stream}"));
        all.push(format!("$JS.API.CONSUMER.CREATE.{stream}.evil"));
        all.push(format!("$JS.API.CONSUMER.CREATE.{stream}.evil.$KV.desired.{me}"));
        all.push(format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.evil"));
        all.push(format!("$JS.API.CONSUMER.NAMES.{stream}"));
        all.push(format!("$JS.API.CONSUMER.LIST.{stream}"));
    }
    all
}

/// On another device's own subjects a message can be made to appear; that is why all of them are signed.
fn visible_only(victim: &DeviceId) -> Vec<String> {
    let inbox = format!("{}.x", subjects::inbox_prefix(victim));
    vec![subjects::device_push_desired(victim), subjects::command(victim, "exec"), inbox]
}

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
    all.push(subjects::command(&me, "exec"));
    s.attacker.heard();
    for subject in &all {
        s.attacker.client.publish(subject.clone(), Bytes::from_static(b"evil")).await.unwrap();
    }
    let mut denied = vec![];
    until("every one is denied", async || {
        denied.extend(s.attacker.heard().into_iter().filter(|e| e.to_lowercase().contains("permissions violation")));
        denied.len() >= all.len()
    })
    .await;
    for subject in &all {
        assert!(denied.iter().any(|e| e.contains(&format!("\"{subject}\"")) || e.contains(subject)), "{subject}");
    }
    s.unchanged(&before).await;
    assert!(s.heard.lock().unwrap().is_empty(), "the victim heard nothing: {:?}", s.heard.lock().unwrap());
    s.up.down().await;
}

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
