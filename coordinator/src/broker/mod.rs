//! The embedded broker: one `nats-server` child, supervised.
//!
//! Decides: when it is started, adopted, replaced and stopped. A broker that a killed coordinator left behind is
//! *adopted* when it runs the same program with the same setup: devices stay connected. A graceful shutdown stops it.
//! Deliberately does not: speak to it as a user; `mesh` and `store` do.

pub mod config;
mod log;
mod owner;
mod process;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use tokio::{
    process::Child,
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
};

pub use config::{Layout, Transport, external_text};

use self::{
    config::Settings,
    process::{Record, RunAs, Setup},
};
use crate::{
    clock,
    keys::{CaError, FileError, Keys, files},
    mesh::connect::{self, Endpoint, Security},
};

const READY_WITHIN: Duration = Duration::from_secs(90);
const PROBE_PAUSE: Duration = Duration::from_millis(25);
/// Before the first try after a broker that ran well.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Before the first try after one that did not.
const BACKOFF_SHORT: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// A broker that ran this long has not "died at start".
const STEADY: Duration = Duration::from_secs(60);
const CERT_CHECK: Duration = Duration::from_secs(6 * 3600);

/// How to run it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `nats-server` program.
    pub program: PathBuf,
    /// `<state>/broker`.
    pub dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Host names and addresses devices use; they go into its certificate.
    pub names: Vec<String>,
}

/// Why the broker does not run.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A file, a folder or the program.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its certificate.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Another coordinator supervises it.
    #[error("another coordinator runs the broker in {}: stop it, or give this one --nats-url", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// It ended at once.
    #[error("nats-server ended right after its start: {words}")]
    Died {
        /// Its last log lines.
        words: String,
    },
    /// It runs and takes no connection.
    #[error("nats-server does not take connections on {listen}: {why}")]
    NotReady {
        /// Where.
        listen: SocketAddr,
        /// The last error.
        why: String,
    },
}

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Runs.
    Running {
        /// Its process.
        pid: i32,
        /// Ours, or left by an earlier run of the coordinator.
        origin: Origin,
    },
    /// Died; is being started again.
    Down {
        /// Its last words.
        why: String,
    },
    /// We stopped it.
    Stopped,
}

/// Where a running broker comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Started by this process.
    Started,
    /// Left by an earlier run of the coordinator.
    Adopted,
}

/// The configuration file of the embedded broker: rewritten before every push of an account.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    keys: Arc<Keys>,
    layout: Layout,
    listen: SocketAddr,
    transport: Transport,
    run_as: Option<RunAs>,
}

impl ConfigFile {
    /// Writes it anew with what is quarantined now.
    pub fn rewrite(&self, issued_at: u64) -> Result<(), FileError> {
        let settings = Settings { layout: &self.layout, listen: self.listen, transport: self.transport };
        config::write(&self.keys, &settings, issued_at)?;
        self.run_as.map_or(Ok(()), |user| process::lend(&self.layout.config(), user))
    }

    fn server_text(&self) -> String {
        let settings = Settings { layout: &self.layout, listen: self.listen, transport: self.transport };
        config::server_text(&self.keys, &settings)
    }
}

/// A running, supervised broker.
#[derive(Debug)]
pub struct Broker {
    config: ConfigFile,
    endpoint: Endpoint,
    status: watch::Receiver<Status>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

struct Supervisor {
    keys: Arc<Keys>,
    names: Vec<String>,
    config: ConfigFile,
    setup: Setup,
    endpoint: Endpoint,
    status: watch::Sender<Status>,
    cert_renew_at: u64,
    _lock: Flock<std::fs::File>,
}

/// What supervision is about now.
struct Running {
    record: Record,
    child: Option<Child>,
    since: Duration,
}

/// How long the first try waits after a broker that ran for so long.
fn first_wait(ran: Duration) -> Duration {
    if ran >= STEADY { BACKOFF_FIRST } else { BACKOFF_SHORT }
}

/// How long the try after one that failed waits.
fn next_wait(wait: Duration) -> Duration {
    (wait * 2).min(BACKOFF_MAX)
}

fn transport(listen: SocketAddr) -> Transport {
    if listen.ip().is_loopback() { Transport::Plain } else { Transport::Tls }
}

/// Where a program on this machine reaches the broker.
fn endpoint(keys: &Keys, listen: SocketAddr) -> Endpoint {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let at = SocketAddr::new(ip, listen.port());
    match transport(listen) {
        Transport::Plain => Endpoint { urls: vec![format!("nats://{at}")], security: Security::Plain },
        Transport::Tls => {
            Endpoint { urls: vec![format!("tls://{at}")], security: Security::FleetCa(keys.ca().pem().to_owned()) }
        }
    }
}

impl Broker {
    /// Starts or adopts the broker; it takes connections when this returns.
    pub async fn start(keys: Arc<Keys>, options: Options) -> Result<Self, BrokerError> {
        let program = files::at("find the program", &options.program, options.program.canonicalize())?;
        files::private_dir(&options.dir)?;
        let dir = files::at("find", &options.dir, options.dir.canonicalize())?;
        let layout = Layout::new(dir.clone());
        let lock = files::at("open", &layout.lock(), std::fs::File::create(layout.lock()))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|_| BrokerError::Locked { dir })?;
        let run_as = process::other_user(&program, &layout);
        let transport = transport(options.listen);
        let config = ConfigFile { keys: keys.clone(), layout, listen: options.listen, transport, run_as };
        let setup = Setup::new(&program, keys.operator_id(), &config.server_text(), run_as)?;
        let first = Status::Down { why: "not started yet".to_owned() };
        let (status, seen) = watch::channel(first);
        let endpoint = endpoint(&keys, options.listen);
        let mut supervisor = Supervisor {
            keys,
            names: options.names,
            config: config.clone(),
            setup,
            endpoint: endpoint.clone(),
            status,
            cert_renew_at: 0,
            _lock: lock,
        };
        supervisor.prepare()?;
        let running = supervisor.adopt_or_start().await?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(supervisor.run(running, stopped));
        Ok(Self { config, endpoint, status: seen, stop, task })
    }

    /// How a program on this machine connects.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its configuration file.
    pub fn config_file(&self) -> ConfigFile {
        self.config.clone()
    }

    /// How it stands.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Stops it, and waits until it is gone.
    pub async fn shutdown(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }

    /// Leaves it running without supervision, as a killed coordinator would: a later start adopts it.
    pub async fn abandon(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl Supervisor {
    fn layout(&self) -> &Layout {
        &self.config.layout
    }

    /// Folders, certificate, configuration, owners.
    fn prepare(&mut self) -> Result<(), BrokerError> {
        let layout = self.config.layout.clone();
        let theirs = [layout.jetstream(), layout.accounts(), layout.log_dir()];
        theirs.iter().try_for_each(|dir| files::private_dir(dir))?;
        if self.config.transport == Transport::Tls && clock::unix_secs() >= self.cert_renew_at {
            let cert = self.keys.ca().server(&self.names, clock::now())?;
            files::replace(&layout.cert_key(), cert.key.as_bytes())?;
            files::replace(&layout.cert(), cert.cert.as_bytes())?;
            self.cert_renew_at = cert.renew_at;
        }
        // What its accounts refuse already stays refused: another coordinator may have cut off a device meanwhile, and
        // the file, being newer, would let it back.
        self.keys.set_also_cut(owner::refused(&layout, &self.keys.dev_id()));
        self.config.rewrite(clock::unix_secs())?;
        if let Some(user) = self.config.run_as {
            theirs.iter().try_for_each(|dir| owner::give(dir, user))?;
            let lent = [layout.cert(), layout.cert_key()];
            lent.iter().filter(|path| path.exists()).try_for_each(|path| process::lend(path, user))?;
        }
        Ok(())
    }

    async fn adopt_or_start(&self) -> Result<Running, BrokerError> {
        if let Some(record) = Record::load(self.layout()).filter(|r| r.alive(self.layout())) {
            let same = record.setup == self.setup;
            let running = Running { record, child: None, since: clock::monotonic() };
            if same && self.ready(&running.record).await.is_ok() {
                if self.config.transport == Transport::Tls {
                    running.record.reload(self.layout());
                }
                tracing::info!(
                    pid = running.record.pid,
                    "adopted the broker that an earlier run left: devices stay connected"
                );
                self.status.send_replace(Status::Running { pid: running.record.pid, origin: Origin::Adopted });
                return Ok(running);
            }
            tracing::info!(
                pid = running.record.pid,
                "replacing the broker that an earlier run left: its setup differs or it does not answer"
            );
            running.record.stop(self.layout()).await;
        }
        while let Some(lost) = Record::find_unrecorded(self.layout(), &self.setup) {
            tracing::info!(pid = lost.pid, "stopping a broker on our files that no record tells of");
            lost.stop(self.layout()).await;
        }
        self.start().await
    }

    async fn start(&self) -> Result<Running, BrokerError> {
        let layout = self.layout();
        let child = process::spawn(&self.setup, layout, self.config.run_as)?;
        let died = || BrokerError::Died { words: process::last_words(layout) };
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).ok_or_else(died)?;
        let mut running = loop_record(pid, &self.setup, layout, child).await.ok_or_else(died)?;
        running.record.store(layout)?;
        if let Err(err) = self.ready(&running.record).await {
            running.record.stop(layout).await;
            running.reap().await;
            return Err(err);
        }
        tracing::info!(pid, listen = %self.config.listen, "the broker runs");
        self.status.send_replace(Status::Running { pid, origin: Origin::Started });
        Ok(running)
    }

    /// Waits until it takes a connection with credentials of our operator.
    async fn ready(&self, record: &Record) -> Result<(), BrokerError> {
        let began = clock::monotonic();
        loop {
            let why = match connect::probe(&self.endpoint, &self.keys.sys_creds()).await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if !record.alive(self.layout()) {
                return Err(BrokerError::Died { words: process::last_words(self.layout()) });
            }
            // An adopted process that refuses our credentials is not going to change its mind.
            let refused = why.contains("authorization");
            if refused || clock::monotonic() - began > READY_WITHIN {
                return Err(BrokerError::NotReady { listen: self.config.listen, why });
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }

    async fn run(mut self, mut running: Running, mut stop: oneshot::Receiver<()>) {
        let mut tail = JoinSet::new(); // ends with us
        tail.spawn(log::follow(self.layout().log()));
        loop {
            tokio::select! {
                _ = &mut stop => break,
                () = running.ended(self.layout()) => match self.restart(running.since, &mut stop).await {
                    Some(back) => running = back,
                    None => break,
                },
                () = tokio::time::sleep(CERT_CHECK) => self.renew_certificate(&running),
            }
        }
        running.record.stop(self.layout()).await;
        running.reap().await;
        self.status.send_replace(Status::Stopped);
        tracing::info!("the broker has stopped");
    }

    /// Tries until it runs again; `None` when we are told to stop meanwhile. A start that has begun is not left half done.
    async fn restart(&mut self, since: Duration, stop: &mut oneshot::Receiver<()>) -> Option<Running> {
        let mut wait = first_wait(clock::monotonic().saturating_sub(since));
        let mut why = process::last_words(self.layout());
        loop {
            tracing::error!(why, "the broker died; starting it again");
            self.status.send_replace(Status::Down { why: why.clone() });
            tokio::select! { _ = &mut *stop => return None, () = tokio::time::sleep(wait) => {} }
            wait = next_wait(wait);
            let prepared = self.prepare();
            let started = match prepared {
                Ok(()) => self.start().await,
                Err(err) => Err(err),
            };
            match started {
                Ok(running) => return Some(running),
                Err(err) => why = err.to_string(),
            }
        }
    }

    fn renew_certificate(&mut self, running: &Running) {
        if self.config.transport == Transport::Plain || clock::unix_secs() < self.cert_renew_at {
            return;
        }
        match self.prepare() {
            Ok(()) => {
                running.record.reload(self.layout());
                tracing::info!("the broker has a new server certificate");
            }
            Err(err) => tracing::error!(%err, "the broker's certificate cannot be renewed; trying again in some hours"),
        }
    }
}

async fn loop_record(pid: i32, setup: &Setup, layout: &Layout, child: Child) -> Option<Running> {
    // Right after the fork the command line is still ours.
    for _ in 0..100 {
        let record = Record::of(pid, setup.clone())?;
        if record.alive(layout) {
            return Some(Running { record, child: Some(child), since: clock::monotonic() });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

impl Running {
    async fn ended(&mut self, layout: &Layout) {
        match &mut self.child {
            Some(child) => drop(child.wait().await),
            None => self.record.gone(layout).await,
        }
    }

    async fn reap(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_try_after_a_good_run_is_quick() {
        assert_eq!((first_wait(STEADY), first_wait(Duration::from_secs(1))), (BACKOFF_FIRST, BACKOFF_SHORT));
        let waits = std::iter::successors(Some(first_wait(STEADY)), |wait| Some(next_wait(*wait)));
        let waits: Vec<u128> = waits.take(10).map(|wait| wait.as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]);
    }
}
