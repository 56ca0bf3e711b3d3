//! `exec -i` and `exec -t`: a program far away with this standard input, or with this terminal.
//!
//! Decides: what of the operator's keys is for us, and that the terminal is as it was before anything is said of the end.

use std::{future::pending, io, time::Duration};

use bramble_contracts::{
    api::{OUTPUT_WINDOW, SessionRequest, SessionSays, SessionTells},
    v1::{INPUT_BYTES_MAX, INPUT_WINDOW},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Session, exec::ended};
use crate::{
    client::{Came, Socket, refused},
    exit::{Exit, Failure},
    output::{clean, note},
    terminal::{self, Escapes, Printer, Raw, Typed, keyboard},
};

/// The coordinator hears of what was printed once it is so much.
const TOLD_STEP: u64 = OUTPUT_WINDOW / 8;
/// What is typed while nothing of it is taken. A way out must be heard even then.
const AHEAD_BYTES_MAX: usize = 256 * 1024;
const GOODBYE_MAX: Duration = Duration::from_secs(1);
const HELP: &str = "\r\nAt the beginning of a line:\r\n ~.  end the program\r\n ~?  this help\r\n ~~  a ~\r\n";

/// Where the program's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// Standard input as it is.
    Pipe,
    /// The terminal.
    Terminal,
}

/// Why it is over.
enum Over {
    /// The program has ended.
    Ended(Option<i32>),
    /// `~.`
    Left,
    /// A signal that ends programs.
    Signal(i32),
}

/// Runs it.
pub(super) async fn session(s: &Session, device: &str, request: SessionRequest, input: Input) -> Result<Exit, Failure> {
    let mut socket = s.client.socket(&["devices", device, "terminal"]).await?;
    socket.say(&SessionSays::Start(request)).await;
    match socket.next().await? {
        Came::Told(SessionTells::Started) => {}
        Came::Told(SessionTells::Problem { problem }) => return Err(refused(problem).into()),
        Came::Told(told) => return Err(broken(&told)),
        Came::Printed(_) => return Err(Failure::Failed("the program printed before it began: report this".into())),
    }
    let printer = Printer::start();
    let mut ends = Signals::new(input)?;
    let raw = match input {
        Input::Pipe => None,
        Input::Terminal => Some(Raw::begin()?),
    };
    let over = Carrier::new(&mut socket, &printer, input).run(&mut ends).await;
    let shown = printer.end();
    // A pager may keep what it has; a person who has left waits for nothing.
    let shown = match &over {
        Ok(Over::Ended(_)) => shown.await,
        Ok(Over::Left | Over::Signal(_)) | Err(_) => tokio::time::timeout(GOODBYE_MAX, shown).await.unwrap_or(Ok(())),
    };
    socket.close(GOODBYE_MAX).await;
    drop(raw);
    let ended_here = || {
        if input == Input::Terminal {
            note("");
        }
    };
    match over.inspect_err(|_| ended_here())? {
        Over::Ended(Some(code)) => {
            shown?;
            Ok(ended(code))
        }
        Over::Ended(None) => Err(Failure::Failed("the program ended and the device could not say how".into())),
        Over::Left => {
            ended_here();
            Err(Failure::Failed(format!("left by ~. and the program on {device} was ended")))
        }
        Over::Signal(number) => {
            ended_here();
            note(&format!("ended by signal {number}, and the program on {device} with it"));
            Ok(Exit::Program(u8::try_from(128 + number).unwrap_or(u8::MAX)))
        }
    }
}

/// What tells that it is over, though nobody asked for it now.
fn broken(told: &SessionTells) -> Failure {
    match told {
        SessionTells::Error { device, detail } => Failure::Failed(format!("{device}: {}", clean(detail))),
        SessionTells::Started
        | SessionTells::Taken { .. }
        | SessionTells::End { .. }
        | SessionTells::Problem { .. } => {
            Failure::Failed(format!("the coordinator told something else than that the program runs: {told:?}"))
        }
    }
}

/// Signals that would end this program and leave the terminal as it is.
struct Signals {
    all: Vec<(i32, Signal)>,
    resized: Option<Signal>,
}

impl Signals {
    fn new(input: Input) -> io::Result<Self> {
        if input == Input::Pipe {
            return Ok(Self { all: vec![], resized: None });
        }
        let ends = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
        let all = ends.into_iter().map(|kind| Ok((kind.as_raw_value(), signal(kind)?))).collect::<io::Result<_>>()?;
        Ok(Self { all, resized: Some(signal(SignalKind::window_change())?) })
    }

    /// The next one that ends us.
    async fn next(all: &mut [(i32, Signal)]) -> i32 {
        std::future::poll_fn(|cx| {
            let found = all.iter_mut().find_map(|(number, signal)| signal.poll_recv(cx).is_ready().then_some(*number));
            found.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }

    async fn resized(resized: &mut Option<Signal>) {
        match resized {
            Some(signal) => drop(signal.recv().await),
            None => pending().await,
        }
    }
}

/// The end of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    /// Nothing more comes; the program does not know.
    Read,
    /// The program was told.
    Told,
}

/// One session under way.
struct Carrier<'a> {
    socket: &'a mut Socket,
    printer: &'a Printer,
    /// None for a pipe.
    escapes: Option<Escapes>,
    /// What was typed and has not been sent.
    waiting: Vec<u8>,
    /// What is known of its end.
    end: End,
    /// Messages of input: sent, and taken by the program.
    sent: u64,
    taken: u64,
    /// Messages of output that the coordinator knows to be printed.
    told: u64,
}

impl<'a> Carrier<'a> {
    fn new(socket: &'a mut Socket, printer: &'a Printer, input: Input) -> Self {
        let escapes = (input == Input::Terminal).then(Escapes::new);
        Self { socket, printer, escapes, waiting: vec![], end: End::Open, sent: 0, taken: 0, told: 0 }
    }

    async fn run(mut self, signals: &mut Signals) -> Result<Over, Failure> {
        let mut typed = keyboard();
        let mut progress = self.printer.progress();
        // It may have changed while the program was started.
        if self.escapes.is_some() {
            self.socket.say(&SessionSays::Resize(terminal::size())).await;
        }
        loop {
            let reads = self.reads();
            let over = tokio::select! {
                came = self.socket.next() => self.came(came?)?,
                read = typed.recv(), if reads => self.typed(read).await?,
                Ok(()) = progress.changed() => {
                    let now = progress.borrow_and_update().clone();
                    if let Some(kind) = now.failed {
                        return Err(io::Error::from(kind).into());
                    }
                    self.printed(now.messages).await;
                    None
                }
                () = Signals::resized(&mut signals.resized) => {
                    self.socket.say(&SessionSays::Resize(terminal::size())).await;
                    None
                }
                number = Signals::next(&mut signals.all) => Some(Over::Signal(number)),
            };
            if let Some(over) = over {
                return Ok(over);
            }
            self.send().await;
        }
    }

    /// Is there room for more? From a pipe only what can be sent is read: what is left is the next program's.
    fn reads(&self) -> bool {
        let room = if self.escapes.is_some() { AHEAD_BYTES_MAX } else { 1 };
        self.end == End::Open && self.waiting.len() < room
    }

    async fn typed(&mut self, read: Option<io::Result<Vec<u8>>>) -> Result<Option<Over>, Failure> {
        let Some(read) = read.transpose()? else {
            self.end = End::Read;
            return Ok(None);
        };
        let Some(escapes) = &mut self.escapes else {
            self.waiting.extend(read);
            return Ok(None);
        };
        for typed in escapes.read(&read) {
            match typed {
                Typed::Bytes(bytes) => self.waiting.extend(bytes),
                Typed::End => return Ok(Some(Over::Left)),
                Typed::Help => crate::output::say_aside(HELP),
            }
        }
        Ok(None)
    }

    /// Sends what there is room for, and that it was all once it was.
    async fn send(&mut self) {
        while !self.waiting.is_empty() && self.sent - self.taken < INPUT_WINDOW {
            let rest = self.waiting.split_off(self.waiting.len().min(INPUT_BYTES_MAX));
            let part = std::mem::replace(&mut self.waiting, rest);
            self.socket.type_in(&part).await;
            self.sent += 1;
        }
        if self.end == End::Read && self.waiting.is_empty() {
            self.end = End::Told;
            self.socket.say(&SessionSays::End).await;
        }
    }

    fn came(&mut self, came: Came) -> Result<Option<Over>, Failure> {
        match came {
            Came::Printed(printed) => {
                let flooded = |_| Failure::Failed("the coordinator sends more than it was told to: report this".into());
                self.printer.give(printed).map_err(flooded)?;
                Ok(None)
            }
            Came::Told(SessionTells::Taken { messages }) => {
                self.taken = messages.min(self.sent);
                Ok(None)
            }
            Came::Told(SessionTells::End { exit_code }) => Ok(Some(Over::Ended(exit_code))),
            Came::Told(told @ (SessionTells::Error { .. } | SessionTells::Started | SessionTells::Problem { .. })) => {
                Err(broken(&told))
            }
        }
    }

    async fn printed(&mut self, messages: u64) {
        if messages >= self.told + TOLD_STEP {
            self.told = messages;
            self.socket.say(&SessionSays::Taken { messages }).await;
        }
    }
}
