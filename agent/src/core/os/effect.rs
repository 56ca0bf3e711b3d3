//! What the host is to do. The changed ledger is durable before the first of a list is done. They are done in order; one
//! that fails ends its list and is told as [`super::Event::Failed`]. Each may be asked for again.

use std::fmt;

use bramble_contracts::boot::Slot;
use serde::{Deserialize, Serialize};

use super::wish::{Ticket, What};

/// The privileged oneshot units. Each takes its order from a file on the state volume, holds the lock of all of them,
/// looks again whether its condition holds ([`super::allows`]), is idempotent, and leaves a durable result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Ask apt what it would do. Leaves a plan.
    Plan,
    /// Fetch what the plan names.
    Fetch,
    /// Make the snapshot, then tag it `apply`; only where there is none that is tagged.
    Snapshot,
    /// Copy the active slot to the other one, mend and run apt with the other one mounted, check the result, stamp root
    /// with the ticket, sync; only where the snapshot is tagged `apply`.
    Apply,
    /// Tag it `trial`; only where it is tagged `apply` and root is stamped.
    Arm,
    /// Tag it `failed`, with no ways back counted; only where it is not committed.
    Fail,
    /// Make autoboot.txt name the new slot, durably, and read it back; only where it is tagged `trial` and the new slot is
    /// booted. The only commit point. With one set of boot files: remove the snapshot.
    Commit,
    /// Remove the snapshot; only where it is tagged `trial` and autoboot.txt names the new slot, which is booted.
    Remove,
    /// Copy the new slot to the old one; only where there is no snapshot.
    Resync,
    /// Make autoboot.txt name the slot of the order, which root follows; only where there is no snapshot.
    Mend,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Plan,
        Self::Fetch,
        Self::Snapshot,
        Self::Apply,
        Self::Arm,
        Self::Fail,
        Self::Commit,
        Self::Remove,
        Self::Resync,
        Self::Mend,
    ];

    /// In the names of its unit and of its files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Fetch => "fetch",
            Self::Snapshot => "snapshot",
            Self::Apply => "apply",
            Self::Arm => "arm",
            Self::Fail => "fail",
            Self::Commit => "commit",
            Self::Remove => "remove",
            Self::Resync => "resync",
            Self::Mend => "mend",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What becomes of boot files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BootFiles {
    /// Those of the other slot are upgraded.
    Upgraded,
    /// There is one set of them: packages that write some are held.
    Held,
}

/// What a unit is started for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// What is to be done.
    pub verb: Verb,
    /// For which run.
    pub ticket: Ticket,
    /// With which packages.
    pub what: What,
    /// The slot it is about; absent before one is chosen.
    pub slot: Option<Slot>,
    /// What becomes of boot files.
    pub boot_files: BootFiles,
}

/// Into what the device boots. The agent is shut in: a unit of its own asks the firmware, and reboots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// The slot that autoboot.txt names.
    Plain,
    /// The other one, once: the flag is set first.
    Trial,
}

/// How a reboot is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Manner {
    /// Everything is stopped in good order.
    Orderly,
    /// The orderly one did not come: file systems are synced, and it reboots.
    Forced,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// Remove, durably, what is told of an earlier upgrade: the guard's note, the probation unit's word, a panic.
    ForgetPutBack,
    /// Remove an earlier result of this verb, write the order, durably, and start its unit. Nothing where it runs.
    Start(Order),
    /// Sync, and boot again.
    Reboot(Way, Manner),
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForgetPutBack => f.write_str("forget what was put back before"),
            Self::Start(order) => write!(f, "start {}", order.verb),
            Self::Reboot(Way::Plain, Manner::Orderly) => f.write_str("reboot"),
            Self::Reboot(Way::Trial, Manner::Orderly) => f.write_str("reboot on trial"),
            Self::Reboot(Way::Plain, Manner::Forced) => f.write_str("reboot by force"),
            Self::Reboot(Way::Trial, Manner::Forced) => f.write_str("reboot on trial by force"),
        }
    }
}
