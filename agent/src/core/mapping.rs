//! The host ports of an app that hands over start first, as the agent's own nftables table leads them to a container.
//!
//! Decides what the table of an app should say, out of the app and what of it runs. How the table is written and read
//! is `host/nft`, when it changes is decided in `plan/handover`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bramble_contracts::v1::{Handover, Port, Protocol};

use super::app::{App, Role};
use super::have::{Have, Seen, SeenState};

/// Who leads the host ports of a container to it. Decided when it is made, and never changed while it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publisher {
    /// Podman, by rules that come and go with the container.
    Podman,
    /// The agent, by its own table.
    Agent,
}

impl Publisher {
    /// Of containers that are made for this app now.
    pub fn of(app: &App) -> Self {
        match app.lifecycle().handover {
            Handover::StartFirst if !app.host_network() => Self::Agent,
            Handover::StartFirst | Handover::StopFirst => Self::Podman,
        }
    }

    /// As it stands in a label.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Agent => "agent",
        }
    }

    /// Reads a label. Containers of older agents have none, and are published by Podman.
    pub fn parse(word: Option<&str>) -> Self {
        if word == Some(Self::Agent.word()) { Self::Agent } else { Self::Podman }
    }
}

/// An address of a container, with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
}

/// One host port, in one of the two families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port of the host.
    pub port: u16,
    /// On which address of the host; `None` for every one of the family.
    pub host: Option<IpAddr>,
    /// Where it leads.
    pub to: SocketAddr,
}

/// What the table of one app says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// Hash of the spec whose container is behind it.
    pub spec: String,
    /// Where it leads. None at all: the table is there, and not as it should be.
    pub routes: BTreeSet<Route>,
}

impl Mapping {
    /// Whether it leads to one of these addresses.
    pub fn leads_to(&self, addresses: &[Address]) -> bool {
        self.routes.iter().any(|route| addresses.iter().any(|address| address.ip == route.to.ip()))
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |route: &Route| match route.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let ports: BTreeSet<String> = self.routes.iter().map(|r| format!("{}/{}", r.port, word(r))).collect();
        let to: BTreeSet<IpAddr> = self.routes.iter().map(|r| r.to.ip()).collect();
        let to: Vec<String> = to.iter().map(IpAddr::to_string).collect();
        write!(f, "{} to {}", ports.into_iter().collect::<Vec<_>>().join(" "), to.join(" "))
    }
}

/// What the table of an app should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing of it runs: there is nowhere to lead to.
    Nowhere,
    /// It runs and needs no table: it has no ports, or Podman leads them.
    Nothing,
    /// This.
    Routes(Mapping, Vec<Address>),
    /// It is there, and its address is not known now.
    NotYet,
    /// It cannot be done.
    Impossible(String),
}

/// The table for this app, by what runs of it.
pub fn wanted(app: &App, have: &Have) -> Wanted {
    let ports = || app.mains().iter().flat_map(|c| &c.ports);
    let Some(holder) = holder(app, have) else { return Wanted::Nowhere };
    match holder.state {
        SeenState::Running => {}
        // Frozen, or in between: its address is not asked for, and what leads to it stays.
        SeenState::Paused | SeenState::Unsettled => return Wanted::NotYet,
        SeenState::Created | SeenState::Exited | SeenState::Removing => return Wanted::Nowhere,
    }
    if ports().next().is_none() || holder.publisher == Publisher::Podman {
        return Wanted::Nothing;
    }
    if holder.addresses.is_empty() {
        return Wanted::NotYet;
    }
    let mut routes = BTreeSet::new();
    for port in ports() {
        let found: Vec<Route> = holder.addresses.iter().filter_map(|address| route(port, *address)).collect();
        if found.is_empty() {
            return Wanted::Impossible(format!(
                "port {} asks for the host's address {}, and the app's network has no {} address; give the network one or change hostIP",
                port.host,
                port.host_ip,
                if port.host_ip.is_ipv6() { "IPv6" } else { "IPv4" },
            ));
        }
        routes.extend(found);
    }
    Wanted::Routes(Mapping { spec: holder.hash.clone(), routes }, holder.addresses.clone())
}

/// The container or pod of this spec that has the address.
fn holder<'a>(app: &App, have: &'a Have) -> Option<&'a Seen> {
    let hash = app.hash().to_string();
    let role = if app.needs_pod() { Role::Pod } else { Role::Main };
    have.ours.iter().find(|seen| seen.role == role && seen.hash == hash)
}

fn route(port: &Port, address: Address) -> Option<Route> {
    let every = port.host_ip.is_unspecified();
    let fits = every || port.host_ip.is_ipv4() == address.ip.is_ipv4();
    fits.then(|| Route {
        protocol: port.protocol,
        port: port.host,
        host: (!every).then_some(port.host_ip),
        to: SocketAddr::new(address.ip, port.container),
    })
}
