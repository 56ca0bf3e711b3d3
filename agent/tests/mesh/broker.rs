//! A real nats-server with the fleet's two accounts, and the coordinator's side of the mesh as the tests need it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use bramble_agent::host::cmd;
use bramble_contracts::DeviceId;
use bramble_contracts::subjects::{self, Bucket};
use data_encoding::BASE64URL_NOPAD;
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::{eventually, unix_now};

/// The program, by BRAMBLE_NATS_SERVER or PATH.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("BRAMBLE_NATS_SERVER") {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("nats-server")).find(|file| file.is_file());
    found.expect("these tests need nats-server: set BRAMBLE_NATS_SERVER to it, or put it on PATH")
}

fn key(kind: KeyPairType, seed: u8) -> Arc<KeyPair> {
    Arc::new(KeyPair::new_from_raw(kind, [seed; 32]).unwrap())
}

fn jwt(issuer: &KeyPair, subject: &str, nats: &Value, span: Option<(u64, u64)>) -> String {
    let (iat, exp) = span.map_or((unix_now(), None), |(iat, exp)| (iat, Some(exp)));
    let mut claims = json!({ "iat": iat, "iss": issuer.public_key(), "sub": subject, "name": "t", "nats": nats, "jti": iat.to_string() });
    if let Some(exp) = exp {
        claims["exp"] = exp.into();
    }
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let text = format!("{}.{}", part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), part(&claims));
    format!("{text}.{}", BASE64URL_NOPAD.encode(&issuer.sign(text.as_bytes()).unwrap()))
}

/// A broker and the keys that rule it.
pub(crate) struct Broker {
    dir: tempfile::TempDir,
    pub(crate) port: u16,
    child: Option<Child>,
    operator: Arc<KeyPair>,
    sys: Arc<KeyPair>,
    fleet: Arc<KeyPair>,
    dev: Arc<KeyPair>,
    revoked: BTreeMap<String, u64>,
    /// Permissions to publish that new JWTs lack.
    pub(crate) withheld: Vec<&'static str>,
    tls: bool,
}

impl Broker {
    /// With a certificate and its key (PEM) it also speaks TLS.
    pub(crate) async fn start(tls: Option<(String, String)>) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut broker = Self {
            dir: tempfile::tempdir().unwrap(),
            port,
            child: None,
            operator: key(KeyPairType::Operator, 1),
            sys: key(KeyPairType::Account, 2),
            fleet: key(KeyPairType::Account, 3),
            dev: key(KeyPairType::Account, 4),
            revoked: BTreeMap::new(),
            withheld: vec![],
            tls: tls.is_some(),
        };
        if let Some((cert, key)) = tls {
            std::fs::write(broker.dir.path().join("cert.pem"), cert).unwrap();
            std::fs::write(broker.dir.path().join("key.pem"), key).unwrap();
        }
        broker.run().await;
        broker
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts the server on what is stored.
    pub(crate) async fn run(&mut self) {
        let conf = self.dir.path().join("nats.conf");
        std::fs::write(&conf, self.config()).unwrap();
        let args = ["-c".to_owned(), conf.display().to_string(), "-l".to_owned(), self.log().display().to_string()];
        self.child = Some(cmd::start_service(&program(), &args, &[]).unwrap());
        let port = self.port;
        eventually("the broker to listen", || async move {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
    }

    /// As a power cut would.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().await.unwrap();
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("nats.log")
    }

    fn config(&self) -> String {
        let account = |key: &KeyPair, nats: Value| jwt(&self.operator, &key.public_key(), &nats, None);
        let operator = json!({ "type": "operator", "version": 2, "system_account": self.sys.public_key() });
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let tls = if self.tls {
            format!(
                "tls {{ cert_file: {:?}, key_file: {:?} }}\nallow_non_tls: true\n",
                path("cert.pem"),
                path("key.pem")
            )
        } else {
            String::new()
        };
        format!(
            "{tls}listen: 127.0.0.1:{}\nserver_name: t\noperator: {}\nsystem_account: {}\n\
             jetstream {{ store_dir: {:?}, sync_interval: always }}\n\
             resolver: {{ type: full, dir: {:?}, allow_delete: false, interval: \"2m\" }}\n\
             resolver_preload: {{ {}: {}\n {}: {}\n {}: {}\n }}\n",
            self.port,
            jwt(&self.operator, &self.operator.public_key(), &operator, None),
            self.sys.public_key(),
            path("js"),
            path("jwt"),
            self.sys.public_key(),
            account(&self.sys, json!({ "type": "account", "version": 2, "limits": limits(false) })),
            self.fleet.public_key(),
            account(&self.fleet, self.fleet_claims()),
            self.dev.public_key(),
            account(&self.dev, self.dev_claims()),
        )
    }

    fn fleet_claims(&self) -> Value {
        let service = |subject: &str| json!({ "name": subject, "subject": subject, "type": "service" });
        json!({ "type": "account", "version": 2, "limits": limits(true),
            "exports": [
                service(subjects::DIRECT_GET_DESIRED), service("$KV.reported.*"), service("$KV.liveness.*.*"),
                service(subjects::UP_ALL), { "name": "dev", "subject": "dev.>", "type": "stream" },
            ],
            "imports": [{ "name": "cmd", "subject": "cmd.>", "account": self.dev.public_key(), "type": "service" }] })
    }

    fn dev_claims(&self) -> Value {
        let from = self.fleet.public_key();
        let service =
            |subject: &str| json!({ "name": subject, "subject": subject, "account": from, "type": "service" });
        let mut get = service(subjects::DIRECT_GET_DESIRED);
        get["local_subject"] = subjects::DEVICE_GET_ALL.into();
        let mut claims = json!({ "type": "account", "version": 2, "limits": limits(false),
            "exports": [{ "name": "cmd", "subject": "cmd.>", "type": "service", "response_type": "Stream" }],
            "imports": [
                get, service("$KV.reported.*"), service("$KV.liveness.*.*"), service(subjects::UP_ALL),
                { "name": "dev", "subject": "dev.>", "account": from, "type": "stream" },
            ] });
        if !self.revoked.is_empty() {
            claims["revocations"] = json!(self.revoked);
        }
        claims
    }

    /// A JWT for a device, valid from `iat` to `exp`.
    pub(crate) fn device_jwt(&self, device: &DeviceId, public_key: &str, span: Option<(u64, u64)>) -> String {
        let mut may = subjects::permissions(device);
        may.publish.retain(|subject| !self.withheld.iter().any(|withheld| subject.contains(withheld)));
        let nats = json!({ "type": "user", "version": 2, "subs": 64, "data": -1, "payload": subjects::DEVICE_MAX_PAYLOAD,
            "pub": { "allow": may.publish }, "sub": { "allow": may.subscribe },
            "resp": { "max": may.responses_max, "ttl": may.responses_secs * 1_000_000_000 } });
        jwt(&self.dev, public_key, &nats, span)
    }

    /// Revokes a device's key, or lets it back.
    pub(crate) async fn revoke(&mut self, public_key: &str, revoked: bool) {
        if revoked {
            self.revoked.insert(public_key.to_owned(), 4_102_444_800);
        } else {
            self.revoked.remove(public_key);
        }
        let claims = jwt(&self.operator, &self.dev.public_key(), &self.dev_claims(), None);
        let client = self.connect(&self.sys).await;
        let answer = client.request("$SYS.REQ.CLAIMS.UPDATE", claims.into()).await.unwrap();
        let said: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(said["data"]["code"], 200, "{said}");
    }

    /// How many connections were ever made to it, with the one that asks.
    pub(crate) async fn connections(&self) -> u64 {
        let answer = self.connect(&self.sys).await.request("$SYS.REQ.SERVER.PING.VARZ", "".into()).await.unwrap();
        let said: Value = serde_json::from_slice(&answer.payload).unwrap();
        said["data"]["total_connections"].as_u64().unwrap()
    }

    /// The coordinator's connection.
    pub(crate) async fn coordinator(&self) -> Client {
        self.connect(&self.fleet).await
    }

    async fn connect(&self, account: &KeyPair) -> Client {
        let user = key(KeyPairType::User, 9);
        let token = jwt(
            account,
            &user.public_key(),
            &json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 }),
            None,
        );
        let sign = move |nonce: Vec<u8>| {
            let user = user.clone();
            async move { user.sign(&nonce).map_err(async_nats::AuthError::new) }
        };
        ConnectOptions::with_jwt(token, sign).connect(self.url()).await.unwrap()
    }

    /// The streams that devices touch, as mesh.md has them.
    pub(crate) async fn make_streams(&self, client: &Client) {
        for (bucket, subject) in [
            (Bucket::Desired, "$KV.desired.*"),
            (Bucket::Reported, "$KV.reported.*"),
            (Bucket::Liveness, "$KV.liveness.*.*"),
        ] {
            let mut config = json!({ "name": bucket.stream(), "subjects": [subject], "max_msgs_per_subject": 1,
                "allow_direct": true, "storage": "file", "num_replicas": 1 });
            if bucket == Bucket::Desired {
                config["republish"] = json!({ "src": "$KV.desired.*", "dest": "dev.{{wildcard(1)}}.desired" });
            }
            let subject = format!("$JS.API.STREAM.CREATE.{}", bucket.stream());
            let answer = client.request(subject, config.to_string().into()).await.unwrap();
            let said: Value = serde_json::from_slice(&answer.payload).unwrap();
            assert!(said["error"].is_null(), "{said}");
        }
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

fn limits(jetstream: bool) -> Value {
    let mut all = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1 });
    if jetstream {
        for field in ["mem_storage", "disk_storage", "streams", "consumer"] {
            all[field] = json!(-1);
        }
    }
    all
}

/// The last message of a key, straight from the stream.
pub(crate) async fn last(client: &Client, bucket: Bucket, key: &str) -> Option<Vec<u8>> {
    let subject = format!("$JS.API.DIRECT.GET.{}.{}", bucket.stream(), bucket.subject(key));
    let answer = tokio::time::timeout(Duration::from_secs(5), client.request(subject, "".into())).await;
    let answer = answer.ok()?.ok()?;
    answer.status.is_none().then(|| answer.payload.to_vec())
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.start_kill().ok();
        }
    }
}
