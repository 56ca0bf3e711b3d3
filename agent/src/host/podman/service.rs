//! `podman system service`, as a child that is started again when it ends.
//!
//! Containers do not hang on it: each has its own conmon, which survives this service and the agent. A service that an
//! earlier, killed agent left behind is found in /proc by our socket path and ended before a new one starts. A store with
//! which it cannot work is mended (`store`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::process::Child;
use tokio::sync::watch;

use super::damage::{StoreDamage, store_damage};
use super::http::Podman;
use super::store::Mender;
use super::told::Told;
use crate::core::backoff::Backoff;
use crate::host::cmd::FirstWords;
use crate::host::state::make_dir;
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
    /// Half-pulled images; emptied before every start.
    pub pull_dir: PathBuf,
    /// Its `containers.conf`, when not the system's.
    pub containers_conf: Option<PathBuf>,
    /// How it reaches registries.
    pub registries: Registries,
}

/// How Podman reaches registries; every part is Podman's own, handed on as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    /// Its `registries.conf`: mirrors, registries without TLS, short names.
    pub conf: Option<PathBuf>,
    /// Its `auth.json`: credentials.
    pub auth_file: Option<PathBuf>,
    /// A directory of CA certificates in PEM, besides the system's.
    pub ca_dir: Option<PathBuf>,
    /// Proxy for `http://`.
    pub http_proxy: Option<String>,
    /// Proxy for `https://`.
    pub https_proxy: Option<String>,
    /// Hosts that are reached without a proxy.
    pub no_proxy: Option<String>,
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
            pull_dir: state.join("pulls"),
            containers_conf: None,
            registries: Registries::default(),
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
        let path = |name: &str, path: &Option<PathBuf>| Some((name.to_owned(), path.as_ref()?.display().to_string()));
        let text = |name: &str, text: &Option<String>| Some((name.to_owned(), text.clone()?));
        let registries = &self.registries;
        let all = [
            path("CONTAINERS_CONF", &self.containers_conf),
            path("TMPDIR", &Some(self.pull_dir.clone())),
            path("CONTAINERS_REGISTRIES_CONF", &registries.conf),
            path("XDG_CONFIG_HOME", &registries.auth_file.as_ref().map(|_| self.config_home())),
            path("SSL_CERT_DIR", &registries.ca_dir),
            text("HTTP_PROXY", &registries.http_proxy),
            text("HTTPS_PROXY", &registries.https_proxy),
            text("NO_PROXY", &registries.no_proxy),
        ];
        all.into_iter().flatten().collect()
    }

    /// The service takes no path of credentials; it looks for `containers/auth.json` here.
    fn config_home(&self) -> PathBuf {
        self.tmp_dir.with_file_name("podman-config")
    }

    /// Makes what it needs, and removes what an earlier one was cut off at.
    fn prepare(&self) -> Result<(), String> {
        if let Err(err) = fs::remove_dir_all(&self.pull_dir)
            && err.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %self.pull_dir.display(), %err, "half-pulled images cannot be removed");
        }
        let credentials = self.config_home().join("containers");
        let dirs = [self.socket.parent(), Some(&self.tmp_dir), Some(&self.pull_dir), Some(&credentials)];
        for dir in dirs.into_iter().flatten() {
            make_dir(dir).map_err(|err| err.to_string())?;
        }
        let link = credentials.join("auth.json");
        remove_if_there(&link)?;
        if let Some(auth) = &self.registries.auth_file {
            std::os::unix::fs::symlink(auth, &link).map_err(|err| format!("cannot make {}: {err}", link.display()))?;
        }
        remove_if_there(&self.socket)
    }
}

fn remove_if_there(file: &Path) -> Result<(), String> {
    match fs::remove_file(file) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {err}", file.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What the service is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Not answering yet.
    #[default]
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
    told: watch::Receiver<Told>,
    stop: watch::Sender<bool>,
}

const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
/// A slow or busy device gets longer the next time: ended at the same moment each time, it would never start.
const START_TIMES: Backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(300));
const STOP_TIME_MAX: Duration = Duration::from_secs(5);
const PROBE_PAUSE: Duration = Duration::from_millis(10);
/// So often in a row a damaged store has to be found before it is mended.
const DAMAGED_MAX: u32 = 2;
const LOOK_PERIOD: Duration = Duration::from_secs(30);
/// A service that ran this long did not fail to start.
const STEADY: Duration = Duration::from_secs(60);

impl Service {
    /// Starts it and keeps it running.
    pub fn start(config: ServiceConfig) -> Self {
        Self::start_telling(config, watch::Sender::default())
    }

    /// The same; how it does is told there, to those who listen already.
    pub fn start_telling(config: ServiceConfig, tell: watch::Sender<Told>) -> Self {
        let told = tell.subscribe();
        let (stop, stop_in) = watch::channel(false);
        tokio::spawn(supervise(config, tell, stop_in));
        Self { told, stop }
    }

    /// What it is doing, and what was done to a damaged store, as it changes.
    pub fn told(&self) -> watch::Receiver<Told> {
        self.told.clone()
    }

    /// Waits until it answers, or gives the reason why it does not.
    pub async fn ready(&self, within: Duration) -> Result<(), String> {
        let mut told = self.told.clone();
        let wanted = told.wait_for(|told| told.state == ServiceState::Ready);
        match tokio::time::timeout(within, wanted).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(match &self.told.borrow().state {
                ServiceState::Down(why) => why.clone(),
                ServiceState::Starting | ServiceState::Ready | ServiceState::Stopped => {
                    format!("podman's service did not answer within {} s", within.as_secs())
                }
            }),
        }
    }

    /// Ends it. Containers run on.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut told = self.told.clone();
        // Its end closes this.
        while told.changed().await.is_ok() {}
    }
}

async fn supervise(config: ServiceConfig, out: watch::Sender<Told>, mut stop: watch::Receiver<bool>) {
    let tell = |state| out.send_modify(|told| told.state = state);
    let mender = Mender::new(&config.store);
    let (mut failures, mut damaged, mut late) = (0, 0, 0);
    while !*stop.borrow() && stop.has_changed().is_ok() {
        let mut end = run_once(&config, &mender, START_TIMES.delay(late + 1), &tell, &mut stop).await;
        if *stop.borrow() {
            break;
        }
        if end.answered_for >= STEADY {
            failures = 0;
        }
        failures += 1;
        late = if end.was_late { late + 1 } else { 0 };
        damaged = if end.damage.is_some() { damaged + 1 } else { 0 };
        if let Some(damage) = end.damage
            && damaged >= DAMAGED_MAX
        {
            damaged = 0;
            match mender.mend(damage, &end.why).await {
                Ok(done) => {
                    tracing::error!("{done}");
                    out.send_modify(|told| told.mended = Some(done));
                }
                Err(why) => end.why = why,
            }
        }
        let pause = PAUSES.delay(failures);
        tracing::warn!(why = end.why, pause_ms = pause.as_millis(), "podman's service is down, starting it again");
        tell(ServiceState::Down(end.why));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = told(&mut stop) => {}
        }
    }
    tell(ServiceState::Stopped);
}

/// How one life of the service ended.
struct End {
    why: String,
    /// What of the store kept it from working.
    damage: Option<StoreDamage>,
    /// Since it answered first.
    answered_for: Duration,
    /// It had not answered in its time.
    was_late: bool,
}

impl End {
    fn of(why: String) -> Self {
        Self { why, damage: None, answered_for: Duration::ZERO, was_late: false }
    }

    /// With what that, and more words of its own, say of the store.
    fn told(why: String, more: &str) -> Self {
        Self { damage: store_damage(&format!("{why}\n{more}")), ..Self::of(why) }
    }
}

/// One life of the service.
async fn run_once(
    config: &ServiceConfig,
    mender: &Mender,
    start_time: Duration,
    tell: &impl Fn(ServiceState),
    stop: &mut watch::Receiver<bool>,
) -> End {
    end_leftovers(config).await;
    let places = config.clone();
    let prepared = tokio::task::spawn_blocking(move || places.prepare()).await;
    if let Err(why) = prepared.unwrap_or_else(|err| Err(format!("preparing Podman's places broke off: {err}"))) {
        return End::told(why, "");
    }
    let words = FirstWords::default();
    let mut child = match cmd::start_heard(&config.program, &config.args(), &config.env(), &words) {
        Ok(child) => child,
        Err(err) => return End::of(format!("{err}")),
    };
    let mut was_late = false;
    let up = tokio::select! {
        answered = tokio::time::timeout(start_time, answers(&config.socket)) => answered.unwrap_or_else(|_| {
            was_late = true;
            Err(format!("podman's service did not answer within {} s", start_time.as_secs()))
        }),
        status = child.wait() => Err(ended(status, &words.text())),
        () = told(stop) => Err("stopped".to_owned()),
    };
    match up {
        Ok(version) => tracing::info!(version, socket = %config.socket.display(), "podman's service answers"),
        Err(why) => {
            end(&mut child).await;
            return End { was_late, ..End::told(why, &words.text()) };
        }
    }
    tell(ServiceState::Ready);
    let ready = clock::uptime();
    let steady = async {
        tokio::time::sleep(STEADY).await;
        mender.worked();
        std::future::pending::<()>().await;
    };
    let end_of_life = tokio::select! {
        status = child.wait() => End::of(ended(status, "")),
        why = breaks(&config.socket) => End::told(why, ""),
        () = told(stop) => End::of("stopped".into()),
        () = steady => End::of(String::new()),
    };
    let answered_for = clock::uptime().saturating_sub(ready);
    end(&mut child).await;
    End { answered_for, ..end_of_life }
}

/// Ends with what Podman says when it cannot even list what there is any more. Nobody tells that a store has broken under a
/// running service, so this looks.
async fn breaks(socket: &Path) -> String {
    let podman = Podman::new(socket);
    let mut last = None;
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        match refuses(&podman).await {
            Some(why) if last.as_ref() == Some(&why) => return why,
            refused => last = refused,
        }
    }
}

/// Why Podman cannot list what there is, when that is because of its store.
async fn refuses(podman: &Podman) -> Option<String> {
    let listed = tokio::try_join!(podman.list(&[]), podman.pod_list(&[]));
    let why = listed.err().filter(|err| !err.is_outage())?.to_string();
    store_damage(&why).map(|_| why)
}

/// Ends when we are told to stop, or nobody can tell us any more.
async fn told(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("the owner of podman's service is gone");
    }
}

fn ended(status: std::io::Result<std::process::ExitStatus>, words: &str) -> String {
    match status {
        Ok(status) if words.trim().is_empty() => {
            format!("podman's service ended ({status}); its own words are in the log at debug level")
        }
        Ok(status) => format!("podman's service ended ({status}): {}", cut(words)),
        Err(err) => format!("lost track of podman's service: {err}"),
    }
}

/// The telling line of what a program says before it ends: its last one may be deep in a trace.
fn cut(words: &str) -> String {
    let telling = words.lines().find(|line| line.starts_with("Error") || line.starts_with("fatal error"));
    let line = telling.or_else(|| words.lines().find(|line| !line.trim().is_empty())).unwrap_or_default();
    line.chars().take(300).collect()
}

/// Waits until it answers, and can list what there is.
async fn answers(socket: &Path) -> Result<String, String> {
    let podman = Podman::new(socket);
    loop {
        match podman.version().await {
            Ok(version) => return refuses(&podman).await.map_or(Ok(version), Err),
            Err(err) if !err.is_outage() && store_damage(&err.to_string()).is_some() => return Err(err.to_string()),
            Err(_) => tokio::time::sleep(PROBE_PAUSE).await,
        }
    }
}

/// Where it has not ended by itself.
async fn end(child: &mut Child) {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
    if kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok()
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
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_a_service_on_our_own_socket_is_ours() {
        let line = b"podman\0--root\0/s\0system\0service\0--time=0\0unix:///r/podman.sock\0";
        assert!(is_service_line(line, "unix:///r/podman.sock"));
        assert!(!is_service_line(line, "unix:///r/podman"));
        assert!(!is_service_line(b"less\0unix:///r/podman.sock\0", "unix:///r/podman.sock"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_starts_late_gets_longer_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let silent = dir.path().join("silent");
        fs::write(&silent, "#!/bin/sh\nexec sleep 600\n").unwrap();
        fs::set_permissions(&silent, fs::Permissions::from_mode(0o755)).unwrap();
        let config = ServiceConfig { program: silent, ..ServiceConfig::below(dir.path(), &dir.path().join("run")) };
        let service = Service::start(config);
        let mut told = service.told();
        for seconds in [60, 120, 240, 300] {
            let late = ServiceState::Down(format!("podman's service did not answer within {seconds} s"));
            told.wait_for(|told| told.state == late).await.unwrap();
        }
        service.stop().await;
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
