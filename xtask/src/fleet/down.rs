//! Takes the local fleet down: the agent first, so that nothing restarts what is removed, then its containers, then
//! the coordinator with its broker.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DEVICE, Fleet, short};
use crate::clock::until;
use crate::pi;
use crate::run::Cmd;

/// What a fleet leaves behind when it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Its data: the next `up` goes on with the same coordinator and device.
    Data,
    /// Nothing.
    Nothing,
}

/// Takes it down.
///
/// # Errors
/// When something cannot be stopped or removed.
pub fn down(left: Left) -> anyhow::Result<()> {
    let fleet = Fleet::here();
    if !fleet.dir.exists() {
        println!("There is no local fleet ({} does not exist).", short(&fleet.dir));
        return Ok(());
    }
    if !super::is_root() {
        return Err(super::again_as_root());
    }
    take_down(&Fleet::of_virtual_pi(), left)?;
    take_down(&fleet, left)
}

pub(super) fn take_down(fleet: &Fleet, left: Left) -> anyhow::Result<()> {
    if !fleet.dir.exists() {
        return Ok(());
    }
    if !fleet.at.is_loopback() {
        pi::down(&fleet.pi())?;
    }
    if fleet.agent().stop()? {
        println!("Stopped the agent");
    }
    if fleet.containers_conf().exists() {
        fleet.store().remove_containers()?;
        println!("Removed the containers of the device {DEVICE} (volumes and images stay)");
    }
    if fleet.coordinator().stop()? {
        println!("Stopped the coordinator and its broker");
    }
    end_leftovers(&fleet.dir)?;
    if !fleet.at.is_loopback() {
        // Gone already, after a reboot, is as good.
        drop(Cmd::new("ip").args(["address", "del", &format!("{}/32", fleet.at), "dev", "lo"]).check());
    }
    match left {
        Left::Data => println!("The data stays in {}; `cargo xtask up` goes on with it.", short(&fleet.dir)),
        Left::Nothing => {
            for dir in [&fleet.dir, &fleet.run_dir] {
                remove(dir)?;
            }
            println!("Removed {} with everything in it.", short(&fleet.dir));
        }
    }
    Ok(())
}

/// A program that was killed may leave its child: the broker, or Podman's API service. They are told from everybody
/// else's by their arguments, which name our folder.
fn end_leftovers(dir: &Path) -> anyhow::Result<()> {
    for pid in leftovers(dir) {
        println!("Stopping what a killed program left behind: process {pid}");
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            // That it is gone already is as good; the wait tells.
            let _ = kill(Pid::from_raw(pid), signal);
            let gone = || if leftovers(dir).contains(&pid) { Err(String::new()) } else { Ok(()) };
            if until("it to stop", Duration::from_secs(5), gone).is_ok() {
                break;
            }
        }
    }
    let rest = leftovers(dir);
    anyhow::ensure!(rest.is_empty(), "these processes of the fleet cannot be stopped: {rest:?}");
    Ok(())
}

/// Brokers and Podman services of this fleet, whoever started them.
pub(super) fn leftovers(dir: &Path) -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else { return vec![] };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_ours(&line, dir))).collect()
}

fn is_ours(cmdline: &[u8], dir: &Path) -> bool {
    let mut words = cmdline.split(|b| *b == 0);
    let program = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let dir = format!("{}/", dir.display());
    ["nats-server", "podman"].contains(&name.as_str()) && words.any(|word| String::from_utf8_lossy(word).contains(&dir))
}

/// Removes a folder, after unmounting what Podman has left mounted in it.
fn remove(dir: &Path) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let mut inside: Vec<&str> =
        mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|m| Path::new(m).starts_with(dir)).collect();
    inside.sort_by_key(|m| std::cmp::Reverse(m.len()));
    for place in inside {
        umount2(place, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {place}"))?;
    }
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(err).with_context(|| format!("cannot remove {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_broker_and_podman_are_leftovers() {
        let dir = Path::new("/home/me/bramble/.bramble");
        assert!(is_ours(b"/cache/nats-server\0-c\0/home/me/bramble/.bramble/coordinator/nats.conf\0", dir));
        assert!(is_ours(b"podman\0--root=/home/me/bramble/.bramble/device/apps/store\0system\0service\0", dir));
        assert!(!is_ours(b"nats-server\0-c\0/home/me/other/.bramble/coordinator/nats.conf\0", dir));
        assert!(!is_ours(b"vim\0/home/me/bramble/.bramble/env\0", dir));
        assert!(!is_ours(b"", dir));
    }
}
