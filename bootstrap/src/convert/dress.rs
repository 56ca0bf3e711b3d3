//! Makes the new root fit its new place: run inside it, with its own programs, while nothing else runs.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::compare;
use super::lvmtext::GROUP;
use super::texts::{self, MOUNTS};
use super::tools::run;
use crate::files;

const FSTAB: &str = "/etc/fstab";

/// Goes into the new root, makes the volumes beside it, moves into them what belongs there, and names them in `fstab`.
///
/// # Errors
/// What cannot be done.
pub(crate) fn run_inside(root: &Path, tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    ensure!(root != Path::new("/"), "--inside is for the initramfs");
    nix::unistd::chroot(root).with_context(|| format!("cannot go into {}", root.display()))?;
    std::env::set_current_dir("/").context("/")?;
    for (name, place) in MOUNTS {
        let moved = volume(name, Path::new(place)).with_context(|| format!("the volume {name} for {place}"))?;
        tell(format!("{place}: {} entries, {} MiB moved to {name}", moved.entries, moved.bytes >> 20));
    }
    let held = fs::read_to_string(FSTAB).unwrap_or_default();
    files::file(Path::new(FSTAB), texts::fstab(&held).as_bytes(), 0o644)?;
    nix::unistd::sync();
    Ok(())
}

fn volume(name: &str, place: &Path) -> anyhow::Result<compare::Counted> {
    let device = format!("/dev/mapper/{GROUP}-{name}");
    run(&["mke2fs", "-q", "-F", "-t", "ext4", "-L", name, &device])?;
    if !place.exists() {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(place).context("the folder")?;
    }
    let aside = PathBuf::from(format!("/run/{name}"));
    fs::create_dir_all(&aside).context("a folder to mount it on")?;
    mount(Some(device.as_str()), &aside, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>).context("mounting it")?;
    let moved = fill(place, &aside);
    umount2(&aside, MntFlags::empty()).context("unmounting it")?;
    let moved = moved?;
    empty(place).with_context(|| format!("cannot empty {}", place.display()))?;
    Ok(moved)
}

fn fill(place: &Path, aside: &Path) -> anyhow::Result<compare::Counted> {
    fs::remove_dir(aside.join("lost+found")).context("lost+found")?;
    let (from, to) = (format!("{}/.", place.display()), format!("{}/", aside.display()));
    run(&["cp", "-a", &from, &to])?;
    run(&["sync", "-f", &to])?;
    compare::trees(place, aside)
}

fn empty(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
