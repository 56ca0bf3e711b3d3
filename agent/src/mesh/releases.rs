//! Questions about releases, over the mesh: one answer each, within a bound.
//!
//! Decides nothing about what is asked or what an answer is worth; timestamps are opened here, because trust is.

use std::sync::Arc;

use async_nats::Client;
use bramble_contracts::bytes::Sha256;
use bramble_contracts::release::{ReleaseAnswer, ReleaseAsk, ReleaseTimestamp, TimestampError};
use bramble_contracts::signed::VerifyError;
use bramble_contracts::subjects::Up;
use bramble_contracts::envelope;
use tokio::sync::watch;

use super::context::Context;
use super::{Mesh, renew};

/// Nobody answers, in words. It says nothing of a release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(pub String);

/// The way to the coordinator's releases.
#[derive(Clone)]
pub struct Releases(pub(super) watch::Receiver<Option<Arc<Mesh>>>);

impl Releases {
    /// Asks on `up.<id>.release`.
    pub async fn ask(&self, ask: &ReleaseAsk) -> Result<ReleaseAnswer, Unreachable> {
        let (context, client) = self.way()?;
        let fail = |err: &dyn std::fmt::Display| Unreachable(format!("the coordinator was asked for releases: {err}"));
        let bytes = envelope::encode(ask).map_err(|err| fail(&err))?;
        let answer = client.request(Up::Release.subject(&context.device), bytes.into()).await;
        envelope::decode(&answer.map_err(|err| fail(&err))?.payload).map_err(|err| fail(&err))
    }

    /// Opens a timestamp for a manifest at that time. A key that is not known may be a new one: then trust is asked for.
    pub async fn open(&self, stamp: &[u8], manifest: &Sha256, now_ms: u64) -> Result<ReleaseTimestamp, TimestampError> {
        let way = self.way();
        let Ok((context, client)) = way else {
            return ReleaseTimestamp::open(stamp, manifest, now_ms, |_, _| None);
        };
        let open = || ReleaseTimestamp::open(stamp, manifest, now_ms, |role, id| context.trust.key(role, id));
        match open() {
            Err(TimestampError::Signature(VerifyError::UnknownKey { .. })) => {
                if let Err(why) = renew::trust_over_mesh(&context, &client).await {
                    tracing::info!(%why, "no newer trust document");
                }
                open()
            }
            opened => opened,
        }
    }

    fn way(&self) -> Result<(Arc<Context>, Client), Unreachable> {
        let mesh = self.0.borrow().clone().ok_or_else(|| Unreachable("this device is not enrolled".into()))?;
        let link = mesh.link.borrow().clone();
        let client = link.client.filter(|_| link.connected);
        Ok((mesh.context.clone(), client.ok_or_else(|| Unreachable("the broker does not answer".into()))?))
    }
}
