//! The boot guard of a converted machine: it has one set of boot files, so its trials are counted.
//!
//! Decides what of an image such a machine needs for a system on trial to come back. It comes into the initramfs with the
//! converter, so that what it lacks is known before anything is done, and does nothing there until `cmdline.txt` names the new
//! root: while that is on trial itself, the ledger decides what is booted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bramble_contracts::boot::ONE_SET;

use super::place::Place;
use super::tools::run;
use crate::{files, payload};

const NAME: &str = "bramble-bootguard";
/// Where the initramfs takes it from.
const PROGRAM: &str = "/usr/lib/bramble/bramble-bootguard";

/// Where the program is: beside this one, or where it was installed before; of this version.
pub(super) fn found() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().map(|this| this.with_file_name(NAME));
    let says = |path: &PathBuf| run(&[&path.display().to_string(), "version"]).unwrap_or_default();
    let fits = |path: &PathBuf| path.is_file() && says(path).trim() == env!("CARGO_PKG_VERSION");
    beside.into_iter().chain([PROGRAM.into()]).find(fits)
}

/// Puts it where the next initramfs finds it.
///
/// # Errors
/// It is not there, or a file cannot be written.
pub(super) fn bring(place: &Place) -> anyhow::Result<()> {
    let from = found().with_context(|| format!("{NAME} is not there any more"))?;
    let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
    files::file(Path::new(PROGRAM), &bytes, 0o755)?;
    payload::write(payload::INITRAMFS, Path::new("/"), &mut |_, _| {})?;
    let line = format!("{}\n", place.link(place.boot).display());
    files::file(Path::new(ONE_SET), line.as_bytes(), 0o644).map(drop)
}

/// And what systemd needs to start the machine again whatever a new system lacks.
///
/// # Errors
/// A file cannot be written.
pub(super) fn stay() -> anyhow::Result<()> {
    payload::write(payload::NEVER_STAYS, Path::new("/"), &mut |_, _| {})
}
