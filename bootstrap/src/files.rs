//! Files that are either as they were or as they should be, whatever happens to the power.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::Context as _;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// It was as it should be.
    Unchanged,
    /// It is now.
    Written,
}

/// Makes a folder with that mode, and its parents.
pub(crate) fn folder(path: &Path, mode: u32) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(err) if err.kind() == ErrorKind::AlreadyExists && path.is_dir() => {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        }
        Err(err) => Err(err),
    }
    .with_context(|| format!("cannot make {}", path.display()))
}

/// Makes a file hold exactly these bytes with exactly this mode.
pub(crate) fn file(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<Done> {
    let held = fs::read(path).ok();
    let held_mode = fs::metadata(path).map(|meta| meta.permissions().mode() & 0o7777).ok();
    if held.as_deref() == Some(bytes) && held_mode == Some(mode) {
        return Ok(Done::Unchanged);
    }
    let temp = beside(path);
    let write = || -> std::io::Result<()> {
        remove(&temp)?;
        let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp)?;
        out.set_permissions(fs::Permissions::from_mode(mode))?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&temp, path)?;
        sync_parent(path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Done::Written)
}

/// Makes `path` a symbolic link to `target`, in one step.
pub(crate) fn link(path: &Path, target: &Path) -> anyhow::Result<Done> {
    if fs::read_link(path).is_ok_and(|held| held == target) {
        return Ok(Done::Unchanged);
    }
    let temp = beside(path);
    let make = || -> std::io::Result<()> {
        remove(&temp)?;
        symlink(target, &temp)?;
        fs::rename(&temp, path)?;
        sync_parent(path)
    };
    make().with_context(|| format!("cannot link {} to {}", path.display(), target.display()))?;
    Ok(Done::Written)
}

fn beside(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bramble-new");
    name.into()
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes names in a folder durable.
pub(crate) fn sync_parent(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
