//! Where a device is in an upgrade, by what lasts: the snapshot's tags, the slot that was booted, autoboot.txt.
//!
//! Decides that from facts alone; what the ledger thinks does not matter here.

use bramble_contracts::boot::{BootRecord, Outcome, Phase, Slot, Snapshot};
use serde::{Deserialize, Serialize};

use super::facts::{Facts, Volumes};
use super::wish::Protection;

/// Where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// It cannot be read, in words. Nothing follows from that.
    Unknown(String),
    /// There is no snapshot of an upgrade.
    Clean,
    /// Packages are written.
    Applying,
    /// The old system runs, and the new one is to be tried.
    BeforeTrial,
    /// The new system runs, and a reset brings the old one back.
    OnTrial,
    /// The new system runs, and a reset brings it back.
    Committed,
    /// It was judged failed; a reboot brings the old one back.
    Failed,
}

/// Where this device is.
pub fn place(facts: &Facts) -> Place {
    place_of(&facts.volumes, facts.booted, facts.autoboot, facts.record.as_ref(), facts.protection)
}

/// The same, for whoever has no other facts.
pub fn place_of(
    volumes: &Volumes,
    booted: Option<Slot>,
    autoboot: Option<Slot>,
    record: Option<&BootRecord>,
    protection: Protection,
) -> Place {
    match volumes {
        Volumes::Unreadable(why) => Place::Unknown(why.clone()),
        Volumes::Plain => Place::Clean,
        Volumes::Snapshot(Snapshot { phase: Phase::Apply, .. }) => Place::Applying,
        Volumes::Snapshot(Snapshot { phase: Phase::Failed, .. }) => Place::Failed,
        Volumes::Snapshot(Snapshot { phase: Phase::Trial, new_slot, attempt, .. }) => match protection {
            Protection::Tryboot => by_slot(*new_slot, booted, autoboot),
            // The guard counts each trial: before the first one its record may be of an upgrade before, tried in this boot.
            Protection::Bootcount | Protection::None if *attempt == 0 => Place::BeforeTrial,
            Protection::Bootcount | Protection::None => by_record(record),
        },
    }
}

fn by_slot(new_slot: Slot, booted: Option<Slot>, autoboot: Option<Slot>) -> Place {
    match booted {
        None => Place::Unknown("which slot was booted is not known".into()),
        Some(slot) if slot != new_slot => Place::BeforeTrial,
        Some(_) if autoboot == Some(new_slot) => Place::Committed,
        Some(_) => Place::OnTrial,
    }
}

/// With one set of boot files only the guard tells one boot from the other.
fn by_record(record: Option<&BootRecord>) -> Place {
    match record.map(|record| record.outcome) {
        Some(Outcome::OnTrial) => Place::OnTrial,
        Some(Outcome::Plain | Outcome::Committed | Outcome::RolledBack { .. } | Outcome::Degraded { .. }) | None => {
            Place::BeforeTrial
        }
    }
}
