//! Sessions: programs with what somebody types. What the coordinator says reaches them here, and their answers go where
//! it listens.
//!
//! Decides: what waits, and that nothing is sent that the coordinator has no room for. A broker bounds the answers to one
//! request, so a session's answers go on where the newest frame of input asks for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_nats::{Client, Subject};
use bramble_contracts::api::SESSION_MAX;
use bramble_contracts::v1::{FrameBody, INPUT_WINDOW, SessionArgs, TerminalSize};
use bramble_contracts::v2::{CommandInput, Input};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::limits::{Limits, Over};
use super::{CHUNK_MAX, Frames};
use crate::core::app::AppKey;
use crate::host::clock;
use crate::supervise::{Attached, Chunk, OutputStream, Piece, Program, SessionWish, SupervisorHandle};

/// Programs that are typed to at once.
const SESSIONS: usize = 4;
/// Above this many answers to one request another one is waited for: the broker does not carry many more.
pub(super) const SPENT_MAX: u32 = 9_000;

/// The commands that somebody can still say something to.
pub(super) struct Running {
    commands: BTreeMap<u64, Inlet>,
    slots: Arc<Semaphore>,
}

/// The way to one command that runs.
struct Inlet {
    said: watch::Sender<Said>,
    /// None where nothing can be typed.
    typed: Option<mpsc::Sender<Typed>>,
}

/// What the coordinator said, except for what was typed: the newest counts.
#[derive(Clone, Default)]
pub(super) struct Said {
    size: Option<TerminalSize>,
    /// So many frames of output may be sent.
    frames: u64,
    /// Where answers go from now on, and how often that has changed.
    way: Option<(Client, Subject)>,
    ways: u64,
    over: Option<Over>,
}

/// What was typed, with the counter of its frame.
pub(super) enum Typed {
    Bytes(u64, Bytes),
    End(u64),
}

/// A session's place, and what it hears.
pub(super) struct Place {
    said: watch::Receiver<Said>,
    typed: mpsc::Receiver<Typed>,
    _slot: OwnedSemaphorePermit,
}

impl Running {
    pub(super) fn new() -> Self {
        Self { commands: BTreeMap::new(), slots: Arc::new(Semaphore::new(SESSIONS)) }
    }

    /// Does it?
    pub(super) fn runs(&self, command: u64) -> bool {
        self.commands.get(&command).is_some_and(|inlet| !inlet.said.is_closed())
    }

    /// A command that cannot be typed to. It ends when this says so.
    pub(super) fn enter(&mut self, command: u64) -> watch::Receiver<Said> {
        self.commands.retain(|_, inlet| !inlet.said.is_closed());
        let (said, hears) = watch::channel(Said::default());
        self.commands.insert(command, Inlet { said, typed: None });
        hears
    }

    /// A session, if there is room for one.
    pub(super) fn enter_session(&mut self, command: u64) -> Result<Place, String> {
        let full = || format!("this device runs {SESSIONS} sessions already; end one, or try again later");
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| full())?;
        let said = self.enter(command);
        // One more than may be under way: the end of the input.
        let (typed_in, typed) = mpsc::channel(usize::try_from(INPUT_WINDOW).unwrap_or(usize::MAX) + 1);
        if let Some(inlet) = self.commands.get_mut(&command) {
            inlet.typed = Some(typed_in);
        }
        Ok(Place { said, typed, _slot: slot })
    }

    /// Hands over a frame that was let in. One for a command that has just ended is nobody's any more.
    pub(super) fn hand(&self, input: CommandInput, client: Client, reply: Option<Subject>) {
        let Some(inlet) = self.commands.get(&input.command) else { return };
        let counter = input.counter;
        inlet.said.send_modify(|said| {
            match input.input {
                Input::Bytes(bytes) => inlet.type_in(Typed::Bytes(counter, bytes.into()), said),
                Input::End => inlet.type_in(Typed::End(counter), said),
                Input::Resize(size) => said.size = Some(size),
                Input::GoOn { frames } => said.frames = said.frames.max(frames),
                Input::HangUp => said.over = Some(Over::HungUp),
            }
            if let Some(reply) = reply {
                said.way = Some((client, reply));
                said.ways += 1;
            }
        });
    }

    /// This agent does not act any more.
    pub(super) fn end_all(&mut self) {
        for inlet in self.commands.values() {
            inlet.said.send_modify(|said| said.over = Some(Over::Stopping));
        }
        self.commands.clear();
    }

    /// A part of its input is missing.
    pub(super) fn tear(&self, command: u64) {
        if let Some(inlet) = self.commands.get(&command) {
            inlet.said.send_modify(|said| said.over = Some(Over::Torn));
        }
    }
}

impl Inlet {
    fn type_in(&self, typed: Typed, said: &mut Said) {
        if let Some(way) = &self.typed
            && let Err(mpsc::error::TrySendError::Full(_)) = way.try_send(typed)
        {
            said.over = Some(Over::Flooded);
        }
    }
}

/// Waits until nobody listens to a command any more.
pub(super) async fn hung_up(said: watch::Receiver<Said>) {
    over(said, |why| why != Over::Stopping).await;
}

/// Waits until it has to end although somebody listens.
pub(super) async fn stopping(said: watch::Receiver<Said>) {
    over(said, |why| why == Over::Stopping).await;
}

async fn over(mut said: watch::Receiver<Said>, fits: impl Fn(Over) -> bool) {
    if said.wait_for(|said| said.over.is_some_and(&fits)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Runs a session to its end.
pub(super) async fn run(supervisor: &SupervisorHandle, args: SessionArgs, mut frames: Frames, place: Place) {
    let in_bounds = |time: bramble_contracts::quantity::Millis| time.0 > 0 && time <= SESSION_MAX;
    if !in_bounds(args.idle) || !in_bounds(args.timeout) {
        return frames.refuse(format!("idle and total time of a session are above 0 and at most {SESSION_MAX}")).await;
    }
    if args.terminal.as_ref().is_some_and(|terminal| !terminal.is_sound()) {
        return frames.refuse("the name of the terminal is not one".into()).await;
    }
    let wish = SessionWish {
        app: AppKey { tenant: args.tenant, name: args.deployment },
        container: args.container.map(String::from),
        program: Program { argv: args.argv, terminal: args.terminal },
    };
    let attached = match supervisor.session(wish).await {
        Ok(attached) => attached,
        Err(err) => return frames.refuse(err.to_string()).await,
    };
    let limits = Limits::new(args.idle.duration(), args.timeout.duration(), clock::uptime());
    let session = Session { frames, place, limits, sent: 0, taken: 0 };
    session.carry(attached).await;
}

/// One session under way.
struct Session {
    frames: Frames,
    place: Place,
    limits: Limits,
    /// Frames of output.
    sent: u64,
    /// The last frame of input that the program took.
    taken: u64,
}

/// What one turn of the loop has seen.
enum Turn {
    Said,
    Printed(Chunk),
    Typed(Option<Typed>),
    Takes,
    Waited,
}

impl Session {
    /// Carries bytes both ways until the program ends or the session is over; then the program is ended by what is
    /// dropped here, before anybody is told.
    async fn carry(mut self, attached: Attached) {
        let last = self.until_over(attached).await;
        self.frames.send(last).await;
    }

    async fn until_over(&mut self, Attached { mut output, input, size }: Attached) -> FrameBody {
        let mut input = Some(input);
        let mut waiting: Option<(u64, Bytes)> = None;
        let over = |why: Over| FrameBody::Refused { why: why.to_string() };
        self.take(0).await;
        loop {
            let room = !self.frames.is_spent();
            let may_print = room && self.sent < self.place.said.borrow().frames;
            let left = self.limits.left(clock::uptime());
            let turn = tokio::select! {
                changed = self.place.said.changed() => match changed {
                    Ok(()) => Turn::Said,
                    Err(_) => return over(Over::Stopping),
                },
                chunk = output.recv(), if may_print => match chunk {
                    Some(chunk) => Turn::Printed(chunk),
                    None => return over(Over::Stopping),
                },
                typed = self.place.typed.recv(), if room && waiting.is_none() => Turn::Typed(typed),
                () = takes(input.as_ref()), if room && waiting.is_some() => Turn::Takes,
                () = tokio::time::sleep(left) => Turn::Waited,
            };
            match turn {
                Turn::Said => self.heard(&size).await,
                Turn::Printed(Chunk::Output { piece, .. }) => self.print(piece).await,
                Turn::Printed(Chunk::End { exit_code }) => return FrameBody::End { exit_code },
                Turn::Printed(Chunk::Broken { why }) => return FrameBody::Refused { why },
                Turn::Typed(None) => return over(Over::Stopping),
                Turn::Typed(Some(Typed::Bytes(counter, bytes))) => {
                    self.limits.moved(clock::uptime());
                    waiting = Some((counter, bytes));
                }
                Turn::Typed(Some(Typed::End(counter))) => {
                    input = None;
                    self.take(counter).await;
                }
                Turn::Takes => {
                    if let (Some(input), Some((counter, bytes))) = (&input, waiting.take()) {
                        // There is room, or the program does not read any more: then this is nobody's.
                        drop(input.try_send(bytes));
                        self.take(counter).await;
                    }
                }
                Turn::Waited => {}
            }
            let said = self.place.said.borrow().over;
            if let Some(why) = said.or_else(|| self.limits.over(clock::uptime())) {
                return over(why);
            }
        }
    }

    async fn heard(&mut self, size: &watch::Sender<TerminalSize>) {
        self.limits.heard(clock::uptime());
        let said = self.place.said.borrow_and_update().clone();
        if let Some(wanted) = said.size {
            size.send_if_modified(|size| std::mem::replace(size, wanted) != wanted);
        }
        if let Some((client, reply)) = said.way
            && self.frames.go_over(client, reply, said.ways)
        {
            // A sign of life, where it is listened to now.
            self.take(self.taken).await;
        }
    }

    async fn print(&mut self, piece: Piece) {
        self.limits.moved(clock::uptime());
        for part in piece.bytes.chunks(CHUNK_MAX) {
            self.sent += 1;
            let frame = match piece.stream {
                OutputStream::Out => FrameBody::Stdout(part.to_vec()),
                OutputStream::Err => FrameBody::Stderr(part.to_vec()),
            };
            self.frames.send(frame).await;
        }
    }

    async fn take(&mut self, counter: u64) {
        self.taken = counter;
        self.frames.send(FrameBody::Taken(counter)).await;
    }
}

/// Waits until there is room for what was typed.
async fn takes(input: Option<&mpsc::Sender<Bytes>>) {
    match input {
        Some(input) => drop(input.reserve().await),
        None => std::future::pending().await,
    }
}
