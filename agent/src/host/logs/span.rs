//! Where wanted lines begin and end: the last so many, since, until, of which making of the container.
//!
//! The order of the files decides, also where a clock was set back: `since` begins at the first line that is not older,
//! `until` ends behind the last one that is not younger. Holds no more than one line; reads each file once, at most twice.

use std::io;

use bramble_contracts::stamp::Stamp;
use bramble_contracts::v1::{LogLives, LogPlace, LogWish};

use super::files::{Go, Segment, count_lines, every_line};
use super::track::rank;

/// From where to where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: LogPlace,
    pub(super) to: LogPlace,
}

/// The span that is wished for in these files, when the clock shows `now`. `None` when there is no previous container.
pub(super) fn find(all: Vec<Segment>, wish: &LogWish, now: Stamp) -> io::Result<Option<Span>> {
    let segments = match wish.lives {
        LogLives::All => all,
        LogLives::Previous => match previous(all) {
            Some(segments) => segments,
            None => return Ok(None),
        },
    };
    let Some(last) = segments.last() else { return Ok(Some(Span::default())) };
    let to = match wish.until {
        Some(until) => behind_until(&segments, until.at(now))?,
        None => every_line(last, |_| Go::On)?,
    };
    let since = match wish.since {
        Some(since) => before_since(&segments, since.at(now), to)?,
        None => segments[0].begin(),
    };
    let tail = match wish.tail {
        Some(lines) => before_tail(&segments, lines, to)?,
        None => segments[0].begin(),
    };
    let from = if rank(tail) > rank(since) { tail } else { since };
    Ok(Some(Span { from: if rank(from) > rank(to) { to } else { from }, to }))
}

/// Of the last making but the newest that has printed something.
fn previous(all: Vec<Segment>) -> Option<Vec<Segment>> {
    let newest = all.last()?.life;
    let printed =
        |segment: &&Segment| segment.life < newest && std::fs::metadata(&segment.path).is_ok_and(|meta| meta.len() > 0);
    let life = all.iter().rfind(printed)?.life;
    Some(all.into_iter().filter(|segment| segment.life == life).collect())
}

fn up_to(segments: &[Segment], to: LogPlace) -> impl DoubleEndedIterator<Item = &Segment> {
    segments.iter().filter(move |segment| segment.key() <= (to.life, to.segment))
}

fn behind_until(segments: &[Segment], until: Stamp) -> io::Result<LogPlace> {
    for segment in segments.iter().rev() {
        let mut behind = None;
        every_line(segment, |line| {
            if line.at <= until {
                behind = Some(line.next);
            }
            Go::On
        })?;
        if let Some(behind) = behind {
            return Ok(behind);
        }
    }
    Ok(segments[0].begin())
}

fn before_since(segments: &[Segment], since: Stamp, to: LogPlace) -> io::Result<LogPlace> {
    for segment in up_to(segments, to) {
        let (mut before, mut found) = (segment.begin(), false);
        every_line(segment, |line| {
            if line.at >= since {
                found = true;
                return Go::Stop;
            }
            before = line.next;
            Go::On
        })?;
        if found {
            return Ok(before);
        }
    }
    Ok(to)
}

fn before_tail(segments: &[Segment], lines: u32, to: LogPlace) -> io::Result<LogPlace> {
    if lines == 0 {
        return Ok(to);
    }
    let mut left = lines;
    for segment in up_to(segments, to).rev() {
        let whole = segment.key() != (to.life, to.segment);
        let there = if whole { count_lines(segment)? } else { to.lines };
        if there >= left {
            let before = there - left;
            if before == 0 {
                return Ok(segment.begin());
            }
            return every_line(segment, |line| if line.next.lines >= before { Go::Stop } else { Go::On });
        }
        left -= there;
    }
    Ok(segments[0].begin())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bramble_contracts::stamp::Moment;

    use super::*;
    use crate::host::logs::files::segments;

    /// Writes files of one line per second; returns what a wish finds, as `from..to` in lines since the beginning.
    /// Life, file, line.
    type Rank = (u32, u32, u32);

    struct Log(tempfile::TempDir);

    impl Log {
        fn new(files: &[(&str, &[u64])]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for (name, seconds) in files {
                let line = |at: &u64| format!("{} stdout F at {at}\n", Stamp(at * 1_000_000_000));
                std::fs::write(dir.path().join(name), seconds.iter().map(line).collect::<String>()).unwrap();
            }
            Self(dir)
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn find(&self, wish: &LogWish) -> Option<(Rank, Rank)> {
            let now = Stamp(100_000_000_000);
            let span = find(segments(self.path()).unwrap(), wish, now).unwrap()?;
            Some((rank(span.from), rank(span.to)))
        }
    }

    fn at(second: u64) -> Option<Moment> {
        Some(Moment::At(Stamp(second * 1_000_000_000)))
    }

    #[test]
    fn the_last_lines_are_found_across_files_and_lives() {
        let log = Log::new(&[("000001.000001", &[1, 2]), ("000001.000002", &[3]), ("000002.000001", &[4, 5])]);
        let tail = |lines| log.find(&LogWish { tail: Some(lines), ..LogWish::default() }).unwrap().0;
        assert_eq!(tail(0), (2, 1, 2));
        assert_eq!(tail(1), (2, 1, 1));
        assert_eq!(tail(2), (2, 1, 0), "not from the end of the file before");
        assert_eq!(tail(3), (1, 2, 0));
        assert_eq!(tail(4), (1, 1, 1));
        assert_eq!(tail(99), (1, 1, 0));
        assert_eq!(log.find(&LogWish::default()), Some(((1, 1, 0), (2, 1, 2))));
    }

    #[test]
    fn since_and_until_go_by_the_stamps_and_the_order_of_the_file_wins() {
        // The clock is set back from 9 to 3.
        let log = Log::new(&[("000001.000001", &[7, 8, 9]), ("000001.000002", &[3, 4])]);
        let since = |second| log.find(&LogWish { since: at(second), ..LogWish::default() }).unwrap().0;
        assert_eq!((since(8), since(9), since(4), since(50)), ((1, 1, 1), (1, 1, 2), (1, 1, 0), (1, 2, 2)));
        let until = |second| log.find(&LogWish { until: at(second), ..LogWish::default() }).unwrap().1;
        assert_eq!((until(8), until(3), until(1)), ((1, 2, 2), (1, 2, 1), (1, 1, 0)));
        let ago = Some(Moment::Ago("92s".parse().unwrap()));
        assert_eq!(log.find(&LogWish { since: ago, ..LogWish::default() }).unwrap().0, (1, 1, 1));
        let both = LogWish { since: at(8), until: at(3), tail: Some(2), ..LogWish::default() };
        assert_eq!(log.find(&both), Some(((1, 1, 2), (1, 2, 1))));
    }

    #[test]
    fn the_previous_container_is_the_last_that_printed() {
        let log = Log::new(&[("000001.000001", &[1]), ("000002.000001", &[]), ("000003.000001", &[])]);
        let previous = LogWish { lives: LogLives::Previous, ..LogWish::default() };
        assert_eq!(log.find(&previous), Some(((1, 1, 0), (1, 1, 1))));
        assert_eq!(Log::new(&[("000001.000001", &[1])]).find(&previous), None);
        assert_eq!(Log::new(&[]).find(&previous), None);
        assert_eq!(Log::new(&[]).find(&LogWish::default()), Some(((0, 0, 0), (0, 0, 0))));
    }
}
