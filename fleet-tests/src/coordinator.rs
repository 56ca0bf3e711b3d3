//! One coordinator process and the broker it supervises: where they listen, where their files lie, and the ways to end
//! them. Also the choice of ports.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use xtask::run::Cmd;

use crate::api::Api;
use crate::case::Case;
use crate::clock::{soon, wait_until};
use crate::process::{Line, Proc, kill_pid, lives};
use crate::programs::programs;

/// How a fleet is made.
#[derive(Debug, Clone)]
pub struct FleetSetup {
    /// Where API and broker listen; ports are chosen when they are 0.
    pub listen: Ipv4Addr,
    /// More arguments for `bramble-coordinator serve`.
    pub serve: Vec<String>,
}

impl Default for FleetSetup {
    fn default() -> Self {
        Self { listen: Ipv4Addr::LOCALHOST, serve: vec![] }
    }
}

/// One coordinator process, with the broker it supervises.
#[derive(Debug)]
pub struct Coordinator {
    proc: Proc,
    state: PathBuf,
    api: SocketAddr,
    broker: SocketAddr,
    scheme: &'static str,
}

/// A port nobody listens on now, and that nobody is given by chance: below the range for outgoing connections. No other case
/// of this program is given it.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port(case: &Case) -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut dice = case.dice();
    for _ in 0..2000 {
        let mark = dice.below(1 << 40) ^ u64::from(std::process::id()) ^ next_mark();
        let port = 12_000 + u16::try_from(mark % 18_000).expect("invariant: below 18,000");
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
    panic!("no free port");
}

fn next_mark() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(7919, std::sync::atomic::Ordering::Relaxed)
}

impl Coordinator {
    /// A coordinator on free ports; not started.
    #[must_use]
    pub fn new(case: &Arc<Case>, name: &str, setup: &FleetSetup) -> Self {
        let api = SocketAddr::from((setup.listen, free_port(case)));
        let broker = SocketAddr::from((setup.listen, free_port(case)));
        let state = case.dir().join(name);
        let scheme = if setup.listen.is_loopback() { "http" } else { "https" };
        let line = Line::new(&programs().coordinator)
            .args(["serve", "--listen", &api.to_string(), "--broker-listen", &broker.to_string()])
            .args(["--nats-server", &programs().nats_server.display().to_string()])
            .args(["--state", &state.display().to_string()])
            .args(&setup.serve);
        let log = std::env::var("BRAMBLE_COORDINATOR_LOG").unwrap_or_else(|_| "info".into());
        let line = line.env("RUST_LOG", &log).env("NO_COLOR", "1");
        Self { proc: Proc::new(name, &case.logs(), line), state, api, broker, scheme }
    }

    pub(crate) fn api_ip(&self) -> Ipv4Addr {
        match self.api {
            SocketAddr::V4(address) => *address.ip(),
            SocketAddr::V6(_) => Ipv4Addr::LOCALHOST,
        }
    }

    /// The same coordinator without a broker of its own.
    pub(crate) fn on_broker_of(mut self, other: &Self) -> Self {
        self.broker = other.broker;
        let scheme = if other.scheme == "https" { "tls" } else { "nats" };
        let line = Line::new(&programs().coordinator)
            .args(["serve", "--listen", &self.api.to_string()])
            .args(["--nats-url", &format!("{scheme}://{}", other.broker)])
            .args(["--state", &self.state.display().to_string()]);
        let old = self.proc.line();
        self.proc.set_line(Line { env: old.env, ..line });
        self
    }

    /// Its process.
    #[must_use]
    pub fn proc(&self) -> &Proc {
        &self.proc
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> &PathBuf {
        &self.state
    }

    /// Where its broker listens.
    #[must_use]
    pub fn broker(&self) -> SocketAddr {
        self.broker
    }

    /// Where its API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.api
    }

    /// Does it speak TLS?
    #[must_use]
    pub fn uses_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// Base URL of its API.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.api)
    }

    /// The administrator's token.
    ///
    /// # Panics
    /// When it has not been made.
    #[must_use]
    pub fn admin_token(&self) -> String {
        let file = self.state.join("admin.token");
        let text = fs::read_to_string(&file).unwrap_or_else(|err| panic!("cannot read {}: {err}", file.display()));
        text.trim().to_owned()
    }

    /// Its API, as the administrator.
    #[must_use]
    pub fn api(&self) -> Api {
        let ca = (self.scheme == "https").then(|| fs::read(self.ca()).expect("the authority's certificate is there"));
        Api::new(&self.url(), &self.admin_token(), ca.as_deref())
    }

    /// Waits until it serves.
    pub fn ready(&self) {
        wait_until("the coordinator to be ready", Duration::from_secs(60), || {
            if let Some(end) = self.proc.ended() {
                return Err(format!("it ended with {end}. {}", self.proc.last_words()));
            }
            if !self.state.join("admin.token").exists() {
                return Err("there is no admin token yet".into());
            }
            let answer = self.api().ask("GET", "/ready", None)?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.body)) }
        });
    }

    /// The certificate of its authority.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.state.join("keys/ca.pem")
    }

    /// Starts it and waits until it serves.
    pub fn start(&self) {
        self.proc.start();
        self.ready();
    }

    /// The broker's process id, if it lives: also that of a broker that outlived the coordinator which started it.
    #[must_use]
    pub fn broker_pid(&self) -> Option<i32> {
        let record: Value = serde_json::from_slice(&fs::read(self.broker_dir().join("process.json")).ok()?).ok()?;
        let pid = i32::try_from(record["pid"].as_i64()?).ok()?;
        lives(pid).then_some(pid)
    }

    /// Where the broker's configuration, storage and accounts lie.
    #[must_use]
    pub fn broker_dir(&self) -> PathBuf {
        self.state.join("broker")
    }

    /// SIGKILL to the broker alone; the coordinator starts it again.
    ///
    /// # Panics
    /// When there is none.
    pub fn kill_broker(&self) {
        let pid = soon("the broker to be there", || self.broker_pid().ok_or_else(|| self.proc.last_words()));
        kill_pid(pid);
        soon("the broker to die", || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) });
    }

    /// SIGKILL to coordinator and broker, as a power cut does.
    pub fn kill_both(&self) {
        let broker = self.broker_pid();
        self.proc.kill();
        if let Some(pid) = broker {
            kill_pid(pid);
            soon("the broker to die", || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) });
        }
    }

    /// SIGTERM: the coordinator ends in peace, and the broker is gone too.
    ///
    /// # Panics
    /// When it ends without success.
    pub fn stop(&self) {
        let broker = self.broker_pid();
        let status = self.proc.term(Duration::from_secs(30));
        assert!(status.success(), "the coordinator ended with {status}. {}", self.proc.last_words());
        if let Some(pid) = broker {
            soon("the broker to end with it", || if lives(pid) { Err(format!("{pid} lives")) } else { Ok(()) });
        }
    }

    /// The broker's storage folder: JetStream's files.
    #[must_use]
    pub fn storage(&self) -> PathBuf {
        self.broker_dir().join("jetstream")
    }

    /// The folder of account JWTs, which the broker updates itself.
    #[must_use]
    pub fn resolver(&self) -> PathBuf {
        self.broker_dir().join("accounts")
    }
}

/// Copies a folder with everything in it, owners and modes too.
///
/// # Panics
/// When that fails.
pub fn copy_dir(from: &Path, to: &Path) {
    let copied = Cmd::new("cp").arg("--archive").arg("--no-target-directory").arg(from).arg(to).check();
    copied.unwrap_or_else(|err| panic!("{err}"));
}

/// Empties a folder, keeping its owner and mode.
///
/// # Panics
/// When that fails.
pub fn empty_dir(dir: &Path) {
    let removed = Cmd::new("find").arg(dir).args(["-mindepth", "1", "-delete"]).check();
    removed.unwrap_or_else(|err| panic!("{err}"));
}
