//! Servers for tests that are Debian packages, unpacked into the cache and not installed: installing them would change the
//! machine. chrony would take the time service away from systemd-timesyncd, docker-registry would start a registry that
//! everybody reaches. What is run of chrony never sets a clock (`-x`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::whole;
use crate::paths;
use crate::run::Cmd;

/// chrony's server, fetched on the first call. apt checks the package's signature chain.
///
/// # Errors
/// When apt cannot fetch it.
pub fn chronyd() -> anyhow::Result<PathBuf> {
    program("chrony", "usr/sbin/chronyd")
}

/// A registry of container images, likewise.
///
/// # Errors
/// When apt cannot fetch it.
pub fn docker_registry() -> anyhow::Result<PathBuf> {
    program("docker-registry", "usr/bin/docker-registry")
}

fn program(package: &str, inside: &str) -> anyhow::Result<PathBuf> {
    let dir = paths::cache().join("bin").join(package);
    if dir.join(inside).is_file() {
        return Ok(dir.join(inside));
    }
    println!("Fetching {package} from Debian into {} (it is not installed)", dir.display());
    // A folder of this process, renamed when whole.
    let work = dir.with_extension(format!("{}.part", std::process::id()));
    let fetched = fetch(package, &work).and_then(|unpacked| whole(&unpacked, &dir, || dir.join(inside).is_file()));
    drop(fs::remove_dir_all(&work));
    fetched.with_context(|| format!("cannot fetch the package {package}"))?;
    Ok(dir.join(inside))
}

fn fetch(package: &str, work: &Path) -> anyhow::Result<PathBuf> {
    let unpacked = work.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    // As root apt would drop its rights to a user who cannot write here.
    let download = Cmd::new("apt-get").args(["-qq", "-o", "APT::Sandbox::User=root", "download", package]).dir(work);
    download.within(Duration::from_secs(300)).check()?;
    unpack(work, &unpacked, Duration::from_secs(60))?;
    Ok(unpacked)
}

/// Unpacks the package that apt has downloaded into a folder.
pub(super) fn unpack(downloaded: &Path, into: &Path, within: Duration) -> anyhow::Result<()> {
    let package = fs::read_dir(downloaded)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("apt downloaded no package")?;
    Cmd::new("dpkg-deb").arg("-x").arg(&package).arg(into).within(within).check()?;
    Ok(())
}
