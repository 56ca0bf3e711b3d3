//! One device's log, window by window, from the place where the last one ended.
//!
//! Decides when to ask again: at the end of a window, when the device's agent has restarted, and, for a follower, when the
//! device was away. No line is lost or doubled by that: places are the device's own.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bramble_contracts::{
    SessionId,
    api::StreamLine,
    id::{DeviceId, Name, Tenant},
    quantity::Millis,
    stamp::Stamp,
    v1::{FrameBody, LogCursor, LogPart, LogPlace, LogRest, LogSpan, LogWindow, LogWish, Verb},
};
use futures::StreamExt as _;
use tokio::time::{sleep, timeout};

use crate::{
    background::{
        Core,
        port::{Frames, MeshError},
    },
    domain::liveness::Heard,
};

/// How long a window waits for more.
const WAIT: Millis = Millis::secs(30);
/// Between two frames, beside that.
const SILENCE: Duration = Duration::from_secs(15);
/// What one window brings at most: it waits here until the reader takes it.
const WINDOW_BYTES: u32 = 256 * 1024;
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A device that refuses so often in a row means it.
const REFUSALS_MAX: u32 = 5;
/// Heartbeats of the whole fleet tick; they are looked at so often at most.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const LOOK_ANYHOW: Duration = Duration::from_secs(1);
/// One that only restarts is back before this.
const AWAY: Duration = Duration::from_secs(5);

/// Which lines of which deployment.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) tenant: Tenant,
    pub(super) deployment: Name,
    pub(super) container: Option<Name>,
    pub(super) wish: LogWish,
    pub(super) after: After,
}

/// What comes after the lines that are there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    End,
    Follow,
}

/// A line and when it was printed, never before the one before it.
pub(super) struct Item {
    pub(super) at: Stamp,
    pub(super) line: StreamLine,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What was there when it began.
    Backlog,
    /// What comes.
    Live,
    Over,
}

/// A window that is coming in.
struct Open {
    frames: Frames,
    session: Option<SessionId>,
    rest: Option<LogRest>,
}

/// See the module.
pub(super) struct Reader {
    core: Arc<Core>,
    id: DeviceId,
    device: Name,
    wanted: Wanted,
    phase: Phase,
    places: BTreeMap<Name, LogPlace>,
    ends: BTreeMap<Name, LogPlace>,
    window: Option<Open>,
    ready: VecDeque<Item>,
    at: Stamp,
    failures: u32,
    refusals: u32,
}

impl Reader {
    /// Asks nothing yet. With places, it goes on there.
    pub(super) fn new(
        core: Arc<Core>,
        id: DeviceId,
        device: Name,
        wanted: Wanted,
        places: BTreeMap<Name, LogPlace>,
    ) -> Self {
        let phase = if !places.is_empty() && wanted.after == After::Follow { Phase::Live } else { Phase::Backlog };
        Self {
            core,
            id,
            device,
            wanted,
            phase,
            places,
            ends: BTreeMap::new(),
            window: None,
            ready: VecDeque::new(),
            at: Stamp::default(),
            failures: 0,
            refusals: 0,
        }
    }

    pub(super) fn device(&self) -> &Name {
        &self.device
    }

    /// Was it read before, up to a place?
    pub(super) fn goes_on(&self) -> bool {
        !self.places.is_empty()
    }

    /// Asks for the first window.
    pub(super) async fn begin(&mut self) -> Result<(), MeshError> {
        let session = session(&self.core, &self.id);
        let silence = SILENCE + self.wait().unwrap_or(Millis(0)).duration();
        let frames = self.core.command(&self.id, Verb::Log(self.ask()), silence).await?;
        self.window = Some(Open { frames, session, rest: None });
        Ok(())
    }

    /// The next line of what was there when it began.
    pub(super) async fn backlog(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            if self.phase != Phase::Backlog {
                return None;
            }
            self.step().await;
        }
    }

    /// The next line; for a follower, whenever it comes.
    pub(super) async fn live(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            if self.phase == Phase::Over {
                return None;
            }
            self.step().await;
        }
    }

    fn wait(&self) -> Option<Millis> {
        (self.phase == Phase::Live).then_some(WAIT)
    }

    fn ask(&self) -> LogWindow {
        let cursors = |places: &BTreeMap<Name, LogPlace>| -> Vec<LogCursor> {
            let cursor =
                |(container, place): (&Name, &LogPlace)| LogCursor { container: container.clone(), place: *place };
            places.iter().map(cursor).collect()
        };
        let Wanted { tenant, deployment, container, wish, after: _ } = self.wanted.clone();
        let span = match (self.places.is_empty(), self.phase) {
            (true, _) => LogSpan::Wish(wish),
            (false, Phase::Backlog) => LogSpan::On { from: cursors(&self.places), to: cursors(&self.ends) },
            (false, Phase::Live | Phase::Over) => LogSpan::On { from: cursors(&self.places), to: vec![] },
        };
        LogWindow { tenant, deployment, container, span, wait: self.wait(), bytes: WINDOW_BYTES }
    }

    /// Waits for one thing and takes it in.
    async fn step(&mut self) {
        let Some(open) = &mut self.window else {
            if let Err(err) = self.begin().await {
                self.failed(err.to_string()).await;
            }
            return;
        };
        let frame = tokio::select! {
            biased;
            frame = open.frames.next() => frame,
            gone = gone(&self.core, &self.id, open.session) => {
                // Its last frames will not come; nothing of what they said is lost.
                self.window = None;
                if let Gone::Away = gone {
                    self.failed("it is not connected".to_owned()).await;
                }
                return;
            }
        };
        match frame {
            Some(Ok(frame)) => self.take(frame.body).await,
            Some(Err(err)) => self.failed(err.to_string()).await,
            None => self.failed("its answer broke off".to_owned()).await,
        }
    }

    async fn take(&mut self, body: FrameBody) {
        match body {
            FrameBody::Log(part) => {
                self.failures = 0;
                self.refusals = 0;
                self.part(part);
            }
            FrameBody::End { .. } => self.window_ended(),
            FrameBody::Refused { why } => {
                self.refusals += 1;
                if self.places.is_empty() || self.refusals >= REFUSALS_MAX {
                    self.over(why);
                } else {
                    self.failed(why).await;
                }
            }
            FrameBody::Stdout(_)
            | FrameBody::Stderr(_)
            | FrameBody::Line { .. }
            | FrameBody::Skipped(_)
            | FrameBody::Taken(_)
            | FrameBody::OsPlan(_)
            | FrameBody::Document(_) => self.over("the device answered something else".to_owned()),
        }
    }

    fn part(&mut self, part: LogPart) {
        let device = || self.device.clone();
        match part {
            LogPart::Span { from, to } => {
                let first = self.places.is_empty();
                for LogCursor { container, place } in from {
                    self.places.entry(container.clone()).or_insert(place);
                    if first && self.wanted.after == After::Follow {
                        let line = StreamLine::At { device: device(), container, next: place.to_string() };
                        self.ready.push_back(Item { at: self.at, line });
                    }
                }
                if self.ends.is_empty() {
                    self.ends = to.into_iter().map(|LogCursor { container, place }| (container, place)).collect();
                }
            }
            LogPart::Lines { container, lines } => {
                if let Some(last) = lines.last() {
                    self.places.insert(container.clone(), last.next);
                }
                for line in lines {
                    self.at = self.at.max(line.at);
                    let line = StreamLine::Line {
                        device: device(),
                        container: container.clone(),
                        at: line.at.to_string(),
                        stderr: line.stderr,
                        text: line.text,
                        next: line.next.to_string(),
                    };
                    self.ready.push_back(Item { at: self.at, line });
                }
            }
            LogPart::Gap { container, lines, to } => {
                self.places.insert(container.clone(), to);
                let line = StreamLine::Missing { device: device(), container, lines, next: to.to_string() };
                self.ready.push_back(Item { at: self.at, line });
            }
            LogPart::Rest(rest) => {
                if let Some(open) = &mut self.window {
                    open.rest = Some(rest);
                }
            }
        }
    }

    fn window_ended(&mut self) {
        let rest = self.window.take().and_then(|open| open.rest);
        match (rest, self.phase, self.wanted.after) {
            (Some(LogRest::Done), Phase::Backlog, After::Follow) => self.phase = Phase::Live,
            (Some(LogRest::Done | LogRest::Gone), _, _) => self.phase = Phase::Over,
            (Some(LogRest::More) | None, _, _) => {}
        }
    }

    /// A window did not come in whole. A follower that has begun tries again, for as long as it takes.
    async fn failed(&mut self, why: String) {
        self.window = None;
        if self.places.is_empty() || self.wanted.after == After::End {
            return self.over(why);
        }
        self.failures = self.failures.saturating_add(1);
        // One that only restarts is back before anybody needs to know.
        if self.failures == 2 {
            let line = StreamLine::Away { device: self.device.clone(), detail: why };
            self.ready.push_back(Item { at: self.at, line });
        }
        let pause = PAUSE_FIRST.saturating_mul(1 << self.failures.min(8)).min(PAUSE_MAX);
        sleep(pause).await;
    }

    fn over(&mut self, detail: String) {
        self.phase = Phase::Over;
        self.window = None;
        let line = StreamLine::Error { device: self.device.clone(), detail };
        self.ready.push_back(Item { at: self.at, line });
    }
}

/// The run of its agent that a device was heard of last.
fn session(core: &Core, id: &DeviceId) -> Option<SessionId> {
    core.index.look(|lens| lens.fleet.device(id).acting_beat().map(|beat| beat.heartbeat.session))
}

/// Why nothing more comes of a window.
enum Gone {
    /// Another run of its agent is heard.
    Restarted,
    /// It has not been connected for a while.
    Away,
}

/// Waits until nothing more can come of what this run of its agent was asked.
async fn gone(core: &Core, id: &DeviceId, asked: Option<SessionId>) -> Gone {
    let mut ticks = core.index.ticks();
    let mut left_ms = None;
    loop {
        let (session, left, now_ms) = core.index.look(|lens| {
            let beat = lens.fleet.device(id).acting_beat();
            let left = beat.is_some_and(|beat| matches!(beat.heard, Heard::Left(_)));
            (beat.map(|beat| beat.heartbeat.session), left, lens.now.mono_ms)
        });
        if session != asked {
            return Gone::Restarted;
        }
        left_ms = left.then(|| left_ms.unwrap_or(now_ms));
        if left_ms.is_some_and(|since_ms| Millis(now_ms.saturating_sub(since_ms)).duration() >= AWAY) {
            return Gone::Away;
        }
        // Where nobody else is, nothing ticks any more.
        match timeout(LOOK_ANYHOW, ticks.changed()).await {
            Ok(Ok(())) => sleep(LOOK_AGAIN).await,
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => {}
        }
    }
}
