//! The pipe that a command in a container reads, written to without Podman in between.
//!
//! Podman's socket for it is reset when the command ends and has not read everything, and what it printed last is then
//! lost on some days (Podman's own command line does so, too). Decides that a pipe is the command's input only when it is
//! the one of its conmon, so nothing in a container can have us write elsewhere. Where it is not found, Podman's socket
//! has to do.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::net::unix::pipe;

use super::podman::{Podman, PodmanError};

/// A command that was started a moment ago may need so long until it has a process.
const TRIES_MAX: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

/// The writing end of a command's input; none when there is no such pipe, or the command has ended.
pub(super) async fn open(podman: &Podman, session: &str) -> Result<Option<pipe::Sender>, PodmanError> {
    for _ in 0..TRIES_MAX {
        let command = podman.exec_inspect(session).await?;
        if command.running && command.pid > 0 {
            let path = i32::try_from(command.pid).ok().and_then(|pid| writing_end(Pid::from_raw(pid)));
            return Ok(path.and_then(|path| pipe::OpenOptions::new().open_sender(path).ok()));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(None)
}

/// What conmon, its parent, writes to and it reads from.
fn writing_end(pid: Pid) -> Option<PathBuf> {
    let reads =
        fs::read_link(format!("/proc/{pid}/fd/0")).ok().filter(|link| link.to_string_lossy().starts_with("pipe:"))?;
    let parent = parent(pid)?;
    let exe = fs::read_link(format!("/proc/{parent}/exe")).ok()?;
    // After an upgrade of it, "conmon (deleted)".
    if !exe.file_name()?.to_string_lossy().starts_with("conmon") {
        return None;
    }
    let all = fs::read_dir(format!("/proc/{parent}/fd")).ok()?.flatten().map(|entry| entry.path());
    let mut same = all.filter(|path| fs::read_link(path).is_ok_and(|link| link == reads));
    same.find(|path| is_written(&parent, path))
}

fn parent(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}

/// Is it open for writing?
fn is_written(process: &Pid, path: &std::path::Path) -> bool {
    let number = path.file_name().unwrap_or_default().to_string_lossy();
    let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| flags.trim().chars().last()).is_some_and(|mode| mode == '1')
}
