//! The driver of OS upgrades: joins deciding (`core::os`) and doing (`host::os`), while this agent acts.
//!
//! What happens is one event, a look; what the step leaves is durable before anything follows from it. Decides nothing
//! itself. Does nothing that needs privileges: units do, and leave results; this may die meanwhile.

mod between;
mod plans;
mod sight;
mod wire;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::v2::AppReport;
use tokio::sync::{Notify, watch};

use crate::config::Config;
use crate::core::os::{Effect, Event, Facts, Ledger, LedgerFile, OsStatus, Phase, Unit, Verb, status, step, wake_at};
use crate::core::upgrade::System;
use crate::host::clock::up_ms;
use crate::host::os::{Files, Panics, Told, Units, Way};
use crate::host::state::Loaded;
use crate::mesh::OnDuty;
use crate::mesh::board::{Alarm, Board, View};
use crate::supervise::Reports;
use sight::Sight;

pub(crate) use between::Between;
pub(crate) use plans::Questions;

/// Time is looked at once in a while even when nothing is due.
const IDLE: Duration = Duration::from_secs(300);
/// How often it is looked whether a unit has ended, or got further.
const POLL: Duration = Duration::from_secs(1);
/// News of apps gather this long.
const SETTLE: Duration = Duration::from_millis(500);

/// See the module.
pub(crate) struct Driver {
    files: Files,
    board: Board,
    view: watch::Receiver<View>,
    on_duty: OnDuty,
    between: Between,
    questions: Questions,
    /// A question was answered.
    answered: Arc<Notify>,
    sight: Sight,
    ledger: Ledger,
    /// Of the last step.
    facts: Option<Facts>,
    /// What lay there before that step.
    marks: Marks,
    pending: VecDeque<Event>,
    /// Nothing is due before this uptime: what was due last could not be stored.
    not_before_ms: u64,
}

/// By what a file of results is told from another: when it was written, and which it is.
type Marks = Vec<Option<(i64, i64, u64)>>;

/// What is stored of OS upgrades, for who has to know before anything is driven. One that cannot be read stands in the way.
pub(crate) fn stored(state_dir: &Path) -> System {
    match Files::of(state_dir).ledger().load_json::<LedgerFile>() {
        Ok(found) => system(&found.value().map(Ledger::from).unwrap_or_default()),
        Err(_) => System::Settled,
    }
}

fn system(ledger: &Ledger) -> System {
    if ledger.excludes_own_upgrade() { System::Upgrading } else { System::Settled }
}

impl Driver {
    /// Before anything acts: apps are kept as they are from the start where an upgrade is on trial.
    pub(crate) fn new(config: &Config, board: Board, on_duty: OnDuty, between: Between, questions: Questions) -> Self {
        let files = Files::of(&config.state_dir);
        let ledger = files.ledger().load_json::<LedgerFile>().ok().and_then(Loaded::value).map(Ledger::from);
        let ledger = ledger.unwrap_or_default();
        board.update(|view| view.holds_apps = ledger.holds_apps());
        let driver = Self {
            files,
            view: board.changes(),
            board,
            on_duty,
            between,
            questions,
            answered: Arc::default(),
            sight: Sight::new(config.os.bounds()),
            ledger,
            facts: None,
            marks: vec![],
            pending: VecDeque::new(),
            not_before_ms: 0,
        };
        // The first report is of the same upgrade as the last one before a reboot.
        driver.tell(&driver.sight.unseen(&driver.ledger, driver.between.own()));
        driver
    }

    /// Works as long as this process does. Only the agent that acts drives: there is one writer of the ledger.
    pub(crate) async fn run(mut self) -> Infallible {
        loop {
            self.sight.saw(&self.view.borrow_and_update().clone());
            if self.on_duty.duty().is_none() {
                self.tell_strength();
                self.on_duty.changed().await;
                continue;
            }
            self.load().await;
            while let Some(reports) = self.reports() {
                let event = self.pending.pop_front().unwrap_or(Event::Look);
                Box::pin(self.take(event, &reports)).await;
                if self.pending.is_empty() {
                    self.wait(reports).await;
                }
            }
        }
    }

    fn reports(&self) -> Option<Reports> {
        self.on_duty.duty().map(|duty| duty.supervisor.reports())
    }

    /// Whoever acted until now has written the ledger.
    async fn load(&mut self) {
        let file = self.files.ledger();
        let read = beside(move || file.load_json::<LedgerFile>()).await;
        self.pending.clear();
        self.ledger = match read {
            Some(Ok(Loaded::Missing)) | None => Ledger::default(),
            Some(Ok(Loaded::Good(file))) => file.into(),
            Some(Ok(Loaded::Previous { value, why })) => {
                self.board.alarm(Alarm::OsUpgrade, format!("the newest state of OS upgrades is lost: {why}"));
                value.into()
            }
            // The device itself still says where it is.
            Some(Err(err)) => {
                self.board.alarm(Alarm::OsUpgrade, format!("the state of OS upgrades is lost: {err}"));
                Ledger::default()
            }
        };
    }

    /// One event: decided, kept, told, done.
    async fn take(&mut self, event: Event, reports: &Reports) {
        self.marks = self.look_at_marks();
        let apps: Arc<Vec<AppReport>> = reports.borrow().clone();
        let mut facts = self.sight.gather(&self.files, &self.ledger, &apps, self.between.own()).await;
        let (between, before) = (self.between.clone(), self.ledger.clone());
        let turn = between.turn().await;
        facts.own_upgrade = between.own();
        let (next, effects) = step(before, &event, &facts);
        if next != self.ledger || !effects.is_empty() {
            let effects: Vec<String> = effects.iter().map(Effect::to_string).collect();
            let phase = next.upgrade.as_ref().map(|upgrade| format!("{:?}", upgrade.phase)).unwrap_or_default();
            tracing::info!(%event, phase, effects = effects.join("; "), "OS upgrade");
        }
        let kept = self.keep(next, &facts).await;
        between.system_is(system(&self.ledger));
        drop(turn);
        let holds = self.ledger.holds_apps();
        self.board.update(|view| view.holds_apps = holds);
        self.tell(&facts);
        self.facts = Some(facts);
        if !kept {
            // It has not happened: a look comes by itself, and what could not be done is told again.
            if event != Event::Look {
                self.pending.push_back(event);
                tokio::time::sleep(POLL).await;
            }
            return;
        }
        for effect in effects {
            if let Err(why) = self.perform(&effect).await {
                tracing::warn!(%effect, why, "a part of an OS upgrade failed");
                self.pending.push_back(Event::Failed { effect, why });
                return;
            }
        }
    }

    /// Makes a new ledger durable. One agent writes it: the one that acts.
    async fn keep(&mut self, next: Ledger, facts: &Facts) -> bool {
        if next == self.ledger {
            return true;
        }
        if self.on_duty.duty().is_none() {
            return false;
        }
        let (file, body) = (self.files.ledger(), LedgerFile::V1(next.clone()));
        let stored = beside(move || file.store_json(&body).map_err(|err| err.to_string())).await;
        match stored.unwrap_or_else(|| Err("storing it broke off".into())) {
            Ok(()) => {
                self.ledger = next;
                self.board.clear(Alarm::OsUpgrade);
                true
            }
            Err(why) => {
                self.not_before_ms = facts.up_ms.saturating_add(facts.bounds.mend_ms);
                self.board.alarm(Alarm::OsUpgrade, format!("OS upgrades wait: {why}"));
                false
            }
        }
    }

    async fn perform(&self, effect: &Effect) -> Result<(), String> {
        match effect {
            Effect::ForgetPutBack => {
                let files = self.files.clone();
                done(move || {
                    files.forget()?;
                    Panics::of(&files).forget().map_err(|err| err.to_string())
                })
                .await
            }
            Effect::Start(order) => {
                if Units.active().await?.contains(&order.verb) {
                    return Ok(());
                }
                let (files, asked) = (self.files.clone(), order.clone());
                done(move || files.ask(&asked).map_err(|err| err.to_string())).await?;
                Units.start(order.verb).await
            }
            Effect::Reboot(into, manner) => Units.reboot(Way { into: *into, manner: *manner }).await,
        }
    }

    /// How far the unit of this run is.
    fn told(&self) -> Option<Told> {
        let upgrade = self.ledger.upgrade.as_ref()?;
        let verb = match upgrade.phase {
            Phase::Planning => Verb::Plan,
            Phase::Fetching => Verb::Fetch,
            Phase::Applying => Verb::Apply,
            _ => return None,
        };
        self.files.progress().filter(|told| told.ticket == upgrade.ticket && told.verb == verb)
    }

    /// Tells people, on the device and at the coordinator.
    fn tell(&self, facts: &Facts) {
        let told: OsStatus = status(&self.ledger, facts, self.told().map(|told| told.progress).as_ref());
        let strength = self.sight.machine.strength();
        let percent = self.sight.pool_percent();
        let os = wire::report(strength.protection, &strength.lacks, facts.booted, percent, &told);
        self.board.update(|view| view.os = os);
    }

    fn tell_strength(&self) {
        let strength = self.sight.machine.strength();
        let (protection, slot) = (wire::protection(strength.protection), self.sight.machine.booted());
        self.board
            .update(|view| (view.os.protection, view.os.lacks, view.os.slot) = (protection, strength.lacks, slot));
    }

    /// Waits for what is worth a look.
    async fn wait(&mut self, mut reports: Reports) {
        let Some(facts) = self.facts.clone() else { return };
        let waits = self.not_before_ms > up_ms();
        let due = if waits { Some(self.not_before_ms) } else { wake_at(&self.ledger, &facts) };
        let left = due.map_or(IDLE, |due| Duration::from_millis(due.saturating_sub(up_ms())));
        let idle = tokio::time::sleep(left.min(IDLE));
        tokio::pin!(idle);
        let mut own = self.between.hear_own();
        let on_trial = self.ledger.upgrade.as_ref().is_some_and(|upgrade| matches!(upgrade.phase, Phase::Trial(_)));
        // What was begun for another wish has to end, too, before the next can begin.
        let runs = facts.units.values().any(|unit| *unit == Unit::Running);
        let busy = runs || self.ledger.upgrade.as_ref().is_some_and(|upgrade| upgrade.started.is_some());
        loop {
            tokio::select! {
                () = &mut idle => return,
                () = self.on_duty.changed() => return,
                // The board is our own agent's: it does not go.
                Ok(()) = self.view.changed() => {
                    let view = self.view.borrow_and_update().clone();
                    if self.sight.saw(&view) {
                        return;
                    }
                }
                Ok(()) = own.changed() => return,
                () = self.answered.notified() => return,
                Some(question) = self.questions.recv() => {
                    let (own, over) = (self.between.own(), self.answered.clone());
                    plans::begin(&mut self.sight, &self.files, &self.ledger, own, question, over).await;
                }
                Ok(()) = reports.changed(), if on_trial => return tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(POLL), if busy => {
                    self.tell(&facts);
                    if self.look_at_marks() != self.marks {
                        return;
                    }
                }
            }
        }
    }

    /// A unit that ends leaves another file.
    fn look_at_marks(&self) -> Marks {
        let mark = |verb: Verb| {
            let found = fs::metadata(self.files.result_path(verb)).ok()?;
            Some((found.mtime(), found.mtime_nsec(), found.ino()))
        };
        Verb::ALL.into_iter().map(mark).collect()
    }
}

/// Work that waits for the disk, where that hurts nobody. `None` when it broke off.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

async fn done(work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    beside(work).await.unwrap_or_else(|| Err("it broke off".into()))
}
