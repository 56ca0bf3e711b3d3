//! The initramfs: made once, in the finished root file system, and looked through. Decides what is missing in one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Error;
use crate::recipe::Recipe;
use crate::tool::Tool;

/// Makes the initramfs of a kernel as `boot/initrd.img-<version>` and looks into it.
pub(crate) fn make(recipe: &Recipe, kernel: &str, root: &Path) -> Result<(), Error> {
    // Emulated, this is the longest step.
    let update = Tool::inside(root, "update-initramfs").args(["-c", "-k", kernel]).epoch(recipe.epoch_s);
    update.within(Duration::from_secs(1200)).run()?;
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
