//! The programs that the conversion starts, with the exit codes that mean well.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::process::{Finished, finish};

/// Keeps LVM from looking at anything but the new volume, and from leaving copies of its metadata about.
const ONLY: &str = "devices{filter=[\"a|^/dev/mapper/bramble-pv$|\",\"r|.*|\"] use_devicesfile=0} \
                    backup{backup=0 archive=0} activation{monitoring=0}";

/// Runs a program of the path and gives its output.
///
/// # Errors
/// Any exit code but 0.
pub(crate) fn run(words: &[&str]) -> anyhow::Result<String> {
    ends(words, &[0])
}

/// Runs a program that may end so.
///
/// # Errors
/// Any other exit code.
pub(crate) fn ends(words: &[&str], well: &[i32]) -> anyhow::Result<String> {
    let (program, args) = words.split_first().context("no program")?;
    let Finished { code, out, err } = finish(Path::new(program), args)?;
    let code = code.unwrap_or(-1);
    ensure!(well.contains(&code), "{} ended with {code}: {} {}", words.join(" "), err.trim(), last_lines(&out));
    Ok(out)
}

/// Runs a command of LVM on the new volume alone.
///
/// # Errors
/// LVM refuses.
pub(crate) fn lvm_only(args: &[&str]) -> anyhow::Result<String> {
    run(&[&["lvm"], args, &["--config", ONLY]].concat())
}

/// `e2fsck` without questions; 1 is "mended".
///
/// # Errors
/// What it cannot mend by itself.
pub(crate) fn check(device: &str, how: &str) -> anyhow::Result<()> {
    ends(&["e2fsck", "-f", how, device], &[0, 1])
        .with_context(|| format!("the file system on {device} has errors that need a person"))
        .map(|_| ())
}

/// Waits until a path is there; udev makes most of them.
///
/// # Errors
/// It is not there in time.
pub(crate) fn appears(path: &Path, secs: u32) -> anyhow::Result<()> {
    for _ in 0..secs * 5 {
        if path.exists() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("{} does not appear within {secs} s", path.display())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}
