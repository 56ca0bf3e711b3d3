//! One HTTP request to the coordinator: JSON both ways, bounded in time and size.
//!
//! Decides how bytes travel and that plain http goes to loopback only. Does not decide what is asked or asked again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls::TlsError;
use crate::version;

const TIMEOUT: Duration = Duration::from_secs(20);
/// As many trust documents as one answer carries, in base64, and room.
const ANSWER_MAX: usize = 1024 * 1024;

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be used.
    #[error("{url:?} cannot be used as the coordinator's address: {why}")]
    Address {
        /// As configured.
        url: String,
        /// In words.
        why: String,
    },
    /// Nobody answers.
    #[error("cannot reach the coordinator at {url} ({why}); check the address and the network, it is tried again")]
    Unreachable {
        /// Where.
        url: String,
        /// In words.
        why: String,
    },
    /// It is not the server it should be.
    #[error("TLS with {url} failed ({why}); if the coordinator's CA changed, enrol again with a new token")]
    Tls {
        /// Where.
        url: String,
        /// In words.
        why: String,
    },
    /// TLS cannot be set up here.
    #[error(transparent)]
    NoTls(#[from] TlsError),
    /// It says no.
    #[error("the coordinator refused {what} with status {status}: {detail}")]
    Refused {
        /// Method and path.
        what: String,
        /// HTTP status.
        status: u16,
        /// Its word.
        detail: String,
    },
    /// Its answer makes no sense.
    #[error("the coordinator's answer to {what} cannot be read: {why}")]
    Unreadable {
        /// Method and path.
        what: String,
        /// In words.
        why: String,
    },
}

/// The coordinator's base address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    text: String,
    host: String,
    port: u16,
    secure: bool,
}

impl Base {
    /// Reads `https://host[:port]`, or `http://` for a loopback address.
    pub fn parse(url: &str) -> Result<Self, HttpError> {
        let bad = |why: &str| HttpError::Address { url: url.chars().take(200).collect(), why: why.to_owned() };
        let uri: Uri = url.trim_end_matches('/').parse().map_err(|err| bad(&format!("{err}")))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(bad("it begins with neither https:// nor http://")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("give scheme, host and port only, without a path"));
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("it must not carry a user name or password"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if !secure && !is_loopback(&host) {
            return Err(bad("plain http is for loopback addresses only; use https"));
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { text: url.trim_end_matches('/').to_owned(), host, port, secure })
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Over TLS?
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// A TCP connection, to see whether somebody is there.
    pub(crate) async fn dial(&self) -> Result<TcpStream, HttpError> {
        let unreachable = |why: String| HttpError::Unreachable { url: self.text.clone(), why };
        let stream =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|err| unreachable(err.to_string()))?;
        stream.set_nodelay(true).map_err(|err| unreachable(err.to_string()))?;
        Ok(stream)
    }
}

/// Is `host` this very machine, whatever a name server says?
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A client for one address with one way of checking the server.
#[derive(Clone)]
pub(crate) struct Client {
    base: Base,
    tls: Option<Arc<ClientConfig>>,
}

impl Client {
    /// `tls` is needed exactly where `base` is https.
    pub(crate) fn new(base: Base, tls: impl FnOnce() -> Result<ClientConfig, TlsError>) -> Result<Self, HttpError> {
        let tls = if base.secure { Some(Arc::new(tls()?)) } else { None };
        Ok(Self { base, tls })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, HttpError> {
        let body = serde_json::to_vec(body).expect("invariant: our requests are plain JSON");
        self.call(Method::POST, path, body.into()).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, HttpError> {
        let what = format!("{method} {path}");
        let unreachable = |why: String| HttpError::Unreachable { url: self.base.text.clone(), why };
        let all = async {
            let tcp = self.base.dial().await?;
            match &self.tls {
                None => self.exchange(tcp, method, path, body).await,
                Some(config) => {
                    let failed = |why: String| HttpError::Tls { url: self.base.text.clone(), why };
                    let name = ServerName::try_from(self.base.host.clone()).map_err(|err| failed(err.to_string()))?;
                    let tls = TlsConnector::from(config.clone()).connect(name, tcp).await;
                    self.exchange(tls.map_err(|err| failed(err.to_string()))?, method, path, body).await
                }
            }
        };
        let (status, bytes) = tokio::time::timeout(TIMEOUT, all)
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", TIMEOUT.as_secs())))??;
        if !status.is_success() {
            return Err(HttpError::Refused { what, status: status.as_u16(), detail: detail(&bytes) });
        }
        serde_json::from_slice(&bytes).map_err(|err| HttpError::Unreadable { what, why: err.to_string() })
    }

    async fn exchange<S>(
        &self,
        stream: S,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), HttpError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let unreachable = |why: String| HttpError::Unreachable { url: self.base.text.clone(), why };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|err| unreachable(err.to_string()))?;
        let driver = tokio::spawn(async move {
            if let Err(err) = connection.await {
                tracing::debug!(%err, "connection to the coordinator ended");
            }
        });
        let host = if self.base.host.contains(':') { format!("[{}]", self.base.host) } else { self.base.host.clone() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{host}:{}", self.base.port))
            .header(USER_AGENT, format!("bramble-agent/{}", version::text()))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|err| unreachable(err.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|err| unreachable(err.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
            Ok((status, body.map_err(|err| unreachable(err.to_string()))?.to_bytes()))
        };
        let answer = answer.await;
        driver.abort();
        answer
    }
}

/// The sentence in an error answer, shortened.
fn detail(bytes: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Problem {
        #[serde(default)]
        title: String,
        #[serde(default)]
        detail: String,
    }
    let text = match serde_json::from_slice::<Problem>(bytes) {
        Ok(problem) if problem.detail.is_empty() => problem.title,
        Ok(problem) => problem.detail,
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    };
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for good in ["http://127.0.0.1:7980", "http://[::1]:7980", "http://localhost", "https://fleet.example/"] {
            assert!(Base::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://192.168.1.4:7980",
            "http://fleet.example",
            "http://localhost.evil.example",
            "ftp://localhost",
            "fleet.example:443",
            "https://",
            "https://a:b@fleet.example",
            "https://fleet.example/api",
            "",
        ] {
            assert!(matches!(Base::parse(bad), Err(HttpError::Address { .. })), "{bad}");
        }
    }

    #[test]
    fn an_error_answer_becomes_one_line() {
        assert_eq!(detail(br#"{"title":"Forbidden","detail":"token spent"}"#), "token spent");
        assert_eq!(detail(br#"{"title":"Forbidden"}"#), "Forbidden");
        assert_eq!(detail(b"<html>\nno"), "<html>no");
    }
}
