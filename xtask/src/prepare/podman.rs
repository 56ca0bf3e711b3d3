//! Podman's surroundings for devices that share one development machine: the control groups crun wants, and a
//! `containers.conf` with a network of its own. Jobs of the developer's front door, never of the agent: a real device
//! has systemd and one Podman.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::sha256;
use crate::run::Cmd;

/// What Podman asks for containers of root unless told otherwise.
const PODMAN_NOFILE: u64 = 1_048_576;

/// One device's own Podman: its images, containers and networks are apart from every other's.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    runroot: PathBuf,
    tmpdir: PathBuf,
    containers_conf: PathBuf,
}

impl Store {
    /// The store as an agent with these settings uses it.
    #[must_use]
    pub fn of_device(apps_dir: &Path, run_dir: &Path, containers_conf: &Path) -> Self {
        Store {
            root: apps_dir.join("store"),
            runroot: run_dir.join("store"),
            tmpdir: run_dir.join("tmp"),
            containers_conf: containers_conf.into(),
        }
    }

    /// Podman's command line for this store.
    #[must_use]
    pub fn podman(&self) -> Cmd {
        Cmd::new("podman")
            .arg("--root")
            .arg(&self.root)
            .arg("--runroot")
            .arg(&self.runroot)
            .arg("--tmpdir")
            .arg(&self.tmpdir)
            .env("CONTAINERS_CONF", &self.containers_conf)
    }

    /// Removes every container, its mounts and its network, and the agent's tables that lead host ports to them. Images
    /// and volumes stay.
    ///
    /// # Errors
    /// When Podman or nft fails.
    pub fn remove_containers(&self) -> anyhow::Result<()> {
        self.remove_tables().context("cannot remove the device's nftables tables")?;
        if !self.root.exists() {
            return Ok(());
        }
        let all = ["--all", "--force", "--time", "2"];
        self.podman().args(["pod", "rm"]).args(all).check().context("cannot remove the device's pods")?;
        self.podman().arg("rm").args(all).check().context("cannot remove the device's containers")?;
        Ok(())
    }
}

impl Store {
    /// Tables with the agent's mark, which it makes of where the apps lie.
    fn remove_tables(&self) -> anyhow::Result<()> {
        let apps = self.root.parent().unwrap_or(&self.root);
        let mark = format!("bramble-{}-", &sha256(apps.as_os_str().as_encoded_bytes())[..8]);
        let tables = Cmd::new("nft").args(["list", "tables", "inet"]).output()?;
        for table in tables.stdout.lines().filter_map(|line| line.strip_prefix("table inet ")) {
            if table.starts_with(&mark) {
                Cmd::new("nft").args(["delete", "table", "inet", table]).check()?;
            }
        }
        Ok(())
    }
}

/// Mounts the `hugetlb` control group where the machine has cgroup v1 in hybrid mode without it: crun refuses such
/// a machine. Does nothing elsewhere, and nothing when it is there.
///
/// # Errors
/// When the mount is refused, as it is to anyone but root.
pub fn cgroups() -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    if !lacks_hugetlb(&mounts, &controllers) {
        return Ok(());
    }
    let dir = "/sys/fs/cgroup/hugetlb";
    println!("Mounting the control group hierarchy {dir}, without which crun starts no container here");
    fs::create_dir_all(dir).with_context(|| format!("cannot make {dir}"))?;
    mount(Some("cgroup"), dir, Some("cgroup"), MsFlags::empty(), Some("hugetlb"))
        .with_context(|| format!("cannot mount {dir}"))
}

fn lacks_hugetlb(mounts: &str, controllers: &str) -> bool {
    let at = |place: &str| mounts.lines().any(|line| line.split(' ').nth(1) == Some(place));
    let known = controllers.lines().any(|line| line.split_whitespace().next() == Some("hugetlb"));
    at("/sys/fs/cgroup/unified") && known && !at("/sys/fs/cgroup/hugetlb")
}

/// Writes `<dir>/containers.conf` and the network behind it, and gives its path: the value of `CONTAINERS_CONF` for
/// an agent whose device is to live beside others on this machine. The same folder always gets the same network.
///
/// # Errors
/// When the files cannot be written or no subnet is free.
pub fn podman_env(dir: &Path) -> anyhow::Result<PathBuf> {
    let networks = dir.join("networks");
    fs::create_dir_all(&networks).with_context(|| format!("cannot make {}", networks.display()))?;
    let subnet = subnet(dir, Path::new("/run/bramble-subnets"))?;
    let bridge = format!("brm-{}", &sha256(dir.as_os_str().as_encoded_bytes())[..8]);
    replace(&networks.join(format!("{bridge}.json")), &network(&bridge, subnet, Families::here()))?;
    let conf = dir.join("containers.conf");
    let systemd = Path::new("/run/systemd/system").is_dir();
    replace(&conf, &containers_conf(&networks, &bridge, systemd, may_raise_files()))?;
    Ok(conf)
}

fn containers_conf(networks: &Path, network: &str, systemd: bool, may_raise: bool) -> String {
    let mut text = String::from("# Made by `cargo xtask`; made anew at every start.\n[containers]\n");
    text.push_str("log_driver = \"k8s-file\"\n");
    if !may_raise {
        text.push_str("default_ulimits = [\"nofile=20000:20000\", \"nproc=20000:20000\"]\n");
    }
    text.push_str("[engine]\nevents_logger = \"file\"\n");
    if !systemd {
        text.push_str("cgroup_manager = \"cgroupfs\"\n");
    }
    // A name of its own: netavark's chains are named after it, and one device's end would take another's ports away.
    text.push_str(&format!("[network]\nnetwork_backend = \"netavark\"\ndefault_network = \"{network}\"\n"));
    text.push_str(&format!("network_config_dir = {:?}\n", networks.display().to_string()));
    text
}

/// Which addresses a machine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    /// IPv4 and IPv6.
    Both,
    /// IPv6 is switched off.
    Ipv4,
}

impl Families {
    fn here() -> Self {
        if Path::new("/proc/net/if_inet6").exists() { Self::Both } else { Self::Ipv4 }
    }
}

/// Podman's default network, with a bridge and subnets that no other device on this machine has; of both families where
/// the machine knows both.
fn network(bridge: &str, (high, low): (u8, u8), families: Families) -> String {
    let ipv6 = families == Families::Both;
    let id = sha256(bridge.as_bytes());
    let mut subnets =
        vec![serde_json::json!({ "subnet": format!("10.{high}.{low}.0/24"), "gateway": format!("10.{high}.{low}.1") })];
    if ipv6 {
        let net = format!("fd62:6d62:{high:02x}{low:02x}:");
        subnets.push(serde_json::json!({ "subnet": format!("{net}:/64"), "gateway": format!("{net}:1") }));
    }
    let network = serde_json::json!({
        "name": bridge,
        "id": id,
        "driver": "bridge",
        "network_interface": bridge,
        "created": "2026-01-01T00:00:00Z",
        "subnets": subnets,
        "ipv6_enabled": ipv6,
        "internal": false,
        "dns_enabled": false,
        "ipam_options": { "driver": "host-local" },
    });
    format!("{network:#}\n")
}

/// Takes 10.64.0.0/24 … 10.127.255.0/24, one for each folder; `claims` remembers whose is whose until a reboot, or
/// until the folder is gone and somebody else needs it.
fn subnet(dir: &Path, claims: &Path) -> anyhow::Result<(u8, u8)> {
    const COUNT: u16 = 64 * 256;
    fs::create_dir_all(claims).with_context(|| format!("cannot make {}", claims.display()))?;
    let name = dir.as_os_str().as_encoded_bytes();
    let first = u16::from_str_radix(&sha256(name)[..4], 16).expect("invariant: four hex digits") % COUNT;
    for n in (0..COUNT).map(|step| (first + step) % COUNT) {
        let claim = claims.join(n.to_string());
        if take(&claim, name).with_context(|| format!("cannot write {}", claim.display()))? {
            let high = 64 + u8::try_from(n / 256).expect("invariant: below 64");
            return Ok((high, u8::try_from(n % 256).expect("invariant: below 256")));
        }
    }
    anyhow::bail!("every subnet is claimed: remove {}", claims.display())
}

/// Whether the claim is, or has become, that of `name`.
fn take(claim: &Path, name: &[u8]) -> std::io::Result<bool> {
    for _ in 0..2 {
        match OpenOptions::new().write(true).create_new(true).open(claim) {
            Ok(mut file) => return file.write_all(name).map(|()| true),
            Err(err) if err.kind() == ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err),
        }
        let owner = fs::read(claim).unwrap_or_default();
        let owner_lives = Path::new(OsStr::from_bytes(&owner)).exists();
        // An empty claim is one that somebody is just writing.
        if owner == name || owner.is_empty() || owner_lives {
            return Ok(owner == name);
        }
        // The renaming succeeds for one alone; the other finds a new claim, or takes the next.
        let stale = claim.with_extension(format!("stale-{}", std::process::id()));
        if fs::rename(claim, &stale).is_err() {
            return Ok(false);
        }
        fs::remove_file(&stale)?;
    }
    Ok(false)
}

/// Whether Podman may give containers the open files it wants to: root without CAP_SYS_RESOURCE may not.
fn may_raise_files() -> bool {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= PODMAN_NOFILE => true,
        Ok((soft, _)) => setrlimit(Resource::RLIMIT_NOFILE, soft, PODMAN_NOFILE).is_ok(),
        Err(_) => false,
    }
}

/// Writes beside and renames, and only where something differs: others may be reading.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    if fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let beside = file.with_extension(format!("{}.new", std::process::id()));
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                          cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
    const V2: &str = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
    const KNOWN: &str = "#subsys_name\thierarchy\nmemory\t5\t2\t1\nhugetlb\t0\t1\t1\n";

    #[test]
    fn only_a_hybrid_machine_without_hugetlb_is_mended() {
        assert!(lacks_hugetlb(HYBRID, KNOWN));
        assert!(!lacks_hugetlb(HYBRID, "memory\t5\t2\t1\n"));
        assert!(!lacks_hugetlb(&format!("{HYBRID}cgroup /sys/fs/cgroup/hugetlb cgroup rw 0 0\n"), KNOWN));
        assert!(!lacks_hugetlb(V2, KNOWN));
    }

    #[test]
    fn the_configuration_says_only_what_the_machine_needs() {
        let here = containers_conf(Path::new("/x/networks"), "brm-1", false, false);
        assert!(here.contains("cgroup_manager = \"cgroupfs\"\n") && here.contains("nofile=20000:20000"), "{here}");
        assert!(here.contains("network_config_dir = \"/x/networks\"\n"), "{here}");
        let normal = containers_conf(Path::new("/x/networks"), "brm-1", true, true);
        assert!(!normal.contains("cgroup_manager") && !normal.contains("ulimits"), "{normal}");
    }

    #[test]
    fn every_folder_has_a_subnet_of_its_own_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let claims = dir.path().join("claims");
        let folders: Vec<PathBuf> = (0..300).map(|n| dir.path().join(format!("device-{n}"))).collect();
        folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
        let first: Vec<_> = folders.iter().map(|f| subnet(f, &claims).unwrap()).collect();
        let again: Vec<_> = folders.iter().map(|f| subnet(f, &claims).unwrap()).collect();
        assert_eq!(first, again);
        let distinct: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), folders.len());
        assert!(first.iter().all(|(high, _)| (64..128).contains(high)));
    }

    #[test]
    fn a_claim_outlives_its_folder_only_until_somebody_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let claim = dir.path().join("7");
        let owner = dir.path().join("owner");
        fs::create_dir(&owner).unwrap();
        assert!(take(&claim, owner.as_os_str().as_bytes()).unwrap());
        assert!(!take(&claim, b"/somebody/else").unwrap());
        fs::remove_dir(&owner).unwrap();
        assert!(take(&claim, b"/somebody/else").unwrap());
        fs::write(&claim, b"").unwrap();
        assert!(!take(&claim, b"/a/third").unwrap(), "a claim that is just being written is not taken");
    }
}
