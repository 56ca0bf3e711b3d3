//! The only starter of processes in the agent: one runner for commands that end, one for services that stay.
//!
//! Decides the bounds (time, output). Does not decide what an exit code means.
#![allow(clippy::disallowed_methods, reason = "this is the one place that starts processes")]

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};

/// So much of a service's first words is kept, and at most one piece more.
const FIRST_WORDS_BYTES: usize = 4096;

/// What one command may cost.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// It is killed after this.
    pub time: Duration,
    /// So much of each output is kept; the rest is read and dropped.
    pub output_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), output_bytes: 256 * 1024 }
    }
}

/// A command that ended by itself.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// Its output.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
}

/// Why a command gave no result.
#[derive(Debug, thiserror::Error)]
pub enum CmdError {
    /// It did not start.
    #[error("cannot start {}; is it installed and on PATH?", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's word.
        #[source]
        err: std::io::Error,
    },
    /// It could not be waited for.
    #[error("lost track of {}", program.display())]
    Wait {
        /// The program.
        program: PathBuf,
        /// The system's word.
        #[source]
        err: std::io::Error,
    },
    /// It took too long and was killed.
    #[error("{} did not end within {} s and was killed", program.display(), after.as_secs())]
    TimedOut {
        /// The program.
        program: PathBuf,
        /// The limit.
        after: Duration,
    },
}

/// What holds a command's outputs open beyond its end, a child that stays, is not waited for longer.
const LINGER: Duration = Duration::from_secs(2);
/// The command's third output becomes what we read as its first, and its first goes where its errors go.
const THIRD: &str = "exec 3>&1 1>&2; exec \"$@\"";

/// A long command that tells how far it is, line by line, on its output number [`Heard::OUTPUT`].
pub struct Heard<'a> {
    /// Beyond what we have ourselves.
    pub env: &'a [(&'a str, &'a str)],
    /// Hears each of these lines.
    pub hear: &'a mut (dyn FnMut(&str) + Send),
}

impl Heard<'_> {
    /// Where the command has to write them.
    pub const OUTPUT: u8 = 3;
}

/// Runs a command that tells how far it is. What else it says, outputs and errors, is in `stderr`: the end of it, where
/// that is too long.
pub async fn run_heard(program: &Path, args: &[&str], heard: Heard<'_>, bounds: Bounds) -> Result<Finished, CmdError> {
    let Heard { env, hear } = heard;
    let mut child = Command::new("/bin/sh")
        .args(["-c", THIRD, "sh"])
        .arg(program)
        .args(args)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|err| CmdError::Start { program: program.to_owned(), err })?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut said = Vec::new();
    let whole = Box::pin(async {
        let mut both = Box::pin(async { tokio::join!(lines(out, hear), tail(err, bounds.output_bytes, &mut said)) });
        let status = tokio::select! {
            status = child.wait() => status,
            _ = &mut both => return child.wait().await,
        };
        // All that it wrote itself is in the pipes by now.
        let _stays = tokio::time::timeout(LINGER, both).await;
        status
    });
    let ended = tokio::time::timeout(bounds.time, whole).await;
    match ended {
        Ok(Ok(status)) => {
            let stderr = String::from_utf8_lossy(&said).into_owned();
            Ok(Finished { status, stdout: String::new(), stderr })
        }
        Ok(Err(err)) => Err(CmdError::Wait { program: program.to_owned(), err }),
        Err(_) => Err(CmdError::TimedOut { program: program.to_owned(), after: bounds.time }),
    }
}

/// Every whole line, as it comes.
async fn lines(stream: Option<impl AsyncRead + Unpin>, hear: &mut (dyn FnMut(&str) + Send)) {
    let Some(mut stream) = stream else { return };
    let (mut held, mut chunk) = (Vec::new(), vec![0u8; 8192]);
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        held.extend_from_slice(&chunk[..n]);
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            hear(String::from_utf8_lossy(&line).trim_end());
        }
        // What has no end is no line.
        if held.len() > FIRST_WORDS_BYTES {
            held.clear();
        }
    }
}

/// The last of it, at most so much.
async fn tail(stream: Option<impl AsyncRead + Unpin>, limit: usize, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = vec![0u8; 8192];
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..n]);
        let surplus = kept.len().saturating_sub(limit);
        kept.drain(..surplus);
    }
}

/// Runs a command to its end. Dropping the future kills it.
pub async fn run(program: &Path, args: &[&str], bounds: Bounds) -> Result<Finished, CmdError> {
    feed(program, args, "", bounds).await
}

/// The same, with this on its standard input.
pub async fn feed(program: &Path, args: &[&str], input: &str, bounds: Bounds) -> Result<Finished, CmdError> {
    begin(program, args, &[], input, bounds).await
}

/// Runs a command with these variables beyond ours.
pub async fn run_env(
    program: &Path,
    args: &[&str],
    env: &[(&str, &str)],
    bounds: Bounds,
) -> Result<Finished, CmdError> {
    begin(program, args, env, "", bounds).await
}

async fn begin(
    program: &Path,
    args: &[&str],
    env: &[(&str, &str)],
    input: &str,
    bounds: Bounds,
) -> Result<Finished, CmdError> {
    let mut child = Command::new(program)
        .args(args)
        .envs(env.iter().copied())
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|err| CmdError::Start { program: program.to_owned(), err })?;
    let (out, err, stdin) = (child.stdout.take(), child.stderr.take(), child.stdin.take());
    // On the heap: a child and two readers are large, and whoever waits for a command should not be.
    let whole = Box::pin(async {
        let (stdout, stderr, (), status) = tokio::join!(
            keep(out, bounds.output_bytes),
            keep(err, bounds.output_bytes),
            give(stdin, input),
            child.wait()
        );
        status.map(|status| Finished { status, stdout, stderr })
    });
    match tokio::time::timeout(bounds.time, whole).await {
        Ok(finished) => finished.map_err(|err| CmdError::Wait { program: program.to_owned(), err }),
        Err(_) => Err(CmdError::TimedOut { program: program.to_owned(), after: bounds.time }),
    }
}

/// Whether the command reads all of it is its own affair: its exit code tells.
async fn give(stdin: Option<ChildStdin>, input: &str) {
    if let Some(mut stdin) = stdin
        && let Err(err) = stdin.write_all(input.as_bytes()).await
    {
        tracing::debug!(%err, "a command did not read its input to the end");
    }
}

async fn keep(stream: Option<impl AsyncRead + Unpin>, limit: usize) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let (mut kept, mut chunk) = (Vec::new(), vec![0u8; 8192]);
    while let Ok(n) = stream.read(&mut chunk).await {
        if n == 0 {
            break;
        }
        kept.extend_from_slice(&chunk[..n.min(limit.saturating_sub(kept.len()))]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The first words of a service on its standard error: why it ends, when it ends at once.
#[derive(Clone, Debug, Default)]
pub struct FirstWords(Arc<Mutex<String>>);

impl FirstWords {
    /// What was said so far.
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hear(&self, words: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if text.len() < FIRST_WORDS_BYTES {
            text.push_str(words);
        }
    }
}

/// Starts a service in its own process group, so that a Ctrl-C meant for us does not reach it. Its errors go to the log,
/// line by line. It outlives us unless it is told to stop.
pub fn start_service(program: &Path, args: &[String], env: &[(String, String)]) -> Result<Child, CmdError> {
    start_heard(program, args, env, &FirstWords::default())
}

/// The same, with an ear for its first words.
pub fn start_heard(
    program: &Path,
    args: &[String],
    env: &[(String, String)],
    heard: &FirstWords,
) -> Result<Child, CmdError> {
    let mut child = Command::new(program)
        .args(args)
        .envs(env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|err| CmdError::Start { program: program.to_owned(), err })?;
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(mut stderr) = child.stderr.take() {
        let heard = heard.clone();
        tokio::spawn(async move {
            let mut chunk = vec![0u8; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut chunk).await {
                heard.hear(&String::from_utf8_lossy(&chunk[..n]));
                for line in String::from_utf8_lossy(&chunk[..n]).lines() {
                    tracing::debug!(program = %name, "{line}");
                }
            }
        });
    }
    Ok(child)
}

/// What systemd says to those it starts: it is not meant for theirs.
const SYSTEMD: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"];

/// Starts a program that writes where we write, in its own process group. It is killed when the handle is dropped.
pub fn start_child(program: &Path, args: &[String], env: &[(&str, String)]) -> Result<Child, CmdError> {
    let mut command = Command::new(program);
    for name in SYSTEMD {
        command.env_remove(name);
    }
    command
        .args(args)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|err| CmdError::Start { program: program.to_owned(), err })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_and_status_come_back() {
        let done =
            run(Path::new("/bin/sh"), &["-c", "echo out; echo err >&2; exit 3"], Bounds::default()).await.unwrap();
        assert_eq!((done.stdout.as_str(), done.stderr.as_str(), done.status.code()), ("out\n", "err\n", Some(3)));
    }

    #[tokio::test]
    async fn input_arrives_whole() {
        let text = "x".repeat(200_000);
        let bounds = Bounds { output_bytes: 1 << 20, ..Bounds::default() };
        assert_eq!(feed(Path::new("/bin/cat"), &[], &text, bounds).await.unwrap().stdout, text);
    }

    #[tokio::test]
    async fn a_command_that_tells_how_far_it_is_is_heard_line_by_line() {
        let script = "echo one >&3; echo out; echo err >&2; printf two >&3; echo >&3; (sleep 4 &) ; exit 4";
        let mut lines = vec![];
        let mut hear = |line: &str| lines.push(line.to_owned());
        let heard = Heard { env: &[("LC_ALL", "C")], hear: &mut hear };
        let bounds = Bounds { output_bytes: 6, ..Bounds::default() };
        let done = run_heard(Path::new("/bin/sh"), &["-c", script], heard, bounds).await.unwrap();
        assert_eq!((done.status.code(), done.stderr.as_str()), (Some(4), "t\nerr\n"), "the end of what it said");
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn whoever_waits_for_a_command_stays_small() {
        let waiting = run(Path::new("/bin/true"), &[], Bounds::default());
        assert!(size_of_val(&waiting) < 2048, "{} bytes", size_of_val(&waiting));
    }

    #[tokio::test]
    async fn time_and_output_are_bounded() {
        let short = Bounds { time: Duration::from_millis(50), output_bytes: 10 };
        let err = run(Path::new("/bin/sh"), &["-c", "sleep 60"], short).await.unwrap_err();
        assert!(matches!(err, CmdError::TimedOut { .. }));
        let cap = Bounds { output_bytes: 10, ..Bounds::default() };
        let done = run(Path::new("/bin/sh"), &["-c", "head -c 100000 /dev/zero | tr '\\0' x"], cap).await.unwrap();
        assert_eq!(done.stdout, "x".repeat(10));
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let err = run(Path::new("/nonexistent/tool"), &[], Bounds::default()).await.unwrap_err();
        assert!(err.to_string().contains("/nonexistent/tool"));
    }
}
