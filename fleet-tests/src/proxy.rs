//! A TCP proxy that can lose what the server says, or pass it slowly: for answers that never arrive, for links that are cut
//! without anybody being told, and for those that are merely bad.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the proxy does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Passes them on.
    Pass = 0,
    /// Passes requests on, and closes the connection instead of passing the answer, for requests that begin as given
    /// to [`Proxy::lose_answers_to`] (all, if nothing was given).
    LoseAnswers = 1,
    /// Passes nothing, closes nothing: what a dead link looks like.
    BlackHole = 2,
    /// Passes what the server says at the speed given to [`Proxy::slow`], for each connection.
    Slow = 3,
}

/// One listening proxy. Its threads end with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    rule: Arc<Rule>,
    lost: Arc<AtomicU64>,
}

/// What all connections of a proxy obey.
#[derive(Debug, Default)]
struct Rule {
    mode: AtomicU8,
    marker: Mutex<Vec<u8>>,
    bytes_per_s: AtomicU64,
    over: AtomicBool,
}

impl Rule {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }

    fn marks(&self, request: &[u8]) -> bool {
        request.starts_with(&self.marker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and passes everything to `to`.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("invariant: it listens");
        let (rule, lost) = (Arc::new(Rule::default()), Arc::new(AtomicU64::new(0)));
        let shared = (Arc::clone(&rule), Arc::clone(&lost));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), false) = (client, shared.0.over.load(Ordering::SeqCst)) else { return };
                let Ok(server) = TcpStream::connect(to) else { continue };
                let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else { continue };
                let (rule, rule2, lost) = (Arc::clone(&shared.0), Arc::clone(&shared.0), Arc::clone(&shared.1));
                let marked = Arc::new(AtomicBool::new(false));
                let marked2 = Arc::clone(&marked);
                std::thread::spawn(move || requests(client, server, &rule, &marked));
                std::thread::spawn(move || answers(server2, client2, &rule2, &marked2, &lost));
            }
        });
        Self { address, rule, lost }
    }

    /// In mode [`Mode::LoseAnswers`]: only answers to requests that begin like this.
    pub fn lose_answers_to(&self, marker: &str) {
        *self.rule.marker.lock().unwrap_or_else(PoisonError::into_inner) = marker.as_bytes().to_vec();
    }

    /// From now on so many bytes in a second for each connection.
    pub fn slow(&self, bytes_per_s: u64) {
        self.rule.bytes_per_s.store(bytes_per_s.max(1), Ordering::SeqCst);
        self.set(Mode::Slow);
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.rule.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// How many answers it has lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.rule.over.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is over.
        drop(TcpStream::connect(self.address));
    }
}

/// Copies what the client says.
fn requests(mut from: TcpStream, mut to: TcpStream, rule: &Rule, marked: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        if rule.marks(&buffer[..read]) {
            marked.store(true, Ordering::SeqCst);
        }
        hold(rule);
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}

/// Copies what the server says, or does not.
fn answers(mut from: TcpStream, mut to: TcpStream, rule: &Rule, marked: &AtomicBool, lost: &AtomicU64) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        if read > 0 && rule.is(Mode::LoseAnswers) && marked.load(Ordering::SeqCst) {
            lost.fetch_add(1, Ordering::SeqCst);
            break;
        }
        hold(rule);
        if rule.is(Mode::Slow) {
            let rate = rule.bytes_per_s.load(Ordering::SeqCst).max(1);
            std::thread::sleep(Duration::from_micros(read as u64 * 1_000_000 / rate));
        }
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}

fn hold(rule: &Rule) {
    while rule.is(Mode::BlackHole) && !rule.over.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_passes_and_it_loses_answers() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::to(server.local_addr().unwrap());
        let heard = std::thread::spawn(move || {
            let mut heard = vec![];
            for _ in 0..2 {
                let (mut stream, _) = server.accept().unwrap();
                let mut word = [0; 4];
                stream.read_exact(&mut word).unwrap();
                heard.push(word);
                stream.write_all(b"pong").unwrap();
            }
            heard
        });
        let ask = || {
            let mut stream = TcpStream::connect(proxy.address()).unwrap();
            stream.write_all(b"ping").unwrap();
            let mut answer = String::new();
            drop(stream.read_to_string(&mut answer));
            answer
        };
        assert_eq!(ask(), "pong");
        proxy.lose_answers_to("pi");
        proxy.set(Mode::LoseAnswers);
        assert_eq!(ask(), "");
        assert_eq!(heard.join().unwrap(), [*b"ping", *b"ping"], "the server heard both");
        assert_eq!(proxy.lost(), 1);
    }
}
