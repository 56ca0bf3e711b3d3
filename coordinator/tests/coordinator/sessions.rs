//! Programs with what somebody types: who may, what is written down, what each side may send, and who hears of an end. The
//! simulated device's program says back what it is told.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use bramble_contracts::{
    api::{AuditEvent, CHANNEL_OUT, OUTPUT_WINDOW, Outcome},
    v1::{Command, FrameBody, ReplyFrame, Verb},
    v2::{CommandInput, Input},
};
use bramble_coordinator::{
    background::port::{MeshError, Opened},
    http::serve::{Protection, serve},
    store::Store as _,
};
use futures::{SinkExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::sim::{Sim, manifest};

const PATIENCE: Duration = Duration::from_secs(20);

/// The devices' side.
#[derive(Default)]
pub(crate) struct Sessions {
    programs: Mutex<BTreeMap<u64, Program>>,
    /// Everything that was said to any program.
    heard: Mutex<Vec<Input>>,
}

struct Program {
    name: String,
    out: mpsc::UnboundedSender<Result<FrameBody, MeshError>>,
    printed: u64,
    due: u64,
    taken: u64,
}

impl Sessions {
    pub(crate) fn begin(&self, command: &Command) -> Result<Opened, MeshError> {
        let Verb::Session(args) = &command.verb else { panic!("{command:?}") };
        let (out, frames) = mpsc::unbounded_channel();
        let first = match args.argv[0].as_str() {
            "away" => return Err(MeshError::Unreachable { why: "it is not connected".to_owned() }),
            "wrong" => FrameBody::Refused { why: "there is no such program".to_owned() },
            _ => FrameBody::Taken(0),
        };
        out.send(Ok(first)).unwrap();
        let program = Program { name: args.argv[0].clone(), out, printed: 0, due: 1, taken: 0 };
        self.programs.lock().unwrap().insert(command.counter, program);
        let frames = stream::unfold((frames, 0), |(mut frames, seq)| async move {
            let body = frames.recv().await?;
            Some((body.map(|body| ReplyFrame { seq, body }), (frames, seq + 1)))
        });
        Ok(Opened { frames: frames.boxed(), inbox: "_INBOX.sim".to_owned() })
    }

    pub(crate) fn hear(&self, input: CommandInput, asks: bool) {
        let mut programs = self.programs.lock().unwrap();
        let program = programs.get_mut(&input.command).expect("input for a program that runs");
        assert_eq!(input.counter, program.due, "counted without a gap");
        program.due += 1;
        let say = |body| drop(program.out.send(Ok(body)));
        match &input.input {
            Input::Bytes(bytes) if bytes == b"exit 7\n" => say(FrameBody::End { exit_code: Some(7) }),
            Input::Bytes(bytes) if bytes == b"too long\n" => say(FrameBody::Refused { why: "its time is over".into() }),
            Input::Bytes(bytes) if bytes == b"break\n" => {
                drop(program.out.send(Err(MeshError::Unreachable { why: "part of the answer is lost".into() })));
            }
            Input::Bytes(bytes) if program.name == "cat" => {
                program.taken = input.counter;
                say(FrameBody::Taken(input.counter));
                say(FrameBody::Stdout(bytes.clone()));
            }
            Input::GoOn { frames } if program.name == "flood" => {
                for _ in program.printed..*frames {
                    say(FrameBody::Stdout(b"x".to_vec()));
                }
                program.printed = *frames;
            }
            Input::End => say(FrameBody::End { exit_code: Some(0) }),
            Input::Bytes(_) | Input::Resize(_) | Input::GoOn { .. } | Input::HangUp => {}
        }
        if asks {
            drop(program.out.send(Ok(FrameBody::Taken(program.taken))));
        }
        self.heard.lock().unwrap().push(input.input);
    }
}

/// A coordinator that serves on a port, with a device that runs `web`.
struct Scene {
    sim: Sim,
    at: String,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Scene {
    async fn new() -> Self {
        let sim = Sim::new();
        sim.ready().await;
        let device = sim.device("pi-1", json!({ "a": "b" })).await;
        sim.must("PUT", "/api/v1/deployments/web", Some(manifest("web", json!({ "a": "b" }), 80, 1))).await;
        sim.until("it is there", |_| sim.apps(&device.id) == ["web@1"]).await;
        device.take(&sim);
        sim.converged().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(serve(listener, sim.router.clone(), Protection::Plain, std::future::pending()));
        Self { sim, at, serving }
    }

    /// Comes in; the status when it may not.
    async fn enter(&self, device: &str, headers: &[(&'static str, &str)]) -> Result<Client, u16> {
        let mut request = format!("ws://{}/api/v1/devices/{device}/terminal", self.at).into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let stream = TcpStream::connect(&self.at).await.unwrap();
        match client_async(request, stream).await {
            Ok((socket, _)) => Ok(Client { socket }),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(err) => panic!("{err}"),
        }
    }

    async fn client(&self) -> Client {
        let bearer = format!("Bearer {}", self.sim.admin);
        self.enter("pi-1", &[("authorization", &bearer), ("x-tenant-id", "default")]).await.unwrap()
    }

    /// A session of this program that has begun.
    async fn start(&self, program: &str) -> Client {
        let mut client = self.client().await;
        client.say(start(program)).await;
        assert_eq!(client.tells().await["type"], "started");
        client
    }

    async fn trail(&self, action: &str) -> Vec<AuditEvent> {
        let trail = self.sim.store.audit_trail(None, None, 1000).await.unwrap();
        trail.into_iter().filter(|e| e.action == action).collect()
    }

    /// The event after the use, once it is written.
    async fn outcome(&self) -> AuditEvent {
        let looking = async {
            loop {
                let trail = self.trail("device.exec").await;
                if let Some(event) = trail.into_iter().find(|e| e.outcome != Outcome::Intent) {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.expect("an outcome is written")
    }

    fn heard(&self) -> Vec<Input> {
        let heard = self.sim.mesh.sessions.heard.lock().unwrap().clone();
        heard.into_iter().filter(|input| !matches!(input, Input::GoOn { .. })).collect()
    }

    async fn hears_hang_up(&self) {
        let waiting = async {
            while !self.heard().contains(&Input::HangUp) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the device hears of it");
    }
}

fn start(program: &str) -> Value {
    json!({ "type": "start", "deployment": "web", "argv": [program, "--password=secret-argument"] })
}

struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    async fn type_in(&mut self, text: &str) {
        self.socket.send(Message::binary([&[0], text.as_bytes()].concat())).await.unwrap();
    }

    async fn next(&mut self) -> Option<Message> {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("another message") {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// The next text.
    async fn tells(&mut self) -> Value {
        loop {
            match self.next().await {
                Some(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
                Some(Message::Binary(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next bytes.
    async fn prints(&mut self) -> Vec<u8> {
        loop {
            match self.next().await {
                Some(Message::Binary(bytes)) => return bytes.to_vec(),
                Some(Message::Text(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_session_carries_both_ways_and_leaves_an_event_before_and_after() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let terminal = json!({ "name": "xterm", "size": { "columns": 80, "rows": 24 } });
    let mut request = start("cat");
    request["terminal"] = terminal;
    client.say(request).await;
    assert_eq!(client.tells().await, json!({ "type": "started" }));
    client.type_in("typed-text grüß\n").await;
    assert_eq!(client.tells().await, json!({ "type": "taken", "messages": 1 }));
    assert_eq!(client.prints().await, [&[CHANNEL_OUT], "typed-text grüß\n".as_bytes()].concat());
    client.say(json!({ "type": "resize", "columns": 132, "rows": 43 })).await;
    client.type_in("exit 7\n").await;
    let mut last = client.tells().await;
    while last["type"] == "taken" {
        last = client.tells().await;
    }
    assert_eq!(last, json!({ "type": "end", "exitCode": 7 }));

    let after = scene.outcome().await;
    let before = scene.trail("device.exec").await.into_iter().find(|e| e.outcome == Outcome::Intent).unwrap();
    assert_eq!(
        (before.who.as_str(), before.object.as_str(), before.tenant.as_str()),
        ("admin", "device/pi-1/web", "default")
    );
    let told = json!({ "program": "cat", "arguments": 1, "container": null, "input": "terminal" });
    assert_eq!(before.before, Some(told.clone()));
    assert_eq!((after.outcome, &after.before, &after.who), (Outcome::Done, &Some(told), &before.who));
    assert!(after.detail.starts_with("ended with 7 after "), "{}", after.detail);
    let numbers = after.after.unwrap();
    assert_eq!((&numbers["exitCode"], &numbers["bytesIn"], &numbers["bytesOut"]), (&json!(7), &json!(25), &json!(18)));
    assert!(numbers["durationMs"].is_u64());
    assert_eq!((before.request_id.is_empty(), &after.request_id), (false, &before.request_id));
    let trail = format!("{:?}", scene.sim.store.audit_trail(None, None, 1000).await.unwrap());
    assert!(!trail.contains("secret-argument") && !trail.contains("typed-text"), "{trail}");
}

#[tokio::test]
async fn the_right_is_its_own_and_pages_of_other_sites_are_refused() {
    let scene = Scene::new().await;
    let (bearer, tenant) = (format!("Bearer {}", scene.sim.admin), ("x-tenant-id", "default"));
    let admin = ("authorization", bearer.as_str());
    let enter = async |device: &str, headers: &[(&'static str, &str)]| scene.enter(device, headers).await.err();
    assert_eq!(enter("pi-1", &[tenant]).await, Some(401));
    assert_eq!(enter("pi-1", &[tenant, ("cookie", &format!("token={}", scene.sim.admin))]).await, Some(401));
    assert_eq!(enter("pi-1", &[tenant, ("authorization", "Bearer powerless")]).await, Some(403));
    assert_eq!(enter("pi-1", &[admin]).await, Some(400));
    assert_eq!(enter("pi-9", &[admin, tenant]).await, Some(404));
    assert_eq!(enter("pi-1", &[admin, tenant, ("origin", "https://evil.example")]).await, Some(403));
    let ours = format!("http://{}", scene.at);
    assert_eq!(enter("pi-1", &[admin, tenant, ("origin", &ours)]).await, None);
    let plain = scene.sim.ask("GET", "/api/v1/devices/pi-1/terminal", None).await;
    assert_eq!((plain.status.as_u16(), plain.body["code"].as_str()), (400, Some("bad-request")));
    let refused = scene.trail("http.get").await;
    let one = refused.iter().find(|e| e.who == "nobody").expect("an attempt without the right is written down");
    assert_eq!((one.outcome, one.object.as_str()), (Outcome::Refused, "/api/v1/devices/pi-1/terminal"));
    assert!(scene.trail("device.exec").await.is_empty(), "nobody has begun anything");
}

#[tokio::test]
async fn what_cannot_begin_says_why() {
    let scene = Scene::new().await;
    let told = async |request: Value| {
        let mut client = scene.client().await;
        client.say(request).await;
        client.tells().await
    };
    let with = |field: &str, value: Value| {
        let mut request = start("cat");
        request[field] = value;
        request
    };
    for (request, code) in [
        (with("argv", json!([])), "invalid"),
        (with("idle", json!("25h")), "invalid"),
        (with("timeout", json!("0s")), "invalid"),
        (with("terminal", json!({ "name": "x y", "size": { "columns": 1, "rows": 1 } })), "invalid"),
        (with("deployment", json!("other")), "not-found"),
        (with("colour", json!("red")), "bad-request"),
        (json!({ "type": "end" }), "bad-request"),
        (start("away"), "device-unreachable"),
    ] {
        let last = told(request.clone()).await;
        assert_eq!((&last["type"], &last["problem"]["code"]), (&json!("problem"), &json!(code)), "{request}: {last}");
        assert!(last["problem"]["requestId"].is_string());
    }
    let failed = scene.outcome().await;
    assert_eq!((failed.outcome, failed.detail.contains("it is not connected")), (Outcome::Failed, true), "{failed:?}");
    let last = told(start("wrong")).await;
    assert_eq!(last, json!({ "type": "error", "device": "pi-1", "detail": "there is no such program" }));
}

#[tokio::test]
async fn a_device_hears_that_its_listener_has_gone_and_a_client_why_it_is_over() {
    let scene = Scene::new().await;
    drop(scene.start("cat").await);
    scene.hears_hang_up().await;
    let left = scene.outcome().await;
    assert_eq!((left.outcome, left.detail.contains("nobody listened any more")), (Outcome::Done, true), "{left:?}");
    for (typed, why) in [("too long\n", "its time is over"), ("break\n", "part of the answer is lost")] {
        let mut client = scene.start("cat").await;
        client.type_in(typed).await;
        let last = client.tells().await;
        assert_eq!((last["type"].as_str(), last["detail"].as_str()), (Some("error"), Some(why)));
        assert!(matches!(client.next().await, Some(Message::Close(_)) | None));
    }
}

#[tokio::test]
async fn a_client_that_does_not_keep_the_rules_is_told_which() {
    let scene = Scene::new().await;
    let ends = async |client: &mut Client| {
        loop {
            let told = client.tells().await;
            if told["type"] == "error" {
                return told["detail"].as_str().unwrap().to_owned();
            }
        }
    };
    let mut deaf = scene.start("deaf").await;
    for _ in 0..9 {
        deaf.type_in("x").await;
    }
    assert!(ends(&mut deaf).await.contains("more than 8 messages"));
    let mut long = scene.start("cat").await;
    long.type_in(&"x".repeat(16 * 1024 + 1)).await;
    assert!(ends(&mut long).await.contains("16 KiB"));
    let mut liar = scene.start("cat").await;
    liar.say(json!({ "type": "taken", "messages": 1_000_000 })).await;
    assert!(ends(&mut liar).await.contains("taken more than it was sent"));
    let mut twice = scene.start("cat").await;
    twice.say(start("cat")).await;
    assert!(ends(&mut twice).await.contains("begins but once"));
    assert_eq!(scene.heard().iter().filter(|input| **input == Input::HangUp).count(), 4);
}

#[tokio::test]
async fn output_waits_for_its_reader() {
    let scene = Scene::new().await;
    let mut client = scene.start("flood").await;
    for _ in 0..OUTPUT_WINDOW {
        assert_eq!(client.prints().await, [CHANNEL_OUT, b'x']);
    }
    assert!(tokio::time::timeout(Duration::from_millis(300), client.socket.next()).await.is_err(), "and no more");
    client.say(json!({ "type": "taken", "messages": OUTPUT_WINDOW })).await;
    for _ in 0..OUTPUT_WINDOW {
        client.prints().await;
    }
    client.say(json!({ "type": "end" })).await;
    assert_eq!(client.tells().await, json!({ "type": "end", "exitCode": 0 }));
    let numbers = scene.outcome().await.after.unwrap();
    assert_eq!(numbers["bytesOut"], json!(2 * OUTPUT_WINDOW));
}

#[tokio::test]
async fn one_caller_has_so_many_sessions_and_no_more() {
    let scene = Scene::new().await;
    let mut all = vec![];
    for _ in 0..16 {
        all.push(scene.start("cat").await);
    }
    let bearer = format!("Bearer {}", scene.sim.admin);
    let headers = [("authorization", bearer.as_str()), ("x-tenant-id", "default")];
    assert_eq!(scene.enter("pi-1", &headers).await.err(), Some(503));
    drop(all.pop());
    let room = async {
        while scene.enter("pi-1", &headers).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, room).await.expect("a seat is given back");
}

#[tokio::test]
async fn one_shot_programs_leave_an_event_after_too() {
    let scene = Scene::new().await;
    let exec = json!({ "deployment": "web", "argv": ["true", "secret-argument"] });
    scene.sim.must("POST", "/api/v1/devices/pi-1/exec", Some(exec)).await;
    let after = scene.outcome().await;
    assert!(after.detail.starts_with("ended with 3 after "), "{}", after.detail);
    let numbers = after.after.unwrap();
    assert_eq!((&numbers["exitCode"], &numbers["bytesOut"]), (&json!(3), &json!(2)));
    assert_eq!(after.before.unwrap()["input"], "none");
}
