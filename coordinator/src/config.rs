//! The command line, which is also the environment (`BRAMBLE_…`).
//!
//! Decides: defaults, and which addresses devices are told. Deliberately does not: start anything.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use bramble_contracts::quantity::Millis;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    keys::Addresses,
    mesh::{Endpoint, Security},
};

/// Says what should run where, and shows what does.
#[derive(Debug, Parser)]
#[command(name = "bramble-coordinator", version)]
pub struct Cli {
    /// How log lines look; they go to standard error.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "BRAMBLE_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the coordinator, with its own broker unless --nats-url is given.
    Serve(Box<Serve>),
    /// Print what an existing NATS server needs in its configuration to serve this fleet.
    NatsConfig(Place),
    /// Print the version.
    Version,
}

/// Where the state lies and how devices reach us.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Folder for keys, tokens and the broker's data; made if it is not there, for its owner only.
    #[arg(long, env = "BRAMBLE_STATE", value_name = "DIR")]
    pub state: PathBuf,
    /// Where the API listens. Not on loopback: TLS.
    #[arg(long, env = "BRAMBLE_LISTEN", default_value = "127.0.0.1:7980")]
    pub listen: SocketAddr,
    /// Where the embedded broker listens. Not on loopback: TLS.
    #[arg(long, env = "BRAMBLE_BROKER_LISTEN", default_value = "127.0.0.1:7981")]
    pub broker_listen: SocketAddr,
    /// Use this NATS server or cluster instead of an embedded one.
    #[arg(long, env = "BRAMBLE_NATS_URL", value_name = "URL", value_delimiter = ',')]
    pub nats_url: Vec<String>,
    /// Host names and addresses by which devices and operators reach this machine.
    #[arg(long, env = "BRAMBLE_ADVERTISE", value_name = "HOST", value_delimiter = ',')]
    pub advertise: Vec<String>,
}

/// `serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// The nats-server program for the embedded broker.
    #[arg(long, env = "BRAMBLE_NATS_SERVER", value_name = "PATH", default_value = "nats-server")]
    pub nats_server: PathBuf,
    /// CA file (PEM) of the NATS server at --nats-url, where it is not ours.
    #[arg(long, env = "BRAMBLE_NATS_CA", value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Copies of every stream in a NATS cluster: 1, 3 or 5.
    #[arg(long, env = "BRAMBLE_NATS_REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub nats_replicas: u8,
    /// How long a device's JWT lasts.
    #[arg(long, env = "BRAMBLE_DEVICE_JWT_TTL", default_value = "30d")]
    pub device_jwt_ttl: Millis,
    /// A device that is silent for this long is offline.
    #[arg(long, env = "BRAMBLE_HEARTBEAT_TIMEOUT", default_value = "15s")]
    pub heartbeat_timeout: Millis,
}

fn authority(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

impl Place {
    /// The hosts that devices are told. `hostname` stands in where nothing better is known.
    pub fn hosts(&self, listen: SocketAddr, hostname: &str) -> Vec<String> {
        if !self.advertise.is_empty() {
            return self.advertise.clone();
        }
        if listen.ip().is_unspecified() { vec![hostname.to_owned()] } else { vec![listen.ip().to_string()] }
    }

    /// The addresses that devices are told.
    pub fn addresses(&self, hostname: &str) -> Addresses {
        let urls = |listen: SocketAddr, plain: &str, tls: &str| {
            let scheme = if listen.ip().is_loopback() { plain } else { tls };
            let hosts = self.hosts(listen, hostname);
            hosts.iter().map(|host| format!("{scheme}://{}", authority(host, listen.port()))).collect::<Vec<_>>()
        };
        let brokers =
            if self.nats_url.is_empty() { urls(self.broker_listen, "nats", "tls") } else { self.nats_url.clone() };
        Addresses { coordinators: urls(self.listen, "http", "https"), brokers }
    }

    /// Where an existing NATS server is; none for the embedded one.
    pub fn external(&self, ca: Option<String>) -> Option<Endpoint> {
        let is_tls =
            ca.is_some() || self.nats_url.iter().any(|url| url.starts_with("tls://") || url.starts_with("wss://"));
        let security = match ca {
            Some(ca) if is_tls => Security::FleetCa(ca),
            Some(_) | None => Security::Plain,
        };
        (!self.nats_url.is_empty()).then(|| Endpoint { urls: self.nats_url.clone(), security })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(args: &[&str]) -> Place {
        let all = [&["bramble-coordinator", "nats-config", "--state", "/x"], args].concat();
        match Cli::try_parse_from(all).unwrap().command {
            Command::NatsConfig(place) => place,
            Command::Serve(_) | Command::Version => unreachable!("it was asked for"),
        }
    }

    #[test]
    fn devices_are_told_tls_addresses_where_it_is_not_loopback() {
        let local = place(&[]).addresses("box");
        assert_eq!(
            (local.coordinators[0].as_str(), local.brokers[0].as_str()),
            ("http://127.0.0.1:7980", "nats://127.0.0.1:7981")
        );
        let open = place(&["--listen", "0.0.0.0:1", "--broker-listen", "[::]:2"]).addresses("box");
        assert_eq!((open.coordinators[0].as_str(), open.brokers[0].as_str()), ("https://box:1", "tls://box:2"));
        let named = place(&["--listen", "0.0.0.0:1", "--advertise", "a.example,fe80::1"]).addresses("box");
        assert_eq!(named.coordinators, ["https://a.example:1", "https://[fe80::1]:1"]);
    }
}
