//! What is so at the moment a step is decided: read by the host just before it, and an input like any other. Units are read
//! before the volumes and autoboot.txt: what a unit says it did is to be seen there.

use std::collections::BTreeMap;

use bramble_contracts::boot::{BootRecord, Slot, Snapshot, Why};
use serde::{Deserialize, Serialize};

use super::effect::Verb;
use super::packages::Plan;
use super::reason::Reason;
use super::wish::{Closed, Protection, Ticket, Wish};
use crate::core::upgrade::{Clock, Mesh};

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// Milliseconds since boot.
    pub up_ms: u64,
    /// Changes with every boot.
    pub boot: String,
    /// What the newest accepted document asks for. None changes nothing.
    pub wish: Option<Wish>,
    /// What brings the old system back here.
    pub protection: Protection,
    /// The volume group.
    pub volumes: Volumes,
    /// The slot whose files were booted; absent where nobody knows.
    pub booted: Option<Slot>,
    /// The slot that autoboot.txt names now.
    pub autoboot: Option<Slot>,
    /// What the guard says of this boot; absent where it did not run.
    pub record: Option<BootRecord>,
    /// What the guard noted when it put root back, since that was forgotten last.
    pub put_back: Option<Why>,
    /// Which run made this root, by root itself.
    pub stamp: Option<Ticket>,
    /// Units that run, or left a result; the others did not.
    pub units: BTreeMap<Verb, Unit>,
    /// What the probation unit said last.
    pub sentence: Option<Sentence>,
    /// How much room there is; absent where it cannot be read.
    pub room: Option<Room>,
    /// The desired apps, by name.
    pub apps: Apps,
    /// The connection.
    pub mesh: Mesh,
    /// What the wall clock is worth.
    pub clock: Clock,
    /// Is the window of the wish open? It matters only to what has not begun.
    pub window: Result<(), Closed>,
    /// Does the agent replace itself meanwhile?
    pub own_upgrade: OwnUpgrade,
    /// What the last kernel that died left, since the last plain boot.
    pub panic: Option<String>,
    /// How long things may take.
    #[serde(default)]
    pub bounds: Bounds,
}

/// The volume group, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Volumes {
    /// It could not be, in words; never the same as "no upgrade".
    Unreadable(String),
    /// There is no snapshot, or one without a phase among its tags, which is of no upgrade.
    Plain,
    /// An upgrade is under way.
    Snapshot(Snapshot),
}

/// The agent's own upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OwnUpgrade {
    /// None is under way.
    Idle,
    /// One is.
    UnderWay,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unit {
    /// It runs, or is about to.
    Running,
    /// It left a result.
    Ended(UnitResult),
}

/// What a unit leaves in a file on the state volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitResult {
    /// For which run.
    pub ticket: Ticket,
    /// In which boot.
    pub boot: String,
    /// What came of it. A plan only from [`Verb::Plan`].
    pub result: Result<Option<Plan>, UnitFailure>,
}

/// Why a unit could not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitFailure {
    /// What it is about.
    pub about: About,
    /// In words.
    pub why: String,
}

/// What a failure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum About {
    /// The packages: one failed, one asks, or the result is not whole.
    Packages,
    /// Room.
    Room,
    /// An archive that is out of reach.
    Archive,
    /// Its condition does not hold.
    Condition,
    /// Something else.
    Other,
}

impl UnitFailure {
    pub(super) fn reason(&self, verb: Verb) -> Reason {
        let why = self.why.clone();
        match self.about {
            About::Packages => Reason::Packages(why),
            About::Room => Reason::NoRoom(why),
            About::Archive => Reason::Unreachable(why),
            About::Condition | About::Other => Reason::Step { verb, why },
        }
    }
}

/// The probation unit's word: it has tagged the snapshot failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sentence {
    /// Of which run, as far as it knew.
    pub ticket: Option<Ticket>,
    /// Why.
    pub reason: Reason,
}

/// Room, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    /// Free in the thin pool.
    pub pool_free: u64,
    /// Size of root.
    pub root: u64,
    /// Of the pool's metadata, in percent, rounded up.
    pub metadata_percent: u8,
    /// Free where packages are fetched to.
    pub fetch_free: u64,
    /// Free on the state volume.
    pub state_free: u64,
}

/// Apps by name.
pub type Apps = BTreeMap<String, App>;

/// How an app is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct App {
    /// The revision that runs.
    pub revision: u64,
    /// What is wrong with it; nothing where it is healthy.
    pub sick: Option<String>,
}

/// How long things may take, in milliseconds of uptime, and how often they may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bounds {
    /// `plan`.
    pub plan_ms: u64,
    /// `fetch`.
    pub fetch_ms: u64,
    /// `apply`.
    pub apply_ms: u64,
    /// Every other unit.
    pub unit_ms: u64,
    /// From the wish for a reboot until it is asked for again, by force.
    pub reboot_ms: u64,
    /// Until what did not work is tried again.
    pub mend_ms: u64,
    /// How often a unit is started for one thing.
    pub starts: u8,
    /// Boots in which the preflight may be cut off.
    pub preflight_boots: u8,
    /// Reboots that try to reach the old system, besides those of the guard.
    pub returns: u8,
    /// Doubts after which the packages are to blame.
    pub strikes: u8,
    /// Failures of one attempt that nobody is to blame for, until it is refused.
    pub failures: u8,
    /// The first pause after one; it doubles.
    pub pause_ms: u64,
    /// The longest pause.
    pub pause_max_ms: u64,
    /// A pause is over after so many boots, however short they were.
    pub pause_boots: u8,
    /// Bytes that stay free beside a download.
    pub reserve_bytes: u64,
    /// Bytes that are free on the state volume when an upgrade begins: for the journal and for reports.
    pub state_bytes: u64,
    /// The pool's metadata may be so full when an upgrade begins.
    pub metadata_percent: u8,
}

impl Default for Bounds {
    fn default() -> Self {
        const MINUTE: u64 = 60_000;
        Self {
            plan_ms: 15 * MINUTE,
            fetch_ms: 6 * 60 * MINUTE,
            apply_ms: 3 * 60 * MINUTE,
            unit_ms: 10 * MINUTE,
            reboot_ms: 5 * MINUTE,
            mend_ms: MINUTE / 2,
            starts: 3,
            preflight_boots: 3,
            returns: 5,
            strikes: 2,
            failures: 4,
            pause_ms: 10 * MINUTE,
            pause_max_ms: 6 * 60 * MINUTE,
            pause_boots: 5,
            reserve_bytes: 64 << 20,
            state_bytes: 64 << 20,
            metadata_percent: 50,
        }
    }
}

impl Bounds {
    pub(super) fn unit(&self, verb: Verb) -> u64 {
        match verb {
            Verb::Plan => self.plan_ms,
            Verb::Fetch => self.fetch_ms,
            Verb::Apply => self.apply_ms,
            Verb::Snapshot | Verb::Arm | Verb::Fail | Verb::Commit | Verb::Remove | Verb::Resync | Verb::Mend => {
                self.unit_ms
            }
        }
    }
}
