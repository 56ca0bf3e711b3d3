//! The one place that starts other programs and waits for them: bounded in time and output, stderr kept.
//! (`daemon` starts those that are meant to stay.) Decides nothing about what to run.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The most bytes kept of each stream; what comes after is read and dropped.
const OUTPUT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is not there or not executable.
    #[error("cannot start {line}: {source}")]
    Start {
        /// The command line.
        line: String,
        /// The reason.
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{line} did not end within {} s and was killed; it said last: {tail}", .limit.as_secs())]
    TooLong {
        /// The command line.
        line: String,
        /// The time it had.
        limit: Duration,
        /// The end of its stderr.
        tail: String,
    },
    /// It ended without success.
    #[error("{line} failed ({status}): {tail}")]
    Failed {
        /// The command line.
        line: String,
        /// Exit code or signal.
        status: ExitStatus,
        /// The end of its stderr.
        tail: String,
    },
}

/// What a program left behind.
#[derive(Debug)]
pub struct Output {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Its standard output, at most [`OUTPUT_BYTES_MAX`].
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
}

/// A command line to be.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: BTreeMap<OsString, Option<OsString>>,
    dir: Option<PathBuf>,
    limit: Duration,
}

impl Cmd {
    /// A program with 60 s to do its work.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Cmd {
            program: program.as_ref().into(),
            args: vec![],
            env: BTreeMap::new(),
            dir: None,
            limit: Duration::from_secs(60),
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().into()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().into(), Some(value.as_ref().into()));
        self
    }

    /// Takes an environment variable away.
    #[must_use]
    pub fn without_env(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().into(), None);
        self
    }

    /// Where it runs.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().into());
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command line as a person would type it, for messages.
    #[must_use]
    pub fn line(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(|w| quote(&w.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }

    /// Runs it and keeps its output, whatever its exit code says.
    ///
    /// # Errors
    /// When it cannot be started or takes too long.
    pub fn output(&self) -> Result<Output, RunError> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|source| RunError::Start { line: self.line(), source })?;
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let ended = wait(child, self.limit, Kill::Group);
        // The readers end with the pipes; a grandchild that holds one open gets no more than this.
        let grace = Duration::from_secs(5);
        let (stdout, stderr) = (stdout.recv_timeout(grace), stderr.recv_timeout(grace));
        let (stdout, stderr) = (stdout.unwrap_or_default(), stderr.unwrap_or_default());
        match ended {
            Some(status) => Ok(Output { status, stdout, stderr }),
            None => Err(RunError::TooLong { line: self.line(), limit: self.limit, tail: tail(&stderr) }),
        }
    }

    /// Runs it and gives its standard output.
    ///
    /// # Errors
    /// When it cannot be started, takes too long or ends without success.
    pub fn check(&self) -> Result<String, RunError> {
        let output = self.output()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
        Err(RunError::Failed { line: self.line(), status: output.status, tail: tail(said) })
    }

    /// Runs it; where it ends without success, all it said is kept in the file `log`.
    ///
    /// # Errors
    /// When it cannot be started, takes too long or ends without success.
    pub fn check_keeping(&self, log: &Path) -> Result<(), RunError> {
        let output = self.output()?;
        if output.status.success() {
            return Ok(());
        }
        let kept = fs::write(log, format!("{}\n{}", output.stdout, output.stderr));
        let tail = match kept {
            Ok(()) => format!("see {}", log.display()),
            Err(err) => format!("{} cannot be written ({err}); {}", log.display(), tail(&output.stderr)),
        };
        Err(RunError::Failed { line: self.line(), status: output.status, tail })
    }

    /// Runs it with our own terminal: what it says is seen at once and not kept.
    ///
    /// # Errors
    /// When it cannot be started, takes too long or ends without success.
    pub fn show(&self) -> Result<(), RunError> {
        let mut command = self.command();
        command.stdin(Stdio::null());
        let child = command.spawn().map_err(|source| RunError::Start { line: self.line(), source })?;
        let seen = || "see above".to_string();
        match wait(child, self.limit, Kill::Process) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(RunError::Failed { line: self.line(), status, tail: seen() }),
            None => Err(RunError::TooLong { line: self.line(), limit: self.limit, tail: seen() }),
        }
    }

    /// Starts it; its standard output is read as it comes, what it notes is not.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn read(&self) -> Result<Child, RunError> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        command.spawn().map_err(|source| RunError::Start { line: self.line(), source })
    }

    /// Replaces this process.
    #[must_use]
    pub fn exec(&self) -> RunError {
        RunError::Start { line: self.line(), source: self.command().exec() }
    }

    /// The command for [`crate::daemon`].
    #[allow(clippy::disallowed_methods, reason = "this module and daemon are where processes are started")]
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        // What cargo says of the package it runs is not for others: a cargo below us would take its build scripts for
        // stale, and build ring and all above it again.
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_package(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }
}

fn is_of_package(variable: &str) -> bool {
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    prefixes.iter().any(|prefix| variable.starts_with(prefix))
}

/// Whom a time-out hits.
#[derive(Clone, Copy)]
enum Kill {
    Group,
    Process,
}

/// The child's status, or `None` when it had to be killed.
fn wait(mut child: Child, limit: Duration, kill: Kill) -> Option<ExitStatus> {
    let pid = Pid::from_raw(child.id().try_into().expect("invariant: a pid fits an i32"));
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || tx.send(child.wait()));
    if let Ok(Ok(status)) = rx.recv_timeout(limit) {
        return Some(status);
    }
    // Not reaped yet, so the number is still this child's.
    let result = match kill {
        Kill::Group => killpg(pid, Signal::SIGKILL),
        Kill::Process => nix::sys::signal::kill(pid, Signal::SIGKILL),
    };
    if let Err(err) = result {
        eprintln!("xtask: cannot kill process {pid}: {err}");
    }
    drop(rx.recv_timeout(Duration::from_secs(5)));
    None
}

fn drain(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut stream) = stream {
            let limit = OUTPUT_BYTES_MAX as u64;
            if stream.by_ref().take(limit).read_to_end(&mut kept).is_ok() {
                drop(io::copy(&mut stream, &mut io::sink()));
            }
        }
        tx.send(String::from_utf8_lossy(&kept).into_owned())
    });
    rx
}

/// The last lines, which say what went wrong.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{word}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_both_streams_and_the_code() {
        let cmd = Cmd::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]);
        let output = cmd.output().unwrap();
        assert_eq!((output.status.code(), output.stdout.trim(), output.stderr.trim()), (Some(3), "out", "err"));
        let failed = cmd.check().unwrap_err().to_string();
        assert_eq!(failed, "sh -c 'echo out; echo err >&2; exit 3' failed (exit status: 3): err");
    }

    #[test]
    fn it_kills_what_takes_too_long_with_all_its_children() {
        let cmd = Cmd::new("sh").args(["-c", "echo slow >&2; sleep 600 & wait"]).within(Duration::from_millis(200));
        let watch = crate::clock::Watch::start();
        let err = cmd.output().unwrap_err();
        assert!(err.to_string().contains("did not end within"), "{err}");
        assert!(err.to_string().ends_with("slow"), "{err}");
        assert!(watch.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn it_drops_what_is_too_much() {
        let output = Cmd::new("sh").args(["-c", "head -c 9000000 /dev/zero | tr '\\0' x"]).output().unwrap();
        assert_eq!(output.stdout.len(), OUTPUT_BYTES_MAX);
        assert!(output.status.success());
    }

    #[test]
    fn what_cargo_says_of_this_package_is_not_handed_on() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "cargo test sets it");
        let output = Cmd::new("env").env("CARGO_PKG_NAME_OF_OURS", "1").check().unwrap();
        let handed: Vec<&str> = output.lines().filter(|line| line.starts_with("CARGO_PKG_")).collect();
        assert_eq!(handed, ["CARGO_PKG_NAME_OF_OURS=1"]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let err = Cmd::new("no-such-program-anywhere").check().unwrap_err();
        assert!(err.to_string().starts_with("cannot start no-such-program-anywhere"), "{err}");
    }
}
