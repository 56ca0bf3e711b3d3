//! Debian's root file system as a tarball, made by mmdebstrap: packages and nothing of ours. Decides how it is made and under
//! which name it is kept, so that a change of our own programs does not install Debian again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::Digest;
use crate::recipe::Recipe;
use crate::tool::Tool;
use crate::{Error, lock, mirrors};

/// Under emulation depmod and the initramfs take as long as all else, and packages ask for them again and again: they are
/// put aside while packages are installed. The initramfs is made once, with the image.
const PUT_ASIDE: &str = r#"for p in /usr/sbin/depmod /usr/sbin/update-initramfs; do chroot "$1" dpkg-divert --quiet --local --rename --divert "$p.real" --add "$p"; ln -s /bin/true "$1$p"; done"#;
const PUT_BACK: &str = r#"for p in /usr/sbin/depmod /usr/sbin/update-initramfs; do rm "$1$p"; chroot "$1" dpkg-divert --quiet --local --rename --remove "$p"; done"#;
const MODULES: &str = r#"for v in "$1"/usr/lib/modules/*; do chroot "$1" depmod "$(basename "$v")"; done"#;
/// While it is made nothing has to survive a power cut; on the device it has to.
const SAFE_AGAIN: &str = r#"sed -i /force-unsafe-io/d "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap""#;

/// A tarball that is older has packages that Debian has mended since.
const STALE: Duration = Duration::from_secs(30 * 86_400);

/// The tarball for a recipe: from the folder `cache`, or made there. One that is a month old is made anew; where that
/// cannot be done, away from any mirror, it is good enough, and that is said.
///
/// # Errors
/// When it is not there and cannot be made.
pub fn cached(recipe: &Recipe, cache: &Path) -> Result<PathBuf, Error> {
    let tarball = cache.join(format!("rootfs-{}.tar", &digest(recipe)[..16]));
    let _lock = lock::hold(&tarball.with_extension("lock"))?;
    let kept = tarball.is_file();
    if kept && !is_stale(&tarball) {
        return Ok(tarball);
    }
    match make(recipe, &tarball) {
        Err(err) if kept => println!("Debian of a month ago is taken, for a new one cannot be had: {err}"),
        made => made?,
    }
    Ok(tarball)
}

fn is_stale(tarball: &Path) -> bool {
    let made = tarball.metadata().and_then(|meta| meta.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > STALE))
}

fn make(recipe: &Recipe, tarball: &Path) -> Result<(), Error> {
    let lines = mirrors::lines(&recipe.debian)?;
    let part = tarball.with_extension("part.tar");
    println!("Installing {} for {} into {}", recipe.debian.suite, recipe.debian.architecture, tarball.display());
    let mmdebstrap = mmdebstrap(recipe).arg(&recipe.debian.suite).arg(&part).args(&lines);
    mmdebstrap.within(Duration::from_secs(3600)).run()?;
    File::open(&part).and_then(|file| file.sync_all()).map_err(|err| Error::file("write", &part, err))?;
    fs::rename(&part, tarball).map_err(|err| Error::file("name", &part, err))
}

/// What the tarball's name is: a digest of how it is made. Where packages come from is no part of it.
#[must_use]
pub fn digest(recipe: &Recipe) -> String {
    Digest::new().text(&mmdebstrap(recipe).line()).text(&recipe.debian.suite).text(&archives(recipe)).hex()
}

fn archives(recipe: &Recipe) -> String {
    format!("{:?} {:?}", recipe.debian.components, recipe.debian.archives)
}

fn mmdebstrap(recipe: &Recipe) -> Tool {
    let debian = &recipe.debian;
    let tool = Tool::new("mmdebstrap").args(["--mode=auto", "--variant=minbase", "--format=tar"]);
    // The kernel is told who runs foreign programs by whoever makes the machine ready.
    let tool = tool.arg("--skip=check/qemu").arg(format!("--architectures={}", debian.architecture));
    let tool = tool.arg(format!("--include={}", debian.packages.join(",")));
    let tool = tool.arg("--aptopt=Apt::Install-Recommends \"false\"").arg("--dpkgopt=force-unsafe-io");
    let leave_out = debian.leave_out.iter().map(|path| format!("--dpkgopt=path-exclude={path}"));
    let keep = debian.keep.iter().map(|path| format!("--dpkgopt=path-include={path}"));
    let hooks = [PUT_BACK, MODULES, SAFE_AGAIN].map(|hook| format!("--customize-hook={hook}"));
    let tool = tool.args(leave_out.chain(keep)).arg(format!("--essential-hook={PUT_ASIDE}")).args(hooks);
    tool.epoch(recipe.epoch_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tarball_is_stale_after_a_month() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rootfs.tar");
        assert!(!is_stale(&path), "what is not there is made anyway");
        let file = File::create(&path).unwrap();
        assert!(!is_stale(&path));
        let now = file.metadata().unwrap().modified().unwrap();
        file.set_modified(now - STALE - Duration::from_secs(60)).unwrap();
        assert!(is_stale(&path));
        file.set_modified(now + STALE).unwrap();
        assert!(!is_stale(&path), "a clock that was wrong is no reason");
    }

    #[test]
    fn only_what_concerns_packages_changes_the_name() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/virt.toml");
        let recipe = Recipe::read(&path).unwrap();
        let mut other = recipe.clone();
        other.boot.words.push("debug".into());
        other.sizes.root += 4;
        other.overlay.push("x".into());
        assert_eq!(digest(&recipe), digest(&other));
        other.debian.packages.push("hello".into());
        assert_ne!(digest(&recipe), digest(&other));
        let mut more = recipe.clone();
        more.debian.components.push("contrib".into());
        assert_ne!(digest(&recipe), digest(&more));
    }
}
