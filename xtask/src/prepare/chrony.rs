//! chrony's server for tests: Debian's own package, unpacked into the cache and not installed, because installing it would
//! take the machine's time service away from systemd-timesyncd. What is run of it never sets a clock (`-x`).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::paths;
use crate::run::Cmd;

const INSIDE: &str = "usr/sbin/chronyd";

/// The program, fetched on the first call. apt checks the package's signature chain.
///
/// # Errors
/// When apt cannot fetch it.
pub fn chronyd() -> anyhow::Result<PathBuf> {
    let dir = paths::cache().join("bin/chrony");
    if dir.join(INSIDE).is_file() {
        return Ok(dir.join(INSIDE));
    }
    println!("Fetching chrony from Debian into {} (it is not installed)", dir.display());
    // A folder of this process, renamed when whole.
    let work = dir.with_extension(format!("{}.part", std::process::id()));
    let fetched = fetch(&work).and_then(|unpacked| match fs::rename(unpacked, &dir) {
        // Another process was faster.
        Err(_) if dir.join(INSIDE).is_file() => Ok(()),
        renamed => renamed.with_context(|| format!("cannot make {}", dir.display())),
    });
    drop(fs::remove_dir_all(&work));
    fetched.context("cannot fetch the package chrony")?;
    Ok(dir.join(INSIDE))
}

fn fetch(work: &std::path::Path) -> anyhow::Result<PathBuf> {
    let unpacked = work.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    // As root apt would drop its rights to a user who cannot write here.
    let download = Cmd::new("apt-get").args(["-qq", "-o", "APT::Sandbox::User=root", "download", "chrony"]).dir(work);
    download.within(Duration::from_secs(300)).check()?;
    let package = fs::read_dir(work)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .context("apt downloaded no package")?;
    Cmd::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked).check()?;
    Ok(unpacked)
}
