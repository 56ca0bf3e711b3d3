//! `podman system service`, as a child that is started again when it ends.
//!
//! Containers do not hang on it: each has its own conmon, which survives this service and the agent. A service that an
//! earlier, killed agent left behind is found in /proc by our socket path and ended before a new one starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::http::Podman;
use crate::core::backoff::Backoff;
use crate::host::{clock, cmd};

/// Where Podman keeps things and how it is started.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// The program.
    pub program: PathBuf,
    /// Images and containers.
    pub store: PathBuf,
    /// Mounts and locks of this boot.
    pub run_root: PathBuf,
    /// Podman's sign of "same boot".
    pub tmp_dir: PathBuf,
    /// The socket that we make it listen on.
    pub socket: PathBuf,
    /// Its `containers.conf`, when not the system's.
    pub containers_conf: Option<PathBuf>,
}

impl ServiceConfig {
    /// The usual places below the agent's state and run directories.
    pub fn below(state: &Path, run: &Path) -> Self {
        Self {
            program: PathBuf::from("podman"),
            store: state.join("store"),
            run_root: run.join("store"),
            tmp_dir: run.join("tmp"),
            socket: run.join("podman.sock"),
            containers_conf: None,
        }
    }

    fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    fn args(&self) -> Vec<String> {
        let path = |p: &Path| p.display().to_string();
        let words: [&str; 3] = ["system", "service", "--time=0"];
        ["--root".into(), path(&self.store), "--runroot".into(), path(&self.run_root)]
            .into_iter()
            .chain(["--tmpdir".into(), path(&self.tmp_dir)])
            .chain(words.map(String::from))
            .chain([self.url()])
            .collect()
    }

    fn env(&self) -> Vec<(String, String)> {
        let conf = self.containers_conf.iter().map(|p| ("CONTAINERS_CONF".to_owned(), p.display().to_string()));
        conf.collect()
    }
}

/// What the service is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceState {
    /// Not answering yet.
    Starting,
    /// Answers.
    Ready,
    /// Ended, or did not start; tried again after a pause.
    Down(String),
    /// Ended because we said so.
    Stopped,
}

/// A supervised service.
#[derive(Debug)]
pub struct Service {
    state: watch::Receiver<ServiceState>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
const START_TIME_MAX: Duration = Duration::from_secs(60);
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
const PROBE_PAUSE: Duration = Duration::from_millis(10);
/// A service that ran this long did not fail to start.
const STEADY: Duration = Duration::from_secs(60);

impl Service {
    /// Starts it and keeps it running.
    pub fn start(config: ServiceConfig) -> Self {
        let (state_out, state) = watch::channel(ServiceState::Starting);
        let (stop, stop_in) = watch::channel(false);
        let task = tokio::spawn(supervise(config, state_out, stop_in));
        Self { state, stop, task }
    }

    /// What it is doing, as it changes.
    pub fn state(&self) -> watch::Receiver<ServiceState> {
        self.state.clone()
    }

    /// Waits until it answers, or gives the reason why it does not.
    pub async fn ready(&self, within: Duration) -> Result<(), String> {
        let mut state = self.state.clone();
        let wanted = state.wait_for(|s| *s == ServiceState::Ready);
        match tokio::time::timeout(within, wanted).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(match &*self.state.borrow() {
                ServiceState::Down(why) => why.clone(),
                ServiceState::Starting | ServiceState::Ready | ServiceState::Stopped => {
                    format!("podman's service did not answer within {} s", within.as_secs())
                }
            }),
        }
    }

    /// Ends it. Containers run on.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(err) = self.task.await {
            tracing::warn!(%err, "the supervisor of podman's service ended badly");
        }
    }
}

async fn supervise(config: ServiceConfig, state: watch::Sender<ServiceState>, mut stop: watch::Receiver<bool>) {
    let mut failures = 0;
    while !*stop.borrow() && stop.has_changed().is_ok() {
        let began = clock::uptime();
        let why = run_once(&config, &state, &mut stop).await;
        if *stop.borrow() {
            break;
        }
        if clock::uptime().saturating_sub(began) >= STEADY {
            failures = 0;
        }
        failures += 1;
        let pause = PAUSES.delay(failures);
        tracing::warn!(why, pause_ms = pause.as_millis(), "podman's service is down, starting it again");
        state.send_replace(ServiceState::Down(why));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = told(&mut stop) => {}
        }
    }
    state.send_replace(ServiceState::Stopped);
}

/// One life of the service; says how it ended.
async fn run_once(
    config: &ServiceConfig,
    state: &watch::Sender<ServiceState>,
    stop: &mut watch::Receiver<bool>,
) -> String {
    end_leftovers(config).await;
    for dir in [config.socket.parent(), Some(config.tmp_dir.as_path())].into_iter().flatten() {
        if let Err(err) = crate::host::state::make_dir(dir) {
            return err.to_string();
        }
    }
    if let Err(err) = fs::remove_file(&config.socket)
        && err.kind() != std::io::ErrorKind::NotFound
    {
        return format!("cannot remove the old socket {}: {err}", config.socket.display());
    }
    let mut child = match cmd::start_service(&config.program, &config.args(), &config.env()) {
        Ok(child) => child,
        Err(err) => return format!("{err}"),
    };
    let up = tokio::select! {
        answered = answers(&config.socket) => answered,
        status = child.wait() => return ended(status),
        () = told(stop) => Err("stopped".to_owned()),
    };
    match up {
        Ok(version) => tracing::info!(version, socket = %config.socket.display(), "podman's service answers"),
        Err(why) => {
            end(&mut child).await;
            return why;
        }
    }
    state.send_replace(ServiceState::Ready);
    tokio::select! {
        status = child.wait() => return ended(status),
        () = told(stop) => {}
    }
    end(&mut child).await;
    "stopped".into()
}

/// Ends when we are told to stop, or nobody can tell us any more.
async fn told(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("the owner of podman's service is gone");
    }
}

fn ended(status: std::io::Result<std::process::ExitStatus>) -> String {
    match status {
        Ok(status) => format!("podman's service ended ({status}); its own words are in the log at debug level"),
        Err(err) => format!("lost track of podman's service: {err}"),
    }
}

async fn answers(socket: &Path) -> Result<String, String> {
    let podman = Podman::new(socket);
    let asking = async {
        loop {
            if let Ok(version) = podman.version().await {
                return version;
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    };
    let late = |_| format!("podman's service did not answer within {} s", START_TIME_MAX.as_secs());
    tokio::time::timeout(START_TIME_MAX, asking).await.map_err(late)
}

async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
        && kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok()
        && tokio::time::timeout(STOP_TIME_MAX, child.wait()).await.is_ok()
    {
        return;
    }
    if let Err(err) = child.kill().await {
        tracing::warn!(%err, "cannot end podman's service");
    }
}

/// Ends services on our socket that an earlier agent started and could not end. Asked first: one that is killed in the
/// middle of a start leaves a monitor behind that holds the container's ports, and no later start succeeds.
async fn end_leftovers(config: &ServiceConfig) {
    for pid in services_on(&config.url()) {
        tracing::info!(%pid, "ending the podman service of an earlier agent; containers run on");
        if ended_by(pid, Signal::SIGTERM, config).await || ended_by(pid, Signal::SIGKILL, config).await {
            continue;
        }
        tracing::warn!(%pid, "the podman service of an earlier agent does not end");
    }
}

/// Sends the signal and waits; true once the service is gone.
async fn ended_by(pid: Pid, signal: Signal, config: &ServiceConfig) -> bool {
    let gone = async {
        while is_service(pid, &config.url()) {
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    };
    kill(pid, signal).is_err() || tokio::time::timeout(STOP_TIME_MAX, gone).await.is_ok()
}

/// Processes whose command line is `… system service … <url>`, exactly ours.
fn services_on(url: &str) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.map(Pid::from_raw).filter(|pid| is_service(*pid, url)).collect()
}

fn is_service(pid: Pid, url: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_service_line(&line, url))
}

fn is_service_line(cmdline: &[u8], url: &str) -> bool {
    let words: Vec<&[u8]> = cmdline.split(|b| *b == 0).collect();
    let verbs = words.windows(2).any(|pair| pair[0] == b"system" && pair[1] == b"service");
    verbs && words.contains(&url.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_service_on_our_own_socket_is_ours() {
        let line = b"podman\0--root\0/s\0system\0service\0--time=0\0unix:///r/podman.sock\0";
        assert!(is_service_line(line, "unix:///r/podman.sock"));
        assert!(!is_service_line(line, "unix:///r/podman"));
        assert!(!is_service_line(b"less\0unix:///r/podman.sock\0", "unix:///r/podman.sock"));
    }

    #[test]
    fn the_command_line_names_every_place() {
        let config = ServiceConfig::below(Path::new("/s"), Path::new("/r"));
        assert_eq!(
            config.args().join(" "),
            "--root /s/store --runroot /r/store --tmpdir /r/tmp system service --time=0 unix:///r/podman.sock"
        );
        assert!(is_service_line(config.args().join("\0").as_bytes(), &config.url()));
    }
}
