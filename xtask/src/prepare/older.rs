//! An agent of an earlier commit of this repository, kept in the cache under its digest: what is in the field meets what is
//! new. Built once; that takes minutes, so only full runs ask for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::sha256_of;
use crate::paths;
use crate::run::Cmd;

/// The last commit whose agent reads and writes version 1 of everything, and cannot replace itself.
const OLDER: &str = "2c9ef26c63c538d03172706479374228ea36b540";
const NAME: &str = "bramble-agent";

/// The program; built on the first call.
///
/// # Errors
/// When this clone does not hold that commit, or it cannot be built.
pub fn older_agent() -> anyhow::Result<PathBuf> {
    let place = paths::cache().join("agents").join(&OLDER[..12]);
    if let Some(found) = kept(&place)? {
        return Ok(found);
    }
    println!("Building the agent of commit {} into {} (once; some minutes)", &OLDER[..12], place.display());
    let work = place.with_extension(format!("{}.part", std::process::id()));
    let built = build(&work).and_then(|program| keep(&program, &place));
    drop(fs::remove_dir_all(&work));
    drop(Cmd::new("git").args(["worktree", "prune"]).dir(paths::checkout()).check());
    built.with_context(|| {
        format!("there is no agent of commit {OLDER}: fetch the whole history (`git fetch --unshallow`) and try again")
    })
}

/// The one that is there, if it is still what it was.
fn kept(place: &Path) -> anyhow::Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir(place) else { return Ok(None) };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(digest) = name.strip_prefix(&format!("{NAME}-")) else { continue };
        if sha256_of(&path)? != digest {
            bail!("{} is not what it was: remove it, and it is built again", path.display());
        }
        return Ok(Some(path));
    }
    Ok(None)
}

fn build(work: &Path) -> anyhow::Result<PathBuf> {
    let source = work.join("source");
    fs::create_dir_all(work)?;
    let git = Cmd::new("git").args(["worktree", "add", "--force", "--detach"]).arg(&source).arg(OLDER);
    git.dir(paths::checkout()).check()?;
    let target = work.join("target");
    let cargo = Cmd::new("cargo").args(["build", "--quiet", "--locked", "-p", NAME, "--target-dir"]).arg(&target);
    cargo.dir(&source).within(Duration::from_secs(1800)).check()?;
    Ok(target.join("debug").join(NAME))
}

/// Lays it down under its digest.
fn keep(program: &Path, place: &Path) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(place)?;
    let kept = place.join(format!("{NAME}-{}", sha256_of(program)?));
    let beside = kept.with_extension("new");
    fs::copy(program, &beside)?;
    fs::rename(&beside, &kept)?;
    Ok(kept)
}
