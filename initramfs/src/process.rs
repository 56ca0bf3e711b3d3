//! The one place that starts programs. Their time is bounded by the watchdog, which nobody feeds meanwhile.

use std::process::{Command, Stdio};

use bramble_contracts::boot::words_apart;

/// Of its commands each is a word after this.
pub(crate) const LVM: &str = "/usr/sbin/lvm";

/// Runs a program to its end and gives its output, or the last thing it said of its failure.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String, String> {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that starts processes here")]
    let mut command = Command::new(program);
    // LVM complains of files that the initramfs has left open.
    command.args(args).env("LC_ALL", "C").env("LVM_SUPPRESS_FD_WARNINGS", "1").stdin(Stdio::null());
    command.envs(words_apart(args));
    let done = command.output().map_err(|err| format!("{program} cannot be started: {err}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&done.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    let verb = args.first().copied().unwrap_or_default();
    Err(format!("{program} {verb} ended with {}: {}", done.status, last.trim()))
}
