//! Mounts for a moment: the first partition, and the slots. The unit has mounts of its own, nobody else sees them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bramble_contracts::boot::Slot;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{major, minor};

use super::partition;

/// The number of the first partition.
const FIRST: u32 = 1;

/// Mounted until this is dropped.
#[derive(Debug)]
pub(super) struct Mounted(PathBuf);

/// For what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    Write,
}

impl Mounted {
    /// The first partition, to read.
    pub(super) fn first(at: &Path) -> Result<Self, String> {
        Self::device(&partition::numbered(FIRST)?, at, Use::Read)
    }

    /// The same, to write.
    pub(super) fn first_writable(at: &Path) -> Result<Self, String> {
        Self::device(&partition::numbered(FIRST)?, at, Use::Write)
    }

    /// A slot, to read.
    pub(super) fn slot(slot: Slot, at: &Path) -> Result<Self, String> {
        Self::device(&partition::numbered(slot.partition())?, at, Use::Read)
    }

    /// A folder, seen elsewhere.
    pub(super) fn folder(folder: &Path, at: &Path) -> Result<Self, String> {
        let said = |err: &dyn std::fmt::Display| format!("{} cannot be mounted: {err}", folder.display());
        fs::create_dir_all(at).and_then(|()| fs::create_dir_all(folder)).map_err(|err| said(&err))?;
        mount(Some(folder), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|err| said(&err))?;
        Ok(Self(at.to_owned()))
    }

    /// The file system of a partition.
    pub(super) fn device(device: &Path, at: &Path, what_for: Use) -> Result<Self, String> {
        let said = |err: &dyn std::fmt::Display| format!("{} cannot be mounted: {err}", device.display());
        fs::create_dir_all(at).map_err(|err| said(&err))?;
        let always = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
        let try_mount = |flags| mount(Some(device), at, Some("vfat"), always | flags, None::<&str>);
        // One that is mounted elsewhere to be written to cannot be mounted otherwise here, and the kernel's log says so.
        let mounted = match (what_for, elsewhere(device)) {
            (Use::Write, _) | (Use::Read, Some(Use::Write)) => try_mount(MsFlags::empty()),
            (Use::Read, Some(Use::Read) | None) => match try_mount(MsFlags::MS_RDONLY) {
                Err(Errno::EBUSY) => try_mount(MsFlags::empty()),
                done => done,
            },
        };
        mounted.map_err(|err| said(&err))?;
        Ok(Self(at.to_owned()))
    }

    pub(super) fn at(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(err) = umount2(&self.0, MntFlags::MNT_DETACH) {
            tracing::warn!(at = %self.0.display(), %err, "it stays mounted until this unit ends");
        }
    }
}

/// How a device is mounted already; nothing where it is not, or that cannot be told.
pub(super) fn elsewhere(device: &Path) -> Option<Use> {
    let number = fs::metadata(device).ok()?.rdev();
    mounted(&fs::read_to_string("/proc/self/mountinfo").ok()?, &format!("{}:{}", major(number), minor(number)))
}

/// Lines such as `27 1 254:1 / /boot/bramble rw,noexec shared:9 - vfat /dev/vda1 rw,fmask=0177`: the words at the end are those
/// of the file system, which all its mounts share.
fn mounted(mountinfo: &str, number: &str) -> Option<Use> {
    let line = mountinfo.lines().find(|line| line.split(' ').nth(2) == Some(number))?;
    let words = line.split_once(" - ")?.1.split(' ').nth(2)?;
    Some(if words.split(',').any(|word| word == "ro") { Use::Read } else { Use::Write })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.12 wrote it on a virtual Pi.
    const MOUNTINFO: &str = "29 1 253:5 / / rw,noatime shared:1 - ext4 /dev/mapper/vg0-root rw\n\
        55 29 254:1 / /boot/bramble rw,nosuid,nodev,noexec,noatime shared:36 - vfat /dev/vda1 rw,fmask=0177,errors=remount-ro,flush\n\
        57 29 254:2 / /boot/firmware ro,nosuid,nodev,noexec,relatime shared:38 - vfat /dev/vda2 ro,fmask=0022,errors=remount-ro\n";

    #[test]
    fn how_a_device_is_mounted_elsewhere_is_its_file_systems_word() {
        assert_eq!(mounted(MOUNTINFO, "254:1"), Some(Use::Write), "errors=remount-ro is another word");
        assert_eq!(mounted(MOUNTINFO, "254:2"), Some(Use::Read));
        assert_eq!(mounted(MOUNTINFO, "254:3"), None);
        assert_eq!(mounted("damaged 1 254:3", "254:3"), None);
    }
}
