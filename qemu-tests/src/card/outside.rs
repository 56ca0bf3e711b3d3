//! What a card at rest says of an OS upgrade: the slot that a plain boot gets, the snapshot that is kept, and what the two
//! slots do not have in common. Decides what counts as the same: all but the slot's own name on its kernel's command line.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use bramble_contracts::boot::{SNAPSHOT, Slot, Snapshot, autoboot};

use super::CardFile;

/// The partition of the volume group on cards of our images.
pub(crate) const GROUP_PARTITION: u32 = 4;
const CMDLINE: &str = "cmdline.txt";

/// What the volume group says; all of it is as in [`Marks::default`] between upgrades.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// The snapshot of root, by its tags.
    pub snapshot: Option<Snapshot>,
    /// Is there one that no phase is tagged to?
    pub untagged: bool,
    /// Is root being merged back?
    pub merging: bool,
}

/// The same, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// The slot that autoboot.txt names.
    pub autoboot: Option<Slot>,
    /// What the volume group says.
    pub marks: Marks,
    /// Files that are on one slot only, or otherwise on the other.
    pub differ: Vec<String>,
}

impl CardFile {
    /// The slot that autoboot.txt names.
    ///
    /// # Errors
    /// When it cannot be read: this card would not boot.
    pub fn autoboot(&self) -> anyhow::Result<Option<Slot>> {
        Ok(autoboot(&self.text(1, "autoboot.txt")?))
    }

    /// What the volume group says of an upgrade.
    ///
    /// # Errors
    /// When the volume group cannot be read: this card would not boot.
    pub fn marks(&self) -> anyhow::Result<Marks> {
        let group = self.volume_group(GROUP_PARTITION)?;
        let merging = group.volumes.values().any(|volume| volume.merging_into.is_some());
        let named = group.volumes.get(SNAPSHOT);
        let snapshot = named.and_then(|volume| Snapshot::from_tags(&volume.tags.join(",")));
        Ok(Marks { snapshot, untagged: named.is_some() && snapshot.is_none(), merging })
    }

    /// Reads all of it; `work` is a folder for copies of both slots.
    ///
    /// # Errors
    /// When a part cannot be read: this card would not boot.
    pub fn outside(&self, work: &Path) -> anyhow::Result<Outside> {
        let autoboot = self.autoboot()?;
        let marks = self.marks()?;
        let [a, b] = [Slot::A, Slot::B].map(|slot| self.slot_files(slot, work));
        let (a, b) = (a?, b?);
        let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
        let differ = names.filter(|name| a.get(*name) != b.get(*name)).cloned().collect();
        Ok(Outside { autoboot, marks, differ })
    }

    /// A slot's files. Its command line is without its own name, which must be there.
    fn slot_files(&self, slot: Slot, work: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let dir = work.join(slot.label());
        self.extract(slot.partition(), &dir)?;
        let mut files = BTreeMap::new();
        walk(&dir, "", &mut files)?;
        let own = format!("bramble.slot={slot}");
        let cmdline = files.get_mut(CMDLINE).with_context(|| format!("slot {slot} has no {CMDLINE}"))?;
        let text = String::from_utf8_lossy(cmdline).into_owned();
        anyhow::ensure!(text.split_whitespace().any(|word| word == own), "slot {slot} is called otherwise: {text}");
        *cmdline = text.replace(&own, "").into_bytes();
        Ok(files)
    }
}

fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy().to_lowercase());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), found)?;
        } else {
            found.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(())
}
