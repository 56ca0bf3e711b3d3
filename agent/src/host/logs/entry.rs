//! What conmon writes into a log, entry by entry, and the lines that come of it; pure.
//!
//! An entry is `2026-01-02T03:04:05.678901234+01:00 stdout F text`. `P` is a piece whose line goes on in a later entry of
//! the same output, `F` ends the line. Decides what one line is. Does not decide which lines are wanted.

use bramble_contracts::stamp::Stamp;
use bramble_contracts::v1::{LogLine, LogPlace};

/// A longer line is cut into several, between pieces of at most 8 KiB.
const LINE_MAX: usize = 16 * 1024;

/// A stamp of conmon, with nanoseconds and zone.
const STAMP_BYTES: usize = 35;

/// One entry, without its line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry<'a> {
    stamp: &'a [u8],
    stderr: bool,
    /// Does the line end here?
    full: bool,
    text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads one. What is no entry (a damaged file) is a line without a time, so that it is seen.
    fn read(raw: &'a [u8]) -> Self {
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
    fn at(&self) -> Stamp {
        Stamp::parse(self.stamp).unwrap_or_default()
    }
}

/// An entry as conmon writes them, with a whole line: told from its bytes, which is much faster than reading it.
pub(super) fn is_plain(raw: &[u8]) -> bool {
    matches!(raw.get(STAMP_BYTES..STAMP_BYTES + 10), Some(b" stdout F " | b" stderr F "))
}

/// Pieces of a line that has not ended.
#[derive(Debug)]
struct Pending {
    at: Stamp,
    text: Vec<u8>,
    /// Where its first piece begins.
    begin: u64,
}

/// Puts the pieces of one file together. Where a reader begins changes nothing: going on from the place behind a line
/// gives what came after it, also when that line ended in the middle of one of the other output. For that, a place names
/// the last offset at which no line was open, and how many lines have ended since.
#[derive(Debug)]
pub(super) struct Joiner {
    pending: [Option<Pending>; 2],
    place: LogPlace,
    /// End of the last entry.
    end: u64,
    skip: u32,
}

impl Joiner {
    /// Begins at a place: its offset is where entries are to be taken from.
    pub(super) fn at(place: LogPlace) -> Self {
        let place = LogPlace { lines: place.lines.saturating_sub(place.skip), ..place };
        Self { pending: [None, None], place: LogPlace { skip: 0, ..place }, end: place.offset, skip: place.skip }
    }

    /// Takes in the entry that ends at `end`; gives the lines that end with it, the older first.
    pub(super) fn push(&mut self, raw: &[u8], end: u64) -> [Option<LogLine>; 2] {
        let (entry, begin) = (Entry::read(raw), self.end);
        self.end = end;
        let which = usize::from(entry.stderr);
        let too_long = |p: &Pending| !p.text.is_empty() && p.text.len() + entry.text.len() > LINE_MAX;
        // A line that is cut ends before this entry, and this entry begins the next.
        let cut = self.pending[which].take_if(|pending| too_long(pending));
        let cut = cut.and_then(|pending| self.give(&pending, entry.stderr, Some(begin)));
        let pending = self.pending[which].get_or_insert_with(|| Pending { at: entry.at(), text: vec![], begin });
        pending.text.extend_from_slice(entry.text);
        if !entry.full {
            return [cut, None];
        }
        let ended = self.pending[which].take().and_then(|pending| self.give(&pending, entry.stderr, None));
        [cut, ended]
    }

    /// What has not ended and will not any more, in the order it began.
    pub(super) fn flush(&mut self) -> [Option<LogLine>; 2] {
        let out = self.pending[0].as_ref().map(|p| p.begin);
        let err = self.pending[1].as_ref().map(|p| p.begin);
        let order = if err.is_some_and(|err| out.is_none_or(|out| err < out)) { [true, false] } else { [false, true] };
        order.map(|stderr| {
            let pending = self.pending[usize::from(stderr)].take()?;
            self.give(&pending, stderr, None)
        })
    }

    /// The place behind the last line that was given.
    pub(super) fn place(&self) -> LogPlace {
        self.place
    }

    /// Ends a line; `next` is where the next one of its output has begun already.
    fn give(&mut self, pending: &Pending, stderr: bool, next: Option<u64>) -> Option<LogLine> {
        self.place.lines = self.place.lines.saturating_add(1);
        self.place.skip = self.place.skip.saturating_add(1);
        if self.pending[usize::from(!stderr)].is_none() {
            (self.place.offset, self.place.skip) = (next.unwrap_or(self.end), 0);
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let mut text = String::from_utf8_lossy(&pending.text).into_owned();
        text.truncate(text.trim_end_matches('\r').len());
        Some(LogLine { at: pending.at, stderr, text, next: self.place })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    /// Lines of a file from a place on, with what never ended.
    fn from(file: &[u8], place: LogPlace) -> Vec<LogLine> {
        let (mut joiner, mut end, mut out) = (Joiner::at(place), place.offset, Vec::new());
        let rest = &file[usize::try_from(place.offset).unwrap()..];
        for raw in rest.split_inclusive(|byte| *byte == b'\n') {
            end += raw.len() as u64;
            out.extend(joiner.push(&raw[..raw.len() - 1], end).into_iter().flatten());
        }
        out.extend(joiner.flush().into_iter().flatten());
        out
    }

    fn texts(file: &str) -> Vec<(bool, String)> {
        from(file.as_bytes(), LogPlace::default()).into_iter().map(|line| (line.stderr, line.text)).collect()
    }

    #[test]
    fn an_entry_says_when_where_and_what() {
        let entry = Entry::read(b"1970-01-01T01:00:01.5+01:00 stderr F hello you");
        assert_eq!((entry.at(), entry.stderr, entry.full), (Stamp(1_500_000_000), true, true));
        assert_eq!(entry.text, b"hello you");
        let empty = Entry::read(b"1970-01-01T00:00:01+00:00 stdout P ");
        assert_eq!((empty.stderr, empty.full, empty.text), (false, false, &b""[..]));
        for damaged in ["", "x", "1970-01-01T00:00:01+00:00 stdout", "1970-01-01T00:00:01+00:00 both F x"] {
            let entry = Entry::read(damaged.as_bytes());
            assert_eq!((entry.at(), entry.full, entry.text), (Stamp(0), true, damaged.as_bytes()));
        }
    }

    #[test]
    fn pieces_become_one_line_whatever_the_other_output_says_between() {
        let file = "1970-01-01T00:00:01+00:00 stdout P a\n1970-01-01T00:00:02+00:00 stdout F b\r\n\
                    1970-01-01T00:00:03+00:00 stdout P c\n1970-01-01T00:00:03+00:00 stderr F d\n\
                    1970-01-01T00:00:03+00:00 stdout F e\n1970-01-01T00:00:04+00:00 stdout P f\n";
        let want = [(false, "ab"), (true, "d"), (false, "ce"), (false, "f")];
        assert_eq!(texts(file), want.map(|(stderr, text)| (stderr, text.to_owned())));
    }

    #[test]
    fn an_endless_line_is_cut() {
        let piece = format!("1970-01-01T00:00:01+00:00 stdout P {}\n", "x".repeat(8192));
        let lengths: Vec<usize> = texts(&piece.repeat(5)).iter().map(|(_, text)| text.len()).collect();
        assert_eq!(lengths, [16_384, 16_384, 8192]);
    }

    #[test]
    fn what_conmon_really_writes() {
        let got = texts(include_str!("captured/conmon-2.1.6.log"));
        let long = format!("nonl{:010000}", 1);
        let line = |text: &str| (false, text.to_owned());
        let err = || (true, "err".to_owned());
        let first = [line("start"), line(&long), line("line 0"), line("line 1"), err()];
        let second = [line("start"), err(), line(&long), line("line 0"), line("line 1")];
        assert_eq!(got, [first, second].concat());
    }

    proptest! {
        #[test]
        fn going_on_behind_any_line_gives_the_rest(
            entries in prop::collection::vec((any::<bool>(), any::<bool>(), prop::sample::select(vec![0, 1, 5000])), 0..24),
        ) {
            let words = |(n, (stderr, full, size)): (usize, (bool, bool, usize))| {
                let (stream, flag) = (if stderr { "stderr" } else { "stdout" }, if full { "F" } else { "P" });
                format!("1970-01-01T00:00:01+00:00 {stream} {flag} {n}{}\n", "x".repeat(size))
            };
            let file: String = entries.into_iter().enumerate().map(words).collect();
            let all = from(file.as_bytes(), LogPlace::default());
            for (n, line) in all.iter().enumerate() {
                prop_assert_eq!(&from(file.as_bytes(), line.next), &all[n + 1..]);
                prop_assert_eq!(line.next.lines as usize, n + 1);
            }
        }
    }
}
