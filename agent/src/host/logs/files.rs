//! The files of a log: `<root>/<tenant>.<deployment>/<container>/`, in it for each making (life) of the container
//! `<life>.log`, which conmon writes and, when it is full, replaces; and `<life>.<number>`, hard links that keep what was
//! replaced. Decides names. Does not decide what is kept.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bramble_contracts::Name;
use bramble_contracts::v1::{LogLine, LogPlace};

use super::entry::Joiner;
use crate::core::app::AppKey;

const ACTIVE: &str = "log";
const GAP: &str = "gap";
/// Entries are at most 8 KiB and their head. More without a line end is a damaged file.
const BLOCK: usize = 16 * 1024;

/// One file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) life: u32,
    pub(super) number: u32,
    /// Files before it may have been replaced unseen.
    pub(super) gap: bool,
    pub(super) path: PathBuf,
}

impl Segment {
    /// Files of one log are in this order.
    pub(super) fn key(&self) -> (u32, u32) {
        (self.life, self.number)
    }

    /// Where it begins.
    pub(super) fn begin(&self) -> LogPlace {
        LogPlace { life: self.life, segment: self.number, ..LogPlace::default() }
    }
}

/// What a file's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// conmon writes it.
    Active { life: u32 },
    /// We keep it.
    Kept { life: u32, number: u32, gap: bool },
}

impl Named {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut words = name.split('.');
        let life = words.next()?.parse().ok()?;
        match (words.next()?, words.next(), words.next()) {
            (ACTIVE, None, _) => Some(Self::Active { life }),
            (number, None, _) => Some(Self::Kept { life, number: number.parse().ok()?, gap: false }),
            (number, Some(GAP), None) => Some(Self::Kept { life, number: number.parse().ok()?, gap: true }),
            (_, Some(_), _) => None,
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Active { life } => format!("{life:06}.{ACTIVE}"),
            Self::Kept { life, number, gap: false } => format!("{life:06}.{number:06}"),
            Self::Kept { life, number, gap: true } => format!("{life:06}.{number:06}.{GAP}"),
        }
    }
}

/// Every file in a folder that is named as we name them.
pub(super) fn named(dir: &Path) -> io::Result<Vec<(Named, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(named) = entry.file_name().to_str().and_then(Named::parse) {
            found.push((named, entry.path()));
        }
    }
    Ok(found)
}

/// The files of one container's log, oldest first.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let found = match named(dir) {
        Ok(found) => found,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let kept = found.into_iter().filter_map(|(named, path)| match named {
        Named::Kept { life, number, gap } => Some(Segment { life, number, gap, path }),
        Named::Active { .. } => None,
    });
    let mut segments: Vec<Segment> = kept.collect();
    segments.sort_by_key(Segment::key);
    Ok(segments)
}

/// Folders in a folder by their names, where these are names.
pub(super) fn folders<T: std::str::FromStr>(dir: &Path) -> io::Result<Vec<(T, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Some(name) = entry.file_name().to_str().and_then(|name| name.parse().ok())
        {
            found.push((name, entry.path()));
        }
    }
    found.sort_by(|(_, a), (_, b)| a.cmp(b));
    Ok(found)
}

/// Where a deployment's logs lie.
pub(super) fn app_dir(root: &Path, key: &AppKey) -> PathBuf {
    root.join(key.to_string())
}

/// A file for a new making of a container. It exists from now on, so that no other making gets its number.
pub(in crate::host) fn reserve(root: &Path, key: &AppKey, container: &Name) -> io::Result<PathBuf> {
    let dir = app_dir(root, key).join(container.as_str());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let lives = named(&dir)?.into_iter().map(|(named, _)| match named {
        Named::Active { life } | Named::Kept { life, .. } => life,
    });
    let mut life = lives.max().unwrap_or(0);
    loop {
        life = life.saturating_add(1);
        let path = dir.join(Named::Active { life }.name());
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(_) => return Ok(path),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists && life < u32::MAX => {}
            Err(err) => return Err(err),
        }
    }
}

/// Reads a file entry by entry. Holds one block.
#[derive(Debug)]
pub(super) struct Scan {
    file: File,
    block: Vec<u8>,
    /// Of the block: what has been given.
    used: usize,
    /// Of the file: the end of what has been given.
    at: u64,
}

impl Scan {
    pub(super) fn open(path: &Path, offset: u64) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, block: Vec::new(), used: 0, at: offset })
    }

    /// The next whole entry without its line end, and where it ends; `None` when there is none yet.
    pub(super) fn next(&mut self) -> io::Result<Option<(&[u8], u64)>> {
        let mut searched = self.used;
        let (raw, given) = loop {
            if let Some(end) = self.block[searched..].iter().position(|byte| *byte == b'\n') {
                let end = searched + end;
                break (self.used..end, end + 1 - self.used);
            }
            let waiting = self.block.len() - self.used;
            if waiting >= BLOCK {
                break (self.used..self.block.len(), waiting);
            }
            self.block.drain(..self.used);
            (self.used, searched) = (0, waiting);
            self.block.resize(BLOCK, 0);
            let read = self.file.read_at(&mut self.block[waiting..], self.at + waiting as u64);
            self.block.truncate(waiting + *read.as_ref().unwrap_or(&0));
            if read? == 0 {
                if waiting == 0 {
                    self.block = Vec::new();
                }
                return Ok(None);
            }
        };
        self.used += given;
        self.at += given as u64;
        Ok(Some((&self.block[raw], self.at)))
    }

    /// Has somebody emptied the file?
    pub(super) fn is_cut(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() < self.at)
    }
}

/// Gives every line of a file, with what never ended, to `each` until that says stop; and the place behind the last one.
pub(super) fn every_line(segment: &Segment, mut each: impl FnMut(&LogLine) -> Go) -> io::Result<LogPlace> {
    let mut joiner = Joiner::at(segment.begin());
    let mut scan = match Scan::open(&segment.path, 0) {
        Ok(scan) => scan,
        // It was dropped a moment ago.
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(segment.begin()),
        Err(err) => return Err(err),
    };
    while let Some((raw, end)) = scan.next()? {
        for line in joiner.push(raw, end).iter().flatten() {
            if each(line) == Go::Stop {
                return Ok(line.next);
            }
        }
    }
    for line in joiner.flush().iter().flatten() {
        if each(line) == Go::Stop {
            return Ok(line.next);
        }
    }
    Ok(joiner.place())
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    On,
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_else_does() {
        for named in [
            Named::Active { life: 7 },
            Named::Kept { life: 7, number: 12, gap: false },
            Named::Kept { life: 1_000_000, number: 1, gap: true },
        ] {
            assert_eq!(Named::parse(&named.name()), Some(named));
        }
        for other in ["", "x.log", "7", "000007.log.tmp", "000007.000001.gap.x", "000007.000001.tmp", ".gone"] {
            assert_eq!(Named::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_new_life_gets_a_number_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (key, name) = (AppKey::parse("default.web").unwrap(), "web".parse().unwrap());
        let first = reserve(dir.path(), &key, &name).unwrap();
        let second = reserve(dir.path(), &key, &name).unwrap();
        assert!(first.ends_with("default.web/web/000001.log") && second.ends_with("000002.log"));
        fs::rename(&second, second.with_file_name("000004.000009")).unwrap();
        assert!(reserve(dir.path(), &key, &name).unwrap().ends_with("000005.log"));
    }

    #[test]
    fn a_scan_sees_what_is_appended_and_survives_what_is_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "one\ntw").unwrap();
        let mut scan = Scan::open(&path, 0).unwrap();
        assert_eq!(scan.next().unwrap(), Some((&b"one"[..], 4)));
        assert_eq!(scan.next().unwrap(), None);
        fs::write(&path, format!("one\ntwo\n{}\nend\n", "x".repeat(3 * BLOCK))).unwrap();
        assert_eq!(scan.next().unwrap(), Some((&b"two"[..], 8)));
        let mut sizes = Vec::new();
        while let Some((raw, _)) = scan.next().unwrap() {
            sizes.push(raw.len());
        }
        assert_eq!(sizes, [BLOCK, BLOCK, BLOCK, 0, 3]);
        assert!(!scan.is_cut().unwrap());
        fs::write(&path, "").unwrap();
        assert!(scan.is_cut().unwrap());
    }
}
