//! The coordinator's side of the mesh.
//!
//! Decides: which connections there are and who speaks over them. Deliberately does not: know what documents or
//! reports mean; `background` does.

pub mod accounts;
pub mod command;
pub mod connect;
pub mod links;
pub mod up;

use std::{collections::BTreeMap, sync::Arc};

use bramble_contracts::DeviceId;
use tokio::sync::{mpsc, watch};

pub use accounts::{Accounts, PushError};
pub use command::{Answer, CommandError};
pub use connect::{ConnectError, Connection, Endpoint, Link, Security};
pub use links::{DeviceLink, LinkChange, LinkNews};
pub use up::{Answerer, Question};

use crate::{broker::ConfigFile, keys::Keys};

/// Both connections and what is done over them.
#[derive(Debug, Clone)]
pub struct Mesh {
    fleet: Connection,
    accounts: Accounts,
    sys: Connection,
    keys: Arc<Keys>,
}

impl Mesh {
    /// Connects as coordinator (FLEET) and as system (SYS), and from then on keeps the broker's accounts as the keys
    /// say. `config` is there for an embedded broker: it is rewritten before every push.
    pub async fn connect(
        keys: Arc<Keys>,
        endpoint: &Endpoint,
        config: Option<ConfigFile>,
    ) -> Result<Self, ConnectError> {
        let sys = connect::connect(endpoint, &keys.sys_creds(), "bramble-coordinator sys").await?;
        let accounts = Accounts::start(keys.clone(), sys.clone(), config);
        if let Err(err) = accounts.settle().await {
            tracing::warn!(%err, "the broker does not have our accounts yet; trying on");
        }
        let fleet = connect::connect(endpoint, &keys.coordinator_creds(), "bramble-coordinator").await?;
        accounts.reads_over(fleet.link.clone());
        Ok(Self { fleet, accounts, sys, keys })
    }

    /// The connection in FLEET, for the store.
    pub fn fleet(&self) -> Connection {
        self.fleet.clone()
    }

    /// Whether the connection in FLEET stands.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.fleet.link.clone()
    }

    /// Makes `quarantined` (public nkey → second since when) the list of keys that are cut off: durable beside the
    /// keys first, then in the broker's file, then in the running broker, which closes their connections at once.
    /// `quarantined` must be whole, with all that the store says now: what else the broker refuses is lifted by it, and
    /// by nothing before it. Returns when the broker has it.
    pub async fn set_quarantined(&self, quarantined: &BTreeMap<String, u64>) -> Result<(), PushError> {
        self.accounts.set_quarantined(quarantined).await
    }

    /// Answers devices that ask on `up.`; ends when the returned task is aborted. Returns when the broker has the
    /// subscription, or after ten seconds without the broker.
    pub async fn answer_devices(&self, answerer: Answerer) -> tokio::task::JoinHandle<()> {
        up::start(self.fleet.clone(), answerer).await
    }

    /// Sends a signed command and returns the frames of the answer.
    pub async fn send_command(&self, device: &DeviceId, verb: &str, signed: Vec<u8>) -> Result<Answer, CommandError> {
        command::send(&self.fleet.client, device, verb, signed).await
    }

    /// Sends signed input to a command that is under way; with `reply`, as a request that is answered there.
    pub async fn send_input(
        &self,
        device: &DeviceId,
        signed: Vec<u8>,
        reply: Option<&str>,
    ) -> Result<(), CommandError> {
        command::send_input(&self.fleet.client, device, signed, reply).await
    }

    /// Devices that connect and disconnect, as the broker tells it. Bounded: what does not fit is dropped, because
    /// heartbeats say the same a little later.
    pub fn device_links(&self) -> mpsc::Receiver<LinkNews> {
        links::start(self.sys.clone(), self.keys.dev_id())
    }
}
