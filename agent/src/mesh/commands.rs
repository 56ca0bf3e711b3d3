//! Commands: what passes the gate is carried out and answered in numbered frames, the last of which says how it ended.
//!
//! Decides bounds: how many at once, how long, how many frames. Whether a command counts is [`super::gate`]'s word.

mod limits;
mod logs;
mod plan;
mod session;

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, Subject};
use bramble_contracts::v1::{Command, ExecArgs, FrameBody, ReplyFrame, SessionArgs, Verb};
use bramble_contracts::v2::UpgradeWord;
use bramble_contracts::{envelope, subjects};
pub use plan::Question;
use session::{Running, Said};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::context::{Context, Stop};
use super::duty::{Duty, OnDuty};
use super::gate::{Admission, Gate, InputAdmission};
use super::identity::millis;
use super::stored::Stored;
use crate::core::app::AppKey;
use crate::host::clock;
use crate::supervise::{Chunk, ExecWish, OutputStream};

const INPUT_VERB: &str = "input";
const UPGRADE_VERB: &str = "upgrade";
/// What the coordinator says of an upgrade is taken and answered within this.
const WORD_TIME_MAX: Duration = Duration::from_secs(8);
const AT_ONCE: usize = 8;
pub(crate) const CHUNK_MAX: usize = 32 * 1024;
/// Below the number of answers that the device's permissions allow.
const FRAMES_MAX: u32 = 9_900;
/// Below the time in which they allow them.
const TIME_MAX: Duration = Duration::from_secs(590);

/// What the coordinator says of this agent's upgrade, and where it is answered: done, or why not.
#[derive(Debug)]
pub struct Word {
    /// What it says.
    pub word: UpgradeWord,
    /// The answer; nothing is lost when nobody waits for it any more.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// Who hears what is not of the mesh.
#[derive(Clone)]
pub(crate) struct Hearers {
    words: mpsc::Sender<Word>,
    questions: mpsc::Sender<Question>,
}

impl Hearers {
    pub(crate) fn of(config: &super::Config) -> Self {
        Self { words: config.words.clone(), questions: config.questions.clone() }
    }
}

pub(crate) struct Commands {
    context: Arc<Context>,
    on_duty: OnDuty,
    hearers: Hearers,
    gate: Gate,
    slots: Arc<Semaphore>,
    /// What can be typed to, or told that nobody listens any more.
    running: Running,
    logs: logs::Readers,
}

impl Commands {
    pub(crate) fn new(context: Arc<Context>, on_duty: OnDuty, hearers: Hearers) -> Self {
        let gate = Gate::new(context.device.clone(), context.session);
        let (slots, running) = (Arc::new(Semaphore::new(AT_ONCE)), Running::new());
        Self { context, on_duty, hearers, gate, slots, running, logs: logs::Readers::new() }
    }

    pub(crate) async fn run(mut self, mut inbound: mpsc::Receiver<(Client, Message)>, mut stop: Stop) {
        loop {
            tokio::select! {
                () = stop.asked() => return,
                () = self.on_duty.changed() => if self.on_duty.duty().is_none() {
                    self.running.end_all();
                },
                Some((client, message)) = inbound.recv() => {
                    if message.subject.as_str() == subjects::command(&self.context.device, INPUT_VERB) {
                        self.heard_input(client, message);
                    } else {
                        self.heard(client, message).await;
                    }
                }
                else => return,
            }
        }
    }

    async fn heard(&mut self, client: Client, message: Message) {
        let trust = &self.context.trust;
        let uptime = millis(clock::uptime());
        let admission = self.gate.admit(&message.payload, &message.subject, uptime, |role, id| trust.key(role, id));
        let frames = message.reply.map(|reply| Frames { client, reply, seq: 0, spent: 0, ways: 0 });
        match (admission, frames) {
            (Admission::Echo, _) => {}
            // The other agent of this device answers what is said to it.
            (Admission::OtherRun(_), _) if self.is_for_another(&message.subject) => {}
            (Admission::Admitted(command), Some(frames)) => self.start(*command, frames).await,
            (Admission::Admitted(_), None) => {}
            (Admission::Stale(bad) | Admission::OtherRun(bad), Some(mut frames)) => {
                self.context.refusals.add(&bad);
                frames.refuse(bad.detail).await;
            }
            (Admission::Stale(bad) | Admission::OtherRun(bad), None) | (Admission::Dropped(bad), _) => {
                self.context.refusals.add(&bad);
            }
        }
    }

    fn is_for_another(&self, subject: &str) -> bool {
        self.on_duty.duty().is_none() || subject == subjects::command(&self.context.device, UPGRADE_VERB)
    }

    /// Input is answered by its command, or not at all.
    fn heard_input(&mut self, client: Client, message: Message) {
        let trust = &self.context.trust;
        let uptime = millis(clock::uptime());
        match self.gate.admit_input(&message.payload, uptime, |role, id| trust.key(role, id)) {
            InputAdmission::Admitted(input) => self.running.hand(*input, client, message.reply),
            InputAdmission::Echo => {}
            InputAdmission::Torn(command, bad) => {
                self.context.refusals.add(&bad);
                self.running.tear(command);
            }
            InputAdmission::Dropped(bad) => self.context.refusals.add(&bad),
        }
    }

    async fn start(&mut self, command: Command, mut frames: Frames) {
        let counter = command.counter;
        let verb = match command.verb {
            Verb::Upgrade(word) => return self.upgrade(word, frames),
            verb => verb,
        };
        let Some(duty) = self.on_duty.duty() else {
            return frames.refuse("another agent of this device acts now; try again in a moment".into()).await;
        };
        let verb = match verb {
            Verb::Session(args) => return self.start_session(duty, counter, args, frames).await,
            Verb::Log(ask) => return self.logs.start(duty, self.on_duty.clone(), ask, frames).await,
            Verb::Logs(_) => {
                let text = "this agent sends logs in windows, which the coordinator does not know: update it";
                return frames.refuse(text.into()).await;
            }
            Verb::OsPlan(packages) => return plan::start(self.hearers.questions.clone(), packages, frames),
            verb @ (Verb::Desired | Verb::Exec(_) | Verb::Upgrade(_)) => verb,
        };
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            frames.refuse(format!("this device carries out {AT_ONCE} commands already; try again in a moment")).await;
            return;
        };
        tracing::info!(verb = verb.name(), counter, "command");
        let hears = self.enter(counter);
        let work = Work { context: self.context.clone(), duty, frames, hears: hears.clone() };
        tokio::spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = work.run(verb) => {}
                () = session::hung_up(hears) => tracing::debug!("nobody listens to a command any more"),
            }
        });
    }

    /// Answered once what it says is durable.
    fn upgrade(&self, word: UpgradeWord, mut frames: Frames) {
        tracing::info!(?word, "the coordinator speaks of this agent's upgrade");
        let words = self.hearers.words.clone();
        tokio::spawn(async move {
            let (answer, answered) = oneshot::channel();
            let heard = words.send_timeout(Word { word, answer }, WORD_TIME_MAX).await;
            let done = tokio::time::timeout(WORD_TIME_MAX, answered).await;
            match (heard, done) {
                (Ok(()), Ok(Ok(Ok(())))) => frames.send(FrameBody::End { exit_code: None }).await,
                (Ok(()), Ok(Ok(Err(why)))) => frames.refuse(why).await,
                (Err(_), _) | (_, Err(_) | Ok(Err(_))) => {
                    frames.refuse("the agent is busy or about to end; try again in a moment".into()).await;
                }
            }
        });
    }

    fn enter(&mut self, counter: u64) -> watch::Receiver<Said> {
        let running = &self.running;
        self.gate.forget_ended(|command| running.runs(command));
        self.running.enter(counter)
    }

    async fn start_session(&mut self, duty: Duty, counter: u64, args: SessionArgs, mut frames: Frames) {
        let running = &self.running;
        self.gate.forget_ended(|command| running.runs(command));
        let place = match self.running.enter_session(counter) {
            Ok(place) => place,
            Err(why) => return frames.refuse(why).await,
        };
        tracing::info!(verb = "session", counter, "command");
        tokio::spawn(async move { session::run(&duty.supervisor, args, frames, place).await });
    }
}

/// One command being carried out.
struct Work {
    context: Arc<Context>,
    duty: Duty,
    frames: Frames,
    hears: watch::Receiver<Said>,
}

impl Work {
    async fn run(self, verb: Verb) {
        match verb {
            Verb::Desired => self.desired().await,
            Verb::Exec(args) => self.exec(args).await,
            // Started by other ways.
            Verb::Logs(_) | Verb::Log(_) | Verb::Session(_) | Verb::Upgrade(_) | Verb::OsPlan(_) => {}
        }
    }

    async fn desired(mut self) {
        let stored = Stored::new(&self.context.settings.state_dir);
        match tokio::task::spawn_blocking(move || stored.signed()).await {
            Ok(Ok(Some(bytes))) => {
                for part in bytes.chunks(CHUNK_MAX) {
                    self.frames.send(FrameBody::Document(part.to_vec())).await;
                }
                self.frames.send(FrameBody::End { exit_code: None }).await;
            }
            Ok(Ok(None)) => self.frames.refuse("this device holds no desired document".into()).await,
            Ok(Err(err)) => self.frames.refuse(err.to_string()).await,
            Err(err) => self.frames.refuse(err.to_string()).await,
        }
    }

    async fn exec(mut self, args: ExecArgs) {
        let timeout = Duration::from_millis(args.timeout.0);
        if args.tty.is_some() {
            return self.frames.refuse("a terminal is asked for otherwise: as a session".into()).await;
        }
        if timeout > TIME_MAX {
            let text = format!("a command may take {} s on a device: ask for less", TIME_MAX.as_secs());
            return self.frames.refuse(text).await;
        }
        let wish = ExecWish {
            app: AppKey { tenant: args.tenant, name: args.deployment },
            container: args.container.map(String::from),
            argv: args.argv,
            timeout,
        };
        match self.duty.supervisor.exec(wish).await {
            Ok(chunks) => {
                // Nothing yet: it says that the program is being run, which may be silent for as long as it likes.
                self.frames.send(FrameBody::Stdout(Vec::new())).await;
                self.frames.output(chunks, self.hears).await;
            }
            Err(err) => self.frames.refuse(err.to_string()).await,
        }
    }
}

/// The answer to one command.
struct Frames {
    client: Client,
    reply: Subject,
    seq: u32,
    /// Since `reply` is the one.
    spent: u32,
    /// How often it has changed.
    ways: u64,
}

impl Frames {
    /// Sends one frame. Past the limit only the last one still goes out.
    async fn send(&mut self, body: FrameBody) {
        let last = matches!(body, FrameBody::End { .. } | FrameBody::Refused { .. } | FrameBody::Skipped(_));
        if self.full() && !last {
            return;
        }
        let frame = ReplyFrame { seq: self.seq, body };
        let bytes = match envelope::encode(&frame) {
            Ok(bytes) => bytes,
            Err(err) => return tracing::error!(%err, "a frame of an answer is too large"),
        };
        self.seq += 1;
        self.spent += 1;
        if let Err(err) = self.client.publish(self.reply.clone(), bytes.into()).await {
            tracing::debug!(%err, "a frame of an answer was not sent");
        }
    }

    fn full(&self) -> bool {
        self.spent >= FRAMES_MAX
    }

    /// Should another request come before more is sent?
    fn is_spent(&self) -> bool {
        self.spent >= session::SPENT_MAX
    }

    /// Goes on as the answer to a newer request, the `ways`th. False when it does so already.
    fn go_over(&mut self, client: Client, reply: Subject, ways: u64) -> bool {
        if ways == self.ways {
            return false;
        }
        (self.client, self.reply, self.spent, self.ways) = (client, reply, 0, ways);
        true
    }

    async fn refuse(&mut self, why: String) {
        let why = why.chars().take(2_000).collect();
        self.send(FrameBody::Refused { why }).await;
    }

    /// A program's output, as it comes.
    async fn output(&mut self, mut chunks: mpsc::Receiver<Chunk>, hears: watch::Receiver<Said>) {
        let mut stopping = std::pin::pin!(session::stopping(hears));
        loop {
            let chunk = tokio::select! {
                chunk = chunks.recv() => chunk,
                () = &mut stopping => None,
            };
            let Some(chunk) = chunk else { break };
            match chunk {
                Chunk::Output { piece, .. } => {
                    for part in piece.bytes.chunks(CHUNK_MAX) {
                        self.send(match piece.stream {
                            OutputStream::Out => FrameBody::Stdout(part.to_vec()),
                            OutputStream::Err => FrameBody::Stderr(part.to_vec()),
                        })
                        .await;
                    }
                    if self.full() {
                        return self.refuse("the output is too long for one command: write it to a file".into()).await;
                    }
                }
                Chunk::End { exit_code } => return self.send(FrameBody::End { exit_code }).await,
                Chunk::Broken { why } => return self.refuse(why).await,
            }
        }
        self.refuse("the agent is stopping; try again in a moment".into()).await;
    }
}
