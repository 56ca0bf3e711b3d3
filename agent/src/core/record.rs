//! What the agent remembers of one app, durably: the containers it made, and the spec it last set out to run.
//!
//! A nonce is recorded before a container is made and its id after, so every container is either ours, known, or a
//! stranger's: labels alone prove nothing, because anybody can copy them.

use std::collections::BTreeMap;

use bramble_contracts::Name;
use bramble_contracts::v1::DesiredApp;
use serde::{Deserialize, Serialize};

use super::app::{App, AppKey, Role};
use super::have::Seen;

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

    /// A record to replace a damaged one: whatever carries all our labels under the very name those labels give it.
    ///
    /// That proves less than a nonce, so it is done only where there was a record; what it keeps from happening is that
    /// our own containers stand in our way as strangers for ever. Which spec is in charge is not known: the wanted one
    /// is adopted, and containers of it that run are not touched.
    pub fn rebuilt(key: AppKey, seen: &[Seen]) -> Self {
        let ours = seen.iter().filter(|seen| {
            let part = if seen.role == Role::Pod { "pod" } else { seen.name.as_str() };
            seen.hash.get(..8).is_some_and(|short| seen.podman_name == key.podman_name(part, short))
        });
        let instance = |seen: &Seen| Instance {
            name: seen.name.clone(),
            role: seen.role,
            hash: seen.hash.clone(),
            boot: seen.boot.clone(),
            made_up_ms: 0,
            id: Some(seen.id.clone()),
        };
        let instances = ours.map(|seen| (seen.nonce.clone(), instance(seen))).collect();
        Self { instances, ..Self::new(key) }
    }

    /// The spec in charge.
    pub fn current_app(&self) -> Option<App> {
        self.current.clone().map(App::new)
    }
}
