//! What one boot was: written by the boot guard before root is mounted, read by whoever runs later.
//!
//! Decides the words for slots, for the firmware's one-shot boot and for what became of a boot, and the layout of the record
//! in `/run/bramble/boot.json`. Deliberately does not: decide what a boot does; that is the guard's.
//!
//! The guard lies in the initramfs and may be older or newer than its readers: fields that a reader does not know are
//! ignored, and a newer [`BootRecord::format`] is one whose known fields still mean the same.

mod firmware;
mod upgrade;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use firmware::{booted, root_is_ours, seen, tryboot};
pub use upgrade::{GROUP, Phase, PutBack, ROOT, SNAPSHOT, Snapshot, WORDS_APART, autoboot, autoboot_text, words_apart};

/// On a card with one set of boot files, in root and in its initramfs: a line with the device of their partition. Where this
/// is, no slot can be tried, whatever the firmware is able to.
pub const ONE_SET: &str = "/etc/bramble/boot-partition";

/// One of the two sets of boot files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first.
    A,
    /// The second.
    B,
}

impl Slot {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The number of its partition, as the firmware counts.
    pub const fn partition(self) -> u32 {
        match self {
            Self::A => 2,
            Self::B => 3,
        }
    }

    /// The slot on a partition.
    pub const fn on_partition(number: u32) -> Option<Self> {
        match number {
            2 => Some(Self::A),
            3 => Some(Self::B),
            _ => None,
        }
    }

    /// The label of its file system.
    pub const fn label(self) -> &'static str {
        match self {
            Self::A => "BOOT_A",
            Self::B => "BOOT_B",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

/// Who said which slot was booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotBy {
    /// The firmware, in the device tree.
    Firmware,
    /// The slot's own `cmdline.txt`.
    CommandLine,
    /// Nobody: it is taken for the first.
    Nobody,
}

/// What the firmware says of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tryboot {
    /// One boot, on trial.
    Set,
    /// A plain boot.
    Clear,
    /// No one-shot boot, for want of such firmware or of a second set of boot files: trials are counted instead.
    Unsupported,
}

/// Why root is merged back, or the boot is degraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The power was cut while packages were written.
    PowerCutInApply,
    /// The new slot never came up as often as it may try.
    TrialsUsedUp,
    /// The agent or the probation timer judged it failed.
    JudgedFailed,
    /// It failed, and the old slot could not be reached.
    CannotReturn,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerCutInApply => "the power was cut while packages were written",
            Self::TrialsUsedUp => "the new system did not come up as often as it may try",
            Self::JudgedFailed => "the new system was judged failed",
            Self::CannotReturn => "the new system failed, and the old one could not be reached",
        })
    }
}

/// What became of this boot. Boots that ended in the guard leave no record: they were followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Outcome {
    /// No upgrade is under way.
    Plain,
    /// The new system is on trial.
    OnTrial,
    /// The new system was committed; its snapshot is still there and can go.
    Committed,
    /// Root was put back to what it was before the upgrade.
    RolledBack {
        /// Why.
        why: Why,
    },
    /// It goes on, and is not as it should be.
    Degraded {
        /// Why.
        why: Why,
    },
}

/// A hardware watchdog that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmedWatchdog {
    /// Its device below `/dev`.
    pub device: String,
    /// What its driver calls it.
    pub identity: String,
    /// Seconds without a sign of life until it resets.
    pub timeout_s: Option<u32>,
}

/// One boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecord {
    /// [`BootRecord::FORMAT`], of the guard that wrote it.
    pub format: u32,
    /// The slot whose files were booted.
    pub slot: Slot,
    /// Who said so.
    pub slot_by: SlotBy,
    /// Of this boot.
    pub tryboot: Tryboot,
    /// The slot that `autoboot.txt` names; absent when it cannot be read.
    pub autoboot: Option<Slot>,
    /// What became of it.
    pub outcome: Outcome,
    /// What resets a boot that hangs on its way to systemd; absent where there is nothing.
    pub watchdog: Option<ArmedWatchdog>,
    /// What was not as it should be, in words.
    pub trouble: Vec<String>,
}

impl BootRecord {
    /// The newest layout.
    pub const FORMAT: u32 = 1;
    /// Where it lies.
    pub const PATH: &'static str = "/run/bramble/boot.json";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_partitions_belong_together() {
        for slot in [Slot::A, Slot::B] {
            assert_eq!(Slot::on_partition(slot.partition()), Some(slot));
            assert_eq!(slot.other().other(), slot);
        }
        assert_eq!(Slot::on_partition(1), None);
    }

    #[test]
    fn a_record_of_a_newer_guard_is_read() {
        let text = r#"{"format":2,"slot":"b","slot_by":"firmware","tryboot":"set","autoboot":"a","outcome":{"is":"on-trial"},
            "watchdog":null,"trouble":[],"new":"field"}"#;
        assert_eq!(serde_json::from_str::<BootRecord>(text).unwrap().slot, Slot::B);
    }
}
