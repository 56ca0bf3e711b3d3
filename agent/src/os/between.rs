//! What the two upgrades know of each other: the agent's own and that of the operating system exclude each other.
//!
//! Each decides under one turn, and says under the same whether it is under way: neither begins behind the other's back.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, watch};

use crate::core::os::OwnUpgrade;
use crate::core::upgrade::System;

/// Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Between {
    turn: Arc<Mutex<()>>,
    own: Arc<watch::Sender<OwnUpgrade>>,
    system: Arc<watch::Sender<System>>,
}

impl Between {
    /// At the start of an agent, by what is stored.
    pub(crate) fn new(own: OwnUpgrade, system: System) -> Self {
        Self {
            turn: Arc::default(),
            own: Arc::new(watch::Sender::new(own)),
            system: Arc::new(watch::Sender::new(system)),
        }
    }

    /// Held while one decides and stores.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// The agent's own.
    pub(crate) fn own(&self) -> OwnUpgrade {
        *self.own.borrow()
    }

    /// That of the system.
    pub(crate) fn system(&self) -> System {
        *self.system.borrow()
    }

    /// Said under a turn.
    pub(crate) fn own_is(&self, own: OwnUpgrade) {
        self.own.send_if_modified(|held| std::mem::replace(held, own) != own);
    }

    /// Said under a turn.
    pub(crate) fn system_is(&self, system: System) {
        self.system.send_if_modified(|held| std::mem::replace(held, system) != system);
    }

    /// Hears of changes of the agent's own.
    pub(crate) fn hear_own(&self) -> watch::Receiver<OwnUpgrade> {
        self.own.subscribe()
    }

    /// Hears of changes of the system's.
    pub(crate) fn hear_system(&self) -> watch::Receiver<System> {
        self.system.subscribe()
    }
}
