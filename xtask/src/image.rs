//! `cargo xtask image`: an image of an SD card, and what is handed out with it. Decides where its parts come from on this
//! machine and where it goes; how it is made is `bramble-images`' matter.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bramble_images::{Image, Programs, Recipe, artefacts};

use crate::clock::Watch;
use crate::prepare::{self, Need};
use crate::{cross, fleet, paths};

/// The address that stands in Imager's list until it is published somewhere.
const BASE: &str = "https://images.example/bramble";

/// Where Debian's tarballs and images are kept.
#[must_use]
pub fn cache() -> PathBuf {
    paths::cache().join("images")
}

/// Makes an image of a recipe, or finds it made: in the cache.
///
/// # Errors
/// When this machine cannot make images, or it would not work.
pub fn cached(recipe: &Recipe) -> anyhow::Result<Image> {
    ready()?;
    let programs = programs()?;
    let image = bramble_images::build(recipe, &programs, &cache(), &cache());
    image.with_context(|| format!("cannot make the image {}", recipe.name))
}

/// Installs what makes images, if it may.
///
/// # Errors
/// When it cannot.
pub fn ready() -> anyhow::Result<()> {
    if fleet::is_root() {
        prepare::packages(Need::VirtualPi)?;
        prepare::aarch64()?;
    }
    Ok(())
}

/// Makes the image of a board and writes what is handed out with it into `out`.
///
/// # Errors
/// When it cannot be made or written.
pub fn image(board: &str, out: Option<&Path>) -> anyhow::Result<()> {
    let recipe = bramble_images::recipe(board)?;
    if !recipe.unproven.is_empty() {
        println!("Unproven: {}", recipe.unproven);
    }
    let watch = Watch::start();
    let image = cached(&recipe)?;
    println!("image    {} ({:.0} s)", image.disk.display(), watch.elapsed().as_secs_f64());
    let out = out.map_or_else(|| paths::target().join("images"), Path::to_path_buf);
    let watch = Watch::start();
    let written = artefacts::write(&image, BASE, &out)?;
    for (what, path) in [
        ("packed", &written.packed),
        ("digest", &written.sha256),
        ("map", &written.bmap),
        ("contents", &written.sbom),
        ("os_list", &written.os_list),
    ] {
        println!("{what:<8} {}", path.display());
    }
    println!("packed in {:.0} s; its first partition holds bramble.toml, the seed", watch.elapsed().as_secs_f64());
    Ok(())
}

/// Our programs for the device: built where they changed, or those of the folder that `BRAMBLE_CROSS_DIR` names.
///
/// # Errors
/// When they cannot be built.
pub fn programs() -> anyhow::Result<Programs> {
    let cross::Programs { agent, bootstrap, bootguard } = match std::env::var_os("BRAMBLE_CROSS_DIR") {
        Some(dir) => cross::Programs::in_dir(Path::new(&dir)),
        None => cross::programs()?,
    };
    Ok(Programs { agent, bootstrap, bootguard })
}
