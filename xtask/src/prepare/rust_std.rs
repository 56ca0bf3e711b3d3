//! The source of Rust's standard library out of Debian's `rust-src`, for compilers that have no target for the device and
//! cannot fetch one. It lies in a suite that most machines do not list, so it is asked for with lists of our own: what the
//! machine lists stays as it is, and nothing is installed. Decides which version fits a compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::unpacked::unpack;
use super::{mirror, whole};
use crate::paths;
use crate::run::Cmd;

const PACKAGE: &str = "rust-src";
/// Has the package of every Rust release of the last months, side by side.
const SUITE: &str = "trixie-backports";

/// The folder `library` for this version of Rust, such as `1.95.0`; fetched on the first call. apt checks the package's
/// signature chain.
///
/// # Errors
/// When this is no Debian, or its mirror has no package of that version.
pub(crate) fn debian(rust: &str) -> anyhow::Result<PathBuf> {
    let dir = paths::cache().join("rust-std").join(rust);
    let library = dir.join("library");
    if library.is_dir() {
        return Ok(library);
    }
    println!("Fetching {PACKAGE} {rust} from Debian's {SUITE} into {} (it is not installed)", dir.display());
    let work = paths::cache().join(format!("rust-std/{rust}-{}.part", std::process::id()));
    let unpacked = fetch(rust, &work);
    let kept = unpacked.and_then(|made| {
        fs::create_dir_all(&dir)?;
        whole(&made, &library, || library.is_dir())
    });
    drop(fs::remove_dir_all(&work));
    kept.with_context(|| format!("cannot get {PACKAGE} {rust} from {SUITE}"))?;
    Ok(library)
}

fn fetch(rust: &str, work: &Path) -> anyhow::Result<PathBuf> {
    for dir in ["lists/partial", "cache/archives/partial", "unpacked"] {
        fs::create_dir_all(work.join(dir)).with_context(|| format!("cannot make {}", work.display()))?;
    }
    let mirror = mirror()?;
    let sources = work.join("suite.list");
    let signed_by = mirror.signed_by.iter().map(|file| format!("[signed-by={file}] ")).collect::<String>();
    fs::write(&sources, format!("deb {signed_by}{} {SUITE} main\n", mirror.uri))?;
    let apt = |program| {
        let option = |name: &str, value: &str| ["-o".to_owned(), format!("{name}={value}")];
        let place = |inside: &str| work.join(inside).display().to_string();
        Cmd::new(program)
            .dir(work)
            .args(option("Dir::Etc::sourcelist", &sources.display().to_string()))
            .args(option("Dir::Etc::sourceparts", "-"))
            .args(option("Dir::State::lists", &place("lists")))
            .args(option("Dir::Cache", &place("cache")))
            // As root apt would drop its rights to a user who cannot write here.
            .args(option("APT::Sandbox::User", "root"))
            .within(Duration::from_secs(300))
    };
    apt("apt-get").args(["-qq", "update"]).check()?;
    let known = apt("apt-cache").args(["madison", PACKAGE]).check()?;
    let version = version_for(rust, &known).with_context(|| {
        let known: Vec<&str> = versions(&known).collect();
        format!("it has {PACKAGE} for {}", if known.is_empty() { "no Rust".into() } else { known.join(", ") })
    })?;
    apt("apt-get").args(["-qq", "download"]).arg(format!("{PACKAGE}={version}")).check()?;
    let unpacked = work.join("unpacked");
    unpack(work, &unpacked, Duration::from_secs(300))?;
    Ok(unpacked.join(format!("usr/src/rustc-{rust}/library")))
}

/// The package of this Rust release, out of what `apt-cache madison` says.
fn version_for<'a>(rust: &str, madison: &'a str) -> Option<&'a str> {
    versions(madison).find(|version| version.strip_prefix(rust).is_some_and(|rest| rest.starts_with(['+', '-', '~'])))
}

fn versions(madison: &str) -> impl Iterator<Item = &str> {
    madison.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_the_compilers_own_version() {
        let madison =
            "  rust-src | 1.97.1+dfsg1-1~bpo13+1 | http://m.example/debian trixie-backports/main amd64 Packages
  rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://m.example/debian trixie-backports/main amd64 Packages
  rust-src | 1.95.01-1 | http://m.example/debian trixie-backports/main amd64 Packages\n";
        assert_eq!(version_for("1.95.0", madison), Some("1.95.0+dfsg1-2~bpo13+1"));
        assert_eq!(version_for("1.97", madison), None);
        assert_eq!(version_for("1.95.0", ""), None);
    }
}
