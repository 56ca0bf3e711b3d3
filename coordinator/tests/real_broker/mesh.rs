//! What devices and coordinators say to each other: documents, reports, renewals, commands, (dis)connections.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_nats::{Message, Subscriber};
use bramble_contracts::{
    bytes::Fixed,
    envelope,
    signed::{self, Role},
    subjects::{self, Bucket, Up},
    v1::{FrameBody, RenewReply, RenewRequest, ReplyFrame, SignedTime, TimeRequest},
};
use bramble_coordinator::{
    mesh::{Answer, CommandError, DeviceLink, LinkChange, LinkNews, Mesh, Question},
    store::{Expect, Store as _},
};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};

use crate::common::{Device, Fleet, PATIENCE, device_identity};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_its_document_once_and_then_pushed() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    let device = up.device(1).await;
    let one = store.put(Bucket::Desired, device.id.as_str(), Bytes::from_static(b"one"), Expect::Absent).await.unwrap();
    let mut pushed = device.client.subscribe(subjects::device_push_all(&device.id)).await.unwrap();
    let got = device.client.request(subjects::device_get(&device.id), Bytes::new()).await.unwrap();
    assert_eq!(got.payload, "one");
    assert_eq!(got.headers.unwrap().get("Nats-Sequence").unwrap().as_str(), one.to_string());
    let two =
        store.put(Bucket::Desired, device.id.as_str(), Bytes::from_static(b"two"), Expect::Seq(one)).await.unwrap();
    let push = tokio::time::timeout(PATIENCE, pushed.next()).await.unwrap().unwrap();
    assert_eq!(
        (push.subject.as_str(), push.payload.as_ref()),
        (subjects::device_push_desired(&device.id).as_str(), &b"two"[..])
    );
    let headers = push.headers.unwrap();
    assert_eq!(headers.get("Nats-Sequence").unwrap().as_str(), two.to_string());
    assert_eq!(headers.get("Nats-Last-Sequence").unwrap().as_str(), one.to_string());
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_and_heartbeats_are_acknowledged_and_bounded() {
    let up = Fleet::new().up().await;
    let store = up.store().await;
    let device = up.device(1).await;
    let subject = Bucket::Reported.subject(device.id.as_str());
    let ack = device.client.request(subject.clone(), Bytes::from_static(b"report")).await.unwrap();
    assert!(String::from_utf8_lossy(&ack.payload).contains("\"seq\":1"));
    let ack = device.client.request(subject, Bytes::from(vec![1; subjects::REPORT_MAX_BYTES + 1])).await.unwrap();
    assert!(String::from_utf8_lossy(&ack.payload).contains("message size exceeds maximum allowed"));
    let alive = Bucket::Liveness.subject(&format!("{}.a", device.id));
    assert!(device.client.request(alive.clone(), Bytes::from_static(b"x")).await.is_ok());
    let ack = device.client.request(alive, Bytes::from(vec![1; subjects::LIVENESS_MAX_BYTES + 1])).await.unwrap();
    assert!(String::from_utf8_lossy(&ack.payload).contains("message size exceeds maximum allowed"));
    assert_eq!(store.get(Bucket::Reported, device.id.as_str()).await.unwrap().unwrap().bytes, "report");
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_renews_before_its_jwt_ends_the_connection() {
    let up = Fleet::new().up().await;
    let (id, key) = device_identity(1);
    let (keys, public) = (up.keys.clone(), key.public_key());
    let answering = up.mesh.answer_devices(Arc::new(move |device, question| {
        assert_eq!(question, Question::Renew(RenewRequest { trust_version: 1 }));
        let jwt = keys.device_jwt(&device, &public, Duration::from_secs(600)).ok();
        async move { envelope::encode(&RenewReply { jwt, trust: vec![], refused: None }) }.boxed()
    }));
    let answers = answering.await;
    // Only now does its time begin.
    let jwt = up.keys.device_jwt(&id, &key.public_key(), Duration::from_secs(5)).unwrap();
    let mut old = Device::connect_with(up.fleet.listen, id.clone(), key.clone(), jwt).await.unwrap();
    let ask = envelope::encode(&RenewRequest { trust_version: 1 }).unwrap();
    let answer =
        old.client.request(Up::Renew.subject(&id), ask.into()).await.expect("the very first question is heard");
    let renewed: RenewReply = envelope::decode(&answer.payload).unwrap();
    let fresh = Device::connect_with(up.fleet.listen, id, key, renewed.jwt.unwrap()).await.unwrap();
    old.hears("expired").await;
    fresh.client.flush().await.unwrap();
    answers.abort();
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_told_the_time_signed_for_it_and_its_question_alone() {
    let up = Fleet::new().up().await;
    let device = up.device(1).await;
    let keys = up.keys.clone();
    let answering = up.mesh.answer_devices(Arc::new(move |device, question| {
        let Question::Time(request) = question else { panic!("{question:?}") };
        let keys = keys.clone();
        async move { keys.sign_time(device, request.nonce) }.boxed()
    }));
    let answers = answering.await;
    let nonce = Fixed([7; 16]);
    let ask = envelope::encode(&TimeRequest { nonce }).unwrap();
    let before = bramble_coordinator::clock::unix_ms();
    let answer = device.client.request(Up::Time.subject(&device.id), ask.into()).await.unwrap();
    let trust = up.keys.trust_document();
    let time: SignedTime = signed::open(&answer.payload, Role::Time, |role, id| trust.key(role, id)).unwrap();
    assert_eq!((time.device, time.nonce), (device.id.clone(), nonce));
    assert!((before..=bramble_coordinator::clock::unix_ms()).contains(&time.unix_ms));
    answers.abort();
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_up_is_not_answered() {
    let up = Fleet::new().up().await;
    let device = up.device(1).await;
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let answers = up.mesh.answer_devices(Arc::new(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        async { envelope::encode(&RenewReply { jwt: None, trust: vec![], refused: Some("no".into()) }) }.boxed()
    }));
    let answers = answers.await;
    device.ask_renewal().await;
    for body in [Bytes::new(), Bytes::from_static(b"rubbish"), Bytes::from(vec![0xB7; 70_000])] {
        assert!(device.client.request(Up::Renew.subject(&device.id), body).await.is_err());
    }
    let ask = envelope::encode(&RenewRequest { trust_version: 1 }).unwrap();
    assert!(device.client.request(format!("up.{}.other", device.id), ask.into()).await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 1, "nobody else was asked");
    answers.abort();
    up.down().await;
}

fn frame(seq: u32, body: FrameBody) -> Bytes {
    envelope::encode(&ReplyFrame { seq, body }).unwrap().into()
}

/// A command that the device has heard. A flush only writes: the broker may take the command before it knows that the
/// device listens, and then says at once that nobody does.
async fn heard(mesh: &Mesh, device: &Device, commands: &mut Subscriber) -> (Answer, Message) {
    let asking = async {
        loop {
            let mut answer = mesh.send_command(&device.id, "logs", b"signed".to_vec()).await.unwrap();
            let command = tokio::select! {
                command = commands.next() => command.unwrap(),
                refused = answer.next(PATIENCE) => {
                    assert!(matches!(refused, Err(CommandError::NotConnected { .. })), "{refused:?}");
                    continue;
                }
            };
            return (answer, command);
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("the device hears a command")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_answered_by_many_frames_in_order() {
    let up = Fleet::new().up().await;
    let device = up.device(1).await;
    let within = Duration::from_secs(5);
    let mut answer = up.mesh.send_command(&device.id, "logs", b"signed".to_vec()).await.unwrap();
    assert!(matches!(answer.next(within).await, Err(CommandError::NotConnected { .. })), "it does not listen yet");
    assert!(matches!(answer.next(within).await, Ok(None)), "an answer that failed has ended");
    let mut commands = device.client.subscribe(subjects::command_all(&device.id)).await.unwrap();
    let (mut answer, command) = heard(&up.mesh, &device, &mut commands).await;
    assert_eq!(
        (command.subject.as_str(), command.payload.as_ref()),
        (subjects::command(&device.id, "logs").as_str(), &b"signed"[..])
    );
    let reply = command.reply.unwrap();
    for n in 0..500 {
        device.client.publish(reply.clone(), frame(n, FrameBody::Stdout(vec![1; 100]))).await.unwrap();
    }
    device.client.publish(reply, frame(500, FrameBody::End { exit_code: Some(0) })).await.unwrap();
    let mut frames = 0;
    while let Some(frame) = answer.next(within).await.unwrap() {
        assert_eq!(frame.seq, frames);
        frames += 1;
    }
    assert_eq!(frames, 501);

    let mut answer = up.mesh.send_command(&device.id, "logs", b"signed".to_vec()).await.unwrap();
    let reply = tokio::time::timeout(PATIENCE, commands.next()).await.unwrap().unwrap().reply.unwrap();
    device.client.publish(reply.clone(), frame(0, FrameBody::Skipped(1))).await.unwrap();
    device.client.publish(reply, frame(2, FrameBody::Skipped(1))).await.unwrap();
    assert!(answer.next(within).await.unwrap().is_some());
    assert!(matches!(answer.next(within).await, Err(CommandError::Gap { want: 1, got: 2, .. })));

    let mut answer = up.mesh.send_command(&device.id, "logs", b"signed".to_vec()).await.unwrap();
    assert!(matches!(answer.next(Duration::from_millis(50)).await, Err(CommandError::Silent { .. })));
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_is_bounded_and_its_reader_hears_of_it() {
    let up = Fleet::new().up().await;
    let device = up.device(1).await;
    let mut commands = device.client.subscribe(subjects::command_all(&device.id)).await.unwrap();
    let within = Duration::from_secs(5);
    // The first has too many bytes, the second too many frames.
    for (count, size) in [(300, 60_000), (3000, 10)] {
        let (mut answer, command) = heard(&up.mesh, &device, &mut commands).await;
        let reply = command.reply.unwrap();
        for n in 0..count {
            device.client.publish(reply.clone(), frame(n, FrameBody::Stdout(vec![1; size]))).await.unwrap();
        }
        device.client.publish(reply, frame(count, FrameBody::End { exit_code: Some(0) })).await.unwrap();
        // Answered in order by the same connection: by then the coordinator has been sent all of it.
        let alive = Bucket::Liveness.subject(&format!("{}.a", device.id));
        let _ = device.client.request(alive, Bytes::from_static(b"x")).await;
        up.mesh.fleet().client.request("nobody.there", Bytes::new()).await.unwrap_err();
        let (mut frames, mut bytes) = (0, 0);
        let end = loop {
            match answer.next(within).await {
                Ok(Some(frame)) => {
                    assert_eq!(frame.seq, frames);
                    frames += 1;
                    bytes += size;
                }
                other => break other,
            }
        };
        assert!(matches!(end, Err(CommandError::Gap { .. })), "{end:?}");
        assert!((1..=1100).contains(&frames) && bytes <= 9 << 20, "{frames} frames, {bytes} bytes were kept");
    }
    up.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_devices_are_told() {
    let up = Fleet::new().up().await;
    let early = up.device(2).await;
    let mut links = up.mesh.device_links();
    let next = async |links: &mut tokio::sync::mpsc::Receiver<LinkNews>| {
        tokio::time::timeout(PATIENCE, links.recv()).await.unwrap().unwrap()
    };
    let LinkNews::All(listed) = next(&mut links).await else { panic!("first comes who is there") };
    let [link] = &listed[..] else { panic!("one device was there before us: {listed:?}") };
    assert_eq!((&link.device, &link.public_key), (&early.id, &early.key.public_key()));
    let device = up.device(1).await;
    let LinkNews::One(link) = next(&mut links).await else { panic!("then what changes") };
    assert_eq!(link.change, LinkChange::Connected);
    assert_eq!((&link.device, &link.public_key), (&device.id, &device.key.public_key()));
    let _ = device.client.drain().await;
    let gone = tokio::time::timeout(PATIENCE, async {
        loop {
            match links.recv().await.unwrap() {
                LinkNews::One(DeviceLink { change: LinkChange::Disconnected { reason }, .. }) => return reason,
                LinkNews::One(_) | LinkNews::All(_) => {}
            }
        }
    });
    assert_eq!(gone.await.unwrap(), "Client Closed");
    up.down().await;
}
