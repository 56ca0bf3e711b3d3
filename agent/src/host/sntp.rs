//! Asks NTP servers for the time: all at once, each for a short time. What they say is read by `core::sntp`.
//!
//! Decides how long anybody is waited for. Decides nothing about the time, and sets no clock.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::clock;
use crate::core::clock::Sample;
use crate::core::sntp;

/// NTP's own port, where a server names none.
const PORT: u16 = 123;
const ANSWER: Duration = Duration::from_secs(2);
const NAMES: Duration = Duration::from_secs(4);
/// More servers make no time better.
pub const SERVERS_MAX: usize = 8;
/// Addresses of one name: a pool's name stands for several servers.
const PER_NAME_MAX: usize = 4;
/// Datagrams that are no answer to us, before a server is given up.
const JUNK_MAX: u32 = 16;

/// The servers of one configuration.
#[derive(Debug, Clone)]
pub struct Servers {
    names: Vec<String>,
    /// Looking a name up cannot be interrupted and may hang for long where there is no network: one thread at most does.
    looking_up: Arc<Semaphore>,
}

impl Servers {
    /// `names`: `host` or `host:port`.
    pub fn new(names: Vec<String>) -> Self {
        Self { names, looking_up: Arc::new(Semaphore::new(1)) }
    }

    /// Asks all of them. How many were asked, and what those said that answered; both may be none.
    pub async fn ask(&self, pivot_ms: u64) -> (usize, Vec<Sample>) {
        let addresses = self.addresses().await;
        let answers = join_all(addresses.iter().map(|address| ask(*address, pivot_ms))).await;
        (addresses.len(), answers.into_iter().flatten().collect())
    }

    async fn addresses(&self) -> Vec<SocketAddr> {
        let mut found: Vec<SocketAddr> = self.names.iter().filter_map(|name| literal(name)).collect();
        let names: Vec<String> = self.names.iter().filter(|name| literal(name).is_none()).cloned().collect();
        if !names.is_empty() {
            found.extend(self.look_up(names).await);
        }
        found.truncate(SERVERS_MAX);
        found
    }

    async fn look_up(&self, names: Vec<String>) -> Vec<SocketAddr> {
        let Ok(turn) = self.looking_up.clone().try_acquire_owned() else {
            tracing::debug!("names of NTP servers are still being looked up since the last time");
            return vec![];
        };
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let found = names.iter().map(|name| with_port(name).to_socket_addrs());
            found.flatten().flat_map(|all| all.take(PER_NAME_MAX)).take(SERVERS_MAX).collect()
        });
        match tokio::time::timeout(NAMES, work).await {
            Ok(Ok(found)) => found,
            Ok(Err(err)) => {
                tracing::warn!(%err, "names of NTP servers could not be looked up");
                vec![]
            }
            Err(_) => vec![],
        }
    }
}

/// The address that a text is, without asking anybody.
fn literal(server: &str) -> Option<SocketAddr> {
    let alone = || server.parse().ok().map(|ip| SocketAddr::new(ip, PORT));
    server.parse().ok().or_else(alone)
}

fn with_port(name: &str) -> String {
    if name.contains(':') { name.to_owned() } else { format!("{name}:{PORT}") }
}

/// Can this be a server's name or address? In words why not.
pub fn check(server: &str) -> Result<(), String> {
    if literal(server).is_some() {
        return Ok(());
    }
    let (host, port) = server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port)));
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if !is_name || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!("{server:?} is no host, address or host:port"));
    }
    Ok(())
}

/// One question to one server; nothing when it does not answer as it should.
async fn ask(server: SocketAddr, pivot_ms: u64) -> Option<Sample> {
    match tokio::time::timeout(ANSWER, exchange(server, pivot_ms)).await {
        Ok(Ok(sample)) => Some(sample),
        Ok(Err(why)) => {
            tracing::debug!(%server, %why, "an NTP server does not tell the time");
            None
        }
        Err(_) => None,
    }
}

async fn exchange(server: SocketAddr, pivot_ms: u64) -> Result<Sample, String> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let text = |err: std::io::Error| err.to_string();
    let socket = UdpSocket::bind(any).await.map_err(text)?;
    socket.connect(server).await.map_err(text)?;
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(|err| err.to_string())?;
    let sent = clock::up_ms();
    socket.send(&sntp::question(nonce)).await.map_err(text)?;
    let mut bytes = [0; 512];
    let mut why = sntp::NotTime::NotAnAnswer;
    for _ in 0..JUNK_MAX {
        let length = socket.recv(&mut bytes).await.map_err(text)?;
        match sntp::answer(&bytes[..length], nonce, sent, clock::up_ms(), pivot_ms) {
            Ok(sample) => return Ok(sample),
            // Whoever sends datagrams with a false sender does not keep the true answer away.
            Err(err) => why = err,
        }
    }
    Err(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_and_addresses() {
        for good in ["0.debian.pool.ntp.org", "ntp.local:1123", "10.0.0.1", "127.0.0.1:11123", "::1", "[::1]:123"] {
            check(good).unwrap();
        }
        for bad in ["", "a b", "host:port", "http://x", ":123"] {
            assert!(check(bad).unwrap_err().contains("host"), "{bad}");
        }
        assert_eq!(literal("127.0.0.1"), Some(([127, 0, 0, 1], 123).into()));
    }

    #[tokio::test]
    async fn nobody_answers_and_nothing_waits_for_long() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let servers = Servers::new(vec![silent.local_addr().unwrap().to_string(), "127.0.0.1:1".into()]);
        let began = clock::uptime();
        assert_eq!(servers.ask(0).await, (2, vec![]));
        assert!(clock::uptime() - began < ANSWER * 3);
        assert_eq!(Servers::new(vec![]).ask(0).await, (0, vec![]));
    }
}
