//! `agent.toml`: what this device is told by whoever installed it.
//!
//! Decides names, defaults and bounds of settings. A field it does not know is an error that names it. Nothing that the
//! coordinator decides is here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::v1::Instance;
use serde::Deserialize;

use crate::host::device::Places;
use crate::host::logs::Budget;
use crate::host::podman::service::ServiceConfig;
use crate::host::sntp;
use crate::mesh::Settings;
use crate::mesh::http::{Base, HttpError};

/// Where it lies unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/bramble/agent.toml";

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {err}; `bramble-bootstrap install` writes it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        err: std::io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {err}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Names field and line.
        err: Box<toml::de::Error>,
    },
    /// A field's value does not fit.
    #[error("{}: {field}: {why}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// In words.
        why: String,
    },
}

/// The file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the device would like to be called; the host name where absent.
    #[serde(default)]
    pub name: Option<Name>,
    /// Base URL of the coordinator.
    pub coordinator: String,
    /// Where the enrolment token lies until it is spent.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Keys, identity, desired document.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
    /// Podman's store and the apps' volumes.
    #[serde(default = "apps_dir")]
    pub apps_dir: PathBuf,
    /// Which of two agents this is.
    #[serde(default)]
    pub instance: Instance,
    /// Seconds between heartbeats.
    #[serde(default = "heartbeat_secs")]
    pub heartbeat_secs: u32,
    /// Seconds between reports when nothing changes.
    #[serde(default = "slow_secs")]
    pub report_secs: u32,
    /// Seconds between reads of the desired document when nothing is pushed.
    #[serde(default = "slow_secs")]
    pub desired_secs: u32,
    /// How to reach Podman.
    #[serde(default)]
    pub podman: PodmanConfig,
    /// Who is asked for the time.
    #[serde(default)]
    pub clock: ClockConfig,
    /// How much of what apps print is kept.
    #[serde(default)]
    pub logs: LogsConfig,
}

/// `[clock]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockConfig {
    /// NTP servers, `host` or `host:port`; none where it is empty. They are asked for the time, and nothing is set by it.
    pub servers: Vec<String>,
}

impl Default for ClockConfig {
    fn default() -> Self {
        Self { servers: (0..4).map(|n| format!("{n}.debian.pool.ntp.org")).collect() }
    }
}

/// `[logs]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogsConfig {
    /// Of one container.
    pub container_mib: u32,
    /// Of all together; the newest file of each is kept in any case.
    pub total_mib: u32,
    /// Days of running for which the logs of a deleted deployment are kept.
    pub deleted_days: u32,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self { container_mib: 10, total_mib: 200, deleted_days: 7 }
    }
}

/// `[podman]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PodmanConfig {
    /// The program.
    pub program: PathBuf,
    /// Sockets, locks and mounts of this boot.
    pub run_dir: PathBuf,
    /// A containers.conf for the service we start; the machine's own where absent.
    pub containers_conf: Option<PathBuf>,
    /// A service that somebody else runs; ours is not started then.
    pub socket: Option<PathBuf>,
}

impl Default for PodmanConfig {
    fn default() -> Self {
        Self { program: "podman".into(), run_dir: "/run/bramble".into(), containers_conf: None, socket: None }
    }
}

fn state_dir() -> PathBuf {
    "/var/lib/bramble".into()
}
fn apps_dir() -> PathBuf {
    "/var/lib/bramble-apps".into()
}
fn heartbeat_secs() -> u32 {
    10
}
fn slow_secs() -> u32 {
    300
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|err| ConfigError::Read { path: path.to_owned(), err })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self =
            toml::from_str(text).map_err(|err| ConfigError::Parse { path: path.to_owned(), err: Box::new(err) })?;
        let value = |field, why: String| ConfigError::Value { path: path.to_owned(), field, why };
        config.base().map_err(|err| value("coordinator", err.to_string()))?;
        let bounds = [
            ("heartbeat_secs", config.heartbeat_secs, 1, 300),
            ("report_secs", config.report_secs, 1, 86_400),
            ("desired_secs", config.desired_secs, 1, 86_400),
            ("logs.container_mib", config.logs.container_mib, 1, 1024),
            ("logs.total_mib", config.logs.total_mib, config.logs.container_mib, 1 << 20),
            ("logs.deleted_days", config.logs.deleted_days, 0, 3650),
        ];
        for (field, got, min, max) in bounds {
            if !(min..=max).contains(&got) {
                return Err(value(field, format!("{got} is not between {min} and {max}")));
            }
        }
        if config.clock.servers.len() > sntp::SERVERS_MAX {
            let why = format!("{} are too many, {} at most", config.clock.servers.len(), sntp::SERVERS_MAX);
            return Err(value("clock.servers", why));
        }
        for server in &config.clock.servers {
            sntp::check(server).map_err(|why| value("clock.servers", why))?;
        }
        let folders = [("state_dir", &config.state_dir), ("apps_dir", &config.apps_dir)];
        for (field, dir) in folders.into_iter().chain([("podman.run_dir", &config.podman.run_dir)]) {
            if !dir.is_absolute() {
                return Err(value(field, format!("{} is not an absolute path", dir.display())));
            }
        }
        Ok(config)
    }

    /// The coordinator's address.
    pub fn base(&self) -> Result<Base, HttpError> {
        Base::parse(&self.coordinator)
    }

    /// What the mesh needs of it.
    pub fn settings(&self) -> Result<Settings, HttpError> {
        let secs = |secs: u32| Duration::from_secs(u64::from(secs));
        Ok(Settings {
            state_dir: self.state_dir.clone(),
            coordinator: self.base()?,
            instance: self.instance,
            heartbeat: secs(self.heartbeat_secs),
            report: secs(self.report_secs),
            desired: secs(self.desired_secs),
            ntp: self.clock.servers.clone(),
        })
    }

    /// How Podman's service is started, where we start it.
    pub fn service(&self) -> ServiceConfig {
        let below = ServiceConfig::below(&self.apps_dir, &self.podman.run_dir);
        let containers_conf = self.podman.containers_conf.clone();
        ServiceConfig { program: self.podman.program.clone(), containers_conf, ..below }
    }

    /// Where records, volumes and logs lie.
    pub fn places(&self) -> Places {
        Places { log_bytes: self.log_budget().segment(), ..Places::below(&self.apps_dir) }
    }

    /// How much of what apps print is kept.
    pub fn log_budget(&self) -> Budget {
        let bytes = |mib: u32| u64::from(mib) << 20;
        let LogsConfig { container_mib, total_mib, deleted_days } = self.logs;
        Budget { container: bytes(container_mib), total: bytes(total_mib), deleted_hours: deleted_days * 24 }
    }

    /// Where Podman listens.
    pub fn socket(&self) -> PathBuf {
        self.podman.socket.clone().unwrap_or_else(|| self.service().socket)
    }

    /// What a running agent tells of itself.
    pub fn status_file(&self) -> PathBuf {
        self.podman.run_dir.join(format!("status-{}.json", self.instance.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("agent.toml")).map_err(|err| err.to_string())
    }

    #[test]
    fn little_is_enough() {
        let config = parse("coordinator = \"http://127.0.0.1:7980\"").unwrap();
        assert_eq!((config.state_dir, config.heartbeat_secs), ("/var/lib/bramble".into(), 10));
        assert_eq!(config.podman, PodmanConfig::default());
        assert_eq!(config.clock.servers[3], "3.debian.pool.ntp.org");
        let none = parse("coordinator = \"http://127.0.0.1:7980\"\n[clock]\nservers = []").unwrap();
        assert!(none.settings().unwrap().ntp.is_empty());
        assert_eq!(parse("coordinator = \"http://127.0.0.1:7980\"").unwrap().log_budget(), Budget::default());
    }

    #[test]
    fn errors_name_the_field() {
        let good = "coordinator = \"https://fleet.example\"\n";
        for (bad, named) in [
            (format!("{good}hartbeat_secs = 1"), "hartbeat_secs"),
            (format!("{good}[podman]\nsockt = \"x\""), "sockt"),
            (format!("{good}heartbeat_secs = 0"), "heartbeat_secs"),
            (format!("{good}[clock]\nservers = [\"a b\"]"), "clock.servers"),
            (format!("{good}[clock]\nservers = {:?}", vec!["a"; 9]), "clock.servers"),
            (format!("{good}[logs]\ntotal_mib = 9"), "logs.total_mib"),
            (format!("{good}name = \"Not A Name\""), "name"),
            (format!("{good}state_dir = \"relative\""), "state_dir"),
            ("coordinator = \"http://fleet.example\"".to_owned(), "coordinator"),
            (String::new(), "coordinator"),
        ] {
            let said = parse(&bad).unwrap_err();
            assert!(said.contains(named), "{bad:?}: {said}");
        }
    }
}
