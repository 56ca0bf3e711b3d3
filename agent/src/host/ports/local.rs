//! The way from the device's own loopback addresses to a container, and who listens on the device's ports.
//!
//! Packets from 127.0.0.1 may leave by a container bridge only where `route_localnet` is set for it. For ::1 there is no
//! such switch: answers are taken for it on the bridge only if the bridge has a local route to it. Both end with the
//! bridge, so they are looked at in every pass. Where bridged packets go through iptables (`bridge-nf-call-ip6tables`, as
//! Docker and Kubernetes set it), answers to ::1 are dropped before any rule of ours, so there the way is not tried.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bramble_contracts::v1::Protocol;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;

use super::netlink::{Netlink, Verb, put};
use super::nft::word;
use crate::core::mapping::{Mapping, Route};

const ROUTE_NEW: u16 = 24;
const TABLE_LOCAL: u8 = 255;
const TYPE_LOCAL: u8 = 2;
const SCOPE_HOST: u8 = 254;
const PROTOCOL_STATIC: u8 = 4;
/// Behind the kernel's own route to ::1, and one for each bridge.
const METRIC: u32 = 1024;

/// A switch of the kernel that is on. Absent ones are off.
fn is_on(switch: &str) -> bool {
    fs::read_to_string(format!("/proc/sys/net/{switch}")).is_ok_and(|text| text.trim() == "1")
}

/// Whether bridged IPv6 packets go through iptables on this device: then ::1 cannot lead to a container.
pub(super) fn bridges_filter_ipv6() -> bool {
    is_on("bridge/bridge-nf-call-ip6tables")
}

/// The interface whose network an address belongs to.
fn interface(ip: IpAddr) -> Option<String> {
    let all = getifaddrs().ok()?;
    let mut found = all.filter(|one| {
        let (Some(address), Some(mask)) = (&one.address, &one.netmask) else { return false };
        match ip {
            IpAddr::V4(ip) => address.as_sockaddr_in().zip(mask.as_sockaddr_in()).is_some_and(|(a, m)| {
                let mask = u32::from(m.ip());
                u32::from(a.ip()) & mask == u32::from(ip) & mask
            }),
            IpAddr::V6(ip) => address.as_sockaddr_in6().zip(mask.as_sockaddr_in6()).is_some_and(|(a, m)| {
                let mask = u128::from(m.ip());
                u128::from(a.ip()) & mask == u128::from(ip) & mask
            }),
        }
    });
    found.next().map(|one| one.interface_name)
}

/// Interfaces that need a way from loopback, with the family.
fn needed(mapping: &Mapping) -> Vec<(String, IpAddr)> {
    let loopback = |route: &&Route| route.host.is_none_or(|host| host.is_loopback());
    let ips: BTreeSet<IpAddr> = mapping.routes.iter().filter(loopback).map(|route| route.to.ip()).collect();
    let ips = ips.into_iter().filter(|ip| ip.is_ipv4() || !bridges_filter_ipv6());
    ips.filter_map(|ip| Some((interface(ip)?, ip))).collect()
}

/// Whether loopback leads where the mapping says.
pub(super) fn is_open(mapping: &Mapping) -> bool {
    needed(mapping)
        .iter()
        .all(|(interface, ip)| if ip.is_ipv4() { has_switch(interface) } else { has_route(interface) })
}

fn has_switch(interface: &str) -> bool {
    is_on("ipv4/conf/all/route_localnet") || is_on(&format!("ipv4/conf/{interface}/route_localnet"))
}

fn has_route(interface: &str) -> bool {
    let routes = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let to_loopback = format!("{:032x} 80 ", u128::from(Ipv6Addr::LOCALHOST));
    routes.lines().any(|line| line.starts_with(&to_loopback) && line.split_whitespace().last() == Some(interface))
}

/// Opens what `is_open` misses. The error says what could not be done.
pub(super) fn open(mapping: &Mapping) -> Result<(), String> {
    for (interface, ip) in needed(mapping) {
        if ip.is_ipv4() && !has_switch(&interface) {
            let file = format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet");
            fs::write(&file, "1").map_err(|err| {
                format!("cannot lead 127.0.0.1 to a container: cannot write 1 to {file}: {err}; run it as the unit of bramble-bootstrap does")
            })?;
        }
        if ip.is_ipv6() && !has_route(&interface) {
            add_route(&interface).map_err(|err| {
                format!("cannot lead ::1 to a container: cannot add a local route for {interface}: {err}")
            })?;
        }
    }
    Ok(())
}

fn add_route(interface: &str) -> io::Result<()> {
    let index = if_nametoindex(interface)?;
    let mut body = vec![10, 128, 0, 0, TABLE_LOCAL, PROTOCOL_STATIC, SCOPE_HOST, TYPE_LOCAL, 0, 0, 0, 0];
    put(&mut body, 1, &Ipv6Addr::LOCALHOST.octets());
    put(&mut body, 4, &index.to_ne_bytes());
    put(&mut body, 6, &(METRIC + index).to_ne_bytes());
    match Netlink::open(SockProtocol::NetlinkRoute)?.ask(ROUTE_NEW, Verb::Create, &body) {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Why these ports cannot be led away: a program listens on one, or an address is not the device's.
pub(super) fn conflict(mapping: &Mapping) -> Option<String> {
    let sockets: Vec<(Protocol, SocketAddr)> = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .flat_map(|protocol| {
            let files = ["", "6"].map(|six| format!("/proc/net/{}{six}", word(protocol)));
            let texts = files.map(|file| fs::read_to_string(file).unwrap_or_default());
            let found: Vec<SocketAddr> =
                texts.iter().flat_map(|text| text.lines()).filter_map(|l| listener(l, protocol)).collect();
            found.into_iter().map(move |at| (protocol, at))
        })
        .collect();
    mapping.routes.iter().find_map(|route| {
        let taken = sockets.iter().find(|(protocol, at)| *protocol == route.protocol && is_taken(route, *at));
        if let Some((_, at)) = taken {
            let (port, word) = (route.port, word(route.protocol));
            return Some(format!(
                "port {port}/{word} is in use: a program on this device listens on {at}; stop it (`ss -lnp sport = :{port}` names it) or change the deployment's host port"
            ));
        }
        let foreign = route.host.filter(|host| !is_ours(*host))?;
        Some(format!("hostIP {foreign} of port {} is no address of this device; correct it or bring the interface up", route.port))
    })
}

/// A socket that listens on all IPv6 addresses takes IPv4 as well, unless told otherwise.
fn is_taken(route: &Route, at: SocketAddr) -> bool {
    let same_family = at.is_ipv4() == route.to.is_ipv4();
    let everywhere = at.ip().is_unspecified() && (same_family || at.is_ipv6());
    let meets = everywhere || same_family && route.host.is_none_or(|host| host == at.ip());
    at.port() == route.port && meets
}

fn is_ours(ip: IpAddr) -> bool {
    ip.is_loopback() || addresses().contains(&ip)
}

/// Every address of the device.
pub(super) fn addresses() -> BTreeSet<IpAddr> {
    let ip = |one: nix::ifaddrs::InterfaceAddress| {
        let address = one.address?;
        let four = || address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        four().or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    };
    getifaddrs().into_iter().flatten().filter_map(ip).collect()
}

/// A line of `/proc/net/tcp` or `udp`, when something waits there for whoever comes.
fn listener(line: &str, protocol: Protocol) -> Option<SocketAddr> {
    let mut words = line.split_whitespace().skip(1);
    let (local, _, state) = (words.next()?, words.next()?, words.next()?);
    let waits = match protocol {
        Protocol::Tcp => "0A",
        Protocol::Udp => "07",
    };
    let (address, port) = local.split_once(':').filter(|_| state == waits)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // The kernel prints words as they lie in memory.
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip: IpAddr = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut octets = [0; 16];
            for at in 0..4 {
                octets[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::from(octets)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_from_the_kernels_list() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        assert_eq!(listener(line, Protocol::Tcp), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(listener(line, Protocol::Udp), None);
        let six =
            "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1";
        assert_eq!(listener(six, Protocol::Tcp), Some("[::1]:80".parse().unwrap()));
        assert_eq!(listener("  sl  local_address rem_address   st tx_queue", Protocol::Tcp), None);
    }

    #[test]
    fn a_port_is_taken_by_whoever_would_get_its_packets() {
        let route = |host: Option<&str>, to: &str| Route {
            protocol: Protocol::Tcp,
            port: 80,
            host: host.map(|h| h.parse().unwrap()),
            to: to.parse().unwrap(),
        };
        let every = route(None, "10.0.0.5:80");
        for at in ["127.0.0.1:80", "0.0.0.0:80", "[::]:80"] {
            assert!(is_taken(&every, at.parse().unwrap()), "{at}");
        }
        for at in ["127.0.0.1:81", "[::1]:80"] {
            assert!(!is_taken(&every, at.parse().unwrap()), "{at}");
        }
        let one = route(Some("192.0.2.1"), "10.0.0.5:80");
        assert!(!is_taken(&one, "127.0.0.1:80".parse().unwrap()) && is_taken(&one, "192.0.2.1:80".parse().unwrap()));
    }

    #[test]
    fn this_machine_is_looked_at() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let route = |port, host| Route { protocol: Protocol::Tcp, port, host, to: "10.0.0.5:80".parse().unwrap() };
        let mapping = |route| Mapping { spec: String::new(), routes: [route].into() };
        let said = conflict(&mapping(route(port, None))).unwrap();
        assert!(said.contains(&format!("127.0.0.1:{port}")), "{said}");
        let said = conflict(&mapping(route(1, Some("192.0.2.77".parse().unwrap())))).unwrap();
        assert!(said.contains("192.0.2.77"), "{said}");
        assert_eq!(conflict(&mapping(route(1, Some("127.0.0.1".parse().unwrap())))), None);
        assert_eq!(interface("127.0.0.1".parse().unwrap()).as_deref(), Some("lo"));
    }
}
