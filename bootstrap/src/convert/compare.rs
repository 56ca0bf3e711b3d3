//! Compares two file trees: every name, owner, mode, time, link, attribute and byte. Reads; decides nothing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

const PART: usize = 256 << 10;
/// What a list of attributes, or one value, may have (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const ATTRIBUTES: usize = 64 << 10;

/// What was compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Files, folders, links and so on.
    pub(crate) entries: u64,
    /// Content.
    pub(crate) bytes: u64,
}

/// Where things are read into: made once, for a tree has a hundred thousand entries and most are small.
struct Rooms {
    one: Vec<u8>,
    other: Vec<u8>,
}

/// Compares the trees below two folders, each on one file system.
///
/// # Errors
/// The first difference, by name, or what cannot be read.
pub(crate) fn trees(left: &Path, right: &Path) -> anyhow::Result<Counted> {
    let mut rooms = Rooms { one: vec![0; PART], other: vec![0; PART] };
    let mut counted = Counted::default();
    let mut open = vec![(left.to_owned(), right.to_owned())];
    while let Some((left, right)) = open.pop() {
        let (mine, yours) = (names(&left)?, names(&right)?);
        if let Some(odd) = mine.symmetric_difference(&yours).next() {
            bail!("{} is in one of the trees only", left.join(odd).display());
        }
        for name in mine {
            let (one, other) = (left.join(&name), right.join(&name));
            if entry(&one, &other, &mut rooms, &mut counted).with_context(|| format!("{} differs", one.display()))? {
                open.push((one, other));
            }
        }
    }
    Ok(counted)
}

fn names(folder: &Path) -> anyhow::Result<BTreeSet<OsString>> {
    let read = || -> std::io::Result<BTreeSet<OsString>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    read().with_context(|| format!("cannot read {}", folder.display()))
}

/// True for a folder, whose content is still to be compared.
fn entry(left: &Path, right: &Path, rooms: &mut Rooms, counted: &mut Counted) -> anyhow::Result<bool> {
    let (mine, yours) = (fs::symlink_metadata(left)?, fs::symlink_metadata(right)?);
    ensure!(look(&mine) == look(&yours), "mode, owner, time, size or links: {:?}, {:?}", look(&mine), look(&yours));
    let kind = mine.file_type();
    let (one, other) = (attributes(left, &mut rooms.one)?, attributes(right, &mut rooms.other)?);
    ensure!(one == other, "extended attributes");
    counted.entries += 1;
    if kind.is_symlink() {
        ensure!(fs::read_link(left)? == fs::read_link(right)?, "where the link leads");
    } else if kind.is_file() {
        counted.bytes += content(left, right, rooms)?;
    }
    Ok(kind.is_dir())
}

fn look(meta: &Metadata) -> (u32, u32, u32, u64, u64, u64, (i64, i64)) {
    let size = if meta.is_dir() { 0 } else { meta.size() };
    (meta.mode(), meta.uid(), meta.gid(), meta.nlink(), meta.rdev(), size, (meta.mtime(), meta.mtime_nsec()))
}

fn attributes(path: &Path, room: &mut [u8]) -> anyhow::Result<BTreeSet<(Vec<u8>, Vec<u8>)>> {
    let (list, value) = room[..2 * ATTRIBUTES].split_at_mut(ATTRIBUTES);
    let len = match rustix::fs::llistxattr(path, &mut *list) {
        Ok(len) => len,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(err) => return Err(err.into()),
    };
    let mut found = BTreeSet::new();
    for name in list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let len = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut *value)?;
        found.insert((name.to_owned(), value[..len].to_owned()));
    }
    Ok(found)
}

fn content(left: &Path, right: &Path, rooms: &mut Rooms) -> anyhow::Result<u64> {
    let (mut mine, mut yours) = (File::open(left)?, File::open(right)?);
    let (one, other) = (&mut rooms.one[..], &mut rooms.other[..]);
    let mut total = 0;
    loop {
        let (read, held) = (fill(&mut mine, one)?, fill(&mut yours, other)?);
        ensure!(one[..read] == other[..held], "content, after {total} bytes");
        total += read as u64;
        if read < PART {
            return Ok(total);
        }
    }
}

fn fill(file: &mut File, part: &mut [u8]) -> std::io::Result<usize> {
    let mut held = 0;
    while held < part.len() {
        match file.read(&mut part[held..])? {
            0 => break,
            read => held += read,
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("folder/file"), vec![7; 300 << 10]).unwrap();
        symlink("file", dir.path().join("folder/link")).unwrap();
        dir
    }

    fn copy(of: &Path) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (format!("{}/.", of.display()), dir.path().display().to_string());
        crate::process::output(Path::new("/bin/cp"), &["-a", &from, &to]).unwrap();
        dir
    }

    #[test]
    fn every_difference_is_found() {
        let left = tree();
        let same = copy(left.path());
        assert_eq!(trees(left.path(), same.path()).unwrap(), Counted { entries: 3, bytes: 300 << 10 });
        type Change = fn(&Path);
        let changes: [(Change, &str); 6] = [
            (|at| fs::remove_file(at.join("folder/link")).unwrap(), "folder differs: mode, owner, time"),
            (|at| fs::write(at.join("more"), "").unwrap(), "one of the trees only"),
            (|at| fs::set_permissions(at.join("folder"), fs::Permissions::from_mode(0o700)).unwrap(), "mode"),
            (|at| fs::hard_link(at.join("folder/file"), at.join("file2")).unwrap(), "one of the trees only"),
            (
                |at| {
                    let file = at.join("folder/file");
                    let time = fs::metadata(&file).unwrap().modified().unwrap();
                    let mut bytes = fs::read(&file).unwrap();
                    *bytes.last_mut().unwrap() = 8;
                    fs::write(&file, bytes).unwrap();
                    File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
                },
                "content",
            ),
            (
                |at| {
                    fs::remove_file(at.join("folder/link")).unwrap();
                    symlink("elsewhere", at.join("folder/link")).unwrap();
                },
                "differs",
            ),
        ];
        for (change, said) in changes {
            let other = copy(left.path());
            change(other.path());
            let err = format!("{:#}", trees(left.path(), other.path()).unwrap_err());
            assert!(err.contains(said), "{said}: {err}");
        }
    }
}
