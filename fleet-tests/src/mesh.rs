//! The mesh with bare hands: connections with any credentials, everything that passes recorded and sent again, messages
//! forged. What an attacker with the broker in their hands, or a device gone bad, could do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, HeaderMap};
use bramble_contracts::subjects::Bucket;
use futures::StreamExt as _;
use nkeys::KeyPair;

use crate::api::runtime;

/// One message as it passed.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Its subject.
    pub subject: String,
    /// Where its answer goes.
    pub reply: Option<String>,
    /// Its headers.
    pub headers: Option<HeaderMap>,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A connection to a broker.
#[derive(Clone)]
pub struct Mesh {
    client: Client,
    events: Arc<Mutex<Vec<String>>>,
}

/// What listens in the background.
pub struct Recorder {
    heard: Arc<Mutex<Vec<Heard>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Mesh {
    /// Connects with a JWT and its key's seed.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn connect(broker: SocketAddr, jwt: &str, seed: &str, inbox: Option<&str>) -> Result<Self, String> {
        let pair = Arc::new(KeyPair::from_seed(seed).map_err(|err| err.to_string())?);
        let events = Arc::new(Mutex::new(vec![]));
        let seen = Arc::clone(&events);
        let mut options = ConnectOptions::with_jwt(jwt.to_owned(), move |nonce| {
            let pair = Arc::clone(&pair);
            async move { pair.sign(&nonce).map_err(async_nats::AuthError::new) }
        })
        .connection_timeout(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(2)))
        .max_reconnects(Some(1))
        .event_callback(move |event: Event| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(event.to_string());
            async {}
        });
        if let Some(inbox) = inbox {
            options = options.custom_inbox_prefix(inbox);
        }
        let client =
            runtime().block_on(options.connect(format!("nats://{broker}"))).map_err(|err| format!("{err:?}"))?;
        Ok(Self { client, events })
    }

    /// The client itself.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What the client was told: disconnections, denied subjects.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes, and waits until the broker has it.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn publish(&self, subject: &str, reply: Option<&str>, headers: Option<HeaderMap>, payload: &[u8]) {
        let (subject, payload) = (subject.to_owned(), payload.to_vec().into());
        let send = async {
            match (reply.map(str::to_owned), headers) {
                (None, None) => self.client.publish(subject, payload).await,
                (None, Some(h)) => self.client.publish_with_headers(subject, h, payload).await,
                (Some(r), None) => self.client.publish_with_reply(subject, r, payload).await,
                (Some(r), Some(h)) => self.client.publish_with_reply_and_headers(subject, r, h, payload).await,
            }
        };
        runtime().block_on(async {
            send.await.expect("the message can be sent");
            self.client.flush().await.expect("the broker takes it");
        });
    }

    /// A request, with two seconds for the answer.
    ///
    /// # Errors
    /// When nobody answers or the broker denies it.
    pub fn request(&self, subject: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
        let answer = runtime().block_on(self.client.request(subject.to_owned(), payload.to_vec().into()));
        answer.map(|m| m.payload.to_vec()).map_err(|err| err.to_string())
    }

    /// The newest value of a key, asked of the stream directly; for connections inside FLEET.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, bucket: Bucket, key: &str) -> Result<Vec<u8>, String> {
        let subject = format!("$JS.API.DIRECT.GET.{}.{}", bucket.stream(), bucket.subject(key));
        let answer =
            runtime().block_on(self.client.request(subject, Vec::new().into())).map_err(|err| err.to_string())?;
        match answer.status {
            Some(status) => Err(format!("status {status}")),
            None => Ok(answer.payload.to_vec()),
        }
    }

    /// Records what passes on these subjects from now on.
    ///
    /// # Panics
    /// When the connection is gone.
    #[must_use]
    pub fn record(&self, subjects: &[&str]) -> Recorder {
        let heard = Arc::new(Mutex::new(vec![]));
        let into = Arc::clone(&heard);
        let client = self.client.clone();
        let subscriptions = runtime().block_on(async {
            let mut subscriptions = vec![];
            for subject in subjects {
                subscriptions.push(client.subscribe((*subject).to_owned()).await.expect("the broker takes it"));
            }
            client.flush().await.expect("the broker takes it");
            subscriptions
        });
        let task = runtime().spawn(async move {
            let mut all = futures::stream::select_all(subscriptions);
            while let Some(m) = all.next().await {
                let reply = m.reply.map(|r| r.to_string());
                let one =
                    Heard { subject: m.subject.to_string(), reply, headers: m.headers, payload: m.payload.to_vec() };
                into.lock().unwrap_or_else(PoisonError::into_inner).push(one);
            }
        });
        Recorder { heard, task }
    }
}

impl Recorder {
    /// What it has heard so far.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
