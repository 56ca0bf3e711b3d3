//! The demo image, made here from our own static program: no registry takes part. Decides what the image holds and
//! when it has to be made anew (when its content changed, told by a label).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::podman::Store;
use super::sha256_of;
use crate::paths;
use crate::run::Cmd;

/// The label that says which root file system an image was made from.
const LABEL: &str = "dev.bramble.hello.rootfs";

/// Builds the static program and gives its path. It has its own target folder, because its flags differ.
///
/// # Errors
/// When cargo fails.
pub fn build() -> anyhow::Result<PathBuf> {
    let version = Cmd::new("rustc").arg("-vV").check()?;
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).context("rustc -vV names no host")?;
    let target = paths::target().join("hello");
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default() + " -C target-feature=+crt-static";
    Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--release", "--package", "bramble-hello", "--target", host, "--target-dir"])
        .arg(&target)
        .dir(paths::checkout())
        .env("RUSTFLAGS", flags.trim())
        .without_env("CARGO_ENCODED_RUSTFLAGS")
        .within(Duration::from_secs(900))
        .check()
        .context("cannot build images/hello")?;
    Ok(target.join(host).join("release/bramble-hello"))
}

/// Packs the program into the image's root file system, the same bytes for the same program, and gives the tar's path.
///
/// # Errors
/// When the build or tar fails.
pub fn rootfs() -> anyhow::Result<PathBuf> {
    packed(&build()?, &paths::target().join("hello"))
}

/// Packs a program likewise, built for whatever machine, into the folder `dir`.
///
/// # Errors
/// When tar fails.
pub fn packed(program: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let digest = sha256_of(program)?;
    let tar = dir.join(format!("rootfs-{}.tar", &digest[..16]));
    if tar.is_file() {
        return Ok(tar);
    }
    let work = tar.with_extension(format!("{}.part", std::process::id()));
    for dir in ["data", "tmp"] {
        fs::create_dir_all(work.join(dir)).with_context(|| format!("cannot make {}", work.display()))?;
    }
    fs::copy(program, work.join("hello")).with_context(|| format!("cannot copy {}", program.display()))?;
    let beside = work.with_extension("tar.new");
    let packed = Cmd::new("tar")
        .args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"])
        .args(["--mode=u=rwX,go=rX", "--file"])
        .arg(&beside)
        .arg("--directory")
        .arg(&work)
        .args(["hello", "data", "tmp"])
        .check();
    drop(fs::remove_dir_all(&work));
    packed?;
    fs::rename(&beside, &tar).with_context(|| format!("cannot write {}", tar.display()))?;
    Ok(tar)
}

/// Loads `localhost/bramble-hello:<version>` into a device's store, unless it is there already, and gives its name.
///
/// # Errors
/// When the build or Podman fails.
pub fn image(store: &Store, version: u32) -> anyhow::Result<String> {
    let tar = rootfs()?;
    let mark = sha256_of(&tar)?;
    let name = format!("localhost/bramble-hello:{version}");
    let format = format!("{{{{index .Config.Labels \"{LABEL}\"}}}}");
    let inspect = store.podman().args(["image", "inspect", "--format", &format, &name]).output()?;
    if inspect.status.success() && inspect.stdout.trim() == mark {
        return Ok(name);
    }
    let mut import = store.podman().args(["import", "--quiet"]);
    for change in [
        "ENTRYPOINT [\"/hello\"]".to_string(),
        "CMD [\"serve\"]".to_string(),
        format!("ENV HELLO_VERSION={version}"),
        "EXPOSE 80".to_string(),
        format!("LABEL {LABEL}={mark}"),
    ] {
        import = import.arg("--change").arg(change);
    }
    import.arg(&tar).arg(&name).check().with_context(|| format!("cannot load {name} into the device's store"))?;
    Ok(name)
}
