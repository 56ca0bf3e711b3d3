//! Commands in containers that do not outlive whoever asked for them.
//!
//! Podman lets a command run on when nobody listens any more. Decides that it is killed then, with all of its session
//! (what it started and did not set free), and only after it is sure that the process lives in the container; and that
//! what an agent left behind when it was killed is killed by the next one. Does not decide when a command is over.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};

use super::naming::label;
use super::podman::{Attach, ExecSpec, Podman, PodmanError};

/// A command that was asked for a moment ago may need so long until it has a process.
const TRIES_MAX: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);
/// While Podman does not answer.
const STRAYS_PAUSE: Duration = Duration::from_secs(1);
const OUTAGES_MAX: u32 = 40;
/// A shell whose terminal is gone has so long to tell its jobs and to write its history.
const HANG_UP_MAX: Duration = Duration::from_millis(500);
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// A process that is killed may have started another one just before.
const ROUNDS_MAX: u32 = 10;

/// A command of ours in a container. Dropping it kills the command, unless it has ended.
#[derive(Debug)]
pub(super) struct Leash {
    podman: Podman,
    container: String,
    session: Option<String>,
    manner: Manner,
}

/// How a command is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// At once.
    Kill,
    /// As by a terminal that is gone, and then.
    HangUp,
}

impl Leash {
    /// Prepares a command.
    pub(super) async fn prepare(podman: &Podman, container: &str, argv: &[String]) -> Result<Self, PodmanError> {
        let spec = ExecSpec { command: argv.to_vec(), ..ExecSpec::default() };
        Self::prepare_session(podman, container, &spec).await
    }

    /// Prepares a command that may have input or a terminal.
    pub(super) async fn prepare_session(
        podman: &Podman,
        container: &str,
        spec: &ExecSpec,
    ) -> Result<Self, PodmanError> {
        let session = podman.exec_create(container, spec).await?;
        let manner = match spec.attach {
            Attach::Outputs | Attach::Pipes => Manner::Kill,
            Attach::Terminal(..) => Manner::HangUp,
        };
        Ok(Self { podman: podman.clone(), container: container.to_owned(), session: Some(session), manner })
    }

    /// Its id in Podman.
    pub(super) fn session(&self) -> &str {
        self.session.as_deref().unwrap_or_default()
    }

    /// Waits for the exit code of a command whose output has ended.
    pub(super) async fn end(mut self) -> Result<i32, PodmanError> {
        let end = self.podman.exec_end(self.session()).await?;
        self.session = None;
        Ok(end.exit_code)
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        let (podman, container) = (self.podman.clone(), std::mem::take(&mut self.container));
        let manner = self.manner;
        // Without a runtime the agent is gone: then nobody is left to do it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(err) = end_command(&podman, &container, &session, manner).await {
                    tracing::warn!(%err, container, "a command that nobody waits for may still run");
                }
            });
        }
    }
}

/// Ends the commands of an earlier run of the agent, once Podman answers. A person's own `podman exec` is none of them.
pub(super) async fn end_strays(podman: &Podman) {
    loop {
        match try_end_strays(podman).await {
            Ok(()) => return,
            Err(err) if err.is_outage() => tokio::time::sleep(STRAYS_PAUSE).await,
            Err(err) => return tracing::warn!(%err, "a command of an earlier run of the agent may still run"),
        }
    }
}

async fn try_end_strays(podman: &Podman) -> Result<(), PodmanError> {
    for line in podman.list(&[label::APP.to_owned()]).await? {
        let Some(detail) = podman.inspect(&line.id).await? else { continue };
        let Some(main) = process(detail.state.pid) else { continue };
        for session in &detail.exec_ids {
            let command = match podman.exec_inspect(session).await {
                Ok(command) => command,
                Err(err) if err.is_outage() => return Err(err),
                // It has ended.
                Err(_) => continue,
            };
            let stray = process(command.pid).filter(|pid| podman.is_stray(&command) && lives_with(*pid, main));
            if let Some(pid) = stray {
                tracing::info!(container = %line.id, "ending a command of an earlier run of the agent");
                end_processes(pid, main, Manner::HangUp).await;
            }
        }
    }
    Ok(())
}

async fn end_command(podman: &Podman, container: &str, session: &str, manner: Manner) -> Result<(), PodmanError> {
    let mut outages = 0;
    for _ in 0..TRIES_MAX {
        let command = match podman.exec_inspect(session).await {
            Ok(command) => command,
            Err(err) if err.is_not_found() => return Ok(()),
            // The agent starts it again.
            Err(err) if err.is_outage() && outages < OUTAGES_MAX => {
                outages += 1;
                tokio::time::sleep(STRAYS_PAUSE).await;
                continue;
            }
            Err(err) => return Err(err),
        };
        if command.running && command.pid > 0 {
            let Some(main) = podman.inspect(container).await? else { return Ok(()) };
            if let (Some(pid), Some(main)) = (process(command.pid), process(main.state.pid))
                && lives_with(pid, main)
            {
                end_processes(pid, main, manner).await;
                return Ok(());
            }
            if main.state.pid <= 0 {
                return Ok(());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn process(pid: i64) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 0).map(Pid::from_raw)
}

/// A process id may be another's by now: only one in the container's own file system is ours to kill.
fn lives_with(pid: Pid, main: Pid) -> bool {
    let place = |pid: i32| std::fs::read_link(PathBuf::from(format!("/proc/{pid}/ns/mnt"))).ok();
    let here = place(pid.as_raw());
    here.is_some() && place(main.as_raw()) == here && place(Pid::this().as_raw()) != here
}

async fn end_processes(pid: Pid, main: Pid, manner: Manner) {
    let session = getsid(Some(pid)).ok();
    if manner == Manner::HangUp {
        // A job that is stopped hears nothing else until it goes on.
        tell(&members(pid, session, main), &[Signal::SIGHUP, Signal::SIGCONT]);
        let gone = async {
            while !members(pid, session, main).is_empty() {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        if tokio::time::timeout(HANG_UP_MAX, gone).await.is_ok() {
            return;
        }
    }
    for _ in 0..ROUNDS_MAX {
        let left = members(pid, session, main);
        if left.is_empty() {
            return;
        }
        tell(&left, &[Signal::SIGKILL]);
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// The command and what it started: all of its session in the container, unless that is the container's own.
fn members(pid: Pid, session: Option<Pid>, main: Pid) -> Vec<Pid> {
    let session = session.filter(|session| getsid(Some(main)) != Ok(*session));
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?));
    let one = |other: &Pid| *other == pid || session.is_some_and(|session| getsid(Some(*other)) == Ok(session));
    all.filter(|other| one(other) && lives_with(*other, main)).collect()
}

fn tell(processes: &[Pid], signals: &[Signal]) {
    for (process, signal) in processes.iter().flat_map(|process| signals.iter().map(move |signal| (process, signal))) {
        if let Err(err) = kill(*process, *signal) {
            tracing::debug!(%err, %process, "a process had ended before it was told to");
        }
    }
}
