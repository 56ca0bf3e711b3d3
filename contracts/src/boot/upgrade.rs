//! What an OS upgrade leaves for the boots that follow: tags on its snapshot, the slot that a plain boot gets, a note of a
//! root that was put back.
//!
//! Decides their words and their bytes. Deliberately does not: decide what follows from them; that is the boot guard's and
//! the agent's.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Slot, Why};

/// The volume group of our layout.
pub const GROUP: &str = "vg0";
/// With this variable LVM's words on another disk's trouble go where its errors go (`LVM_OUT_FD` in lvm(8)). Without it they
/// stand amid the JSON of a report, which nobody can read then.
pub const WORDS_APART: (&str, &str) = ("LVM_OUT_FD", "2");
/// The volume that is mounted as root.
pub const ROOT: &str = "root";
/// The snapshot of root that an upgrade leaves behind until it is committed.
pub const SNAPSHOT: &str = "root_preupgrade";

/// The variable for one of LVM's commands, where that is a report; what others print is words.
#[must_use]
pub fn words_apart(args: &[&str]) -> Option<(&'static str, &'static str)> {
    matches!(args.first(), Some(&("lvs" | "pvs" | "vgs"))).then_some(WORDS_APART)
}

/// How far an upgrade was when a boot began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Packages were being written.
    Apply,
    /// On trial.
    Trial,
    /// Judged, and not good.
    Failed,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apply => "apply",
            Self::Trial => "trial",
            Self::Failed => "failed",
        })
    }
}

/// The tags of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// How far the upgrade was.
    pub phase: Phase,
    /// The slot it wrote.
    pub new_slot: Slot,
    /// Trial boots after the first.
    pub attempt: u32,
    /// Reboots that tried to reach the old slot after a failure.
    pub returns: u32,
}

impl Snapshot {
    /// The name of the tag that counts trial boots.
    pub const ATTEMPT: &'static str = "bramble.attempt";
    /// The name of the tag that counts ways back.
    pub const RETURNS: &'static str = "bramble.returns";
    const PHASE: &'static str = "bramble.phase";
    const SLOT: &'static str = "bramble.slot";

    /// Of an upgrade that begins.
    pub const fn new(new_slot: Slot) -> Self {
        Self { phase: Phase::Apply, new_slot, attempt: 0, returns: 0 }
    }

    /// What `lv_tags` of `lvs` means. Tags come after the snapshot, and nothing is written before they are there: without a
    /// phase it belongs to no upgrade. With one that nobody knows, root may be half written.
    pub fn from_tags(tags: &str) -> Option<Self> {
        let tag = |name: &str| tags.split(',').find_map(|tag| tag.trim().strip_prefix(name)?.strip_prefix('='));
        let number = |name: &str| tag(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let (phase, new_slot) = match (tag(Self::PHASE)?, tag(Self::SLOT)) {
            ("trial", Some("a")) => (Phase::Trial, Slot::A),
            ("trial", Some("b")) => (Phase::Trial, Slot::B),
            ("failed", Some("a")) => (Phase::Failed, Slot::A),
            ("failed", Some("b")) => (Phase::Failed, Slot::B),
            (_, Some("a")) => (Phase::Apply, Slot::A),
            (_, _) => (Phase::Apply, Slot::B),
        };
        Some(Self { phase, new_slot, attempt: number(Self::ATTEMPT), returns: number(Self::RETURNS) })
    }

    /// As tags for `lvchange`.
    pub fn tags(&self) -> Vec<String> {
        let Self { phase, new_slot, attempt, returns } = self;
        let counted = (*returns > 0).then(|| format!("{}={returns}", Self::RETURNS));
        let always = [
            format!("{}={phase}", Self::PHASE),
            format!("{}={new_slot}", Self::SLOT),
            format!("{}={attempt}", Self::ATTEMPT),
        ];
        always.into_iter().chain(counted).collect()
    }
}

/// The slot that a plain boot gets, by the text of `autoboot.txt`.
pub fn autoboot(text: &str) -> Option<Slot> {
    let mut counts = true;
    let mut found = None;
    for line in text.lines().map(str::trim) {
        if let Some(filter) = line.strip_prefix('[') {
            counts = filter.strip_suffix(']') == Some("all");
        } else if counts && let Some(number) = line.strip_prefix("boot_partition=") {
            found = number.trim().parse().ok().and_then(Slot::on_partition);
        }
    }
    found
}

/// The text of an `autoboot.txt` that gives a plain boot this slot, and a boot on trial the other one.
pub fn autoboot_text(slot: Slot) -> String {
    let (plain, trial) = (slot.partition(), slot.other().partition());
    format!("[all]\ntryboot_a_b=1\nboot_partition={plain}\n[tryboot]\nboot_partition={trial}\n")
}

/// Left on the state volume by the guard before it puts root back. It stays there until somebody removes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBack {
    /// [`PutBack::FORMAT`], of the guard that wrote it.
    pub format: u32,
    /// Why.
    pub why: Why,
}

impl PutBack {
    /// The newest layout.
    pub const FORMAT: u32 = 1;
    /// Its name on the state volume.
    pub const FILE: &'static str = "rolled-back.json";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoboot_txt_is_read_as_the_firmware_reads_it() {
        for slot in [Slot::A, Slot::B] {
            assert_eq!(autoboot(&autoboot_text(slot)), Some(slot));
        }
        assert_eq!(autoboot("tryboot_a_b=1\r\nboot_partition=3\r\n"), Some(Slot::B));
        assert_eq!(autoboot("[tryboot]\nboot_partition=3\n"), None);
        assert_eq!(autoboot("[all]\nboot_partition=7\n"), None);
        assert_eq!(autoboot("\0\0\0\0"), None);
        assert!(autoboot_text(Slot::A).len() <= 512, "the firmware reads no more");
    }

    #[test]
    fn tags_are_read_back() {
        for phase in [Phase::Apply, Phase::Trial, Phase::Failed] {
            for (new_slot, attempt, returns) in [(Slot::A, 0, 0), (Slot::B, 2, 3)] {
                let snapshot = Snapshot { phase, new_slot, attempt, returns };
                assert_eq!(Snapshot::from_tags(&snapshot.tags().join(",")), Some(snapshot));
            }
        }
        assert_eq!(Snapshot::new(Slot::B).tags(), ["bramble.phase=apply", "bramble.slot=b", "bramble.attempt=0"]);
    }

    #[test]
    fn what_was_never_tagged_is_of_no_upgrade_and_what_is_half_known_is_half_written() {
        assert_eq!(Snapshot::from_tags(""), None);
        assert_eq!(Snapshot::from_tags("somebody.else=1,bramble.slot=a"), None);
        for (tags, slot) in [
            ("bramble.phase=trial", Slot::B),
            ("bramble.phase=trial,bramble.slot=c", Slot::B),
            ("bramble.phase=,bramble.slot=a", Slot::A),
            ("bramble.phase=apply, bramble.slot=a", Slot::A),
        ] {
            assert_eq!(Snapshot::from_tags(tags), Some(Snapshot::new(slot)), "{tags}");
        }
    }

    #[test]
    fn the_note_has_frozen_bytes() {
        let note = PutBack { format: PutBack::FORMAT, why: Why::TrialsUsedUp };
        assert_eq!(serde_json::to_string(&note).unwrap(), r#"{"format":1,"why":"trials-used-up"}"#);
    }
}
