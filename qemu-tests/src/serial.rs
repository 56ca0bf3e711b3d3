//! The serial line: every line with its time and the boot it belongs to, kept in a file and to be waited for.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use xtask::clock::Watch;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Since the machine was made.
    pub at: Duration,
    /// The boot, from 1.
    pub boot: u32,
    /// Without what a terminal would act on.
    pub text: String,
}

/// The serial line of a machine, over all its boots. Clones are the same line.
#[derive(Debug, Clone)]
pub struct Serial {
    shared: Arc<Shared>,
    path: PathBuf,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    since: Watch,
    boot: u32,
    lines: Vec<Line>,
    file: File,
}

impl Serial {
    /// Kept in this file, which is made anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn to_file(path: &Path) -> anyhow::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.create(true).write(true).truncate(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let state = State { since: Watch::start(), boot: 0, lines: vec![], file };
        let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
        Ok(Serial { shared: Arc::new(shared), path: path.into() })
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next boot begins. Gives its number.
    pub(crate) fn next_boot(&self) -> u32 {
        let mut state = self.lock();
        state.boot += 1;
        state.boot
    }

    /// A line of our own.
    pub(crate) fn note(&self, text: &str) {
        self.push(format!("<{text}>"));
    }

    fn push(&self, text: String) {
        let mut state = self.lock();
        let line = Line { at: state.since.elapsed(), boot: state.boot, text };
        // A full disk must not end the test another way than by its own assertions.
        drop(writeln!(state.file, "[{:9.3} {}] {}", line.at.as_secs_f64(), line.boot, line.text));
        state.lines.push(line);
        self.shared.changed.notify_all();
    }

    /// Reads to the end.
    pub(crate) fn read_from(&self, mut from: impl Read) {
        let mut rest: Vec<u8> = vec![];
        let mut buffer = [0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            rest.extend_from_slice(&buffer[..n]);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                self.push(plain(&String::from_utf8_lossy(&line)));
            }
        }
        if !rest.is_empty() {
            self.push(plain(&String::from_utf8_lossy(&rest)));
        }
    }

    /// Where the line is now; what comes later begins here.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.lock().lines.len()
    }

    /// All lines since a mark.
    #[must_use]
    pub fn since(&self, mark: usize) -> Vec<Line> {
        self.lock().lines.iter().skip(mark).cloned().collect()
    }

    /// Waits for a line that holds a text, from a mark on.
    ///
    /// # Errors
    /// When it does not come within `limit`; with the last lines.
    pub fn wait(&self, text: &str, mark: usize, limit: Duration) -> anyhow::Result<Line> {
        let watch = Watch::start();
        let mut seen = mark;
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.iter().skip(seen).find(|line| line.text.contains(text)) {
                return Ok(line.clone());
            }
            seen = state.lines.len().max(mark);
            let left = limit.saturating_sub(watch.elapsed());
            if left.is_zero() {
                drop(state);
                anyhow::bail!(
                    "{text:?} did not come on the serial line within {} s. {}",
                    limit.as_secs(),
                    self.last_words()
                );
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The last lines, for messages.
    #[must_use]
    pub fn last_words(&self) -> String {
        let state = self.lock();
        let last = state.lines.iter().skip(state.lines.len().saturating_sub(15));
        let last: String = last.map(|l| format!("\n  [{:9.3} {}] {}", l.at.as_secs_f64(), l.boot, l.text)).collect();
        format!("The serial line ({}) ends:{last}", self.path.display())
    }
}

/// Without escape sequences and other control characters.
fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => {
                if rest.next() == Some('[') {
                    // Up to the letter that ends it.
                    rest.by_ref().find(char::is_ascii_alphabetic);
                }
            }
            '\t' => text.push(' '),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_with_their_boot_and_can_be_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let serial = Serial::to_file(&dir.path().join("serial.log")).unwrap();
        assert_eq!(serial.next_boot(), 1);
        serial.read_from(&b"\x1b[0;32m  OK  \x1b[0m] Started\r\nhalf"[..]);
        assert_eq!(serial.since(0).iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["  OK  ] Started", "half"]);
        let mark = serial.mark();
        serial.next_boot();
        let later = serial.clone();
        let writer = std::thread::spawn(move || later.read_from(&b"login:\n"[..]));
        let line = serial.wait("login", mark, Duration::from_secs(10)).unwrap();
        writer.join().unwrap();
        assert_eq!((line.boot, line.text.as_str()), (2, "login:"));
        let err = serial.wait("Started", mark, Duration::from_millis(20)).unwrap_err().to_string();
        assert!(err.contains("login:"), "{err}");
        let kept = std::fs::read_to_string(serial.path()).unwrap();
        assert!(kept.lines().nth(2).unwrap().ends_with(" 2] login:"), "{kept}");
    }
}
