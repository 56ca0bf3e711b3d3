//! Connections to the broker that come back by themselves, and what is known of them.
//!
//! Decides: how to authenticate (credentials made for this process), how to encrypt, how often to try again.
//! Deliberately does not: know what is said over them.

use std::{sync::Arc, time::Duration};

use async_nats::{Auth, Client, ConnectOptions, Event};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::sync::watch;

use crate::keys::{Creds, entropy};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that may wait in one subscription; more are dropped, and whoever reads notices. A pull of the store's feed
/// brings 512 and some heartbeats at most.
const WAITING_MAX: usize = 2048;
const PING: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How the connection is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// Not at all: loopback.
    Plain,
    /// TLS; the server's certificate must chain to this CA (PEM).
    FleetCa(String),
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `nats://…` or `tls://…`.
    pub urls: Vec<String>,
    /// How it is protected.
    pub security: Security,
}

/// Whether a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It stands; the number grows with every (re)connection.
    Up(u64),
    /// It does not; the number is that of the last one.
    Down(u64),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to the broker at {urls}: check that it runs and that it has this fleet's operator")]
pub struct ConnectError {
    /// Where.
    pub urls: String,
    /// Why.
    #[source]
    pub err: Box<dyn std::error::Error + Send + Sync>,
}

/// A connection and its state.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Whether it stands.
    pub link: watch::Receiver<Link>,
    /// Where it goes.
    pub urls: Arc<[String]>,
}

fn auth(creds: &Creds, nonce: &[u8]) -> Result<Auth, async_nats::AuthError> {
    let mut auth = Auth::new();
    auth.jwt = Some(creds.jwt.clone());
    auth.signature = Some(creds.key.sign(nonce).map_err(async_nats::AuthError::new)?);
    Ok(auth)
}

/// Grows with the attempts, never by more than [`RETRY_MAX`], and never in step with others.
fn retry_delay(attempts: usize) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(6);
    let most = (RETRY_FIRST * 2u32.pow(doublings)).min(RETRY_MAX);
    let [dice] = entropy::<1>();
    most / 2 + most * u32::from(dice) / 512
}

fn tls_config(ca: &str) -> Result<rustls::ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = rustls::RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(cert?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn options(endpoint: &Endpoint, creds: &Creds, name: &str) -> Result<ConnectOptions, ConnectError> {
    let creds = creds.clone();
    let options = ConnectOptions::with_auth_callback(move |nonce| {
        let auth = auth(&creds, &nonce);
        async move { auth }
    })
    .name(name)
    .subscription_capacity(WAITING_MAX)
    .request_timeout(Some(REQUEST_TIMEOUT))
    .connection_timeout(CONNECT_TIMEOUT)
    .ping_interval(PING);
    match &endpoint.security {
        Security::Plain => Ok(options),
        Security::FleetCa(ca) => {
            let config = tls_config(ca).map_err(|err| ConnectError { urls: endpoint.urls.join(","), err })?;
            Ok(options.tls_client_config(config).require_tls(true))
        }
    }
}

fn failed(endpoint: &Endpoint) -> impl FnOnce(async_nats::ConnectError) -> ConnectError {
    let urls = endpoint.urls.join(",");
    move |err| ConnectError { urls, err: Box::new(err) }
}

/// Connects once and says whether that works.
pub(crate) async fn probe(endpoint: &Endpoint, creds: &Creds) -> Result<(), String> {
    let options = options(endpoint, creds, "bramble-coordinator probe").map_err(|err| err.to_string())?;
    let client = options.max_reconnects(1).connect(&endpoint.urls[..]).await.map_err(|err| err.to_string())?;
    let info = client.server_info();
    let _ = client.drain().await;
    if info.jetstream { Ok(()) } else { Err("JetStream is not on".to_owned()) }
}

/// Connects; afterwards the connection comes back by itself, for ever.
pub async fn connect(endpoint: &Endpoint, creds: &Creds, name: &str) -> Result<Connection, ConnectError> {
    let (tell, link) = watch::channel(Link::Down(0));
    let who = name.to_owned();
    let client = options(endpoint, creds, name)?
        .max_reconnects(None)
        .reconnect_delay_callback(retry_delay)
        .event_callback(move |event| {
            note(&tell, &who, &event);
            async {}
        })
        .connect(&endpoint.urls[..])
        .await
        .map_err(failed(endpoint))?;
    Ok(Connection { client, link, urls: endpoint.urls.clone().into() })
}

fn note(tell: &watch::Sender<Link>, who: &str, event: &Event) {
    let down = |link: &mut Link| {
        let (Link::Up(n) | Link::Down(n)) = *link;
        *link = Link::Down(n);
    };
    match event {
        Event::Connected => {
            tell.send_modify(|link| {
                let (Link::Up(n) | Link::Down(n)) = *link;
                *link = Link::Up(n + 1);
            });
            tracing::info!(connection = who, "connected to the broker");
        }
        Event::Disconnected | Event::Closed => {
            tell.send_modify(down);
            tracing::warn!(connection = who, "the broker is not reachable");
        }
        Event::SlowConsumer(sid) => {
            tracing::warn!(connection = who, sid, "a subscription is too slow: messages were dropped");
        }
        Event::LameDuckMode | Event::Draining => tracing::info!(connection = who, %event, "broker event"),
        Event::ServerError(_) | Event::ClientError(_) => tracing::warn!(connection = who, %event, "broker event"),
    }
}

impl Connection {
    /// Waits until the connection stands, and returns its number.
    pub async fn up(&self) -> u64 {
        let mut link = self.link.clone();
        loop {
            if let Link::Up(n) = *link.borrow_and_update() {
                return n;
            }
            if link.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until connection number `n` is no more.
    pub async fn left(&self, n: u64) {
        let mut link = self.link.clone();
        while *link.borrow_and_update() == Link::Up(n) {
            if link.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_bounded_and_spread() {
        for attempt in 0..200 {
            let delay = retry_delay(attempt);
            assert!(delay >= RETRY_FIRST / 2 && delay <= RETRY_MAX, "{attempt}: {delay:?}");
        }
        assert!((0..50).map(|_| retry_delay(9)).collect::<std::collections::BTreeSet<_>>().len() > 5);
    }
}
