//! The ledger on the boot partition: two files, each one block written in place, in turn.
//!
//! A FAT is the least safe store of a card. So neither its directory nor its table changes when the ledger is written: both
//! files exist from the beginning, and the one that is older is overwritten. A write that was cut is told by its sum, and
//! then the other file counts.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::machine::Ledger;

const NAMES: [&str; 2] = ["bramble-convert.a", "bramble-convert.b"];
const SIZE: usize = 4096;

#[derive(Serialize, Deserialize)]
#[serde(tag = "format")]
enum Record {
    #[serde(rename = "1")]
    V1 { number: u64, ledger: Ledger },
}

/// The ledger's place.
pub(crate) struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// In the boot partition that is mounted there.
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The newest whole ledger; none where nobody ever asked for a conversion.
    ///
    /// # Errors
    /// There are files, and none is whole.
    pub(crate) fn load(&self) -> anyhow::Result<Option<Ledger>> {
        Ok(self.newest()?.map(|(_, ledger)| ledger))
    }

    /// Keeps it; when this returns it is on the card.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn store(&self, ledger: &Ledger) -> anyhow::Result<()> {
        // What cannot be read any more is overwritten: whoever stores knows where it stands.
        let number = self.newest().ok().flatten().map_or(0, |(number, _)| number) + 1;
        let text = serde_json::to_string(&Record::V1 { number, ledger: ledger.clone() }).context("the ledger")?;
        let line = format!("{:08x} {text}\n", crc(text.as_bytes()));
        ensure!(line.len() <= SIZE, "the ledger is too long to keep: {} bytes", line.len());
        let path = self.folder.join(NAMES[usize::from(number.is_multiple_of(2))]);
        let write = || -> std::io::Result<()> {
            for name in NAMES {
                reserve(&self.folder.join(name))?;
            }
            File::open(&self.folder)?.sync_all()?;
            let mut block = line.clone().into_bytes();
            block.resize(SIZE, b' ');
            let mut file = OpenOptions::new().write(true).open(&path)?;
            file.write_all(&block)?;
            file.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes both files.
    ///
    /// # Errors
    /// One cannot be removed.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        for name in NAMES {
            crate::files::remove(&self.folder.join(name)).with_context(|| format!("cannot remove {name}"))?;
        }
        Ok(())
    }

    fn newest(&self) -> anyhow::Result<Option<(u64, Ledger)>> {
        let mut broken = None;
        let mut found: Option<(u64, Ledger)> = None;
        for name in NAMES {
            let path = self.folder.join(name);
            let mut text = String::new();
            let read = File::open(&path).and_then(|file| file.take(SIZE as u64).read_to_string(&mut text));
            match read {
                Ok(_) if text.trim().is_empty() => {}
                Ok(_) => match parse(&text) {
                    Ok(got) if found.as_ref().is_none_or(|held| held.0 < got.0) => found = Some(got),
                    Ok(_) => {}
                    Err(err) => broken = Some(err.context(format!("{}", path.display()))),
                },
                Err(err) if err.kind() == ErrorKind::NotFound => {}
                Err(err) => broken = Some(anyhow::Error::new(err).context(format!("{}", path.display()))),
            }
        }
        match (found, broken) {
            (None, Some(err)) => Err(err.context("the conversion's ledger cannot be read")),
            (found, _) => Ok(found),
        }
    }
}

/// A file of one block, there before it is needed.
fn reserve(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() < SIZE as u64 {
        (&file).write_all(&[b' '; SIZE])?;
        file.sync_all()?;
    }
    Ok(())
}

fn parse(text: &str) -> anyhow::Result<(u64, Ledger)> {
    let (sum, text) = text.trim_end().split_once(' ').context("no sum")?;
    ensure!(u32::from_str_radix(sum, 16).is_ok_and(|sum| sum == crc(text.as_bytes())), "the sum is wrong");
    let Record::V1 { number, ledger } = serde_json::from_str(text)?;
    Ok((number, ledger))
}

/// CRC-32 as in zip.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    let shift = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| shift(sum)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::convert::machine::Phase;

    fn working(attempt: u8) -> Ledger {
        Ledger { phase: Phase::Working { attempt }, made: None }
    }

    #[test]
    fn the_newest_whole_one_counts_and_a_cut_write_loses_only_itself() {
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::at(dir.path());
        assert_eq!(journal.load().unwrap(), None);
        for attempt in 1..=4 {
            journal.store(&working(attempt)).unwrap();
            assert_eq!(journal.load().unwrap(), Some(working(attempt)));
        }
        // The fourth write, cut anywhere, leaves the third.
        let whole = fs::read(dir.path().join(NAMES[1])).unwrap();
        for cut in [1, 9, 20, 60] {
            let mut torn = whole.clone();
            torn[cut..].fill(b'x');
            fs::write(dir.path().join(NAMES[1]), &torn).unwrap();
            assert_eq!(journal.load().unwrap(), Some(working(3)), "cut at {cut}");
        }
        fs::write(dir.path().join(NAMES[0]), "rubbish").unwrap();
        assert!(journal.load().is_err(), "unreadable is not the same as never asked for");
        journal.remove().unwrap();
        assert_eq!(journal.load().unwrap(), None);
    }
}
