//! What is remembered of OS upgrades in `state/os/ledger.json`: what is under way, what is refused, how the last one ended.
//!
//! One writer: the agent that acts. It lies on the state volume, so it survives a root that is put back.

use bramble_contracts::boot::Slot;
use bramble_contracts::bytes::Sha256;
use bramble_contracts::v1::Status;
use serde::{Deserialize, Serialize};

use super::facts::Apps;
use super::packages::Plan;
use super::probation::{SIGN_MS, Watch};
use super::reason::Reason;
use super::wish::{Protection, Ticket, Wish};
use crate::core::upgrade::Moment;

/// Package sets and wishes that are remembered as refused, the newest last.
const DENIED_MAX: usize = 16;

/// The file: a ledger and its format. A newer format gets a variant and a conversion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "format")]
pub enum LedgerFile {
    /// The first one.
    #[serde(rename = "1")]
    V1(Ledger),
}

impl From<LedgerFile> for Ledger {
    fn from(file: LedgerFile) -> Self {
        match file {
            LedgerFile::V1(ledger) => ledger,
        }
    }
}

/// All of it. A device that has never upgraded has an empty one, and so has one whose file is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// What is under way.
    pub upgrade: Option<Upgrade>,
    /// What is refused, the newest last.
    pub denied: Vec<Denied>,
    /// How often the last attempt failed without being refused.
    pub tally: Option<Tally>,
    /// How the last upgrade ended.
    pub last: Option<Outcome>,
}

/// An upgrade under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// Which run of it.
    pub ticket: Ticket,
    /// What is asked.
    pub wish: Wish,
    /// What brings the old system back, as it was at preflight.
    pub protection: Protection,
    /// The slot that is written; absent before it is chosen.
    pub slot: Option<Slot>,
    /// What changes; absent before it is planned.
    pub plan: Option<Plan>,
    /// The apps, as they were at preflight.
    pub before: Apps,
    /// Where it is.
    pub phase: Phase,
    /// Since when it is there, or since when in this boot.
    pub since: Moment,
    /// Starts of what the phase waits for.
    pub started: Option<Started>,
    /// Boots that cut the preflight off.
    pub cut_off: u8,
    /// Reboots that tried to reach the old system, or to learn which one is there.
    pub returns: u8,
    /// What earlier boots took, as far as they are known, in milliseconds.
    pub spent_ms: u64,
    /// From the start of the new kernel until all was well, in milliseconds.
    pub down_ms: Option<u64>,
    /// What does not work, and is tried again, in words.
    pub trouble: Option<String>,
}

/// Starts of a unit, or wishes for a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// The last one.
    pub at: Moment,
    /// How many there were.
    pub times: u8,
}

/// Where an upgrade is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Preflight: apt is asked what it would do.
    Planning,
    /// Preflight: packages are fetched.
    Fetching,
    /// The snapshot is made.
    Snapshot,
    /// Packages are written.
    Applying,
    /// The snapshot is tagged for a trial.
    Arming,
    /// The reboot on trial is asked for.
    Armed,
    /// The new system is watched.
    Trial(Trial),
    /// It is well, and is committed.
    Committing {
        /// Boots of the trial so far.
        boots: u8,
        /// What they took.
        spent_ms: u64,
    },
    /// Whether it is committed is in doubt: a plain reboot will tell.
    Unsettled,
    /// It is committed; the snapshot is removed.
    Removing,
    /// The old slot gets the new files.
    Resyncing,
    /// autoboot.txt names another slot than the one that root follows: it is mended. With the reason of a root that was put
    /// back.
    Mending(Option<Reason>),
    /// It failed; the snapshot is tagged so.
    Failing(Reason),
    /// The reboot into the old system is asked for.
    Returning(Reason),
    /// The old system cannot be reached. It waits for people.
    Degraded(Reason),
}

/// A trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// Boots in which it was watched, this one included.
    pub boots: u8,
    /// What the earlier ones took, in milliseconds.
    pub spent_ms: u64,
    /// Of this boot.
    pub watch: Watch,
}

impl Trial {
    /// What all boots took, this one included, as far as it is known. None counts as nothing, however short it was.
    pub(super) fn spent_with(&self, watch: &Watch) -> u64 {
        self.spent_ms.saturating_add(watch.looked_ms.max(SIGN_MS))
    }
}

/// A wish or a package set that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denied {
    /// Of this wish, at this attempt and those before.
    pub wish: String,
    /// The attempt.
    pub attempt: u32,
    /// The packages, of any wish at its first attempt; absent where they are not to blame.
    pub set: Option<Sha256>,
    /// Failed or rolled back.
    pub status: Status,
    /// Why.
    pub reason: Reason,
}

/// Failures of one attempt that did not deny it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Of which wish.
    pub wish: String,
    /// At which attempt.
    pub attempt: u32,
    /// All.
    pub failures: u8,
    /// Those in doubt.
    pub strikes: u8,
    /// When it failed last.
    pub since: Moment,
    /// Boots since then.
    pub boots: u8,
    /// The boot that was counted last.
    pub boot: String,
}

/// How an upgrade ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Which run.
    pub ticket: Ticket,
    /// Confirmed, rolled back or failed.
    pub status: Status,
    /// Why; absent when it was confirmed with changes.
    pub reason: Option<Reason>,
    /// Is the package set refused from now on?
    pub blamed: bool,
    /// What changed, or was to change.
    pub plan: Option<Plan>,
    /// Apps that were sick before and did not count.
    pub sick_before: Vec<String>,
    /// From its beginning to its end in milliseconds, without what firmware took; at least.
    pub took_ms: u64,
    /// From the start of the new kernel until all was well, in milliseconds.
    pub down_ms: Option<u64>,
}

impl Ledger {
    /// The refusal of this attempt at this wish.
    pub fn denial(&self, wish: &Wish) -> Option<&Denied> {
        self.denied.iter().find(|denied| denied.wish == wish.id && denied.attempt >= wish.attempt)
    }

    /// The refusal of these packages, wished by another campaign; a retry is heard.
    pub fn refuses(&self, wish: &Wish, set: &Sha256) -> Option<&Denied> {
        let same = |denied: &&Denied| denied.set.as_ref() == Some(set) && denied.wish != wish.id;
        self.denied.iter().filter(|_| wish.attempt <= 1).find(same)
    }

    pub(super) fn deny(&mut self, denied: Denied) {
        self.denied.retain(|old| old.wish != denied.wish);
        self.denied.push(denied);
        let surplus = self.denied.len().saturating_sub(DENIED_MAX);
        self.denied.drain(..surplus);
    }

    /// Does the agent keep its apps as they are? Desired changes are stored meanwhile, and not acted on.
    pub fn holds_apps(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| match upgrade.phase {
            Phase::Snapshot
            | Phase::Applying
            | Phase::Arming
            | Phase::Armed
            | Phase::Trial(_)
            | Phase::Committing { .. }
            | Phase::Unsettled
            | Phase::Failing(_)
            | Phase::Returning(_) => true,
            Phase::Planning
            | Phase::Fetching
            | Phase::Removing
            | Phase::Resyncing
            | Phase::Mending(_)
            | Phase::Degraded(_) => false,
        })
    }

    /// May the agent not replace itself now? The fact for its own upgrade.
    pub fn excludes_own_upgrade(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| match upgrade.phase {
            Phase::Planning
            | Phase::Fetching
            | Phase::Snapshot
            | Phase::Applying
            | Phase::Arming
            | Phase::Armed
            | Phase::Trial(_)
            | Phase::Committing { .. }
            | Phase::Unsettled
            | Phase::Mending(_)
            | Phase::Failing(_)
            | Phase::Returning(_) => true,
            // Tidying may take for ever, and a degraded device may need another agent.
            Phase::Removing | Phase::Resyncing | Phase::Degraded(_) => false,
        })
    }
}
