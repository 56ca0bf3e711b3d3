//! Sessions: programs with what somebody types, as a WebSocket. The messages are `contracts::api::session`'s.
//!
//! Decides: that nothing is sent to a client that has no room for it, nor to a device; when a client has gone; and that no
//! page of another site can come in (no cookie is ever looked at, and a foreign `Origin` is refused). Deliberately does
//! not: write down or log what is typed or printed.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, header},
    response::Response,
    routing::get,
};
use bramble_contracts::{
    api::{
        CHANNEL_ERR, CHANNEL_IN, CHANNEL_OUT, OUTPUT_WINDOW, Outcome, SESSION_MAX, SessionRequest, SessionSays,
        SessionTells,
    },
    id::{DeviceId, Name, Tenant},
    problem::Code,
    v1::{FrameBody, INPUT_BYTES_MAX, INPUT_WINDOW, SessionArgs, Verb},
    v2::Input,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::time::MissedTickBehavior;

use super::{
    App,
    devices::find,
    error::ApiError,
    exec::{Use, Went, Wish, check_argv, check_runs},
    extract::{Asked, Path},
    streams::name_of,
};
use crate::background::{
    Core, now,
    port::{Frames, MeshError},
    session::{Ask, Line},
};

/// A request of 32 KiB of words, in JSON.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// For the first message.
const START_WITHIN: Duration = Duration::from_secs(15);
/// How often device and client are asked whether they are there.
const LOOK: Duration = Duration::from_secs(10);
/// How long a device may say nothing: it answers each look.
const DEVICE_SILENCE: Duration = Duration::from_secs(35);
/// How long a client may say nothing: it answers each look, too.
const CLIENT_SILENCE_MS: u64 = 45_000;
/// The device hears of room for more once there is so much.
const ROOM_STEP: u64 = OUTPUT_WINDOW / 4;
/// Frames in answer to one request before the next one is made; far below what a broker carries.
const ANSWERS_MAX: u64 = 4_096;
/// A client that does not take its last message is left.
const GOODBYE_MAX: Duration = Duration::from_secs(5);

/// The routes.
pub(super) fn router() -> Router<App> {
    Router::new().route("/api/v1/devices/{name}/terminal", get(terminal))
}

async fn terminal(
    State(app): State<App>,
    asked: Asked,
    Path(name): Path<String>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    app.known()?;
    let tenant = asked.tenant()?;
    same_site(&headers)?;
    let id = find(&app, &tenant, &name)?;
    let upgrade = upgrade.map_err(|err| ApiError::bad(format!("this is a WebSocket, and nothing else: {err}")))?;
    let seat = app.desk.sit(&asked.caller.subject, now().mono_ms)?;
    let place = app.under_way.enter();
    let device = app.core.index.look(|lens| name_of(lens, &id));
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(async move |socket| {
        Box::pin(attend(&app, &asked, &Place { tenant, id, name, device }, socket)).await;
        drop((seat, place));
    }))
}

/// A browser says which page asks. Ours may; programs say nothing.
fn same_site(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let site = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, site)| site);
    if site.is_some() && site == host {
        return Ok(());
    }
    Err(ApiError::new(Code::Forbidden, "a page of another site asks for this: use the command line"))
}

/// Where.
struct Place {
    tenant: Tenant,
    id: DeviceId,
    /// As it was asked for.
    name: String,
    device: Name,
}

/// From the first message to the last.
async fn attend(app: &App, asked: &Asked, place: &Place, mut socket: WebSocket) {
    let last = match begin(app, asked, place, &mut socket).await {
        Err(err) => Some(SessionTells::Problem { problem: err.problem(&asked.ids.request) }),
        Ok(Begun { used, line, frames }) => {
            let mut session = Session::new(app, line, frames, &mut socket);
            let how = session.carry().await;
            let went = Went { bytes_in: session.bytes_in, bytes_out: session.bytes_out, exit_code: how.exit_code() };
            session.hang_up(&how).await;
            used.conclude(how.outcome(), &how.to_string(), &went).await;
            how.tells(&place.device)
        }
    };
    let goodbye = async {
        if let Some(last) = last {
            socket.send(text(&last)).await?;
        }
        socket.send(Message::Close(None)).await
    };
    if !matches!(tokio::time::timeout(GOODBYE_MAX, goodbye).await, Ok(Ok(()))) {
        tracing::debug!("a client had gone before the end of its session was told");
    }
}

/// A program that runs.
struct Begun {
    used: Use,
    line: Line,
    frames: Frames,
}

async fn begin(app: &App, asked: &Asked, place: &Place, socket: &mut WebSocket) -> Result<Begun, ApiError> {
    let request = tokio::time::timeout(START_WITHIN, first(socket)).await;
    let request = request.map_err(|_| ApiError::new(Code::Timeout, "nothing was asked for in time"))??;
    check(&request)?;
    let Place { tenant, id, name, device } = place;
    check_runs(app, id, tenant, &request.deployment)?;
    let SessionRequest { deployment, container, argv, terminal, idle, timeout } = request;
    let input = if terminal.is_some() { "terminal" } else { "pipe" };
    let wish = Wish { device: name, deployment: &deployment, container: container.as_ref(), argv: &argv, input };
    let used = Use::intend(app, asked, tenant, &wish).await?;
    let verb =
        Verb::Session(SessionArgs { tenant: tenant.clone(), deployment, container, argv, terminal, idle, timeout });
    match app.core.converse(id, verb, DEVICE_SILENCE).await {
        Ok((line, frames)) => Ok(Begun { used, line, frames }),
        Err(err) => {
            let err = ApiError::of_device(device, &err);
            used.refuse(&err).await;
            Err(err)
        }
    }
}

async fn first(socket: &mut WebSocket) -> Result<SessionRequest, ApiError> {
    let wanted = || ApiError::bad("the first message is a text: {\"type\":\"start\",…}, see SessionSays");
    loop {
        match socket.recv().await {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(SessionSays::Start(request)) => return Ok(request),
                Ok(SessionSays::Resize(_) | SessionSays::Taken { .. } | SessionSays::End) => return Err(wanted()),
                Err(err) => return Err(ApiError::bad(format!("the first message cannot be read: {err:.200}"))),
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Binary(_) | Message::Close(_)) | Err(_)) | None => return Err(wanted()),
        }
    }
}

fn check(request: &SessionRequest) -> Result<(), ApiError> {
    check_argv(&request.argv)?;
    for (field, time) in [("idle", request.idle), ("timeout", request.timeout)] {
        if time.0 == 0 || time > SESSION_MAX {
            return Err(ApiError::field(field, format!("longer than 0 and at most {SESSION_MAX}")));
        }
    }
    if request.terminal.as_ref().is_some_and(|terminal| !terminal.is_sound()) {
        return Err(ApiError::field("terminal.name", "what TERM says, such as xterm-256color"));
    }
    Ok(())
}

fn text(message: &SessionTells) -> Message {
    Message::Text(serde_json::to_string(message).expect("invariant: our messages always fit JSON").into())
}

/// How a session ended.
enum How {
    /// The program did.
    Ended(Option<i32>),
    /// The device did not begin it, in its words.
    Refused(String),
    /// The device ended it, in its words.
    Device(String),
    /// The device, or the way to it, is lost.
    Lost(MeshError),
    /// The client has gone.
    Left,
    /// The client does not keep the rules.
    Rules(&'static str),
    /// We stop.
    Stopping,
}

impl std::fmt::Display for How {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended(_) => f.write_str("ended, the device cannot say with what"),
            Self::Refused(why) | Self::Device(why) => f.write_str(why),
            Self::Lost(err) => write!(f, "{err}"),
            Self::Left => f.write_str("nobody listened any more, so the program was ended"),
            Self::Rules(why) => write!(f, "{why}, so the program was ended"),
            Self::Stopping => {
                f.write_str("the coordinator is stopping, so the program was ended: begin again in a moment")
            }
        }
    }
}

impl How {
    fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Ended(code) => *code,
            Self::Refused(_) | Self::Device(_) | Self::Lost(_) | Self::Left | Self::Rules(_) | Self::Stopping => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Ended(_) | Self::Device(_) | Self::Left => Outcome::Done,
            Self::Refused(_) | Self::Lost(_) | Self::Rules(_) | Self::Stopping => Outcome::Failed,
        }
    }

    fn tells(&self, device: &Name) -> Option<SessionTells> {
        match self {
            Self::Ended(exit_code) => Some(SessionTells::End { exit_code: *exit_code }),
            Self::Left => None,
            Self::Refused(_) | Self::Device(_) | Self::Lost(_) | Self::Rules(_) | Self::Stopping => {
                Some(SessionTells::Error { device: device.clone(), detail: self.to_string() })
            }
        }
    }
}

/// One session under way.
struct Session<'a> {
    app: &'a App,
    core: Arc<Core>,
    line: Line,
    frames: Frames,
    socket: &'a mut WebSocket,
    /// Has the device said that the program runs?
    begun: bool,
    /// Numbers of the frames that carry what was typed and that the program has not taken yet.
    typed: VecDeque<u64>,
    /// Messages of input that it has taken.
    taken: u64,
    /// Messages of output: sent to the client, and allowed to the device.
    sent: u64,
    allowed: u64,
    /// Frames since the last request.
    answers: u64,
    heard_ms: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// Nothing has ended it, or something has.
type Going = Result<(), How>;

impl<'a> Session<'a> {
    fn new(app: &'a App, line: Line, frames: Frames, socket: &'a mut WebSocket) -> Self {
        Self {
            app,
            core: Arc::clone(&app.core),
            line,
            frames,
            socket,
            begun: false,
            typed: VecDeque::new(),
            taken: 0,
            sent: 0,
            allowed: OUTPUT_WINDOW,
            answers: 0,
            heard_ms: now().mono_ms,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    async fn carry(&mut self) -> How {
        match self.run().await {
            Ok(never) => match never {},
            Err(how) => how,
        }
    }

    async fn run(&mut self) -> Result<Infallible, How> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopped = std::pin::pin!(self.app.stopped());
        loop {
            tokio::select! {
                message = self.socket.recv() => self.heard(message).await?,
                frame = self.frames.next() => self.answered(frame).await?,
                _ = look.tick() => self.look().await?,
                () = &mut stopped => return Err(How::Stopping),
            }
        }
    }

    /// Asks device and client whether they are there. The first time it lets the device print.
    async fn look(&mut self) -> Going {
        if now().mono_ms.saturating_sub(self.heard_ms) > CLIENT_SILENCE_MS {
            return Err(How::Left);
        }
        self.go_on(Ask::Answer).await?;
        self.send(Message::Ping(Bytes::new())).await
    }

    async fn go_on(&mut self, ask: Ask) -> Going {
        if ask == Ask::Answer {
            self.answers = 0;
        }
        self.say(Input::GoOn { frames: self.allowed }, ask).await.map(|_| ())
    }

    async fn heard(&mut self, message: Option<Result<Message, axum::Error>>) -> Going {
        self.heard_ms = now().mono_ms;
        match message {
            Some(Ok(Message::Binary(bytes))) => self.type_in(&bytes).await,
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(SessionSays::Resize(size)) => self.say(Input::Resize(size), Ask::Nothing).await.map(|_| ()),
                Ok(SessionSays::End) => self.say(Input::End, Ask::Nothing).await.map(|_| ()),
                Ok(SessionSays::Taken { messages }) => self.make_room(messages).await,
                Ok(SessionSays::Start(_)) => Err(How::Rules("a session begins but once")),
                Err(_) => Err(How::Rules("the client said something that cannot be read")),
            },
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => Err(How::Left),
        }
    }

    async fn type_in(&mut self, message: &[u8]) -> Going {
        let Some((&CHANNEL_IN, bytes)) = message.split_first() else {
            return Err(How::Rules("the client sent bytes on a channel that does not exist"));
        };
        if bytes.len() > INPUT_BYTES_MAX {
            return Err(How::Rules("the client sent more than 16 KiB in one message"));
        }
        if self.typed.len() as u64 >= INPUT_WINDOW {
            return Err(How::Rules("the client sent more than 8 messages that were not taken yet"));
        }
        self.bytes_in += bytes.len() as u64;
        let counter = self.say(Input::Bytes(bytes.to_vec()), Ask::Nothing).await?;
        self.typed.push_back(counter);
        Ok(())
    }

    /// The client has passed on so many messages.
    async fn make_room(&mut self, messages: u64) -> Going {
        if messages > self.sent {
            return Err(How::Rules("the client has taken more than it was sent"));
        }
        let room = messages + OUTPUT_WINDOW;
        if room >= self.allowed + ROOM_STEP {
            self.allowed = room;
            self.go_on(Ask::Nothing).await?;
        }
        Ok(())
    }

    async fn answered(&mut self, frame: Option<Result<bramble_contracts::v1::ReplyFrame, MeshError>>) -> Going {
        let broken = |why: &str| How::Lost(MeshError::Unreachable { why: why.to_owned() });
        self.answers += 1;
        match frame.ok_or_else(|| broken("its answer broke off"))?.map_err(How::Lost)?.body {
            FrameBody::Stdout(bytes) => self.print(CHANNEL_OUT, &bytes).await?,
            FrameBody::Stderr(bytes) => self.print(CHANNEL_ERR, &bytes).await?,
            FrameBody::Taken(counter) => self.took(counter).await?,
            FrameBody::End { exit_code } => return Err(How::Ended(exit_code)),
            FrameBody::Refused { why } if self.begun => return Err(How::Device(why)),
            FrameBody::Refused { why } => return Err(How::Refused(why)),
            FrameBody::Line { .. }
            | FrameBody::Log(_)
            | FrameBody::Skipped(_)
            | FrameBody::Document(_)
            | FrameBody::OsPlan(_) => {
                return Err(broken("it answered something else than a program's output"));
            }
        }
        if self.answers >= ANSWERS_MAX {
            self.go_on(Ask::Answer).await?;
        }
        Ok(())
    }

    async fn print(&mut self, channel: u8, bytes: &[u8]) -> Going {
        self.sent += 1;
        self.bytes_out += bytes.len() as u64;
        if self.sent > self.allowed {
            return Err(How::Lost(MeshError::Unreachable { why: "it sends more than there is room for".to_owned() }));
        }
        let mut message = BytesMut::with_capacity(1 + bytes.len());
        message.put_u8(channel);
        message.put_slice(bytes);
        self.send(Message::Binary(message.freeze())).await
    }

    async fn took(&mut self, counter: u64) -> Going {
        if !self.begun {
            self.begun = true;
            self.tell(&SessionTells::Started).await?;
        }
        let before = self.typed.len();
        while self.typed.front().is_some_and(|typed| *typed <= counter) {
            self.typed.pop_front();
        }
        let taken = (before - self.typed.len()) as u64;
        if taken == 0 {
            return Ok(());
        }
        self.taken += taken;
        let messages = self.taken;
        self.tell(&SessionTells::Taken { messages }).await
    }

    async fn say(&mut self, input: Input, ask: Ask) -> Result<u64, How> {
        self.line.say(&self.core, input, ask).await.map_err(How::Lost)
    }

    async fn tell(&mut self, message: &SessionTells) -> Going {
        self.send(text(message)).await
    }

    /// Waits while the client does not take it; not for ever, see `steady`.
    async fn send(&mut self, message: Message) -> Going {
        self.socket.send(message).await.map_err(|_| How::Left)
    }

    /// Tells the device that nobody listens any more, where it does not know.
    async fn hang_up(&mut self, how: &How) {
        match how {
            How::Ended(_) | How::Refused(_) | How::Device(_) => {}
            How::Lost(_) | How::Left | How::Rules(_) | How::Stopping => {
                if self.say(Input::HangUp, Ask::Nothing).await.is_err() {
                    tracing::debug!("the device was not told that a session is over; it notices");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_page_of_another_site_is_refused_and_programs_come_in() {
        let asks = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            headers.extend(origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin))));
            same_site(&headers).is_ok()
        };
        assert!(asks("fleet.example:7980", None));
        assert!(asks("fleet.example:7980", Some("https://fleet.example:7980")));
        for foreign in ["https://evil.example", "https://fleet.example", "null", "", "https://fleet.example:7980.evil"]
        {
            assert!(!asks("fleet.example:7980", Some(foreign)), "{foreign}");
        }
    }
}
