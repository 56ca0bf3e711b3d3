//! A session's WebSocket, over the same connection, certificates and proxies as everything else.
//!
//! Decides: that the other end is a coordinator, and how long it may be silent. Deliberately does not: know what is typed.

use std::{pin::Pin, time::Duration};

use bramble_contracts::{
    api::{CHANNEL_ERR, CHANNEL_IN, CHANNEL_OUT, SessionSays, SessionTells},
    problem::Problem,
};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, stream::SplitStream};
use reqwest::{
    Method, StatusCode, Upgraded,
    header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
};
use tokio::{sync::mpsc, task::JoinHandle, time::Sleep};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::{client::generate_key, derive_accept_key},
        protocol::Role,
    },
};

use super::{Client, ClientError, IDLE_MAX, chain};
use crate::terminal::Printed;

/// The coordinator asks every ten seconds whether we are there.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// Messages wait here while the network is slow: what is typed, sizes, what was taken. The rules bound them below this.
const WAITING_MAX: usize = 64;

/// One session's messages.
pub(crate) struct Socket {
    api: String,
    from: SplitStream<WebSocketStream<Upgraded>>,
    to: mpsc::Sender<Message>,
    writing: JoinHandle<()>,
    /// Until it has been silent for too long.
    silence: Pin<Box<Sleep>>,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Came {
    /// The coordinator tells something.
    Told(SessionTells),
    /// The program prints something.
    Printed(Printed),
}

impl Client {
    /// Opens it; the answer of a coordinator that refuses is the error.
    pub(crate) async fn socket(&self, path: &[&str]) -> Result<Socket, ClientError> {
        let token = self.token.as_ref().ok_or(ClientError::NoToken)?;
        let key = generate_key();
        let request = self
            .http
            .request(Method::GET, self.url(path, &vec![]))
            .bearer_auth(token.reveal())
            .header("x-tenant-id", self.tenant.as_str())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let answer = self.head(request, IDLE_MAX).await?;
        let status = answer.status();
        if status.is_client_error() || status.is_server_error() {
            return Err(self.refusal(answer).await);
        }
        let accepted = answer.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        if status != StatusCode::SWITCHING_PROTOCOLS || accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(ClientError::Strange { api: self.api().to_owned(), status: status.as_u16() });
        }
        let broken = |err: reqwest::Error| ClientError::Broken { api: self.api().to_owned(), why: chain(&err) };
        let upgraded = answer.upgrade().await.map_err(broken)?;
        let (mut sink, from) = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await.split();
        let (to, mut waiting) = mpsc::channel(WAITING_MAX);
        // Reading never waits for writing: both ends could wait for each other.
        let writing = tokio::spawn(async move {
            while let Some(message) = waiting.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            drop(sink.close().await);
        });
        Ok(Socket { api: self.api().to_owned(), from, to, writing, silence: silence() })
    }
}

impl Socket {
    /// Says something. That nobody hears it is told by what comes.
    pub(crate) async fn say(&self, message: &SessionSays) {
        let text = serde_json::to_string(message).expect("invariant: our messages always fit JSON");
        drop(self.to.send(Message::text(text)).await);
    }

    /// Sends what was typed.
    pub(crate) async fn type_in(&self, bytes: &[u8]) {
        drop(self.to.send(Message::binary([&[CHANNEL_IN], bytes].concat())).await);
    }

    /// What comes next. Can be given up and asked again.
    pub(crate) async fn next(&mut self) -> Result<Came, ClientError> {
        let api = || self.api.clone();
        let unreadable = |why: String| ClientError::Unreadable { api: api(), why };
        loop {
            let message = tokio::select! {
                message = self.from.next() => message,
                () = &mut self.silence => return Err(ClientError::Silent { api: api(), after: SILENCE_MAX }),
            };
            let message = match message {
                None => return Err(ClientError::Broken { api: api(), why: "the connection has ended".into() }),
                Some(Err(err)) => return Err(ClientError::Broken { api: api(), why: chain(&err) }),
                Some(Ok(message)) => message,
            };
            self.silence = silence();
            match message {
                Message::Text(text) => {
                    let told = serde_json::from_str(&text);
                    return told.map(Came::Told).map_err(|err| unreadable(err.to_string()));
                }
                Message::Binary(bytes) => {
                    return printed(&bytes).ok_or_else(|| unreadable("an unknown channel".into()));
                }
                Message::Close(_) => {
                    return Err(ClientError::Broken { api: api(), why: "the session was closed".into() });
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Ends it, within `within` if the other end listens.
    pub(crate) async fn close(self, within: Duration) {
        drop(self.to);
        drop(tokio::time::timeout(within, self.writing).await);
    }
}

fn silence() -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(SILENCE_MAX))
}

fn printed(message: &Bytes) -> Option<Came> {
    let bytes = message.slice(1.min(message.len())..);
    match *message.first()? {
        CHANNEL_OUT => Some(Came::Printed(Printed::Out(bytes))),
        CHANNEL_ERR => Some(Came::Printed(Printed::Err(bytes))),
        _ => None,
    }
}

/// A refusal that came after the session was opened.
pub(crate) fn refused(problem: Problem) -> ClientError {
    ClientError::Refused(Box::new(problem))
}
