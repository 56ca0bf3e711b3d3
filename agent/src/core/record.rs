//! What the agent remembers of one app, durably: the containers it made, and the spec it last set out to run.
//!
//! A nonce is recorded before a container is made and its id after, so every container is either ours, known, or a
//! stranger's: labels alone prove nothing, because anybody can copy them.

use std::collections::BTreeMap;

use bramble_contracts::Name;
use bramble_contracts::v1::DesiredApp;
use serde::{Deserialize, Serialize};

use super::app::{App, AppKey, Role};

/// Something we made, or were about to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Which container of the deployment (for a pod: the deployment's name).
    pub name: Name,
    /// What for.
    pub role: Role,
    /// Spec hash.
    pub hash: String,
    /// Boot it was made in.
    pub boot: String,
    /// Uptime when it was made.
    pub made_up_ms: u64,
    /// Podman's id, once known.
    pub id: Option<String>,
}

/// All of it, for one app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which app.
    pub key: AppKey,
    /// By nonce.
    pub instances: BTreeMap<String, Instance>,
    /// The spec that runs, or is being started. It stays in charge until a newer one is wholly prepared.
    pub current: Option<DesiredApp>,
}

impl Record {
    /// Nothing yet.
    pub fn new(key: AppKey) -> Self {
        Self { key, instances: BTreeMap::new(), current: None }
    }

    /// The spec in charge.
    pub fn current_app(&self) -> Option<App> {
        self.current.clone().map(App::new)
    }
}
