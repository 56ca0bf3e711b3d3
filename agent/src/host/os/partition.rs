//! The partitions beside root: which devices they are, whether a slot's file system is in order, and a new one.
//!
//! A FAT that the power went away from may hold anything: chains that lead nowhere, room that nobody owns. Linux makes it
//! read-only when it meets such a place. Found by number on root's own disk, and never by label: another card in a reader has the
//! same labels. Decides neither when a new file system is made, nor what comes onto it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_contracts::boot::Slot;
use nix::sys::stat::{major, minor};

use crate::host::cmd::{self, Bounds, Finished};

const EXAMINE: &str = "/usr/sbin/fsck.vfat";
const MAKE: &str = "/usr/sbin/mkfs.vfat";
/// Slow cards take their time.
const BOUNDS: Bounds = Bounds { time: Duration::from_secs(300), output_bytes: 64 * 1024 };
/// Volumes lie on volumes: root, its pool, the pool's data, the partition.
const DEPTH_MAX: usize = 8;

/// The device of a partition of root's disk.
pub(super) fn numbered(number: u32) -> Result<PathBuf, String> {
    let root = fs::metadata("/").map_err(|err| format!("/: {err}"))?.dev();
    below(Path::new("/"), &format!("{}:{}", major(root), minor(root)), number)
}

fn below(base: &Path, root: &str, number: u32) -> Result<PathBuf, String> {
    let said = |path: &Path, err: &dyn std::fmt::Display| format!("{}: {err}", path.display());
    let link = base.join("sys/dev/block").join(root);
    let mut at = fs::canonicalize(&link).map_err(|err| said(&link, &err))?;
    for _ in 0..DEPTH_MAX {
        if at.join("partition").is_file() {
            let disk = at.parent().unwrap_or(&at);
            let is_it = |path: &PathBuf| {
                fs::read_to_string(path.join("partition")).is_ok_and(|text| text.trim() == number.to_string())
            };
            let found = children(disk)?.into_iter().find(is_it);
            let name = found.as_deref().and_then(Path::file_name);
            let name = name.ok_or_else(|| format!("{} has no partition {number}", disk.display()))?;
            return Ok(base.join("dev").join(name));
        }
        let slaves = at.join("slaves");
        let lower =
            children(&slaves)?.into_iter().min().ok_or_else(|| format!("{} is on no partition", at.display()))?;
        at = fs::canonicalize(&lower).map_err(|err| said(&lower, &err))?;
    }
    Err(format!("{} lies too deep", link.display()))
}

fn children(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|err| format!("{}: {err}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// Whether its tables are whole, and it was unmounted after it was last written.
///
/// # Errors
/// It cannot be examined.
pub(super) async fn is_in_order(device: &Path) -> Result<bool, String> {
    Ok(run(EXAMINE, &["-n"], device).await?.status.success())
}

/// Makes a new file system, as images have it, with nothing in it but the slot's label.
///
/// # Errors
/// It cannot be made.
pub(super) async fn format(device: &Path, slot: Slot) -> Result<(), String> {
    let done = run(MAKE, &["-F", "32", "-s", "1", "-n", slot.label()], device).await?;
    if done.status.success() { Ok(()) } else { Err(format!("{MAKE} {}: {}", device.display(), done.stderr.trim())) }
}

async fn run(program: &str, args: &[&str], device: &Path) -> Result<Finished, String> {
    let device = device.display().to_string();
    cmd::run(Path::new(program), &[args, &[&device]].concat(), BOUNDS).await.map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::{FileExt as _, symlink};

    use super::*;

    /// As on a virtual Pi: root on a pool on a partition, and a second disk with the same partitions.
    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for disk in ["sda", "vda"] {
            for number in 1..=4 {
                let folder = at(&format!("sys/devices/block/{disk}/{disk}{number}"));
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("partition"), format!("{number}\n")).unwrap();
            }
        }
        for (upper, lowers) in [("dm-4", &["dm-3"][..]), ("dm-3", &["dm-1", "dm-2"]), ("dm-2", &["vda/vda4"])] {
            let slaves = at(&format!("sys/devices/block/{upper}/slaves"));
            fs::create_dir_all(&slaves).unwrap();
            for lower in lowers {
                symlink(at("sys/devices/block").join(lower), slaves.join(lower.rsplit('/').next().unwrap())).unwrap();
            }
        }
        fs::create_dir_all(at("sys/devices/block/dm-1/slaves")).unwrap();
        symlink(at("sys/devices/block/vda/vda4"), at("sys/devices/block/dm-1/slaves/vda4")).unwrap();
        fs::create_dir_all(at("sys/dev/block")).unwrap();
        symlink(at("sys/devices/block/dm-4"), at("sys/dev/block/254:4")).unwrap();
        dir
    }

    #[test]
    fn partitions_are_those_of_the_disk_that_root_is_on() {
        let dir = machine();
        let name =
            |number| below(dir.path(), "254:4", number).map(|device| device.strip_prefix(dir.path()).unwrap().into());
        assert_eq!(name(Slot::B.partition()), Ok(PathBuf::from("dev/vda3")));
        assert_eq!(name(1), Ok(PathBuf::from("dev/vda1")));
        assert!(name(9).unwrap_err().contains("no partition 9"));
        assert!(below(dir.path(), "0:27", 1).is_err(), "root of a container");
    }

    #[tokio::test]
    async fn a_new_file_system_is_in_order_and_one_that_the_power_left_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("card");
        fs::File::create(&device).unwrap().set_len(64 << 20).unwrap();
        assert!(!is_in_order(&device).await.unwrap(), "nothing is no file system");
        format(&device, Slot::B).await.unwrap();
        assert!(is_in_order(&device).await.unwrap());
        let sector = fs::read(&device).unwrap();
        assert_eq!(&sector[71..82], b"BOOT_B     ");
        // The mark that Linux sets while it is mounted to be written (`fat_set_state` of its `fs/fat/inode.c`).
        let open = OpenOptions::new().write(true).open(&device).unwrap();
        open.write_all_at(&[1], 0x41).unwrap();
        assert!(!is_in_order(&device).await.unwrap());
        assert!(format(&dir.path().join("nothing"), Slot::A).await.unwrap_err().contains("nothing"));
    }
}
