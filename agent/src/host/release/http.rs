//! One file over HTTP, from some byte on, as a stream. Without TLS on purpose: what comes is checked by its digest, and a
//! site without the internet has no certificates.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::header::{HOST, RANGE, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::source::SourceError;
use crate::version;

/// Until a connection stands, an answer begins, or more of it comes.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// An address below which files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Without a `/` at its end.
    base: String,
    authority: String,
    host: String,
    port: u16,
    path: String,
}

/// A file that is being read.
#[derive(Debug)]
pub(super) struct HttpBody {
    name: String,
    body: Incoming,
    /// Came, and was not asked for yet.
    rest: Bytes,
    /// Bytes that come before what was asked for.
    skip: u64,
    /// Ends with this.
    _connection: JoinSet<()>,
}

impl Http {
    /// Reads `http://host[:port][/path]`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let base = text.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().ok()?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let plain = uri.scheme_str() == Some("http") && uri.query().is_none();
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (port, path) = (authority.port_u16().unwrap_or(80), uri.path().trim_end_matches('/').to_owned());
        let authority = authority.to_string();
        (plain && !host.is_empty()).then_some(Self { base, authority, host, port, path })
    }

    pub(super) async fn open(&self, file: &str, from: u64) -> Result<HttpBody, SourceError> {
        let name = format!("{}/{file}", self.base);
        let fail = |why: String| SourceError::Read { from: name.clone(), why };
        let answer = tokio::time::timeout(SILENCE_MAX, self.ask(file, from)).await;
        let (response, connection) = answer.map_err(|_| fail("no answer".into()))?.map_err(fail)?;
        let skip = match response.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            // A server that cannot begin in the middle.
            StatusCode::OK => from,
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(SourceError::Absent(name)),
            other => return Err(fail(format!("it answers with status {other}"))),
        };
        let body = response.into_body();
        Ok(HttpBody { name, body, rest: Bytes::new(), skip, _connection: connection })
    }

    async fn ask(&self, file: &str, from: u64) -> Result<(hyper::Response<Incoming>, JoinSet<()>), String> {
        let words = |err: &dyn std::fmt::Display| err.to_string();
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|err| words(&err))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|err| words(&err))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            if let Err(err) = connection.await {
                tracing::debug!(%err, "a connection for a binary ended");
            }
        });
        let mut request = Request::builder()
            .uri(format!("{}/{file}", self.path))
            .header(HOST, &self.authority)
            .header(USER_AGENT, format!("bramble-agent/{}", version::text()));
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|err| words(&err))?;
        Ok((sender.send_request(request).await.map_err(|err| words(&err))?, driver))
    }
}

impl HttpBody {
    /// The next piece, at most so long; none at its end.
    pub(super) async fn next(&mut self, max: usize) -> Result<Vec<u8>, SourceError> {
        let fail = |why: String| SourceError::Read { from: self.name.clone(), why };
        loop {
            let skip = self.skip.min(self.rest.len() as u64);
            self.rest.advance(usize::try_from(skip).unwrap_or(self.rest.len()));
            self.skip -= skip;
            if !self.rest.is_empty() {
                return Ok(self.rest.split_to(self.rest.len().min(max)).to_vec());
            }
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame()).await;
            match frame.map_err(|_| fail("nothing more comes".into()))? {
                None => return Ok(Vec::new()),
                Some(Err(err)) => return Err(fail(err.to_string())),
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_plain_http_with_a_path() {
        let http = Http::parse("http://files.example:8080/bramble/").unwrap();
        assert_eq!((http.host.as_str(), http.port, http.path.as_str()), ("files.example", 8080, "/bramble"));
        for bad in ["https://files.example", "ftp://a", "files.example", "http://a:b@c", "http://a/?x=1", "http://"] {
            assert!(Http::parse(bad).is_none(), "{bad}");
        }
    }
}
