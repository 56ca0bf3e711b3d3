//! Programs with what somebody types: what is typed in whose name, what is sent on when, and when it is over. The simulated
//! device's program prints its command line, then what it reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Subscriber;
use bramble_contracts::bytes::Fixed;
use bramble_contracts::quantity::Millis;
use bramble_contracts::signed::{Role, sign};
use bramble_contracts::subjects;
use bramble_contracts::v1::{FrameBody, RefusalKind, ReplyFrame, SessionArgs, Terminal, TerminalSize, Verb};
use bramble_contracts::v2::{CommandInput, Input};
use bramble_contracts::{DeviceId, Tenant, envelope};
use ed25519_dalek::SigningKey;
use futures::StreamExt as _;

use crate::coordinator::{Coordinator, Tls};
use crate::device::Device;
use crate::eventually;

const COMMAND: u64 = 5;
static COUNTER: AtomicU64 = AtomicU64::new(20);
const LONG: Millis = Millis::secs(3600);
/// How long something that must not come is waited for.
const NEVER: Duration = Duration::from_millis(500);

/// A session, from the coordinator's side.
struct Session<'a> {
    device: &'a Device,
    command: u64,
    inbox: String,
    frames: Subscriber,
    due: u32,
    counter: u64,
}

impl<'a> Session<'a> {
    async fn start(device: &'a Device, idle: Millis, timeout: Millis) -> Self {
        Self::start_as(device, COMMAND, idle, timeout).await
    }

    async fn start_as(device: &'a Device, command: u64, idle: Millis, timeout: Millis) -> Self {
        let verb = Verb::Session(SessionArgs {
            tenant: Tenant::default(),
            deployment: "web".parse().unwrap(),
            container: None,
            argv: vec!["sh".into()],
            terminal: Some(Terminal { name: "vt100".into(), size: TerminalSize { columns: 80, rows: 24 } }),
            idle,
            timeout,
        });
        let inbox = device.client.new_inbox();
        let frames = device.client.subscribe(inbox.clone()).await.unwrap();
        let bytes = device.sign_command(&device.command(command, verb));
        let subject = subjects::command(&device.id(), "session");
        device.client.publish_with_reply(subject, inbox.clone(), bytes.into()).await.unwrap();
        Self { device, command, inbox, frames, due: 0, counter: 0 }
    }

    fn frame(&mut self, input: Input) -> CommandInput {
        self.counter += 1;
        let (device, session) = (self.device.id(), self.device.agent().session());
        CommandInput { device, session, command: self.command, counter: self.counter, input }
    }

    async fn publish(&self, bytes: Vec<u8>) {
        self.device.client.publish(subjects::command(&self.device.id(), "input"), bytes.into()).await.unwrap();
    }

    async fn say(&mut self, input: Input) {
        let frame = self.frame(input);
        self.publish(self.device.sign_input(&frame)).await;
    }

    async fn type_in(&mut self, text: &str) {
        self.say(Input::Bytes(text.into())).await;
    }

    /// As a request: answers go on here, or where `inbox` is now.
    async fn go_on(&mut self, frames: u64) {
        let frame = self.frame(Input::GoOn { frames });
        let bytes = self.device.sign_input(&frame);
        let subject = subjects::command(&self.device.id(), "input");
        self.device.client.publish_with_reply(subject, self.inbox.clone(), bytes.into()).await.unwrap();
    }

    async fn next_within(&mut self, within: Duration) -> Option<FrameBody> {
        let message = tokio::time::timeout(within, self.frames.next()).await.ok()??;
        let frame: ReplyFrame = envelope::decode(&message.payload).unwrap();
        assert_eq!(frame.seq, self.due, "frames come in order, none is lost");
        self.due += 1;
        Some(frame.body)
    }

    async fn next(&mut self) -> FrameBody {
        self.next_within(crate::PATIENCE).await.expect("another frame")
    }

    /// The next thing that is no sign of life.
    async fn hears(&mut self) -> FrameBody {
        loop {
            match self.next().await {
                FrameBody::Taken(_) => {}
                body => return body,
            }
        }
    }

    async fn prints(&mut self, text: &str) {
        assert_eq!(self.hears().await, FrameBody::Stdout(text.into()));
    }

    async fn ends(&mut self, with: &str) {
        match self.hears().await {
            FrameBody::Refused { why } => assert!(why.contains(with), "{why}"),
            body => panic!("{body:?}"),
        }
    }
}

async fn device(coordinator: &Coordinator) -> Device {
    let device = Device::connected(coordinator).await;
    device.put(device.signed(&device.document(1, Some("web")))).await;
    device.reaches(1).await;
    device.reports("the running app", |report| report.apps.iter().any(|app| app.reason.is_empty())).await;
    device
}

#[tokio::test]
async fn only_what_was_signed_for_this_session_is_typed_and_only_once() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = device(&coordinator).await;
    let mut session = Session::start(&device, LONG, LONG).await;
    assert_eq!(session.next().await, FrameBody::Taken(0), "it has begun");
    session.go_on(100).await;
    session.prints("sh\n").await;

    let first = session.frame(Input::Bytes(b"one\n".to_vec()));
    session.publish(device.sign_input(&first)).await;
    session.prints("one\n").await;
    // Twice within a moment is the other connection of a hand-over: no refusal, and not typed twice.
    session.publish(device.sign_input(&first)).await;
    let evil = |input: CommandInput| CommandInput { input: Input::Bytes(b"evil\n".to_vec()), ..input };
    let next = CommandInput { counter: first.counter + 1, ..first.clone() };
    let stranger = SigningKey::from_bytes(&[77; 32]);
    let others = [
        envelope::encode(&evil(next.clone())).unwrap(),
        sign(&evil(next.clone()), Role::Fleet, &stranger).unwrap(),
        device.sign_input(&evil(first.clone())),
        device.sign_input(&CommandInput { command: COMMAND + 1, ..evil(next.clone()) }),
        device.sign_input(&CommandInput { session: Fixed([1; 8]), ..evil(next.clone()) }),
        device.sign_input(&CommandInput { device: DeviceId::from_entropy([3; 13]), ..evil(next.clone()) }),
        vec![0; 40_000],
    ];
    for bytes in others {
        session.publish(bytes).await;
    }
    for kind in [RefusalKind::Signature, RefusalKind::StaleCommand, RefusalKind::OtherDevice] {
        device.reports("its refusal", |report| report.refused.iter().any(|refusal| refusal.kind == kind)).await;
    }
    session.type_in("two\n").await;
    session.prints("two\n").await;
    session.say(Input::Resize(TerminalSize { columns: 120, rows: 40 })).await;
    session.prints("120 by 40\n").await;
    session.say(Input::End).await;
    assert_eq!(session.hears().await, FrameBody::End { exit_code: Some(0) });
    // What was on its way when it ended is nobody's attack.
    let before = device.report().await.unwrap().refused.iter().map(|refusal| refusal.times).sum::<u32>();
    session.type_in("late\n").await;
    assert_eq!(session.next_within(NEVER).await, None);
    let after = device.report().await.unwrap().refused.iter().map(|refusal| refusal.times).sum::<u32>();
    assert_eq!(before, after);
}

#[tokio::test]
async fn input_with_a_hole_ends_the_session() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = device(&coordinator).await;
    let mut session = Session::start(&device, LONG, LONG).await;
    session.go_on(100).await;
    session.prints("sh\n").await;
    let (second, third) = (session.frame(Input::Bytes(b"rm -rf /data/".to_vec())), session.frame(Input::End));
    session.publish(device.sign_input(&third)).await;
    session.ends("a part of the input was lost").await;
    session.publish(device.sign_input(&second)).await;
    assert_eq!(session.next_within(NEVER).await, None, "and nothing of it is typed");
    device
        .reports("its refusal", |report| {
            report.refused.iter().any(|refusal| refusal.detail.contains("missing before this one"))
        })
        .await;
}

#[tokio::test]
async fn nothing_is_sent_that_nobody_has_room_for() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = device(&coordinator).await;
    let mut session = Session::start(&device, LONG, LONG).await;
    assert_eq!(session.next().await, FrameBody::Taken(0));
    assert_eq!(session.next_within(NEVER).await, None, "it has printed, and nobody asked for it");
    session.go_on(1).await;
    session.prints("sh\n").await;
    session.type_in("one\n").await;
    session.type_in("two\n").await;
    let taken = async { while session.next().await != FrameBody::Taken(3) {} };
    tokio::time::timeout(crate::PATIENCE, taken).await.expect("typing goes on");
    assert_eq!(session.next_within(NEVER).await, None);
    session.go_on(2).await;
    session.prints("one\n").await;
    session.go_on(100).await;
    session.prints("two\n").await;
    session.say(Input::HangUp).await;
    session.ends("nobody listens any more").await;
}

#[tokio::test]
async fn a_session_outlives_what_a_broker_allows_in_answers_to_one_request() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = device(&coordinator).await;
    let mut session = Session::start(&device, LONG, LONG).await;
    session.go_on(1_000_000).await;
    session.prints("sh\n").await;
    // Two frames for each: more than the broker carries in all.
    let (rounds, mut echoed) = (5_600, 0);
    for round in 0..rounds {
        session.type_in("x\n").await;
        if round % 2_000 == 1_999 {
            session.go_on(1_000_000).await;
        }
        while round - echoed > 3 {
            session.prints("x\n").await;
            echoed += 1;
        }
    }
    session.say(Input::End).await;
    while echoed < rounds {
        session.prints("x\n").await;
        echoed += 1;
    }
    assert_eq!(session.hears().await, FrameBody::End { exit_code: Some(0) });
    assert!(session.due > 11_000, "{} frames", session.due);
    assert!(device.report().await.unwrap().alarms.is_empty());
}

#[tokio::test]
async fn without_another_request_it_waits_and_is_not_denied() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = device(&coordinator).await;
    let mut session = Session::start(&device, LONG, LONG).await;
    session.go_on(1_000_000).await;
    session.prints("sh\n").await;
    // In step, until there are no more answers.
    loop {
        session.type_in("x\n").await;
        let Some(_) = session.next_within(Duration::from_secs(2)).await else { break };
        while session.next_within(Duration::ZERO).await.is_some() {}
        assert!(session.due < 20_000, "it goes on and on");
    }
    assert!((8_900..10_000).contains(&session.due), "{} frames", session.due);
    // Another coordinator's inbox would do as well.
    session.inbox = device.client.new_inbox();
    session.frames = device.client.subscribe(session.inbox.clone()).await.unwrap();
    session.go_on(1_000_000).await;
    session.prints("x\n").await;
    assert!(device.report().await.unwrap().alarms.is_empty());
}

#[tokio::test]
async fn its_times_are_kept_and_it_makes_room() {
    let coordinator = Coordinator::start(Tls::Plain).await;
    let device = device(&coordinator).await;
    let mut idle = Session::start(&device, Millis(700), LONG).await;
    idle.go_on(100).await;
    idle.prints("sh\n").await;
    idle.ends("nothing was typed or printed for 700ms").await;
    let mut total = Session::start_as(&device, 6, LONG, Millis(900)).await;
    total.go_on(100).await;
    total.prints("sh\n").await;
    total.ends("its time of 900ms is over").await;
    let mut forever = Session::start_as(&device, 7, LONG, Millis(u64::MAX)).await;
    forever.ends("at most 1d").await;
    let mut all = vec![];
    for counter in 8..12 {
        let mut one = Session::start_as(&device, counter, LONG, LONG).await;
        assert_eq!(one.next().await, FrameBody::Taken(0));
        all.push(one);
    }
    Session::start_as(&device, 12, LONG, LONG).await.ends("runs 4 sessions already").await;
    let mut first = all.remove(0);
    first.say(Input::HangUp).await;
    first.ends("nobody listens any more").await;
    eventually("room for another one", || async {
        let mut next = Session::start_as(&device, COUNTER.fetch_add(1, Ordering::Relaxed), LONG, LONG).await;
        next.next().await == FrameBody::Taken(0)
    })
    .await;
}
