//! Commands in containers that do not outlive whoever asked for them.
//!
//! Podman lets a command run on when nobody listens any more. Decides that it is killed then, with what it started in its
//! process group, and only after it is sure that the process lives in the container. Does not decide when that is.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};

use super::podman::{ExecSpec, Podman, PodmanError};

/// A command that was asked for a moment ago may need so long until it has a process.
const TRIES_MAX: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// A command of ours in a container. Dropping it kills the command, unless it has ended.
#[derive(Debug)]
pub(super) struct Leash {
    podman: Podman,
    container: String,
    session: Option<String>,
}

impl Leash {
    /// Prepares a command.
    pub(super) async fn prepare(podman: &Podman, container: &str, argv: &[String]) -> Result<Self, PodmanError> {
        let spec = ExecSpec { command: argv.to_vec(), ..ExecSpec::default() };
        let session = podman.exec_create(container, &spec).await?;
        Ok(Self { podman: podman.clone(), container: container.to_owned(), session: Some(session) })
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
        // Without a runtime the agent is gone: then nobody is left to do it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(err) = kill_command(&podman, &container, &session).await {
                    tracing::warn!(%err, container, "a command that nobody waits for may still run");
                }
            });
        }
    }
}

async fn kill_command(podman: &Podman, container: &str, session: &str) -> Result<(), PodmanError> {
    for _ in 0..TRIES_MAX {
        let command = match podman.exec_inspect(session).await {
            Ok(command) => command,
            Err(err) if err.is_not_found() => return Ok(()),
            Err(err) => return Err(err),
        };
        if command.running && command.pid > 0 {
            let Some(main) = podman.inspect(container).await? else { return Ok(()) };
            if main.state.pid <= 0 {
                return Ok(());
            }
            if lives_with(command.pid, main.state.pid) && send_kill(command.pid, main.state.pid) {
                return Ok(());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// A process id may be another's by now: only one in the container's own file system is ours to kill.
fn lives_with(pid: i64, main: i64) -> bool {
    let place = |pid: i64| std::fs::read_link(PathBuf::from(format!("/proc/{pid}/ns/mnt"))).ok();
    place(pid).is_some_and(|here| place(main) == Some(here) && place(i64::from(std::process::id())) != place(pid))
}

/// Kills the command with its process group. The runtime makes the group and is gone by then; a group that is led from
/// elsewhere (the container's main process, somebody outside) is not the command's own.
fn send_kill(pid: i64, main: i64) -> bool {
    let (Ok(pid), Ok(main)) = (i32::try_from(pid).map(Pid::from_raw), i32::try_from(main).map(Pid::from_raw)) else {
        return false;
    };
    let sent = match (getpgid(Some(pid)), getpgid(Some(main))) {
        (Ok(group), Ok(of_main)) if group != of_main && own(group, pid) => killpg(group, Signal::SIGKILL),
        (Ok(_), _) => kill(pid, Signal::SIGKILL),
        (Err(err), _) => Err(err),
    };
    sent.is_ok()
}

fn own(group: Pid, pid: Pid) -> bool {
    group == pid || !PathBuf::from(format!("/proc/{group}")).exists()
}
