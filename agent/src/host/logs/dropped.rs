//! How many lines were dropped with files that had to go, so that a reader who comes too late is told exactly; pure.
//!
//! Decides what is known. It is kept in memory only: after a restart of the agent, what went before is "some lines".

use std::collections::BTreeMap;
use std::time::Duration;

use bramble_contracts::v1::LogPlace;

type Key = (u32, u32);

/// Dropped files are counted for readers that were here within this.
const READER_MEMORY: Duration = Duration::from_secs(600);
/// Files remembered of one log.
const FILES_MAX: usize = 1024;

/// One file that was dropped.
#[derive(Debug, Clone, Copy)]
struct File {
    lines: u64,
    /// Others may have been lost before it.
    gap: bool,
}

/// What was dropped of one container's log.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    files: BTreeMap<Key, File>,
    /// Of files up to this one nothing is known.
    floor: Key,
    /// Uptime when somebody read the log last.
    read_at: Option<Duration>,
}

impl Dropped {
    /// Files before `oldest` may have been there.
    pub(super) fn before(oldest: Option<Key>) -> Self {
        let floor = oldest.map_or((0, 0), |(life, number)| (life, number.saturating_sub(1)));
        Self { files: BTreeMap::new(), floor, read_at: None }
    }

    /// Somebody reads the log now.
    pub(super) fn read(&mut self, now: Duration) {
        self.read_at = Some(now);
    }

    /// Has nobody read it for long? Then nobody needs to be told how many lines went.
    pub(super) fn is_forgotten(&self, now: Duration) -> bool {
        self.read_at.is_none_or(|at| now.saturating_sub(at) >= READER_MEMORY)
    }

    /// This file goes, with so many lines; unknown when nobody counted. `gap`: others may have been lost before it.
    pub(super) fn note(&mut self, key: Key, lines: Option<u64>, gap: bool) {
        match lines {
            Some(lines) => drop(self.files.insert(key, File { lines, gap })),
            None => self.floor = self.floor.max(key),
        }
        if self.files.len() > FILES_MAX
            && let Some((oldest, _)) = self.files.pop_first()
        {
            self.floor = self.floor.max(oldest);
        }
    }

    /// How many lines a reader at `from` misses when it goes on with file `to`.
    pub(super) fn between(&self, from: LogPlace, to: Key) -> Option<u64> {
        let here = (from.life, from.segment);
        if here <= self.floor {
            return None;
        }
        let rest = |(key, file): (&Key, &File)| match (*key == here, file.gap) {
            (true, _) => Some(file.lines.saturating_sub(u64::from(from.lines))),
            (false, false) => Some(file.lines),
            (false, true) => None,
        };
        self.files.range(here..to).map(rest).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(life: u32, segment: u32, lines: u32) -> LogPlace {
        LogPlace { life, segment, lines, ..LogPlace::default() }
    }

    #[test]
    fn what_was_counted_is_told_exactly_and_the_rest_not_at_all() {
        let mut dropped = Dropped::before(Some((2, 4)));
        dropped.note((2, 4), Some(10), false);
        dropped.note((2, 5), Some(20), false);
        dropped.note((3, 1), Some(30), false);
        assert_eq!(dropped.between(at(2, 4, 3), (3, 2)), Some(7 + 20 + 30));
        assert_eq!(dropped.between(at(2, 5, 20), (3, 1)), Some(0));
        assert_eq!(dropped.between(at(3, 2, 1), (3, 3)), Some(0), "nothing went between files that are there");
        assert_eq!(dropped.between(at(2, 3, 1), (3, 2)), None, "before this agent ran");
        dropped.note((3, 2), None, false);
        assert_eq!(dropped.between(at(3, 1, 1), (3, 3)), None);
    }

    #[test]
    fn what_was_lost_before_a_file_that_went_itself_is_not_forgotten() {
        let mut dropped = Dropped::before(Some((1, 1)));
        dropped.note((1, 1), Some(10), false);
        dropped.note((1, 2), Some(20), true);
        dropped.note((1, 3), Some(30), false);
        assert_eq!(dropped.between(at(1, 1, 0), (1, 4)), None);
        assert_eq!(dropped.between(at(1, 2, 5), (1, 4)), Some(15 + 30), "it was lost before what this one has read");
    }

    #[test]
    fn readers_are_remembered_for_a_while() {
        let mut dropped = Dropped::default();
        assert!(dropped.is_forgotten(Duration::ZERO));
        dropped.read(Duration::from_secs(5));
        assert!(!dropped.is_forgotten(Duration::from_secs(600)) && dropped.is_forgotten(Duration::from_secs(605)));
    }

    #[test]
    fn it_is_bounded() {
        let mut dropped = Dropped::default();
        (1..=2000).for_each(|n| dropped.note((1, n), Some(1), false));
        assert_eq!(dropped.files.len(), FILES_MAX);
        assert_eq!(dropped.between(at(1, 1, 0), (1, 2001)), None);
        assert_eq!(dropped.between(at(1, 1999, 0), (1, 2001)), Some(2));
    }
}
