//! The machine an agent needs: room, memory, a kernel that can run containers, somebody who starts the agent again.
//!
//! Decides from which numbers on something should be looked at. Judgements are apart from looking, and pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Answer, failed, look, ok};
use crate::host::cmd::{self, Bounds};

const FREE_MIN: u64 = 256 << 20;
const INODES_MIN: u64 = 1000;
/// Below this share of the whole, in percent.
const LOW_PERCENT: u64 = 5;
/// More free bytes than this are enough, whatever share of the whole they are.
const FREE_ENOUGH: u64 = 2 << 30;
const MEMORY_LOW: u64 = 64 << 20;
const COMMAND: Bounds = Bounds { time: Duration::from_secs(8), output_bytes: 16 * 1024 };

/// What a file system says of itself.
#[derive(Clone, Copy, Debug)]
struct Room {
    free: u64,
    total: u64,
    inodes_free: u64,
    /// 0 where the file system does not count them.
    inodes: u64,
    access: Access,
}

#[derive(Clone, Copy, Debug)]
enum Access {
    ReadWrite,
    ReadOnly,
}

/// The file system that holds `dir`, or will.
pub(super) fn disk(dir: &Path) -> impl FnOnce() -> Answer + Send + 'static {
    let dir = dir.to_owned();
    move || {
        let there = dir.ancestors().find(|parent| parent.exists()).unwrap_or(Path::new("/"));
        match statvfs(there) {
            Ok(stat) => {
                #[allow(clippy::useless_conversion, reason = "these are narrower on 32-bit machines")]
                let (block, wide) = (u64::from(stat.fragment_size()), |n| u64::from(n));
                let read_only = stat.flags().contains(FsFlags::ST_RDONLY);
                let room = Room {
                    free: wide(stat.blocks_available()) * block,
                    total: wide(stat.blocks()) * block,
                    inodes_free: wide(stat.files_available()),
                    inodes: wide(stat.files()),
                    access: if read_only { Access::ReadOnly } else { Access::ReadWrite },
                };
                judge_room(&dir, room)
            }
            Err(err) => failed(format!("cannot be looked at: {err} ({})", dir.display())),
        }
    }
}

fn judge_room(dir: &Path, room: Room) -> Answer {
    let Room { free, total, inodes_free, inodes, access } = room;
    let text = format!("has {} MiB of {} MiB free at {}", free >> 20, total >> 20, dir.display());
    if let Access::ReadOnly = access {
        return failed(format!(
            "is mounted read-only at {}: look at `dmesg` for errors of the disk, then mount it read-write",
            dir.display()
        ));
    }
    if inodes > 0 && inodes_free < INODES_MIN {
        return failed(format!("has only {inodes_free} of {inodes} inodes free at {}: remove files", dir.display()));
    }
    if free < FREE_MIN {
        return failed(format!("{text}: make room"));
    }
    if free < (total / 100 * LOW_PERCENT).min(FREE_ENOUGH) {
        return look(format!("{text}: less than {LOW_PERCENT}%"));
    }
    ok(text)
}

/// Memory that apps can still get.
pub(super) fn memory() -> Answer {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    judge_memory(&text)
}

fn judge_memory(meminfo: &str) -> Answer {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
    };
    let (Some(total), Some(available)) = (bytes("MemTotal"), bytes("MemAvailable")) else {
        return look("is unknown: /proc/meminfo does not say");
    };
    let text = format!("has {} MiB of {} MiB available", available >> 20, total >> 20);
    let low = available < MEMORY_LOW || available < total / 100 * LOW_PERCENT;
    if low { look(format!("{text}: give apps memory limits, or fewer apps")) } else { ok(text) }
}

/// What containers need of the kernel.
pub(super) fn kernel() -> Answer {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let namespaces: Vec<&str> = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    judge_kernel(
        read("/proc/sys/kernel/osrelease").trim(),
        &namespaces,
        &read("/proc/filesystems"),
        &read("/proc/self/status"),
    )
}

fn judge_kernel(release: &str, missing: &[&str], filesystems: &str, status: &str) -> Answer {
    if !missing.is_empty() {
        return failed(format!("{release} has no {} namespaces: containers cannot run", missing.join(", ")));
    }
    if !filesystems.split_whitespace().any(|name| name == "overlay") {
        // A module that nobody has needed yet is not listed either.
        return look(format!("{release} does not list overlay: `modprobe overlay` tells whether it is there"));
    }
    if !status.lines().any(|line| line.starts_with("Seccomp:")) {
        return look(format!("{release} has no seccomp: containers are less shut in"));
    }
    ok(format!("{release} has namespaces, overlay and seccomp"))
}

/// Limits of memory need cgroup v2 with its controller.
pub(super) fn cgroups() -> Answer {
    judge_cgroups(std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok().as_deref())
}

fn judge_cgroups(controllers: Option<&str>) -> Answer {
    match controllers {
        Some(text) if text.split_whitespace().any(|name| name == "memory") => ok("are version 2, memory included"),
        Some(_) => look(
            "have no memory controller, so memory limits of apps have no effect: add cgroup_enable=memory to /boot/firmware/cmdline.txt and reboot",
        ),
        None => look("are not version 2: memory limits and reports of killed apps are less exact"),
    }
}

/// A program in the places where the system's own are; those of root are not always in PATH.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// What a program prints, when it ends well.
pub(super) async fn printed(name: &str, args: &[&str]) -> Result<String, String> {
    printed_with(name, args, &[]).await
}

/// The same, with these variables beyond ours.
pub(super) async fn printed_with(name: &str, args: &[&str], env: &[(&str, &str)]) -> Result<String, String> {
    let program = program(name).ok_or_else(|| format!("{name} is not installed"))?;
    let finished = Box::pin(cmd::run_env(&program, args, env, COMMAND)).await.map_err(|err| err.to_string())?;
    if finished.status.success() {
        return Ok(finished.stdout);
    }
    let last = finished.stderr.lines().next_back().unwrap_or_default().trim().to_owned();
    Err(format!("{name} failed: {last}"))
}

/// Host ports that outlive a container are mapped by it.
pub(super) async fn nftables() -> Answer {
    match printed("nft", &["--version"]).await {
        Ok(version) if crate::host::ports::loopback_ipv6_is_cut() => look(format!(
            "are there: {}; ::1 does not reach apps that hand over startFirst, because bridged packets go through iptables \
             here (net.bridge.bridge-nf-call-ip6tables is 1, as Docker sets it); every other address does",
            version.trim()
        )),
        Ok(version) => ok(format!("are there: {}", version.trim())),
        Err(why) => look(format!("cannot be used ({why}): apt-get install nftables")),
    }
}

fn runs_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// `NAME=value` of what `systemctl show` printed.
fn property<'a>(shown: &'a str, name: &str) -> &'a str {
    shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
}

/// A hung kernel is restarted by the watchdog, when somebody feeds it.
pub(super) async fn watchdog() -> Answer {
    let device = Watchdog::found(Path::new("/dev"), Path::new("/sys/class/watchdog"));
    let shown = if runs_systemd() {
        printed("systemctl", &["show", "--property=RuntimeWatchdogUSec"]).await.ok()
    } else {
        None
    };
    judge_watchdog(device.as_ref(), shown.as_deref())
}

/// The first hardware watchdog, which is the one that systemd takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Watchdog {
    /// What its driver calls it; empty where the kernel does not say.
    identity: String,
    /// Seconds without a sign of life until it resets; empty likewise.
    timeout: String,
}

impl Watchdog {
    fn found(dev: &Path, class: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let folder = class.join("watchdog0");
        let says = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default().trim().to_owned();
        let device = std::fs::metadata(dev.join("watchdog")).is_ok_and(|meta| meta.rdev() != 0);
        (device || folder.is_dir()).then(|| Self { identity: says("identity"), timeout: says("timeout") })
    }
}

impl std::fmt::Display for Watchdog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.identity.is_empty() {
            return f.write_str("is there");
        }
        write!(f, "is there: {}", self.identity)?;
        if self.timeout.is_empty() { Ok(()) } else { write!(f, ", resets after {} s", self.timeout) }
    }
}

fn judge_watchdog(device: Option<&Watchdog>, shown: Option<&str>) -> Answer {
    let Some(device) = device else {
        return look("is missing: there is no /dev/watchdog, so a hung kernel needs a hand");
    };
    match shown.map(|shown| property(shown, "RuntimeWatchdogUSec")) {
        Some("" | "0" | "infinity") => {
            look(format!("{device}; nobody feeds it: set RuntimeWatchdogSec=30s in /etc/systemd/system.conf"))
        }
        Some(every) => ok(format!("{device}; systemd feeds it ({every})")),
        None => look(format!("{device}; whether somebody feeds it is unknown")),
    }
}

/// Who starts the agent again.
pub(super) async fn unit() -> Answer {
    if !runs_systemd() {
        return look("is not used: this machine does not run systemd; whoever starts the agent has to start it again");
    }
    let wanted = "--property=LoadState,ActiveState,Restart,UnitFileState";
    match printed("systemctl", &["show", "bramble-agent@a.service", "bramble-agent@b.service", wanted]).await {
        Ok(shown) => judge_units(&shown),
        Err(why) => failed(format!("cannot be looked at: {why}")),
    }
}

/// Of the two instances one is enabled and runs. The other one runs only while one replaces the other.
fn judge_units(shown: &str) -> Answer {
    let enabled = |unit: &&str| property(unit, "UnitFileState").starts_with("enabled");
    let units: Vec<&str> = shown.split("\n\n").collect();
    // Where neither is, the first one says what is wrong.
    judge_unit(units.iter().copied().find(enabled).or(units.first().copied()).unwrap_or_default())
}

fn judge_unit(shown: &str) -> Answer {
    let is = |name| property(shown, name);
    let run_it = "systemctl enable --now bramble-agent@a";
    match (is("LoadState"), is("Restart"), is("UnitFileState"), is("ActiveState")) {
        ("masked", ..) => failed("is masked: systemctl unmask bramble-agent@a bramble-agent@b"),
        (load, ..) if load != "loaded" => look("is not installed: `bramble-bootstrap install` writes it"),
        (_, restart, ..) if restart != "always" => {
            failed(format!("has Restart={restart}: an agent that ends would stay away; set Restart=always"))
        }
        (_, _, enabled, _) if !enabled.starts_with("enabled") => {
            failed(format!("is {enabled}: the agent would not come back after a reboot; {run_it}"))
        }
        (_, _, _, "active" | "activating" | "reloading") => ok("is enabled, runs and is always restarted"),
        (_, _, _, state) => {
            failed(format!("is {state}: systemctl start it, and look at `journalctl -u 'bramble-agent@*'`"))
        }
    }
}

/// The agent is the only starter of its containers.
const RIVALS: [&str; 2] = ["podman-restart.service", "podman-auto-update.timer"];

pub(super) async fn rivals() -> Answer {
    if !runs_systemd() {
        return ok("are none: this machine does not run systemd");
    }
    let args = ["show", "--property=Id,LoadState,UnitFileState", RIVALS[0], RIVALS[1]];
    match printed("systemctl", &args).await {
        Ok(shown) => judge_rivals(&shown),
        Err(why) => look(format!("cannot be looked at: {why}")),
    }
}

/// Units are shown one after the other, with an empty line between.
fn judge_rivals(shown: &str) -> Answer {
    let enabled =
        |unit: &&str| property(unit, "LoadState") == "loaded" && property(unit, "UnitFileState").starts_with("enabled");
    let found: Vec<&str> = shown.split("\n\n").filter(enabled).map(|unit| property(unit, "Id")).collect();
    match found.as_slice() {
        [] => ok("are none"),
        some => look(format!("would start containers beside the agent: systemctl mask --now {}", some.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::smoke::CheckState::{Failed, Look, Passed};

    use super::*;

    #[test]
    fn room_is_judged_by_bytes_inodes_and_whether_it_can_be_written() {
        let room = Room { free: 4 << 30, total: 8 << 30, inodes_free: 9000, inodes: 10_000, access: Access::ReadWrite };
        let judge = |room| judge_room(Path::new("/a"), room);
        assert_eq!(judge(room), ok("has 4096 MiB of 8192 MiB free at /a"));
        assert_eq!(judge(Room { free: 1 << 20, ..room }).0, Failed);
        assert_eq!(judge(Room { total: 1 << 40, ..room }).0, Passed);
        assert_eq!(judge(Room { free: 1 << 30, total: 1 << 40, ..room }).0, Look);
        assert_eq!(judge(Room { inodes_free: 3, ..room }).1, "has only 3 of 10000 inodes free at /a: remove files");
        assert_eq!(judge(Room { inodes_free: 0, inodes: 0, ..room }).0, Passed, "btrfs does not count them");
        let read_only = judge(Room { access: Access::ReadOnly, ..room });
        assert!(read_only.0 == Failed && read_only.1.contains("dmesg"), "{read_only:?}");
    }

    #[test]
    fn memory_cgroups_and_kernel() {
        let meminfo = "MemTotal:        1000000 kB\nMemFree: 1 kB\nMemAvailable:     500000 kB\n";
        assert_eq!(judge_memory(meminfo), ok("has 488 MiB of 976 MiB available"));
        assert_eq!(judge_memory(&meminfo.replace("500000", "20000")).0, Look);
        assert_eq!(judge_memory("").0, Look);
        assert_eq!(judge_cgroups(Some("cpu memory\n")).0, Passed);
        assert_eq!(judge_cgroups(Some("cpu\n")).0, Look);
        assert_eq!(judge_cgroups(None).0, Look);
        let good = judge_kernel("6.12", &[], "nodev\toverlay\n", "Seccomp:\t0\n");
        assert_eq!(good, ok("6.12 has namespaces, overlay and seccomp"));
        assert_eq!(judge_kernel("6.12", &["net"], "", "").0, Failed);
        assert_eq!(judge_kernel("6.12", &[], "ext4", "").0, Look);
        assert_eq!(judge_kernel("6.12", &[], "overlay", "").0, Look);
    }

    #[test]
    fn the_unit_must_be_enabled_running_and_restarted_for_ever() {
        let unit = |load: &str, restart: &str, enabled: &str, active: &str| {
            judge_unit(&format!("Restart={restart}\nLoadState={load}\nActiveState={active}\nUnitFileState={enabled}\n"))
        };
        assert_eq!(unit("loaded", "always", "enabled", "active").0, Passed);
        assert_eq!(unit("loaded", "no", "enabled", "active").0, Failed);
        assert_eq!(unit("loaded", "always", "disabled", "active").0, Failed);
        assert_eq!(unit("loaded", "always", "enabled", "failed").0, Failed);
        assert_eq!(unit("masked", "always", "masked", "inactive").0, Failed);
        assert_eq!(unit("not-found", "no", "", "inactive").0, Look);
        let both = |a: &str, b: &str| {
            let one = |enabled: &str| {
                format!("Restart=always\nLoadState=loaded\nActiveState=active\nUnitFileState={enabled}\n")
            };
            judge_units(&format!("{}\n{}", one(a), one(b))).0
        };
        assert_eq!((both("enabled", "disabled"), both("disabled", "enabled")), (Passed, Passed));
        assert_eq!(both("disabled", "disabled"), Failed);
    }

    #[test]
    fn rivals_and_watchdog() {
        let unit = |id: &str, state: &str| format!("Id={id}\nLoadState=loaded\nUnitFileState={state}\n");
        let shown = [unit(RIVALS[0], "enabled"), unit(RIVALS[1], "masked")].join("\n");
        assert_eq!(
            judge_rivals(&shown).1,
            "would start containers beside the agent: systemctl mask --now podman-restart.service"
        );
        assert_eq!(judge_rivals(&[unit(RIVALS[0], "masked"), unit(RIVALS[1], "disabled")].join("\n")), ok("are none"));
        let watchdog = Watchdog { identity: "i6300ESB timer".into(), timeout: "30".into() };
        let (verdict, said) = judge_watchdog(Some(&watchdog), Some("RuntimeWatchdogUSec=30s\n"));
        assert_eq!(verdict, Passed);
        assert!(said.contains("i6300ESB timer, resets after 30 s; systemd feeds it (30s)"), "{said}");
        assert_eq!(judge_watchdog(Some(&watchdog), Some("RuntimeWatchdogUSec=0\n")).0, Look);
        assert_eq!(judge_watchdog(Some(&Watchdog::default()), None).0, Look);
        assert_eq!(judge_watchdog(None, Some("RuntimeWatchdogUSec=15s\n")).0, Look);
    }
}
