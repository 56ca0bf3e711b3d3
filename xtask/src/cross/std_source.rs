//! The source of the standard library: where it may lie, and laying it out where it is built from.
//!
//! Laid out as a toolchain of its own: the source, the machine's own libraries by a link, and a compiler that takes this
//! folder for its root. cargo makes symbols' names of the library's place within the compiler's root; anywhere else, of the
//! whole path, which would give other bytes on every machine.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::prepare::{sha256_of, whole};
use crate::run::Cmd;

/// Where a toolchain has it.
pub(super) const LIBRARY: &str = "lib/rustlib/src/rust/library";
/// Says what was laid out, beside it.
const STAMP: &str = "origin";

/// The compiler that is there.
#[derive(Debug, Clone)]
pub(super) struct Compiler {
    /// Its root.
    pub(super) sysroot: PathBuf,
    /// The machine it runs on, such as `x86_64-unknown-linux-gnu`.
    pub(super) host: String,
}

/// The archive `../shared/toolchain/rust-<version>-library.tar.xz` beside this checkout, or beside the one that this is a
/// work tree of.
pub(super) fn beside(checkout: &Path, rust: &str) -> Option<PathBuf> {
    let common = Cmd::new("git").args(["rev-parse", "--path-format=absolute", "--git-common-dir"]).dir(checkout);
    let main = common.check().ok().map(|dir| PathBuf::from(dir.trim()));
    let places = [checkout.parent(), main.as_deref().and_then(Path::parent).and_then(Path::parent)];
    let archive = format!("shared/toolchain/rust-{rust}-library.tar.xz");
    places.into_iter().flatten().map(|dir| dir.join(&archive)).find(|file| file.is_file())
}

/// The compiler of a toolchain that was laid out.
pub(super) fn rustc(sysroot: &Path) -> PathBuf {
    sysroot.join("bin/rustc")
}

/// Lays out a toolchain with this source (a folder `library`, one that holds it, or a tar of it) and gives its root. What is there already and has the same origin stays, so that nothing is built anew.
pub(super) fn lay_out(source: &Path, sysroot: &Path, compiler: &Compiler) -> anyhow::Result<PathBuf> {
    let source = source.canonicalize().with_context(|| format!("cannot find {}", source.display()))?;
    let origin = origin(&source, compiler)?;
    let is_laid =
        || sysroot.join(LIBRARY).is_dir() && fs::read_to_string(sysroot.join(STAMP)).is_ok_and(|kept| kept == origin);
    if is_laid() {
        return Ok(sysroot.into());
    }
    let work = sysroot.with_extension(format!("{}.part", std::process::id()));
    let laid = unpack(&source, &work.join(LIBRARY)).and_then(|()| {
        around(&work, sysroot, compiler)?;
        fs::write(work.join(STAMP), &origin)?;
        // Another process may have been faster.
        if sysroot.exists() && !is_laid() {
            fs::remove_dir_all(sysroot).with_context(|| format!("cannot remove {}", sysroot.display()))?;
        }
        whole(&work, sysroot, is_laid)
    });
    drop(fs::remove_dir_all(&work));
    laid.with_context(|| format!("cannot lay out {}", source.display()))?;
    Ok(sysroot.into())
}

/// What makes a toolchain of it.
fn around(work: &Path, sysroot: &Path, compiler: &Compiler) -> anyhow::Result<()> {
    let libraries = Path::new("lib/rustlib").join(&compiler.host);
    symlink(compiler.sysroot.join(&libraries), work.join(&libraries))?;
    let program = rustc(work);
    fs::create_dir_all(program.parent().unwrap_or(work))?;
    let real = rustc(&compiler.sysroot);
    let script = format!("#!/bin/sh\nexec '{}' --sysroot '{}' \"$@\"\n", real.display(), sysroot.display());
    fs::write(&program, script)?;
    Ok(fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?)
}

fn unpack(source: &Path, library: &Path) -> anyhow::Result<()> {
    let above = library.parent().unwrap_or(library);
    fs::create_dir_all(above)?;
    if source.is_dir() {
        let inside = [source.join("library"), source.to_path_buf()].into_iter().find(|dir| is_library(dir));
        let inside = inside.context("it holds no folder library/std")?;
        Cmd::new("cp").arg("-a").arg(inside).arg(library).check()?;
        return Ok(());
    }
    listed_digest(source)?;
    let tar =
        Cmd::new("tar").args(["--extract", "--no-same-owner", "--file"]).arg(source).arg("--directory").arg(above);
    tar.within(Duration::from_secs(120)).check()?;
    ensure!(is_library(library), "it holds no folder library/std at its top");
    Ok(())
}

fn is_library(dir: &Path) -> bool {
    dir.join("std/Cargo.toml").is_file()
}

/// An archive's bytes, or a folder's name (what is in a folder of somebody's is theirs to keep), and the compiler.
fn origin(source: &Path, compiler: &Compiler) -> anyhow::Result<String> {
    let digest = if source.is_dir() { "folder".into() } else { sha256_of(source)? };
    Ok(format!("{digest} {}\n{}\n", source.display(), compiler.sysroot.display()))
}

/// Where a file SHA256SUMS beside an archive names it, its digest has to be that.
fn listed_digest(archive: &Path) -> anyhow::Result<()> {
    let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let sums = fs::read_to_string(archive.with_file_name("SHA256SUMS")).unwrap_or_default();
    let want = sums.lines().filter_map(|line| line.split_once(' ')).find(|(_, file)| file.trim_start() == name);
    let got = sha256_of(archive)?;
    match want {
        Some((want, _)) if want != got => bail!("its SHA-256 is {got}, but SHA256SUMS beside it says {want}"),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler() -> Compiler {
        Compiler { sysroot: "/no/such/toolchain".into(), host: "x86_64-unknown-linux-gnu".into() }
    }

    fn lay(source: &Path, sysroot: &Path) -> anyhow::Result<PathBuf> {
        Ok(lay_out(source, sysroot, &compiler())?.join(LIBRARY))
    }

    fn library(dir: &Path, mark: &str) {
        fs::create_dir_all(dir.join("std")).unwrap();
        fs::write(dir.join("std/Cargo.toml"), mark).unwrap();
    }

    fn tar(dir: &Path, file: &Path) {
        Cmd::new("tar").arg("-cf").arg(file).arg("-C").arg(dir).arg("library").check().unwrap();
    }

    #[test]
    fn an_archive_and_a_folder_lie_in_the_same_place_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (source, place) = (dir.path().join("source"), dir.path().join("std"));
        library(&source.join("library"), "one");
        let archive = dir.path().join("library.tar");
        tar(&source, &archive);
        let laid = lay(&archive, &place).unwrap();
        assert_eq!(laid, place.join(LIBRARY));
        fs::write(laid.join("built"), "").unwrap();
        lay(&archive, &place).unwrap();
        assert!(laid.join("built").exists(), "what is the same is left alone");
        let script = fs::read_to_string(rustc(&place)).unwrap();
        assert!(
            script.contains(&format!("exec '/no/such/toolchain/bin/rustc' --sysroot '{}'", place.display())),
            "{script}"
        );
        for folder in [source.clone(), source.join("library")] {
            assert_eq!(lay(&folder, &place).unwrap(), laid);
            assert_eq!(fs::read_to_string(laid.join("std/Cargo.toml")).unwrap(), "one");
            assert!(!laid.join("built").exists(), "another origin replaces it");
        }
    }

    #[test]
    fn what_is_no_library_is_refused_and_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let (source, place) = (dir.path().join("source"), dir.path().join("std"));
        library(&source.join("library"), "one");
        lay(&source, &place).unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir_all(empty.join("library")).unwrap();
        let err = format!("{:#}", lay(&empty, &place).unwrap_err());
        assert!(err.contains("no folder library/std"), "{err}");
        assert!(place.join(LIBRARY).join("std/Cargo.toml").is_file());
        assert!(lay(Path::new("/no/such/source"), &place).is_err());
    }

    #[test]
    fn an_archive_that_is_not_what_its_list_says_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        library(&dir.path().join("library"), "one");
        let archive = dir.path().join("l.tar");
        tar(dir.path(), &archive);
        fs::write(dir.path().join("SHA256SUMS"), format!("{}  l.tar\n", "0".repeat(64))).unwrap();
        let err = format!("{:#}", lay(&archive, &dir.path().join("std")).unwrap_err());
        assert!(err.contains("SHA256SUMS beside it says 0000"), "{err}");
    }
}
