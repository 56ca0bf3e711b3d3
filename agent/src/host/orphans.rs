//! Processes that Podman left behind: a monitor, a runtime or a container of which Podman knows nothing, or not that it
//! runs. They hold ports and mounts, and what they belong to can never be started again.
//!
//! Finds them by the container's id and our own store in their command lines, so another store's are never touched.
//! Decides not whether something is left behind: whoever asks knows that nothing of it should run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// After its signal a process is gone within this, or it hangs in the kernel.
const END_TIME_MAX: Duration = Duration::from_secs(5);
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// A process that serves one container of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Servant {
    pid: Pid,
    container: String,
}

/// Ids of containers of this store that some process serves.
pub(super) fn served(store: &Path) -> BTreeSet<String> {
    servants(store).into_iter().map(|servant| servant.container).collect()
}

/// Ends whatever serves this container, and what it started. True when there was anything.
pub(super) async fn end(store: &Path, container: &str) -> bool {
    let serves = |store: &Path| servants(store).into_iter().filter(|servant| servant.container == container);
    let found: Vec<Pid> = serves(store).map(|servant| servant.pid).collect();
    if found.is_empty() {
        return false;
    }
    // The monitor's children outlive it and hold the same ports, so they are looked up before it ends.
    let mut all = found.clone();
    found.iter().for_each(|pid| all.extend(children(*pid)));
    tracing::warn!(container, pids = ?all, "ending what Podman left behind of a container");
    for pid in &all {
        if let Err(err) = kill(*pid, Signal::SIGKILL) {
            tracing::debug!(%pid, %err, "it has gone already");
        }
    }
    let gone = async {
        while all.iter().any(|pid| lives(*pid)) {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    if tokio::time::timeout(END_TIME_MAX, gone).await.is_err() {
        tracing::warn!(container, "what Podman left behind does not even end by SIGKILL");
    }
    true
}

/// Takes away every mount below a directory, the deepest first; those that are busy go when they are not.
pub(super) fn unmount_below(dir: &Path) {
    let Ok(text) = fs::read_to_string("/proc/self/mountinfo") else { return };
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below: Vec<PathBuf> = points.map(|p| PathBuf::from(p.replace("\\040", " "))).collect();
    below.retain(|point| point.starts_with(dir) && point != dir);
    below.sort();
    for point in below.iter().rev() {
        if let Err(err) = umount2(point, MntFlags::MNT_DETACH) {
            tracing::warn!(mount = %point.display(), %err, "cannot unmount");
        }
    }
}

fn servants(store: &Path) -> Vec<Servant> {
    let one = |pid: Pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(Servant { pid, container: serves(&line, store)? })
    };
    pids().filter_map(one).collect()
}

/// The container a command line is for: `… -b|--bundle <store>/overlay-containers/<id>/userdata …`, with the id itself as
/// another word.
fn serves(cmdline: &[u8], store: &Path) -> Option<String> {
    let words: Vec<&str> = cmdline.split(|b| *b == 0).map(|word| std::str::from_utf8(word).unwrap_or("")).collect();
    let bundle = words.windows(2).find(|pair| pair[0] == "-b" || pair[0] == "--bundle")?[1];
    let id = Path::new(bundle).strip_prefix(store.join("overlay-containers")).ok()?.to_str()?;
    let id = id.strip_suffix("/userdata")?;
    (id.len() == 64 && words.contains(&id)).then(|| id.to_owned())
}

fn children(of: Pid) -> Vec<Pid> {
    let mine = |pid: &Pid| parent(*pid) == Some(of);
    let direct: Vec<Pid> = pids().filter(mine).collect();
    direct.iter().flat_map(|pid| std::iter::once(*pid).chain(children(*pid))).collect()
}

/// `pid (name) state ppid …`; the name may hold spaces and brackets.
fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok().map(Pid::from_raw)
}

/// It is there and not only waiting to be buried by its parent.
fn lives(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servants_of_our_own_store_are_found() {
        let id = "a".repeat(64);
        let bundle = format!("/s/overlay-containers/{id}/userdata");
        let conmon = format!("/usr/bin/conmon\0--api-version\x001\0-c\0{id}\0-u\0{id}\0-b\0{bundle}\0-n\0web\0");
        let crun = format!("/usr/bin/crun\0create\0--bundle\0{bundle}\0--pid-file\0/r/pid\0{id}\0");
        for line in [&conmon, &crun] {
            assert_eq!(serves(line.as_bytes(), Path::new("/s")), Some(id.clone()));
            assert_eq!(serves(line.as_bytes(), Path::new("/other")), None);
        }
        let reader = format!("less\0{bundle}/ctr.log\0{id}\0");
        assert_eq!(serves(reader.as_bytes(), Path::new("/s")), None, "whoever only looks is no servant");
        assert_eq!(serves(format!("x\0-b\0{bundle}\0").as_bytes(), Path::new("/s")), None);
    }

    #[test]
    fn families_are_known() {
        let me = Pid::this();
        let parent = parent(me).unwrap();
        assert!(children(parent).contains(&me));
        assert!(lives(me) && !lives(Pid::from_raw(i32::MAX)));
    }
}
