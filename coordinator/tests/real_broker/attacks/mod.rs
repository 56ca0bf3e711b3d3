//! A device with its own valid credentials against everybody else's data. Each test compares every stream before and
//! after: what is stored under keys that are not the attacker's must be the same, byte by byte and number by number.

mod reads;
mod writes;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::Subscriber;
use bramble_contracts::{
    DeviceId,
    subjects::{self, AUDIT_STREAM, BLOBS_STREAM, Bucket, Up},
    v1::RenewReply,
};
use bramble_coordinator::store::{Expect, JetStream, Store as _};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};

use crate::common::{Device, Fleet, Running};

/// Attacker, victim and everything the victim hears.
pub(super) struct Scene {
    pub(super) up: Running,
    pub(super) store: JetStream,
    pub(super) attacker: Device,
    pub(super) victim: Device,
    pub(super) heard: Arc<Mutex<Vec<(String, Bytes)>>>,
    /// For whom the coordinator was asked to renew.
    pub(super) asked: Arc<Mutex<Vec<DeviceId>>>,
}

pub(super) fn collect(mut from: Subscriber, into: &Arc<Mutex<Vec<(String, Bytes)>>>) {
    let into = into.clone();
    tokio::spawn(async move {
        while let Some(message) = from.next().await {
            into.lock().unwrap().push((message.subject.to_string(), message.payload));
        }
    });
}

pub(super) async fn api(up: &Running, name: &str) -> Value {
    let answer = up.mesh.fleet().client.request(format!("$JS.API.{name}"), Bytes::new()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

pub(super) async fn scene() -> Scene {
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
    let answering = up.mesh.answer_devices(Arc::new(move |device, _| {
        ask.lock().unwrap().push(device);
        async {
            bramble_contracts::envelope::encode(&RenewReply { jwt: None, trust: vec![], refused: Some("no".into()) })
        }
        .boxed()
    }));
    answering.await;
    attacker.ask_renewal().await;
    Scene { up, store, attacker, victim, heard, asked }
}

/// Streams with their configuration, and every message that is not under one of the attacker's own keys.
pub(super) type Snapshot = BTreeMap<String, (Value, u64, Vec<(u64, String, String)>)>;

impl Scene {
    fn own(&self, subject: &str) -> bool {
        let id = self.attacker.id.as_str();
        subject == Bucket::Reported.subject(id) || subject.starts_with(&Bucket::Liveness.subject(&format!("{id}.")))
    }

    pub(super) async fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::new();
        let names = api(&self.up, "STREAM.NAMES").await["streams"].clone();
        assert_eq!(names.as_array().unwrap().len(), Bucket::ALL.len() + 2, "no stream more, none less");
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
    pub(super) async fn settle(&self) {
        let _ = self.attacker.client.flush().await;
        let answered = self.attacker.client.request(subjects::device_get(&self.attacker.id), Bytes::new()).await;
        assert!(answered.is_ok(), "the attacker's connection works: the attacks were not lost with it");
        self.up.mesh.fleet().client.flush().await.unwrap();
        self.victim.client.flush().await.unwrap();
        // Answers take up to a few hops more; the victim's own report, sent last, is a fence behind them.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    pub(super) async fn unchanged(&self, before: &Snapshot) {
        self.settle().await;
        let after = self.snapshot().await;
        for (name, was) in before {
            assert_eq!(&after[name], was, "{name}");
        }
        self.store.check().await.unwrap();
    }
}

pub(super) fn allowed(id: &DeviceId) -> Vec<String> {
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
pub(super) fn targets(me: &DeviceId, victim: &DeviceId) -> Vec<String> {
    let mut all = vec![
        Bucket::Liveness.subject(&format!("{victim}.a")),
        Bucket::Deployments.subject("default.web"),
        Bucket::Meta.subject("store"),
        Bucket::Desired.subject(me.as_str()),
        "audit.default".into(),
        "audit._".into(),
        Bucket::Releases.subject("catalogue"),
        Bucket::Releases.subject("keys"),
        "$O.releases.M.x".into(),
        "$O.releases.C.x.0".into(),
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
    for stream in ["KV_desired", "KV_reported", "KV_liveness", "KV_devices", "KV_releases", BLOBS_STREAM, AUDIT_STREAM]
    {
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
pub(super) fn visible_only(victim: &DeviceId) -> Vec<String> {
    let inbox = format!("{}.x", subjects::inbox_prefix(victim));
    let commands = ["exec", "session", "input"].map(|verb| subjects::command(victim, verb));
    [&[subjects::device_push_desired(victim), inbox], &commands[..]].concat()
}
