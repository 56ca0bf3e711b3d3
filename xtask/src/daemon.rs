//! Programs that stay after this one has gone: started with a log and a record, found again, stopped.
//!
//! Decides whether a process is the one that was started: by process id *and* the time it began *and* the machine's
//! boot, so a number that was given to somebody else is never killed.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::clock::until;
use crate::run::Cmd;

/// How long a program has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(20);

/// Held while something is started, and for ever by whoever takes the fleet down: nothing starts behind its back.
static STARTING: Mutex<()> = Mutex::new(());

/// From now on nothing is started while the guard lives.
pub fn hold_starts() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One program that is to run on its own.
#[derive(Debug, Clone)]
pub struct Daemon {
    name: &'static str,
    record: PathBuf,
    log: PathBuf,
}

/// What is remembered of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its process id.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: when it began, in ticks since boot.
    begun: u64,
    /// The machine's boot id.
    boot: String,
    /// Stands for the program's bytes and its settings; another mark means another program.
    mark: String,
}

/// What [`Daemon::ensure`] had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It ran already, and is the same.
    Kept,
    /// It did not run.
    Started,
    /// It ran, but program or settings had changed.
    Restarted,
}

impl Daemon {
    /// A program whose record and log lie in the given folder.
    #[must_use]
    pub fn new(name: &'static str, dir: &Path) -> Self {
        Daemon { name, record: dir.join(format!("{name}.pid")), log: dir.join(format!("{name}.log")) }
    }

    /// Where it logs.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The process, if it runs.
    #[must_use]
    pub fn running(&self) -> Option<Record> {
        let text = fs::read_to_string(&self.record).ok()?;
        let record: Record = serde_json::from_str(&text).ok()?;
        (boot_id().ok()? == record.boot && begun(record.pid) == Some(record.begun)).then_some(record)
    }

    /// Makes sure that it runs with this mark.
    ///
    /// # Errors
    /// When it cannot be started or an older one cannot be stopped.
    pub fn ensure(&self, cmd: &Cmd, mark: &str) -> anyhow::Result<Ensured> {
        let ensured = match self.running() {
            Some(record) if record.mark == mark => return Ok(Ensured::Kept),
            Some(_) => {
                self.stop()?;
                Ensured::Restarted
            }
            None => Ensured::Started,
        };
        self.start(cmd, mark)?;
        Ok(ensured)
    }

    fn start(&self, cmd: &Cmd, mark: &str) -> anyhow::Result<()> {
        let _guard = hold_starts();
        if self.log.exists() {
            fs::rename(&self.log, self.log.with_extension("log.1"))?;
        }
        let log = File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = cmd.command();
        // A process group of its own, so that Ctrl-C on the terminal is for xtask alone to act on.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", cmd.line()))?;
        let pid = i32::try_from(child.id()).expect("invariant: a pid fits an i32");
        // Its end is collected while we live; afterwards that is init's work.
        let begun = begun(pid);
        std::thread::spawn(move || child.wait());
        let begun = begun.with_context(|| format!("{} ended at once; see {}", self.name, self.log.display()))?;
        let record = Record { pid, begun, boot: boot_id()?, mark: mark.into() };
        let text = serde_json::to_string(&record).expect("invariant: a record is JSON");
        fs::write(&self.record, text).with_context(|| format!("cannot write {}", self.record.display()))
    }

    /// Asks it to stop, and kills it when it does not. Says whether it ran.
    ///
    /// # Errors
    /// When it survives even that.
    pub fn stop(&self) -> anyhow::Result<bool> {
        let Some(record) = self.running() else {
            drop(fs::remove_file(&self.record));
            return Ok(false);
        };
        let gone = || if self.running().is_none() { Ok(()) } else { Err(String::new()) };
        let pid = Pid::from_raw(record.pid);
        signal(pid, Signal::SIGTERM)?;
        if until("the program to stop", GRACE, gone).is_err() {
            eprintln!("{} did not stop within {} s: killing it", self.name, GRACE.as_secs());
            signal(pid, Signal::SIGKILL)?;
            until("the program to die", Duration::from_secs(5), gone)?;
        }
        drop(fs::remove_file(&self.record));
        Ok(true)
    }

    /// The last lines of its log, for a message.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(16 * 1024)..]).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(15)..].join("\n  ");
        format!("{} said last ({}):\n  {last}", self.name, self.log.display())
    }

    /// An error when it does not run (any more).
    ///
    /// # Errors
    /// With its last words.
    pub fn must_run(&self) -> anyhow::Result<()> {
        if self.running().is_none() {
            bail!("{} ended. {}", self.name, self.last_words());
        }
        Ok(())
    }
}

fn signal(pid: Pid, signal: Signal) -> anyhow::Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(err) => bail!("cannot send {signal} to process {pid}: {err}"),
    }
}

fn boot_id() -> anyhow::Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    Ok(id.trim().into())
}

/// When the process began; `None` when it is gone or only waits to be collected.
fn begun(pid: i32) -> Option<u64> {
    parse_begun(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_begun(stat: &str) -> Option<u64> {
    // The name, in brackets, may hold anything, brackets and spaces too.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    if matches!(fields.first()?, &"Z" | &"X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Cmd {
        Cmd::new("sleep").arg("600")
    }

    #[test]
    fn a_process_is_known_by_its_beginning() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1";
        assert_eq!(parse_begun(stat), Some(987_654));
        assert_eq!(parse_begun(&stat.replace(") S", ") Z")), None);
        assert_eq!(parse_begun("42 (cut"), None);
    }

    #[test]
    fn it_is_kept_restarted_and_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::new("sleeper", dir.path());
        assert_eq!(daemon.ensure(&sleeper(), "1").unwrap(), Ensured::Started);
        let first = daemon.running().unwrap();
        assert_eq!(daemon.ensure(&sleeper(), "1").unwrap(), Ensured::Kept);
        assert_eq!(daemon.running().unwrap(), first);
        assert_eq!(daemon.ensure(&sleeper(), "2").unwrap(), Ensured::Restarted);
        assert_ne!(daemon.running().unwrap().pid, first.pid);
        assert!(daemon.stop().unwrap());
        assert!(daemon.running().is_none());
        assert!(!daemon.stop().unwrap());
    }

    #[test]
    fn a_stranger_with_the_same_number_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = Daemon::new("sleeper", dir.path());
        daemon.ensure(&sleeper(), "1").unwrap();
        let record = daemon.running().unwrap();
        let older = Record { begun: record.begun - 1, ..record.clone() };
        fs::write(dir.path().join("sleeper.pid"), serde_json::to_string(&older).unwrap()).unwrap();
        assert!(!daemon.stop().unwrap(), "another process has that number now");
        assert_eq!(begun(record.pid), Some(record.begun), "it lives on");
        fs::write(dir.path().join("sleeper.pid"), serde_json::to_string(&record).unwrap()).unwrap();
        assert!(daemon.stop().unwrap());
    }
}
