//! The broker's accounts: kept as our keys say, above all who is cut off.
//!
//! Decides: when an account is pushed. The truth is `Keys::quarantined`; a push is only ever derived from it:
//! after each change, after each (re)connection when what the broker has differs, and when somebody else pushed
//! something that lacks a key we know to be cut off. In that last case the union is pushed at once (another coordinator
//! may know of a quarantine we have not heard of yet); something *more* than we know is given time to reach us.
//! Our list is *whole* from `set_quarantined` until either connection breaks: until then what the broker refuses already
//! is never lifted, because another coordinator may have cut off a device while we were away.
//! Every push is dated after what the broker has, so that a cluster never prefers the older.
//!
//! Deliberately does not: decide who is quarantined.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use super::connect::{Connection, Link};
use crate::{
    broker::ConfigFile,
    clock,
    keys::{FileError, Keys, Revocations, accounts, entropy, jwt},
};

const UPDATE: &str = "$SYS.REQ.CLAIMS.UPDATE";
/// How long another coordinator's larger list may stand before we say what we know.
const LEARN: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A slow look at the broker's accounts, in case a push went unheard.
const LOOK: Duration = Duration::from_secs(60);
/// Tries of one change before the caller hears of it (the task goes on trying).
const TRIES: u32 = 3;

/// Why the broker does not have the accounts yet.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The list or the configuration could not be written: nothing was pushed.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no connection.
    #[error("the broker cannot be reached: the list of quarantined devices is stored and will be pushed when it can")]
    Away,
    /// The broker does not answer. The list is safe; it is pushed as soon as the broker is back.
    #[error("the broker does not answer: the list of quarantined devices is stored and will be pushed when it does")]
    NoAnswer(#[source] async_nats::RequestError),
    /// The broker refuses an account.
    #[error("the broker refuses account {account}: {why}")]
    Refused {
        /// Its name.
        account: &'static str,
        /// In the broker's words.
        why: String,
    },
}

/// Keeps the accounts.
#[derive(Debug, Clone)]
pub struct Accounts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    keys: Arc<Keys>,
    sys: Connection,
    config: Option<ConfigFile>,
    /// The connection over which the store is read, once there is one.
    fleet: OnceLock<watch::Receiver<Link>>,
    /// One change at a time.
    turn: Mutex<Turn>,
}

#[derive(Debug, Default)]
struct Turn {
    /// Date of the last push.
    issued_at: u64,
    /// Over which connections the list was said to be whole.
    whole: Option<[u64; 2]>,
}

/// One account as we want it.
struct Wanted {
    name: &'static str,
    id: String,
    jwt: String,
}

/// Does the broker's account say what ours says? Dates do not count.
fn same(have: &Value, want: &Value) -> bool {
    have["nats"] == want["nats"]
}

impl Accounts {
    /// Starts the task that keeps them. It ends with the last handle.
    pub(super) fn start(keys: Arc<Keys>, sys: Connection, config: Option<ConfigFile>) -> Self {
        let inner = Arc::new(Inner { keys, sys, config, fleet: OnceLock::new(), turn: Mutex::default() });
        tokio::spawn(keep(Arc::downgrade(&inner), inner.sys.clone()));
        Self { inner }
    }

    /// Pushes what differs now.
    pub(super) async fn settle(&self) -> Result<(), PushError> {
        self.inner.settle(&Revocations::new()).await
    }

    /// Tells of the connection over which the store is read.
    pub(super) fn reads_over(&self, fleet: watch::Receiver<Link>) {
        // Told once; a second one would be the same.
        let _ = self.inner.fleet.set(fleet);
    }

    pub(super) async fn set_quarantined(&self, list: &BTreeMap<String, u64>) -> Result<(), PushError> {
        let mut turn = self.inner.turn.lock().await;
        self.inner.keys.set_quarantined(list)?;
        turn.whole = self.inner.over();
        if matches!(*self.inner.sys.link.borrow(), Link::Down(_)) {
            return Err(PushError::Away);
        }
        let mut tries = 1;
        loop {
            match self.inner.push_what_differs(&mut turn, &Revocations::new()).await {
                Err(PushError::NoAnswer(_)) if tries < TRIES => tries += 1,
                done => return done,
            }
        }
    }
}

async fn keep(inner: std::sync::Weak<Inner>, sys: Connection) {
    let mut pause = RETRY;
    loop {
        let up = sys.up().await;
        let Some(this) = inner.upgrade() else { return };
        let listening = sys.client.subscribe(UPDATE).await;
        let settled = this.settle(&Revocations::new()).await;
        drop(this);
        let (Ok(()), Ok(mut pushes)) = (&settled, listening) else {
            if let Err(err) = settled {
                tracing::warn!(%err, "the broker does not have our accounts yet");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
            continue;
        };
        pause = RETRY;
        tokio::select! {
            () = sys.left(up) => {}
            () = tokio::time::sleep(LOOK) => {}
            () = heard_foreign(&inner, &mut pushes) => {}
        }
    }
}

/// Returns when the accounts should be looked at again because of what somebody else pushed.
async fn heard_foreign(inner: &std::sync::Weak<Inner>, pushes: &mut async_nats::Subscriber) {
    while let Some(message) = pushes.next().await {
        let Some(this) = inner.upgrade() else { return };
        let Some(claims) = std::str::from_utf8(&message.payload).ok().and_then(|text| jwt::decode(text).ok()) else {
            continue;
        };
        if claims["sub"] != this.keys.dev_id() {
            continue;
        }
        let jwts = this.keys.account_jwts(0);
        let ours = jwt::decode(&jwts.dev).expect("invariant: our own JWT reads back");
        if same(&claims, &ours) {
            continue;
        }
        let mut theirs = accounts::revoked(&claims["nats"]);
        let missing = accounts::revoked(&ours["nats"]).keys().any(|key| !theirs.contains_key(key));
        if missing {
            theirs.remove("*");
            tracing::warn!("somebody pushed accounts that lack a quarantined device: pushing all that are known");
            if let Err(err) = this.settle(&theirs).await {
                tracing::error!(%err, "the quarantine cannot be pushed; trying again");
            }
        }
        // Not in step with another coordinator that does the same.
        let [dice] = entropy::<1>();
        tokio::time::sleep(LEARN + LEARN * u32::from(dice) / 256).await;
        return;
    }
}

impl Inner {
    /// The connections as they stand; none if one does not.
    fn over(&self) -> Option<[u64; 2]> {
        match (*self.fleet.get()?.borrow(), *self.sys.link.borrow()) {
            (Link::Up(fleet), Link::Up(sys)) => Some([fleet, sys]),
            (Link::Down(_), _) | (_, Link::Down(_)) => None,
        }
    }

    async fn settle(&self, more: &Revocations) -> Result<(), PushError> {
        let mut turn = self.turn.lock().await;
        self.push_what_differs(&mut turn, more).await
    }

    fn wanted(&self, issued_at: u64) -> [Wanted; 3] {
        let jwts = self.keys.account_jwts(issued_at);
        [
            Wanted { name: "DEV", id: self.keys.dev_id(), jwt: jwts.dev },
            Wanted { name: "FLEET", id: self.keys.fleet_id(), jwt: jwts.fleet },
            Wanted { name: "SYS", id: self.keys.sys_id(), jwt: jwts.sys },
        ]
    }

    async fn push_what_differs(&self, turn: &mut Turn, more: &Revocations) -> Result<(), PushError> {
        let mut also = more.clone();
        let is_whole = turn.whole.is_some() && turn.whole == self.over();
        if !is_whole && let Some(have) = self.lookup(&self.keys.dev_id()).await? {
            also.extend(accounts::revoked(&have["nats"]));
        }
        self.keys.set_also_cut(also);
        let mut issued_at = clock::unix_secs().max(turn.issued_at + 1);
        let mut differ = vec![];
        for wanted in self.wanted(issued_at) {
            let have = self.lookup(&wanted.id).await?;
            let want = jwt::decode(&wanted.jwt).expect("invariant: our own JWT reads back");
            if let Some(have) = &have {
                issued_at = issued_at.max(have["iat"].as_u64().unwrap_or(0).saturating_add(1));
            }
            if !have.is_some_and(|have| same(&have, &want)) {
                differ.push(wanted.name);
            }
        }
        if differ.is_empty() {
            return Ok(());
        }
        turn.issued_at = issued_at;
        // First what a restart reads, then the broker that runs.
        if let Some(config) = &self.config {
            config.rewrite(issued_at)?;
        }
        for wanted in self.wanted(issued_at).into_iter().filter(|w| differ.contains(&w.name)) {
            self.push(wanted).await?;
        }
        Ok(())
    }

    /// The account as the broker has it.
    async fn lookup(&self, account: &str) -> Result<Option<Value>, PushError> {
        let subject = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP");
        let answer = self.sys.client.request(subject, bytes::Bytes::new()).await.map_err(PushError::NoAnswer)?;
        Ok(std::str::from_utf8(&answer.payload).ok().and_then(|text| jwt::decode(text).ok()))
    }

    async fn push(&self, wanted: Wanted) -> Result<(), PushError> {
        let answer = self.sys.client.request(UPDATE, wanted.jwt.into()).await.map_err(PushError::NoAnswer)?;
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        match answer.get("error") {
            None => {
                tracing::info!(account = wanted.name, "pushed an account to the broker");
                Ok(())
            }
            Some(error) => {
                let why = error["description"].as_str().unwrap_or("no reason given").to_owned();
                Err(PushError::Refused { account: wanted.name, why })
            }
        }
    }
}
