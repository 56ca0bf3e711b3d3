//! Private files that are whole or absent: temp file, fsync, rename, fsync of the folder.
//!
//! Decides: how a file becomes durable and who may read it. Deliberately does not: know what is in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// A file or folder that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub struct FileError {
    /// `read`, `write`, …
    pub what: &'static str,
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub err: io::Error,
}

/// Attaches what was tried, and to which path.
pub fn at<T>(what: &'static str, path: &Path, result: io::Result<T>) -> Result<T, FileError> {
    result.map_err(|err| FileError { what, path: path.to_owned(), err })
}

/// Makes a folder that only its owner can enter, with its parents.
pub fn private_dir(path: &Path) -> Result<(), FileError> {
    at("create", path, DirBuilder::new().recursive(true).mode(0o700).create(path))
}

/// Makes the names within a folder durable.
pub fn sync_dir(path: &Path) -> Result<(), FileError> {
    at("sync", path, File::open(path).and_then(|dir| dir.sync_all()))
}

/// Writes a new file (0600) and syncs it. Fails if it exists.
pub fn create(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    at("write", path, write())
}

fn temp_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new.{}.{}", std::process::id(), super::random_text()));
    path.with_file_name(name)
}

/// Replaces a file (0600) as a whole.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temp = temp_beside(path);
    create(&temp, bytes)?;
    if let Err(err) = fs::rename(&temp, path) {
        let _ = fs::remove_file(&temp);
        return at("replace", path, Err(err));
    }
    path.parent().map_or(Ok(()), sync_dir)
}

/// Whether a file was made, or somebody else had made it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// By us, now.
    Now,
    /// By somebody else; untouched.
    Before,
}

/// Makes a whole file if there is none; of several at once exactly one wins.
pub fn create_once(path: &Path, bytes: &[u8]) -> Result<Made, FileError> {
    let temp = temp_beside(path);
    create(&temp, bytes)?;
    let linked = fs::hard_link(&temp, path);
    let _ = fs::remove_file(&temp);
    match linked {
        Ok(()) => path.parent().map_or(Ok(()), sync_dir).map(|()| Made::Now),
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(Made::Before),
        Err(err) => at("create", path, Err(err)),
    }
}

/// Reads a small file.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    at("read", path, fs::read(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_private_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(create_once(&path, b"1").unwrap(), Made::Now);
        assert_eq!(create_once(&path, b"2").unwrap(), Made::Before);
        assert_eq!(read(&path).unwrap(), b"1");
        replace(&path, b"3").unwrap();
        assert_eq!(read(&path).unwrap(), b"3");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temp file is left");
    }
}
