//! The clock guard's loop: asks for the time at start, every six hours, when the wall clock was set, and soon again while
//! it is not fit; and tells everybody through the board.
//!
//! Decides when somebody is asked. The judgement is `core::clock`'s, and nothing here sets a clock. No app waits for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::v2::ClockVerdict;
use tokio::sync::watch;
use tokio::time::Instant;

use super::board::{Alarm, Board};
use super::connection::Link;
use super::context::{Context, Stop};
use super::duty::Pen;
use super::{random, time};
use crate::core::clock::{self as core, Floor, Now, StoredFloor, Told};
use crate::host::clock::{self, ClockSet};
use crate::host::sntp::Servers;
use crate::host::state::{Loaded, StateFile};

/// Between two looks at least, whatever happens to clock and network.
const GAP: Duration = Duration::from_secs(2);
/// A clock that is being set is let come to rest.
const SETTLE: Duration = Duration::from_millis(200);
/// After a connection came up: spread, because a restarted broker brings everybody back at once.
const CONNECTED: Duration = Duration::from_secs(1);
const FORMAT: u32 = 1;

/// Where the floor lies.
pub(crate) fn floor_file(state_dir: &Path) -> StateFile {
    StateFile::new(state_dir.join("clock"), FORMAT)
}

/// How the coordinator is asked, once the device is enrolled.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) context: Arc<Context>,
    pub(crate) link: watch::Receiver<Link>,
}

pub(crate) struct Guard {
    board: Board,
    pen: Pen,
    servers: Servers,
    mesh: watch::Receiver<Option<Asker>>,
    file: StateFile,
    stored: Option<StoredFloor>,
    floor: Floor,
    told: Told,
    /// At the last judgement.
    last: Now,
    unfit_looks: u32,
}

impl Guard {
    pub(crate) fn new(
        state_dir: &Path,
        servers: Vec<String>,
        board: Board,
        pen: Pen,
        mesh: watch::Receiver<Option<Asker>>,
    ) -> Self {
        let file = floor_file(state_dir);
        let lost = |why: String| board.alarm(Alarm::ClockFloor, format!("the floor of the clock: {why}"));
        // What is stored is what is whole on disk: what is not is written anew as soon as the clock is fit.
        let (stored, known) = match file.load_json::<StoredFloor>() {
            Ok(Loaded::Missing) => (None, None),
            Ok(Loaded::Good(floor)) => (Some(floor), Some(floor)),
            Ok(Loaded::Previous { value, why }) => {
                lost(format!("{why}; the one before it is used"));
                (None, Some(value))
            }
            Err(err) => {
                lost(format!("{err}; until the clock is fit again this program's own date is the floor"));
                (None, None)
            }
        };
        let floor = Floor { built_ms: clock::built_ms(), trusted_ms: known.map_or(0, |known| known.trusted_ms) };
        let (told, last) = (Told::default(), clock::now());
        let mut new =
            Self { board, pen, servers: Servers::new(servers), mesh, file, stored, floor, told, last, unfit_looks: 0 };
        // Before anybody was asked: a clock before the floor is wrong already.
        new.tell(last);
        new
    }

    /// Works until `stop` says so.
    pub(crate) async fn run(mut self, mut stop: Stop) {
        let mut set = ClockSet::listen().map_err(|err| not_told(&err)).ok();
        let (mut next, mut looked, mut epoch) = (soon(Duration::ZERO), None, 0);
        loop {
            tokio::select! {
                () = stop.asked() => return,
                () = tokio::time::sleep_until(next) => {
                    tokio::select! {
                        () = stop.asked() => return,
                        () = self.look() => {}
                    }
                    looked = Some(soon(Duration::ZERO));
                    let pause = core::pause(self.verdict(), self.unfit_looks);
                    // Between 90 and 100 %: a fleet that was switched on at once does not ask as one.
                    next = soon(pause - pause / 5 + random::jittered(pause / 5));
                }
                told = was_set(&mut set) => {
                    if let Err(err) = told {
                        not_told(&err);
                        set = None;
                    }
                    tokio::time::sleep(SETTLE).await;
                    if self.jumped().await {
                        next = next.min(no_sooner(looked));
                    }
                }
                () = came_up(&mut self.mesh, &mut epoch) => {
                    if self.told.signed.is_none() || self.verdict() != ClockVerdict::Fit {
                        next = next.min(no_sooner(looked).max(soon(random::jittered(CONNECTED))));
                    }
                }
            }
        }
    }

    fn verdict(&self) -> ClockVerdict {
        self.board.clock().verdict
    }

    /// Asks everybody who may know.
    async fn look(&mut self) {
        let ntp = self.servers.ask(self.floor.ms());
        let ((asked, ntp), signed) = tokio::join!(ntp, self.signed());
        let told = Told { ntp, asked, signed };
        // Where nobody answers, what was told before goes on to hold for its time.
        if !told.is_empty() {
            self.told = told;
        }
        self.judge().await;
        match self.verdict() {
            ClockVerdict::Fit => self.unfit_looks = 0,
            ClockVerdict::Unknown | ClockVerdict::Skewed | ClockVerdict::Disputed => self.unfit_looks += 1,
        }
    }

    async fn signed(&self) -> Option<core::Sample> {
        let asker = self.mesh.borrow().clone()?;
        let link = asker.link.borrow().clone();
        let client = link.client.filter(|_| link.connected)?;
        match time::ask(&asker.context, &client).await {
            Ok(sample) => Some(sample),
            Err(why) => {
                tracing::info!(%why, "the coordinator does not tell the time");
                None
            }
        }
    }

    /// Was the clock set by more than a little? Then what it is worth is known at once, by what was told before.
    async fn jumped(&mut self) -> bool {
        let by = core::jumped(self.last, clock::now());
        if let Some(by) = by {
            tracing::info!(by_ms = by, "the wall clock was set");
            self.judge().await;
        }
        by.is_some()
    }

    async fn judge(&mut self) {
        let floor = self.tell(clock::now());
        if floor < self.floor {
            tracing::warn!(from = %core::date_of(self.floor.ms()), to = %core::date_of(floor.ms()),
                "the floor of the clock was in the future: a fresh signature and the clock overrule it");
        }
        self.floor = floor;
        if self.pen.is_ours() && core::worth_storing(floor, self.stored) {
            self.store(StoredFloor { trusted_ms: floor.trusted_ms }).await;
        }
    }

    /// Judges and says so on the board; returns the floor from here on.
    fn tell(&mut self, now: Now) -> Floor {
        let core::Judged { report, floor } = core::judge(self.floor, &self.told, now);
        self.last = now;
        let before = self.verdict();
        if report.verdict != before {
            tracing::info!(verdict = ?report.verdict, skew_ms = ?report.skew_ms, sources = %report.sources, "clock");
        }
        if report.is_wrong() {
            self.board.alarm(Alarm::Clock, report.detail.clone());
        } else {
            self.board.clear(Alarm::Clock);
        }
        self.board.update(|view| view.clock = report);
        floor
    }

    async fn store(&mut self, floor: StoredFloor) {
        let file = self.file.clone();
        match tokio::task::spawn_blocking(move || file.store_json(&floor)).await {
            Ok(Ok(())) => {
                self.stored = Some(floor);
                self.board.clear(Alarm::ClockFloor);
            }
            Ok(Err(err)) => self.board.alarm(Alarm::ClockFloor, format!("the floor of the clock: {err}")),
            Err(err) => tracing::warn!(%err, "the floor of the clock was not stored"),
        }
    }
}

fn not_told(err: &std::io::Error) {
    tracing::warn!(%err, "the kernel does not tell when the clock is set; it is looked at by and by");
}

async fn was_set(set: &mut Option<ClockSet>) -> std::io::Result<()> {
    match set {
        Some(set) => set.wait().await,
        None => std::future::pending().await,
    }
}

/// Waits until a connection is up that was not seen yet.
async fn came_up(mesh: &mut watch::Receiver<Option<Asker>>, epoch: &mut u64) {
    loop {
        let asker = mesh.borrow_and_update().clone();
        let changed = match asker {
            None => mesh.changed().await,
            Some(Asker { mut link, .. }) => {
                let now = link.borrow_and_update().clone();
                if now.connected && now.epoch != *epoch {
                    *epoch = now.epoch;
                    return;
                }
                link.changed().await
            }
        };
        if changed.is_err() {
            return std::future::pending().await;
        }
    }
}

fn no_sooner(looked: Option<Instant>) -> Instant {
    looked.map_or_else(|| soon(Duration::ZERO), |looked| looked + GAP)
}

#[allow(clippy::disallowed_methods, reason = "tokio's own clock, for timers only")]
fn soon(wait: Duration) -> Instant {
    Instant::now() + wait
}
