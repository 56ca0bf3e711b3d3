//! The one place that starts programs: bounded in output, with their errors kept.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail};

/// Runs a short program and gives its output.
pub(crate) fn output(program: &Path, args: &[&str]) -> anyhow::Result<String> {
    output_of(program, args, "")
}

/// The same, with something to read for it.
pub(crate) fn output_of(program: &Path, args: &[&str], input: &str) -> anyhow::Result<String> {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that starts processes here")]
    let mut command = std::process::Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing, or no more, says itself what is wrong.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let done = child.wait_with_output().with_context(|| format!("cannot wait for {}", program.display()))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{} {} failed: {}", program.display(), args.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
