//! What is known, kept current from the store's feed; and which devices need a look.
//!
//! Decides: when waiting readers wake. Deliberately does not: judge a change; `domain::fleet` does.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError, RwLock},
    time::Duration,
};

use bramble_contracts::{id::DeviceId, subjects::Bucket, trust::TrustDocument};
use tokio::sync::{Notify, mpsc, watch};

use super::now;
use crate::{
    domain::{
        fleet::{Fleet, Touched},
        view::Lens,
    },
    store::Change,
};

/// Changes taken in under one lock.
const BATCH: usize = 512;

/// Devices that need a look.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dirty {
    /// All of them.
    pub everything: bool,
    /// These.
    pub devices: BTreeSet<DeviceId>,
}

/// What is known, shared.
pub struct Index {
    fleet: RwLock<Fleet>,
    timeout_ms: u64,
    ticks: watch::Sender<u64>,
    dirty: Mutex<Dirty>,
    wake: Notify,
}

impl Index {
    /// Nothing is known yet.
    pub fn new(trust: TrustDocument, timeout: Duration) -> Self {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Self {
            fleet: RwLock::new(Fleet::new(trust)),
            timeout_ms,
            ticks: watch::Sender::new(0),
            dirty: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Looks at what is known, now.
    pub fn look<T>(&self, see: impl FnOnce(&Lens<'_>) -> T) -> T {
        let fleet = self.fleet.read().unwrap_or_else(PoisonError::into_inner);
        see(&Lens { fleet: &fleet, now: now(), timeout_ms: self.timeout_ms })
    }

    /// Ticks with every change.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    /// May anything be written? Not while recovering, nor into a store of a newer coordinator.
    pub fn may_write(&self) -> bool {
        self.look(|lens| lens.fleet.waits_for().is_empty() && lens.fleet.foreign_format().is_none())
    }

    /// Takes in changes; returns when the feed ends.
    pub async fn follow(&self, mut feed: mpsc::Receiver<Change>) {
        let mut batch = Vec::with_capacity(BATCH);
        while feed.recv_many(&mut batch, BATCH).await > 0 {
            self.take_in(batch.drain(..));
        }
    }

    /// Takes in some changes at once.
    pub fn take_in(&self, changes: impl IntoIterator<Item = Change>) {
        let at = now();
        let mut touched = Dirty::default();
        {
            let mut fleet = self.fleet.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                match fleet.apply(change, at) {
                    Touched::Nothing => {}
                    Touched::Device(id) => drop(touched.devices.insert(id)),
                    Touched::Devices(ids) => touched.devices.extend(ids),
                    Touched::Everything => touched.everything = true,
                }
            }
        }
        self.ticks.send_modify(|tick| *tick = tick.wrapping_add(1));
        if touched != Dirty::default() {
            self.mark(touched);
        }
    }

    /// The broker says that the last connection of a device is gone.
    pub fn disconnected(&self, device: &DeviceId) {
        self.fleet.write().unwrap_or_else(PoisonError::into_inner).disconnected(device);
        self.ticks.send_modify(|tick| *tick = tick.wrapping_add(1));
    }

    /// The broker has cut off these devices, and no others.
    pub fn cut_off(&self, devices: &BTreeSet<DeviceId>) {
        self.fleet.write().unwrap_or_else(PoisonError::into_inner).cut_off(devices, now());
        self.ticks.send_modify(|tick| *tick = tick.wrapping_add(1));
    }

    /// Asks for a look at these devices.
    pub fn mark(&self, more: Dirty) {
        {
            let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
            dirty.everything |= more.everything;
            dirty.devices.extend(more.devices);
        }
        self.wake.notify_one();
    }

    /// Takes what needs a look, without waiting.
    pub fn take_dirty(&self) -> Dirty {
        std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something needs a look.
    pub async fn needs_a_look(&self) {
        self.wake.notified().await;
    }

    /// Waits until a write of ours has come back, so that readers see it. False when it did not in time.
    pub async fn has_seen(&self, bucket: Bucket, seq: u64, patience: Duration) -> bool {
        let mut ticks = self.ticks();
        let seen = async {
            while self.head(bucket) < seq {
                if ticks.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, seen).await.is_ok()
    }

    fn head(&self, bucket: Bucket) -> u64 {
        self.look(|lens| match bucket {
            Bucket::Desired => lens.fleet.desired.head(),
            Bucket::Devices => lens.fleet.devices.head(),
            Bucket::Deployments => lens.fleet.deployments.head(),
            Bucket::Tokens => lens.fleet.tokens.head(),
            Bucket::Reported => lens.fleet.reports.head(),
            Bucket::Rollouts => lens.fleet.rollouts.head(),
            Bucket::Releases => lens.fleet.releases.head(),
            Bucket::Liveness | Bucket::Jobs | Bucket::Leases | Bucket::Meta => u64::MAX,
        })
    }
}
