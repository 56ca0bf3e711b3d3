//! A TCP proxy that can lose what the server says: for answers that never arrive, and for links that are cut without
//! anybody being told.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// What the proxy does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Passes them on.
    Pass = 0,
    /// Passes requests on, and closes the connection instead of passing the answer.
    LoseAnswers = 1,
    /// Passes nothing, closes nothing: what a dead link looks like.
    BlackHole = 2,
}

/// One listening proxy. Its threads end with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: Arc<AtomicU8>,
    lost: Arc<AtomicU64>,
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
        let (mode, lost) = (Arc::new(AtomicU8::new(Mode::Pass as u8)), Arc::new(AtomicU64::new(0)));
        let shared = (Arc::downgrade(&mode), Arc::clone(&lost));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Some(mode)) = (client, shared.0.upgrade()) else { return };
                let Ok(server) = TcpStream::connect(to) else { continue };
                let lost = Arc::clone(&shared.1);
                let (Ok(client2), Ok(server2)) = (client.try_clone(), server.try_clone()) else { continue };
                let mode2 = Arc::clone(&mode);
                std::thread::spawn(move || pump(client, server, &mode, None));
                std::thread::spawn(move || pump(server2, client2, &mode2, Some(&lost)));
            }
        });
        Self { address, mode, lost }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// How many answers it has lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Wakes the listener, which then sees that nobody holds the mode any more.
        self.mode = Arc::default();
        drop(TcpStream::connect(self.address));
    }
}

/// Copies one direction; `answers` counts what is lost of the direction from the server.
fn pump(mut from: TcpStream, mut to: TcpStream, mode: &AtomicU8, answers: Option<&AtomicU64>) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        let now = mode.load(Ordering::SeqCst);
        if let (Some(lost), true, true) = (answers, now == Mode::LoseAnswers as u8, read > 0) {
            lost.fetch_add(1, Ordering::SeqCst);
            break;
        }
        while mode.load(Ordering::SeqCst) == Mode::BlackHole as u8 && read > 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
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
        proxy.set(Mode::LoseAnswers);
        assert_eq!(ask(), "");
        assert_eq!(heard.join().unwrap(), [*b"ping", *b"ping"], "the server heard both");
        assert_eq!(proxy.lost(), 1);
    }
}
