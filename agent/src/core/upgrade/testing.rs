//! Facts of a device on which all is well, for tests.

use bramble_contracts::bytes::Sha256;
use bramble_contracts::v1::{AgentVersion, Instance};
use bramble_contracts::v2::AgentWish;

use super::{Bounds, Clock, Facts, Lease, Links, Mesh, System};

pub(super) fn version(minor: u16) -> AgentVersion {
    AgentVersion { major: 0, minor, patch: 0 }
}

pub(super) fn wish(minor: u16, attempt: u32) -> AgentWish {
    AgentWish {
        version: version(minor),
        release_seq: minor.into(),
        manifest: Sha256::of(&minor.to_be_bytes()),
        keys_pin: Sha256::of(b"keys"),
        attempt,
    }
}

/// Of the holder of the lease, which is the confirmed version.
pub(super) fn facts(own: AgentVersion) -> Facts {
    Facts {
        up_ms: 600_000,
        boot: "boot-1".into(),
        own,
        instance: Instance::A,
        lease: Lease::Held,
        links: Some(Links { current: own, confirmed: own }),
        target: "aarch64-unknown-linux-musl".parse().ok(),
        wish: None,
        mesh: Mesh::Up { since_ms: 10_000 },
        clock: Clock::Fit,
        free_bytes: 1 << 30,
        floor: 0,
        guard: None,
        system: System::Settled,
        bounds: Bounds::default(),
    }
}
