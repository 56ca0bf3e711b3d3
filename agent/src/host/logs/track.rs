//! One container's log, read from a place on, from file to file.
//!
//! Decides what comes next, and what is missing. Holds one block of a file and one line; waits for nothing.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bramble_contracts::Name;
use bramble_contracts::stamp::Stamp;
use bramble_contracts::v1::{LogLine, LogPlace};

use super::dropped::Dropped;
use super::entry::Joiner;
use super::files::{Scan, Segment, segments};
use crate::host::clock;

/// What was dropped, by the folder of the container.
pub(super) type Ledger = Arc<Mutex<BTreeMap<PathBuf, Dropped>>>;

/// What comes next in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    Line(LogLine),
    Gap { lines: Option<u64>, to: LogPlace },
}

#[derive(Debug)]
pub(super) struct Track {
    pub(super) container: Name,
    dir: PathBuf,
    ledger: Ledger,
    /// Behind what was given.
    place: LogPlace,
    /// Nothing behind this is wanted.
    end: Option<LogPlace>,
    open: Option<(Scan, Joiner)>,
    /// What was read and not given yet.
    ready: VecDeque<Read>,
    /// The latest time of any line so far: a clock that is set back does not change the order of a file.
    clock: Stamp,
}

/// Places of one log are told apart by the lines before them.
pub(super) fn rank(place: LogPlace) -> (u32, u32, u32) {
    (place.life, place.segment, place.lines)
}

impl Track {
    /// From now on for a while, what is dropped of this log is counted.
    pub(super) fn new(container: Name, dir: PathBuf, ledger: Ledger, place: LogPlace, end: Option<LogPlace>) -> Self {
        if let Some(dropped) = ledger.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&dir) {
            dropped.read(clock::uptime());
        }
        Self { container, dir, ledger, place, end, open: None, ready: VecDeque::new(), clock: Stamp(0) }
    }

    /// When what comes next was printed; `None` when nothing does.
    pub(super) fn peek(&mut self) -> io::Result<Option<Stamp>> {
        self.fill()?;
        Ok(self.ready.front().map(|read| match read {
            Read::Line(line) => self.clock.max(line.at),
            Read::Gap { .. } => self.clock,
        }))
    }

    /// What comes next.
    pub(super) fn next(&mut self) -> io::Result<Option<Read>> {
        self.fill()?;
        let next = self.ready.pop_front();
        match &next {
            Some(Read::Line(line)) => {
                self.place = line.next;
                self.clock = self.clock.max(line.at);
            }
            Some(Read::Gap { to, .. }) => self.place = *to,
            None => {}
        }
        Ok(next)
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut newer = None;
        while self.ready.is_empty() && self.end.is_none_or(|end| rank(self.place) < rank(end)) {
            let Some((scan, joiner)) = &mut self.open else { if self.open_file()? { continue } else { return Ok(()) } };
            if let Some((raw, end)) = scan.next()? {
                self.ready.extend(joiner.push(raw, end).into_iter().flatten().map(Read::Line));
            } else if scan.is_cut()? {
                // Somebody has emptied the file: what comes is read from its beginning.
                let LogPlace { life, segment, .. } = self.place;
                self.open = None;
                self.ready.push_back(Read::Gap { lines: None, to: LogPlace { life, segment, ..LogPlace::default() } });
            } else if let Some(next) = newer.take() {
                // Nobody writes to this file any more, and all of it has been read.
                self.ready.extend(joiner.flush().into_iter().flatten().map(Read::Line));
                let behind = joiner.place();
                self.move_on(behind, &next);
            } else {
                newer = Self::newer(&self.dir, self.place)?;
                if newer.is_none() {
                    if self.end.is_some() {
                        self.ready.extend(joiner.flush().into_iter().flatten().map(Read::Line));
                    }
                    break;
                }
            }
        }
        let Some(end) = self.end else { return Ok(()) };
        self.ready.retain(|read| !matches!(read, Read::Line(line) if rank(line.next) > rank(end)));
        for read in &mut self.ready {
            if let Read::Gap { lines, to } = read
                && rank(*to) > rank(end)
            {
                // Some of them were not wanted.
                *lines = None;
            }
        }
        Ok(())
    }

    /// Opens the file of the place, or goes on to one that is there. False when there is none.
    fn open_file(&mut self) -> io::Result<bool> {
        loop {
            let all = segments(&self.dir)?;
            let here = (self.place.life, self.place.segment);
            let Some(segment) = all.iter().find(|segment| segment.key() >= here) else { return Ok(false) };
            if segment.key() != here {
                self.move_on(self.place, segment);
                return Ok(true);
            }
            match Scan::open(&segment.path, self.place.offset) {
                Ok(scan) => {
                    self.open = Some((scan, Joiner::at(self.place)));
                    return Ok(true);
                }
                // Dropped between two looks: the next one finds what is behind it.
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(err),
            }
        }
    }

    fn newer(dir: &Path, place: LogPlace) -> io::Result<Option<Segment>> {
        Ok(segments(dir)?.into_iter().find(|segment| segment.key() > (place.life, place.segment)))
    }

    /// Goes on with the next file there is, from `behind` the last line of this one.
    fn move_on(&mut self, behind: LogPlace, next: &Segment) {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = match ledger.get(&self.dir) {
            // A log that is read from its beginning misses nothing.
            _ if behind.life == 0 => Some(0),
            _ if next.gap => None,
            Some(dropped) => dropped.between(behind, next.key()),
            // Nobody drops files: only one that is not there can have been lost.
            None => self.open.is_some().then_some(0),
        };
        drop(ledger);
        self.open = None;
        if missing == Some(0) {
            self.place = next.begin();
        } else {
            self.ready.push_back(Read::Gap { lines: missing, to: next.begin() });
        }
    }
}
