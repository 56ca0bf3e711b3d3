//! The first partition, seen from the initramfs: autoboot.txt, and counts of boots that did not work. On a card with one set of
//! boot files it is theirs, and has no autoboot.txt.
//!
//! Mounted for each look and for each write, so that it is whole whenever the power goes. Decides how a file there is
//! replaced; not what is in it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// What the firmware reads.
pub(crate) const AUTOBOOT: &str = "autoboot.txt";
/// Boots in a row whose volumes could not be used.
pub(crate) const UNREADABLE: &str = "bramble-unreadable.txt";
/// Boots in a row that ended in a panic of the initramfs.
pub(crate) const PANICS: &str = "bramble-panics.txt";
/// The last reason for a boot that did not go on, for whoever takes the card out.
pub(crate) const REASON: &str = "bramble-boot-failed.txt";

/// Where it is, and where it is mounted for a moment.
pub(crate) struct First {
    device: PathBuf,
    at: PathBuf,
}

/// Mounted until it is dropped.
pub(crate) struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // What was written is synced already; a mount that stays is in nobody's way.
        let _busy = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

impl First {
    /// The one that is named, else the one with our label.
    pub(crate) fn new(named: Option<PathBuf>, dev: &Path, run: &Path) -> Self {
        let device = named.unwrap_or_else(|| dev.join("disk/by-label/BRAMBLECFG"));
        Self { device, at: run.join("first") }
    }

    fn mount(&self, flags: MsFlags) -> Result<Mounted<'_>, String> {
        mount_at(&self.device, &self.at, "vfat", flags | MsFlags::MS_NOEXEC)
    }

    /// A file, or why it cannot be read; nothing where it is not there.
    pub(crate) fn read(&self, names: &[&str]) -> Result<Vec<Option<String>>, String> {
        let _mounted = self.mount(MsFlags::MS_RDONLY)?;
        names.iter().map(|name| read(&self.at.join(name))).collect()
    }

    /// Makes a file hold this, durably.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let _mounted = self.mount(MsFlags::empty())?;
        replace(&self.at, name, text)
    }

    /// Removes files, if they are there.
    pub(crate) fn remove(&self, names: &[&str]) -> Result<(), String> {
        let _mounted = self.mount(MsFlags::empty())?;
        for name in names {
            match fs::remove_file(self.at.join(name)) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(format!("{name}: {err}")),
                Ok(()) | Err(_) => {}
            }
        }
        sync(&self.at)
    }
}

/// Mounts for a moment.
pub(crate) fn mount_at<'a>(device: &Path, at: &'a Path, kind: &str, flags: MsFlags) -> Result<Mounted<'a>, String> {
    let said = |what: &str, err: &dyn std::fmt::Display| format!("{what}: {err}");
    fs::create_dir_all(at).map_err(|err| said(&at.display().to_string(), &err))?;
    let flags = flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(Some(device), at, Some(kind), flags, None::<&str>)
        .map_err(|err| said(&format!("{} cannot be mounted", device.display()), &err))?;
    Ok(Mounted(at))
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(format!("{}: {err}", path.display())),
    }
}

/// In place, where it is as long: one sector, which holds the one or the other whenever the power goes, and no table of the FAT
/// takes part. Else written beside, synced, renamed, folder synced. Read back.
pub(crate) fn replace(folder: &Path, name: &str, text: &str) -> Result<(), String> {
    let (path, beside) = (folder.join(name), folder.join(format!("{name}.new")));
    let write = || -> std::io::Result<()> {
        if overwrite(&path, text).is_ok_and(|done| done) {
            return Ok(());
        }
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|err| format!("{} cannot be written: {err}", path.display()))?;
    if read(&path)?.as_deref() == Some(text) {
        Ok(())
    } else {
        Err(format!("{} reads back differently", path.display()))
    }
}

/// False where it is of another length.
fn overwrite(path: &Path, text: &str) -> std::io::Result<bool> {
    let file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.len() != text.len() as u64 {
        return Ok(false);
    }
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync_all().map(|()| true)
}

fn sync(folder: &Path) -> Result<(), String> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|err| format!("{}: {err}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["1", "2\n", "3\n", "", "4"] {
            replace(dir.path(), UNREADABLE, text).unwrap();
            assert_eq!(read(&dir.path().join(UNREADABLE)).unwrap().as_deref(), Some(text));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("gone"), UNREADABLE, "1").is_err());
        assert_eq!(read(&dir.path().join("nothing")), Ok(None));
    }
}
