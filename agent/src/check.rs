//! `bramble-agent check`: what is well on this device and what is not, without needing a network.
//!
//! Decides what is looked at and what to do about it. Changes nothing.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use bramble_contracts::trust::TrustDocument;
use bramble_contracts::v2::ClockVerdict;

use crate::config::Config;
use crate::core::clock::{self as core, Floor, StoredFloor, Told};
use crate::core::disk::{Bytes, Disk};
use crate::host::cmd::{self, Bounds};
use crate::host::podman::moved_aside;
use crate::host::state::StateFile;
use crate::host::{clock, facts};
use crate::mesh::guard;
use crate::mesh::identity::{Identity, Span};
use crate::run::is_running;
use crate::status::Status;

const DISK_FREE_MIN: u64 = 256 << 20;
const DIAL: Duration = Duration::from_secs(3);

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Well.
    Ok,
    /// Works, and should be looked at.
    Warn,
    /// Does not work.
    Fail,
}

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How it is.
    pub verdict: Verdict,
    /// What.
    pub what: &'static str,
    /// In words, with what to do where it is not well.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        };
        write!(f, "{verdict} {:<9} {}", self.what, self.text)
    }
}

fn line(verdict: Verdict, what: &'static str, text: impl Into<String>) -> Line {
    Line { verdict, what, text: text.into() }
}

/// Looks at everything.
pub async fn check(config: &Config) -> Vec<Line> {
    let mut lines = vec![clock(config), disk(config), podman(config).await, watchdog()];
    lines.extend(store(config));
    lines.extend(identity(config).await);
    lines
}

/// What can be seen alone, which is whether the clock is before the floor, and else what the running agent found.
fn clock(config: &Config) -> Line {
    let stored = match guard::floor_file(&config.state_dir).load_json::<StoredFloor>() {
        Ok(loaded) => loaded.value().map_or(0, |floor| floor.trusted_ms),
        Err(err) => return line(Verdict::Fail, "clock", format!("its floor: {err}")),
    };
    let floor = Floor { built_ms: clock::built_ms(), trusted_ms: stored };
    let alone = core::judge(floor, &Told::default(), clock::now()).report;
    let told = Status::read(&config.status_file()).filter(|_| is_running(config) && !alone.is_wrong());
    let report = told.map_or(alone, |status| status.clock);
    let now = format!("{} (floor {})", core::date_of(clock::wall_ms()), core::date_of(floor.ms()));
    match report.verdict {
        ClockVerdict::Fit => line(Verdict::Ok, "clock", format!("{now}, {}", core::words(&report))),
        ClockVerdict::Unknown => line(Verdict::Ok, "clock", format!("{now}, not before the floor; {}", report.detail)),
        ClockVerdict::Skewed | ClockVerdict::Disputed => {
            line(Verdict::Warn, "clock", format!("{now}: {}", report.detail))
        }
    }
}

/// The disk, and what is done when it fills.
fn disk(config: &Config) -> Line {
    let (disk, rules) = (facts::space(&config.apps_dir), config.places().rules);
    let (low, reserve) = (rules.low(disk), rules.reserve(disk));
    let at = config.apps_dir.display();
    let text = format!("{} of {} free at {at}", Bytes(disk.free), Bytes(disk.total));
    match disk {
        Disk { total: 0, .. } => line(Verdict::Warn, "disk", format!("{at} is on no disk that can be seen")),
        Disk { free, .. } if free < reserve.max(DISK_FREE_MIN) => {
            line(Verdict::Fail, "disk", format!("{text}: nothing is pulled below {}; make room", Bytes(reserve)))
        }
        Disk { free, .. } if free < low => {
            line(Verdict::Warn, "disk", format!("{text}: below {} images that no app needs are removed", Bytes(low)))
        }
        Disk { .. } => line(Verdict::Ok, "disk", text),
    }
}

/// What was moved aside, and settings that lead nowhere.
fn store(config: &Config) -> Vec<Line> {
    let aside = moved_aside(&config.places().store).map(|aside| {
        let text = format!(
            "{} was damaged and is not used any more; remove it when nobody wants to look at it",
            aside.display()
        );
        line(Verdict::Warn, "store", text)
    });
    let missing = config.podman.paths().into_iter().filter_map(|(field, path)| Some((field, path?)));
    let missing = missing.filter(|(_, path)| !path.exists());
    let missing = missing.map(|(field, path)| {
        line(Verdict::Fail, "settings", format!("{field}: {} is not there; pulls may fail", path.display()))
    });
    aside.into_iter().chain(missing).collect()
}

async fn podman(config: &Config) -> Line {
    let bounds = Bounds { time: Duration::from_secs(20), output_bytes: 4096 };
    let version = match Box::pin(cmd::run(&config.podman.program, &["--version"], bounds)).await {
        Ok(finished) if finished.status.success() => finished.stdout.trim().to_owned(),
        Ok(finished) => return line(Verdict::Fail, "podman", format!("does not start: {}", finished.stderr.trim())),
        Err(err) => return line(Verdict::Fail, "podman", format!("{err}; install the package podman")),
    };
    let socket = config.socket();
    match tokio::time::timeout(DIAL, tokio::net::UnixStream::connect(&socket)).await {
        Ok(Ok(_)) => line(Verdict::Ok, "podman", format!("{version}, answers on {}", socket.display())),
        Ok(Err(_)) | Err(_) => line(
            Verdict::Warn,
            "podman",
            format!("{version}; nobody listens on {} now: does the agent run?", socket.display()),
        ),
    }
}

fn watchdog() -> Line {
    let path = Path::new("/dev/watchdog");
    match std::fs::metadata(path) {
        Ok(meta) if meta.rdev() != 0 => {
            line(Verdict::Ok, "watchdog", "the machine has one; systemd feeds it when RuntimeWatchdogSec is set")
        }
        Ok(_) | Err(_) => line(Verdict::Warn, "watchdog", "no /dev/watchdog: a hung kernel needs a hand"),
    }
}

async fn identity(config: &Config) -> Vec<Line> {
    let keys = config.state_dir.join("keys");
    let identity: Identity = match StateFile::new(keys.join("identity"), 1).load_json() {
        Ok(loaded) => match loaded.value() {
            Some(identity) => identity,
            None => return vec![not_enrolled(config)],
        },
        Err(err) => return vec![line(Verdict::Fail, "identity", err.to_string())],
    };
    let name = format!("{} ({})", identity.device, identity.name);
    let mut lines = vec![line(Verdict::Ok, "identity", name), jwt(&identity)];
    let trust = StateFile::new(keys.join("trust"), 1).load().map_err(|err| err.to_string());
    let trust = trust.and_then(|loaded| loaded.value().ok_or_else(|| "it is missing".to_owned()));
    match trust.and_then(|bytes| TrustDocument::open_stored(&bytes).map_err(|err| err.to_string())) {
        Ok(document) => {
            lines.push(line(Verdict::Ok, "trust", format!("version {}", document.version)));
            for broker in &document.brokers {
                lines.push(reach(broker).await);
            }
        }
        Err(why) => lines.push(line(Verdict::Fail, "trust", format!("trust document: {why}; enrol this device again"))),
    }
    lines
}

fn not_enrolled(config: &Config) -> Line {
    match &config.token_file {
        Some(path) if path.exists() => {
            line(Verdict::Warn, "identity", "not enrolled yet; the agent enrols when it runs")
        }
        Some(path) => line(
            Verdict::Fail,
            "identity",
            format!("not enrolled, and {} is not there: `bramble enroll-token create` makes a token", path.display()),
        ),
        None => line(Verdict::Fail, "identity", "not enrolled, and agent.toml names no token_file"),
    }
}

fn jwt(identity: &Identity) -> Line {
    let Some(span) = Span::of(&identity.jwt) else {
        return line(Verdict::Warn, "jwt", "cannot be read; it is renewed when the agent runs");
    };
    let Some(length) = span.length() else { return line(Verdict::Ok, "jwt", "without end") };
    let days = |time: Duration| time.as_secs() / 86_400;
    match identity.received.age() {
        Some(age) if age > length => {
            line(Verdict::Warn, "jwt", "older than it is valid: the agent asks the coordinator for a new one over HTTP")
        }
        Some(age) => line(Verdict::Ok, "jwt", format!("{} days old of {}", days(age), days(length))),
        None => line(
            Verdict::Ok,
            "jwt",
            format!("from before this boot, valid for {} days; renewed at the next connection", days(length)),
        ),
    }
}

async fn reach(broker: &str) -> Line {
    let Ok(address) = broker.parse::<async_nats::ServerAddr>() else {
        return line(Verdict::Fail, "broker", format!("{broker:?} is no address"));
    };
    let dial = tokio::net::TcpStream::connect((address.host(), address.port()));
    match tokio::time::timeout(DIAL, dial).await {
        Ok(Ok(_)) => line(Verdict::Ok, "broker", format!("{broker} answers")),
        Ok(Err(err)) => line(Verdict::Warn, "broker", format!("{broker}: {err}; apps run on without it")),
        Err(_) => line(Verdict::Warn, "broker", format!("{broker} does not answer; apps run on without it")),
    }
}

/// How long ago a status was written.
pub fn age_secs(up_ms: u64) -> u64 {
    let now = u64::try_from(clock::uptime().as_millis()).unwrap_or(u64::MAX);
    now.saturating_sub(up_ms) / 1000
}
