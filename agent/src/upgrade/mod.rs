//! The driver of the agent's own upgrade: joins deciding (`core::upgrade`) and doing.
//!
//! What happens becomes events; each is one step; what the step leaves is durable before anything follows from it. Also
//! who acts is decided this way: this holds the lease. Decides nothing itself.

mod download;
mod facts;
mod jobs;
mod judge;
mod perform;
mod ring;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bramble_contracts::v1::Instance;
use bramble_contracts::v2::UpgradeWord;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::core::os::OwnUpgrade;
use crate::core::upgrade::{Effect, Event, Facts, Ledger, LedgerFile, report, step, wake_at};
use crate::host::instances::{Binaries, Manager, ledger_file};
use crate::host::lease::{self, Gone, Held, Lease, LeaseError, Waiting};
use crate::host::release::Files;
use crate::host::state::{Loaded, StateError, StateFile};
use crate::host::{clock, systemd};
use crate::mesh::board::{Alarm, Board, View};
use crate::mesh::{Agent, OnDuty, Releases, Word};
use crate::os::Between;
use crate::run::{Acting, Ended};
use facts::{Disk, Sight};
use jobs::Jobs;
use ring::Ring;

/// Answers of what runs in the background wait here.
const EVENTS_MAX: usize = 32;
/// Time is looked at once in a while even when nothing is due.
const IDLE: Duration = Duration::from_secs(300);
/// How often it is told how much of a binary is there.
const PROGRESS: Duration = Duration::from_secs(2);

/// What everything that is done for an upgrade needs.
#[derive(Clone)]
struct Site {
    config: Arc<Config>,
    binaries: Binaries,
    files: Files,
    /// Whoever starts a second agent.
    manager: Option<Manager>,
    releases: Releases,
    board: Board,
    events: mpsc::Sender<Event>,
    /// An upgrade of the operating system excludes one of the agent.
    between: Between,
}

/// See the module.
pub(crate) struct Driver {
    site: Site,
    ledger_file: StateFile,
    ledger: Ledger,
    lease: Lease,
    held: Option<Held>,
    waiting: Option<Waiting>,
    jobs: Jobs,
    sight: Sight,
    /// As it was looked at before the last step.
    disk: Disk,
    ring: Arc<Ring>,
    /// Uptime of the last step, in milliseconds.
    stepped_ms: u64,
    /// Nothing is due before this uptime: what was due last could not be stored.
    not_before_ms: u64,
    pending: VecDeque<Event>,
    events: mpsc::Receiver<Event>,
    words: mpsc::Receiver<Word>,
    view: watch::Receiver<View>,
    /// Of the word that was heard last.
    answer: Option<oneshot::Sender<Result<(), String>>>,
    /// Is the end of the other instance being waited for?
    watching: Arc<AtomicBool>,
    /// Was whoever started us told that we are ready?
    told_ready: bool,
    /// Was it told that all apps were looked at, since this agent acts?
    told_reconciled: bool,
}

impl Driver {
    pub(crate) fn new(
        config: &Config,
        agent: &Agent,
        words: mpsc::Receiver<Word>,
        between: Between,
    ) -> anyhow::Result<Self> {
        let state_dir = &config.state_dir;
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let site = Site {
            config: Arc::new(config.clone()),
            binaries: Binaries::of(state_dir),
            files: Files::of(state_dir),
            manager: Manager::of_this_agent(),
            releases: agent.releases(),
            board: agent.board(),
            events: events_in,
            between,
        };
        let sight = Sight::new(&site);
        Ok(Self {
            ledger_file: ledger_file(state_dir),
            ledger: sight.new_ledger(config.instance),
            lease: Lease::of(state_dir)?,
            held: None,
            waiting: None,
            jobs: Jobs::default(),
            sight,
            disk: Disk::look(&site),
            ring: Arc::new(Ring::of(state_dir)),
            stepped_ms: 0,
            not_before_ms: 0,
            pending: VecDeque::new(),
            events,
            words,
            view: agent.changes(),
            answer: None,
            watching: Arc::default(),
            told_ready: false,
            told_reconciled: false,
            site,
        })
    }

    /// Works until this process is to end.
    pub(crate) async fn run(&mut self, acting: &mut Acting) -> anyhow::Result<Ended> {
        self.held = self.lease.try_take()?;
        self.pending.push_back(Event::Started);
        loop {
            let event = match self.pending.pop_front() {
                Some(event) => event,
                None => self.next(acting).await?,
            };
            if let Some(ended) = self.take(event, acting).await? {
                return Ok(ended);
            }
        }
    }

    /// One event: decided, kept, told, done.
    async fn take(&mut self, event: Event, acting: &mut Acting) -> anyhow::Result<Option<Ended>> {
        self.look(&event).await;
        let between = self.site.between.clone();
        let turn = between.turn().await;
        let facts = self.facts();
        self.stepped_ms = facts.up_ms;
        let (next, effects) = step(self.ledger.clone(), &event, &facts);
        let moved = next != self.ledger || !effects.is_empty();
        if moved {
            let effects: Vec<String> = effects.iter().map(Effect::to_string).collect();
            tracing::info!(%event, effects = effects.join("; "), "upgrade");
            let (ring, ledger, event, facts) = (self.ring.clone(), self.ledger.clone(), event.clone(), facts.clone());
            beside(move || ring.keep(&ledger, &event, &facts)).await;
        }
        let kept = self.keep(next).await;
        between.own_is(own_upgrade(&self.ledger));
        drop(turn);
        self.tell(&facts);
        if let (Event::Word(word), Some(answer)) = (&event, self.answer.take()) {
            let heard = kept && (moved || self.is_so(word));
            let why = || "this agent has no upgrade that this could be about, or cannot store it".to_owned();
            // Whether anybody still waits is not asked.
            drop(answer.send(heard.then_some(()).ok_or_else(why)));
        }
        let effects = if kept { effects } else { self.put_off(event, effects, &facts) };
        for effect in effects {
            match self.perform(&effect, acting).await {
                Ok(None) => {}
                Ok(Some(ended)) => return Ok(Some(ended)),
                Err(why) => {
                    tracing::warn!(%effect, why, "a part of an upgrade failed");
                    self.pending.push_back(Event::Failed { effect, why });
                    break;
                }
            }
        }
        Ok(None)
    }

    /// What cannot be kept has not happened: it is told again. But somebody looks after the apps in any case.
    fn put_off(&mut self, event: Event, mut effects: Vec<Effect>, facts: &Facts) -> Vec<Effect> {
        self.not_before_ms = facts.up_ms.saturating_add(facts.bounds.mend_ms);
        // The coordinator was told that nothing came of it, and says it again by itself; and so does time.
        if !matches!(event, Event::Word(_) | Event::Tick) {
            let (events, pause) = (self.site.events.clone(), Duration::from_millis(facts.bounds.mend_ms));
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                drop(events.send(event).await);
            });
        }
        effects.retain(|effect| matches!(effect, Effect::Act | Effect::WaitForLease));
        effects
    }

    /// Makes a new ledger durable. Only the holder of the lease writes it.
    async fn keep(&mut self, next: Ledger) -> bool {
        if next == self.ledger || self.held.is_none() {
            return true;
        }
        let (file, body) = (self.ledger_file.clone(), LedgerFile::V1(next.clone()));
        let stored = beside(move || file.store_json(&body).map_err(|err| err.to_string())).await;
        match stored.unwrap_or_else(|| Err("storing it broke off".into())) {
            Ok(()) => {
                self.ledger = next;
                self.site.board.clear(Alarm::Upgrade);
                true
            }
            Err(why) => {
                self.site.board.alarm(Alarm::Upgrade, format!("upgrades of the agent wait: {why}"));
                false
            }
        }
    }

    /// Looks at the disk before a step. Whoever held the lease until now has written the ledger.
    async fn look(&mut self, event: &Event) {
        let site = self.site.clone();
        if let Some(disk) = beside(move || Disk::look(&site)).await {
            self.disk = disk;
        }
        if self.held.is_none() || matches!(event, Event::Started | Event::LeaseGot) {
            let file = self.ledger_file.clone();
            if let Some(read) = beside(move || file.load_json::<LedgerFile>()).await {
                self.take_in(read);
            }
        }
    }

    fn take_in(&mut self, read: Result<Loaded<LedgerFile>, StateError>) {
        match read {
            Ok(Loaded::Missing) => {}
            Ok(Loaded::Good(file)) => self.ledger = file.into(),
            Ok(Loaded::Previous { value, why }) => {
                self.site.board.alarm(Alarm::Upgrade, format!("the newest state of upgrades is lost: {why}"));
                self.ledger = value.into();
            }
            // What was confirmed is still known by the links.
            Err(err) => self.site.board.alarm(Alarm::Upgrade, format!("the state of upgrades is lost: {err}")),
        }
    }

    /// Is it as the coordinator says already?
    fn is_so(&self, word: &UpgradeWord) -> bool {
        match word {
            UpgradeWord::Confirm { release_seq } => self.ledger.confirmed.release_seq == *release_seq,
            UpgradeWord::Abort { release_seq, .. } => {
                self.ledger.upgrade.as_ref().is_none_or(|upgrade| upgrade.release_seq != *release_seq)
            }
            UpgradeWord::Retire => false,
        }
    }

    /// Hears of the end of the old agent, where its end is waited for.
    fn watch_other(&self) {
        let instance = self.site.config.instance.other();
        let waits = self.held.is_some() && self.ledger.last.as_ref().is_some_and(|last| last.beside == Some(instance));
        if !waits || self.watching.swap(true, Ordering::Relaxed) {
            return;
        }
        let (site, watching) = (self.site.clone(), self.watching.clone());
        tokio::spawn(async move {
            tell_end(&site, instance).await;
            watching.store(false, Ordering::Relaxed);
        });
    }

    fn facts(&self) -> Facts {
        self.sight.facts(&self.site, &self.disk, &self.ledger, self.held.is_some())
    }

    /// Tells people, on the device and at the coordinator.
    fn tell(&self, facts: &Facts) {
        let bytes = self.jobs.progress.load(Ordering::Relaxed);
        let program = report(&self.ledger, facts, self.disk.keys_version, bytes);
        self.site.board.update(|view| view.program = program);
    }

    fn ready(&mut self) {
        tracing::info!("ready to act as soon as the agent that acts lets go");
        systemd::ready();
        self.told_ready = true;
    }

    /// Waits for what happens next.
    async fn next(&mut self, acting: &mut Acting) -> anyhow::Result<Event> {
        let mut system = self.site.between.hear_system();
        loop {
            self.watch_other();
            let facts = self.facts();
            self.tell(&facts);
            // As of the last step: what hindered it then and is over by now would else be waited for by nobody.
            let facts = Facts { up_ms: self.stepped_ms, ..facts };
            let due = wake_at(&self.ledger, &facts).map_or(IDLE, |at| until(at.max(self.not_before_ms)).min(IDLE));
            let busy = self.jobs.is_busy();
            let reconciling = self.held.is_some() && !self.told_reconciled;
            tokio::select! {
                Some(event) = self.events.recv() => return Ok(event),
                Some(Word { word, answer }) = self.words.recv() => {
                    self.answer = Some(answer);
                    return Ok(Event::Word(word));
                }
                turn = turn(&mut self.waiting, self.told_ready, self.site.board.changes()) => match turn? {
                    Turn::Held(held) => {
                        (self.held, self.waiting) = (Some(held), None);
                        return Ok(Event::LeaseGot);
                    }
                    Turn::Ready => self.ready(),
                },
                () = reconciled(acting.on_duty(), self.site.board.changes()), if reconciling => {
                    self.told_reconciled = true;
                    return Ok(Event::Reconciled);
                }
                // The board is our own agent's: it does not go.
                Ok(()) = self.view.changed() => {
                    let view = self.view.borrow_and_update().clone();
                    if self.sight.saw(&view) {
                        return Ok(Event::Wished);
                    }
                }
                // What waits for an upgrade of the system to end goes on.
                Ok(()) = system.changed() => return Ok(Event::Tick),
                () = tokio::time::sleep(due) => return Ok(Event::Tick),
                // Bytes come in: people see them.
                () = tokio::time::sleep(PROGRESS), if busy => {}
            }
        }
    }
}

/// As the upgrade of the system sees it.
fn own_upgrade(ledger: &Ledger) -> OwnUpgrade {
    if ledger.upgrade.is_some() { OwnUpgrade::UnderWay } else { OwnUpgrade::Idle }
}

/// What is stored of upgrades of the agent, for who has to know before anything is driven.
pub(crate) fn stored(state_dir: &Path) -> OwnUpgrade {
    let found = ledger_file(state_dir).load_json::<LedgerFile>().ok().and_then(Loaded::value);
    found.map_or(OwnUpgrade::Idle, |file| own_upgrade(&file.into()))
}

/// Tells of the end of an instance: that it does not run is its end too.
async fn tell_end(site: &Site, instance: Instance) {
    match lease::gone(&site.config.state_dir, instance).await {
        Ok(Gone::Now | Gone::Before) => drop(site.events.send(Event::InstanceGone(instance)).await),
        Err(err) => tracing::warn!(%err, "the end of the other agent of this device is not heard"),
    }
}

/// Work that waits for the disk, where that hurts nobody. `None` when it broke off.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn until(at_ms: u64) -> Duration {
    Duration::from_millis(at_ms.saturating_sub(clock::up_ms()))
}

/// What became of a wait for the lease.
enum Turn {
    /// It is the next, and connected.
    Ready,
    Held(Held),
}

async fn turn(
    waiting: &mut Option<Waiting>,
    told_ready: bool,
    mut view: watch::Receiver<View>,
) -> Result<Turn, LeaseError> {
    let Some(waiting) = waiting else { return std::future::pending().await };
    waiting.is_next().await;
    let connected = async {
        if told_ready || view.wait_for(|view| view.connected).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        held = waiting.held() => held.map(Turn::Held),
        () = connected => Ok(Turn::Ready),
    }
}

/// Waits until the newest document was read and every app was looked at, since this agent acts.
async fn reconciled(mut on_duty: OnDuty, mut view: watch::Receiver<View>) {
    loop {
        let duty = on_duty.duty();
        let all = async {
            let Some(duty) = &duty else { return std::future::pending().await };
            // Both are our own agent's: where they end, so does the duty.
            drop(view.wait_for(|view| view.fresh).await);
            if view.borrow().desired.is_some() && duty.supervisor.settled().wait_for(|settled| *settled).await.is_err()
            {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = all => return,
            () = on_duty.changed() => {}
        }
    }
}
