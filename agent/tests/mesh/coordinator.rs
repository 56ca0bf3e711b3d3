//! The coordinator's side of enrolment and renewal, as the contracts describe it: HTTP, and answers on `up.>`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bramble_contracts::bytes::Sha256;
use bramble_contracts::signed::{Role, public_key, sign};
use bramble_contracts::token::EnrollmentToken;
use bramble_contracts::trust::{TrustDocument, TrustedKey};
use bramble_contracts::v1::{EnrollRequest, RenewHttpRequest, RenewReply, SignedTime, TRUST_STEPS_MAX, TimeRequest};
use bramble_contracts::{DeviceId, Uid, envelope};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use ed25519_dalek::SigningKey;
use futures::StreamExt as _;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::broker::Broker;
use crate::releases::Releases;
use crate::unix_now;

/// What the coordinator knows and how it misbehaves.
pub(crate) struct State {
    pub(crate) root: SigningKey,
    pub(crate) fleet: SigningKey,
    pub(crate) token: EnrollmentToken,
    /// Signed trust documents, the newest last.
    pub(crate) trust: Vec<(TrustDocument, Vec<u8>)>,
    /// By public key.
    pub(crate) devices: BTreeMap<String, DeviceId>,
    /// Requests seen, `METHOD path`.
    pub(crate) asked: Vec<String>,
    /// So many answers to `POST /enroll` are lost.
    pub(crate) lose_answers: u32,
    /// So many answers to `POST /enroll` say `pending`.
    pub(crate) pending: u32,
    /// Renewals are refused.
    pub(crate) quarantined: bool,
    /// Seconds a JWT is valid.
    pub(crate) jwt_secs: u64,
    /// The enrolment's JWT is this old already.
    pub(crate) jwt_age: u64,
    pub(crate) renewals: u32,
    pub(crate) time: SigningKey,
    /// How it answers when it is asked for the time.
    pub(crate) clock: Clock,
    /// The last answer it gave.
    pub(crate) recording: Vec<u8>,
    pub(crate) releases: Releases,
}

/// A coordinator's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Off by so many seconds.
    Off(i64),
    /// It sends its last answer again, as somebody between could; before the first one nothing that is signed.
    Replayed,
}

#[derive(Clone)]
pub(crate) struct Coordinator {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) broker: Arc<tokio::sync::Mutex<Broker>>,
    pub(crate) url: String,
}

/// Who speaks TLS.
pub(crate) enum Tls {
    Plain,
    /// A certificate and its CA (PEM).
    Http(tokio_rustls::TlsAcceptor, String),
    /// The broker has a certificate and a key (PEM); devices are told this CA.
    Broker((String, String), String),
}

impl Coordinator {
    pub(crate) async fn start(tls: Tls) -> Self {
        let certificate = match &tls {
            Tls::Plain | Tls::Http(..) => None,
            Tls::Broker(certificate, _) => Some(certificate.clone()),
        };
        let broker = Broker::start(certificate).await;
        let client = broker.coordinator().await;
        broker.make_streams(&client).await;
        let (root, fleet) = (SigningKey::from_bytes(&[21; 32]), SigningKey::from_bytes(&[22; 32]));
        let time = SigningKey::from_bytes(&[23; 32]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (scheme, ca) = match &tls {
            Tls::Plain => ("http", String::new()),
            Tls::Http(_, ca) => ("https", ca.clone()),
            Tls::Broker(_, ca) => ("http", ca.clone()),
        };
        let url = format!("{scheme}://127.0.0.1:{port}");
        let document = TrustDocument {
            version: 1,
            root_threshold: 1,
            keys: vec![
                TrustedKey { role: Role::Root, key: public_key(&root) },
                TrustedKey { role: Role::Fleet, key: public_key(&fleet) },
                TrustedKey { role: Role::Time, key: public_key(&time) },
            ],
            ca_bundle: ca,
            coordinators: vec![url.clone()],
            brokers: vec![match &tls {
                Tls::Plain | Tls::Http(..) => broker.url(),
                Tls::Broker(..) => broker.url().replace("nats://", "tls://"),
            }],
        };
        let signed = document.sign(&[&root]).unwrap();
        let token = EnrollmentToken::new(Uid::from_entropy([5; 13]), [6; 20], document.pin());
        let state = State {
            root,
            fleet,
            token,
            trust: vec![(document, signed)],
            devices: BTreeMap::new(),
            asked: vec![],
            lose_answers: 0,
            pending: 0,
            quarantined: false,
            jwt_secs: 3600,
            jwt_age: 0,
            renewals: 0,
            time,
            clock: Clock::Off(0),
            recording: vec![],
            releases: Releases::default(),
        };
        let new = Self { state: Arc::new(Mutex::new(state)), broker: Arc::new(tokio::sync::Mutex::new(broker)), url };
        tokio::spawn(new.clone().serve_http(listener, tls));
        tokio::spawn(new.clone().serve_mesh(client));
        new
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A successor of the trust document.
    pub(crate) fn succeed(&self, change: impl FnOnce(&mut TrustDocument)) {
        let mut state = self.state();
        let mut next = state.trust.last().unwrap().0.clone();
        next.version += 1;
        change(&mut next);
        let signed = next.sign(&[&state.root]).unwrap();
        state.trust.push((next, signed));
    }

    /// A successor with another root key, signed by the old and the new one.
    pub(crate) fn rotate_root(&self) {
        let mut state = self.state();
        let mut next = state.trust.last().unwrap().0.clone();
        next.version += 1;
        let new = SigningKey::from_bytes(&[u8::try_from(30 + next.version).unwrap(); 32]);
        next.keys.retain(|key| key.role != Role::Root);
        next.keys.push(TrustedKey { role: Role::Root, key: public_key(&new) });
        let signed = next.sign(&[&state.root, &new]).unwrap();
        state.root = new;
        state.trust.push((next, signed));
    }

    async fn serve_http(self, listener: TcpListener, tls: Tls) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let this = self.clone();
            match &tls {
                Tls::Plain | Tls::Broker(..) => drop(tokio::spawn(async move { this.answer(stream).await })),
                Tls::Http(acceptor, _) => {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            this.answer(stream).await;
                        }
                    });
                }
            }
        }
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S) {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        let (head, body) = loop {
            let n = stream.read(&mut part).await.unwrap_or(0);
            bytes.extend_from_slice(&part[..n]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let wanted = head
                    .lines()
                    .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
                if body.len() >= wanted.map_or(0, |n| n.parse().unwrap()) {
                    break (head.to_owned(), body.to_owned());
                }
            }
            if n == 0 {
                return;
            }
        };
        let what = head.split(" HTTP").next().unwrap().to_owned();
        self.state().asked.push(what.clone());
        let Some((status, body)) = self.route(&what, &body).await else { return };
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\ncontent-type: application/json\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.ok();
        stream.shutdown().await.ok();
    }

    async fn route(&self, what: &str, body: &str) -> Option<(u16, Value)> {
        match what {
            "GET /api/v1/enroll/trust" => Some((200, json!({ "trust": self.trust_text() }))),
            "POST /api/v1/enroll" => self.enroll(serde_json::from_str(body).unwrap()).await,
            "POST /api/v1/enroll/nonce" => Some((200, json!({ "nonce": "n-1" }))),
            "POST /api/v1/enroll/renew" => Some(self.renew(serde_json::from_str(body).unwrap()).await),
            other => panic!("the agent asked for {other}"),
        }
    }

    fn trust_text(&self) -> String {
        BASE64.encode(&self.state().trust.last().unwrap().1)
    }

    async fn enroll(&self, request: EnrollRequest) -> Option<(u16, Value)> {
        let proof = BASE64URL_NOPAD.decode(request.proof.as_bytes()).unwrap();
        let text = EnrollRequest::proof_text(&request.token, &request.public_key);
        KeyPair::from_public_key(&request.public_key).unwrap().verify(text.as_bytes(), &proof).unwrap();
        let (device, span) = {
            let mut state = self.state();
            assert_eq!(
                EnrollmentToken::secret_hash(&request.secret),
                EnrollmentToken::secret_hash(&state.token.secret_text())
            );
            let spent = !state.devices.is_empty() && !state.devices.contains_key(&request.public_key);
            if spent {
                return Some((403, json!({ "title": "Forbidden", "detail": "token spent by another key" })));
            }
            let fresh = DeviceId::from_entropy(Sha256::of(request.public_key.as_bytes()).0[..13].try_into().unwrap());
            let device = state.devices.entry(request.public_key.clone()).or_insert(fresh).clone();
            if state.lose_answers > 0 {
                state.lose_answers -= 1;
                return None;
            }
            if state.pending > 0 {
                state.pending -= 1;
                return Some((
                    200,
                    json!({ "device": device, "tenant": "default", "name": "pi-1", "state": "pending",
                    "jwt": null, "trust": [], "retryAfterSecs": 1 }),
                ));
            }
            let iat = unix_now() - state.jwt_age;
            (device, (iat, iat + state.jwt_secs))
        };
        let jwt = self.broker.lock().await.device_jwt(&device, &request.public_key, Some(span));
        Some((
            200,
            json!({ "device": device, "tenant": "default", "name": "pi-1", "state": "active",
            "jwt": jwt, "trust": [self.trust_text()], "retryAfterSecs": 0 }),
        ))
    }

    async fn renew(&self, request: RenewHttpRequest) -> (u16, Value) {
        let key = self.key_of(&request.device);
        let proof = BASE64URL_NOPAD.decode(request.proof.as_bytes()).unwrap();
        let text = RenewHttpRequest::proof_text(&request.device, &request.nonce);
        KeyPair::from_public_key(&key).unwrap().verify(text.as_bytes(), &proof).unwrap();
        if self.state().quarantined {
            return (403, json!({ "title": "Forbidden", "detail": "this device is quarantined" }));
        }
        let jwt = self.fresh_jwt(&request.device, &key).await;
        let steps: Vec<_> = self.steps(request.trust_version).iter().map(|bytes| BASE64.encode(bytes)).collect();
        (
            200,
            json!({ "device": request.device, "tenant": "default", "name": "pi-1", "state": "active",
            "jwt": jwt, "trust": steps, "retryAfterSecs": 0 }),
        )
    }

    /// The trust documents after `version`, at most as many as one answer carries.
    fn steps(&self, version: u64) -> Vec<Vec<u8>> {
        let state = self.state();
        let after = state.trust.iter().filter(|(doc, _)| doc.version > version).take(TRUST_STEPS_MAX);
        after.map(|(_, bytes)| bytes.clone()).collect()
    }

    async fn fresh_jwt(&self, device: &DeviceId, key: &str) -> String {
        let secs = {
            let mut state = self.state();
            state.renewals += 1;
            state.jwt_secs
        };
        self.broker.lock().await.device_jwt(device, key, Some((unix_now(), unix_now() + secs)))
    }

    pub(crate) fn key_of(&self, device: &DeviceId) -> String {
        self.state().devices.iter().find(|(_, id)| *id == device).unwrap().0.clone()
    }

    fn time(&self, device: &DeviceId, question: &[u8]) -> Vec<u8> {
        let mut state = self.state();
        state.asked.push("up time".into());
        let request: TimeRequest = envelope::decode(question).unwrap();
        match state.clock {
            Clock::Replayed => {}
            Clock::Off(secs) => {
                let unix_ms = bramble_agent::host::clock::wall_ms().saturating_add_signed(secs * 1000);
                let time = SignedTime { device: device.clone(), nonce: request.nonce, unix_ms };
                state.recording = sign(&time, Role::Time, &state.time).unwrap();
            }
        }
        state.recording.clone()
    }

    fn release(&self, question: &[u8]) -> Vec<u8> {
        let mut state = self.state();
        let time = state.time.clone();
        let answer = state.releases.answer(&envelope::decode(question).unwrap(), &time);
        envelope::encode(&answer).unwrap()
    }

    async fn serve_mesh(self, client: async_nats::Client) {
        let mut asked = client.subscribe("up.>").await.unwrap();
        while let Some(message) = asked.next().await {
            let parts: Vec<&str> = message.subject.split('.').collect();
            let device: DeviceId = parts[1].parse().unwrap();
            if parts[2] == "time" {
                let answer = self.time(&device, &message.payload);
                client.publish(message.reply.unwrap(), answer.into()).await.unwrap();
                continue;
            }
            if parts[2] == "release" {
                let answer = self.release(&message.payload);
                client.publish(message.reply.unwrap(), answer.into()).await.unwrap();
                continue;
            }
            let request: bramble_contracts::v1::RenewRequest = envelope::decode(&message.payload).unwrap();
            let trust = self.steps(request.trust_version);
            self.state().asked.push(format!("up {}", parts[2]));
            let jwt = match parts[2] {
                "renew" => Some(self.fresh_jwt(&device, &self.key_of(&device)).await),
                _ => None,
            };
            let reply = envelope::encode(&RenewReply { jwt, trust, refused: None }).unwrap();
            client.publish(message.reply.unwrap(), reply.into()).await.unwrap();
        }
    }
}
