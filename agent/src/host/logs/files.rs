//! The files of a log: `<root>/<tenant>.<deployment>/<container>/`, in it for each making (life) of the container
//! `<life>.log`, which conmon writes and, when it is full, replaces; and `<life>.<number>`, hard links that keep what was
//! replaced. Decides names. Does not decide what is kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bramble_contracts::Name;
use bramble_contracts::v1::{LogLine, LogPlace};

use super::entry::{Joiner, is_plain};
use crate::core::app::AppKey;

const ACTIVE: &str = "log";
const GAP: &str = "gap";
const BLOCK: usize = 8 * 1024;
/// Entries are at most 8 KiB and their head. More without a line end is a damaged file.
const ENTRY_MAX: usize = 16 * 1024;

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

/// Reads a file entry by entry. Holds one block and one entry.
#[derive(Debug)]
pub(super) struct Scan {
    reader: BufReader<File>,
    entry: Vec<u8>,
    is_whole: bool,
    /// Of the file: what has been read.
    at: u64,
}

impl Scan {
    pub(super) fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { reader: BufReader::with_capacity(BLOCK, file), entry: Vec::new(), is_whole: true, at: offset })
    }

    /// The next whole entry without its line end, and where it ends; `None` when there is none yet.
    pub(super) fn next(&mut self) -> io::Result<Option<(&[u8], u64)>> {
        if self.is_whole {
            self.entry.clear();
        }
        let room = u64::try_from(ENTRY_MAX - self.entry.len()).unwrap_or(0);
        let read = self.reader.by_ref().take(room).read_until(b'\n', &mut self.entry)?;
        self.at += read as u64;
        let ended = self.entry.strip_suffix(b"\n");
        self.is_whole = ended.is_some() || self.entry.len() >= ENTRY_MAX;
        Ok(self.is_whole.then(|| (ended.unwrap_or(&self.entry), self.at)))
    }

    /// Has somebody emptied the file?
    pub(super) fn is_cut(&self) -> io::Result<bool> {
        Ok(self.reader.get_ref().metadata()?.len() < self.at)
    }
}

/// How many lines a file has: as [`every_line`] counts them, and many times as fast where no line is in pieces.
pub(super) fn count_lines(segment: &Segment) -> io::Result<u32> {
    let mut scan = match Scan::open(&segment.path, 0) {
        Ok(scan) => scan,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(err) => return Err(err),
    };
    let mut lines = 0u32;
    while let Some((raw, _)) = scan.next()? {
        if !is_plain(raw) {
            return Ok(every_line(segment, |_| Go::On)?.lines);
        }
        lines = lines.saturating_add(1);
    }
    Ok(lines)
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
    fn lines_are_counted_as_they_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |stream: &str, flag: &str| format!("1970-01-01T00:00:01.000000000+00:00 {stream} {flag} x\n");
        let (full, part, other) = (entry("stdout", "F"), entry("stdout", "P"), entry("stderr", "F"));
        let odd = "not an entry at all\n".to_owned();
        for parts in [&[&full, &other][..], &[&full, &part, &other, &full, &part], &[&odd, &full], &[]] {
            let text: String = parts.iter().map(|part| part.as_str()).collect();
            let path = dir.path().join("f");
            fs::write(&path, text).unwrap();
            let segment = Segment { life: 1, number: 1, gap: false, path };
            let mut given = 0;
            every_line(&segment, |_| {
                given += 1;
                Go::On
            })
            .unwrap();
            assert_eq!(count_lines(&segment).unwrap(), given, "{parts:?}");
        }
    }

    #[test]
    fn a_scan_sees_what_is_appended_and_survives_what_is_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "one\ntw").unwrap();
        let mut scan = Scan::open(&path, 0).unwrap();
        assert_eq!(scan.next().unwrap(), Some((&b"one"[..], 4)));
        assert_eq!(scan.next().unwrap(), None);
        fs::write(&path, format!("one\ntwo\n{}\nend\n", "x".repeat(3 * ENTRY_MAX))).unwrap();
        assert_eq!(scan.next().unwrap(), Some((&b"two"[..], 8)));
        let mut sizes = Vec::new();
        while let Some((raw, _)) = scan.next().unwrap() {
            sizes.push(raw.len());
        }
        assert_eq!(sizes, [ENTRY_MAX, ENTRY_MAX, ENTRY_MAX, 0, 3]);
        assert!(!scan.is_cut().unwrap());
        fs::write(&path, "").unwrap();
        assert!(scan.is_cut().unwrap());
    }
}
