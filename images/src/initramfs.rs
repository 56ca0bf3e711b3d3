//! The initramfs: made once, in the finished root file system, looked through, and kept. Decides what is missing in one, and
//! when one that is kept may be taken.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::digest::Digest;
use crate::recipe::Recipe;
use crate::tool::Tool;
use crate::{Error, lock, tree};

/// What of root never comes into an initramfs, so that a new agent does not make a new one: under emulation it takes minutes.
const NEVER_IN_IT: [&str; 5] = ["var", "boot", "dev", "etc/systemd/system", "usr/lib/bramble/bramble-bootstrap"];

/// So many are kept: each kind of card has its own.
const KEPT: usize = 8;

/// Puts the initramfs of a kernel to `boot/initrd.img-<version>`, made of this root file system or, if one was made of the same
/// files, from the folder `cache`; and looks into it.
pub(crate) fn put(recipe: &Recipe, kernel: &str, root: &Path, cache: &Path) -> Result<(), Error> {
    let kept = cache.join(format!("initramfs-{}.img", &digest(recipe, kernel, root)?[..16]));
    let image = root.join(format!("boot/initrd.img-{kernel}"));
    if kept.is_file() {
        println!("Taking the initramfs of {kernel} from {}", kept.display());
        fs::copy(&kept, &image).map_err(|err| Error::file("copy", &kept, err))?;
        return tree::set_mode(&image, 0o644);
    }
    println!("Making the initramfs of {kernel}");
    Tool::inside(root, "mkinitramfs")
        .arg("-o")
        .arg(format!("/boot/initrd.img-{kernel}"))
        .arg(kernel)
        .epoch(recipe.epoch_s)
        .within(Duration::from_secs(3600))
        .run()?;
    tree::set_mode(&image, 0o644)?;
    look(recipe, kernel, root)?;
    let part = kept.with_extension(format!("part-{}", std::process::id()));
    fs::copy(&image, &part).map_err(|err| Error::file("copy", &image, err))?;
    fs::rename(&part, &kept).map_err(|err| Error::file("name", &part, err))?;
    lock::trim(&kept, KEPT);
    Ok(())
}

/// A digest of all that an initramfs is made of.
fn digest(recipe: &Recipe, kernel: &str, root: &Path) -> Result<String, Error> {
    let without = NEVER_IN_IT.map(|path| root.join(path));
    let start = Digest::new().text(kernel).text(&format!("{:?} {}", recipe.initramfs, recipe.epoch_s));
    Ok(start.tree_without(root, &without)?.hex())
}

fn look(recipe: &Recipe, kernel: &str, root: &Path) -> Result<(), Error> {
    let listing = Tool::inside(root, "lsinitramfs").arg(format!("/boot/initrd.img-{kernel}")).run()?;
    let builtin = root.join("usr/lib/modules").join(kernel).join("modules.builtin");
    let builtin = fs::read_to_string(&builtin).map_err(|err| Error::file("read", &builtin, err))?;
    let missing = missing(&recipe.initramfs.modules, &recipe.initramfs.files, &listing, &builtin);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Image(format!("the initramfs of {kernel} lacks {}", missing.join(", "))))
}

/// What is neither in the initramfs nor, being a module, in the kernel itself.
fn missing(modules: &[String], files: &[String], listing: &str, builtin: &str) -> Vec<String> {
    let there: Vec<String> = listing.lines().chain(builtin.lines()).filter_map(module).collect();
    let modules = modules.iter().filter(|name| !there.contains(&name.replace('-', "_"))).map(|m| format!("module {m}"));
    let lacks =
        |file: &&String| !listing.lines().any(|line| line.trim_start_matches('/') == file.trim_start_matches('/'));
    modules.chain(files.iter().filter(lacks).cloned()).collect()
}

/// A module's name out of its path; names are the same with `-` and `_`.
fn module(path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?;
    Some(name.split_once(".ko")?.0.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let strings = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let listing = "usr/lib/modules/6/kernel/drivers/md/dm-thin-pool.ko.xz\nusr/sbin/lvm\n";
        let builtin = "kernel/fs/fat/vfat.ko\n";
        let modules = strings(&["dm_thin_pool", "vfat", "i6300esb"]);
        let files = strings(&["/usr/sbin/lvm", "usr/sbin/thin_check"]);
        assert_eq!(missing(&modules, &files, listing, builtin), ["module i6300esb", "usr/sbin/thin_check"]);
    }
}
