//! One HTTP GET to this machine, for asking "are you there yet?". Decides nothing; the API proper is the CLI's.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer, as far as anyone here cares.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

/// Asks for a path.
///
/// # Errors
/// When nobody listens, the answer takes too long or is no HTTP.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::Error::other("the answer is no HTTP"))
}

/// A body in chunks keeps their lengths; nobody here asks for one that long.
fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some(Answer { status, body: body.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_anything_else_is_not() {
        let answer = parse("HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nrecovering\n");
        assert_eq!(answer, Some(Answer { status: 503, body: "recovering\n".into() }));
        for bad in ["", "HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.\r\n\r\n"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
