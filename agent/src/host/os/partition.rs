//! The partition of a slot's boot files: which device it is, how its file system was left, and a new one.
//!
//! A FAT that the power went away from may hold anything: chains that lead nowhere, room that nobody owns. The kernel marks it
//! while it is mounted to be written, and makes it read-only when it meets such a place. Decides what counts as left in order;
//! not what is done about it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bramble_contracts::boot::Slot;

use super::mounts::LABELS;
use crate::host::cmd::{self, Bounds};

const MAKE: &str = "/usr/sbin/mkfs.vfat";

/// Its device: by its label, else, for the power may go while that is written, by its number on the other slot's disk.
pub(super) fn of(slot: Slot) -> Result<PathBuf, String> {
    below(Path::new("/"), slot)
}

fn below(base: &Path, slot: Slot) -> Result<PathBuf, String> {
    let by_label = |slot: Slot| fs::canonicalize(base.join(LABELS.trim_start_matches('/')).join(slot.label()));
    if let Ok(device) = by_label(slot) {
        return Ok(device);
    }
    let other = by_label(slot.other()).map_err(|err| format!("neither slot is there by its label: {err}"))?;
    let class = base.join("sys/class/block");
    let disk = fs::canonicalize(class.join(other.file_name().unwrap_or_default()).join(".."));
    let siblings = disk.and_then(fs::read_dir).map_err(|err| format!("the disk of {}: {err}", other.display()))?;
    let number = slot.partition().to_string();
    let is_it = |path: &PathBuf| fs::read_to_string(path.join("partition")).is_ok_and(|found| found.trim() == number);
    let found = siblings.flatten().map(|entry| entry.path()).find(is_it);
    let name = found.as_deref().and_then(Path::file_name).ok_or_else(|| format!("there is no partition {number}"))?;
    Ok(base.join("dev").join(name))
}

/// Was it unmounted, whole, when it was last written?
pub(super) fn was_left_in_order(device: &Path) -> io::Result<bool> {
    let mut sector = [0; 512];
    File::open(device)?.read_exact(&mut sector)?;
    Ok(is_in_order(&sector))
}

/// The first sector of a FAT32, and the mark that Linux sets in it (`fat_set_state` of its `fs/fat/inode.c`).
fn is_in_order(sector: &[u8; 512]) -> bool {
    sector[82..87] == *b"FAT32" && sector[510..] == [0x55, 0xaa] && sector[0x41] & 1 == 0
}

/// Makes a new file system, with nothing in it but the slot's label.
pub(super) async fn format(device: &Path, slot: Slot) -> Result<(), String> {
    let at = device.display().to_string();
    let done = cmd::run(Path::new(MAKE), &["-F", "32", "-n", slot.label(), &at], Bounds::default()).await;
    let done = done.map_err(|err| err.to_string())?;
    if done.status.success() { Ok(()) } else { Err(format!("{MAKE} {at}: {}", done.stderr.trim())) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// As on a virtual Pi: `/sys/class/block` leads to the partitions below their disk.
    fn machine(labels: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for folder in ["dev/disk/by-label", "sys/class/block"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for number in 1..=4 {
            let folder = at(&format!("sys/devices/virtio/block/vda/vda{number}"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("partition"), format!("{number}\n")).unwrap();
            symlink(&folder, at(&format!("sys/class/block/vda{number}"))).unwrap();
            fs::write(at(&format!("dev/vda{number}")), "").unwrap();
        }
        for (label, device) in labels {
            symlink(format!("../../{device}"), at("dev/disk/by-label").join(label)).unwrap();
        }
        dir
    }

    #[test]
    fn a_slot_is_found_by_its_label_or_beside_the_other_one() {
        let names = |labels: &[(&str, &str)]| {
            let dir = machine(labels);
            below(dir.path(), Slot::B).map(|device| device.file_name().unwrap().to_string_lossy().into_owned())
        };
        assert_eq!(names(&[("BOOT_A", "vda2"), ("BOOT_B", "vda3")]), Ok("vda3".into()));
        assert_eq!(names(&[("BOOT_A", "vda2")]), Ok("vda3".into()), "its label went with the power");
        assert!(names(&[]).unwrap_err().contains("neither slot"));
    }

    #[tokio::test]
    async fn a_new_file_system_is_in_order_and_one_that_is_mounted_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("card");
        File::create(&device).unwrap().set_len(64 << 20).unwrap();
        assert!(!was_left_in_order(&device).unwrap(), "nothing is no file system");
        format(&device, Slot::B).await.unwrap();
        assert!(was_left_in_order(&device).unwrap());
        let mut sector = [0; 512];
        File::open(&device).unwrap().read_exact(&mut sector).unwrap();
        assert_eq!(&sector[71..82], b"BOOT_B     ");
        sector[0x41] |= 1;
        assert!(!is_in_order(&sector));
        assert!(format(&dir.path().join("nothing"), Slot::A).await.unwrap_err().contains("nothing"));
    }
}
