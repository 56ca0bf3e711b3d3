//! The one place that starts programs: bounded in output, with their errors kept.

use std::path::Path;

use anyhow::{Context as _, bail};

/// How a program ended.
pub(crate) struct Finished {
    /// Its exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it said.
    pub(crate) out: String,
    /// What it complained of.
    pub(crate) err: String,
}

/// Runs a program to its end.
pub(crate) fn finish(program: &Path, args: &[&str]) -> anyhow::Result<Finished> {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that starts processes here")]
    let done = std::process::Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Finished { code: done.status.code(), out: text(&done.stdout), err: text(&done.stderr) })
}

/// Runs a short program and gives its output.
pub(crate) fn output(program: &Path, args: &[&str]) -> anyhow::Result<String> {
    let Finished { code, out, err } = finish(program, args)?;
    if code != Some(0) {
        bail!("{} {} failed: {}", program.display(), args.join(" "), err.trim());
    }
    Ok(out)
}
