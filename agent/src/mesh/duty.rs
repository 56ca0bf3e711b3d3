//! Duty: an agent that acts supervises apps, answers commands, writes reports and state; one that does not is connected,
//! beats and waits. Two agents of a device share one state folder, so only the one on duty writes to it.
//!
//! Decides nothing: whoever holds the acting lease goes on duty.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::host::logs::Logs;
use crate::supervise::SupervisorHandle;

/// What an agent on duty works with. Whoever works for it holds a clone, and drops it when it ends.
#[derive(Clone)]
pub(crate) struct Duty {
    pub(crate) supervisor: Arc<SupervisorHandle>,
    pub(crate) logs: Logs,
    _held: mpsc::Sender<Infallible>,
}

/// The right to write to the state that two agents share: whoever is on duty has it.
#[derive(Clone, Debug)]
pub(crate) struct Pen(watch::Receiver<bool>);

/// Says who is on duty.
pub(crate) struct Roster {
    now: watch::Sender<Option<Duty>>,
    pen: watch::Sender<bool>,
    last: Option<mpsc::Receiver<Infallible>>,
}

/// Whether this agent is on duty, and with what.
#[derive(Clone)]
pub(crate) struct OnDuty(watch::Receiver<Option<Duty>>);

impl Default for Roster {
    fn default() -> Self {
        Self { now: watch::Sender::new(None), pen: watch::Sender::new(false), last: None }
    }
}

impl Roster {
    pub(crate) fn look(&self) -> OnDuty {
        OnDuty(self.now.subscribe())
    }

    pub(crate) fn pen(&self) -> Pen {
        Pen(self.pen.subscribe())
    }

    pub(crate) fn begin(&mut self, supervisor: Arc<SupervisorHandle>, logs: Logs) {
        let (held, last) = mpsc::channel(1);
        self.last = Some(last);
        self.pen.send_replace(true);
        self.now.send_replace(Some(Duty { supervisor, logs, _held: held }));
    }

    /// Ends it.
    pub(crate) fn end(&mut self) -> Working {
        self.pen.send_replace(false);
        self.now.send_replace(None);
        Working(self.last.take())
    }
}

/// Whoever still works for a duty that has ended.
pub(crate) struct Working(Option<mpsc::Receiver<Infallible>>);

impl Working {
    /// Waits until nobody does, at most so long.
    pub(crate) async fn ended(self, within: Duration) {
        if let Some(mut last) = self.0
            && tokio::time::timeout(within, last.recv()).await.is_err()
        {
            tracing::warn!("a command did not end in time");
        }
    }
}

impl Pen {
    /// Has this agent got it now?
    pub(crate) fn is_ours(&self) -> bool {
        *self.0.borrow()
    }

    /// One for tests of what is written.
    #[cfg(test)]
    pub(crate) fn ours() -> Self {
        Self(watch::channel(true).1)
    }
}

impl OnDuty {
    /// With what it works; `None` when it does not.
    pub(crate) fn duty(&self) -> Option<Duty> {
        self.0.borrow().clone()
    }

    /// Waits for a change.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the end of it.
    pub(crate) async fn ended(mut self) {
        // Gone with the agent, or over: both are the end.
        drop(self.0.wait_for(Option::is_none).await);
    }
}
