//! What is handed out with an image: packed, with digests, a block map, a list of what is in it, and the entry for Raspberry Pi
//! Imager. Decides names and settings; all of it is the same for the same image.

mod bmap;
mod os_list;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::tool::Tool;
use crate::{Error, Image, digest};

pub use os_list::problems as os_list_problems;

/// The files of a release of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artefacts {
    /// The packed image.
    pub packed: PathBuf,
    /// `sha256sum -c` reads it: of the packed image.
    pub sha256: PathBuf,
    /// `bmaptool` reads it.
    pub bmap: PathBuf,
    /// What is in the image (SPDX 2.3).
    pub sbom: PathBuf,
    /// What Raspberry Pi Imager shows (`os_list`).
    pub os_list: PathBuf,
}

/// Writes them into the folder `out`. `base` is the address they will be fetched from.
///
/// # Errors
/// When something cannot be read or written, or xz fails.
pub fn write(image: &Image, base: &str, out: &Path) -> Result<Artefacts, Error> {
    fs::create_dir_all(out).map_err(|err| Error::file("make", out, err))?;
    let stem = format!("bramble-{}-{}", image.facts.name, &image.facts.digest[..16]);
    let at = |ending: &str| out.join(format!("{stem}{ending}"));
    let written = Artefacts {
        packed: at(".img.xz"),
        sha256: at(".img.xz.sha256"),
        bmap: at(".img.bmap"),
        sbom: at(".spdx.json"),
        os_list: at(".os_list.json"),
    };
    pack(&image.disk, &written.packed)?;
    let packed = digest::of_file(&written.packed)?;
    let size = written.packed.metadata().map_err(|err| Error::file("look at", &written.packed, err))?.len();
    let save = |path: &Path, text: &str| fs::write(path, text).map_err(|err| Error::file("write", path, err));
    save(&written.sha256, &format!("{packed}  {stem}.img.xz\n"))?;
    save(&written.bmap, &bmap::of(&image.disk, &image.facts.layout)?)?;
    save(&written.sbom, &sbom::text(&image.facts))?;
    let entry = os_list::Entry {
        url: format!("{}/{stem}.img.xz", base.trim_end_matches('/')),
        extract_size: image.facts.layout.disk,
        extract_sha256: digest::of_file(&image.disk)?,
        image_download_size: size,
        image_download_sha256: packed,
    };
    save(&written.os_list, &os_list::text(&image.facts, base, &entry))?;
    Ok(written)
}

/// Pieces of a fixed size by at least two threads: the same bytes however many processors there are. Level 6 takes several times as
/// long for a thirtieth less.
fn pack(disk: &Path, packed: &Path) -> Result<(), Error> {
    let part = packed.with_extension("part");
    let xz =
        Tool::new("xz").args(["--format=xz", "--check=crc64", "-1", "--block-size=16MiB", "--threads=2", "--stdout"]);
    xz.arg(disk).within(Duration::from_secs(3600)).saved_as(&part)?;
    fs::rename(&part, packed).map_err(|err| Error::file("name", &part, err))
}
