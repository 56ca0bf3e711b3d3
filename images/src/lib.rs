//! Images of SD cards, made from outside: no loop device, no device-mapper, no LVM on the machine that builds. File systems are
//! made in files, partition table and LVM's metadata are bytes that this library writes, and Debian comes from mmdebstrap.
//!
//! Decides what is on a card and where. What a device does with it is decided by `bootstrap`, `initramfs` and `agent`.
//! Same recipe, programs and tarball of Debian: same bytes.

pub mod artefacts;
mod assemble;
pub mod bootfiles;
pub mod digest;
mod error;
mod ext4;
mod fat;
pub mod ids;
mod initramfs;
pub mod layout;
mod lock;
pub mod lvm;
pub mod mbr;
mod mirrors;
mod plain;
pub mod recipe;
pub mod rootfs;
mod system;
pub mod thin;
mod tool;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use error::Error;
pub use plain::plain;
pub use recipe::Recipe;

use digest::Digest;
use layout::Layout;

/// Our programs, built for the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `bramble-agent`; the other two lie beside it, where `bramble-bootstrap` looks for them.
    pub agent: PathBuf,
    /// `bramble-bootstrap`; it is run while the image is made, to install the agent.
    pub bootstrap: PathBuf,
    /// `bramble-bootguard`.
    pub bootguard: PathBuf,
}

/// An image that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The card, byte for byte; a sparse file. Not to be written to: virtual Pis work on overlays of it.
    pub disk: PathBuf,
    /// What is known of it.
    pub facts: Facts,
}

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The recipe's name.
    pub name: String,
    /// The recipe's description.
    pub description: String,
    /// What nobody has seen work yet.
    pub unproven: String,
    /// A digest of all that went in.
    pub digest: String,
    /// No time in it is later, seconds since 1970.
    pub epoch_s: u64,
    /// Where everything lies.
    pub layout: Layout,
    /// The kernels' versions, in the recipe's order.
    pub kernels: Vec<String>,
    /// Debian's packages.
    pub packages: Vec<Package>,
    /// Our programs: name and SHA-256.
    pub programs: Vec<(String, String)>,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Of which machine.
    pub architecture: String,
    /// The source package, where it is called otherwise.
    pub source: Option<String>,
}

/// The checkout this library was built from: the files laid into images are taken from it.
fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("invariant: images/ lies in the checkout").into()
}

/// The recipe of ours that is called so.
///
/// # Errors
/// When there is none.
pub fn recipe(name: &str) -> Result<Recipe, Error> {
    Ok(Recipe::read(&checkout().join("images/recipes").join(format!("{name}.toml")))?)
}

/// Makes an image as a file in the folder `out`, or finds the one that was made there of the same parts. Debian's tarball and
/// initramfs are kept in the folder `cache`. Needs root, and where this machine is no aarch64 a kernel that was told who runs its programs.
///
/// # Errors
/// When the machine lacks something, a tool fails, or what was built would not boot.
pub fn build(recipe: &Recipe, programs: &Programs, cache: &Path, out: &Path) -> Result<Image, Error> {
    let tarball = rootfs::cached(recipe, cache)?;
    let digest = digest_of(recipe, programs, &tarball)?;
    let disk = out.join(format!("{}-{}.img", recipe.name, &digest[..16]));
    let _lock = lock::hold(&disk.with_extension("lock"))?;
    if let Some(image) = kept(&disk) {
        return Ok(image);
    }
    if !nix::unistd::geteuid().is_root() {
        let why =
            "files keep their owners, so this needs root: run it with sudo, or in `unshare --map-auto --map-root-user`";
        return Err(Error::Machine(why.into()));
    }
    let work = Work::new(&disk)?;
    let facts = assemble::assemble(recipe, programs, &tarball, &digest, cache, &work.0)?;
    let made = work.0.join(assemble::DISK);
    fs::File::open(&made).and_then(|file| file.sync_all()).map_err(|err| Error::file("write", &made, err))?;
    fs::rename(&made, &disk).map_err(|err| Error::file("name", &made, err))?;
    // Last: an image without its facts is none.
    let text = serde_json::to_vec_pretty(&facts).expect("invariant: facts are plain data");
    let part = facts_of(&disk).with_extension("part");
    fs::write(&part, text).map_err(|err| Error::file("write", &part, err))?;
    fs::rename(&part, facts_of(&disk)).map_err(|err| Error::file("name", &part, err))?;
    lock::trim(&disk, IMAGES);
    Ok(Image { disk, facts })
}

/// So many images of one name are kept.
const IMAGES: usize = 3;

fn facts_of(disk: &Path) -> PathBuf {
    disk.with_extension("json")
}

fn kept(disk: &Path) -> Option<Image> {
    let facts: Facts = serde_json::from_slice(&fs::read(facts_of(disk)).ok()?).ok()?;
    let whole = disk.metadata().is_ok_and(|meta| meta.len() == facts.layout.disk);
    whole.then(|| Image { disk: disk.into(), facts })
}

/// All that goes into an image, this library included.
fn digest_of(recipe: &Recipe, programs: &Programs, tarball: &Path) -> Result<String, Error> {
    let paths = recipe.overlay.clone();
    let recipe = Recipe { overlay: vec![], ..recipe.clone() };
    let mut digest = Digest::new().text(&format!("{recipe:?}")).tree(&checkout().join("images/src"))?;
    for tree in &paths {
        digest = digest.tree(tree)?;
    }
    for program in [&programs.agent, &programs.bootstrap, &programs.bootguard] {
        digest = digest.file(program)?;
    }
    Ok(digest.file(tarball)?.hex())
}

/// A folder to work in, gone when it is dropped.
struct Work(PathBuf);

impl Work {
    fn new(disk: &Path) -> Result<Self, Error> {
        let dir = disk.with_extension(format!("work-{}", std::process::id()));
        fs::create_dir_all(&dir).map_err(|err| Error::file("make", &dir, err))?;
        Ok(Work(dir))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left behind: {err}", self.0.display());
        }
    }
}
