//! Why an upgrade did not go on, in words for people, and whose fault that is.
//!
//! Decides the words, and what a package set is to blame for. No verdict on packages: no broker, no power, no room, no time.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::effect::Verb;
use super::wish::Protection;

/// Why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Never connected since the reboot.
    NoBroker {
        /// Milliseconds of uptime.
        for_ms: u64,
    },
    /// The connection did not hold.
    LostBroker {
        /// Milliseconds it had to.
        needed_ms: u64,
    },
    /// An app that was well before is not.
    AppUnhealthy {
        /// Its name.
        app: String,
        /// What its probe says.
        why: String,
    },
    /// An app that was well before is not there.
    AppMissing(String),
    /// An app runs another revision than before.
    AppChanged {
        /// Its name.
        app: String,
        /// Then.
        was: u64,
        /// Now.
        is: u64,
    },
    /// What the clock guard says.
    ClockUnfit(String),
    /// Now and then all was well, and never for long enough.
    NotSteady {
        /// Milliseconds it had to be.
        needed_ms: u64,
    },
    /// The agent did not look after the trial.
    AgentSilent {
        /// Milliseconds of uptime.
        for_ms: u64,
    },
    /// What was found in the memory that survives a reset.
    KernelPanic(String),
    /// The guard saw the old slot again, and nobody saw the new system.
    DidNotComeUp,
    /// The new system was there, and was reset before it was judged.
    Reset {
        /// Boots in which it was there.
        boots: u8,
    },
    /// The guard says so, and nobody says why.
    JudgedFailed,
    /// While packages were written.
    PowerCut,
    /// Boots in a row in which the preflight was cut off.
    Interrupted,
    /// apt or what its packages run failed, or the result is not whole.
    Packages(String),
    /// Not enough room, in words.
    NoRoom(String),
    /// An archive could not be reached, in words.
    Unreachable(String),
    /// A unit failed.
    Step {
        /// Which.
        verb: Verb,
        /// In words.
        why: String,
    },
    /// A unit did not end in its time.
    Hung(Verb),
    /// A unit ended, again and again, and left no result.
    Lost(Verb),
    /// The boot guard did not run in this boot: the next upgrade could not be put back.
    GuardSilent,
    /// Root is not the one that packages were written to.
    RootIsOther,
    /// There was a snapshot of somebody else.
    SnapshotThere,
    /// The snapshot went while packages were written: there is no way back.
    SnapshotGone,
    /// What was known of it is lost.
    LedgerLost,
    /// Root and slot are of different systems.
    Mismatch,
    /// Something stood in its way, in words.
    Hindered(String),
    /// These packages failed before.
    FailedBefore(Box<Reason>),
    /// The wish makes no sense.
    Flaw(String),
    /// The device protects itself less than was asked for.
    Weak {
        /// What it has.
        is: Protection,
        /// What was asked for.
        asked: Protection,
    },
    /// There was nothing to do.
    NothingToDo,
}

/// Whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// The packages': the set is refused until the next attempt.
    Packages,
    /// Perhaps the packages': so many of these, and it is.
    Doubt,
    /// Nobody's.
    Nobody,
    /// The wish's: it is refused until the next attempt, and its packages are not.
    Wish,
}

impl Reason {
    /// The same, told at this uptime.
    pub(super) fn at(&self, up_ms: u64) -> Self {
        match self {
            Self::NoBroker { .. } => Self::NoBroker { for_ms: up_ms },
            other => other.clone(),
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::AppUnhealthy { .. }
            | Self::AppMissing(_)
            | Self::AgentSilent { .. }
            | Self::KernelPanic(_)
            | Self::DidNotComeUp
            | Self::Packages(_)
            | Self::Hung(Verb::Apply)
            | Self::GuardSilent => Fault::Packages,
            Self::Reset { .. } | Self::JudgedFailed | Self::NotSteady { .. } | Self::Lost(Verb::Apply) => Fault::Doubt,
            Self::FailedBefore(_) | Self::Flaw(_) | Self::Weak { .. } => Fault::Wish,
            Self::NoBroker { .. }
            | Self::LostBroker { .. }
            | Self::AppChanged { .. }
            | Self::ClockUnfit(_)
            | Self::PowerCut
            | Self::Interrupted
            | Self::NoRoom(_)
            | Self::Unreachable(_)
            | Self::Step { .. }
            | Self::Hung(_)
            | Self::Lost(_)
            | Self::RootIsOther
            | Self::SnapshotThere
            | Self::SnapshotGone
            | Self::LedgerLost
            | Self::Mismatch
            | Self::Hindered(_)
            | Self::NothingToDo => Fault::Nobody,
        }
    }
}

/// Milliseconds as people say them.
pub(super) fn time(ms: u64) -> String {
    let secs = ms / 1000;
    if secs >= 60 && secs.is_multiple_of(60) { format!("{} min", secs / 60) } else { format!("{secs} s") }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBroker { for_ms } => write!(f, "no broker for {} after reboot", time(*for_ms)),
            Self::LostBroker { needed_ms } => write!(f, "the broker was lost: it has to stay for {}", time(*needed_ms)),
            Self::AppUnhealthy { app, why } => write!(f, "app {app} unhealthy: {why}"),
            Self::AppMissing(app) => write!(f, "app {app} is missing"),
            Self::AppChanged { app, was, is } => write!(f, "app {app} runs revision {is}, it was {was}"),
            Self::ClockUnfit(why) => write!(f, "the clock is not fit: {why}"),
            Self::NotSteady { needed_ms } => write!(f, "it was never well for {} without a break", time(*needed_ms)),
            Self::AgentSilent { for_ms } => write!(f, "the agent did nothing for {} after reboot", time(*for_ms)),
            Self::KernelPanic(text) => write!(f, "kernel panic: {text}"),
            Self::DidNotComeUp => f.write_str("the new system did not come up"),
            Self::Reset { boots } => write!(f, "the new system was reset before it was judged, in {boots} boots"),
            Self::JudgedFailed => f.write_str("the new system was judged failed"),
            Self::PowerCut => f.write_str("the power was cut while packages were written"),
            Self::Interrupted => f.write_str("the device was reset again and again before anything was done"),
            Self::Packages(why) => write!(f, "packages failed: {why}"),
            Self::NoRoom(why) => write!(f, "no room: {why}"),
            Self::Unreachable(why) => write!(f, "packages cannot be fetched: {why}"),
            Self::Step { verb, why } => write!(f, "could not {verb}: {why}"),
            Self::Hung(verb) => write!(f, "could not {verb}: it did not end in its time"),
            Self::Lost(verb) => write!(f, "could not {verb}: it ended without a word"),
            Self::GuardSilent => f.write_str("the boot guard did not run"),
            Self::RootIsOther => f.write_str("root is not the one that packages were written to"),
            Self::SnapshotThere => f.write_str("there is a snapshot of root already"),
            Self::SnapshotGone => f.write_str("the snapshot is gone, and with it the way back"),
            Self::LedgerLost => f.write_str("what was known of this upgrade is lost"),
            Self::Mismatch => f.write_str("root and boot files are of different systems"),
            Self::Hindered(why) | Self::Flaw(why) => f.write_str(why),
            Self::FailedBefore(why) => write!(f, "these packages failed before: {why}"),
            Self::Weak { is, asked } => write!(f, "the protection of this device is {is}, asked for was {asked}"),
            Self::NothingToDo => f.write_str("there is nothing to upgrade"),
        }
    }
}
