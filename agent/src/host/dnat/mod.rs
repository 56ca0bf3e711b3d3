//! Port forwardings that outlive a start that was cut off: netavark makes them after Podman has died, Podman never learns of
//! them, and they lead the host's port to an address where nobody is, before any newer one.
//!
//! Decides who is asked: a device has one of netavark's two drivers, and the other finds nothing. What is stale is decided
//! for each of its own. Of a container without a known address all is, so whoever asks knows that it does not run.

mod iptables;
pub mod nft;

use std::net::IpAddr;

use super::device::text;
use super::podman::{ContainerLine, Podman, PortLine, State};

/// Deletes what is left of earlier starts of a container; what leads to the address that Podman knows of stays.
pub(super) async fn clear(podman: &Podman, line: &ContainerLine, known: Option<&str>) {
    if line.ports.is_empty() {
        return;
    }
    iptables::clear(&line.id, &line.ports, known).await;
    nft::clear(&line.ports, held(podman, &line.ports)).await;
}

/// Addresses of all containers that publish one of these ports, as Podman knows them.
async fn held(podman: &Podman, ports: &[PortLine]) -> Result<Vec<IpAddr>, String> {
    let mut held = Vec::new();
    for line in podman.list(&[]).await.map_err(|err| text(&err))? {
        if line.ports.iter().any(|one| ports.iter().any(|port| port.meets(one))) {
            let detail = match podman.inspect(&line.id).await {
                // Its storage is damaged; what does not run needs no address.
                Err(err) if !err.is_outage() && line.state != State::Running => None,
                told => told.map_err(|err| text(&err))?,
            };
            held.extend(detail.iter().flat_map(|detail| detail.network_settings.all()));
        }
    }
    Ok(held)
}
