//! The source of the standard library: where it may lie, and laying it out where it is built from.
//!
//! Always in the same folder of the checkout: cargo makes symbols' names of the place, so a place that differed between
//! machines would give other bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::prepare::{sha256_of, whole};
use crate::run::Cmd;

/// Says what was laid out, beside it.
const STAMP: &str = "origin";

/// The archive `../shared/toolchain/rust-<version>-library.tar.xz` beside this checkout, or beside the one that this is a
/// work tree of.
pub(super) fn beside(checkout: &Path, rust: &str) -> Option<PathBuf> {
    let common = Cmd::new("git").args(["rev-parse", "--path-format=absolute", "--git-common-dir"]).dir(checkout);
    let main = common.check().ok().map(|dir| PathBuf::from(dir.trim()));
    let places = [checkout.parent(), main.as_deref().and_then(Path::parent).and_then(Path::parent)];
    let archive = format!("shared/toolchain/rust-{rust}-library.tar.xz");
    places.into_iter().flatten().map(|dir| dir.join(&archive)).find(|file| file.is_file())
}

/// Lays a source out (a folder `library`, one that holds it, or a tar of it) and gives its folder `library` in `dir`.
/// What is there already and has the same origin stays, so that nothing is built anew.
pub(super) fn lay_out(source: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let source = source.canonicalize().with_context(|| format!("cannot find {}", source.display()))?;
    let origin = origin(&source)?;
    let library = dir.join("library");
    let is_laid = || library.is_dir() && fs::read_to_string(dir.join(STAMP)).is_ok_and(|kept| kept == origin);
    if is_laid() {
        return Ok(library);
    }
    let work = dir.with_extension(format!("{}.part", std::process::id()));
    let laid = unpack(&source, &work).and_then(|()| {
        fs::write(work.join(STAMP), &origin)?;
        // Another process may have been faster.
        if dir.exists() && !is_laid() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        whole(&work, dir, is_laid)
    });
    drop(fs::remove_dir_all(&work));
    laid.with_context(|| format!("cannot lay out {}", source.display()))?;
    Ok(library)
}

fn unpack(source: &Path, work: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(work)?;
    if source.is_dir() {
        let inside = [source.join("library"), source.to_path_buf()].into_iter().find(|dir| is_library(dir));
        let inside = inside.context("it holds no folder library/std")?;
        Cmd::new("cp").arg("-a").arg(inside).arg(work.join("library")).check()?;
        return Ok(());
    }
    listed_digest(source)?;
    let tar = Cmd::new("tar").args(["--extract", "--no-same-owner", "--file"]).arg(source).arg("--directory").arg(work);
    tar.within(Duration::from_secs(120)).check()?;
    ensure!(is_library(&work.join("library")), "it holds no folder library/std at its top");
    Ok(())
}

fn is_library(dir: &Path) -> bool {
    dir.join("std/Cargo.toml").is_file()
}

/// An archive's bytes, or a folder's name: what is in a folder of somebody's is theirs to keep.
fn origin(source: &Path) -> anyhow::Result<String> {
    let digest = if source.is_dir() { "folder".into() } else { sha256_of(source)? };
    Ok(format!("{digest} {}\n", source.display()))
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
        let laid = lay_out(&archive, &place).unwrap();
        assert_eq!(laid, place.join("library"));
        fs::write(laid.join("built"), "").unwrap();
        lay_out(&archive, &place).unwrap();
        assert!(laid.join("built").exists(), "what is the same is left alone");
        for folder in [source.clone(), source.join("library")] {
            assert_eq!(lay_out(&folder, &place).unwrap(), laid);
            assert_eq!(fs::read_to_string(laid.join("std/Cargo.toml")).unwrap(), "one");
            assert!(!laid.join("built").exists(), "another origin replaces it");
        }
    }

    #[test]
    fn what_is_no_library_is_refused_and_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let (source, place) = (dir.path().join("source"), dir.path().join("std"));
        library(&source.join("library"), "one");
        lay_out(&source, &place).unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir_all(empty.join("library")).unwrap();
        let err = format!("{:#}", lay_out(&empty, &place).unwrap_err());
        assert!(err.contains("no folder library/std"), "{err}");
        assert!(place.join("library/std/Cargo.toml").is_file());
        assert!(lay_out(Path::new("/no/such/source"), &place).is_err());
    }

    #[test]
    fn an_archive_that_is_not_what_its_list_says_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        library(&dir.path().join("library"), "one");
        let archive = dir.path().join("l.tar");
        tar(dir.path(), &archive);
        fs::write(dir.path().join("SHA256SUMS"), format!("{}  l.tar\n", "0".repeat(64))).unwrap();
        let err = format!("{:#}", lay_out(&archive, &dir.path().join("std")).unwrap_err());
        assert!(err.contains("SHA256SUMS beside it says 0000"), "{err}");
    }
}
