//! Leaves nothing behind: processes, containers, mounts, namespaces, bridges, subnets, folders. Only what lies in, or
//! names, the folder of a case of ours; a case of a test program that still lives is left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use xtask::prepare::Store;
use xtask::run::Cmd;

use crate::process;

/// How the folders of cases begin.
pub(crate) const PREFIX: &str = "bft-";

/// Says that this process owns the case.
pub(crate) fn claim(dir: &Path) {
    let pid = std::process::id();
    let text = format!("{pid} {}", begun(&pid.to_string()).unwrap_or_default());
    fs::write(dir.join("owner"), text).unwrap_or_else(|err| panic!("cannot write in {}: {err}", dir.display()));
}

/// Field 22 of `/proc/<pid>/stat`: tells a process from a later one with the same number.
fn begun(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19).map(String::from)
}

/// Removes what killed test programs have left.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for dir in entries.filter_map(|e| Some(e.ok()?.path())) {
        let mark = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !mark.starts_with(PREFIX) {
            continue;
        }
        let Ok(owner) = fs::read_to_string(dir.join("owner")) else { continue };
        let Some((pid, began)) = owner.split_once(' ') else { continue };
        if begun(pid).as_deref() != Some(began) {
            println!("sweeping {}, which a test program that was killed has left", dir.display());
            drop(remove_case(&dir, &Path::new("/run").join(mark)));
        }
    }
}

/// Where a device's `containers.conf` lies below its folder; tells which folders are devices.
pub(crate) const CONTAINERS_CONF: &str = "podman/containers.conf";
/// Where the namespaces of a case are remembered, one a line.
pub(crate) const NETNS: &str = "netns";

/// Removes everything; returns what could not be.
pub(crate) fn remove_case(dir: &Path, run: &Path) -> Vec<String> {
    let mut problems = vec![];
    // First whoever would start things again, then the containers, then what is left of either.
    kill_all(dir, run, Who::Ours);
    for device in devices(dir) {
        problems.extend(remove_device(&device, dir));
    }
    kill_all(dir, run, Who::All);
    for netns in fs::read_to_string(dir.join(NETNS)).unwrap_or_default().lines() {
        // Takes its end of the veth pair with it, and so the other.
        drop(Cmd::new("ip").args(["netns", "del", netns]).check());
    }
    for place in mounts_below(&[dir, run]) {
        if let Err(err) = umount2(place.as_path(), MntFlags::MNT_DETACH) {
            problems.push(format!("cannot unmount {}: {err}", place.display()));
        }
    }
    for place in [run, dir] {
        match fs::remove_dir_all(place) {
            Ok(()) => {}
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => problems.push(format!("cannot remove {}: {err}", place.display())),
        }
    }
    problems
}

/// The folders of a case's devices.
fn devices(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return vec![] };
    entries.filter_map(|e| Some(e.ok()?.path())).filter(|d| d.join(CONTAINERS_CONF).is_file()).collect()
}

fn remove_device(device: &Path, case: &Path) -> Option<String> {
    let conf = device.join(CONTAINERS_CONF);
    let run: PathBuf = fs::read_to_string(device.join("run-dir")).unwrap_or_default().into();
    let netns = fs::read_to_string(device.join(NETNS)).ok();
    let store = Store::of_device(&device.join("apps"), &run, &conf);
    let problem = match netns {
        None => store.remove_containers().err().map(|err| format!("{err:#}")),
        Some(netns) => {
            let line = format!("{} rm --all --force --time 0", store.podman().line());
            let env = format!("CONTAINERS_CONF={}", conf.display());
            let enter = [format!("--net=/run/netns/{netns}"), "env".into(), env, "sh".into(), "-c".into(), line];
            Cmd::new("nsenter").args(enter).check().err().map(|err| err.to_string())
        }
    };
    // One network, named as its bridge. Gone already, most times: netavark takes it with the last container.
    let networks =
        fs::read_dir(device.join("podman/networks")).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    for bridge in networks.filter(|file| file.extension().is_some_and(|e| e == "json")) {
        drop(Cmd::new("ip").args(["link", "del"]).arg(bridge.file_stem().unwrap_or_default()).output());
    }
    give_back_subnets(case);
    problem
}

/// The subnets that `podman_env` claimed for folders inside `case`.
fn give_back_subnets(case: &Path) {
    let Ok(claims) = fs::read_dir("/run/bramble-subnets") else { return };
    let inside = format!("{}/", case.display());
    for claim in claims.filter_map(|e| Some(e.ok()?.path())) {
        if fs::read_to_string(&claim).is_ok_and(|owner| owner.starts_with(&inside)) {
            drop(fs::remove_file(claim));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    /// The programs of the fleet.
    Ours,
    /// Those, and what runs for them: brokers, Podman, the keepers of containers.
    All,
}

/// Kills whatever names the case's folders in its arguments or environment.
fn kill_all(dir: &Path, run: &Path, who: Who) {
    let marks = [format!("{}/", dir.display()), format!("{}/", run.display())];
    let found = || -> Vec<i32> {
        let Ok(all) = fs::read_dir("/proc") else { return vec![] };
        let pids = all.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| *pid != i32::try_from(std::process::id()).unwrap_or(0) && is_of(*pid, &marks, who)).collect()
    };
    let killed = || {
        let left = found();
        left.iter().for_each(|pid| process::kill_pid(*pid));
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} live")) }
    };
    drop(xtask::clock::until("the processes of the case to end", Duration::from_secs(10), killed));
}

fn is_of(pid: i32, marks: &[String], who: Who) -> bool {
    let read = |file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    if !process::lives(pid) {
        return false;
    }
    let name = read("comm");
    let ours = name.starts_with("bramble-");
    if who == Who::Ours && !ours {
        return false;
    }
    let known = ["nats-server", "podman", "conmon", "hello", "bramble-", "catatonit", "aardvark-dns", "qemu-system"];
    if !known.iter().any(|k| name.starts_with(k)) {
        return false;
    }
    let cmdline = read("cmdline");
    let environ = read("environ");
    marks.iter().any(|mark| cmdline.contains(mark.as_str()) || environ.contains(mark.as_str()))
}

/// Mounts below these folders, deepest first.
pub(crate) fn mounts_below(dirs: &[&Path]) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|l| l.split(' ').nth(1)).map(PathBuf::from);
    let mut inside: Vec<PathBuf> = places.filter(|m| dirs.iter().any(|d| m.starts_with(d))).collect();
    inside.sort_by_key(|m| std::cmp::Reverse(m.as_os_str().len()));
    inside
}
