//! Processes of the broker: start, recognise again, stop.
//!
//! Decides: what makes a process *the* broker (pid, start time and command line, so that a reused pid is never touched)
//! and as which user it runs. Deliberately does not: decide when to start or stop; `supervise` does.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bramble_contracts::bytes::Sha256;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, User, chown, geteuid},
};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use super::{config::Layout, owner};
use crate::keys::{FileError, files};

/// Users the broker may run as when we are root, best first.
const USERS: [&str; 3] = ["bramble-nats", "nats", "nobody"];
const STOP_GRACE: Duration = Duration::from_secs(15);
/// So much of the end of its log is looked at.
const WORDS: u64 = 64 * 1024;
const POLL: Duration = Duration::from_millis(100);

/// What must be the same for a running broker to be adopted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) program: PathBuf,
    pub(super) program_size: u64,
    pub(super) program_mtime: i64,
    pub(super) operator: String,
    pub(super) uid: u32,
    /// Digest of its settings; accounts are pushed, so they are not part of it.
    pub(super) settings: Sha256,
}

/// The broker that runs, as written beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) pid: i32,
    /// In clock ticks since boot: with the pid it names one process.
    pub(super) started: u64,
    /// Of the machine.
    pub(super) boot: String,
    pub(super) setup: Setup,
}

/// A user to run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunAs {
    pub(super) uid: Uid,
    pub(super) gid: Gid,
}

/// State and start time of a process, from `/proc/<pid>/stat`.
pub(super) fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn start_time(pid: i32) -> Option<u64> {
    let (state, started) = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    (!matches!(state, 'Z' | 'X')).then_some(started)
}

/// Does this process have our configuration file in its command line?
fn runs_our_config(pid: i32, layout: &Layout) -> bool {
    let config = layout.config();
    let is_config = |word: &[u8]| Path::new(&*String::from_utf8_lossy(word)) == config;
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split(|b| *b == 0).any(is_config))
}

impl Record {
    /// A broker on our files that no record tells of: its coordinator was killed before it could write one.
    pub(super) fn find_unrecorded(layout: &Layout, setup: &Setup) -> Option<Self> {
        let is_broker = |pid: &i32| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).ok();
            program.is_some_and(|p| p.file_name() == setup.program.file_name()) && runs_our_config(*pid, layout)
        };
        let pids = fs::read_dir("/proc").ok()?.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(is_broker).find_map(|pid| Self::of(pid, setup.clone()))
    }

    pub(super) fn of(pid: i32, setup: Setup) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)?, boot: boot_id(), setup })
    }

    pub(super) fn load(layout: &Layout) -> Option<Self> {
        serde_json::from_slice(&files::read(&layout.record()).ok()?).ok()
    }

    pub(super) fn store(&self, layout: &Layout) -> Result<(), FileError> {
        let bytes = serde_json::to_vec_pretty(self).expect("invariant: a record is JSON");
        files::replace(&layout.record(), &bytes)
    }

    /// Is this very process alive, and is it our broker?
    pub(super) fn alive(&self, layout: &Layout) -> bool {
        self.boot == boot_id() && start_time(self.pid) == Some(self.started) && runs_our_config(self.pid, layout)
    }

    pub(super) async fn gone(&self, layout: &Layout) {
        while self.alive(layout) {
            tokio::time::sleep(POLL).await;
        }
    }

    fn signal(&self, layout: &Layout, signal: Signal) {
        if self.alive(layout) {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Asks it to stop; kills it after a grace period.
    pub(super) async fn stop(&self, layout: &Layout) {
        self.signal(layout, Signal::SIGTERM);
        if tokio::time::timeout(STOP_GRACE, self.gone(layout)).await.is_err() {
            tracing::warn!(pid = self.pid, "the broker does not stop when asked: killing it");
            self.signal(layout, Signal::SIGKILL);
            self.gone(layout).await;
        }
    }

    /// Makes it read its configuration again (certificates).
    pub(super) fn reload(&self, layout: &Layout) {
        self.signal(layout, Signal::SIGHUP);
    }
}

impl Setup {
    pub(super) fn new(
        program: &Path,
        operator: String,
        settings: &str,
        run_as: Option<RunAs>,
    ) -> Result<Self, FileError> {
        let meta = files::at("find the program", program, fs::metadata(program))?;
        Ok(Self {
            program: program.to_owned(),
            program_size: meta.len(),
            program_mtime: meta.mtime(),
            operator,
            uid: run_as.map_or(geteuid().as_raw(), |r| r.uid.as_raw()),
            settings: Sha256::of(settings.as_bytes()),
        })
    }
}

/// Lets others pass through the state folder, not look into it: what is private in it is so by itself.
fn open_way(dir: &Path) -> Result<(), FileError> {
    let meta = files::at("look at", dir, fs::metadata(dir))?;
    let mode = meta.permissions().mode() & 0o7777;
    if meta.uid() != geteuid().as_raw() || mode & 0o011 == 0o011 {
        return Ok(());
    }
    files::at("open the way through", dir, fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o011)))
}

/// May `user` pass through every folder above `path`?
fn reachable(path: &Path, user: RunAs) -> bool {
    let may = |dir: &Path| {
        fs::metadata(dir).is_ok_and(|m| {
            let bit = if m.uid() == user.uid.as_raw() {
                0o100
            } else if m.gid() == user.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            m.permissions().mode() & bit != 0
        })
    };
    path.ancestors().filter(|p| !p.as_os_str().is_empty()).all(may)
}

/// The user to run the broker as; `None`: as ourselves, because we are not root or because no other user could reach
/// the program and its files.
pub(super) fn other_user(program: &Path, layout: &Layout) -> Option<RunAs> {
    if !geteuid().is_root() {
        return None;
    }
    let user = USERS.iter().find_map(|name| User::from_name(name).ok().flatten())?;
    let run_as = RunAs { uid: user.uid, gid: user.gid };
    // Of the folders above our files only the state folder is ours to open.
    let above = layout.dir().parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let ways = [layout.dir().parent(), Some(layout.dir())].into_iter().flatten();
    if reachable(program, run_as) && reachable(above, run_as) && ways.map(open_way).all(|done| done.is_ok()) {
        tracing::info!(user = user.name, "the broker runs as another user");
        return Some(run_as);
    }
    tracing::info!(user = user.name, "the broker runs as root: that user cannot reach the program or the state folder");
    None
}

/// Lets the broker's user read a file that stays ours.
pub(super) fn lend(path: &Path, run_as: RunAs) -> Result<(), FileError> {
    let lent = chown(path, None, Some(run_as.gid)).map_err(std::io::Error::from);
    files::at("lend", path, lent)?;
    files::at("lend", path, fs::set_permissions(path, fs::Permissions::from_mode(0o640)))
}

/// Starts a broker that outlives us when we are killed: own process group, no pipe to us (a broken pipe would kill it).
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts the broker; it is supervised and its output goes to a bounded file"
)]
pub(super) fn spawn(setup: &Setup, layout: &Layout, run_as: Option<RunAs>) -> Result<Child, FileError> {
    let stderr = fs::OpenOptions::new().create(true).write(true).truncate(true).open(layout.dir().join("stderr.log"));
    let stderr = files::at("open", &layout.dir().join("stderr.log"), stderr)?;
    let mut command = Command::new(&setup.program);
    command.arg("-c").arg(layout.config()).env_clear().current_dir(layout.dir()).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).kill_on_drop(false);
    if let Some(user) = run_as {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    files::at("start", &setup.program, command.spawn())
}

/// The last lines a broker printed, for an error message.
pub(super) fn last_words(layout: &Layout) -> String {
    let read = |path: PathBuf| {
        let mut bytes = vec![];
        let end = owner::open(&path).and_then(|mut file| {
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(WORDS)))?;
            file.take(WORDS).read_to_end(&mut bytes)
        });
        end.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    };
    let all = read(layout.log()) + &read(layout.dir().join("stderr.log"));
    let bad = |l: &&str| l.contains("[ERR]") || l.contains("[FTL]") || l.contains("nats-server:");
    let lines: Vec<&str> = all.lines().filter(bad).collect();
    lines.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_an_odd_name_is_read() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 123456 99 1 2";
        assert_eq!(parse_stat(line), Some(('S', 123_456)));
        assert_eq!(parse_stat("rubbish"), None);
    }

    #[test]
    fn a_reused_pid_is_not_our_broker() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        let setup = Setup::new(Path::new("/proc/self/exe"), String::new(), "", None);
        let pid = i32::try_from(std::process::id()).unwrap();
        let me = Record::of(pid, setup.unwrap()).unwrap();
        assert!(!me.alive(&layout), "this test is a process with the right pid, and not a broker");
    }
}
