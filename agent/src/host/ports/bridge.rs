//! Keeps the hardware address of container bridges.
//!
//! A bridge that nobody gave an address takes the lowest one of its ports. So when a container comes or goes, the others
//! may know the host by an address that nobody answers to, and are cut off until they ask again, some ten seconds later.
//! Given the address it has, the bridge keeps it.

use std::io;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;

use super::netlink::{Netlink, Verb, put};

const LINK_SET: u16 = 19;

/// Gives the bridge the address that it has. One that is not there has nobody on it.
pub(super) fn keep_address(bridge: &str) -> io::Result<()> {
    let mut links = getifaddrs()?.filter(|one| one.interface_name == bridge);
    let Some(address) = links.find_map(|one| one.address?.as_link_addr()?.addr()) else { return Ok(()) };
    let mut body = vec![0; 4];
    body.extend(if_nametoindex(bridge)?.to_ne_bytes());
    body.extend([0; 8]);
    put(&mut body, 1, &address);
    Netlink::open(SockProtocol::NetlinkRoute)?.ask(LINK_SET, Verb::Do, &body)
}
