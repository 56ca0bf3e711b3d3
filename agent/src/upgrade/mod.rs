//! The driver of the agent's own upgrade.

use tokio::sync::mpsc;

use crate::config::Config;
use crate::mesh::{Agent, Word};
use crate::run::Ended;

/// What the upgrade wants of an agent that acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Let the lease go, and wait for it again.
    LetGo,
    /// End.
    End(Ended),
}

/// Drives the upgrade.
pub(crate) struct Driver {
    words: mpsc::Receiver<Word>,
}

impl Driver {
    pub(crate) fn new(_config: &Config, _agent: &Agent, words: mpsc::Receiver<Word>) -> anyhow::Result<Self> {
        Ok(Self { words })
    }

    pub(crate) async fn wait(&mut self, _agent: &Agent) -> Ended {
        while self.words.recv().await.is_some() {}
        std::future::pending().await
    }

    pub(crate) async fn act(&mut self, _agent: &Agent) -> Order {
        while self.words.recv().await.is_some() {}
        std::future::pending().await
    }
}
