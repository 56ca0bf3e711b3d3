//! The machine that is converted: what is known of it when it is asked, and its devices when it starts.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::journal;
use super::machine::{Ledger, Table};
use super::table::{Entry, Mbr, SECTOR};
use super::tools::appears;

/// Written when the conversion is asked for; the initramfs carries a copy.
pub(crate) const PLACE: &str = "/etc/bramble/convert.json";
const DEVICES_SECS: u32 = 60;

/// What the initramfs needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Place {
    /// The disk's signature in its MBR, 8 digits.
    pub(crate) disk: String,
    /// The root's number in the partition table.
    pub(crate) root: usize,
    /// The boot partition's.
    pub(crate) boot: usize,
    /// Where the boot partition is mounted.
    pub(crate) boot_mount: PathBuf,
    /// The root's entry when the conversion was asked for, in hex.
    pub(crate) entry: String,
    /// Bytes below `/var/lib/bramble`, and below `/var/lib/bramble-apps`.
    pub(crate) used: [u64; 2],
}

/// The devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Devices {
    /// All of the disk.
    pub(crate) disk: PathBuf,
    /// The root's partition.
    pub(crate) root: PathBuf,
    /// The boot partition.
    pub(crate) boot: PathBuf,
}

impl Place {
    /// Reads what was written when the conversion was asked for.
    ///
    /// # Errors
    /// It is not there, or unreadable.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let text = fs::read_to_string(PLACE).with_context(|| format!("cannot read {PLACE}"))?;
        serde_json::from_str(&text).with_context(|| PLACE.to_owned())
    }

    /// How udev names a partition of the disk.
    pub(crate) fn link(&self, number: usize) -> PathBuf {
        PathBuf::from(format!("/dev/disk/by-partuuid/{}-{number:02x}", self.disk))
    }

    /// Waits for the devices. They keep their identifiers when the table is turned.
    ///
    /// # Errors
    /// One does not appear.
    pub(crate) fn devices(&self) -> anyhow::Result<Devices> {
        let find = |number: usize| -> anyhow::Result<PathBuf> {
            let link = self.link(number);
            appears(&link, DEVICES_SECS)?;
            fs::canonicalize(&link).with_context(|| format!("cannot follow {}", link.display()))
        };
        let (root, boot) = (find(self.root)?, find(self.boot)?);
        Ok(Devices { disk: disk_of(&root)?, root, boot })
    }

    /// What the partition table says now.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn table(&self, disk: &Path, ledger: &Ledger) -> anyhow::Result<Table> {
        let entry = read_mbr(disk)?.entry(self.root).hex();
        let made = ledger.made.as_ref();
        let (old, new) = made.map_or((&self.entry, None), |made| (&made.old_entry, Some(&made.new_entry)));
        Ok(if entry == *old {
            Table::Old
        } else if Some(&entry) == new {
            Table::New
        } else {
            Table::Other
        })
    }
}

/// The disk that a partition is part of.
///
/// # Errors
/// It is no partition.
pub(crate) fn disk_of(partition: &Path) -> anyhow::Result<PathBuf> {
    let name = partition.file_name().context("no device")?;
    let folder = fs::canonicalize(Path::new("/sys/class/block").join(name))
        .with_context(|| format!("{}", partition.display()))?;
    ensure!(folder.join("partition").exists(), "{} is no partition", partition.display());
    let disk = folder.parent().and_then(Path::file_name).context("a partition without a disk")?;
    Ok(Path::new("/dev").join(disk))
}

/// Reads a disk's first sector.
///
/// # Errors
/// It cannot be read, or is no MBR.
pub(crate) fn read_mbr(disk: &Path) -> anyhow::Result<Mbr> {
    let mut sector = [0; SECTOR as usize];
    File::open(disk)
        .and_then(|file| file.read_exact_at(&mut sector, 0))
        .with_context(|| format!("cannot read {}", disk.display()))?;
    Mbr::parse(&sector)
}

/// Exchanges one entry; when this returns it is on the card, and was read again.
///
/// # Errors
/// It cannot be written, or reads differently.
pub(crate) fn write_entry(disk: &Path, number: usize, entry: Entry) -> anyhow::Result<()> {
    let new = read_mbr(disk)?.with(number, entry);
    let write = || -> std::io::Result<()> {
        let file = File::options().write(true).open(disk)?;
        file.write_all_at(new.bytes(), 0)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write the partition table of {}", disk.display()))?;
    ensure!(read_mbr(disk)? == new, "the partition table of {} does not read as it was written", disk.display());
    Ok(())
}

/// What tells whether somebody mounted the file system since: the superblock, which counts that.
///
/// # Errors
/// It cannot be read.
pub(crate) fn print(partition: &Path) -> anyhow::Result<String> {
    let mut block = [0; 1024];
    File::open(partition)
        .and_then(|file| file.read_exact_at(&mut block, 1024))
        .with_context(|| format!("cannot read the superblock of {}", partition.display()))?;
    Ok(format!("{:08x}", journal::crc(&block)))
}
