//! Which Debian packages a local fleet and its tests need, and getting those that are missing. Decides nothing about
//! programs that come from elsewhere (`wheels`).

use std::time::Duration;

use anyhow::{Context as _, bail};

use super::suites;
use crate::run::Cmd;

/// What the machine is to be made ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A fleet that runs: Podman, networks, the broker's program.
    Fleet,
    /// The tests and README's tour as well.
    Tests,
    /// Programs for aarch64.
    Cross,
    /// Images, and virtual Pis that boot them.
    VirtualPi,
}

/// The packages, each with the program that shows it is there (`None`: only the package database knows).
const FLEET: &[(&str, Option<&str>)] = &[
    ("gcc", Some("cc")),
    ("libc6-dev", None),
    ("podman", Some("podman")),
    ("crun", Some("crun")),
    ("netavark", None),
    ("aardvark-dns", None),
    // The process that holds a pod together.
    ("catatonit", None),
    ("uidmap", Some("newuidmap")),
    ("iproute2", Some("ip")),
    ("nftables", Some("nft")),
    // netavark of Debian 12 drives the kernel through it.
    ("iptables", Some("iptables")),
    ("python3-pip", None),
    ("ca-certificates", None),
    // README types it.
    ("curl", Some("curl")),
];

const TESTS: &[(&str, Option<&str>)] = &[
    ("git", Some("git")),
    // The agent's own tests make their containers of it; by its package, because one linked dynamically is no use there.
    ("busybox-static", None),
    // Agents under a wrong clock.
    ("libfaketime", None),
    // The guide types it.
    ("procps", Some("pgrep")),
    // The agent makes a slot's file system.
    ("dosfstools", Some("mkfs.vfat")),
    // Agents of other versions are sent without what is for debuggers.
    ("binutils", Some("strip")),
];

/// Programs for the device: what cargo and the tools from PyPI need.
const CROSS: &[(&str, Option<&str>)] = &[
    ("gcc", Some("cc")),
    ("libc6-dev", None),
    ("git", Some("git")),
    ("python3-pip", None),
    ("ca-certificates", None),
    ("xz-utils", Some("xz")),
];

const VIRTUAL_PI: &[(&str, Option<&str>)] = &[
    // Their images: file systems made in files.
    ("mmdebstrap", Some("mmdebstrap")),
    ("mtools", Some("mcopy")),
    ("dosfstools", Some("mkfs.vfat")),
    ("e2fsprogs", Some("mke2fs")),
    ("fdisk", Some("sfdisk")),
    ("lvm2", Some("lvm")),
    ("thin-provisioning-tools", Some("thin_restore")),
    ("cpio", Some("cpio")),
    ("xz-utils", Some("xz")),
    ("zstd", Some("zstd")),
    // Packages of the tests' own, and their repository's signature.
    ("dpkg", Some("dpkg-deb")),
    ("gpg", Some("gpg")),
    ("gpg-agent", Some("gpg-agent")),
    // The machine's description, as the firmware hands it over.
    ("device-tree-compiler", Some("fdtput")),
    // C in the programs for the device.
    ("gcc-aarch64-linux-gnu", Some("aarch64-linux-gnu-gcc")),
    ("libc6-dev-arm64-cross", None),
];

const EMULATOR: &[(&str, Option<&str>)] = &[("qemu-user-static", Some("qemu-aarch64-static"))];

/// From the suite of newer versions, where this machine's release has one.
const VIRTUAL_PI_NEWER: &[(&str, Option<&str>)] = &[
    ("qemu-system-arm", Some("qemu-system-aarch64")),
    ("qemu-system-data", None),
    ("ipxe-qemu", None),
    ("qemu-utils", Some("qemu-img")),
    ("qemu-user-static", Some("qemu-aarch64-static")),
];

/// Installs what is missing, after saying so.
///
/// # Errors
/// When a package is missing and this is not a Debian or Ubuntu, or apt fails.
pub fn install(need: Need) -> anyhow::Result<()> {
    match need {
        Need::Fleet => get(FLEET, None),
        Need::Tests => get(FLEET, None).and_then(|()| get(TESTS, None)).and_then(|()| emulator()),
        Need::Cross => get(CROSS, None),
        Need::VirtualPi => get(VIRTUAL_PI, None).and_then(|()| match suites::backports() {
            _ if missing(VIRTUAL_PI_NEWER).is_empty() => Ok(()),
            Ok(suite) => get(VIRTUAL_PI_NEWER, suite),
            Err(err) => Err(err),
        }),
    }
}

/// What runs programs for aarch64 here; the newer one where this machine's release has one, so that there is but one.
fn emulator() -> anyhow::Result<()> {
    if cfg!(target_arch = "aarch64") {
        return Ok(());
    }
    get(EMULATOR, suites::backports().unwrap_or_default())
}

/// Gets those that are missing, from a suite that is named or from what the machine lists.
fn get(wanted: &[(&'static str, Option<&'static str>)], suite: Option<&str>) -> anyhow::Result<()> {
    let missing = missing(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !present("apt-get") {
        bail!(
            "this machine lacks {names} (Debian's names) and is no Debian or Ubuntu: install them by its own means, \
             then run the command again"
        );
    }
    println!("Installing Debian packages: {names}");
    if let Some(suite) = suite {
        suites::add(suite)?;
    }
    let apt = || {
        let options = ["-qq", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0"];
        Cmd::new("apt-get").args(options).env("DEBIAN_FRONTEND", "noninteractive").within(Duration::from_secs(900))
    };
    apt().arg("update").check().context("cannot refresh the package lists")?;
    let install = apt().args(["install", "-y", "--no-install-recommends"]).args(suite.iter().flat_map(|s| ["-t", s]));
    install.args(&missing).check().with_context(|| format!("cannot install {names}"))?;
    Ok(())
}

fn missing(wanted: &[(&'static str, Option<&'static str>)]) -> Vec<&'static str> {
    wanted.iter().filter(|(package, program)| !there(package, *program)).map(|(package, _)| *package).collect()
}

fn there(package: &str, program: Option<&str>) -> bool {
    if let Some(program) = program {
        return present(program);
    }
    if package == "python3-pip" {
        return super::wheels::pip().is_some();
    }
    let query = Cmd::new("dpkg-query").args(["-W", "-f", "${Status}", package]).output();
    // Without a package database only the programs can be looked for.
    query.map_or(!present("apt-get"), |out| out.stdout == "install ok installed")
}

/// Whether a program is on the PATH or where Debian puts those of root.
fn present(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_the_missing_from_the_present() {
        let wanted = [("bash", Some("sh")), ("no-such-package", Some("no-such-program")), ("no-such-package-2", None)];
        let found = missing(&wanted);
        assert!(!found.contains(&"bash"));
        assert!(found.contains(&"no-such-package"));
    }
}
