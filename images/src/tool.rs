//! The one place that starts other programs and waits for them: bounded in time, what they say kept for the message.
//! Decides nothing about what to run. Every one gets the same time, language and time zone, so that it writes the same bytes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::Error;

/// Of each stream so many bytes are kept; what comes after is read and dropped.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;

/// A command line to be.
#[derive(Debug, Clone)]
pub(crate) struct Tool {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    limit: Duration,
}

impl Tool {
    /// A program with five minutes to do its work; root's folders are searched for it too.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let env = [("LC_ALL", "C.UTF-8"), ("TZ", "UTC"), ("DEBIAN_FRONTEND", "noninteractive")];
        let mut env: Vec<(OsString, OsString)> = env.map(|(name, value)| (name.into(), value.into())).into();
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/sbin:/sbin");
        env.push(("PATH".into(), path));
        Tool { program: program.as_ref().into(), args: vec![], env, limit: Duration::from_secs(300) }
    }

    /// A program inside another root file system, seen as its own `/`, with its own `/proc`; what it starts ends with it.
    pub(crate) fn inside(root: &Path, program: &str) -> Self {
        let unshare = Tool::new("unshare").args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        let inside = unshare.arg(format!("--root={}", root.display())).arg("--wd=/").arg(program);
        inside.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root")
    }

    /// One more argument.
    #[must_use]
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// More arguments.
    #[must_use]
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().into()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().into()));
        self
    }

    /// The time no file is to be newer than, for programs that know of it.
    #[must_use]
    pub(crate) fn epoch(self, epoch_s: u64) -> Self {
        let epoch = epoch_s.to_string();
        // e2fsprogs before 1.47.1 has a name of its own for it.
        self.env("SOURCE_DATE_EPOCH", &epoch).env("E2FSPROGS_FAKE_TIME", &epoch)
    }

    /// How long it may take.
    #[must_use]
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command line as a person would type it.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    /// Runs it and gives its standard output.
    ///
    /// # Errors
    /// When it cannot be started, takes too long or ends without success.
    pub(crate) fn run(&self) -> Result<String, Error> {
        self.start(Stdio::piped())
    }

    /// Runs it with its standard output going to a file.
    ///
    /// # Errors
    /// As [`Tool::run`], or when the file cannot be made.
    pub(crate) fn saved_as(&self, output: &Path) -> Result<(), Error> {
        let file = File::create(output).map_err(|err| Error::file("make", output, err))?;
        self.start(file.into()).map(drop)
    }

    #[allow(clippy::disallowed_methods, reason = "this module is where processes are started")]
    fn start(&self, output: Stdio) -> Result<String, Error> {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output).stderr(Stdio::piped()).process_group(0);
        let failed = |what: String| Error::Tool { line: self.line(), what };
        let mut child = command.spawn().map_err(|err| failed(format!("cannot be started: {err}")))?;
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        let pid = Pid::from_raw(child.id().try_into().expect("invariant: a pid fits an i32"));
        let (tx, ended) = mpsc::channel();
        std::thread::spawn(move || tx.send(child.wait()));
        let status: Option<ExitStatus> = ended.recv_timeout(self.limit).ok().and_then(Result::ok);
        if status.is_none()
            && let Err(err) = killpg(pid, Signal::SIGKILL)
        {
            return Err(failed(format!("did not end within {} s and cannot be killed: {err}", self.limit.as_secs())));
        }
        // The readers end with the pipes; a grandchild that holds one open gets no more than this.
        let said = |stream: mpsc::Receiver<String>| stream.recv_timeout(Duration::from_secs(5)).unwrap_or_default();
        let (stdout, stderr) = (said(stdout), said(stderr));
        match status {
            Some(status) if status.success() => Ok(stdout),
            Some(status) => {
                let heard = if stderr.trim().is_empty() { &stdout } else { &stderr };
                Err(failed(format!("failed ({status}): {}", tail(heard))))
            }
            None => Err(failed(format!("did not end within {} s: {}", self.limit.as_secs(), tail(&stderr)))),
        }
    }
}

fn drain(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut stream) = stream
            && stream.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut kept).is_ok()
        {
            drop(std::io::copy(&mut stream, &mut std::io::sink()));
        }
        tx.send(String::from_utf8_lossy(&kept).into_owned())
    });
    rx
}

/// The last lines, which say what went wrong.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_failed_and_what_it_said() {
        let err = Tool::new("sh").args(["-c", "echo oh no >&2; exit 3"]).run().unwrap_err().to_string();
        assert!(err.starts_with("sh -c") && err.contains("oh no") && err.contains('3'), "{err}");
        let err = Tool::new("no-such-program").run().unwrap_err().to_string();
        assert!(err.contains("cannot be started"), "{err}");
    }

    #[test]
    fn what_takes_too_long_is_killed() {
        let err = Tool::new("sleep").arg("100").within(Duration::from_millis(50)).run().unwrap_err().to_string();
        assert!(err.contains("did not end"), "{err}");
    }
}
