//! The image that virtual Pis boot: the recipe `virt`, with the demo image on it, because a virtual Pi reaches no
//! registry, and for tests with the control channel; and a card without Bramble. Decides which one; the image that the
//! variable `BRAMBLE_VIRT_IMAGE` names is taken as it is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bramble_images::Programs;
use xtask::{cross, paths, prepare};

/// Where a stock card has the programs of a release: where a new one makes no new initramfs.
const RELEASE: &str = "/var/lib/bramble-release";
/// The one of them that is run there.
pub const STOCK_BOOTSTRAP: &str = "/var/lib/bramble-release/bramble-bootstrap";

/// Whom it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A person.
    Demo,
    /// Tests: root's shell is served on a port of the machine.
    Test,
}

/// Makes it, or finds it made of the same parts.
///
/// # Errors
/// When this machine cannot make images, or a part cannot be built.
pub fn make(kind: Kind) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("BRAMBLE_VIRT_IMAGE") {
        return Ok(path.into());
    }
    let mut recipe = bramble_images::recipe("virt")?;
    recipe.overlay.extend([overlay("demo"), demo_image()?]);
    match kind {
        Kind::Demo => recipe.name.push_str("-demo"),
        Kind::Test => {
            recipe.name.push_str("-test");
            recipe.overlay.push(overlay("test"));
        }
    }
    Ok(xtask::image::cached(&recipe)?.disk)
}

/// [`make`] for tests.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn for_tests() -> PathBuf {
    make(Kind::Test).unwrap_or_else(|err| panic!("cannot make the image: {err:#}"))
}

/// The card of a device that has nothing of ours yet but the programs of a release, with the control channel and the demo
/// image: one FAT, and root on one partition.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn stock(mib: u64) -> PathBuf {
    make_stock(mib).unwrap_or_else(|err| panic!("cannot make a stock card: {err:#}"))
}

fn make_stock(mib: u64) -> anyhow::Result<PathBuf> {
    xtask::image::ready()?;
    let mut recipe = bramble_images::recipe("virt")?;
    recipe.name.push_str("-stock");
    recipe.initramfs.modules.retain(|module| !module.starts_with("dm_") && module != "i6300esb");
    recipe.initramfs.files.clear();
    // Under emulation devices appear slowly.
    recipe.boot.words.push("systemd.default_device_timeout_sec=600".into());
    let tree = paths::target().join("virtual-pi/stock");
    let release = tree.join(RELEASE.trim_start_matches('/'));
    fs::create_dir_all(&release).context("cannot make the overlay")?;
    let Programs { agent, bootstrap, bootguard } = xtask::image::programs()?;
    for (name, program) in [("agent", agent), ("bootstrap", bootstrap), ("bootguard", bootguard)] {
        let to = release.join(format!("bramble-{name}"));
        fs::copy(program, &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    recipe.overlay.extend([overlay("test"), overlay("stock"), overlay("demo"), demo_image()?, tree]);
    Ok(bramble_images::plain(&recipe, mib, &xtask::image::cache())?)
}

fn overlay(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("overlay").join(name)
}

/// A folder to lay over the root: the demo program, packed for the device.
fn demo_image() -> anyhow::Result<PathBuf> {
    let dir = paths::target().join("virtual-pi/demo-image");
    let packed = prepare::hello_packed(&cross::demo()?, &paths::target().join("virtual-pi"))?;
    let images = dir.join("usr/share/bramble/images");
    fs::create_dir_all(&images).with_context(|| format!("cannot make {}", images.display()))?;
    let tar = images.join("bramble-hello.tar");
    // Whoever makes an image beside us may be reading it, whole.
    let new = dir.with_extension(format!("{}.new", std::process::id()));
    let put = fs::copy(&packed, &new).and_then(|_| fs::rename(&new, &tar));
    put.with_context(|| format!("cannot write {}", tar.display()))?;
    Ok(dir)
}
