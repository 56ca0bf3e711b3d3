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
    store::Replicas,
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
    /// Use this NATS server or cluster instead of an embedded one: tls://host:port, or nats:// on this machine.
    #[arg(long, env = "BRAMBLE_NATS_URL", value_name = "URL", value_delimiter = ',', value_parser = nats_url)]
    pub nats_url: Vec<String>,
    /// CA file (PEM) of the NATS server at --nats-url, where it is not ours; devices are told of it.
    #[arg(long, env = "BRAMBLE_NATS_CA", value_name = "FILE", requires = "nats_url")]
    pub nats_ca: Option<PathBuf>,
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
    /// Copies of every stream in a NATS cluster: 1, 3 or 5.
    #[arg(long, env = "BRAMBLE_NATS_REPLICAS", default_value = "1", value_parser = replicas)]
    pub nats_replicas: Replicas,
    /// How long a device's JWT lasts.
    #[arg(long, env = "BRAMBLE_DEVICE_JWT_TTL", default_value = "30d")]
    pub device_jwt_ttl: Millis,
    /// A device that is silent for this long is offline.
    #[arg(long, env = "BRAMBLE_HEARTBEAT_TIMEOUT", default_value = "15s")]
    pub heartbeat_timeout: Millis,
}

/// Coordinator and devices connect there with the same URL.
fn nats_url(text: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once("://").ok_or("write tls://host:port")?;
    if rest.contains('@') {
        return Err("no user or password in it: the coordinator has credentials of its own".to_owned());
    }
    match scheme {
        "tls" => {}
        "nats" if is_loopback(rest) => {}
        "nats" => return Err("nats:// to another machine is not encrypted: use tls://".to_owned()),
        other => return Err(format!("{other}:// is not supported here: use tls://")),
    }
    if host(rest).is_empty() { Err("it has no host".to_owned()) } else { Ok(text.to_owned()) }
}

/// The host of `host:port/…`.
fn host(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback(rest: &str) -> bool {
    let host = host(rest);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn replicas(text: &str) -> Result<Replicas, String> {
    match text {
        "1" => Ok(Replicas::One),
        "3" => Ok(Replicas::Three),
        "5" => Ok(Replicas::Five),
        _ => Err("1, 3 or 5".to_owned()),
    }
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
        // Without a CA nothing is believed; it is never less than TLS.
        let is_plain = ca.is_none() && self.nats_url.iter().all(|url| url.starts_with("nats://"));
        let security = if is_plain { Security::Plain } else { Security::FleetCa(ca.unwrap_or_default()) };
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

    fn refused(args: &[&str]) -> String {
        let all = [&["bramble-coordinator", "serve", "--state", "/x"], args].concat();
        Cli::try_parse_from(all).unwrap_err().to_string()
    }

    #[test]
    fn a_nats_server_elsewhere_is_reached_by_tls_only() {
        for good in ["nats://127.0.0.1:4222", "nats://localhost", "nats://[::1]:4222"] {
            let endpoint = place(&["--nats-url", good]).external(None).unwrap();
            assert_eq!((endpoint.urls[0].as_str(), endpoint.security), (good, Security::Plain));
        }
        let far = place(&["--nats-url", "tls://a.example:4222,tls://b.example"]);
        assert_eq!(far.external(Some("CA".into())).unwrap().security, Security::FleetCa("CA".into()));
        assert_eq!(far.external(None).unwrap().security, Security::FleetCa(String::new()), "never plain");
        for bad in ["nats://a.example:4222", "nats://10.0.0.1", "nats://[2001:db8::1]:4222", "nats://127.0.0.1.evil"] {
            assert!(refused(&["--nats-url", bad]).contains("not encrypted"), "{bad}");
        }
        for bad in ["wss://a.example", "ws://127.0.0.1", "a.example:4222", "tls://", "nats://u:p@localhost"] {
            refused(&["--nats-url", bad]);
        }
        assert!(refused(&["--nats-ca", "/ca.pem"]).contains("--nats-url"), "our own broker has our own CA");
        assert_eq!(place(&[]).external(None), None);
    }

    #[test]
    fn copies_are_one_three_or_five() {
        let serve = |n: &str| match Cli::try_parse_from(["x", "serve", "--state", "/x", "--nats-replicas", n]) {
            Ok(Cli { command: Command::Serve(serve), .. }) => Some(serve.nats_replicas),
            Ok(_) | Err(_) => None,
        };
        assert_eq!(["1", "3", "5"].map(serve), [Replicas::One, Replicas::Three, Replicas::Five].map(Some));
        assert_eq!(["0", "2", "4", "6", "x"].map(serve), [None; 5]);
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
