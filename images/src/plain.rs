//! A card as Debian hands it out, with nothing of ours: a FAT boot partition, and root on the ext4 partition that fills the
//! rest. What people have before `bramble-bootstrap convert`; made for its tests.

use std::fs;
use std::path::{Path, PathBuf};

use crate::assemble::{DISK, Disk, Maker, kernels};
use crate::digest::Digest;
use crate::fat::Bits;
use crate::ids::Seed;
use crate::layout::{MIB, Span};
use crate::recipe::Recipe;
use crate::{Error, IMAGES, Work, checkout, initramfs, lock, mbr, rootfs, system, tree};

const BOOT: Span = Span { start: 4 * MIB, size: 256 * MIB };
/// The card's signature; `PARTUUID=` begins with it.
const SIGNATURE: u32 = 0xc0ff_ee01;

/// Makes a card of `mib` MiB as a file in the folder `cache`, or finds the one that was made there of the same parts.
///
/// # Errors
/// When the machine lacks something, a tool fails, or there is more in it than fits.
pub fn plain(recipe: &Recipe, mib: u64, cache: &Path) -> Result<PathBuf, Error> {
    let tarball = rootfs::cached(recipe, cache)?;
    let mut digest = Digest::new().text(&format!("{:?} {mib}", Recipe { overlay: vec![], ..recipe.clone() }));
    for tree in recipe.overlay.iter().chain([&checkout().join("images/src")]) {
        digest = digest.tree(tree)?;
    }
    let disk = cache.join(format!("{}-{}.img", recipe.name, &digest.file(&tarball)?.hex()[..16]));
    let _lock = lock::hold(&disk.with_extension("lock"))?;
    if !disk.is_file() {
        let work = Work::new(&disk)?;
        assemble(recipe, mib * MIB, &tarball, cache, &work.0)?;
        let made = work.0.join(DISK);
        fs::rename(&made, &disk).map_err(|err| Error::file("name", &made, err))?;
        lock::trim(&disk, IMAGES);
    }
    Ok(disk)
}

fn assemble(recipe: &Recipe, size: u64, tarball: &Path, cache: &Path, work: &Path) -> Result<(), Error> {
    let root = work.join("root");
    println!("Unpacking Debian, as it is without Bramble");
    tree::unpack(tarball, &root)?;
    tree::folder(&root.join("boot/firmware"))?;
    tree::file(&root.join("etc/fstab"), fstab().as_bytes(), 0o644)?;
    system::overlay(recipe, &root)?;
    let kernels = kernels(recipe, &root)?;
    for kernel in &kernels {
        initramfs::put(recipe, kernel, &root, cache)?;
    }
    system::clean(&root)?;

    let maker = Maker { recipe, seed: Seed::new(&recipe.name), work, root: &root };
    let rest = Span { start: BOOT.end(), size: size - BOOT.end() };
    let mut disk = Disk::new(&work.join(DISK), size)?;
    disk.bytes(0, &mbr::table(&[(BOOT, mbr::FAT32_LBA), (rest, mbr::LINUX)], SIGNATURE))?;
    let boot = maker.boot_files("boot", &kernels, &cmdline(recipe))?;
    disk.file(BOOT.start, &maker.fat("bootfs", Bits::ThirtyTwo, BOOT, &boot)?)?;
    disk.file(rest.start, &maker.ext4("rootfs", &root, rest.size, 0o755)?)
}

fn fstab() -> String {
    let part = |number: u32| format!("PARTUUID={SIGNATURE:08x}-{number:02}");
    format!("{} / ext4 defaults,noatime 0 1\n{} /boot/firmware vfat defaults 0 2\n", part(2), part(1))
}

fn cmdline(recipe: &Recipe) -> String {
    let consoles: String = recipe.boot.consoles.iter().map(|console| format!("console={console} ")).collect();
    let words = recipe.boot.words.join(" ");
    format!("{consoles}root=PARTUUID={SIGNATURE:08x}-02 rootfstype=ext4 rootwait {words}\n")
}
