//! What conmon writes into a log, entry by entry, and the lines that come of it; pure.
//!
//! An entry is `2026-01-02T03:04:05.678901234+01:00 stdout F text`. `P` is a piece whose line goes on in the next entry of
//! the same stream, `F` ends the line. Decides what one line is. Does not decide which lines are wanted.

use bramble_contracts::stamp::Stamp;
use bramble_contracts::v1::LogLine;

/// A longer line is cut into several, between pieces of at most 8 KiB.
const LINE_MAX: usize = 16 * 1024;

/// One entry, without its line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    stamp: &'a [u8],
    stderr: bool,
    /// Does the line end here?
    pub(super) full: bool,
    text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads one. What is no entry (a damaged file) is a line without a time, so that it is seen.
    pub(super) fn read(raw: &'a [u8]) -> Self {
        let mut words = raw.splitn(4, |byte| *byte == b' ');
        let (stamp, stream, flag) = (words.next(), words.next(), words.next());
        let (stderr, full) = match (stream, flag) {
            (Some(b"stdout"), Some(b"F")) => (false, true),
            (Some(b"stdout"), Some(b"P")) => (false, false),
            (Some(b"stderr"), Some(b"F")) => (true, true),
            (Some(b"stderr"), Some(b"P")) => (true, false),
            (_, _) => return Self { stamp: &[], stderr: false, full: true, text: raw },
        };
        Self { stamp: stamp.unwrap_or_default(), stderr, full, text: words.next().unwrap_or_default() }
    }

    /// When it was written, by the device's clock.
    pub(super) fn at(&self) -> Stamp {
        Stamp::parse(self.stamp).unwrap_or_default()
    }
}

/// Pieces of a line that has not ended.
#[derive(Debug)]
struct Pending {
    at: Stamp,
    stderr: bool,
    text: Vec<u8>,
    offset: u64,
}

/// Puts pieces together. Where a reader begins changes nothing: a line ends at an `F`, where the other stream comes in
/// between, or at its greatest length.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    pending: Option<Pending>,
    /// Lines that have ended in this file.
    lines: u32,
}

impl Joiner {
    /// Begins behind so many lines of the file.
    pub(super) fn after(lines: u32) -> Self {
        Self { pending: None, lines }
    }

    /// Takes in the entry that ends at `offset`; gives the lines that it ends, the older first.
    pub(super) fn push(&mut self, entry: Entry<'_>, offset: u64) -> [Option<LogLine>; 2] {
        let fits = |pending: &Pending| {
            pending.stderr == entry.stderr && pending.text.len() + entry.text.len() <= LINE_MAX
        };
        let before = if self.pending.as_ref().is_some_and(|pending| !fits(pending)) { self.flush() } else { None };
        let pending = self.pending.get_or_insert_with(|| Pending {
            at: entry.at(),
            stderr: entry.stderr,
            text: Vec::new(),
            offset,
        });
        pending.text.extend_from_slice(entry.text);
        pending.offset = offset;
        if !entry.full {
            return [before, None];
        }
        self.lines = self.lines.saturating_add(1);
        [before, self.flush()]
    }

    /// What has not ended and will not any more.
    pub(super) fn flush(&mut self) -> Option<LogLine> {
        let Pending { at, stderr, text, offset } = self.pending.take()?;
        let mut text = String::from_utf8_lossy(&text).into_owned();
        text.truncate(text.trim_end_matches('\r').len());
        Some(LogLine { at, stderr, text, offset, lines: self.lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a whole file: stream, text, offset, lines.
    fn lines(file: &str) -> Vec<(bool, String, u64, u32)> {
        let (mut joiner, mut offset, mut out) = (Joiner::default(), 0, Vec::new());
        for raw in file.split_inclusive('\n') {
            offset += raw.len() as u64;
            out.extend(joiner.push(Entry::read(raw.trim_end_matches('\n').as_bytes()), offset).into_iter().flatten());
        }
        out.extend(joiner.flush());
        out.into_iter().map(|line| (line.stderr, line.text, line.offset, line.lines)).collect()
    }

    #[test]
    fn an_entry_says_when_where_and_what() {
        let entry = Entry::read(b"1970-01-01T01:00:01.5+01:00 stderr F hello you");
        assert_eq!((entry.at(), entry.stderr, entry.full, entry.text), (Stamp(1_500_000_000), true, true, &b"hello you"[..]));
        let empty = Entry::read(b"1970-01-01T00:00:01+00:00 stdout P ");
        assert_eq!((empty.stderr, empty.full, empty.text), (false, false, &b""[..]));
        for damaged in ["", "x", "1970-01-01T00:00:01+00:00 stdout", "1970-01-01T00:00:01+00:00 both F x"] {
            let entry = Entry::read(damaged.as_bytes());
            assert_eq!((entry.at(), entry.full, entry.text), (Stamp(0), true, damaged.as_bytes()));
        }
    }

    #[test]
    fn pieces_become_one_line_and_the_other_stream_ends_it() {
        let file = "1970-01-01T00:00:01+00:00 stdout P a\n1970-01-01T00:00:02+00:00 stdout F b\r\n\
                    1970-01-01T00:00:03+00:00 stdout P c\n1970-01-01T00:00:03+00:00 stderr F d\n\
                    1970-01-01T00:00:03+00:00 stdout F e\n1970-01-01T00:00:04+00:00 stdout P f\n";
        let of = |at: usize| (file.split_inclusive('\n').take(at).map(str::len).sum::<usize>()) as u64;
        let want = [
            (false, "ab".to_owned(), of(2), 1),
            (false, "c".to_owned(), of(3), 1),
            (true, "d".to_owned(), of(4), 2),
            (false, "e".to_owned(), of(5), 3),
            (false, "f".to_owned(), of(6), 3),
        ];
        assert_eq!(lines(file), want);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let piece = format!("1970-01-01T00:00:01+00:00 stdout P {}\n", "x".repeat(8192));
        let got = lines(&piece.repeat(5));
        assert_eq!(got.iter().map(|(_, text, ..)| text.len()).collect::<Vec<_>>(), [16_384, 16_384, 8192]);
    }

    #[test]
    fn what_conmon_really_writes() {
        let got = lines(include_str!("captured/conmon-2.1.6.log"));
        let texts: Vec<(bool, usize)> = got.iter().map(|(stderr, text, ..)| (*stderr, text.len())).collect();
        assert_eq!(texts[0], (false, "start".len()));
        assert_eq!(texts[1], (false, "nonl".len() + 10_000), "a line of two pieces");
        assert_eq!(got.iter().filter(|(stderr, ..)| *stderr).count(), 1);
        assert!(got.iter().any(|(stderr, text, ..)| *stderr && text == "err"));
    }
}
