//! `agent.toml`: what this device is told by whoever installed it.
//!
//! Decides names, defaults and bounds of settings. A field it does not know is an error that names it. Nothing that the
//! coordinator decides is here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bramble_contracts::Name;
use bramble_contracts::bytes::Sha256;
use bramble_contracts::v1::Instance;
use serde::Deserialize;

use crate::core::disk::DiskRules;
use crate::core::os;
use crate::core::upgrade::Bounds;
use crate::host::device::Places;
use crate::host::instances;
use crate::host::logs::Budget;
use crate::host::podman::service::{Registries, ServiceConfig};
use crate::host::release::Source;
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
    /// What stays free on the disk of `apps_dir`.
    #[serde(default)]
    pub disk: DiskConfig,
    /// How the agent replaces itself.
    #[serde(default)]
    pub upgrade: UpgradeConfig,
    /// How the operating system is upgraded.
    #[serde(default)]
    pub os: OsConfig,
    /// The file itself.
    #[serde(skip)]
    pub file: PathBuf,
}

/// `[upgrade]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpgradeConfig {
    /// A directory or an `http://` address where binaries lie under their digests; else they come over the mesh.
    pub source: Option<String>,
    /// The digest of version 1 of the fleet's release keys; else the first wish for a release says it.
    pub keys_pin: Option<Sha256>,
    /// Seconds within which a new agent has to start.
    pub start_secs: u32,
    /// Seconds within which a new agent that acts has to be confirmed.
    pub trial_secs: u32,
    /// Seconds before a release that failed through nobody's fault is tried again; the pause grows.
    pub retry_secs: u32,
}

impl Default for UpgradeConfig {
    fn default() -> Self {
        let bounds = Bounds::default();
        let secs = |ms: u64| u32::try_from(ms / 1000).unwrap_or(u32::MAX);
        Self {
            source: None,
            keys_pin: None,
            start_secs: secs(bounds.start_ms),
            trial_secs: secs(bounds.trial_ms),
            retry_secs: secs(bounds.pause_ms),
        }
    }
}

/// `[os]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OsConfig {
    /// Seconds within which packages have to be written: a script of one that hangs is ended then.
    pub apply_secs: u32,
}

impl Default for OsConfig {
    fn default() -> Self {
        Self { apply_secs: 170 * 60 }
    }
}

impl OsConfig {
    /// The same, for apt.
    pub fn apply_max(&self) -> Duration {
        Duration::from_secs(self.apply_secs.into())
    }

    /// How long the parts of an upgrade may take. Patience with a unit is longer than with what it runs: what hangs is named.
    pub fn bounds(&self) -> os::Bounds {
        const MARGIN_MS: u64 = 600_000;
        os::Bounds { apply_ms: u64::from(self.apply_secs) * 1000 + MARGIN_MS, ..os::Bounds::default() }
    }
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

/// `[disk]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// Below this share unneeded images go.
    pub low_percent: u8,
    /// Below so many MiB they go, whatever the share.
    pub low_mib: u64,
    /// A pull leaves so many MiB free.
    pub reserve_mib: u64,
}

impl Default for DiskConfig {
    fn default() -> Self {
        let DiskRules { low_percent, low_bytes, reserve_bytes } = DiskRules::default();
        Self { low_percent, low_mib: low_bytes >> 20, reserve_mib: reserve_bytes >> 20 }
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
    /// The service is run by `bramble-agent podman`, a unit of its own, and not by the agent.
    pub separate: bool,
    /// A service that somebody else runs; ours is not started then.
    pub socket: Option<PathBuf>,
    /// Podman's `registries.conf`: mirrors, registries without TLS, short names.
    pub registries_conf: Option<PathBuf>,
    /// Podman's `auth.json`: credentials for registries.
    pub auth_file: Option<PathBuf>,
    /// A directory of CA certificates for registries, besides the system's.
    pub ca_dir: Option<PathBuf>,
    /// Proxy for registries without TLS.
    pub http_proxy: Option<String>,
    /// Proxy for registries.
    pub https_proxy: Option<String>,
    /// Registries that are reached without a proxy.
    pub no_proxy: Option<String>,
}

impl PodmanConfig {
    fn registries(&self) -> Registries {
        Registries {
            conf: self.registries_conf.clone(),
            auth_file: self.auth_file.clone(),
            ca_dir: self.ca_dir.clone(),
            http_proxy: self.http_proxy.clone(),
            https_proxy: self.https_proxy.clone(),
            no_proxy: self.no_proxy.clone(),
        }
    }

    /// Settings that name a file or directory.
    pub fn paths(&self) -> [(&'static str, Option<&PathBuf>); 4] {
        [
            ("podman.containers_conf", self.containers_conf.as_ref()),
            ("podman.registries_conf", self.registries_conf.as_ref()),
            ("podman.auth_file", self.auth_file.as_ref()),
            ("podman.ca_dir", self.ca_dir.as_ref()),
        ]
    }

    /// What cannot be meant so, by field. Whether files are there is not asked: apps start without them.
    fn wrong(&self) -> Option<(&'static str, String)> {
        for (field, path) in self.paths() {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                return Some((field, format!("{} is not an absolute path", path.display())));
            }
        }
        for (field, proxy) in [("podman.http_proxy", &self.http_proxy), ("podman.https_proxy", &self.https_proxy)] {
            let url = proxy.as_ref().map(|proxy| (proxy, proxy.split_once("://")));
            if let Some((proxy, None | Some((_, "")))) = url {
                return Some((field, format!("{proxy:?} is no URL such as http://proxy.example:3128")));
            }
            if let Some((_, Some((scheme, _)))) = url
                && !["http", "https", "socks5"].contains(&scheme)
            {
                return Some((field, format!("a proxy is reached by http, https or socks5, not by {scheme}")));
            }
        }
        if self.socket.is_some() && self.separate {
            let why =
                "another program's Podman is used, so none is run by `bramble-agent podman`: leave out one of them";
            return Some(("podman.separate", why.into()));
        }
        if self.socket.is_some() && self.registries() != Registries::default() {
            let why = "another program's Podman is used, so settings for registries have no effect; make them there";
            return Some(("podman.socket", why.into()));
        }
        None
    }
}

impl Default for PodmanConfig {
    fn default() -> Self {
        Self {
            program: "podman".into(),
            run_dir: "/run/bramble".into(),
            containers_conf: None,
            separate: false,
            socket: None,
            registries_conf: None,
            auth_file: None,
            ca_dir: None,
            http_proxy: None,
            https_proxy: None,
            no_proxy: None,
        }
    }
}

/// A pebibyte.
const DISK_MIB_MAX: u64 = 1 << 30;

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
        let mut config: Self =
            toml::from_str(text).map_err(|err| ConfigError::Parse { path: path.to_owned(), err: Box::new(err) })?;
        config.file = path.to_owned();
        let value = |field, why: String| ConfigError::Value { path: path.to_owned(), field, why };
        config.base().map_err(|err| value("coordinator", err.to_string()))?;
        let bounds = [
            ("heartbeat_secs", config.heartbeat_secs, 1, 300),
            ("report_secs", config.report_secs, 1, 86_400),
            ("desired_secs", config.desired_secs, 1, 86_400),
            ("logs.container_mib", config.logs.container_mib, 1, 1024),
            ("logs.total_mib", config.logs.total_mib, config.logs.container_mib, 1 << 20),
            ("logs.deleted_days", config.logs.deleted_days, 0, 3650),
            ("upgrade.start_secs", config.upgrade.start_secs, 5, 3600),
            ("upgrade.trial_secs", config.upgrade.trial_secs, 5, 86_400),
            ("upgrade.retry_secs", config.upgrade.retry_secs, 1, 86_400),
            ("os.apply_secs", config.os.apply_secs, 10, 5 * 3600),
        ];
        for (field, got, min, max) in bounds {
            if !(min..=max).contains(&got) {
                return Err(value(field, format!("{got} is not between {min} and {max}")));
            }
        }
        if let Some(source) = &config.upgrade.source {
            Source::parse(source).map_err(|err| value("upgrade.source", err.to_string()))?;
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
        if let Some((field, why)) = config.podman.wrong() {
            return Err(value(field, why));
        }
        let DiskConfig { low_percent, low_mib, reserve_mib } = config.disk;
        if low_percent > 90 {
            return Err(value("disk.low_percent", format!("{low_percent} is not between 0 and 90")));
        }
        for (field, mib) in [("disk.low_mib", low_mib), ("disk.reserve_mib", reserve_mib)] {
            if mib > DISK_MIB_MAX {
                return Err(value(field, format!("{mib} is not between 0 and {DISK_MIB_MAX}")));
            }
        }
        Ok(config)
    }

    /// Where records, volumes, logs and Podman's store lie, and what stays free there.
    pub fn places(&self) -> Places {
        let DiskConfig { low_percent, low_mib, reserve_mib } = self.disk;
        let rules = DiskRules { low_percent, low_bytes: low_mib << 20, reserve_bytes: reserve_mib << 20 };
        Places { rules, log_bytes: self.log_budget().segment(), ..Places::below(&self.apps_dir) }
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
        let registries = self.podman.registries();
        ServiceConfig { program: self.podman.program.clone(), containers_conf, registries, ..below }
    }

    /// How long the parts of an upgrade may take.
    pub fn bounds(&self) -> Bounds {
        let ms = |secs: u32| u64::from(secs) * 1000;
        let UpgradeConfig { start_secs, trial_secs, retry_secs, .. } = self.upgrade;
        let base = Bounds::default();
        let pause_ms = ms(retry_secs);
        Bounds {
            start_ms: ms(start_secs),
            trial_ms: ms(trial_secs),
            pause_ms,
            pause_max_ms: base.pause_max_ms.max(pause_ms),
            ..base
        }
    }

    /// Where binaries come from besides the mesh.
    pub fn source(&self) -> Option<Source> {
        self.upgrade.source.as_deref().and_then(|source| Source::parse(source).ok())
    }

    /// How much of what apps print is kept.
    pub fn log_budget(&self) -> Budget {
        let bytes = |mib: u32| u64::from(mib) << 20;
        let LogsConfig { container_mib, total_mib, deleted_days } = self.logs;
        Budget { container: bytes(container_mib), total: bytes(total_mib), deleted_hours: deleted_days * 24 }
    }

    /// Is Podman's service this agent's own child? Not where somebody else runs it, nor where it is run for both agents of
    /// the device: by `bramble-agent supervise`, or by `bramble-agent podman` as a unit of its own.
    pub fn starts_podman(&self) -> bool {
        self.podman.socket.is_none() && !self.podman.separate && !instances::is_supervised()
    }

    /// Where Podman listens.
    pub fn socket(&self) -> PathBuf {
        self.podman.socket.clone().unwrap_or_else(|| self.service().socket)
    }

    /// What a running agent tells of itself.
    pub fn status_file(&self) -> PathBuf {
        self.status_file_of(self.instance)
    }

    /// What either of two agents tells of itself.
    pub fn status_file_of(&self, instance: Instance) -> PathBuf {
        self.podman.run_dir.join(format!("status-{}.json", instance.name()))
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
    fn what_podman_is_to_know_of_registries_is_handed_on() {
        let text = "coordinator = \"http://127.0.0.1:7980\"\n[podman]\nregistries_conf = \"/etc/r.conf\"\n\
                    https_proxy = \"http://proxy.example:3128\"\n[disk]\nlow_mib = 2\nreserve_mib = 1";
        let config = parse(text).unwrap();
        let registries = config.service().registries;
        assert_eq!(registries.conf, Some("/etc/r.conf".into()));
        assert_eq!(registries.https_proxy.as_deref(), Some("http://proxy.example:3128"));
        let rules = config.places().rules;
        assert_eq!((rules.low_percent, rules.low_bytes, rules.reserve_bytes), (10, 2 << 20, 1 << 20));
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
            (format!("{good}[podman]\nauth_file = \"auth.json\""), "podman.auth_file"),
            (format!("{good}[podman]\nhttps_proxy = \"proxy:3128\""), "podman.https_proxy"),
            (format!("{good}[podman]\nhttps_proxy = \"ftp://proxy\""), "podman.https_proxy"),
            (format!("{good}[podman]\nsocket = \"/s\"\nca_dir = \"/ca\""), "podman.socket"),
            (format!("{good}[podman]\nsocket = \"/s\"\nseparate = true"), "podman.separate"),
            (format!("{good}[disk]\nlow_percent = 91"), "disk.low_percent"),
            (format!("{good}[disk]\nreserve_mib = 9999999999"), "disk.reserve_mib"),
            (format!("{good}[disk]\nlow = 1"), "low"),
            ("coordinator = \"http://fleet.example\"".to_owned(), "coordinator"),
            (String::new(), "coordinator"),
        ] {
            let said = parse(&bad).unwrap_err();
            assert!(said.contains(named), "{bad:?}: {said}");
        }
    }
}
