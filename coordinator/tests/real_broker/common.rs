//! A real broker in a temporary folder, a coordinator's connections to it, and devices.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use async_nats::{Auth, Client, ConnectOptions};
use bramble_contracts::{
    DeviceId, envelope,
    subjects::{self, Up},
    v1::{RenewReply, RenewRequest},
};
use bramble_coordinator::{
    broker::{Broker, Options},
    keys::{Addresses, Keys},
    mesh::Mesh,
    store::{Change, JetStream, Replicas, Store as _},
};
use nkeys::KeyPair;
use tokio::sync::{mpsc, mpsc::error::TryRecvError};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The real nats-server; its absence is a failure.
pub(crate) fn nats_server() -> PathBuf {
    if let Some(path) = std::env::var_os("BRAMBLE_NATS_SERVER") {
        return path.into();
    }
    let cache = std::env::var_os("BRAMBLE_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache/bramble")));
    let mut places: Vec<PathBuf> = vec![];
    if let Some(cache) = cache {
        places.push(cache.join("nats-server"));
        let inside = std::fs::read_dir(cache.join("bin")).into_iter().flatten().flatten();
        let servers = inside.filter(|e| e.file_name().to_string_lossy().starts_with("nats-server"));
        places.extend(servers.flat_map(|e| [e.path().join("nats-server"), e.path()]));
    }
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|d| d.join("nats-server")));
    let found = places.iter().find(|p| p.is_file()).cloned();
    found.expect("no nats-server: set BRAMBLE_NATS_SERVER, or run `cargo xtask test`, which fetches it")
}

/// A free port below the range from which the system takes ports for connections, so that nobody takes it meanwhile.
pub(crate) fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = u16::try_from(std::process::id() % 10_000).unwrap();
    let ports = std::iter::repeat_with(|| 20_000 + (base + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000);
    let free = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
    let port = ports.take(2000).find(free).expect("one of 2000 ports is free");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// One fleet in a folder of its own.
pub(crate) struct Fleet {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) listen: SocketAddr,
    pub(crate) names: Vec<String>,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), listen: free_port(), names: vec![] }
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        let addresses = Addresses { coordinators: vec![], brokers: vec![format!("nats://{}", self.listen)] };
        Arc::new(Keys::load_or_create(&self.dir.path().join("keys"), &addresses).unwrap())
    }

    pub(crate) fn options(&self) -> Options {
        let dir = self.dir.path().join("broker");
        Options { program: nats_server(), dir, listen: self.listen, names: self.names.clone() }
    }

    pub(crate) async fn broker(&self, keys: &Arc<Keys>) -> Broker {
        Broker::start(keys.clone(), self.options()).await.unwrap()
    }

    /// Keys, broker and a coordinator's connections.
    pub(crate) async fn up(self) -> Running {
        let keys = self.keys();
        let broker = self.broker(&keys).await;
        let mesh = Mesh::connect(keys.clone(), broker.endpoint(), Some(broker.config_file())).await.unwrap();
        Running { fleet: self, keys, broker: Some(broker), mesh }
    }
}

/// A fleet that runs. `down` stops the broker.
pub(crate) struct Running {
    pub(crate) fleet: Fleet,
    pub(crate) keys: Arc<Keys>,
    pub(crate) broker: Option<Broker>,
    pub(crate) mesh: Mesh,
}

impl Running {
    pub(crate) async fn store(&self) -> JetStream {
        JetStream::open(self.mesh.fleet(), Replicas::One).await.unwrap()
    }

    pub(crate) async fn device(&self, seed: u8) -> Device {
        Device::connect(&self.keys, self.fleet.listen, seed, Duration::from_secs(3600)).await.unwrap()
    }

    pub(crate) async fn down(mut self) {
        if let Some(broker) = self.broker.take() {
            broker.shutdown().await;
        }
    }
}

/// Lets no broker outlive a failed test.
impl Drop for Running {
    fn drop(&mut self) {
        if let Some(broker) = self.broker.take() {
            drop(broker); // ends supervision, or it would start another
            kill(&self.fleet);
        }
    }
}

/// The process of the fleet's broker.
pub(crate) fn broker_pid(fleet: &Fleet) -> Option<i32> {
    let text = std::fs::read_to_string(fleet.dir.path().join("broker/process.json")).ok()?;
    let record: serde_json::Value = serde_json::from_str(&text).ok()?;
    i32::try_from(record["pid"].as_i64()?).ok()
}

/// Kills the fleet's broker with SIGKILL.
pub(crate) fn kill(fleet: &Fleet) {
    if let Some(pid) = broker_pid(fleet) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// A device with its own valid credentials.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) key: Arc<KeyPair>,
    pub(crate) client: Client,
    /// Errors the broker told it.
    pub(crate) errors: mpsc::UnboundedReceiver<String>,
}

/// Credentials as a device has them.
pub(crate) fn device_identity(seed: u8) -> (DeviceId, Arc<KeyPair>) {
    let key = KeyPair::new_from_raw(nkeys::KeyPairType::User, [seed; 32]).unwrap();
    (DeviceId::from_entropy([seed; 13]), Arc::new(key))
}

impl Device {
    pub(crate) async fn connect(keys: &Keys, at: SocketAddr, seed: u8, ttl: Duration) -> Result<Self, String> {
        let (id, key) = device_identity(seed);
        let jwt = keys.device_jwt(&id, &key.public_key(), ttl).unwrap();
        Self::connect_with(at, id, key, jwt).await
    }

    pub(crate) async fn connect_with(
        at: SocketAddr,
        id: DeviceId,
        key: Arc<KeyPair>,
        jwt: String,
    ) -> Result<Self, String> {
        let (tell, errors) = mpsc::unbounded_channel();
        let signer = key.clone();
        let options = ConnectOptions::with_auth_callback(move |nonce| {
            let mut auth = Auth::new();
            auth.jwt = Some(jwt.clone());
            auth.signature = Some(signer.sign(&nonce).unwrap());
            async move { Ok(auth) }
        })
        .custom_inbox_prefix(subjects::inbox_prefix(&id))
        .request_timeout(Some(Duration::from_millis(700)))
        .max_reconnects(3)
        .skip_subject_validation(true)
        .reconnect_delay_callback(|_| Duration::from_millis(50))
        .event_callback(move |event| {
            let _ = tell.send(event.to_string());
            async {}
        });
        let client = options.connect(format!("nats://{at}")).await.map_err(|err| err.to_string())?;
        Ok(Self { id, key, client, errors })
    }

    /// Asks the coordinator until it listens, and returns its first answer.
    pub(crate) async fn ask_renewal(&self) -> RenewReply {
        let ask = envelope::encode(&RenewRequest { trust_version: 1 }).unwrap();
        let asked = async {
            loop {
                match self.client.request(Up::Renew.subject(&self.id), ask.clone().into()).await {
                    Ok(answer) => return envelope::decode(&answer.payload).unwrap(),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("the coordinator answers")
    }

    /// Waits until the broker has told it something that contains `text`.
    pub(crate) async fn hears(&mut self, text: &str) {
        let heard = async {
            while let Some(event) = self.errors.recv().await {
                if event.to_lowercase().contains(text) {
                    return;
                }
            }
            panic!("the device's connection ended before it heard {text:?}");
        };
        tokio::time::timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("the device never heard {text:?}"));
    }

    /// What it has heard so far.
    pub(crate) fn heard(&mut self) -> Vec<String> {
        let mut all = vec![];
        loop {
            match self.errors.try_recv() {
                Ok(event) => all.push(event),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return all,
            }
        }
    }
}

/// Reads the feed until `done` says so.
pub(crate) async fn read_until(
    feed: &mut mpsc::Receiver<Change>,
    mut done: impl FnMut(&Change) -> bool,
) -> Vec<Change> {
    let mut seen = vec![];
    let read = async {
        while let Some(change) = feed.recv().await {
            seen.push(change.clone());
            if done(&change) {
                return;
            }
        }
        panic!("the feed ended");
    };
    let in_time = tokio::time::timeout(PATIENCE, read).await.is_ok();
    let end = seen.len().saturating_sub(20);
    assert!(in_time, "the feed did not say it; it said {} things, last {:?}", seen.len(), brief(&seen[end..]));
    seen
}

fn brief(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|c| format!("{c:?}").chars().take(90).collect()).collect()
}

/// Reads until each fed bucket has caught up.
pub(crate) async fn caught_up(feed: &mut mpsc::Receiver<Change>) -> Vec<Change> {
    let mut missing: std::collections::BTreeSet<_> = bramble_coordinator::store::feed::FED.into_iter().collect();
    read_until(feed, |change| {
        if let Change::CaughtUp(bucket) = change {
            missing.remove(bucket);
        }
        missing.is_empty()
    })
    .await
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

pub(crate) fn feed(store: &JetStream) -> mpsc::Receiver<Change> {
    store.feed()
}
