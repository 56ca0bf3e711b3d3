//! The programs of a fleet as processes: started with a log, killed, stopped, started again. The one place of the
//! harness that starts what stays. Decides nothing about which.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use xtask::run::Cmd;

use crate::clock::wait_until;

/// How a process is started.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// Program and arguments.
    pub words: Vec<String>,
    /// Environment beside the inherited one.
    pub env: Vec<(String, String)>,
}

impl Line {
    /// A program.
    #[must_use]
    pub fn new(program: &Path) -> Self {
        Self { words: vec![program.display().to_string()], env: vec![] }
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: ToString>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(args.into_iter().map(|a| a.to_string()));
        self
    }

    /// One environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// The same inside a network namespace. (`nsenter`, not `ip netns exec`: that would hide the control groups.)
    #[must_use]
    pub fn inside(mut self, netns: Option<&str>) -> Self {
        if let Some(netns) = netns {
            let prefix = ["nsenter".to_owned(), format!("--net=/run/netns/{netns}"), "--".to_owned()];
            self.words.splice(0..0, prefix);
        }
        self
    }
}

/// One process that can be started again and again. Killed when dropped.
#[derive(Debug)]
pub struct Proc {
    name: String,
    line: Mutex<Line>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proc {
    /// Not started yet. All its runs log into `<logs>/<name>.log`.
    #[must_use]
    pub fn new(name: &str, logs: &Path, line: Line) -> Self {
        let log = logs.join(format!("{name}.log"));
        Self { name: name.to_owned(), line: Mutex::new(line), log, child: Mutex::new(None) }
    }

    /// Another command line for the next start.
    pub fn set_line(&self, line: Line) {
        *lock(&self.line) = line;
    }

    /// The command line.
    #[must_use]
    pub fn line(&self) -> Line {
        lock(&self.line).clone()
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it runs already or cannot be started.
    #[allow(clippy::disallowed_methods, reason = "this module is where the harness starts what stays")]
    pub fn start(&self) {
        assert!(!self.is_running(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.unwrap_or_else(|err| panic!("cannot write {}: {err}", self.log.display()));
        let line = lock(&self.line).clone();
        let (program, args) = line.words.split_first().expect("invariant: a command line begins with a program");
        let mut command = Command::new(program);
        command.args(args).envs(line.env).process_group(0).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("invariant: a file can be opened twice")).stderr(log);
        let child = command.spawn().unwrap_or_else(|err| panic!("cannot start {program}: {err}"));
        *lock(&self.child) = Some(child);
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.is_running().then(|| lock(&self.child).as_ref().map(pid_of)).flatten()
    }

    /// Does it run?
    #[must_use]
    pub fn is_running(&self) -> bool {
        lock(&self.child).as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How it ended, when it did.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// SIGKILL, and waits until it is gone. Does nothing when it does not run.
    pub fn kill(&self) {
        let mut child = lock(&self.child);
        if let Some(child) = child.as_mut() {
            // That it has ended by itself is as good.
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    pub fn term(&self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_end(limit)
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        let pid = self.pid().unwrap_or_else(|| panic!("{} does not run. {}", self.name, self.last_words()));
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|err| panic!("cannot send {signal} to {}: {err}", self.name));
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_end(&self, limit: Duration) -> ExitStatus {
        wait_until(&format!("{} to end", self.name), limit, || self.ended().ok_or_else(|| self.last_words()))
    }

    /// Everything it logged, over all its runs.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of its log, for messages.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = self.ended().map_or_else(|| "still runs".into(), |s| format!("ended with {s} {:?}", s.signal()));
        format!("{} {end}; its log ends:\n  {}", self.name, lines[lines.len().saturating_sub(15)..].join("\n  "))
    }

    /// Its children with this program name, for instance the coordinator's broker.
    #[must_use]
    pub fn children(&self, program: &str) -> Vec<i32> {
        self.pid().map_or_else(Vec::new, |pid| children_of(pid, program))
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill();
    }
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("invariant: a pid fits an i32")
}

/// Children of a process with this program name.
#[must_use]
pub fn children_of(parent: i32, program: &str) -> Vec<i32> {
    let Ok(all) = std::fs::read_dir("/proc") else { return vec![] };
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| parent_and_name(*pid).is_some_and(|(p, name)| p == parent && name == program)).collect()
}

/// Parent and program name of a process that lives.
fn parent_and_name(pid: i32) -> Option<(i32, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(") ")?;
    let mut fields = after.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let name = before.split_once(" (")?.1.to_owned();
    Some((fields.next()?.parse().ok()?, name))
}

/// Proportional set size in MiB.
///
/// # Panics
/// When the process is gone.
#[must_use]
pub fn pss(pid: i32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process lives");
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).expect("smaps_rollup has a line Pss");
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib / 1024.0
}

/// A program whose lines are read as it prints them. Killed when dropped.
#[derive(Debug)]
pub struct Printing {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Printing {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(cmd: &Cmd) -> Self {
        let mut child = cmd.read().unwrap_or_else(|err| panic!("{err}"));
        let lines = BufReader::new(child.stdout.take().expect("invariant: its output is piped"));
        Self { child, lines }
    }

    /// The next line; none when it has ended.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        // That it has ended by itself is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// SIGKILL to a process that was found below one of ours; gone already is as good.
pub fn kill_pid(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Does this process live?
#[must_use]
pub fn lives(pid: i32) -> bool {
    parent_and_name(pid).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_starts_dies_and_starts_again() {
        let dir = tempfile::tempdir().unwrap();
        let proc =
            Proc::new("sleeper", dir.path(), Line::new(Path::new("sh")).args(["-c", "echo here; exec sleep 600"]));
        proc.start();
        let first = proc.pid().unwrap();
        wait_until("its word", Duration::from_secs(5), || proc.log().contains("here").then_some(()).ok_or("".into()));
        proc.kill();
        assert!(!lives(first) && proc.pid().is_none());
        proc.start();
        assert_ne!(proc.pid().unwrap(), first);
        assert_eq!(proc.term(Duration::from_secs(5)).signal(), Some(15));
    }
}
