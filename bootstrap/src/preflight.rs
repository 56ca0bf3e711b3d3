//! What must be so before anything is touched, and what is said when it is not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bramble_contracts::token::EnrollmentToken;
use bramble_contracts::v1::AgentVersion;

use crate::Install;
use crate::process::output;

/// Stands in every agent before its version (`agent/src/version.rs`).
const MARK: &[u8] = b"bramble-agent version ";
const FREE_MIN: u64 = 512 << 20;
/// Older ones lack what the agent uses of libpod's API.
const PODMAN_MIN: (u32, u32) = (4, 3);

/// What Podman and the agent start beside themselves, as the package that brings it and its program's place. Debian only
/// recommends some of them, so a machine with Podman may lack them.
const HELPERS: [(&str, &str); 6] = [
    ("crun", "/usr/bin/crun"),
    ("conmon", "/usr/bin/conmon"),
    ("netavark", "/usr/lib/podman/netavark"),
    ("aardvark-dns", "/usr/lib/podman/aardvark-dns"),
    // Holds a pod together.
    ("catatonit", "/usr/bin/catatonit"),
    ("nftables", "/usr/sbin/nft"),
];

/// What the checks found.
pub(crate) struct Found {
    /// The agent's program.
    pub(crate) agent: PathBuf,
    /// Its version, as it says.
    pub(crate) version: String,
    /// The token's text; none for an image.
    pub(crate) token: Option<String>,
    /// What works and should be looked at.
    pub(crate) warnings: Vec<String>,
}

/// Checks everything. Touches nothing.
pub(crate) fn check(wish: &Install) -> anyhow::Result<Found> {
    wish.coordinator.as_deref().map_or(Ok(()), coordinator)?;
    let token = wish.token_file.as_deref().map(token).transpose()?;
    let (agent, version) = agent(wish)?;
    let mut warnings = vec![];
    ensure!(!(wish.image && is_this_machine(wish)), "--image is for a folder, not for this machine: use --root DIR");
    if is_this_machine(wish) {
        ensure!(nix::unistd::geteuid().is_root(), "this needs root: run it with sudo");
        ensure!(Path::new("/run/systemd/system").is_dir(), "this machine does not run systemd, which starts the agent");
        podman()?;
        nftables()?;
        helpers(&wish.root)?;
        warnings.extend(cgroups(Path::new("/sys/fs/cgroup/cgroup.controllers")));
        disk(&wish.root)?;
    } else {
        ensure!(wish.root.is_dir(), "{} is not a folder", wish.root.display());
    }
    Ok(Found { agent, version, token, warnings })
}

/// Not an image's folder, but the machine itself.
pub(crate) fn is_this_machine(wish: &Install) -> bool {
    wish.root == Path::new("/")
}

pub(crate) fn coordinator(url: &str) -> anyhow::Result<()> {
    let host = |rest: &str| rest.split(['/', ':']).next().unwrap_or_default().to_owned();
    if let Some(rest) = url.strip_prefix("https://") {
        ensure!(!host(rest).is_empty(), "--coordinator {url:?} names no host");
        return Ok(());
    }
    let loopback =
        |rest: &str| rest.starts_with("[::1]") || host(rest) == "localhost" || host(rest).starts_with("127.");
    let plain = url.strip_prefix("http://").is_some_and(loopback);
    ensure!(plain, "--coordinator {url:?}: use https://, or http:// for a coordinator on this very machine");
    Ok(())
}

fn token(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the token in {}", path.display()))?;
    let token: EnrollmentToken = text.parse().with_context(|| format!("{}", path.display()))?;
    Ok(format!("{}\n", *token.reveal()))
}

fn agent(wish: &Install) -> anyhow::Result<(PathBuf, String)> {
    let path = match &wish.agent {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("cannot find this program")?.with_file_name("bramble-agent"),
    };
    let mode = fs::metadata(&path).with_context(|| format!("the agent's program {} (see --agent)", path.display()))?;
    ensure!(mode.is_file() && mode.permissions().mode() & 0o111 != 0, "{} is not a program", path.display());
    let version = if wish.image { written_version(&path)? } else { told_version(&path)? };
    let plain = !version.is_empty() && version.chars().all(|c| c.is_ascii_alphanumeric() || ".-+".contains(c));
    ensure!(plain && !version.starts_with('.'), "{} says its version is {version:?}: it is no agent", path.display());
    Ok((path, version))
}

fn told_version(program: &Path) -> anyhow::Result<String> {
    let said =
        output(program, &["version"]).context("the agent's program does not run here: is it for this processor?")?;
    Ok(said.trim().to_owned())
}

/// What stands in the program behind its mark: one for another processor cannot be asked.
fn written_version(program: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let after =
        bytes.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK).map(|(at, _)| at + MARK.len());
    let number = |at: usize| {
        let rest = bytes[at..].iter().copied().take(64);
        let text: String =
            rest.take_while(|b| b.is_ascii_alphanumeric() || b".-+".contains(b)).map(char::from).collect();
        versions_in(&text).next()
    };
    let found = after.filter_map(number).next();
    found.with_context(|| format!("{} carries no version: it is no agent of Bramble", program.display()))
}

/// Other words may stand right behind it.
fn versions_in(text: &str) -> impl Iterator<Item = String> {
    (1..=text.len()).rev().map(|end| &text[..end]).filter(|t| t.parse::<AgentVersion>().is_ok()).map(str::to_owned)
}

fn podman() -> anyhow::Result<()> {
    let program = Path::new("/usr/bin/podman");
    ensure!(program.exists(), "Podman is missing: apt-get install podman netavark aardvark-dns");
    let said = output(program, &["--version"])?;
    let Some(version) = podman_version(&said) else { bail!("cannot tell the version of Podman from {said:?}") };
    let (major, minor) = PODMAN_MIN;
    ensure!(
        version >= PODMAN_MIN,
        "Podman is {}, at least {major}.{minor} is needed: use Debian 12 or newer",
        said.trim()
    );
    Ok(())
}

fn helpers(root: &Path) -> anyhow::Result<()> {
    let there = |place: &str| root.join(place.trim_start_matches('/')).exists();
    let missing: Vec<&str> = HELPERS.iter().filter(|(_, place)| !there(place)).map(|(package, _)| *package).collect();
    let missing = missing.join(" ");
    ensure!(missing.is_empty(), "apps cannot run without {missing}: apt-get install {missing}");
    Ok(())
}

/// Leads the host ports of deployments that hand over start first.
fn nftables() -> anyhow::Result<()> {
    let there = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"].iter().any(|path| Path::new(path).exists());
    ensure!(there, "nftables is missing: apt-get install nftables");
    Ok(())
}

fn podman_version(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.split_whitespace().last()?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn cgroups(controllers: &Path) -> Option<String> {
    match fs::read_to_string(controllers) {
        Ok(text) if text.split_whitespace().any(|name| name == "memory") => None,
        Ok(_) => Some(
            "memory limits of apps have no effect: add cgroup_enable=memory to /boot/firmware/cmdline.txt and reboot"
                .into(),
        ),
        Err(_) => {
            Some("this machine does not use cgroup v2: memory limits and reports of killed apps are less exact".into())
        }
    }
}

fn disk(root: &Path) -> anyhow::Result<()> {
    let stat = nix::sys::statvfs::statvfs(root).with_context(|| format!("cannot look at {}", root.display()))?;
    #[allow(clippy::useless_conversion, reason = "these are narrower on 32-bit machines")]
    let free = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
    ensure!(free >= FREE_MIN, "only {} MiB free, {} MiB are needed: make room", free >> 20, FREE_MIN >> 20);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_only() {
        for good in ["https://fleet.example:8443", "http://127.0.0.1:7980", "http://[::1]:1", "http://localhost:1"] {
            assert!(coordinator(good).is_ok(), "{good}");
        }
        for bad in ["http://fleet.example", "http://localhost.example", "fleet.example", "https://", ""] {
            assert!(coordinator(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_missing_helper_is_named_with_its_package() {
        let dir = tempfile::tempdir().unwrap();
        for (_, place) in HELPERS.iter().filter(|(package, _)| *package != "catatonit") {
            let path = dir.path().join(&place[1..]);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let said = helpers(dir.path()).unwrap_err().to_string();
        assert_eq!(said, "apps cannot run without catatonit: apt-get install catatonit");
        fs::write(dir.path().join("usr/bin/catatonit"), "").unwrap();
        assert!(helpers(dir.path()).is_ok());
    }

    #[test]
    fn versions_of_podman_are_compared_as_numbers() {
        assert_eq!(podman_version("podman version 4.3.1\n"), Some((4, 3)));
        assert!(podman_version("podman version 10.0.0").unwrap() > PODMAN_MIN);
        assert_eq!(podman_version("podman"), None);
    }

    #[test]
    fn a_missing_memory_controller_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("controllers");
        assert!(cgroups(&path).unwrap().contains("cgroup v2"));
        fs::write(&path, "cpu io pids\n").unwrap();
        assert!(cgroups(&path).unwrap().contains("cgroup_enable=memory"));
        fs::write(&path, "cpu memory\n").unwrap();
        assert_eq!(cgroups(&path), None);
    }
}
