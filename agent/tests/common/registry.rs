//! A real registry on loopback, behind a link that can be slow, cut or foreign.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::{Device, free_port, image_with};

/// A link that carries at most so many bytes each tenth of a second; without end when it is `FAST`.
const FAST: u64 = u64::MAX;
/// Nothing gets through, and connections that there are break.
const CUT: u64 = 0;

const HTPASSWD: &str = "user:$2b$05$UKpLaeVLHxYqS4Cssu.UbOyD2oPgo.cK3N2iQy0YyTonoopBR1d1i\n";

/// A registry and the link to it.
pub(crate) struct Registry {
    dir: tempfile::TempDir,
    child: tokio::sync::Mutex<Child>,
    link: Link,
    /// What devices pull from.
    pub(crate) address: SocketAddr,
    server: SocketAddr,
}

struct Link {
    bytes_per_tenth: Arc<AtomicU64>,
    carried: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// With more lines of configuration; `DIR` in them is the registry's directory.
    pub(crate) async fn start_with(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let place = dir.path().display();
        let more = more.replace("DIR", &place.to_string());
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage:\n  filesystem: {{ rootdirectory: {place}/data }}\n  \
             delete: {{ enabled: true }}\nhttp: {{ addr: \"{server}\" }}\n{more}"
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        // Of `user` and `secret`.
        std::fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
        let child = serve(dir.path(), server).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (bytes_per_tenth, carried) = (Arc::new(AtomicU64::new(FAST)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(carry(listener, server, Arc::clone(&bytes_per_tenth), Arc::clone(&carried)));
        Self { dir, child: child.into(), link: Link { bytes_per_tenth, carried, task }, address, server }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What an image of that name is called here.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// What devices need to know of it.
    pub(crate) fn conf(&self) -> String {
        format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", self.address)
    }

    /// Credentials as Podman reads them.
    pub(crate) fn auth_json(&self) -> String {
        let both = data_encoding::BASE64.encode(b"user:secret");
        let one = serde_json::json!({ "auth": both });
        serde_json::json!({ "auths": { (self.address.to_string()): one, (self.server.to_string()): one } }).to_string()
    }

    /// Where it keeps what has that digest.
    pub(crate) fn blob(&self, digest: &str) -> std::path::PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Another process that remembers nothing but what is on its disk.
    pub(crate) async fn restart(&self) {
        let mut child = self.child.lock().await;
        child.kill().await.unwrap();
        *child = serve(self.dir.path(), self.server).await;
    }

    /// Makes an image with that data, puts it into the registry, and leaves none of it on the device. Gives its digest.
    pub(crate) async fn publish(&self, device: &Device, name: &str, data: &[u8]) -> String {
        let here = format!("{}/{name}", self.server);
        device.podman.import(&here, image_with(data).into(), &[]).await.unwrap();
        let digest = self.dir.path().join("digest");
        let options = ["-q", "--tls-verify=false", "--creds", "user:secret", "--digestfile", digest.to_str().unwrap()];
        device.podman_cli(&[&["push"], &options[..], &[&here]].concat());
        device.podman_cli(&["rmi", "-f", &here]);
        let digest = std::fs::read_to_string(digest).unwrap();
        assert!(digest.starts_with("sha256:"));
        digest
    }

    /// The same on top of an image that is there as `base`, so that both share its layer.
    pub(crate) fn publish_on(&self, device: &Device, base: &str, name: &str, data: &[u8]) {
        let here = format!("{}/{name}", self.server);
        let context = self.dir.path().join("context");
        std::fs::create_dir_all(&context).unwrap();
        std::fs::write(context.join("own"), data).unwrap();
        std::fs::write(context.join("Containerfile"), format!("FROM {base}\nCOPY own /data/own\n")).unwrap();
        device.podman_cli(&["build", "-q", "-t", &here, context.to_str().unwrap()]);
        device.podman_cli(&["push", "-q", "--tls-verify=false", &here]);
        device.podman_cli(&["rmi", "-f", &here]);
    }

    pub(crate) fn fast(&self) {
        self.link.bytes_per_tenth.store(FAST, Ordering::Relaxed);
    }

    /// From now on so many KiB in a second, all connections together.
    pub(crate) fn slow(&self, kib_per_s: u64) {
        self.link.bytes_per_tenth.store((kib_per_s << 10) / 10, Ordering::Relaxed);
    }

    pub(crate) fn cut(&self) {
        self.link.bytes_per_tenth.store(CUT, Ordering::Relaxed);
    }

    /// Bytes that came from the registry so far.
    pub(crate) fn carried(&self) -> u64 {
        self.link.carried.load(Ordering::Relaxed)
    }

    pub(crate) async fn until_carried(&self, bytes: u64) {
        let enough = async {
            while self.carried() < bytes {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(super::PATIENCE, enough).await.is_ok(), "only {} bytes came", self.carried());
    }
}

async fn serve(dir: &Path, address: SocketAddr) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    #[allow(clippy::disallowed_methods, reason = "a test runs a registry")]
    let mut command =
        Command::new(std::env::var("BRAMBLE_DOCKER_REGISTRY").unwrap_or_else(|_| "docker-registry".into()));
    command.arg("serve").arg(dir.join("config.yml")).kill_on_drop(true).stdout(log.try_clone().unwrap()).stderr(log);
    let child = command.spawn().expect("BRAMBLE_DOCKER_REGISTRY names the program, or it is on PATH");
    let up = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), up).await.expect("the registry answers");
    child
}

async fn carry(listener: TcpListener, to: SocketAddr, rate: Arc<AtomicU64>, carried: Arc<AtomicU64>) {
    let mut all = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (rate, carried) = (Arc::clone(&rate), Arc::clone(&carried));
        all.spawn(async move {
            let Ok(server) = TcpStream::connect(to).await else { return };
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let asks = tokio::io::copy(&mut from_client, &mut to_server);
            let answers = async {
                let mut piece = vec![0u8; 16 << 10];
                loop {
                    let tenth = rate.load(Ordering::Relaxed);
                    if tenth == CUT {
                        return;
                    }
                    let most = piece.len().min(usize::try_from(tenth).unwrap_or(usize::MAX));
                    let Ok(n @ 1..) = from_server.read(&mut piece[..most]).await else { return };
                    carried.fetch_add(n as u64, Ordering::Relaxed);
                    if to_client.write_all(&piece[..n]).await.is_err() {
                        return;
                    }
                    if tenth < FAST {
                        tokio::time::sleep(Duration::from_millis(100 * n as u64 / tenth)).await;
                    }
                }
            };
            // Whoever ends first ends both: a cut link tells nobody politely.
            tokio::select! {
                _ = asks => {}
                () = answers => {}
            }
        });
    }
}
