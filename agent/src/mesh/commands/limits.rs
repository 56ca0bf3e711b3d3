//! When is a session over? Pure: all times are the device's uptime.
//!
//! Decides: idle and total time, and how long the coordinator may be silent. Does not decide what is done then.

use std::fmt;
use std::time::Duration;

use bramble_contracts::quantity::Millis;
use bramble_contracts::v1::SESSION_SILENCE;

use crate::mesh::identity::millis;

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing was typed or printed for so long.
    Idle(Duration),
    /// It took so long in all.
    Total(Duration),
    /// Nothing was heard of the coordinator.
    Silent,
    /// Nobody listens any more.
    HungUp,
    /// A part of the input is missing.
    Torn,
    /// More input came than may wait.
    Flooded,
    /// The agent ends.
    Stopping,
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let long = |time: &Duration| Millis(millis(*time));
        let so = "so the program was ended";
        match self {
            Self::Idle(time) => {
                write!(f, "nothing was typed or printed for {}, {so}: --idle sets this time", long(time))
            }
            Self::Total(time) => write!(f, "its time of {} is over, {so}: --timeout sets this time", long(time)),
            Self::Silent => write!(f, "the coordinator was not heard for {}, {so}", long(&SESSION_SILENCE)),
            Self::HungUp => write!(f, "nobody listens any more, {so}"),
            Self::Torn => write!(f, "a part of the input was lost on its way, {so}: begin again"),
            Self::Flooded => write!(f, "more input came than may wait, {so}: the coordinator does not keep its bounds"),
            Self::Stopping => write!(f, "the agent is stopping, {so}: begin again in a moment"),
        }
    }
}

/// The limits of one session, and what has happened in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    idle: Duration,
    total: Duration,
    began: Duration,
    moved: Duration,
    heard: Duration,
}

impl Limits {
    /// Of a session that begins now.
    pub(super) fn new(idle: Duration, total: Duration, now: Duration) -> Self {
        Self { idle, total, began: now, moved: now, heard: now }
    }

    /// Something was typed or printed.
    pub(super) fn moved(&mut self, now: Duration) {
        self.moved = now;
    }

    /// The coordinator said something.
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = now;
    }

    fn ends(&self) -> [(Duration, Over); 3] {
        [
            (self.began + self.total, Over::Total(self.total)),
            (self.moved + self.idle, Over::Idle(self.idle)),
            (self.heard + SESSION_SILENCE, Over::Silent),
        ]
    }

    /// Is it over, and why?
    pub(super) fn over(&self, now: Duration) -> Option<Over> {
        self.ends().into_iter().find(|(at, _)| *at <= now).map(|(_, why)| why)
    }

    /// How long until it is, if nothing happens.
    pub(super) fn left(&self, now: Duration) -> Duration {
        self.ends().into_iter().map(|(at, _)| at.saturating_sub(now)).min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_comes_first_ends_it() {
        let mut limits = Limits::new(secs(10), secs(100), secs(1000));
        assert_eq!((limits.over(secs(1009)), limits.left(secs(1009))), (None, secs(1)));
        assert_eq!(limits.over(secs(1010)), Some(Over::Idle(secs(10))));
        for at in (1009..1099).step_by(9) {
            limits.moved(secs(at));
            limits.heard(secs(at));
        }
        assert_eq!((limits.over(secs(1099)), limits.left(secs(1099))), (None, secs(1)), "busy all the time");
        assert_eq!(limits.over(secs(1100)), Some(Over::Total(secs(100))), "and yet not for ever");
    }

    #[test]
    fn a_silent_coordinator_ends_it_also_where_more_is_allowed() {
        let mut limits = Limits::new(secs(3600), secs(7200), secs(0));
        limits.moved(secs(50));
        assert_eq!(limits.over(SESSION_SILENCE), Some(Over::Silent));
        limits.heard(secs(59));
        assert_eq!(limits.over(SESSION_SILENCE), None);
        assert_eq!(limits.left(secs(60)), SESSION_SILENCE - secs(1));
    }

    #[test]
    fn people_are_told_why_and_what_to_do() {
        assert_eq!(
            Over::Idle(secs(600)).to_string(),
            "nothing was typed or printed for 10m, so the program was ended: --idle sets this time"
        );
        assert!(Over::Total(secs(90)).to_string().contains("its time of 90s is over"));
    }
}
