//! libpod's API over its socket, by hand: what a pod costs whoever asks for it with no agent in between.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

/// A service that listens on this socket.
pub(super) struct Libpod {
    socket: PathBuf,
}

impl Libpod {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// One call that must succeed; gives the `Id` of what was made, where something was.
    ///
    /// # Panics
    /// When it does not succeed.
    pub(super) fn call(&self, method: &str, path: &str, body: &Value) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let ask = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            write!(
                stream,
                "{method} /v4.0.0/libpod{path} HTTP/1.1\r\nHost: podman\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().unwrap_or_else(|err| panic!("{method} {path}: {err}"));
        assert!(answer.starts_with("HTTP/1.1 2"), "{method} {path}: {answer}");
        let (_, json) = answer.split_once("\r\n\r\n").unwrap_or_default();
        // Short answers come whole; chunked ones are of no interest here.
        let made: Value = serde_json::from_str(json.trim()).unwrap_or_default();
        made["Id"].as_str().unwrap_or_default().to_owned()
    }
}
