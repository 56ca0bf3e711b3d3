//! A card from outside, at rest: the partitions of its MBR, its FATs, its LVM metadata, and ways to damage them.
//!
//! Decides nothing about what belongs on a card. Reads and writes the file itself: no loop devices, no mounts. Nobody
//! may use it while a guest does.

mod fat;
mod lvm;
mod mbr;
mod outside;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use xtask::run::Cmd;

use crate::firmware;

pub use lvm::{LogicalVolume, VolumeGroup};
pub use mbr::Partition;
pub(crate) use outside::GROUP_PARTITION;
pub use outside::{Marks, Outside};

/// A card: a raw image in a file.
#[derive(Debug, Clone)]
pub struct CardFile {
    path: PathBuf,
}

impl CardFile {
    /// A card that exists.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        CardFile { path: path.into() }
    }

    /// A new card with a copy of an image, as if flashed: sparse, and of so many MiB where the image is smaller.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn flash(image: &Path, path: &Path, mib: u64) -> anyhow::Result<Self> {
        copy(image, path)?;
        let file =
            OpenOptions::new().write(true).open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let bytes = (mib * 1024 * 1024).max(file.metadata()?.len());
        file.set_len(bytes).with_context(|| format!("cannot grow {}", path.display()))?;
        Ok(Self::at(path))
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its partitions.
    ///
    /// # Errors
    /// When there is no MBR.
    pub fn partitions(&self) -> anyhow::Result<Vec<Partition>> {
        mbr::parse(&self.bytes(0, mbr::BYTES)?).with_context(|| format!("{} has no partitions", self.path.display()))
    }

    /// One of its partitions, from 1.
    ///
    /// # Errors
    /// When it has none of that number.
    pub fn partition(&self, number: u32) -> anyhow::Result<Partition> {
        let found = self.partitions()?.into_iter().find(|p| p.number == number);
        found.with_context(|| format!("{} has no partition {number}", self.path.display()))
    }

    /// Copies all files of a FAT partition into a folder that is made anew.
    ///
    /// # Errors
    /// When it is no FAT, or a damaged one.
    pub fn extract(&self, number: u32, into: &Path) -> anyhow::Result<()> {
        fat::extract(&self.path, self.partition(number)?.start, into)
    }

    /// What the firmware sees of the card, its files copied below `into`, a folder for each partition. A FAT that cannot
    /// be read is not there for it.
    ///
    /// # Errors
    /// When the card cannot be read at all.
    pub fn for_firmware(&self, into: &Path) -> anyhow::Result<firmware::Card> {
        let mut card = firmware::Card::new();
        // A card without a readable MBR is an empty one.
        for partition in self.partitions().unwrap_or_default().into_iter().filter(Partition::is_fat) {
            let dir = into.join(partition.number.to_string());
            if fat::extract(&self.path, partition.start, &dir).is_ok() {
                card.insert(partition.number, fat::look(&dir)?);
            }
        }
        Ok(card)
    }

    /// A text file on a FAT partition.
    ///
    /// # Errors
    /// When it is not there.
    pub fn text(&self, number: u32, file: &str) -> anyhow::Result<String> {
        let bytes = fat::read(&self.path, self.partition(number)?.start, file)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Writes a file on a FAT partition.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn write(&self, number: u32, file: &str, content: &[u8]) -> anyhow::Result<()> {
        fat::write(&self.path, self.partition(number)?.start, file, content)
    }

    /// Removes a file from a FAT partition.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, number: u32, file: &str) -> anyhow::Result<()> {
        fat::remove(&self.path, self.partition(number)?.start, file)
    }

    /// Turns every bit of a file on a FAT partition: as long as before, and nonsense.
    ///
    /// # Errors
    /// When it is not there.
    pub fn damage(&self, number: u32, file: &str) -> anyhow::Result<()> {
        let start = self.partition(number)?.start;
        let nonsense: Vec<u8> = fat::read(&self.path, start, file)?.into_iter().map(|byte| !byte).collect();
        fat::write(&self.path, start, file, &nonsense)
    }

    /// The volume group whose physical volume is this partition, as its newest metadata says.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn volume_group(&self, number: u32) -> anyhow::Result<VolumeGroup> {
        lvm::read(|offset, length| self.bytes(self.partition(number)?.start + offset, length))
    }

    /// Loses the newest text of LVM's metadata on this partition from its byte `from` on, and keeps the header that leads to it.
    ///
    /// # Errors
    /// When there is none, or it has no such byte.
    pub fn lose_metadata(&self, number: u32, from: u64) -> anyhow::Result<()> {
        let start = self.partition(number)?.start;
        let (at, length) = lvm::newest(|offset, length| self.bytes(start + offset, length))?;
        let lost = length.checked_sub(from).context("the text is shorter")?;
        self.overwrite(start + at + from, &vec![0; usize::try_from(lost)?])
    }

    /// Bytes of the card.
    ///
    /// # Errors
    /// When it ends before.
    pub fn bytes(&self, offset: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let file = File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))?;
        file.read_exact_at(&mut bytes, offset)
            .with_context(|| format!("cannot read {length} bytes at {offset} of {}", self.path.display()))?;
        Ok(bytes)
    }

    /// Overwrites bytes of the card.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path);
        let file = file.with_context(|| format!("cannot open {}", self.path.display()))?;
        file.write_all_at(bytes, offset).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// A copy of a card's file, with the same holes.
pub(crate) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let cmd = Cmd::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to);
    cmd.within(Duration::from_secs(300)).check().map(drop).context("cannot copy the card")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firmware::{PI4, Reset, VIRT, start};

    /// A small card with two FATs, made as the images are.
    fn card(dir: &Path) -> CardFile {
        let path = dir.join("card.img");
        File::create(&path).unwrap().set_len(24 << 20).unwrap();
        let layout = "label: dos\nstart=2048, size=16384, type=e\nstart=18432, size=28672, type=c\n";
        std::fs::write(dir.join("layout"), layout).unwrap();
        let sfdisk = format!("sfdisk --quiet {} < {}", path.display(), dir.join("layout").display());
        Cmd::new("sh").args(["-c", &sfdisk]).check().unwrap();
        for (mib, sectors, name) in [(1, 16384, "ONE"), (9, 28672, "TWO")] {
            let place = format!("{}@@{mib}M", path.display());
            Cmd::new("mformat").args(["-i", &place, "-v", name, "-T", &sectors.to_string(), "::"]).check().unwrap();
        }
        CardFile::at(&path)
    }

    #[test]
    fn files_are_written_read_damaged_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let card = card(dir.path());
        let numbers: Vec<_> = card.partitions().unwrap().iter().map(|p| (p.number, p.start, p.is_fat())).collect();
        assert_eq!(numbers, [(1, 1 << 20, true), (2, 9 << 20, true)]);
        card.write(1, "autoboot.txt", b"[all]\nboot_partition=2\n").unwrap();
        assert_eq!(card.text(1, "autoboot.txt").unwrap(), "[all]\nboot_partition=2\n");
        card.write(1, "autoboot.txt", b"[all]\nboot_partition=1\n").unwrap();
        assert_eq!(card.text(1, "AUTOBOOT.TXT").unwrap(), "[all]\nboot_partition=1\n");
        card.damage(1, "autoboot.txt").unwrap();
        assert!(!card.text(1, "autoboot.txt").unwrap().contains("boot"));
        card.remove(1, "autoboot.txt").unwrap();
        let err = card.text(1, "autoboot.txt").unwrap_err().to_string();
        assert!(err.contains("autoboot.txt"), "{err}");
        assert!(card.partition(3).is_err());
    }

    #[test]
    fn the_firmware_sees_what_is_on_the_card_now() {
        let dir = tempfile::tempdir().unwrap();
        let card = card(dir.path());
        let boot = |model| {
            let seen = card.for_firmware(&dir.path().join("seen")).unwrap();
            start(model, &seen, Reset::default())
                .boot
                .map(|boot| (boot.partition, boot.kernel))
                .map_err(|e| e.to_string())
        };
        assert_eq!(boot(&VIRT), Err("no bootable partition".into()), "empty FATs");
        card.write(2, "config.txt", b"kernel=vmlinuz-6.12\n").unwrap();
        card.write(2, "vmlinuz-6.12", &[1; 5000]).unwrap();
        assert_eq!(boot(&VIRT), Ok((2, "vmlinuz-6.12".into())));
        assert_eq!(std::fs::read(dir.path().join("seen/2/vmlinuz-6.12")).unwrap(), [1; 5000]);
        assert_eq!(boot(&PI4), Err("no bootable partition".into()), "no start4.elf");
        // The boot sector of the FAT: what cannot be read is not there.
        card.overwrite(9 << 20, &[0xff; 512]).unwrap();
        assert_eq!(boot(&VIRT), Err("no bootable partition".into()));
        card.overwrite(0, &[0; 512]).unwrap();
        assert_eq!(boot(&VIRT), Err("no bootable partition".into()), "no MBR");
    }

    #[test]
    fn a_flashed_card_is_as_large_as_it_was_bought() {
        let dir = tempfile::tempdir().unwrap();
        let image = card(dir.path());
        let flashed = CardFile::flash(image.path(), &dir.path().join("flashed"), 100).unwrap();
        assert_eq!(std::fs::metadata(flashed.path()).unwrap().len(), 100 << 20);
        let smaller = CardFile::flash(image.path(), &dir.path().join("smaller"), 1).unwrap();
        assert_eq!(std::fs::metadata(smaller.path()).unwrap().len(), 24 << 20);
    }
}
