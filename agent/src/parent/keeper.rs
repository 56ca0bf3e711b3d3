//! One instance: its process, from start to end, again and again.
//!
//! Decides when it counts as started, as hung, and when it is started again.

use std::fs;
use std::io;
use std::time::Duration;

use bramble_contracts::v1::Instance;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixDatagram;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Site;
use crate::core::backoff::Backoff;
use crate::core::upgrade::ExitCode;
use crate::host::instances::{Guarded, SUPERVISOR, SUPERVISOR_PID, guard};
use crate::host::{clock, cmd};

const ASKS_MAX: usize = 8;
const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// An agent that ran this long did not fail to start.
const STEADY: Duration = Duration::from_secs(60);
/// One that does not say within this that it is ready has hung. Whoever has another one started waits for less.
const START_TIME_MAX: Duration = Duration::from_secs(240);
/// One that is ready says so often at least that it lives.
const WATCHDOG: Duration = Duration::from_secs(60);
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
const DATAGRAM_MAX: usize = 4096;

type Started = oneshot::Sender<Result<(), String>>;

/// What an instance is asked.
enum Ask {
    Start(Started),
    Stop(oneshot::Sender<()>),
    IsRunning(oneshot::Sender<bool>),
}

/// The way to one instance.
pub(super) struct Keeper {
    asks: mpsc::Sender<Ask>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Of one that does not run yet.
    pub(super) fn start(site: Site, instance: Instance) -> Self {
        let (asks, asks_in) = mpsc::channel(ASKS_MAX);
        let task = tokio::spawn(Life { site, instance, asks: asks_in, starting: Vec::new() }.run());
        Self { asks, task }
    }

    /// Starts it, and does not wait.
    pub(super) async fn begin(&self) {
        // It is read by nobody: whether it starts is in the log.
        drop(self.asks.send(Ask::Start(oneshot::channel().0)).await);
    }

    /// Starts it unless it runs, and waits until it is ready.
    pub(super) async fn ready(&self) -> Result<(), String> {
        self.ask(Ask::Start).await?
    }

    pub(super) async fn stop(&self) -> Result<(), String> {
        self.ask(Ask::Stop).await
    }

    pub(super) async fn is_running(&self) -> Result<bool, String> {
        self.ask(Ask::IsRunning).await
    }

    /// Ends it for good.
    pub(super) async fn end(self) {
        drop(self.asks);
        if let Err(err) = self.task.await {
            tracing::warn!(%err, "an instance's keeper ended badly");
        }
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, String> {
        let stopping = || "the supervisor is stopping".to_owned();
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

/// How one life of the process ended, or why there was none.
enum End {
    /// It said that another one has taken its place.
    Retired,
    /// It was asked to.
    Stopped,
    /// Nobody can ask anything any more.
    Over,
    /// By itself, in words.
    Died(String),
}

struct Life {
    site: Site,
    instance: Instance,
    asks: mpsc::Receiver<Ask>,
    /// Those who wait for it to be ready.
    starting: Vec<Started>,
}

impl Life {
    async fn run(mut self) {
        while let Some(ask) = self.asks.recv().await {
            match ask {
                Ask::Stop(done) => answer(done, ()),
                Ask::IsRunning(reply) => answer(reply, false),
                Ask::Start(started) => {
                    self.starting.push(started);
                    if let End::Over = self.keep().await {
                        return;
                    }
                }
            }
        }
    }

    /// Lives until it is not to live any more.
    async fn keep(&mut self) -> End {
        let mut failures = 0;
        loop {
            let began = clock::uptime();
            let end = self.live().await;
            let why = match end {
                End::Died(why) => why,
                End::Retired | End::Stopped | End::Over => {
                    self.started(&Err("it ended".into()));
                    return end;
                }
            };
            self.started(&Err(why.clone()));
            if clock::uptime().saturating_sub(began) >= STEADY {
                failures = 0;
            }
            failures += 1;
            let pause = PAUSES.delay(failures);
            tracing::warn!(
                instance = self.instance.name(),
                why,
                pause_ms = pause.as_millis(),
                "an agent is started again"
            );
            let until = Instant::now() + pause;
            loop {
                let ask = tokio::select! {
                    () = tokio::time::sleep_until(until) => break,
                    ask = self.asks.recv() => ask,
                };
                match ask {
                    None => return End::Over,
                    Some(Ask::Stop(done)) => {
                        answer(done, ());
                        return End::Stopped;
                    }
                    Some(Ask::IsRunning(reply)) => answer(reply, true),
                    Some(Ask::Start(started)) => self.starting.push(started),
                }
            }
        }
    }

    fn started(&mut self, how: &Result<(), String>) {
        for one in self.starting.drain(..) {
            answer(one, how.clone());
        }
    }

    /// One life of the process.
    async fn live(&mut self) -> End {
        self.guard().await;
        let notices = match self.notices() {
            Ok(notices) => notices,
            Err(err) => return End::Died(format!("its notices cannot be heard: {err}")),
        };
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(why) => return End::Died(why),
        };
        tracing::info!(instance = self.instance.name(), pid = child.id(), "an agent is started");
        let mut deadline = Instant::now() + START_TIME_MAX;
        let mut ready = false;
        let mut notice = [0; DATAGRAM_MAX];
        loop {
            tokio::select! {
                status = child.wait() => return ended(status, ready),
                heard = notices.recv(&mut notice) => {
                    let text = String::from_utf8_lossy(&notice[..heard.unwrap_or(0)]).into_owned();
                    let says = |what: &str| text.lines().any(|line| line == what);
                    if says("READY=1") {
                        ready = true;
                        self.started(&Ok(()));
                    }
                    if ready && (says("READY=1") || says("WATCHDOG=1")) {
                        deadline = Instant::now() + WATCHDOG;
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    let why = if ready { "it does not say any more that it lives" } else { "it did not become ready" };
                    end(&mut child, Signal::SIGKILL).await;
                    return End::Died(why.into());
                }
                ask = self.asks.recv() => match ask {
                    None => {
                        end(&mut child, Signal::SIGTERM).await;
                        return End::Over;
                    }
                    Some(Ask::Stop(done)) => {
                        end(&mut child, Signal::SIGTERM).await;
                        answer(done, ());
                        return End::Stopped;
                    }
                    Some(Ask::IsRunning(reply)) => answer(reply, true),
                    Some(Ask::Start(started)) if ready => answer(started, Ok(())),
                    Some(Ask::Start(started)) => self.starting.push(started),
                },
            }
        }
    }

    /// Whatever the guard finds, the agent is started.
    async fn guard(&self) {
        let (site, instance) = (self.site.clone(), self.instance);
        match tokio::task::spawn_blocking(move || guard(&site.state_dir, instance, &site.bounds)).await {
            Ok(Ok(Guarded::TurnedBack(version))) => {
                tracing::error!(%version, "a new agent was started too often without being confirmed: the one before runs");
            }
            Ok(Ok(Guarded::Starts)) => {}
            Ok(Err(err)) => tracing::error!(%err, "starts are not guarded"),
            Err(err) => tracing::error!(%err, "starts are not guarded"),
        }
    }

    fn notices(&self) -> io::Result<UnixDatagram> {
        let socket = self.notify_socket();
        match fs::remove_file(&socket) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
            Ok(()) | Err(_) => {}
        }
        UnixDatagram::bind(socket)
    }

    fn notify_socket(&self) -> std::path::PathBuf {
        self.site.run_dir.join(format!("notify-{}.sock", self.instance.name()))
    }

    fn spawn(&self) -> Result<Child, String> {
        let text = |path: &std::path::Path| path.display().to_string();
        let args = ["run", "--config", &text(&self.site.config), "--instance", self.instance.name()].map(str::to_owned);
        let env = [
            ("NOTIFY_SOCKET", text(&self.notify_socket())),
            ("WATCHDOG_USEC", WATCHDOG.as_micros().to_string()),
            (SUPERVISOR, text(&self.site.socket())),
            (SUPERVISOR_PID, std::process::id().to_string()),
        ];
        cmd::start_child(&self.site.program(), &args, &env).map_err(|err| match std::error::Error::source(&err) {
            Some(cause) => format!("{err}: {cause}"),
            None => err.to_string(),
        })
    }
}

fn ended(status: io::Result<std::process::ExitStatus>, ready: bool) -> End {
    match status {
        Ok(status) if status.code() == Some(i32::from(ExitCode::Retire.code())) => End::Retired,
        Ok(status) if ready => End::Died(format!("it ended ({status})")),
        Ok(status) => End::Died(format!("it ended ({status}) before it was ready")),
        Err(err) => End::Died(format!("it was lost track of: {err}")),
    }
}

async fn end(child: &mut Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
        && kill(Pid::from_raw(pid), signal).is_ok()
        && tokio::time::timeout(STOP_TIME_MAX, child.wait()).await.is_ok()
    {
        return;
    }
    if let Err(err) = child.kill().await {
        tracing::warn!(%err, "an agent cannot be ended");
    }
}

fn answer<T>(reply: oneshot::Sender<T>, with: T) {
    if reply.send(with).is_err() {
        tracing::debug!("whoever asked has left");
    }
}
