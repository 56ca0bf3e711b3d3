//! A root file system as a folder: unpacked, laid over with files, its times set. Decides how files that come from a
//! checkout look on a device (owner root, 0755 or 0644), not which they are.

use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::Error;
use crate::fat::sorted;
use crate::tool::Tool;

const BLOCK: u64 = 4096;

/// Unpacks a tarball with owners, capabilities and device nodes, which needs root.
///
/// # Errors
/// When tar fails.
pub(crate) fn unpack(tarball: &Path, into: &Path) -> Result<(), Error> {
    folder(into)?;
    let tar = Tool::new("tar").args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]);
    tar.arg(tarball).arg("-C").arg(into).within(Duration::from_secs(600)).run().map(drop)
}

/// Makes a folder with those above it; one that is there keeps its mode.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn folder(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        folder(above)?;
    }
    fs::create_dir(path).map_err(|err| Error::file("make", path, err))?;
    set_mode(path, 0o755)
}

/// Writes a file, with the folders above it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    if let Some(above) = path.parent() {
        folder(above)?;
    }
    remove(path)?;
    fs::write(path, bytes).map_err(|err| Error::file("write", path, err))?;
    set_mode(path, mode)
}

/// Makes a symbolic link, in place of what is there.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn link(path: &Path, target: &Path) -> Result<(), Error> {
    if let Some(above) = path.parent() {
        folder(above)?;
    }
    remove(path)?;
    symlink(target, path).map_err(|err| Error::file("make", path, err))
}

/// Removes a file or link if it is there.
///
/// # Errors
/// When it is there and stays.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path, err)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes what is in a folder, not the folder.
///
/// # Errors
/// When something stays.
pub(crate) fn empty(dir: &Path) -> Result<(), Error> {
    for path in sorted(dir)? {
        if kind(&path)?.is_dir() {
            fs::remove_dir_all(&path).map_err(|err| Error::file("remove", &path, err))?;
        } else {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Lays a folder's files over another, at the same places. Files are 0755 where their owner may run them, else 0644.
///
/// # Errors
/// When something cannot be read or written, or a folder is a symbolic link in the one below.
pub(crate) fn lay(over: &Path, root: &Path) -> Result<(), Error> {
    for path in sorted(over)? {
        let name = path.file_name().unwrap_or_default();
        let at = root.join(name);
        let meta = kind(&path)?;
        if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(|err| Error::file("read", &path, err))?;
            link(&at, &target)?;
        } else if meta.is_dir() {
            if at.is_symlink() {
                let what = format!("{} is a link there: put the files where it leads to", at.display());
                return Err(Error::Image(format!("{} cannot be laid over: {what}", path.display())));
            }
            folder(&at)?;
            lay(&path, &at)?;
        } else {
            let bytes = fs::read(&path).map_err(|err| Error::file("read", &path, err))?;
            file(&at, &bytes, if meta.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 })?;
        }
    }
    Ok(())
}

/// Copies a file, or what is in a folder, without owners and modes: onto a FAT.
///
/// # Errors
/// When something cannot be read or written.
pub(crate) fn copy_plain(from: &Path, to: &Path) -> Result<(), Error> {
    if from.is_dir() {
        for path in sorted(from)? {
            copy_plain(&path, &to.join(path.file_name().unwrap_or_default()))?;
        }
        return Ok(());
    }
    let bytes = fs::read(from).map_err(|err| Error::file("read", from, err))?;
    file(to, &bytes, 0o644)
}

/// No file below this one, nor itself, is newer than `epoch_s`.
///
/// # Errors
/// When a time cannot be set.
pub(crate) fn set_times(path: &Path, epoch_s: u64) -> Result<(), Error> {
    let meta = kind(path)?;
    if meta.is_dir() {
        for inner in sorted(path)? {
            set_times(&inner, epoch_s)?;
        }
    }
    let epoch = i64::try_from(epoch_s).expect("invariant: before the year 292 billion");
    let whole = if meta.mtime() < epoch { (meta.mtime(), meta.mtime_nsec()) } else { (epoch, 0) };
    let time = TimeSpec::new(whole.0, whole.1);
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)
        .map_err(|err| Error::file("set the time of", path, err.into()))
}

/// What a folder's files take in a file system, bytes.
///
/// # Errors
/// When something cannot be read.
pub(crate) fn size(path: &Path) -> Result<u64, Error> {
    let meta = kind(path)?;
    if !meta.is_dir() {
        return Ok(meta.len().div_ceil(BLOCK) * BLOCK);
    }
    sorted(path)?.iter().try_fold(BLOCK, |sum, inner| Ok(sum + size(inner)?))
}

fn kind(path: &Path) -> Result<Metadata, Error> {
    fs::symlink_metadata(path).map_err(|err| Error::file("look at", path, err))
}

/// Sets a file's mode.
///
/// # Errors
/// When it cannot be set.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, mode).map_err(|err| Error::file("set the mode of", path, err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_checkout_get_a_devices_modes_and_links_stay_links() {
        let dir = tempfile::tempdir().unwrap();
        let (over, root) = (dir.path().join("over"), dir.path().join("root"));
        fs::create_dir_all(over.join("etc/deep")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::set_permissions(root.join("etc"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(over.join("etc/deep/run"), "x").unwrap();
        fs::set_permissions(over.join("etc/deep/run"), fs::Permissions::from_mode(0o775)).unwrap();
        fs::write(over.join("etc/conf"), "new").unwrap();
        fs::set_permissions(over.join("etc/conf"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(root.join("etc/conf"), "old").unwrap();
        symlink("/dev/null", over.join("etc/off")).unwrap();
        lay(&over, &root).unwrap();
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("etc"), mode("etc/deep"), mode("etc/deep/run"), mode("etc/conf")),
            (0o700, 0o755, 0o755, 0o644)
        );
        assert_eq!(fs::read_to_string(root.join("etc/conf")).unwrap(), "new");
        assert_eq!(fs::read_link(root.join("etc/off")).unwrap(), Path::new("/dev/null"));
        lay(&over, &root).unwrap();
    }

    #[test]
    fn a_folder_that_is_a_link_below_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (over, root) = (dir.path().join("over"), dir.path().join("root"));
        fs::create_dir_all(over.join("lib/x")).unwrap();
        fs::create_dir_all(&root).unwrap();
        symlink("/usr/lib", root.join("lib")).unwrap();
        let err = lay(&over, &root).unwrap_err().to_string();
        assert!(err.contains("is a link there"), "{err}");
    }

    #[test]
    fn newer_files_get_the_epoch_and_older_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("new"), "x").unwrap();
        symlink("nowhere", root.join("link")).unwrap();
        set_times(&root, 1000).unwrap();
        set_times(&root, 2000).unwrap();
        for name in ["new", "link", ""] {
            assert_eq!(fs::symlink_metadata(root.join(name)).unwrap().mtime(), 1000, "{name}");
        }
        assert_eq!(size(&root).unwrap(), 3 * BLOCK);
    }
}
