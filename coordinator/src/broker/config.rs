//! The configuration of a NATS server that serves a fleet.
//!
//! Decides: every setting, for our own child and, as text, for operators who run their own NATS.
//! Deliberately does not: start anything.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::keys::{FileError, Keys, files};

/// Where the files of the embedded broker lie: `<state>/broker`.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// The layout below `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }
    /// The folder of all of it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("nats.conf")
    }
    /// The folder of what the broker prints.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }
    /// What the broker prints.
    pub fn log(&self) -> PathBuf {
        self.log_dir().join("nats.log")
    }
    /// Which process runs.
    pub fn record(&self) -> PathBuf {
        self.dir.join("process.json")
    }
    /// Held by the coordinator that supervises.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }
    /// JetStream's files.
    pub fn jetstream(&self) -> PathBuf {
        self.dir.join("jetstream")
    }
    /// Account JWTs as the broker keeps them.
    pub fn accounts(&self) -> PathBuf {
        self.dir.join("accounts")
    }
    /// Server certificate.
    pub fn cert(&self) -> PathBuf {
        self.dir.join("server.pem")
    }
    /// Its key.
    pub fn cert_key(&self) -> PathBuf {
        self.dir.join("server.key")
    }
}

/// Encrypted or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Loopback only: nothing leaves the machine.
    Plain,
    /// TLS with a certificate of the fleet's CA.
    Tls,
}

/// What differs between brokers of one fleet.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// Files.
    pub layout: &'a Layout,
    /// Address for devices and coordinators.
    pub listen: SocketAddr,
    /// Encrypted or not.
    pub transport: Transport,
}

/// What JetStream may reserve, whatever the disk has now. Streams have limits of their own, in sum below it.
const FILE_STORE: &str = "32GB";
const MEMORY_STORE: &str = "256MB";

/// The part that is the same for every broker of the fleet: who may connect, and as what.
pub fn trust_text(keys: &Keys, accounts_dir: &Path, issued_at: u64) -> String {
    let jwts = keys.account_jwts(issued_at);
    format!(
        "operator: {operator}\n\
         system_account: {sys_id}\n\
         resolver: {{ type: full, dir: {dir:?}, allow_delete: false, interval: \"2m\", limit: 16 }}\n\
         resolver_preload: {{\n  {sys_id}: {sys}\n  {fleet_id}: {fleet}\n  {dev_id}: {dev}\n}}\n",
        operator = keys.operator_jwt(),
        sys_id = keys.sys_id(),
        dir = accounts_dir.display().to_string(),
        sys = jwts.sys,
        fleet_id = keys.fleet_id(),
        fleet = jwts.fleet,
        dev_id = keys.dev_id(),
        dev = jwts.dev,
    )
}

/// The part that is about this server only.
pub fn server_text(keys: &Keys, settings: &Settings<'_>) -> String {
    let Settings { layout, listen, transport } = settings;
    let tls = match transport {
        Transport::Plain => String::new(),
        Transport::Tls => format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, timeout: 10, min_version: \"1.2\" }}\n",
            layout.cert().display().to_string(),
            layout.cert_key().display().to_string()
        ),
    };
    format!(
        "listen: \"{listen}\"\n\
         server_name: \"bramble-{name}\"\n\
         {tls}\
         jetstream {{ store_dir: {store:?}, sync_interval: always, max_memory_store: {MEMORY_STORE}, max_file_store: {FILE_STORE} }}\n\
         {LIMITS}\
         log_file: {log:?}\n\
         logtime: true\n\
         log_size_limit: 16MB\n\
         log_max_num: 3\n",
        name = &keys.operator_id()[..8],
        store = layout.jetstream().display().to_string(),
        log = layout.log().display().to_string(),
    )
}

/// The whole file of the embedded broker. `issued_at` dates the account JWTs.
pub fn text(keys: &Keys, settings: &Settings<'_>, issued_at: u64) -> String {
    let trust = trust_text(keys, &settings.layout.accounts(), issued_at);
    format!("# Written by bramble-coordinator; edits are lost.\n{}{trust}", server_text(keys, settings))
}

const LIMITS: &str = "max_payload: 1MB\n\
     max_connections: 100000\n\
     max_control_line: 4KB\n\
     write_deadline: \"10s\"\n\
     ping_interval: \"20s\"\n\
     ping_max: 2\n\
     lame_duck_duration: \"30s\"\n\
     lame_duck_grace_period: \"2s\"\n\
     disable_sublist_cache: false\n";

/// For operators who run their own NATS (one server or a cluster): put it into every server's configuration.
/// Listeners, TLS, clustering and the store's place are theirs; `sync_interval: always` is not negotiable.
pub fn external_text(keys: &Keys, issued_at: u64) -> String {
    format!(
        "# For each NATS server (2.12 or newer) of this Bramble fleet. Add your own listen, tls and cluster settings.\n\
         # `jetstream.sync_interval: always` is needed: without it a power cut loses what the coordinator was told is safe.\n\
         # A resolver folder that is wiped makes the server believe this file: print it again after each quarantine.\n\
         # The fleet's streams reserve about 18 GiB of files and 64 MiB of memory.\n\
         {}jetstream {{ store_dir: \"/var/lib/nats/jetstream\", sync_interval: always, max_memory_store: {MEMORY_STORE}, max_file_store: {FILE_STORE} }}\n\
         max_payload: 1MB\n",
        trust_text(keys, Path::new("/var/lib/nats/accounts"), issued_at),
    )
}

/// Writes the file as a whole (0600).
pub fn write(keys: &Keys, settings: &Settings<'_>, issued_at: u64) -> Result<(), FileError> {
    files::replace(&settings.layout.config(), text(keys, settings, issued_at).as_bytes())
}
