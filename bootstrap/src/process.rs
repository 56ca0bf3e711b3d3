//! The one place that starts programs: bounded in output, with their errors kept.

use std::path::Path;

use anyhow::{Context as _, bail};

/// Runs a short program and gives its output.
pub(crate) fn output(program: &Path, args: &[&str]) -> anyhow::Result<String> {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that starts processes here")]
    let done = std::process::Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{} {} failed: {}", program.display(), args.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
