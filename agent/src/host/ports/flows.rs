//! The kernel's list of connections: which are open to a container, and forgetting those that lead to one that is gone.
//!
//! UDP has no end, so a flow counts as open until the kernel forgets it, half a minute or two after its last packet.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::sys::socket::SockProtocol;

use super::netlink::{NESTED, Netlink, Verb, attribute, put};

/// Subsystem `ctnetlink`, messages get and delete.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// `IPS_DST_NAT`: it was led somewhere else than where it was sent.
const LED: u32 = 1 << 5;
const TCP_TIME_WAIT: u8 = 7;
const UDP: u8 = 17;

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    protocol: u8,
    /// Where the client sent it.
    to: IpAddr,
    port: u16,
    /// Who answers.
    from: IpAddr,
    led: bool,
    tcp_state: Option<u8>,
    /// What names it to the kernel.
    name: Vec<u8>,
}

impl Flow {
    /// It was led to this container, and still lives.
    fn is_open_to(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        self.led && addresses.contains(&self.from) && self.tcp_state.is_none_or(|state| state < TCP_TIME_WAIT)
    }

    fn is_led_to(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        self.led && addresses.contains(&self.from)
    }

    /// Packets to a port that led nowhere when the first of them came. Their sender may never pause long enough to be
    /// seen as a new one.
    fn is_lost(&self, udp: &BTreeSet<SocketAddr>) -> bool {
        let to = SocketAddr::new(self.to, self.port);
        self.protocol == UDP && !self.led && self.from == self.to && udp.contains(&to)
    }
}

/// How many connections are open to these containers.
pub(super) fn open(addresses: &BTreeSet<IpAddr>) -> io::Result<usize> {
    let mut count = 0;
    each(|flow| count += usize::from(flow.is_open_to(addresses)))?;
    Ok(count)
}

/// Forgets what is led to these addresses, and UDP packets to these ports of the device that were led nowhere.
pub(super) fn forget(addresses: &BTreeSet<IpAddr>, udp: &BTreeSet<SocketAddr>) -> io::Result<()> {
    let mut doomed = Vec::new();
    each(|flow| {
        if flow.is_led_to(addresses) || flow.is_lost(udp) {
            doomed.push(flow.name);
        }
    })?;
    let socket = Netlink::open(SockProtocol::NetlinkNetFilter)?;
    for name in doomed {
        match socket.ask(DELETE, Verb::Do, &name) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn each(mut found: impl FnMut(Flow)) -> io::Result<()> {
    let socket = Netlink::open(SockProtocol::NetlinkNetFilter)?;
    socket.dump(GET, &[0, 0, 0, 0], |body| {
        if let Some(flow) = read(body) {
            found(flow);
        }
    })
}

/// `None` for what is not of IP, or has no ports.
fn read(body: &[u8]) -> Option<Flow> {
    let (head, rest) = body.split_at_checked(4)?;
    let original = attribute(rest, TUPLE_ORIGINAL)?;
    let (_, to, protocol, port) = tuple(original)?;
    let (from, ..) = tuple(attribute(rest, TUPLE_REPLY)?)?;
    let status = attribute(rest, STATUS)?.first_chunk().map(|bits| u32::from_be_bytes(*bits))?;
    let tcp = attribute(rest, PROTOCOL_INFO).and_then(|info| attribute(info, 1)).and_then(|tcp| attribute(tcp, 1));
    let mut name = head.to_vec();
    put(&mut name, TUPLE_ORIGINAL | NESTED, original);
    for kind in [ID, ZONE] {
        if let Some(value) = attribute(rest, kind) {
            put(&mut name, kind, value);
        }
    }
    let tcp_state = tcp.and_then(|state| state.first().copied());
    Some(Flow { protocol, to, port, from, led: status & LED != 0, tcp_state, name })
}

/// Source, destination, protocol, destination port.
fn tuple(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8, u16)> {
    let (ip, protocol) = (attribute(bytes, 1)?, attribute(bytes, 2)?);
    let address = |v4: u16, v6: u16| {
        let four = || attribute(ip, v4)?.first_chunk::<4>().map(|a| IpAddr::V4(Ipv4Addr::from(*a)));
        let six = || attribute(ip, v6)?.first_chunk::<16>().map(|a| IpAddr::V6(Ipv6Addr::from(*a)));
        four().or_else(six)
    };
    let port = attribute(protocol, 3).and_then(|port| port.first_chunk().map(|p| u16::from_be_bytes(*p)));
    Some((address(1, 3)?, address(2, 4)?, *attribute(protocol, 1)?.first()?, port.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(from: &str, to: &str, port: u16) -> Vec<u8> {
        let (mut ip, mut protocol, mut both) = (vec![], vec![], vec![]);
        let octets = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
        put(&mut ip, 1, &octets(from));
        put(&mut ip, 2, &octets(to));
        put(&mut protocol, 1, &[6]);
        put(&mut protocol, 3, &port.to_be_bytes());
        put(&mut both, 1 | NESTED, &ip);
        put(&mut both, 2 | NESTED, &protocol);
        both
    }

    fn message(status: u32, state: u8) -> Vec<u8> {
        let (mut body, mut tcp, mut info) = (vec![2, 0, 0, 0], vec![], vec![]);
        put(&mut body, TUPLE_ORIGINAL | NESTED, &side("192.0.2.1", "192.0.2.9", 8080));
        put(&mut body, TUPLE_REPLY | NESTED, &side("10.0.0.5", "192.0.2.1", 40000));
        put(&mut body, STATUS, &status.to_be_bytes());
        put(&mut tcp, 1, &[state]);
        put(&mut info, 1 | NESTED, &tcp);
        put(&mut body, PROTOCOL_INFO | NESTED, &info);
        put(&mut body, ID, &[1, 2, 3, 4]);
        body
    }

    #[test]
    fn a_connection_counts_while_it_is_open_and_was_led() {
        let here: BTreeSet<IpAddr> = ["10.0.0.5".parse().unwrap()].into();
        let flow = read(&message(LED, 3)).unwrap();
        assert_eq!((flow.port, flow.to, flow.protocol), (8080, "192.0.2.9".parse().unwrap(), 6));
        assert!(flow.is_open_to(&here) && flow.is_led_to(&here) && !flow.is_open_to(&BTreeSet::new()));
        assert!(!read(&message(0, 3)).unwrap().is_open_to(&here), "a probe's own connection was led nowhere");
        assert!(!read(&message(LED, TCP_TIME_WAIT)).unwrap().is_open_to(&here));
        assert_eq!(attribute(&flow.name[4..], ID), Some(&[1, 2, 3, 4][..]));
        assert_eq!(read(&message(LED, 3)[..30]), None);
    }

    #[test]
    fn the_kernel_lists_connections() {
        assert_eq!(open(&BTreeSet::new()).unwrap(), 0);
        forget(&["192.0.2.77".parse().unwrap()].into(), &BTreeSet::new()).unwrap();
    }
}
