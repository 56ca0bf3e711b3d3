//! The conversion's way as a state machine: `step(ledger, event, facts) -> (ledger, effects)`.
//!
//! Pure. Decides what is done when, and what follows after a cut at any moment. The ledger is durable before an effect runs,
//! and every effect may be run again. One effect commits: writing the partition table, one sector. Everything before it
//! writes only where the old file system has nothing, so the old system is whole until the new root has proven itself.
//! Does not decide where volumes lie (`layout`), nor whether a machine can be converted (`preflight`).

use serde::{Deserialize, Serialize};

/// Attempts that a cut may end before the old system is left alone.
pub(crate) const ATTEMPTS_MAX: u8 = 5;
/// Boots that the new root has to prove itself.
pub(crate) const TRIALS_MAX: u8 = 3;
/// Tries to put a partition table back.
pub(crate) const RETURNS_MAX: u8 = 3;

/// How far the conversion is. Numbers count boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "at")]
pub(crate) enum Phase {
    /// Asked for; nothing is touched yet.
    Prepared,
    /// The initramfs makes the new root in the old one's free space.
    Working {
        /// This attempt, from 1.
        attempt: u8,
    },
    /// The new root is whole; the table is turned to it, and it has to prove itself.
    Trial {
        /// Boots so far.
        boots: u8,
    },
    /// Proven. The old root is given up, and what it held is cleared away.
    Confirmed,
    /// All is done.
    Done,
    /// The old partition table is being put back.
    Returning {
        /// Why.
        why: String,
        /// Tries so far.
        tries: u8,
    },
    /// The old system is back.
    Returned {
        /// Why.
        why: String,
    },
    /// It could not be done; the old system was not touched.
    GaveUp {
        /// Why.
        why: String,
    },
}

/// What must be found again after a cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Ledger {
    /// How far it is.
    pub(crate) phase: Phase,
    /// What was made, once it is whole.
    pub(crate) made: Option<Made>,
}

/// What the initramfs made, and by what it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Made {
    /// The old root's entry in the partition table, 16 bytes in hex.
    pub(crate) old_entry: String,
    /// The new one.
    pub(crate) new_entry: String,
    /// The old file system's superblock, as it was: who starts the old system in between changes it.
    pub(crate) print: String,
}

/// What the partition table says of the root's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// The old root.
    Old,
    /// The new volumes.
    New,
    /// Somebody else changed it.
    Other,
}

/// What this start found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The partition table. Before anything was made: whether it is as it was when the conversion was asked for.
    pub(crate) table: Table,
    /// The old file system is exactly as it was when the new one was made.
    pub(crate) old_unchanged: bool,
    /// The new root's volume can be seen.
    pub(crate) volumes: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Somebody asks for the conversion, in the running system.
    Asked,
    /// The initramfs starts.
    Booted,
    /// Everything was made, compared and sealed.
    Built(Made),
    /// A step could not be done.
    Failed(String),
    /// The running system is the new root, and well.
    Proven,
    /// The running system is the new root, and was not well for too long, or somebody wants the old one back.
    Unwanted(String),
    /// What the old root held is cleared away.
    Cleaned,
}

/// The steps of making it, in this order. None writes to a block that the old file system uses, but the first, which is the
/// check that every boot does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    /// `e2fsck -p` on the old file system.
    Check,
    /// Where everything lies; refuses what is too full.
    Plan,
    /// Copies the few used pieces that lie outside the new physical volume.
    Copy,
    /// The thin pool's metadata: the old root's blocks, where they are.
    Thin,
    /// The volume group.
    Volumes,
    /// The new root: a snapshot of the old one, so that all writes go elsewhere.
    Snapshot,
    /// Shrinks the new root.
    Shrink,
    /// Every file of the new root against the old one.
    Compare,
    /// `fstab`, and the volumes for state and apps.
    Dress,
    /// Everything is closed and on the card.
    Seal,
}

impl Build {
    /// All, in order.
    pub(crate) const ALL: [Self; 10] = [
        Self::Check,
        Self::Plan,
        Self::Copy,
        Self::Thin,
        Self::Volumes,
        Self::Snapshot,
        Self::Shrink,
        Self::Compare,
        Self::Dress,
        Self::Seal,
    ];
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A step of making it; `Built` or `Failed` follows the last.
    Build(Build),
    /// Lets everything go, so that the old root can be mounted.
    Release,
    /// Writes the root's entry of the partition table: the one commit.
    WriteTable(Table),
    /// Mounts the new root in this boot, whatever the kernel's command line says.
    UseVolumes,
    /// Starts again.
    Reboot,
    /// Makes the kernel's command line name the new root.
    NameRoot,
    /// Removes the old root's volume, and takes the space in front into the volume group.
    DropOld,
    /// Removes the converter from the initramfs.
    Retire,
    /// Says so to whoever looks at the console, the journal or the boot partition.
    Tell(String),
}

/// One step.
pub(crate) fn step(ledger: Ledger, event: Event, facts: Facts) -> (Ledger, Vec<Effect>) {
    let Ledger { phase, made } = ledger;
    let (phase, made, effects) = match event {
        Event::Asked => asked(phase, made),
        Event::Booted => booted(phase, made, facts),
        Event::Built(new) => match phase {
            Phase::Working { .. } => {
                (Phase::Trial { boots: 0 }, Some(new), vec![Effect::WriteTable(Table::New), Effect::Reboot])
            }
            other => (other, made, vec![]),
        },
        Event::Failed(why) => match phase {
            Phase::Working { .. } => give_up(why),
            other => (other, made, vec![]),
        },
        Event::Proven => match phase {
            Phase::Trial { .. } | Phase::Confirmed if facts.table == Table::New => (Phase::Confirmed, made, clean_up()),
            other => (other, made, vec![]),
        },
        Event::Unwanted(why) => match phase {
            Phase::Trial { .. } if facts.table == Table::New => go_back(why, 1, made),
            Phase::Prepared => give_up(why),
            other => (other, made, vec![]),
        },
        Event::Cleaned => match phase {
            Phase::Confirmed => (Phase::Done, made, vec![]),
            other => (other, made, vec![]),
        },
    };
    (Ledger { phase, made }, effects)
}

type Next = (Phase, Option<Made>, Vec<Effect>);

fn asked(phase: Phase, made: Option<Made>) -> Next {
    match phase {
        Phase::Prepared | Phase::Working { .. } | Phase::Returned { .. } | Phase::GaveUp { .. } => {
            (Phase::Prepared, None, vec![])
        }
        Phase::Trial { .. } | Phase::Confirmed | Phase::Done | Phase::Returning { .. } => (phase, made, vec![]),
    }
}

fn booted(phase: Phase, made: Option<Made>, facts: Facts) -> Next {
    match phase {
        Phase::Prepared => work(1, facts),
        Phase::Working { attempt } if attempt >= ATTEMPTS_MAX => {
            give_up(format!("the power was cut, or the machine started again, in each of {attempt} attempts"))
        }
        Phase::Working { attempt } => work(attempt + 1, facts),
        Phase::Trial { boots } => trial(boots, made, facts),
        Phase::Confirmed | Phase::Done => match facts.table {
            Table::New => (phase, made, vec![Effect::UseVolumes]),
            Table::Old | Table::Other => (phase, made, vec![]),
        },
        Phase::Returning { why, tries } => match facts.table {
            Table::Old => {
                let said = format!("the old system is back: {why}");
                (Phase::Returned { why }, made, vec![Effect::Tell(said)])
            }
            Table::New if tries < RETURNS_MAX => go_back(why, tries + 1, made),
            Table::New => {
                let said = format!("the old partition table could not be written in {tries} tries; staying ({why})");
                (Phase::Returning { why, tries }, made, vec![Effect::UseVolumes, Effect::Tell(said)])
            }
            Table::Other => (Phase::Returning { why, tries }, made, vec![]),
        },
        Phase::Returned { .. } | Phase::GaveUp { .. } => (phase, made, vec![]),
    }
}

fn work(attempt: u8, facts: Facts) -> Next {
    if facts.table != Table::Old {
        return give_up("the partition table is not as it was when the conversion was asked for".into());
    }
    (Phase::Working { attempt }, None, Build::ALL.map(Effect::Build).to_vec())
}

fn trial(boots: u8, made: Option<Made>, facts: Facts) -> Next {
    let next = Phase::Trial { boots: boots.saturating_add(1) };
    match facts.table {
        // Not turned yet: the power was cut just before, or the card did not take it.
        Table::Old if !facts.old_unchanged => {
            give_up("the old system was started while the new one waited, so the new one is stale: ask again".into())
        }
        Table::Old if boots >= TRIALS_MAX => give_up("the partition table cannot be written".into()),
        Table::Old => (next, made, vec![Effect::WriteTable(Table::New), Effect::Reboot]),
        Table::New if boots >= TRIALS_MAX => {
            go_back(format!("the new root did not prove itself in {boots} boots"), 1, made)
        }
        Table::New if facts.volumes => (next, made, vec![Effect::UseVolumes]),
        Table::New => (
            next,
            made,
            vec![Effect::Tell("the new root's volume cannot be seen; starting again".into()), Effect::Reboot],
        ),
        Table::Other => {
            (Phase::Trial { boots }, made, vec![Effect::Tell("somebody changed the partition table".into())])
        }
    }
}

fn give_up(why: String) -> Next {
    let said = format!("not converted: {why}; the old system was not touched");
    (Phase::GaveUp { why }, None, vec![Effect::Release, Effect::Tell(said)])
}

fn go_back(why: String, tries: u8, made: Option<Made>) -> Next {
    let said = format!("going back to the old system: {why}");
    let effects = vec![Effect::Tell(said), Effect::WriteTable(Table::Old), Effect::Reboot];
    (Phase::Returning { why, tries }, made, effects)
}

fn clean_up() -> Vec<Effect> {
    vec![Effect::NameRoot, Effect::DropOld, Effect::Retire]
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
