//! What every part of the mesh shares: who the device is, whom it trusts, and how often it does what.
//!
//! Decides nothing.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bramble_contracts::v1::Instance;
use bramble_contracts::{DeviceId, SessionId};

use tokio::sync::watch;

use super::StartError;
use super::board::Board;
use super::duty::Pen;
use super::http::Base;
use super::identity::{DeviceKey, Identity, Received, Span, identity_file};
use super::refusals::Refusals;
use super::trust::Trust;
use crate::host::state::StateError;

/// How often the agent does what, and where its state lies.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where state lies.
    pub state_dir: PathBuf,
    /// Of the coordinator, as configured.
    pub coordinator: Base,
    /// Which of the two agents this is.
    pub instance: Instance,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// Between reports when nothing changes.
    pub report: Duration,
    /// Between reads of the desired document when nothing is pushed.
    pub desired: Duration,
    /// NTP servers that are asked for the time; none may be.
    pub ntp: Vec<String>,
}

/// Says when everything is to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop(pub(crate) watch::Receiver<bool>);

impl Stop {
    /// Waits for it; also for whoever could say so being gone.
    pub(crate) async fn asked(&mut self) {
        if self.0.wait_for(|stop| *stop).await.is_err() {
            tracing::debug!("the agent was dropped");
        }
    }
}

pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) device: DeviceId,
    pub(crate) session: SessionId,
    pub(crate) key: DeviceKey,
    pub(crate) trust: Trust,
    pub(crate) board: Board,
    pub(crate) refusals: Refusals,
    pub(crate) pen: Pen,
    pub(crate) identity: Mutex<Identity>,
}

impl Context {
    pub(crate) fn jwt(&self) -> (String, Received) {
        let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        (identity.jwt.clone(), identity.received.clone())
    }

    /// Keeps a new JWT; durable when this returns, unless another agent acts, which keeps one of its own.
    pub(crate) fn keep_jwt(&self, jwt: String) -> Result<(), StateError> {
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Identity { jwt, received: Received::now(), ..identity.clone() };
        if self.pen.is_ours() {
            identity_file(&self.settings.state_dir).store_json(&next)?;
        }
        *identity = next;
        Ok(())
    }

    /// Before it acts: takes over what another agent has stored since this one read it. The newer JWT counts.
    pub(crate) fn catch_up(&self) -> Result<(), StartError> {
        let file = identity_file(&self.settings.state_dir);
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stored) = file.load_json::<Identity>()?.value() {
            let made = |jwt: &str| Span::of(jwt).as_ref().map(Span::issued);
            if made(&stored.jwt) >= made(&identity.jwt) {
                *identity = stored;
            } else {
                file.store_json(&*identity)?;
            }
        }
        drop(identity);
        self.trust.reload()?;
        Ok(self.refusals.reload()?)
    }
}
