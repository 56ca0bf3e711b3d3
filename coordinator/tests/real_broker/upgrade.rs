//! The words to the two agents of an upgrade, over a real broker: each reaches the run it is for, signed, until it is
//! true; and a coordinator that starts in the middle says the same.

use std::{sync::Arc, time::Duration};

use bramble_contracts::{
    Labels, SessionId,
    api::DeviceState,
    bytes::{Fixed, Sha256},
    envelope,
    id::Tenant,
    signed::{self, Role},
    subjects::{self, Bucket},
    v1::{Command, FrameBody, Health, Heartbeat, Instance, ReplyFrame, Status, Verb},
    v2::{AgentReport, AgentWish, UpgradePhase, UpgradeReport, UpgradeWord},
    v3::{DesiredDocument, Report},
};
use bramble_coordinator::{
    background::{self, Core, Times},
    domain::record::{self, DeviceRecord},
    store::{Expect, Store as _},
};
use futures::StreamExt as _;
use tokio::task::JoinHandle;

use crate::common::{Device, Fleet, PATIENCE, Running, device_identity};

const OLD: SessionId = Fixed([1; 8]);
const NEW: SessionId = Fixed([2; 8]);

fn manifest() -> Sha256 {
    Sha256::of(b"manifest")
}

/// A coordinator on the broker, as the program runs it.
async fn coordinator(up: &Running) -> (Arc<Core>, JoinHandle<()>) {
    let times = Times { heartbeat_timeout: Duration::from_secs(5), device_jwt: Duration::from_secs(600) };
    let core = Core::new(Arc::new(up.store().await), Arc::clone(&up.keys), Arc::new(up.mesh.clone()), times);
    let running = tokio::spawn(background::run(Arc::clone(&core), up.mesh.device_links()));
    (core, running)
}

/// What both agents say of themselves: the new one acts, at this status.
async fn speak(device: &Device, status: Status, phase: UpgradePhase, old_beats: bool) {
    let beat = |session, instance, version: &str| Heartbeat {
        session,
        instance,
        seq: 1,
        uptime_ms: 1000,
        generation: bramble_contracts::Generation(1),
        version: version.parse().unwrap(),
        newest_document: 2,
        health: Health::Healthy,
    };
    let report = Report {
        device: device.id.clone(),
        session: NEW,
        instance: Instance::B,
        seq: 1,
        generation: bramble_contracts::Generation(1),
        newest_document: 2,
        trust_version: 1,
        agent: "1.2.3".parse().unwrap(),
        health: Health::Healthy,
        facts: Default::default(),
        clock: Default::default(),
        program: AgentReport {
            target: None,
            release_seq: 7,
            floor: 0,
            keys_version: 1,
            upgrade: Some(UpgradeReport {
                version: "1.2.3".parse().unwrap(),
                manifest: manifest(),
                attempt: 1,
                status,
                phase,
                reason: String::new(),
                blamed: false,
                bytes_got: 9,
                bytes_all: 9,
                took_ms: None,
                unmanaged_ms: None,
            }),
        },
        os: Default::default(),
        apps: vec![],
        refused: vec![],
        alarms: vec![],
    };
    let say = async |subject: String, bytes: Vec<u8>| {
        device.client.request(subject, bytes.into()).await.unwrap();
    };
    say(Bucket::Reported.subject(device.id.as_str()), envelope::encode(&report).unwrap()).await;
    let alive = |instance| Bucket::Liveness.subject(&subjects::liveness_key(&device.id, instance));
    say(alive(Instance::B), envelope::encode(&beat(NEW, Instance::B, "1.2.3")).unwrap()).await;
    if old_beats {
        say(alive(Instance::A), envelope::encode(&beat(OLD, Instance::A, "0.1.0")).unwrap()).await;
    }
}

/// The device has a record and a document that wishes the release.
async fn wish(up: &Running, device: &Device) {
    let store = up.store().await;
    let (id, key) = device_identity(1);
    let record = DeviceRecord {
        id: id.clone(),
        tenant: Tenant::default(),
        name: "pi-1".parse().unwrap(),
        labels: Labels::new(),
        state: DeviceState::Active,
        public_key: Some(key.public_key()),
        token: None,
        newest_document: 2,
        created_ms: 1,
        quarantine: None,
        hold: None,
    };
    let document = DesiredDocument {
        device: id.clone(),
        generation: bramble_contracts::Generation(1),
        tenant: Tenant::default(),
        name: record.name.clone(),
        labels: Labels::new(),
        apps: vec![],
        agent: Some(AgentWish {
            version: "1.2.3".parse().unwrap(),
            release_seq: 7,
            manifest: manifest(),
            keys_pin: Sha256::of(b"keys"),
            attempt: 1,
        }),
        os: None,
    };
    let signed = up.keys.sign_desired(&document).unwrap();
    store.put(Bucket::Desired, device.id.as_str(), signed.into(), Expect::Absent).await.unwrap();
    store.put(Bucket::Devices, device.id.as_str(), record::encode(&record), Expect::Absent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_agent_is_confirmed_and_the_old_one_retired_also_by_a_coordinator_that_just_started() {
    let up = Fleet::new().up().await;
    let device = up.device(1).await;
    wish(&up, &device).await;
    let mut commands = device.client.subscribe(subjects::command_all(&device.id)).await.unwrap();
    device.client.flush().await.unwrap();
    let trust = up.keys.trust_document().clone();
    let mut hear = async |answer: FrameBody| {
        let message = tokio::time::timeout(PATIENCE, commands.next()).await.expect("a word comes").unwrap();
        let command: Command = signed::open(&message.payload, Role::Fleet, |role, id| trust.key(role, id)).unwrap();
        let frame = envelope::encode(&ReplyFrame { seq: 0, body: answer }).unwrap();
        device.client.publish(message.reply.unwrap(), frame.into()).await.unwrap();
        let Verb::Upgrade(word) = command.verb else { panic!("{command:?}") };
        (command.session, word)
    };
    let end = || FrameBody::End { exit_code: None };
    let (_core, first) = coordinator(&up).await;
    // It speaks again and again, as agents do: heartbeats that were there before a coordinator count for nothing.
    let on_trial = async {
        loop {
            speak(&device, Status::Trial, UpgradePhase::Trial, true).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let confirm = (NEW, UpgradeWord::Confirm { release_seq: 7 });
    tokio::select! {
        () = on_trial => unreachable!(),
        () = async {
            // What is not taken is said again.
            assert_eq!(hear(FrameBody::Refused { why: "not now".into() }).await, confirm);
            assert_eq!(hear(end()).await, confirm);
        } => {}
    }
    first.abort();
    let (_core, second) = coordinator(&up).await;
    let confirmed = async {
        loop {
            speak(&device, Status::Confirmed, UpgradePhase::Stopping, true).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::select! {
        () = confirmed => unreachable!(),
        () = async {
            loop {
                // The second one may first have seen the report of before.
                let said = hear(end()).await;
                if said == (OLD, UpgradeWord::Retire) {
                    return;
                }
                assert_eq!(said, confirm);
            }
        } => {}
    }
    second.abort();
    up.down().await;
}
