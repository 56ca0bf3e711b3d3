//! The one place that starts programs: bounded in output, with their errors kept.

use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail};
use bramble_contracts::boot::words_apart;

/// How a program ended.
pub(crate) struct Finished {
    /// Its exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it said.
    pub(crate) out: String,
    /// What it complained of.
    pub(crate) err: String,
}

/// Runs a short program and gives its output.
pub(crate) fn output(program: &Path, args: &[&str]) -> anyhow::Result<String> {
    output_of(program, args, "")
}

/// The same, with something to read for it.
pub(crate) fn output_of(program: &Path, args: &[&str], input: &str) -> anyhow::Result<String> {
    let Finished { code, out, err } = finish_with(program, args, input)?;
    if code != Some(0) {
        bail!("{} {} failed: {}", program.display(), args.join(" "), err.trim());
    }
    Ok(out)
}

/// Runs a program to its end.
pub(crate) fn finish(program: &Path, args: &[&str]) -> anyhow::Result<Finished> {
    finish_with(program, args, "")
}

fn finish_with(program: &Path, args: &[&str], input: &str) -> anyhow::Result<Finished> {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that starts processes here")]
    let mut command = std::process::Command::new(program);
    command.args(args).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(words_apart(args));
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing, or no more, says itself what is wrong.
        let _unread = stdin.write_all(input.as_bytes());
    }
    let done = child.wait_with_output().with_context(|| format!("cannot wait for {}", program.display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Finished { code: done.status.code(), out: text(&done.stdout), err: text(&done.stderr) })
}
