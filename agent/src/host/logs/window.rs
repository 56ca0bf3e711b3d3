//! One window: the logs of an app's containers, as one stream of bounded parts.
//!
//! Decides the order of containers: by time where all of it is there already, by turns where it comes in, so that one that
//! floods keeps nobody waiting. Does not wait and does not send; holds a block and a line of each container.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bramble_contracts::Name;
use bramble_contracts::stamp::Stamp;
use bramble_contracts::v1::{LogCursor, LogPart, LogPlace, LogSpan, LogWindow};

use super::LogError;
use super::files::{folders, segments};
use super::span::{Span, find};
use super::track::{Ledger, Read, Track};

/// One part of an answer; a frame holds it with room to spare.
const PART_BYTES: usize = 24 * 1024;
/// What is read and sent in one go.
const BATCH_BYTES: usize = 64 * 1024;
/// What one container may send before it is another's turn.
const TURN_BYTES: usize = 8 * 1024;
/// Counted for each line beside its text.
const LINE_BYTES: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Time,
    Turns,
}

/// A window that is being read.
#[derive(Debug)]
pub struct Window {
    app: PathBuf,
    only: Option<Name>,
    ledger: Ledger,
    tracks: Vec<Track>,
    order: Order,
    turn: usize,
    turn_bytes: usize,
    /// What the reader has room for.
    room: usize,
}

impl Window {
    /// Opens it; the first part says where it begins and ends.
    pub(super) fn open(app: PathBuf, ledger: Ledger, ask: LogWindow, now: Stamp) -> Result<(Self, LogPart), LogError> {
        let there = containers(&app, ask.container.as_ref())?;
        let order = if ask.wait.is_some() { Order::Turns } else { Order::Time };
        let room = usize::try_from(ask.bytes).unwrap_or(usize::MAX).max(1);
        let (tracks, turn, turn_bytes) = (Vec::new(), 0, 0);
        let mut new = Self { app, only: ask.container, ledger, tracks, order, turn, turn_bytes, room };
        let by_name = |cursors: Vec<LogCursor>| -> BTreeMap<Name, LogPlace> {
            cursors.into_iter().map(|cursor| (cursor.container, cursor.place)).collect()
        };
        let mut spans = Vec::new();
        match ask.span {
            LogSpan::Wish(wish) => {
                for (container, dir) in there {
                    let span = segments(&dir).and_then(|all| find(all, &wish, now));
                    if let Some(span) = span.map_err(|err| LogError::Read { path: dir.clone(), err })? {
                        spans.push((container.clone(), span));
                        new.add(container, dir, span.from, ask.wait.is_none().then_some(span.to));
                    }
                }
                if spans.is_empty() {
                    return Err(LogError::NoPrevious);
                }
            }
            LogSpan::On { from, to } => {
                let (from, to) = (by_name(from), by_name(to));
                for (container, dir) in there {
                    let end = to.get(&container).copied();
                    if !to.is_empty() && end.is_none() {
                        continue;
                    }
                    let from = from.get(&container).copied().unwrap_or_default();
                    spans.push((container.clone(), Span { from, to: end.unwrap_or_default() }));
                    new.add(container, dir, from, end);
                }
            }
        }
        let cursors = |place: fn(&Span) -> LogPlace| {
            let cursor =
                |(container, span): &(Name, Span)| LogCursor { container: container.clone(), place: place(span) };
            spans.iter().map(cursor).collect()
        };
        let first = LogPart::Span { from: cursors(|span| span.from), to: cursors(|span| span.to) };
        Ok((new, first))
    }

    fn add(&mut self, container: Name, dir: PathBuf, from: LogPlace, end: Option<LogPlace>) {
        self.tracks.push(Track::new(container, dir, self.ledger.clone(), from, end));
    }

    /// Has the reader no more room?
    pub fn is_full(&self) -> bool {
        self.room == 0
    }

    /// What there is, in parts; empty when there is nothing now.
    pub(super) fn batch(&mut self) -> Result<Vec<LogPart>, LogError> {
        let failed = |app: &PathBuf, err| LogError::Read { path: app.clone(), err };
        if self.order == Order::Turns {
            self.look_for_new()?;
        }
        let mut parts = Parts::default();
        while parts.bytes < BATCH_BYTES.min(self.room) {
            let next = match self.order {
                Order::Time => self.earliest(),
                Order::Turns => self.in_turn(),
            };
            let Some((track, read)) = next.map_err(|err| failed(&self.app, err))? else { break };
            let bytes = parts.add(&self.tracks[track].container, read);
            self.turn_bytes += bytes;
        }
        self.room = self.room.saturating_sub(parts.bytes);
        Ok(parts.all)
    }

    /// A container that was not there before is read from its beginning.
    fn look_for_new(&mut self) -> Result<(), LogError> {
        for (container, dir) in containers(&self.app, self.only.as_ref()).or_else(LogError::none_yet)? {
            if !self.tracks.iter().any(|track| track.container == container) {
                self.add(container, dir, LogPlace::default(), None);
            }
        }
        Ok(())
    }

    fn earliest(&mut self) -> io::Result<Option<(usize, Read)>> {
        let mut first: Option<(Stamp, usize)> = None;
        for (n, track) in self.tracks.iter_mut().enumerate() {
            if let Some(at) = track.peek()?
                && first.is_none_or(|(earliest, _)| at < earliest)
            {
                first = Some((at, n));
            }
        }
        let Some((_, n)) = first else { return Ok(None) };
        Ok(self.tracks[n].next()?.map(|read| (n, read)))
    }

    fn in_turn(&mut self) -> io::Result<Option<(usize, Read)>> {
        for _ in 0..=self.tracks.len() {
            if self.turn_bytes < TURN_BYTES
                && let Some(track) = self.tracks.get_mut(self.turn)
                && let Some(read) = track.next()?
            {
                return Ok(Some((self.turn, read)));
            }
            self.turn = (self.turn + 1) % self.tracks.len().max(1);
            self.turn_bytes = 0;
        }
        Ok(None)
    }
}

/// The folders of an app's containers.
fn containers(app: &Path, only: Option<&Name>) -> Result<Vec<(Name, PathBuf)>, LogError> {
    let all = folders::<Name>(app).map_err(|err| LogError::Read { path: app.to_path_buf(), err })?;
    if all.is_empty() {
        return Err(LogError::NoLogs);
    }
    let Some(only) = only else { return Ok(all) };
    let known = all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let one: Vec<_> = all.into_iter().filter(|(name, _)| name == only).collect();
    if one.is_empty() {
        return Err(LogError::NoSuchContainer { name: only.clone(), known });
    }
    Ok(one)
}

/// Parts as they grow.
#[derive(Default)]
struct Parts {
    all: Vec<LogPart>,
    bytes: usize,
    part_bytes: usize,
}

impl Parts {
    /// Takes in what was read; says how large it is.
    fn add(&mut self, container: &Name, read: Read) -> usize {
        let line = match read {
            Read::Line(line) => line,
            Read::Gap { lines, to } => {
                self.all.push(LogPart::Gap { container: container.clone(), lines, to });
                self.bytes += LINE_BYTES;
                return LINE_BYTES;
            }
        };
        let bytes = line.text.len() + LINE_BYTES;
        self.bytes += bytes;
        match self.all.last_mut() {
            Some(LogPart::Lines { container: last, lines })
                if last == container && self.part_bytes + bytes <= PART_BYTES =>
            {
                self.part_bytes += bytes;
                lines.push(line);
            }
            Some(LogPart::Lines { .. } | LogPart::Span { .. } | LogPart::Gap { .. } | LogPart::Rest(_)) | None => {
                self.part_bytes = bytes;
                self.all.push(LogPart::Lines { container: container.clone(), lines: vec![line] });
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bramble_contracts::quantity::Millis;
    use bramble_contracts::v1::LogWish;

    use super::*;
    use crate::host::logs::dropped::Dropped;

    /// The logs of one app.
    struct Here {
        dir: tempfile::TempDir,
        ledger: Ledger,
    }

    fn entry(second: u64, text: &str) -> String {
        format!("{} stdout F {text}\n", Stamp(second * 1_000_000_000))
    }

    impl Here {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), ledger: Ledger::default() }
        }

        fn write(&self, file: &str, lines: &[(u64, &str)]) {
            let path = self.dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let before = fs::read_to_string(&path).unwrap_or_default();
            let text: String = lines.iter().map(|(at, text)| entry(*at, text)).collect();
            fs::write(path, before + &text).unwrap();
        }

        fn open(&self, span: LogSpan, wait: Option<Millis>, bytes: u32) -> Result<Window, LogError> {
            let ask = LogWindow {
                tenant: Default::default(),
                deployment: "web".parse().unwrap(),
                container: None,
                span,
                wait,
                bytes,
            };
            Window::open(self.dir.path().into(), self.ledger.clone(), ask, Stamp(0)).map(|(window, _)| window)
        }

        fn all(&self) -> Window {
            self.open(LogSpan::Wish(LogWish::default()), None, 1 << 20).unwrap()
        }

        fn on(&self, from: &[(&str, LogPlace)]) -> Window {
            let cursor =
                |(name, place): &(&str, LogPlace)| LogCursor { container: name.parse().unwrap(), place: *place };
            let span = LogSpan::On { from: from.iter().map(cursor).collect(), to: vec![] };
            self.open(span, Some(Millis::secs(1)), 1 << 20).unwrap()
        }
    }

    /// What a batch holds, as `container:text`, and `container:-lines` for a gap.
    fn said(parts: &[LogPart]) -> Vec<String> {
        let say = |part: &LogPart| match part {
            LogPart::Lines { container, lines } => {
                lines.iter().map(|line| format!("{container}:{}", line.text)).collect::<Vec<_>>()
            }
            LogPart::Gap { container, lines, .. } => {
                vec![format!("{container}:-{}", lines.map_or("?".into(), |n| n.to_string()))]
            }
            LogPart::Span { .. } | LogPart::Rest(_) => vec![],
        };
        parts.iter().flat_map(say).collect()
    }

    fn last_place(parts: &[LogPart]) -> LogPlace {
        match parts.last().unwrap() {
            LogPart::Lines { lines, .. } => lines.last().unwrap().next,
            LogPart::Gap { to, .. } => *to,
            LogPart::Span { .. } | LogPart::Rest(_) => panic!("{parts:?}"),
        }
    }

    #[test]
    fn what_is_there_is_given_by_time_and_each_file_in_its_own_order() {
        let here = Here::new();
        here.write("a/000001.000001", &[(1, "1"), (5, "5"), (3, "clock set back")]);
        here.write("b/000001.000001", &[(2, "2")]);
        here.write("b/000002.000001", &[(4, "4"), (6, "6")]);
        let mut window = here.all();
        assert_eq!(said(&window.batch().unwrap()), ["a:1", "b:2", "b:4", "a:5", "a:clock set back", "b:6"]);
        assert!(window.batch().unwrap().is_empty());
        here.write("b/000002.000001", &[(7, "7")]);
        assert!(window.batch().unwrap().is_empty(), "what came later was not asked for");
    }

    #[test]
    fn a_follower_hears_what_comes_across_files_lives_and_new_containers() {
        let here = Here::new();
        here.write("a/000001.000001", &[(1, "1")]);
        let mut window = here.on(&[]);
        let first = window.batch().unwrap();
        assert_eq!(said(&first), ["a:1"]);
        here.write("a/000001.000001", &[(2, "2")]);
        here.write("a/000001.000002", &[(3, "3")]);
        here.write("b/000001.000001", &[(3, "new")]);
        assert_eq!(said(&window.batch().unwrap()), ["a:2", "a:3", "b:new"]);
        here.write("a/000002.000001", &[(4, "4")]);
        assert_eq!(said(&window.batch().unwrap()), ["a:4"]);
        // The same from a place, as after a restart.
        let again = here.on(&[("a", last_place(&first))]).batch().unwrap();
        assert_eq!(said(&again), ["a:2", "a:3", "a:4", "b:new"]);
    }

    #[test]
    fn one_that_floods_keeps_nobody_waiting() {
        let here = Here::new();
        let flood: Vec<(u64, &str)> = (0..5000).map(|_| (1, "flood flood flood flood flood flood")).collect();
        here.write("a/000001.000001", &flood);
        here.write("b/000001.000001", &[(9, "b")]);
        let parts = here.on(&[]).batch().unwrap();
        let at = said(&parts).iter().position(|line| line == "b:b").expect("in the first batch");
        assert!(at < 200, "{at}");
    }

    #[test]
    fn room_ends_a_window_and_parts_fit_a_frame() {
        let here = Here::new();
        let long = "ü".repeat(8000);
        here.write("a/000001.000001", &(0..40).map(|n| (n, long.as_str())).collect::<Vec<_>>());
        let mut window = here.open(LogSpan::Wish(LogWish::default()), None, 100_000).unwrap();
        let mut lines = 0;
        while !window.is_full() {
            for part in window.batch().unwrap() {
                lines += said(std::slice::from_ref(&part)).len();
                let frame =
                    bramble_contracts::v1::ReplyFrame { seq: 0, body: bramble_contracts::v1::FrameBody::Log(part) };
                assert!(bramble_contracts::envelope::encode(&frame).is_ok());
            }
        }
        assert_eq!(lines, 7, "as many as fit, and the one that fills it");
    }

    #[test]
    fn a_reader_that_comes_too_late_is_told_how_many_lines_it_missed() {
        let here = Here::new();
        let dir = here.dir.path().join("a");
        here.write("a/000001.000001", &[(1, "1"), (2, "2"), (3, "3")]);
        here.ledger.lock().unwrap().insert(dir.clone(), Dropped::before(Some((1, 1))));
        let place = LogPlace { life: 1, segment: 1, offset: entry(1, "1").len() as u64, lines: 1, skip: 0 };
        fs::remove_file(dir.join("000001.000001")).unwrap();
        here.ledger.lock().unwrap().get_mut(&dir).unwrap().note((1, 1), Some(3), false);
        here.write("a/000001.000002", &[(4, "4")]);
        here.write("a/000001.000004.gap", &[(9, "9")]);
        assert_eq!(said(&here.on(&[("a", place)]).batch().unwrap()), ["a:-2", "a:4", "a:-?", "a:9"]);
        // Somebody empties a file.
        let mut window = here.on(&[("a", place)]);
        window.batch().unwrap();
        fs::write(dir.join("000001.000004.gap"), "").unwrap();
        here.write("a/000001.000004.gap", &[(1, "x")]);
        assert_eq!(said(&window.batch().unwrap()), Vec::<String>::new(), "as long as what was there");
        fs::write(dir.join("000001.000004.gap"), "").unwrap();
        assert_eq!(said(&window.batch().unwrap()), ["a:-?"]);
        here.write("a/000001.000004.gap", &[(1, "from the beginning")]);
        assert_eq!(said(&window.batch().unwrap()), ["a:from the beginning"]);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let here = Here::new();
        let wish = || LogSpan::Wish(LogWish::default());
        assert!(matches!(here.open(wish(), None, 1), Err(LogError::NoLogs)));
        here.write("a/000001.000001", &[(1, "1")]);
        let previous = LogWish { lives: bramble_contracts::v1::LogLives::Previous, ..LogWish::default() };
        assert!(matches!(here.open(LogSpan::Wish(previous), None, 1), Err(LogError::NoPrevious)));
        let err = containers(here.dir.path(), Some(&"b".parse().unwrap())).unwrap_err();
        assert_eq!(err.to_string(), "it has no log of a container b here; it has a");
    }
}
