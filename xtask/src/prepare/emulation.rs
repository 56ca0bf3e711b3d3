//! Lets this machine run programs for aarch64, as the making of an image does. Decides nothing about which.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use nix::mount::{MsFlags, mount};

const KERNEL: &str = "/proc/sys/fs/binfmt_misc";
/// Debian's own description of the emulator, from the package qemu-user-static.
const RULES: [&str; 2] = ["/usr/lib/binfmt.d/qemu-aarch64.conf", "/usr/lib/binfmt.d/qemu-aarch64-static.conf"];

/// Tells the kernel which emulator runs programs for aarch64; does nothing where it knows, or is one itself.
///
/// # Errors
/// When the kernel cannot be told: not root, or the emulator is not installed.
pub fn aarch64() -> anyhow::Result<()> {
    if cfg!(target_arch = "aarch64") {
        return Ok(());
    }
    let kernel = Path::new(KERNEL);
    let register = kernel.join("register");
    if !register.exists() {
        mount(Some("binfmt_misc"), kernel, Some("binfmt_misc"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {KERNEL}"))?;
    }
    if kernel.join("qemu-aarch64").exists() {
        return Ok(());
    }
    let Some(rule) = RULES.iter().find_map(|file| fs::read_to_string(file).ok()) else {
        bail!("none of {} is there: install qemu-user-static", RULES.join(", "));
    };
    println!("Telling the kernel to run programs for aarch64 by QEMU");
    match fs::write(&register, rule.trim()) {
        // Another process was faster.
        Err(_) if kernel.join("qemu-aarch64").exists() => Ok(()),
        told => told.with_context(|| format!("cannot write {}", register.display())),
    }
}
