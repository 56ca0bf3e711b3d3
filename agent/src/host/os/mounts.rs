//! Mounts for a moment, by label: the first partition, and the slots. The unit has mounts of its own, nobody else sees them.

use std::fs;
use std::path::{Path, PathBuf};

use bramble_contracts::boot::Slot;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const LABELS: &str = "/dev/disk/by-label";
const FIRST: &str = "BRAMBLECFG";

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
        Self::label(FIRST, at, Use::Read)
    }

    /// The same, to write.
    pub(super) fn first_writable(at: &Path) -> Result<Self, String> {
        Self::label(FIRST, at, Use::Write)
    }

    /// A slot.
    pub(super) fn slot(slot: Slot, at: &Path, what_for: Use) -> Result<Self, String> {
        Self::label(slot.label(), at, what_for)
    }

    /// A folder, seen elsewhere.
    pub(super) fn folder(folder: &Path, at: &Path) -> Result<Self, String> {
        let said = |err: &dyn std::fmt::Display| format!("{} cannot be mounted: {err}", folder.display());
        fs::create_dir_all(at).and_then(|()| fs::create_dir_all(folder)).map_err(|err| said(&err))?;
        mount(Some(folder), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|err| said(&err))?;
        Ok(Self(at.to_owned()))
    }

    fn label(label: &str, at: &Path, what_for: Use) -> Result<Self, String> {
        let said = |err: &dyn std::fmt::Display| format!("{label} cannot be mounted: {err}");
        fs::create_dir_all(at).map_err(|err| said(&err))?;
        let device = Path::new(LABELS).join(label);
        let always = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
        let try_mount = |flags| mount(Some(&device), at, Some("vfat"), always | flags, None::<&str>);
        let mounted = match what_for {
            Use::Write => try_mount(MsFlags::empty()),
            // One that is mounted elsewhere to be written to cannot be mounted otherwise here.
            Use::Read => match try_mount(MsFlags::MS_RDONLY) {
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
