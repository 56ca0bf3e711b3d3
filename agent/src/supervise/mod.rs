//! Joins deciding (`core`) and doing (`host`): one loop per app, and one that hands out work and gathers news.
//!
//! Until the first desired document is set nothing is touched. Dropping the supervisor leaves every app running.

mod app;
mod host;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;

use bramble_contracts::v1::{AppReport, DesiredDocument, Phase};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

pub use host::{AfterTail, FoundRecord, Host, HostError, HostEvent, LogWish, OutputStream, Piece};
pub use streams::{Chunk, ExecWish, LogsWish, StreamError};

use crate::core::app::{App, AppKey};
use crate::core::record::Record;
use crate::core::report::{blocked, fit};
use crate::core::step::Device;
use app::{AppTask, News, Want};
use streams::{Ask, Known};

/// News wait here when the gatherer is busy.
const NEWS_MAX: usize = 256;
const ASKS_MAX: usize = 32;

/// What the supervisor tells about.
pub type Reports = watch::Receiver<Arc<Vec<AppReport>>>;

/// The way to a running supervisor.
#[derive(Debug)]
pub struct SupervisorHandle {
    desired: watch::Sender<Option<Arc<DesiredDocument>>>,
    reports: Reports,
    alarms: watch::Receiver<Arc<Vec<String>>>,
    asks: mpsc::Sender<Ask>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Starts supervisors.
pub struct Supervisor;

impl Supervisor {
    /// Starts one on a device. It does nothing until it is told what is desired.
    pub fn start<H: Host>(host: Arc<H>) -> SupervisorHandle {
        let (desired, desired_in) = watch::channel(None);
        let (reports_out, reports) = watch::channel(Arc::new(Vec::new()));
        let (alarms_out, alarms) = watch::channel(Arc::new(Vec::new()));
        let (asks, asks_in) = mpsc::channel(ASKS_MAX);
        let (stop, stop_in) = watch::channel(false);
        let gatherer = Gatherer {
            host,
            slots: BTreeMap::new(),
            tasks: JoinSet::new(),
            records: BTreeMap::new(),
            damaged: BTreeMap::new(),
            alarms: BTreeMap::new(),
            wanted: BTreeMap::new(),
            reports_out,
            alarms_out,
        };
        let task = tokio::spawn(gatherer.run(desired_in, asks_in, stop_in));
        SupervisorHandle { desired, reports, alarms, asks, stop, task }
    }
}

impl SupervisorHandle {
    /// Hands over a document that was verified, accepted and made durable.
    pub fn set_desired(&self, document: Arc<DesiredDocument>) {
        self.desired.send_replace(Some(document));
    }

    /// Every app's report, as it changes; sorted by tenant and name, and small enough for one message.
    pub fn reports(&self) -> Reports {
        self.reports.clone()
    }

    /// What people should look at: damaged state, containers that are not ours in our way.
    pub fn alarms(&self) -> watch::Receiver<Arc<Vec<String>>> {
        self.alarms.clone()
    }

    /// Answers when the supervisor's own loop turns: only that says that it is alive.
    pub async fn alive(&self) -> Result<(), StreamError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Alive(reply)).await?;
        answer.await.map_err(|_| StreamError::Stopped)
    }

    /// Opens logs. Pieces arrive in the receiver, which bounds what is held; dropping it ends the stream.
    pub async fn logs(&self, wish: LogsWish) -> Result<mpsc::Receiver<Chunk>, StreamError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Logs(wish, reply)).await?;
        answer.await.map_err(|_| StreamError::Stopped)?
    }

    /// Runs a command in a container. Dropping the receiver stops listening.
    pub async fn exec(&self, wish: ExecWish) -> Result<mpsc::Receiver<Chunk>, StreamError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Exec(wish, reply)).await?;
        answer.await.map_err(|_| StreamError::Stopped)?
    }

    async fn ask(&self, ask: Ask) -> Result<(), StreamError> {
        self.asks.send(ask).await.map_err(|_| StreamError::Stopped)
    }

    /// Ends the supervisor. Apps run on.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(err) = self.task.await {
            tracing::warn!(%err, "the supervisor ended badly");
        }
    }
}

/// One app's loop, as the gatherer holds it.
struct Slot {
    want: watch::Sender<Want>,
    poke: Arc<Notify>,
    report: Option<AppReport>,
    containers: Vec<Known>,
}

struct Gatherer<H: Host> {
    host: Arc<H>,
    slots: BTreeMap<AppKey, Slot>,
    tasks: JoinSet<()>,
    records: BTreeMap<AppKey, Record>,
    damaged: BTreeMap<AppKey, String>,
    alarms: BTreeMap<AppKey, Vec<String>>,
    wanted: BTreeMap<AppKey, Arc<App>>,
    reports_out: watch::Sender<Arc<Vec<AppReport>>>,
    alarms_out: watch::Sender<Arc<Vec<String>>>,
}

impl<H: Host> Gatherer<H> {
    async fn run(
        mut self,
        mut desired: watch::Receiver<Option<Arc<DesiredDocument>>>,
        mut asks: mpsc::Receiver<Ask>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut events = self.host.events();
        let (news_out, mut news) = mpsc::channel(NEWS_MAX);
        self.load_records().await;
        loop {
            let document = desired.borrow_and_update().clone();
            if let Some(document) = document {
                self.spread(&document, &news_out);
            }
            let changed = loop {
                tokio::select! {
                    changed = desired.changed() => break changed.is_ok(),
                    Some(event) = events.recv() => self.poke(&event),
                    Some(one) = news.recv() => self.hear(one),
                    Some(ask) = asks.recv() => self.answer(ask),
                    Some(ended) = self.tasks.join_next() => if let Err(err) = ended && err.is_panic() {
                        tracing::error!(%err, "an app's loop ended badly");
                    },
                    _ = stop.wait_for(|stop| *stop) => break false,
                }
            };
            if !changed {
                break;
            }
        }
        self.tasks.shutdown().await;
    }

    async fn load_records(&mut self) {
        let found = match self.host.records().await {
            Ok(found) => found,
            Err(err) => {
                tracing::error!(%err, "cannot read what this agent has made");
                self.alarms_out.send_replace(Arc::new(vec![err.to_string()]));
                return;
            }
        };
        for one in found {
            match one {
                FoundRecord::Good(record, alarm) => {
                    self.alarms.insert(record.key.clone(), alarm.into_iter().collect());
                    self.records.insert(record.key.clone(), *record);
                }
                FoundRecord::Damaged(key, why) => {
                    self.alarms.insert(key.clone(), vec![why.clone()]);
                    self.damaged.insert(key, why);
                }
            }
        }
        self.send_alarms();
    }

    /// Tells every app's loop what is wanted of it; starts the loops that are missing.
    fn spread(&mut self, document: &DesiredDocument, news: &mpsc::Sender<News>) {
        let device = Device { id: document.device.to_string(), name: document.name.to_string() };
        let wanted = document.apps.iter().map(|desired| Arc::new(App::new(desired.clone())));
        self.wanted = wanted.map(|app| (app.key().clone(), app)).collect();
        let keys: Vec<AppKey> =
            self.wanted.keys().chain(self.slots.keys()).chain(self.records.keys()).cloned().collect();
        for key in keys {
            if self.damaged.contains_key(&key) {
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

    fn open(&mut self, key: AppKey, want: Want, news: &mpsc::Sender<News>) {
        let record = self.records.remove(&key).unwrap_or_else(|| Record::new(key.clone()));
        let (want, want_in) = watch::channel(want);
        let poke = Arc::new(Notify::new());
        let task = AppTask::new(Arc::clone(&self.host), record, want_in, Arc::clone(&poke), news.clone());
        self.tasks.spawn(task.run());
        self.slots.insert(key, Slot { want, poke, report: None, containers: Vec::new() });
    }

    fn poke(&self, event: &HostEvent) {
        match event {
            HostEvent::App(key) => {
                if let Some(slot) = self.slots.get(key) {
                    slot.poke.notify_one();
                }
            }
            HostEvent::Everything => self.slots.values().for_each(|slot| slot.poke.notify_one()),
        }
    }

    fn hear(&mut self, news: News) {
        let News { key, report, containers, alarms } = news;
        let unwanted = !self.wanted.contains_key(&key);
        if report.is_none() && unwanted {
            // Its loop ends when it sees that nobody can want anything of it any more.
            self.slots.remove(&key);
        } else if let Some(slot) = self.slots.get_mut(&key) {
            slot.report = report;
            slot.containers = containers;
        }
        let before = self.alarms.get(&key).cloned().unwrap_or_default();
        if before != alarms && (!alarms.is_empty() || !self.damaged.contains_key(&key)) {
            self.alarms.insert(key, alarms);
            self.send_alarms();
        }
        self.send_reports();
    }

    fn send_alarms(&self) {
        self.alarms_out.send_replace(Arc::new(self.alarms.values().flatten().cloned().collect()));
    }

    fn send_reports(&self) {
        let damaged = self.damaged.iter().filter_map(|(key, why)| {
            let app = self.wanted.get(key)?;
            Some((key, blocked(app, Phase::Failed, why)))
        });
        let live = self.slots.iter().filter_map(|(key, slot)| Some((key, slot.report.clone()?)));
        let all: BTreeMap<&AppKey, AppReport> = damaged.chain(live).collect();
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
