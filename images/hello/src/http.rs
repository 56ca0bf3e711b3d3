//! The smallest HTTP server that is still polite: one request a connection, a fixed number of threads, a bound on
//! what it reads and how long it waits. Decides what `/` and `/health` say; knows nothing of signals.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Threads that answer; also the most requests in work at once.
const WORKERS: usize = 8;
/// The most bytes of a request that are read before it is refused.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// How long one client may take to send its request or take its answer.
const CLIENT_TIME: Duration = Duration::from_secs(5);

/// What the answer tells about this process.
#[derive(Debug)]
pub(crate) struct Who {
    /// From the image.
    pub(crate) version: String,
    /// From the agent.
    pub(crate) device: String,
    /// What it answers.
    pub(crate) mood: Mood,
}

/// Whether requests are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// They are.
    Well,
    /// None is.
    Sick,
}

/// A listening server.
pub(crate) struct Server {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    who: Arc<Who>,
    busy: Arc<Busy>,
}

/// How many requests are in work.
#[derive(Default)]
struct Busy {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Server {
    /// Listens on IPv6 and IPv4 together where the kernel has IPv6, else on IPv4.
    pub(crate) fn bind(port: u16, who: Who) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
        let address = listener.local_addr()?;
        Ok(Server { listener: Arc::new(listener), address, who: Arc::new(who), busy: Arc::default() })
    }

    /// Where it listens; tells the port when 0 was asked for.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the threads that answer.
    pub(crate) fn work(&self) {
        for _ in 0..WORKERS {
            let (listener, who, busy) = (Arc::clone(&self.listener), Arc::clone(&self.who), Arc::clone(&self.busy));
            std::thread::spawn(move || {
                // A connection that could not be accepted or answered is that client's loss alone.
                while let Ok(stream) = listener.accept().map(|(stream, _)| stream) {
                    busy.add();
                    if let Err(err) = handle(stream, &who) {
                        crate::say(&format!("a request failed: {err}"));
                    }
                    busy.done();
                }
            });
        }
    }

    /// Waits until no request is in work, at most for `limit`.
    pub(crate) fn finish(&self, limit: Duration) {
        let count = self.busy.count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.busy.changed.wait_timeout_while(count, limit, |count| *count > 0));
    }
}

impl Busy {
    fn add(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn done(&self) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.changed.notify_all();
    }
}

fn handle(mut stream: TcpStream, who: &Who) -> io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIME))?;
    stream.set_write_timeout(Some(CLIENT_TIME))?;
    let mut request = Vec::new();
    let mut chunk = [0_u8; 1024];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        match stream.read(&mut chunk)? {
            0 => break,
            n => request.extend_from_slice(&chunk[..n]),
        }
    }
    if request.is_empty() {
        return Ok(()); // a probe that only connects
    }
    stream.write_all(answer(&request, who).as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// The whole answer to one request.
fn answer(request: &[u8], who: &Who) -> String {
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, text) = match (method, path) {
        _ if who.mood == Mood::Sick => ("500 Internal Server Error", "this app is sick\n".to_string()),
        ("GET" | "HEAD", "/") => ("200 OK", format!("hello from version {} on {}\n", who.version, who.device)),
        ("GET" | "HEAD", "/health") => ("200 OK", "ok\n".to_string()),
        ("GET" | "HEAD", _) => ("404 Not Found", "not found; try / or /health\n".to_string()),
        (_, _) => ("405 Method Not Allowed", "only GET and HEAD\n".to_string()),
    };
    let body = if method == "HEAD" { "" } else { text.as_str() };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        text.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> String {
        let who = Who { version: "2".into(), device: "pi-1".into(), mood: Mood::Well };
        answer(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(), &who)
    }

    #[test]
    fn the_root_names_version_and_device_in_one_line() {
        let text = ask("GET /");
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("Content-Length: 29\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nhello from version 2 on pi-1\n"), "{text}");
    }

    #[test]
    fn health_not_found_head_and_other_methods() {
        assert!(ask("GET /health?x=1").ends_with("\r\n\r\nok\n"));
        assert!(ask("GET /nothing").starts_with("HTTP/1.1 404 "));
        assert!(ask("POST /").starts_with("HTTP/1.1 405 "));
        let head = ask("HEAD /");
        assert!(head.contains("Content-Length: 29\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn a_sick_one_serves_nobody() {
        let who = Who { version: "2".into(), device: "pi-1".into(), mood: Mood::Sick };
        assert!(answer(b"GET /health HTTP/1.1\r\n\r\n", &who).starts_with("HTTP/1.1 500 Internal Server Error\r\n"));
    }

    #[test]
    fn bytes_that_are_no_request_get_an_answer_and_no_panic() {
        let who = Who { version: "2".into(), device: "pi-1".into(), mood: Mood::Well };
        for bytes in [&b"\xff\xfe"[..], b"\r\n\r\n", b"GET"] {
            assert!(answer(bytes, &who).starts_with("HTTP/1.1 4"));
        }
    }
}
