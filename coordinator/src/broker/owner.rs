//! Files in folders of the broker's own user, while we may be root.
//!
//! That user may put anything there, and exchange it while we look. Decides: that nothing of it is followed (no link,
//! no name twice), and that reading it can neither block nor go on for ever.
//! Deliberately does not: choose the user; `process` does.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
};

use nix::{
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{FileStat, Mode, SFlag, fstat},
    unistd::fchownat,
};

use super::{config::Layout, process::RunAs};
use crate::keys::{FileError, Revocations, accounts, files, jwt};

/// JetStream's folders are not deeper than eight.
const DEPTH_MAX: u32 = 16;
const JWT_MAX: u64 = 16 << 20;

fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

/// Gives `dir`, whose parent is ours, and every file and folder below it to the broker's user. The folder itself comes
/// last: when it is theirs, all in it is, because nobody but that user makes anything there; then nothing is done.
pub(super) fn give(dir: &Path, run_as: RunAs) -> Result<(), FileError> {
    let given = || -> io::Result<()> {
        let parent = File::open(dir.parent().unwrap_or(Path::new("/")))?;
        let top = handle(parent.as_fd(), dir.file_name().unwrap_or_default())?;
        let stat = fstat(&top)?;
        if stat.st_uid == run_as.uid.as_raw() && stat.st_gid == run_as.gid.as_raw() {
            return Ok(());
        }
        give_handle(&top, &stat, run_as, DEPTH_MAX)
    };
    files::at("give away", dir, given())
}

/// A handle on exactly this name: of a link the link itself, of a pipe nothing is opened.
fn handle(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

fn give_handle(it: &OwnedFd, stat: &FileStat, run_as: RunAs, depth: u32) -> io::Result<()> {
    if is(stat, SFlag::S_IFDIR) {
        let deeper = depth.checked_sub(1).ok_or_else(|| io::Error::other("folders in it are too deep"))?;
        // By the handle, not by its name: whoever exchanges the name changes nothing.
        for entry in fs::read_dir(format!("/proc/self/fd/{}", it.as_raw_fd()))? {
            let below = match handle(it.as_fd(), &entry?.file_name()) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                below => below?,
            };
            give_handle(&below, &fstat(&below)?, run_as, deeper)?;
        }
    } else if !is(stat, SFlag::S_IFREG) || stat.st_nlink != 1 {
        // A second name may be that of somebody else's file.
        return Ok(());
    }
    Ok(fchownat(it, "", Some(run_as.uid), Some(run_as.gid), AtFlags::AT_EMPTY_PATH)?)
}

/// Opens a file that they wrote.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a file")) }
}

/// What the broker's own copy of account `id` refuses; nothing where there is none.
pub(super) fn refused(layout: &Layout, id: &str) -> Revocations {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        open(&layout.accounts().join(format!("{id}.jwt")))?.take(JWT_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    let claims = read().ok().and_then(|text| jwt::decode(&text).ok()).filter(|claims| claims["sub"] == id);
    claims.map(|claims| accounts::revoked(&claims["nats"])).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use nix::unistd::{Gid, Uid, geteuid};

    use super::*;

    /// As root it is about another user; else only that nothing fails.
    #[test]
    fn links_and_files_with_two_names_are_not_given_away() {
        let root = tempfile::tempdir().unwrap();
        let (dir, other) = (root.path().join("theirs"), root.path().join("ours"));
        fs::create_dir_all(dir.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        for file in [dir.join("a/b/plain"), other.join("secret"), other.join("twice")] {
            fs::write(file, "x").unwrap();
        }
        symlink(other.join("secret"), dir.join("a/link")).unwrap();
        symlink(&other, dir.join("a/way")).unwrap();
        fs::hard_link(other.join("twice"), dir.join("a/b/twice")).unwrap();
        let user = if geteuid().is_root() { 65_534 } else { geteuid().as_raw() };
        let gid = if geteuid().is_root() { 65_534 } else { fs::metadata(&dir).unwrap().gid() };
        let run_as = RunAs { uid: Uid::from_raw(user), gid: Gid::from_raw(gid) };
        give(&dir, run_as).unwrap();
        let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
        for given in [dir.clone(), dir.join("a"), dir.join("a/b"), dir.join("a/b/plain")] {
            assert_eq!(owner(&given), user, "{given:?}");
        }
        let me = geteuid().as_raw();
        for kept in [other.clone(), other.join("secret"), other.join("twice"), root.path().to_owned()] {
            assert_eq!(owner(&kept), me, "{kept:?}");
        }
        assert!(open(&dir.join("a/link")).is_err() && open(&dir.join("a")).is_err());
        assert!(open(&dir.join("a/b/plain")).is_ok());
    }

    #[test]
    fn a_folder_that_is_a_link_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (dir, other) = (root.path().join("theirs"), root.path().join("ours"));
        fs::create_dir(&other).unwrap();
        symlink(&other, &dir).unwrap();
        give(&dir, RunAs { uid: Uid::from_raw(65_534), gid: Gid::from_raw(65_534) }).unwrap();
        assert_eq!(fs::metadata(&other).unwrap().uid(), geteuid().as_raw());
    }
}
