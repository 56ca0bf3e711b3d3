//! Joins deciding (`core`) and doing (`host`): one loop per app, and one that hands out work and gathers news.
//!
//! Until the first desired document is set nothing is touched. Dropping the supervisor leaves every app running.

mod app;
mod healing;
mod host;
mod lanes;
mod ledger;
mod session;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::v1::Phase;
use bramble_contracts::v2::AppReport;
use bramble_contracts::v3::DesiredDocument;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;

pub use host::{FoundRecord, Host, HostError, HostEvent, OutputStream, Piece};
pub use session::{Attached, Ends, Program, SessionWish};
pub use streams::{Chunk, ExecWish, StreamError};

use crate::core::app::{App, AppKey};
use crate::core::plan::{Neighbour, Neighbours, Standing};
use crate::core::report::{blocked, fit, unknown};
use crate::core::step::Device;
use app::{AppTask, News, Want};
use ledger::{Ledger, Withheld};
use streams::{Ask, Known};

/// News wait here when the gatherer is busy.
const NEWS_MAX: usize = 256;
const ASKS_MAX: usize = 32;
/// A step that takes longer than this is broken off when the supervisor ends; the next one finds what came of it.
const STEP_TIME_MAX: Duration = Duration::from_secs(20);

/// What the supervisor tells about.
pub type Reports = watch::Receiver<Arc<Vec<AppReport>>>;

/// What it means that a document does not list an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    /// That the app is to go.
    Removes,
    /// Nothing: the document may be older than what was acted on.
    Keeps,
}

/// A document to act on.
#[derive(Clone, Debug)]
struct Given {
    document: Arc<DesiredDocument>,
    absence: Absence,
}

/// How the supervisor is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Steps are broken off where they are.
    AtOnce,
    /// Steps under way are finished first.
    AfterSteps,
}

/// The way to a running supervisor.
#[derive(Debug)]
pub struct SupervisorHandle {
    desired: watch::Sender<Option<Given>>,
    reports: Reports,
    alarms: watch::Receiver<Arc<Vec<String>>>,
    settled: watch::Receiver<bool>,
    asks: mpsc::Sender<Ask>,
    end: watch::Sender<Option<End>>,
}

/// Starts supervisors.
pub struct Supervisor;

impl Supervisor {
    /// Starts one on a device. It does nothing until it is told what is desired.
    pub fn start<H: Host>(host: Arc<H>) -> SupervisorHandle {
        let (desired, desired_in) = watch::channel(None);
        let (reports_out, reports) = watch::channel(Arc::new(Vec::new()));
        let (alarms_out, alarms) = watch::channel(Arc::new(Vec::new()));
        let (settled_out, settled) = watch::channel(false);
        let (asks, asks_in) = mpsc::channel(ASKS_MAX);
        let (end, end_in) = watch::channel(None);
        let gatherer = Gatherer {
            host,
            slots: BTreeMap::new(),
            tasks: JoinSet::new(),
            ledger: Ledger::unread(),
            alarms: BTreeMap::new(),
            notices: Vec::new(),
            wanted: BTreeMap::new(),
            neighbours: watch::Sender::default(),
            reports_out,
            alarms_out,
            settled_out,
        };
        tokio::spawn(gatherer.run(desired_in, asks_in, end_in));
        SupervisorHandle { desired, reports, alarms, settled, asks, end }
    }
}

impl SupervisorHandle {
    /// Hands over a document that was verified, accepted and made durable.
    pub fn set_desired(&self, document: Arc<DesiredDocument>) {
        self.desired.send_replace(Some(Given { document, absence: Absence::Removes }));
    }

    /// Hands over a document that may be older than what was acted on before, because the newest was damaged: its apps
    /// are started and kept, and so are apps that are recorded in a newer revision or are not in it at all.
    pub fn set_fallback(&self, document: Arc<DesiredDocument>) {
        self.desired.send_replace(Some(Given { document, absence: Absence::Keeps }));
    }

    /// Every app's report, as it changes; sorted by tenant and name, and small enough for one message.
    pub fn reports(&self) -> Reports {
        self.reports.clone()
    }

    /// What people should look at: damaged state, containers that are not ours in our way.
    pub fn alarms(&self) -> watch::Receiver<Arc<Vec<String>>> {
        self.alarms.clone()
    }

    /// Was every app of the document looked at by this supervisor, and is no container being started or stopped?
    pub fn settled(&self) -> watch::Receiver<bool> {
        self.settled.clone()
    }

    /// Answers when the supervisor's own loop turns: only that says that it is alive.
    pub async fn alive(&self) -> Result<(), StreamError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Alive(reply)).await?;
        answer.await.map_err(|_| StreamError::Stopped)
    }

    /// Runs a command in a container. It ends when its time is up or the receiver is dropped.
    pub async fn exec(&self, wish: ExecWish) -> Result<mpsc::Receiver<Chunk>, StreamError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Exec(wish, reply)).await?;
        answer.await.map_err(|_| StreamError::Stopped)?
    }

    /// Starts a program in a container with what somebody types. It ends when its output is dropped.
    pub async fn session(&self, wish: SessionWish) -> Result<Attached, StreamError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Session(wish, reply)).await?;
        answer.await.map_err(|_| StreamError::Stopped)?
    }

    async fn ask(&self, ask: Ask) -> Result<(), StreamError> {
        self.asks.send(ask).await.map_err(|_| StreamError::Stopped)
    }

    /// Ends the supervisor. Apps run on.
    pub async fn shutdown(&self) {
        self.end(End::AtOnce).await;
    }

    /// Ends it once the steps under way are done, so that somebody else can go on at once. Apps run on.
    pub async fn halt(&self) {
        self.end(End::AfterSteps).await;
    }

    async fn end(&self, how: End) {
        self.end.send_replace(Some(how));
        let mut reports = self.reports.clone();
        // Its end closes them.
        while reports.changed().await.is_ok() {}
    }
}

/// One app's loop, as the gatherer holds it.
struct Slot {
    want: watch::Sender<Want>,
    poke: Arc<Notify>,
    report: Option<AppReport>,
    neighbour: Neighbour,
    containers: Vec<Known>,
}

/// Why the gatherer stops listening for a moment.
enum Turn {
    Spread,
    ReadAgain,
    End,
}

struct Gatherer<H: Host> {
    host: Arc<H>,
    slots: BTreeMap<AppKey, Slot>,
    tasks: JoinSet<()>,
    ledger: Ledger,
    alarms: BTreeMap<AppKey, Vec<String>>,
    /// What the device itself says.
    notices: Vec<String>,
    wanted: BTreeMap<AppKey, Arc<App>>,
    neighbours: watch::Sender<Arc<Neighbours>>,
    reports_out: watch::Sender<Arc<Vec<AppReport>>>,
    alarms_out: watch::Sender<Arc<Vec<String>>>,
    settled_out: watch::Sender<bool>,
}

impl<H: Host> Gatherer<H> {
    async fn run(
        mut self,
        mut desired: watch::Receiver<Option<Given>>,
        mut asks: mpsc::Receiver<Ask>,
        mut end: watch::Receiver<Option<End>>,
    ) {
        let mut events = self.host.events();
        let (news_out, mut news) = mpsc::channel(NEWS_MAX);
        self.load_records().await;
        loop {
            let given = desired.borrow_and_update().clone();
            if let Some(given) = given {
                self.spread(&given, &news_out);
            }
            let turn = loop {
                let again = self.ledger.again().map(|at| at.saturating_sub(self.host.now()));
                tokio::select! {
                    () = pause(again) => break Turn::ReadAgain,
                    changed = desired.changed() => break if changed.is_ok() { Turn::Spread } else { Turn::End },
                    Some(event) = events.recv() => self.poke(event),
                    Some(one) = news.recv() => self.hear(one),
                    Some(ask) = asks.recv() => self.answer(ask),
                    Some(ended) = self.tasks.join_next() => if let Err(err) = ended && err.is_panic() {
                        tracing::error!(%err, "an app's loop ended badly");
                    },
                    _ = end.wait_for(Option::is_some) => break Turn::End,
                }
            };
            match turn {
                Turn::Spread => {}
                Turn::ReadAgain => self.load_records().await,
                Turn::End => break,
            }
        }
        let how = *end.borrow();
        if how == Some(End::AfterSteps) {
            self.finish(news, end).await;
        }
        self.tasks.shutdown().await;
    }

    /// Every app's loop ends by itself once nobody can want anything of it any more, and none begins another step.
    async fn finish(&mut self, news: mpsc::Receiver<News>, mut end: watch::Receiver<Option<End>>) {
        drop(news);
        self.slots.clear();
        tokio::select! {
            () = async { while self.tasks.join_next().await.is_some() {} } => {}
            _ = end.wait_for(|end| *end == Some(End::AtOnce)) => {}
            () = tokio::time::sleep(STEP_TIME_MAX) => {
                tracing::warn!("a step takes long and is broken off; what came of it is looked at by the next agent");
            }
        }
    }

    async fn load_records(&mut self) {
        let found = self.host.records().await;
        self.ledger.take_in(found, self.host.now());
        self.send_alarms();
    }

    /// Tells every app's loop what is wanted of it; starts the loops that are missing. An app whose record could not be
    /// read is left as it is.
    fn spread(&mut self, given: &Given, news: &mpsc::Sender<News>) {
        let document = &given.document;
        let device = Device { id: document.device.to_string(), name: document.name.to_string() };
        let listed = document.apps.iter().map(|desired| Arc::new(App::new(desired.clone())));
        let listed = listed.map(|app| (app.key().clone(), app)).collect();
        let keys = self.choose(listed, given.absence);
        // Before any loop plans: a dependency whose own loop has not begun is unknown, not unwanted.
        self.send_neighbours();
        for key in keys {
            if self.ledger.withheld(&key).is_some() {
                continue;
            }
            let want = Want { app: self.wanted.get(&key).cloned(), device: device.clone() };
            match self.slots.get(&key) {
                Some(slot) => {
                    slot.want.send_replace(want);
                }
                None => self.open(key, want, news),
            }
        }
        self.send_reports();
    }

    /// Decides what is wanted, and of which apps that is to be told.
    fn choose(&mut self, mut listed: BTreeMap<AppKey, Arc<App>>, absence: Absence) -> BTreeSet<AppKey> {
        match absence {
            Absence::Removes => {
                self.wanted = listed;
                self.wanted.keys().chain(self.slots.keys()).chain(self.ledger.keys()).cloned().collect()
            }
            Absence::Keeps => {
                for spec in self.ledger.specs() {
                    let older = |app: &Arc<App>| app.uid() != spec.uid() || app.revision() < spec.revision();
                    if listed.get(spec.key()).is_none_or(older) {
                        listed.insert(spec.key().clone(), Arc::new(spec));
                    }
                }
                // What has a loop has been told already.
                listed.retain(|key, _| !self.slots.contains_key(key));
                let keys = listed.keys().cloned().collect();
                self.wanted.extend(listed);
                keys
            }
        }
    }

    fn open(&mut self, key: AppKey, want: Want, news: &mpsc::Sender<News>) {
        let recall = self.ledger.hand_out(key.clone());
        let (want, want_in) = watch::channel(want);
        let poke = Arc::new(Notify::new());
        let neighbours = self.neighbours.subscribe();
        let task = AppTask::new(Arc::clone(&self.host), recall, want_in, Arc::clone(&poke), news.clone(), neighbours);
        self.tasks.spawn(task.run());
        self.slots
            .insert(key, Slot { want, poke, report: None, neighbour: Neighbour::default(), containers: Vec::new() });
    }

    fn poke(&mut self, event: HostEvent) {
        match event {
            HostEvent::App(key) => {
                if let Some(slot) = self.slots.get(&key) {
                    slot.poke.notify_one();
                }
            }
            HostEvent::Everything => self.slots.values().for_each(|slot| slot.poke.notify_one()),
            HostEvent::Notices(notices) => {
                self.notices = notices;
                self.send_alarms();
            }
        }
    }

    fn hear(&mut self, news: News) {
        let News { key, report, neighbour, containers, alarms } = news;
        let unwanted = !self.wanted.contains_key(&key);
        if report.is_none() && unwanted {
            // Its loop ends when it sees that nobody can want anything of it any more.
            self.slots.remove(&key);
            self.ledger.forget(&key);
        } else if let Some(slot) = self.slots.get_mut(&key) {
            slot.report = report;
            slot.neighbour = neighbour;
            slot.containers = containers;
        }
        self.alarms.insert(key, alarms);
        self.send_neighbours();
        self.send_alarms();
        self.send_reports();
    }

    /// Tells every loop how all wanted apps stand; it looks at those that it depends on.
    fn send_neighbours(&self) {
        let one = |(key, app): (&AppKey, &Arc<App>)| {
            let told = self.slots.get(key).map(|slot| slot.neighbour.clone());
            let mut neighbour = told.unwrap_or_default();
            match self.ledger.withheld(key) {
                Some(Withheld::Unread(why)) => neighbour.trouble = format!("what runs of it is unknown: {why}"),
                Some(Withheld::Unusable(why)) => neighbour.trouble = format!("failed: {why}"),
                None => {}
            }
            neighbour.wanted = Some(app.hash());
            (key.clone(), neighbour)
        };
        let all: Neighbours = self.wanted.iter().map(one).collect();
        self.neighbours.send_if_modified(|sent| {
            let changed = **sent != all;
            if changed {
                *sent = Arc::new(all);
            }
            changed
        });
    }

    fn send_alarms(&self) {
        let apps = self.ledger.alarms().chain(self.alarms.values().flatten().cloned());
        let all: Vec<String> = apps.chain(self.notices.iter().cloned()).collect();
        self.alarms_out.send_if_modified(|sent| {
            let changed = **sent != all;
            if changed {
                *sent = Arc::new(all);
            }
            changed
        });
    }

    /// An app that is in trouble, waits or is fetched is looked at: what cannot be helped keeps nobody waiting.
    fn is_settled(&self) -> bool {
        let done = |key: &AppKey| match self.ledger.withheld(key) {
            Some(Withheld::Unusable(_)) => true,
            Some(Withheld::Unread(_)) => false,
            None => self.slots.get(key).is_some_and(|slot| {
                let moving = |report: &AppReport| matches!(report.phase, Phase::Stopping | Phase::Starting);
                slot.neighbour.standing != Standing::Unknown && slot.report.as_ref().is_some_and(|one| !moving(one))
            }),
        };
        let leaving = self.slots.iter().any(|(key, slot)| !self.wanted.contains_key(key) && slot.report.is_some());
        self.wanted.keys().all(done) && !leaving
    }

    fn send_reports(&self) {
        let settled = self.is_settled();
        self.settled_out.send_if_modified(|sent| std::mem::replace(sent, settled) != settled);
        let withheld = self.wanted.iter().filter_map(|(key, app)| match self.ledger.withheld(key)? {
            Withheld::Unread(why) => Some((key, unknown(app, None, &format!("what runs is unknown: {why}")))),
            Withheld::Unusable(why) => Some((key, blocked(app, Phase::Failed, why))),
        });
        let live = self.slots.iter().filter_map(|(key, slot)| Some((key, slot.report.clone()?)));
        let all: BTreeMap<&AppKey, AppReport> = withheld.chain(live).collect();
        let reports = fit(all.into_values().collect());
        self.reports_out.send_if_modified(|sent| {
            let changed = **sent != reports;
            if changed {
                *sent = Arc::new(reports);
            }
            changed
        });
    }

    fn answer(&mut self, ask: Ask) {
        let containers = |key: &AppKey| self.slots.get(key).map(|slot| slot.containers.clone());
        streams::answer(Arc::clone(&self.host), ask, containers);
    }
}

async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
