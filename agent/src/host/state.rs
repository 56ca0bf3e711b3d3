//! Files the agent must find again after a power cut: whole, checked, versioned, with the previous good one beside.
//!
//! Layout: one head line (`bramble-state <format> <sha256 of format and body>`), then the body. Decides how bytes stay
//! trustworthy. Does not decide what they mean: a file that cannot be trusted is a named error, never "nothing there".

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

const MAGIC: &str = "bramble-state";
/// No state of ours is anywhere near this; a longer file is not ours.
const BYTES_MAX: u64 = 64 << 20;

/// What loading found.
#[derive(Debug, PartialEq, Eq)]
pub enum Loaded<T> {
    /// There never was one.
    Missing,
    /// The newest, intact.
    Good(T),
    /// The newest cannot be trusted; this is the one before it.
    Previous {
        /// The older value.
        value: T,
        /// What is wrong with the newest.
        why: String,
    },
}

impl<T> Loaded<T> {
    /// The value, whichever generation of the file it came from.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Missing => None,
            Self::Good(value) | Self::Previous { value, .. } => Some(value),
        }
    }

    fn map<U>(self, f: impl FnOnce(T) -> Result<U, StateError>) -> Result<Loaded<U>, StateError> {
        Ok(match self {
            Self::Missing => Loaded::Missing,
            Self::Good(value) => Loaded::Good(f(value)?),
            Self::Previous { value, why } => Loaded::Previous { value: f(value)?, why },
        })
    }
}

/// Why state could not be kept or found.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system refused.
    #[error("cannot {doing} {}; check that the disk is not full or read-only", path.display())]
    Io {
        /// Reading, writing, …
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        #[source]
        err: io::Error,
    },
    /// Neither the newest nor the previous file can be trusted.
    #[error("{} is damaged ({why}) and so is the one before it; nothing is changed until it is repaired or removed by hand", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A newer agent wrote it.
    #[error("{} has format {found}, this agent reads up to {known}; run the newer agent that wrote it", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The bytes are intact, but do not say what they should.
    #[error("{} is intact but does not convert; report this as a bug, nothing is changed meanwhile", path.display())]
    Meaning {
        /// The file.
        path: PathBuf,
        /// The parser's word.
        #[source]
        err: serde_json::Error,
    },
}

/// One file of state.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
    format: u32,
}

enum Read1 {
    Missing,
    Good(Vec<u8>),
    Bad(String),
}

impl StateFile {
    /// The file at `path`, written in `format`.
    pub fn new(path: impl Into<PathBuf>, format: u32) -> Self {
        Self { path: path.into(), format }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    /// Replaces the content; when this returns, a power cut cannot take it back. The old content stays beside.
    pub fn store(&self, body: &[u8]) -> Result<(), StateError> {
        let fail = |doing, path: &Path| {
            let path = path.to_owned();
            move |err| StateError::Io { doing, path, err }
        };
        if let Some(dir) = self.path.parent() {
            make_dir(dir)?;
        }
        let (temp, previous, link) = (self.beside(".new"), self.beside(".prev"), self.beside(".link"));
        let head = format!("{MAGIC} {} {}\n", self.format, checksum(self.format, body));
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&temp).map_err(fail("create", &temp))?;
        file.write_all(head.as_bytes()).and_then(|()| file.write_all(body)).map_err(fail("write", &temp))?;
        file.sync_all().map_err(fail("sync", &temp))?;
        // Only an intact file may become the fallback.
        if matches!(self.read_one(&self.path)?, Read1::Good(_)) {
            remove_if_there(&link)?;
            fs::hard_link(&self.path, &link).map_err(fail("link", &link))?;
            fs::rename(&link, &previous).map_err(fail("rename", &previous))?;
        }
        fs::rename(&temp, &self.path).map_err(fail("rename", &self.path))?;
        self.sync_dir()
    }

    /// Reads the newest content that can be trusted.
    pub fn load(&self) -> Result<Loaded<Vec<u8>>, StateError> {
        let why = match self.read_one(&self.path)? {
            Read1::Good(body) => return Ok(Loaded::Good(body)),
            Read1::Missing => None,
            Read1::Bad(why) => Some(why),
        };
        match (self.read_one(&self.beside(".prev"))?, why) {
            (Read1::Good(value), why) => {
                Ok(Loaded::Previous { value, why: why.unwrap_or_else(|| "the newest file is missing".into()) })
            }
            (Read1::Missing, None) => Ok(Loaded::Missing),
            (Read1::Missing | Read1::Bad(_), Some(why)) | (Read1::Bad(why), None) => {
                Err(StateError::Damaged { path: self.path.clone(), why })
            }
        }
    }

    /// Replaces the content with a value, as JSON.
    pub fn store_json(&self, value: &impl Serialize) -> Result<(), StateError> {
        let body = serde_json::to_vec(value).map_err(|err| StateError::Meaning { path: self.path.clone(), err })?;
        self.store(&body)
    }

    /// Reads a value that was stored as JSON.
    pub fn load_json<T: DeserializeOwned>(&self) -> Result<Loaded<T>, StateError> {
        self.load()?.map(|body| {
            serde_json::from_slice(&body).map_err(|err| StateError::Meaning { path: self.path.clone(), err })
        })
    }

    /// Removes the file and the one before it, for good.
    pub fn remove(&self) -> Result<(), StateError> {
        remove_if_there(&self.beside(".prev"))?;
        remove_if_there(&self.beside(".new"))?;
        remove_if_there(&self.beside(".link"))?;
        remove_if_there(&self.path)?;
        match self.sync_dir() {
            // A directory that was never made holds nothing that could come back.
            Err(StateError::Io { err, .. }) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        }
    }

    fn sync_dir(&self) -> Result<(), StateError> {
        let Some(dir) = self.path.parent() else { return Ok(()) };
        File::open(dir).and_then(|d| d.sync_all()).map_err(|err| StateError::Io {
            doing: "sync",
            path: dir.to_owned(),
            err,
        })
    }

    fn read_one(&self, path: &Path) -> Result<Read1, StateError> {
        let fail = |err| StateError::Io { doing: "read", path: path.to_owned(), err };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Read1::Missing),
            Err(err) => return Err(fail(err)),
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > BYTES_MAX {
            return Ok(Read1::Bad("it is far too long".into()));
        }
        let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
            return Ok(Read1::Bad("it has no head line".into()));
        };
        let body = bytes.split_off(end + 1);
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut words = head.split(' ');
        let (Some(MAGIC), Some(format), Some(sum), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Ok(Read1::Bad("its head line is not ours".into()));
        };
        let Ok(found) = format.parse::<u32>() else {
            return Ok(Read1::Bad("its format is not a number".into()));
        };
        if sum != checksum(found, &body) {
            return Ok(Read1::Bad("its checksum does not match".into()));
        }
        if found > self.format {
            return Err(StateError::TooNew { path: path.to_owned(), found, known: self.format });
        }
        Ok(Read1::Good(body))
    }
}

fn checksum(format: u32, body: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::new().chain_update(format.to_be_bytes()).chain_update(body).finalize())
}

/// Does the file begin as one of ours does?
pub fn is_state(path: &Path) -> bool {
    let mut head = [0; MAGIC.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == *MAGIC.as_bytes()
}

/// Makes a directory that only we can enter, with its parents.
pub fn make_dir(dir: &Path) -> Result<(), StateError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|err| StateError::Io {
        doing: "create directory",
        path: dir.to_owned(),
        err,
    })
}

fn remove_if_there(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(StateError::Io { doing: "remove", path: path.to_owned(), err }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file() -> (tempfile::TempDir, StateFile) {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path().join("sub/x"), 1);
        (dir, file)
    }

    #[test]
    fn the_newest_comes_back_and_is_private() {
        let (_dir, file) = file();
        assert_eq!(file.load().unwrap(), Loaded::Missing);
        file.store(b"one").unwrap();
        file.store(b"two").unwrap();
        assert_eq!(file.load().unwrap(), Loaded::Good(b"two".to_vec()));
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.path().parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn any_damage_falls_back_to_the_previous_one() {
        let (_dir, file) = file();
        file.store(b"one").unwrap();
        file.store(b"two").unwrap();
        let whole = fs::read(file.path()).unwrap();
        for cut in 0..whole.len() {
            fs::write(file.path(), &whole[..cut]).unwrap();
            let Loaded::Previous { value, .. } = file.load().unwrap() else { panic!("cut at {cut}") };
            assert_eq!(value, b"one");
        }
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(file.path(), &flipped).unwrap();
            match file.load() {
                Ok(Loaded::Previous { value, .. }) => assert_eq!(value, b"one"),
                other => panic!("bit {bit}: {other:?}"),
            }
        }
    }

    #[test]
    fn damage_of_both_is_an_error_and_no_emptiness() {
        let (_dir, file) = file();
        file.store(b"one").unwrap();
        fs::write(file.path(), b"rubbish").unwrap();
        assert!(matches!(file.load(), Err(StateError::Damaged { .. })));
        file.store(b"two").unwrap();
        assert_eq!(file.load().unwrap(), Loaded::Good(b"two".to_vec()), "a damaged file is never kept as the fallback");
    }

    #[test]
    fn a_newer_format_is_refused() {
        let (_dir, file) = file();
        StateFile::new(file.path(), 2).store(b"{}").unwrap();
        assert!(matches!(file.load(), Err(StateError::TooNew { found: 2, known: 1, .. })));
    }

    #[test]
    fn what_was_never_stored_can_be_removed() {
        let (_dir, file) = file();
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), Loaded::Missing);
    }

    #[test]
    fn a_lost_newest_file_is_not_missing() {
        let (_dir, file) = file();
        file.store(b"one").unwrap();
        file.store(b"two").unwrap();
        fs::remove_file(file.path()).unwrap();
        assert_eq!(file.load().unwrap().value(), Some(b"one".to_vec()));
        // As a kill in the middle of a store leaves them.
        fs::write(file.beside(".new"), "half").unwrap();
        fs::write(file.beside(".link"), "half").unwrap();
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), Loaded::Missing);
        assert_eq!(fs::read_dir(file.path().parent().unwrap()).unwrap().count(), 0, "nothing is left of it");
    }
}
