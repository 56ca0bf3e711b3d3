//! The same source, built twice, gives the same bytes: once here, once in another folder, with another target folder and
//! under another name of cargo's home. Decides what has to differ between the two builds, and compares.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::Programs;
use super::build::{self, Place, Toolchain};
use super::std_source;
use crate::paths;
use crate::prepare::sha256_of;
use crate::run::Cmd;

/// Builds them elsewhere and compares them with the ones that are there.
pub(super) fn check(toolchain: &Toolchain, programs: &Programs) -> anyhow::Result<()> {
    let work = std::env::temp_dir().join(format!("bramble-elsewhere-{}", std::process::id()));
    println!("Building them again in {}", work.display());
    let compared = elsewhere(&work, toolchain).and_then(|second| compare(programs, &second));
    drop(fs::remove_dir_all(&work));
    compared?;
    println!("The same bytes again");
    Ok(())
}

fn elsewhere(work: &Path, toolchain: &Toolchain) -> anyhow::Result<Programs> {
    fs::create_dir_all(work).with_context(|| format!("cannot make {}", work.display()))?;
    let place = Place {
        checkout: work.join("source"),
        std: Place::std_in(&work.join("source")),
        build: work.join("build"),
        out: work.join("out"),
        cargo_home: work.join("home-of-cargo"),
    };
    let home = paths::cargo_home();
    symlink(home, &place.cargo_home).with_context(|| format!("cannot write into {}", work.display()))?;
    copy_source(&place.checkout)?;
    let mut toolchain = toolchain.clone();
    if let Some(library) = &toolchain.std.library {
        toolchain.std.library = Some(std_source::lay_out(library, &place.std)?);
    }
    build::build(&place, &toolchain)
}

/// The files as they are now, changes that are not committed included; those that git ignores are not source.
fn copy_source(to: &Path) -> anyhow::Result<()> {
    let checkout = paths::checkout();
    let listed = Cmd::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).dir(&checkout);
    for name in listed.check()?.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (checkout.join(name), to.join(name));
        // Removed, and that not committed yet.
        if !from.is_file() {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(&to))?;
        fs::copy(&from, &to).with_context(|| format!("cannot copy {name}"))?;
    }
    Ok(())
}

fn compare(first: &Programs, second: &Programs) -> anyhow::Result<()> {
    let mut differ = vec![];
    for (one, other) in first.all().into_iter().zip(second.all()) {
        if sha256_of(one)? != sha256_of(other)? {
            differ.push(keep(one, other)?);
        }
    }
    if differ.is_empty() {
        return Ok(());
    }
    bail!("built twice, these are not the same: {}", differ.join("; "))
}

/// Lays the other one beside the first, for whoever looks for the difference.
fn keep(one: &Path, other: &Path) -> anyhow::Result<String> {
    let kept: PathBuf = one.with_extension("elsewhere");
    fs::copy(other, &kept).with_context(|| format!("cannot write {}", kept.display()))?;
    Ok(format!("{} and {}", one.display(), kept.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(dir: &Path, agent: &str) -> Programs {
        fs::create_dir_all(dir).unwrap();
        let programs = Programs::in_dir(dir);
        for program in programs.all() {
            fs::write(program, if program == programs.agent { agent } else { "same" }).unwrap();
        }
        programs
    }

    #[test]
    fn a_difference_is_told_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = programs(&dir.path().join("1"), "one");
        compare(&first, &programs(&dir.path().join("2"), "one")).unwrap();
        let err = compare(&first, &programs(&dir.path().join("3"), "other")).unwrap_err().to_string();
        assert!(err.contains("1/bramble-agent and ") && !err.contains("bootstrap"), "{err}");
        assert_eq!(fs::read_to_string(first.agent.with_extension("elsewhere")).unwrap(), "other");
    }
}
