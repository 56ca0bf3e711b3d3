//! Serving: bounded connections, in all and of one peer, bounded heads, readers that must read, TLS where it is not loopback, and an end that drains.
//!
//! One accept loop for both, on hyper-util, rather than `axum::serve` for one and another crate for the other: only so
//! do plain and TLS connections share their limits (`axum::serve` has neither a limit nor a deadline for heads).

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

use super::steady::Steady;
use crate::keys::ca::ServerCert;

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
/// Of one peer at once; more are closed. Loopback is exempt: behind a proxy everybody comes from there.
const PEER_MAX: usize = 256;
/// For a handshake, and for the head of a request; between two requests, too.
const HEAD_MAX: Duration = Duration::from_secs(15);
/// How long requests under way may take when we are asked to stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// After an accept that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How connections are protected.
#[derive(Clone)]
pub enum Protection {
    /// Not at all: loopback.
    Plain,
    /// TLS with our certificate; every connection takes the newest.
    Tls(watch::Receiver<TlsAcceptor>),
}

/// Our certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the server certificate cannot be used")]
pub struct TlsError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Protection {
    /// TLS with the certificate that `certs` holds; follows it when it is renewed.
    pub fn tls(mut certs: watch::Receiver<ServerCert>) -> Result<Self, TlsError> {
        let newest = |certs: &mut watch::Receiver<ServerCert>| {
            let cert = certs.borrow_and_update();
            acceptor(&cert.cert, &cert.key)
        };
        let (tell, current) = watch::channel(newest(&mut certs)?);
        tokio::spawn(async move {
            while certs.changed().await.is_ok() {
                match newest(&mut certs) {
                    Ok(acceptor) => drop(tell.send_replace(acceptor)),
                    Err(err) => tracing::error!(error = %err, "the renewed certificate is left out"),
                }
            }
        });
        Ok(Self::Tls(current))
    }
}

/// TLS with this certificate and key (PEM).
fn acceptor(cert_pem: &str, key_pem: &str) -> Result<TlsAcceptor, TlsError> {
    let fail = |err: Box<dyn std::error::Error + Send + Sync>| TlsError(err);
    let certs: Vec<_> =
        CertificateDer::pem_slice_iter(cert_pem.as_bytes()).collect::<Result<_, _>>().map_err(|e| fail(e.into()))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| fail(e.into()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|b| b.with_no_client_auth().with_single_cert(certs, key))
        .map_err(|e| fail(e.into()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// How many connections each peer has. What one customer is given counts as one peer: an IPv4 address, an IPv6 /64.
#[derive(Debug, Clone, Default)]
struct Peers(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One connection of one peer, until it is dropped; none where nobody counts.
#[derive(Debug)]
struct Seat(Option<(Peers, IpAddr)>);

fn peer_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

impl Peers {
    fn seat(&self, ip: IpAddr) -> Option<Seat> {
        if ip.to_canonical().is_loopback() {
            return Some(Seat(None));
        }
        let peer = peer_of(ip);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.entry(peer).or_default();
        if *taken >= PEER_MAX {
            return None;
        }
        *taken += 1;
        Some(Seat(Some((self.clone(), peer))))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((peers, peer)) = &self.0 else { return };
        let mut all = peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = all.get_mut(peer) {
            *taken -= 1;
            if *taken == 0 {
                all.remove(peer);
            }
        }
    }
}

/// Serves until `stop` resolves, then drains.
pub async fn serve(listener: TcpListener, router: Router, protection: Protection, stop: impl Future<Output = ()>) {
    // Each connection holds a receiver until it has ended, or carries something else than HTTP.
    let (stopping, connections) = watch::channel(false);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let peers = Peers::default();
    tokio::pin!(stop);
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&room).acquire_owned() => permit.expect("invariant: nobody closes it"),
            () = &mut stop => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(seat) = peers.seat(peer.ip()) else {
                    tracing::debug!(%peer, "closed a connection: this peer has {PEER_MAX} already");
                    continue;
                };
                let stop = connections.clone();
                tokio::spawn(connection(stream, peer, router.clone(), protection.clone(), stop, (permit, seat)));
            }
            Err(err) => {
                tracing::warn!(error = %err, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop((listener, connections));
    stopping.send_replace(true);
    if tokio::time::timeout(DRAIN_MAX, stopping.closed()).await.is_err() {
        tracing::warn!("some requests were still under way when the time to drain was over");
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    protection: Protection,
    stop: watch::Receiver<bool>,
    _held: (OwnedSemaphorePermit, Seat),
) {
    if let Err(err) = stream.set_nodelay(true) {
        tracing::debug!(%peer, error = %err, "no TCP_NODELAY");
    }
    let stream = Steady::new(stream);
    let done = match protection {
        Protection::Plain => http(stream, router, stop).await,
        Protection::Tls(newest) => {
            let acceptor = newest.borrow().clone();
            match tokio::time::timeout(HEAD_MAX, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => http(stream, router, stop).await,
                Ok(Err(err)) => Err(err),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    };
    if let Err(err) = done {
        tracing::debug!(%peer, error = %err, "connection ended");
    }
}

async fn http<S>(stream: S, router: Router, mut stop: watch::Receiver<bool>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router.map_request(|request: Request<Incoming>| request.map(Body::new)));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = asked(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    done.map_err(io::Error::other)
}

/// Waits until the server stops.
async fn asked(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stopping| *stopping).await.is_err() {
        tracing::debug!("the server has gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_cannot_take_every_connection() {
        let peers = Peers::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let seats: Vec<Seat> = (0..PEER_MAX).map(|n| peers.seat(ip(&format!("2001:db8::{n:x}"))).unwrap()).collect();
        assert!(peers.seat(ip("2001:db8::ffff:1")).is_none(), "the same /64");
        assert!(peers.seat(ip("2001:db8:0:1::1")).is_some() && peers.seat(ip("192.0.2.1")).is_some());
        let local: Vec<_> = (0..=PEER_MAX).map(|_| peers.seat(ip("::ffff:127.0.0.1"))).collect();
        assert!(local.iter().all(Option::is_some));
        drop(seats);
        assert!(peers.seat(ip("2001:db8::1")).is_some());
        assert!(peers.0.lock().unwrap().is_empty(), "nobody who has gone is remembered");
    }
}
