//! Binaries of the agent, each under its version: `bin/bramble-agent-v<version>` in the state folder, and two links to them.
//!
//! Decides that a link is turned whole or not at all, and never to a file that is not there. Does not decide where to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use bramble_contracts::bytes::Sha256;
use bramble_contracts::v1::AgentVersion;

use crate::core::upgrade::{Binary, Whole};
use crate::host::state::{self, StateError};

const NAME: &str = "bramble-agent-v";
const PART_PREFIX: &str = ".bramble-agent-v";
const PART_SUFFIX: &str = ".part";

/// Why binaries or links cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// No folder for them.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file system refused.
    #[error("cannot {doing} {}: {err}", path.display())]
    Io {
        /// Reading, writing, …
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's word.
        err: io::Error,
    },
    /// A link is to lead to it.
    #[error("{} is not there, so nothing is turned to it", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
}

/// A link to a binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// What a start runs.
    Current,
    /// The last one that was confirmed.
    Confirmed,
}

impl Link {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Confirmed => "confirmed",
        }
    }
}

/// The folder of binaries.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// Of the state in this folder.
    pub fn of(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("bin") }
    }

    /// The folder; made when it is not there.
    pub fn dir(&self) -> Result<&Path, BinaryError> {
        state::make_dir(&self.dir)?;
        Ok(&self.dir)
    }

    /// Where the binary of a version lies.
    pub fn path(&self, version: AgentVersion) -> PathBuf {
        self.dir.join(format!("{NAME}{version}"))
    }

    /// Where a link lies.
    pub fn link(&self, link: Link) -> PathBuf {
        self.dir.join(link.name())
    }

    /// Where a link leads to; `None` when it is not there, leads to no binary of ours, or to one that is gone.
    pub fn target(&self, link: Link) -> Option<AgentVersion> {
        let target = fs::read_link(self.link(link)).ok()?;
        let version = version_of(target.file_name()?.to_str()?)?;
        self.path(version).is_file().then_some(version)
    }

    /// Turns a link; durable when this returns. One that leads there already stays.
    pub fn turn(&self, link: Link, version: AgentVersion) -> Result<(), BinaryError> {
        let path = self.path(version);
        if !path.is_file() {
            return Err(BinaryError::Missing { path });
        }
        if self.target(link) == Some(version) {
            return self.sync();
        }
        let (place, beside) = (self.link(link), self.dir.join(format!(".{}.new", link.name())));
        let fail = |doing| {
            let path = place.clone();
            move |err| BinaryError::Io { doing, path, err }
        };
        remove_if_there(&beside)?;
        symlink(format!("{NAME}{version}"), &beside).map_err(fail("link"))?;
        fs::rename(&beside, &place).map_err(fail("turn"))?;
        self.sync()
    }

    /// Lays a program down as the binary of a version; durable when this returns.
    pub fn install(&self, program: &Path, version: AgentVersion) -> Result<(), BinaryError> {
        state::make_dir(&self.dir)?;
        let (place, beside) = (self.path(version), self.dir.join(format!("{PART_PREFIX}{version}-new{PART_SUFFIX}")));
        let fail = |doing, path: &Path| {
            let path = path.to_owned();
            move |err| BinaryError::Io { doing, path, err }
        };
        let mut from = File::open(program).map_err(fail("read", program))?;
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o755);
        let mut to = options.open(&beside).map_err(fail("create", &beside))?;
        io::copy(&mut from, &mut to).map_err(fail("write", &beside))?;
        to.sync_all().map_err(fail("sync", &beside))?;
        fs::rename(&beside, &place).map_err(fail("rename", &place))?;
        self.sync()
    }

    /// All of them, also those that are on their way in, with the name of each file.
    pub fn all(&self) -> Result<Vec<(String, Binary)>, BinaryError> {
        let read = |name: String| {
            let (version, whole) = match name.strip_prefix(PART_PREFIX).and_then(|rest| rest.strip_suffix(PART_SUFFIX))
            {
                Some(part) => (part.rsplit_once('-')?.0.parse().ok()?, Whole::Part),
                None => (version_of(&name)?, Whole::Whole),
            };
            let bytes = fs::metadata(self.dir.join(&name)).ok()?.len();
            Some((name, Binary { version, bytes, whole }))
        };
        Ok(self.names()?.into_iter().filter_map(read).collect())
    }

    /// Removes one of them.
    pub fn remove(&self, name: &str) -> Result<(), BinaryError> {
        tracing::info!(name, "a binary that nobody needs is removed");
        remove_if_there(&self.dir.join(name))?;
        self.sync()
    }

    /// Where the binary of a version and a digest lies while it comes in.
    pub fn part(&self, version: AgentVersion, sha256: &Sha256) -> PathBuf {
        self.dir.join(format!("{PART_PREFIX}{version}-{sha256}{PART_SUFFIX}"))
    }

    fn names(&self) -> Result<Vec<String>, BinaryError> {
        let fail = |err| BinaryError::Io { doing: "list", path: self.dir.clone(), err };
        let entries = fs::read_dir(self.dir()?).map_err(fail)?;
        entries.map(|entry| Ok(entry.map_err(fail)?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// Makes names in the folder durable.
    pub fn sync(&self) -> Result<(), BinaryError> {
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|err| BinaryError::Io { doing: "sync", path: self.dir.clone(), err })
    }
}

fn version_of(name: &str) -> Option<AgentVersion> {
    name.strip_prefix(NAME)?.parse().ok()
}

fn remove_if_there(path: &Path) -> Result<(), BinaryError> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(BinaryError::Io { doing: "remove", path: path.to_owned(), err })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn version(patch: u16) -> AgentVersion {
        AgentVersion { major: 1, minor: 0, patch }
    }

    #[test]
    fn links_lead_to_binaries_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let binaries = Binaries::of(dir.path());
        assert!(matches!(binaries.turn(Link::Current, version(1)), Err(BinaryError::Missing { .. })));
        let program = dir.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        for patch in 1..=3 {
            binaries.install(&program, version(patch)).unwrap();
        }
        assert_eq!(fs::metadata(binaries.path(version(1))).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::metadata(dir.path().join("bin")).unwrap().permissions().mode() & 0o777, 0o700);
        binaries.turn(Link::Confirmed, version(1)).unwrap();
        binaries.turn(Link::Current, version(1)).unwrap();
        binaries.turn(Link::Current, version(2)).unwrap();
        binaries.turn(Link::Current, version(2)).unwrap();
        let target = |link| binaries.target(link);
        assert_eq!((target(Link::Confirmed), target(Link::Current)), (Some(version(1)), Some(version(2))));
        fs::write(binaries.part(version(9), &Sha256::of(b"")), "half").unwrap();
        fs::write(dir.path().join("bin/other"), "x").unwrap();
        let all: Vec<Binary> = binaries.all().unwrap().into_iter().map(|(_, binary)| binary).collect();
        assert_eq!(all.iter().filter(|one| one.whole == Whole::Whole).count(), 3);
        assert!(all.contains(&Binary { version: version(9), bytes: 4, whole: Whole::Part }) && all.len() == 4);
        binaries.remove("bramble-agent-v1.0.2").unwrap();
        assert_eq!((target(Link::Confirmed), target(Link::Current)), (Some(version(1)), None), "it leads nowhere");
    }
}
