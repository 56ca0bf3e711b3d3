//! What runs beside everything else for an upgrade: at most one of judging, staging and testing, and one halt.
//!
//! Decides that a new one ends the one before it. Answers are events.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::download::Progress;
use crate::supervise::SupervisorHandle;

/// A task that ends when this is dropped.
struct Job(AbortHandle);

impl Drop for Job {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Jobs {
    work: Option<Job>,
    halt: Option<(Job, Option<Arc<SupervisorHandle>>)>,
    /// Bytes of the binary that are there.
    pub(super) progress: Progress,
}

impl Jobs {
    /// Begins one, and ends what was under way.
    pub(super) fn begin(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.abandon();
        self.work = Some(Job(tokio::spawn(work).abort_handle()));
    }

    /// Ends what is under way.
    pub(super) fn abandon(&mut self) {
        self.work = None;
    }

    /// Is anything under way?
    pub(super) fn is_busy(&self) -> bool {
        self.work.as_ref().is_some_and(|job| !job.0.is_finished())
    }

    /// Is a halt under way?
    pub(super) fn is_halting(&self) -> bool {
        self.halt.as_ref().is_some_and(|(job, _)| !job.0.is_finished())
    }

    /// Begins a halt of what this supervises.
    pub(super) fn halt(
        &mut self,
        supervisor: Option<Arc<SupervisorHandle>>,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.halt = Some((Job(tokio::spawn(work).abort_handle()), supervisor));
    }

    /// Ends a halt that is under way: what was supervised is not any more when this returns.
    pub(super) async fn end_halt(&mut self) {
        if let Some((job, supervisor)) = self.halt.take() {
            drop(job);
            if let Some(supervisor) = supervisor {
                supervisor.shutdown().await;
            }
        }
    }
}
