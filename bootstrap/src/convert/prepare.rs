//! What the running system does before the conversion, and what it takes away after it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::guard;
use super::journal::Journal;
use super::machine::{Event, Facts, Ledger, Phase, Table, step};
use super::place::{PLACE, Place};
use super::preflight::{self, Fit, Verdict};
use super::texts;
use super::tools::run;
use crate::files;

const PROGRAM: &str = "/usr/lib/bramble/bramble-bootstrap";
const TIMER: &str = "bramble-convert.timer";

/// A file that the conversion installs: where, what, with which mode.
struct Part(&'static str, &'static str, u32);

/// Stays: a root on a volume needs it at every boot.
const HOOK: Part =
    Part("/etc/initramfs-tools/hooks/bramble-lvm", include_str!("../../convert-files/hooks/bramble-lvm"), 0o755);
/// Goes when all is done.
const CONVERTER: [Part; 2] = [
    Part(
        "/etc/initramfs-tools/hooks/bramble-convert",
        include_str!("../../convert-files/hooks/bramble-convert"),
        0o755,
    ),
    Part(
        "/etc/initramfs-tools/scripts/local-top/bramble-convert",
        include_str!("../../convert-files/local-top/bramble-convert"),
        0o755,
    ),
];
const UNITS: [Part; 2] = [
    Part(
        "/etc/systemd/system/bramble-convert.service",
        include_str!("../../convert-files/units/bramble-convert.service"),
        0o644,
    ),
    Part(
        "/etc/systemd/system/bramble-convert.timer",
        include_str!("../../convert-files/units/bramble-convert.timer"),
        0o644,
    ),
];
/// Without these root on a volume cannot be mounted, or not put back; the build of the initramfs fails before, this is the second look.
const NEEDED: [&str; 6] = ["/lvm", "thin_check", "dm-thin-pool.ko", "ext4", "vfat.ko", "bramble-bootguard"];
/// And without these nothing is converted.
const NEEDED_ONCE: [&str; 4] = ["bramble-bootstrap", "thin_restore", "resize2fs", "local-top/bramble-convert"];

/// What somebody wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Only to know.
    Look,
    /// To have it done at the next start.
    Convert,
}

/// Looks, says what it finds, and prepares if that is wanted.
///
/// # Errors
/// All the reasons why it cannot be done.
pub(crate) fn prepare(wanted: Wanted, tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "this needs root: run it with sudo");
    let found = preflight::look();
    let fit = match preflight::judge(&found) {
        Verdict::NothingToDo => {
            tell("nothing to do: root is a volume already".into());
            return Ok(());
        }
        Verdict::Refused(why) => {
            bail!("this machine cannot be converted; nothing was touched:\n- {}", why.join("\n- "))
        }
        Verdict::Fit(fit) => fit,
    };
    let least = match &found.root {
        Ok(preflight::Root::Partition(root)) => root.least,
        Ok(preflight::Root::Volume) | Err(_) => 0,
    };
    preflight::describe(&fit, 2 * least).into_iter().for_each(&mut *tell);
    match wanted {
        Wanted::Look => tell("nothing was touched; --convert-root-to-lvm prepares it".into()),
        Wanted::Convert => {
            install(&fit, tell)?;
            tell("prepared: reboot when it suits; until then `bramble-bootstrap convert --back` takes it back".into());
        }
    }
    Ok(())
}

fn install(fit: &Fit, tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    let journal = Journal::at(&fit.place.boot_mount);
    // One that cannot be read is started anew: root is on its partition, so nothing was converted.
    let held = journal.load().ok().flatten();
    let held = held.unwrap_or(Ledger { phase: Phase::GaveUp { why: String::new() }, made: None });
    let facts = Facts { table: Table::Old, old_unchanged: true, volumes: false };
    let (next, _) = step(held, Event::Asked, facts);
    ensure!(next.phase == Phase::Prepared, "a conversion is under way: see `bramble-bootstrap convert --status`");

    let this = fs::read("/proc/self/exe").context("cannot read this program")?;
    files::folder(Path::new("/usr/lib/bramble"), 0o755)?;
    files::file(Path::new(PROGRAM), &this, 0o755)?;
    guard::bring(&fit.place)?;
    files::folder(Path::new("/etc/bramble"), 0o700)?;
    let text = serde_json::to_string_pretty(&fit.place).context("the place")? + "\n";
    files::file(Path::new(PLACE), text.as_bytes(), 0o600)?;
    for Part(path, text, mode) in std::iter::once(&HOOK).chain(&CONVERTER).chain(&UNITS) {
        if let Some(folder) = Path::new(path).parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        files::file(Path::new(path), text.as_bytes(), *mode)?;
    }
    tell("building the initramfs".into());
    rebuild(&fit.place, &[&NEEDED[..], &NEEDED_ONCE[..]].concat())?;
    run(&["systemctl", "daemon-reload"])?;
    run(&["systemctl", "enable", "-q", TIMER])?;
    nix::unistd::sync();
    journal.store(&next)
}

/// Takes the converter out of the initramfs; what a root on a volume needs stays in it.
///
/// # Errors
/// The initramfs cannot be built, or lacks something: then the old one, with the converter, is still there.
pub(crate) fn retire(place: &Place, tell: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    for Part(path, _, _) in &CONVERTER {
        files::remove(Path::new(path)).with_context(|| format!("cannot remove {path}"))?;
    }
    guard::stay()?;
    tell("building the initramfs without the converter".into());
    rebuild(place, &NEEDED)
}

/// The timer has nothing more to do.
///
/// # Errors
/// systemd refuses.
pub(crate) fn stand_down() -> anyhow::Result<()> {
    run(&["systemctl", "disable", "-q", TIMER])?;
    run(&["systemctl", "stop", TIMER]).map(|_| ())
}

fn rebuild(place: &Place, needed: &[&str]) -> anyhow::Result<()> {
    run(&["update-initramfs", "-u", "-k", "all"]).context("the initramfs cannot be built")?;
    let loaded = loaded(place)?;
    ensure!(!loaded.is_empty(), "{} has no initramfs", place.boot_mount.display());
    for file in loaded {
        let list = run(&["lsinitramfs", &file.display().to_string()])?;
        for part in needed {
            ensure!(list.contains(part), "{} lacks {part}: does the firmware load another one?", file.display());
        }
    }
    nix::unistd::sync();
    Ok(())
}

/// The initramfs files that the firmware may load: those that `config.txt` names, else all there are.
fn loaded(place: &Place) -> anyhow::Result<Vec<PathBuf>> {
    let at = &place.boot_mount;
    let config = fs::read_to_string(at.join("config.txt")).context("config.txt")?;
    let named: Vec<PathBuf> =
        texts::loads(&config).named.iter().map(|file| at.join(file)).filter(|file| file.exists()).collect();
    if !named.is_empty() {
        return Ok(named);
    }
    let read = || -> std::io::Result<Vec<PathBuf>> { fs::read_dir(at)?.map(|entry| Ok(entry?.path())).collect() };
    let files = read().with_context(|| format!("cannot read {}", at.display()))?;
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("initramfs") || name.starts_with("initrd")
    };
    Ok(files.into_iter().filter(is_one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_scripts_and_name_the_program() {
        for Part(path, text, mode) in std::iter::once(&HOOK).chain(&CONVERTER) {
            assert!(text.starts_with("#!/bin/sh\n") && *mode == 0o755, "{path}");
            assert!(text.lines().count() <= 40, "{path}: a longer script is Rust");
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("script");
            fs::write(&file, text).unwrap();
            run(&["sh", "-n", file.to_str().unwrap()]).unwrap();
        }
        assert!(CONVERTER.iter().all(|Part(_, text, _)| text.contains("bramble-bootstrap")));
        assert!(UNITS[0].1.contains(&format!("ExecStart={PROGRAM} convert --confirm")));
    }
}
