//! The boot guard of a converted machine: it has one set of boot files, so its trials are counted.
//!
//! Decides what of an image such a machine needs for a system on trial to come back. It comes last, with the converter out of
//! the way: while the new root is on trial itself, the ledger decides what is booted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bramble_contracts::boot::ONE_SET;

use super::place::Place;
use crate::{files, payload};

const NAME: &str = "bramble-bootguard";
/// Where the initramfs takes it from.
const PROGRAM: &str = "/usr/lib/bramble/bramble-bootguard";

/// Where the program is: beside this one, or where it was installed before.
pub(super) fn found() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().map(|this| this.with_file_name(NAME));
    beside.into_iter().chain([PROGRAM.into()]).find(|path| path.is_file())
}

/// Puts the program where it stays.
///
/// # Errors
/// It is not there, or cannot be written.
pub(super) fn bring() -> anyhow::Result<()> {
    let from = found().with_context(|| format!("{NAME} is not there any more"))?;
    let bytes = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
    files::file(Path::new(PROGRAM), &bytes, 0o755).map(drop)
}

/// Puts all else where the next initramfs finds it, and where systemd does.
///
/// # Errors
/// A file cannot be written.
pub(super) fn put(place: &Place) -> anyhow::Result<()> {
    let root = Path::new("/");
    payload::write(payload::INITRAMFS, root, &mut |_, _| {})?;
    payload::write(payload::NEVER_STAYS, root, &mut |_, _| {})?;
    let line = format!("/dev/disk/by-partuuid/{}-{:02x}\n", place.disk, place.boot);
    files::file(Path::new(ONE_SET), line.as_bytes(), 0o644).map(drop)
}
