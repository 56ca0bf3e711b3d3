//! All that a guest wrote to its card, in order, with its flushes: read as QEMU's block driver `blklogwrites` leaves it
//! (the kernel's `dm-log-writes` form, Documentation/admin-guide/device-mapper/log-writes.rst), and played onto a card.
//!
//! Decides what an entry means. Which entries a cut leaves is `cut`'s matter.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

/// The file begins with it.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: u64 = 512;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// What happened to the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes were written.
    Write,
    /// Bytes became zeros, for nobody needs them.
    Discard,
    /// All before it lies on the card for good.
    Flush,
}

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What.
    pub kind: Kind,
    /// Where on the card, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Where in the tape's file its bytes are.
    at: u64,
}

impl Entry {
    /// One whose bytes are nowhere.
    #[cfg(test)]
    pub(super) fn at(kind: Kind, offset: u64, length: u64) -> Self {
        Entry { kind, offset, length, at: 0 }
    }
}

/// How much of an entry is on the card after the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// All.
    Whole,
    /// The first half, in sectors.
    Half,
    /// Nothing.
    Lost,
}

/// A recorded life of a card.
#[derive(Debug)]
pub struct Tape {
    path: PathBuf,
    /// What happened, in order.
    pub entries: Vec<Entry>,
}

impl Tape {
    /// Reads a tape that nobody writes any more.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let length = file.metadata()?.len();
        let words = |at: u64| -> anyhow::Result<[u64; 4]> {
            let mut bytes = [0; 32];
            file.read_exact_at(&mut bytes, at).with_context(|| format!("{} ends within an entry", path.display()))?;
            Ok(std::array::from_fn(|n| {
                u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().expect("invariant: eight bytes"))
            }))
        };
        let [magic, version, count, sector] = words(0)?;
        ensure!(magic == MAGIC && version == 1, "{} is no tape", path.display());
        ensure!(sector & 0xffff_ffff == SECTOR, "{} has sectors of {sector} bytes", path.display());
        let mut entries = vec![];
        let mut at = SECTOR;
        // The count is written at flushes only: what lies behind it is from after the last one.
        while at < length {
            let [sector, sectors, flags, _] = words(at)?;
            at += SECTOR;
            let kind = match flags {
                flags if flags & DISCARD != 0 => Kind::Discard,
                flags if flags & FLUSH != 0 && sectors == 0 => Kind::Flush,
                _ => Kind::Write,
            };
            let entry = Entry { kind, offset: sector * SECTOR, length: sectors * SECTOR, at };
            at += if kind == Kind::Write { entry.length } else { 0 };
            // Cut off with its machine.
            if at <= length {
                entries.push(entry);
            }
        }
        ensure!(entries.len() as u64 >= count, "{} is cut: {} of {count} entries", path.display(), entries.len());
        Ok(Tape { path: path.into(), entries })
    }

    /// How many entries had been made when its file had so many bytes.
    #[must_use]
    pub fn entries_at(&self, bytes: u64) -> usize {
        self.entries.partition_point(|entry| entry.at <= bytes)
    }

    /// Bytes written, without those that were written for nobody.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.entries.iter().filter(|entry| entry.kind == Kind::Write).map(|entry| entry.length).sum()
    }

    /// Plays entries from number `from` on onto a card; `kept` says how much of each.
    ///
    /// # Errors
    /// When either file cannot be read or written.
    pub fn play(&self, card: &Path, from: usize, kept: &[Kept]) -> anyhow::Result<()> {
        let tape = File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))?;
        let target = OpenOptions::new().write(true).open(card);
        let target = target.with_context(|| format!("cannot open {}", card.display()))?;
        for (entry, kept) in self.entries[from..].iter().zip(kept) {
            let length = match kept {
                Kept::Whole => entry.length,
                Kept::Half => entry.length / SECTOR / 2 * SECTOR,
                Kept::Lost => 0,
            };
            match entry.kind {
                Kind::Flush => {}
                Kind::Write => copy(&tape, entry.at, &target, entry.offset, length)?,
                Kind::Discard => zero(&target, entry.offset, length)?,
            }
        }
        Ok(())
    }
}

const CHUNK: usize = 1 << 20;

fn copy(from: &File, at: u64, to: &File, offset: u64, length: u64) -> anyhow::Result<()> {
    let mut bytes = vec![0; CHUNK.min(usize::try_from(length)?)];
    for start in (0..length).step_by(CHUNK) {
        let part = &mut bytes[..usize::try_from((length - start).min(CHUNK as u64))?];
        from.read_exact_at(part, at + start).context("cannot read the tape")?;
        to.write_all_at(part, offset + start).context("cannot write the card")?;
    }
    Ok(())
}

/// As QEMU does it with a discard on a file: a hole.
fn zero(card: &File, offset: u64, length: u64) -> anyhow::Result<()> {
    use nix::fcntl::{FallocateFlags, fallocate};
    if length == 0 {
        return Ok(());
    }
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(card, hole, i64::try_from(offset)?, i64::try_from(length)?).context("cannot make a hole in the card")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use xtask::run::Cmd;

    /// Written by QEMU's own driver, not by us.
    fn recorded(dir: &Path) -> (PathBuf, Tape) {
        let (card, tape) = (dir.join("card"), dir.join("tape"));
        File::create(&card).unwrap().set_len(1 << 20).unwrap();
        File::create(&tape).unwrap();
        let image = |more: &str| {
            format!(
                "driver=blklogwrites,file.driver=file,file.filename={},file.discard=unmap,log.driver=file,log.filename={},\
                 discard=unmap,{more}",
                card.display(),
                tape.display()
            )
        };
        let io = |more: &str, commands: &[&str]| {
            let cmd = Cmd::new("qemu-io").args(["-t", "writeback", "--image-opts", &image(more)]);
            cmd.args(commands.iter().flat_map(|command| ["-c", command])).check().unwrap();
        };
        io("log-sector-size=512", &["write -P 0xab 4096 1536", "flush", "write -P 0xcd 8192 1024"]);
        io("log-append=on", &["discard 4096 512", "write -P 0xef 65536 512", "flush"]);
        let read = Tape::read(&tape).unwrap();
        (card, read)
    }

    #[test]
    fn a_tape_is_read_and_played_to_any_entry() {
        use Kind::{Discard, Flush, Write};
        let dir = tempfile::tempdir().unwrap();
        let (card, tape) = recorded(dir.path());
        let told: Vec<_> = tape.entries.iter().map(|e| (e.kind, e.offset, e.length)).collect();
        let flush = (Flush, 0, 0);
        // A program that ends flushes, too.
        let want =
            [(Write, 4096, 1536), flush, (Write, 8192, 1024), flush, (Discard, 4096, 512), (Write, 65536, 512), flush];
        assert_eq!(told, want);
        assert_eq!(tape.written(), 1536 + 1024 + 512);
        let again = dir.path().join("again");
        let play = |kept: &[Kept]| {
            File::create(&again).unwrap().set_len(1 << 20).unwrap();
            tape.play(&again, 0, kept).unwrap();
            std::fs::read(&again).unwrap()
        };
        assert_eq!(play(&[Kept::Whole; 7]), std::fs::read(&card).unwrap(), "to its end");
        let bytes = play(&[Kept::Whole, Kept::Whole, Kept::Half]);
        assert_eq!((bytes[4096], bytes[8192], bytes[8192 + 511], bytes[8192 + 512]), (0xab, 0xcd, 0xcd, 0));
        let bytes = play(&[Kept::Lost, Kept::Whole, Kept::Whole]);
        assert_eq!((bytes[4096], bytes[8192]), (0, 0xcd));
    }

    #[test]
    fn what_is_no_tape_or_ends_too_early_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (_, tape) = recorded(dir.path());
        let mut bytes = vec![];
        File::open(&tape.path).unwrap().read_to_end(&mut bytes).unwrap();
        let cut = dir.path().join("cut");
        std::fs::write(&cut, &bytes[..1024]).unwrap();
        assert!(Tape::read(&cut).unwrap_err().to_string().contains("is cut"));
        std::fs::write(&cut, vec![0; 4096]).unwrap();
        assert!(Tape::read(&cut).unwrap_err().to_string().contains("no tape"));
    }
}
