//! How long to wait before the next try: doubles, and is bounded.
//!
//! Deterministic: jitter against herds belongs to whoever talks to a shared server.

use std::time::Duration;

/// A doubling pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Pauses from `first` up to `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// The pause after `failures` failures in a row; none before the first.
    pub fn delay(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        let factor = 1u32.checked_shl(doublings.min(30)).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max)
    }
}

/// Restarts of a container that ended: the first at once, so that a single crash costs no time.
pub const RESTART: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));

/// The pause before restart number `crashes` (1 is the first).
pub fn restart_delay(crashes: u32) -> Duration {
    RESTART.delay(crashes.saturating_sub(1))
}

/// Steps that failed: a pull, a create, an init container.
pub const RETRY: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(300));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_and_is_bounded() {
        let secs: Vec<u64> = (0..12).map(|n| RESTART.delay(n).as_secs()).collect();
        assert_eq!(secs, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(RESTART.delay(u32::MAX).as_secs(), 300);
    }

    #[test]
    fn the_first_crash_costs_nothing() {
        let secs: Vec<u64> = (1..6).map(|n| restart_delay(n).as_secs()).collect();
        assert_eq!(secs, [0, 1, 2, 4, 8]);
    }
}
