//! What is remembered of upgrades in `state/upgrade.json`: which version is confirmed, what is under way, what is refused.
//!
//! One writer: the holder of the lease. The one that waits reads it anew before each of its steps. The floor has a file
//! of its own, and so has what the guard counts.

use bramble_contracts::v1::{AgentVersion, Instance, Status};
use serde::{Deserialize, Serialize};

use super::event::{Admission, Attempt, Failure};
use super::facts::Facts;

/// Releases that are remembered as refused, the newest last.
const DENIED_MAX: usize = 16;
/// Versions whose sequence is remembered.
const KNOWN_MAX: usize = 32;

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

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// What is to run when nothing is under way.
    pub confirmed: Confirmed,
    /// What is under way.
    pub upgrade: Option<Upgrade>,
    /// What is refused, the newest last.
    pub denied: Vec<Denied>,
    /// How often the last attempt failed without being refused.
    pub tally: Option<Tally>,
    /// How the last upgrade ended.
    pub last: Option<Outcome>,
    /// Sequences of versions that were admitted, the newest last.
    pub known: Vec<Known>,
    /// An effect failed then that belongs to what is stored here; it is tried again after a while.
    pub mend: Option<Moment>,
}

/// A version that was proven, or installed by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Confirmed {
    /// As people say it.
    pub version: AgentVersion,
    /// Of the release; 0 when it was installed by hand.
    pub release_seq: u64,
    /// It takes none below this.
    pub min_seq: u64,
    /// The instance that a boot starts.
    pub instance: Instance,
}

/// A point in time that a reboot does not make meaningless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// In this boot.
    pub boot: String,
    /// Milliseconds since that boot.
    pub up_ms: u64,
}

impl Moment {
    /// Now.
    pub fn now(facts: &Facts) -> Self {
        Self { boot: facts.boot.clone(), up_ms: facts.up_ms }
    }

    /// For how long it has passed at least, in milliseconds: in a later boot, what that boot has lasted.
    pub fn elapsed_ms(&self, facts: &Facts) -> u64 {
        self.passed_ms(&facts.boot, facts.up_ms)
    }

    /// The same, at this uptime of this boot.
    pub fn passed_ms(&self, boot: &str, up_ms: u64) -> u64 {
        up_ms.saturating_sub(if self.boot == boot { self.up_ms } else { 0 })
    }

    /// For how long exactly; unknown in a later boot.
    pub fn exactly_ms(&self, facts: &Facts) -> Option<u64> {
        (self.boot == facts.boot).then(|| facts.up_ms.saturating_sub(self.up_ms))
    }
}

/// An upgrade under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// Which attempt at which release.
    pub of: Attempt,
    /// The version that was wished.
    pub version: AgentVersion,
    /// The sequence that was wished.
    pub release_seq: u64,
    /// What the manifest says; absent until it is judged.
    pub admitted: Option<Admission>,
    /// When it began.
    pub began: Moment,
    /// Where it is.
    pub phase: Phase,
    /// Since when it is there.
    pub since: Moment,
    /// How long nobody acted, in milliseconds: from the old one's halt to the new one's first act.
    pub unmanaged_ms: Option<u64>,
}

/// Where an upgrade is. Until `Released` the old agent acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Keys, manifest and timestamp are fetched and judged.
    Judging,
    /// The binary comes in.
    Staging,
    /// It tests itself.
    Verifying,
    /// `current` is turned, and the new instance starts.
    Starting,
    /// The new one is ready; the old one comes to a halt.
    Halting,
    /// The old one lets the lease go; nobody acts.
    Released,
    /// The new one acts.
    #[serde(rename_all = "camelCase")]
    Trial {
        /// As this instance.
        instance: Instance,
        /// Boots in which it acted, this one included.
        boots: u8,
        /// What was seen of it by itself.
        proof: Proof,
    },
    /// `current` is turned back.
    Returning(Failure),
}

/// How far the new one has come by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Proof {
    /// It acts.
    Acts,
    /// It has reconciled all apps, in the run that acts now.
    Reconciled,
}

/// A release that is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// At this attempt and those before.
    pub of: Attempt,
    /// Its version.
    pub version: AgentVersion,
    /// Failed or rolled back.
    pub status: Status,
    /// In words.
    pub why: String,
}

/// Failures of one attempt that did not deny it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Which attempt.
    pub of: Attempt,
    /// All.
    pub failures: u32,
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
    /// Which attempt.
    pub of: Attempt,
    /// To this version.
    pub version: AgentVersion,
    /// Confirmed, rolled back or failed.
    pub status: Status,
    /// Why; empty when it was confirmed.
    pub why: String,
    /// Is it refused from now on, at this attempt?
    pub blamed: bool,
    /// Bytes of its binary; 0 when it was not judged.
    pub size: u64,
    /// From its beginning to its end, in milliseconds; unknown across a boot.
    pub took_ms: Option<u64>,
    /// How long nobody acted.
    pub unmanaged_ms: Option<u64>,
    /// The old agent, as long as it may run beside.
    pub beside: Option<Instance>,
}

/// A version and its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// The version.
    pub version: AgentVersion,
    /// The sequence of its release.
    pub release_seq: u64,
}

impl Ledger {
    /// Of a device that has never upgraded; also of one whose ledger is lost: `version` is what `confirmed` names then.
    pub fn new(version: AgentVersion, instance: Instance) -> Self {
        Self {
            confirmed: Confirmed { version, release_seq: 0, min_seq: 0, instance },
            upgrade: None,
            denied: Vec::new(),
            tally: None,
            last: None,
            known: Vec::new(),
            mend: None,
        }
    }

    /// The refusal of this attempt. One at a later attempt also refuses the earlier ones.
    pub fn denial(&self, of: &Attempt) -> Option<&Denied> {
        self.denied.iter().find(|denied| denied.of.manifest == of.manifest && denied.of.number >= of.number)
    }

    pub(super) fn deny(&mut self, denied: Denied) {
        self.denied.retain(|old| old.of.manifest != denied.of.manifest);
        self.denied.push(denied);
        let surplus = self.denied.len().saturating_sub(DENIED_MAX);
        self.denied.drain(..surplus);
    }

    pub(super) fn learn(&mut self, known: Known) {
        self.known.retain(|old| old.version != known.version);
        self.known.push(known);
        let surplus = self.known.len().saturating_sub(KNOWN_MAX);
        self.known.drain(..surplus);
    }
}
