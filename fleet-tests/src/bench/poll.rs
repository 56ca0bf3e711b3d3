//! Looks at ports from outside, every millisecond or two, as a client would see them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Watch;

/// One look takes no longer; a port that takes connections and says nothing is as good as closed.
const LOOK: Duration = Duration::from_millis(30);
const PAUSE: Duration = Duration::from_millis(1);

/// One GET; `None` when nobody answers well.
pub(super) fn look(at: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&at, LOOK).ok()?;
    stream.set_read_timeout(Some(LOOK)).ok()?;
    stream.set_nodelay(true).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nAccept: */*\r\nConnection: close\r\n\r\n").ok()?;
    let mut bytes = Vec::new();
    stream.take(1 << 20).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?, body.to_owned()))
}

/// A port of this machine.
pub(super) fn here(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Waits until the demo app answers on a port.
///
/// # Panics
/// When it does not within a minute.
pub(super) fn answered(port: u16) {
    let watch = Watch::start();
    while look(here(port), "/").is_none_or(|(status, _)| status != 200) {
        assert!(watch.elapsed() < Duration::from_secs(60), "nobody answers on port {port}");
        std::thread::sleep(PAUSE);
    }
}

/// Looks at a port all the time, in a thread of its own.
pub(super) struct Poller {
    over: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    seen: JoinHandle<Vec<(Duration, String)>>,
}

impl Poller {
    /// Starts looking.
    pub(super) fn start(port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicUsize::new(0));
        let (ends, counts, watch) = (Arc::clone(&over), Arc::clone(&answers), Watch::start());
        let seen = std::thread::spawn(move || {
            let mut seen = vec![];
            while !ends.load(Ordering::Relaxed) {
                if let Some((200, body)) = look(here(port), "/") {
                    seen.push((watch.elapsed(), body));
                    counts.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(PAUSE);
            }
            seen
        });
        Self { over, answers, seen }
    }

    /// Ends it. The time between the last answer of the old and the first of the new.
    ///
    /// # Panics
    /// When one of the two never answered.
    pub(super) fn downtime(self, old: &str, new: &str) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        let seen = self.seen.join().expect("the poller goes on to its end");
        let last = seen.iter().rfind(|(_, body)| body.contains(old)).expect("the old one has answered").0;
        let first = seen.iter().find(|(_, body)| body.contains(new)).expect("the new one has answered").0;
        first.checked_sub(last).expect("the old one is gone when the new one answers")
    }

    /// Waits until it has seen so many answers more.
    ///
    /// # Panics
    /// When they do not come within a minute.
    pub(super) fn saw_answers(&self, more: usize) {
        let (watch, before) = (Watch::start(), self.answers.load(Ordering::Relaxed));
        while self.answers.load(Ordering::Relaxed) < before + more {
            assert!(watch.elapsed() < Duration::from_secs(60), "nobody answers any more");
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends it. The longest time between two answers.
    ///
    /// # Panics
    /// When there were fewer than two.
    pub(super) fn longest_silence(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        let seen = self.seen.join().expect("the poller goes on to its end");
        seen.windows(2).map(|pair| pair[1].0 - pair[0].0).max().expect("somebody has answered twice")
    }
}
