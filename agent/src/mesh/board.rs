//! What the parts of the agent know of each other: one small shared view that the report and `status` are made of.
//!
//! Decides nothing: whoever knows a thing writes it here, whoever needs it looks or waits for a change.

use std::collections::BTreeMap;
use std::sync::Arc;

use bramble_contracts::v1::Refusal;
use bramble_contracts::v2::{AgentReport, ClockReport};
use bramble_contracts::v3::{DesiredDocument, OsReport};
use tokio::sync::watch;

use crate::core::clock::{self, ClockFit, ClockUnfit};

/// Where an alarm comes from; there is one of each at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// The broker denied a publish or a subscription.
    Denied,
    /// The stored desired document.
    StoredDocument,
    /// A new desired document cannot be stored.
    CannotStore,
    /// The trust document.
    Trust,
    /// Podman's service.
    Podman,
    /// Podman's store.
    Store,
    /// Messages came faster than they could be handled.
    Flood,
    /// The wall clock is wrong, or its sources contradict each other.
    Clock,
    /// The floor of the clock cannot be read or written.
    ClockFloor,
    /// The agent's own upgrade: its files, or whoever starts it.
    Upgrade,
    /// OS upgrades: their files.
    OsUpgrade,
}

/// How the agent stands with the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The broker answers, and to whom it was.
    pub connected: bool,
    /// In words, for `status`.
    pub link: String,
    /// The document acted on.
    pub desired: Option<Arc<DesiredDocument>>,
    /// Was the document read from the broker since this agent acts?
    pub fresh: bool,
    /// The last few refused messages, newest last.
    pub refused: Vec<Refusal>,
    /// What people should look at.
    pub alarms: BTreeMap<Alarm, String>,
    /// What the wall clock is worth.
    pub clock: ClockReport,
    /// The agent itself, as a program.
    pub program: AgentReport,
    /// The operating system, as the agent sees it.
    pub os: OsReport,
    /// An upgrade of the operating system keeps the apps as they are: changes are stored, and acted on later.
    pub holds_apps: bool,
    /// Reports acknowledged by the broker in this session.
    pub reports_acked: u64,
}

/// The shared view. Clones share it.
#[derive(Debug, Clone)]
pub struct Board(Arc<watch::Sender<View>>);

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(View::default())))
    }
}

impl Board {
    /// What it says now.
    pub fn view(&self) -> View {
        self.0.borrow().clone()
    }

    /// Hears of every change.
    pub fn changes(&self) -> watch::Receiver<View> {
        self.0.subscribe()
    }

    /// What the wall clock is worth.
    pub fn clock(&self) -> ClockReport {
        self.0.borrow().clock.clone()
    }

    /// Whoever needs a right clock asks here, each time anew.
    pub fn clock_fit(&self) -> Result<ClockFit, ClockUnfit> {
        clock::require(&self.0.borrow().clock)
    }

    /// Changes it; nobody is woken where nothing changed.
    pub fn update(&self, change: impl FnOnce(&mut View)) {
        self.0.send_if_modified(|view| {
            let before = view.clone();
            change(view);
            *view != before
        });
    }

    /// Raises an alarm, or says it anew.
    pub fn alarm(&self, alarm: Alarm, text: impl Into<String>) {
        let text: String = text.into().chars().take(300).collect();
        self.update(|view| {
            if view.alarms.get(&alarm) != Some(&text) {
                tracing::warn!(?alarm, "{text}");
                view.alarms.insert(alarm, text);
            }
        });
    }

    /// Takes an alarm back.
    pub fn clear(&self, alarm: Alarm) {
        self.update(|view| {
            view.alarms.remove(&alarm);
        });
    }
}
