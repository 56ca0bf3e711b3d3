//! How the agent stands, as far as upgrades mind: connected since when, and whether dates can be judged.
//!
//! Decides what of it is news.

use bramble_contracts::v2::ClockReport;

use super::board::View;
use crate::core::clock;
use crate::core::upgrade::{Clock, Mesh};
use crate::host::clock::up_ms;

/// What was seen last.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) mesh: Mesh,
    clock: ClockReport,
}

impl Standing {
    /// Before anything was seen.
    pub(crate) fn new() -> Self {
        Self { mesh: Mesh::Down, clock: ClockReport::default() }
    }

    /// Takes in a view; true when it is news. A wrong clock is by its verdict: its words count seconds, and are others each time.
    pub(crate) fn saw(&mut self, view: &View) -> bool {
        let mesh = match (view.connected, self.mesh) {
            (true, Mesh::Up { since_ms }) => Mesh::Up { since_ms },
            (true, Mesh::Down) => Mesh::Up { since_ms: up_ms() },
            (false, _) => Mesh::Down,
        };
        let is_news = (mesh, view.clock.verdict) != (self.mesh, self.clock.verdict);
        (self.mesh, self.clock) = (mesh, view.clock.clone());
        is_news
    }

    /// The clock, in its newest words.
    pub(crate) fn clock(&self) -> Clock {
        match clock::require(&self.clock) {
            Ok(_) => Clock::Fit,
            Err(err) => Clock::Unfit(err.to_string()),
        }
    }
}
