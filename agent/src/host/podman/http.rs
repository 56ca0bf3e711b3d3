//! One request to Podman's socket: bounded in time and size, with errors that carry what libpod said.
//!
//! Decides how bytes travel. Does not decide what is asked, nor whether a failed call is tried again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// The part of libpod's API that both Podman 4.3 and 5.4 answer.
const API: &str = "/v4.0.0/libpod";
const MARK_KEYS: usize = 12;
/// An error body longer than this is cut.
const ERROR_BODY_BYTES_MAX: usize = 16 * 1024;

/// What one call may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The whole call, or for a stream: the time until the answer begins.
    pub time: Duration,
    /// The largest answer that is read.
    pub bytes: usize,
}

/// Calls that only look.
pub const LOOK: Limit = Limit { time: Duration::from_secs(20), bytes: 4 << 20 };
/// Calls that change one container, pod or image record.
pub const CHANGE: Limit = Limit { time: Duration::from_secs(120), bytes: 1 << 20 };

/// Why a call to Podman gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum PodmanError {
    /// Nobody answers on the socket.
    #[error("cannot reach Podman at {} to {what}; the agent starts it again by itself, see its log if this stays", socket.display())]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// What was asked.
        what: String,
        /// The system's word.
        #[source]
        err: std::io::Error,
    },
    /// The connection broke while asking or answering.
    #[error("the connection to Podman broke while asking to {what}")]
    Broken {
        /// What was asked.
        what: String,
        /// hyper's word.
        #[source]
        err: hyper::Error,
    },
    /// The connection broke while it carried a command's bytes.
    #[error("the connection to Podman broke while asking to {what}")]
    Cut {
        /// What was asked.
        what: String,
        /// The system's word.
        #[source]
        err: std::io::Error,
    },
    /// No (whole) answer in time.
    #[error("Podman did not {what} within {} s", after.as_secs())]
    TimedOut {
        /// What was asked.
        what: String,
        /// The limit.
        after: Duration,
    },
    /// The answer is longer than we are willing to hold.
    #[error("Podman's answer to {what} is longer than {limit} bytes")]
    TooLarge {
        /// What was asked.
        what: String,
        /// The limit.
        limit: usize,
    },
    /// libpod refused.
    #[error("Podman could not {what}: {message}")]
    Refused {
        /// What was asked.
        what: String,
        /// HTTP status.
        status: u16,
        /// libpod's sentence.
        message: String,
        /// libpod's innermost cause.
        cause: String,
    },
    /// The answer is not what libpod's API describes.
    #[error("Podman's answer to {what} is not understood")]
    Unreadable {
        /// What was asked.
        what: String,
        /// The parser's word.
        #[source]
        err: serde_json::Error,
    },
    /// The request cannot be written; a bug of ours, reported instead of a panic.
    #[error("cannot write the request to {what}")]
    Request {
        /// What was asked.
        what: String,
        /// The http crate's word.
        #[source]
        err: hyper::http::Error,
    },
}

impl PodmanError {
    /// The container, pod, image or exec session does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. }) || self.cause_is("no such container")
    }

    /// Somebody else's container or pod already has that name.
    pub fn is_name_taken(&self) -> bool {
        match self {
            Self::Refused { cause, message, .. } => {
                cause.contains("already in use")
                    || cause.contains("already exists")
                    || message.contains("name is already in use")
            }
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Cut { .. }
            | Self::TimedOut { .. }
            | Self::TooLarge { .. }
            | Self::Unreadable { .. }
            | Self::Request { .. } => false,
        }
    }

    /// The container is not in a state that allows this (mostly: it does not run any more).
    pub fn is_wrong_state(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. }) || self.cause_is("container state improper")
    }

    /// The image is not in the store.
    pub fn is_image_unknown(&self) -> bool {
        self.cause_is("image not known") || self.cause_is("no such image")
    }

    /// Podman itself is away: says nothing about what was asked.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Cut { .. } | Self::TimedOut { .. } => true,
            Self::Refused { .. } | Self::TooLarge { .. } | Self::Unreadable { .. } | Self::Request { .. } => false,
        }
    }

    fn cause_is(&self, text: &str) -> bool {
        matches!(self, Self::Refused { cause, .. } if cause.contains(text))
    }
}

/// A client of one Podman service. Cheap to clone; every call is its own connection, so calls never wait for each other.
#[derive(Clone, Debug)]
pub struct Podman {
    socket: PathBuf,
    mark: Arc<str>,
}

/// A call being put together.
pub(super) struct Call {
    what: String,
    method: Method,
    path: String,
    body: Full<Bytes>,
    content_type: &'static str,
    wire: Wire,
}

/// What becomes of a call's connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// It ends with the answer.
    Answer,
    /// After the answer's head it carries bytes both ways.
    Both,
}

impl Call {
    pub(super) fn new(method: Method, what: impl Into<String>, path: impl AsRef<str>) -> Self {
        Self {
            what: what.into(),
            method,
            path: format!("{API}{}", path.as_ref()),
            body: Full::new(Bytes::new()),
            content_type: "application/json",
            wire: Wire::Answer,
        }
    }

    pub(super) fn get(what: impl Into<String>, path: impl AsRef<str>) -> Self {
        Self::new(Method::GET, what, path)
    }

    pub(super) fn post(what: impl Into<String>, path: impl AsRef<str>) -> Self {
        Self::new(Method::POST, what, path)
    }

    pub(super) fn delete(what: impl Into<String>, path: impl AsRef<str>) -> Self {
        Self::new(Method::DELETE, what, path)
    }

    pub(super) fn json(mut self, value: &serde_json::Value) -> Self {
        self.body = Full::new(Bytes::from(value.to_string()));
        self
    }

    pub(super) fn raw(mut self, content_type: &'static str, bytes: Bytes) -> Self {
        self.content_type = content_type;
        self.body = Full::new(bytes);
        self
    }
}

impl Podman {
    /// A client of the service that listens on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let mut bytes = [0; MARK_KEYS];
        getrandom::fill(&mut bytes).expect("invariant: the kernel gives random bytes");
        let keys = bytes.map(|byte| char::from(b'a' + byte % 26).to_string());
        Self { socket: socket.into(), mark: keys.join(",").into() }
    }

    /// Letters, with commas, that no other client has.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// Where the service is expected.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends the call and returns once the answer begins; a refusal is an error. For streams.
    pub(super) async fn open(&self, call: Call, limit: Limit) -> Result<Response<Incoming>, PodmanError> {
        let what = call.what.clone();
        match tokio::time::timeout(limit.time, self.exchange(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(PodmanError::TimedOut { what, after: limit.time }),
        }
    }

    /// Sends the call and hands over its connection, which from then on carries bytes both ways.
    pub(super) async fn upgrade(&self, call: Call, limit: Limit) -> Result<TokioIo<Upgraded>, PodmanError> {
        let what = call.what.clone();
        let answer = self.open(Call { wire: Wire::Both, ..call }, limit).await?;
        let upgraded = hyper::upgrade::on(answer).await.map_err(|err| PodmanError::Broken { what, err })?;
        Ok(TokioIo::new(upgraded))
    }

    /// Sends the call; a refusal is an error.
    async fn exchange(&self, call: Call) -> Result<Response<Incoming>, PodmanError> {
        let (what, wire) = (call.what.clone(), call.wire);
        let answer = self.send(call).await?;
        let status = answer.status();
        let fits = match wire {
            Wire::Answer => status.is_success() || status == StatusCode::NOT_MODIFIED,
            Wire::Both => status == StatusCode::SWITCHING_PROTOCOLS,
        };
        if fits {
            return Ok(answer);
        }
        let body = collect(answer.into_body(), &what, ERROR_BODY_BYTES_MAX).await.unwrap_or_default();
        Err(refusal(what, status, &body))
    }

    async fn send(&self, call: Call) -> Result<Response<Incoming>, PodmanError> {
        let Call { what, method, path, body, content_type, wire } = call;
        let stream = UnixStream::connect(&self.socket).await.map_err(|err| PodmanError::Unreachable {
            socket: self.socket.clone(),
            what: what.clone(),
            err,
        })?;
        let broken = |err| PodmanError::Broken { what: what.clone(), err };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends by itself when request and answer are done or dropped, which is how a pull is cancelled.
        tokio::spawn(async move {
            if let Err(err) = connection.with_upgrades().await {
                tracing::trace!(%err, "a connection to podman ended");
            }
        });
        let mut request =
            Request::builder().method(method).uri(path).header("Host", "podman").header("Content-Type", content_type);
        if wire == Wire::Both {
            request = request.header("Connection", "Upgrade").header("Upgrade", "tcp");
        }
        let request = request.body(body).map_err(|err| PodmanError::Request { what: what.clone(), err })?;
        sender.send_request(request).await.map_err(broken)
    }

    /// Sends the call and reads the whole answer, whatever its status says.
    pub(super) async fn ask_any(&self, call: Call, limit: Limit) -> Result<(StatusCode, Bytes), PodmanError> {
        let what = call.what.clone();
        let whole = async {
            let answer = self.send(call).await?;
            Ok((answer.status(), collect(answer.into_body(), &what, limit.bytes).await?))
        };
        match tokio::time::timeout(limit.time, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(PodmanError::TimedOut { what: what.clone(), after: limit.time }),
        }
    }

    /// Sends the call and reads the whole answer.
    pub(super) async fn ask(&self, call: Call, limit: Limit) -> Result<(StatusCode, Bytes), PodmanError> {
        let what = call.what.clone();
        let whole = async {
            let answer = self.exchange(call).await?;
            let status = answer.status();
            Ok((status, collect(answer.into_body(), &what, limit.bytes).await?))
        };
        match tokio::time::timeout(limit.time, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(PodmanError::TimedOut { what: what.clone(), after: limit.time }),
        }
    }

    /// Sends the call and parses the answer.
    pub(super) async fn ask_json<T: DeserializeOwned>(&self, call: Call, limit: Limit) -> Result<T, PodmanError> {
        let what = call.what.clone();
        let (_, body) = self.ask(call, limit).await?;
        parse(&what, &body)
    }
}

/// Parses one answer.
pub(super) fn parse<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, PodmanError> {
    serde_json::from_slice(body).map_err(|err| PodmanError::Unreadable { what: what.to_owned(), err })
}

async fn collect(mut body: Incoming, what: &str, limit: usize) -> Result<Bytes, PodmanError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|err| PodmanError::Broken { what: what.to_owned(), err })?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit {
                return Err(PodmanError::TooLarge { what: what.to_owned(), limit });
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

#[derive(serde::Deserialize)]
struct ErrorBody {
    #[serde(default)]
    cause: String,
    #[serde(default)]
    message: String,
}

pub(super) fn refusal(what: String, status: StatusCode, body: &[u8]) -> PodmanError {
    let parsed = serde_json::from_slice::<ErrorBody>(body).unwrap_or_else(|_| ErrorBody {
        cause: String::new(),
        message: format!("HTTP {status} {}", String::from_utf8_lossy(body).trim()),
    });
    PodmanError::Refused { what, status: status.as_u16(), message: one_line(&parsed.message), cause: parsed.cause }
}

/// Error texts end up in reports: one line, bounded.
pub(super) fn one_line(text: &str) -> String {
    let mut out: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect();
    if text.trim().chars().count() > 600 {
        out.push('…');
    }
    out
}

/// Escapes a path segment or query value.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// `filters=` as libpod wants it: a JSON object of lists.
pub(super) fn label_filter(labels: &[String]) -> String {
    escape(&serde_json::json!({ "label": labels }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_what_libpod_said() {
        let body = br#"{"cause":"that name is already in use","message":"creating container storage: the container name \"t1\" is already in use by 65e4","response":500}"#;
        let err = refusal("create container t1".into(), StatusCode::INTERNAL_SERVER_ERROR, body);
        assert!(err.is_name_taken());
        assert!(!err.is_not_found());
        assert!(err.to_string().starts_with("Podman could not create container t1: creating container storage"));
    }

    #[test]
    fn improper_state_and_absence_are_told_apart() {
        let state = br#"{"cause":"container state improper","message":"can only kill running containers. 65 is in state exited: container state improper","response":500}"#;
        let gone = br#"{"cause":"no such container","message":"no container with name or ID \"t1\" found: no such container","response":404}"#;
        assert!(refusal("kill".into(), StatusCode::INTERNAL_SERVER_ERROR, state).is_wrong_state());
        assert!(refusal("kill".into(), StatusCode::NOT_FOUND, gone).is_not_found());
    }

    #[test]
    fn an_error_that_is_no_json_is_still_told() {
        let err = refusal("list".into(), StatusCode::BAD_GATEWAY, b"no\nluck");
        assert_eq!(err.to_string(), "Podman could not list: HTTP 502 Bad Gateway no luck");
    }

    #[test]
    fn references_are_escaped() {
        assert_eq!(escape("localhost/x:1"), "localhost%2Fx%3A1");
    }

    #[test]
    fn what_podman_5_4_refuses_is_told_apart() {
        let mut told = include_str!("../captured/podman-5.4/refusals.ndjson").lines().map(|body| {
            let said: serde_json::Value = serde_json::from_str(body).unwrap();
            let status = StatusCode::from_u16(said["response"].as_u64().unwrap().try_into().unwrap()).unwrap();
            refusal("do it".into(), status, body.as_bytes())
        });
        let mut next = || told.next().unwrap();
        for what in ["container", "pod"] {
            let taken = next();
            assert!(taken.is_name_taken() && !taken.is_not_found() && taken.to_string().contains("in use"), "{what}");
        }
        assert!(next().is_wrong_state());
        for what in ["container", "pod", "exec session"] {
            let gone = next();
            assert!(gone.is_not_found() && gone.to_string().ends_with(&format!("no such {what}")));
        }
        assert!(next().is_image_unknown() && next().is_image_unknown());
        assert!(next().to_string().contains("executable file `/no/such` not found"));
        assert!(told.next().is_none());
    }
}
