//! Questions about releases, over the mesh: one answer each, within a bound.
//!
//! Decides nothing about what is asked or what an answer is worth.

use std::sync::Arc;

use async_nats::Client;
use bramble_contracts::bytes::{KeyId, PublicKey};
use bramble_contracts::envelope;
use bramble_contracts::release::{ReleaseAnswer, ReleaseAsk};
use bramble_contracts::signed::Role;
use bramble_contracts::subjects::Up;
use bramble_contracts::v1::RefusalKind;
use tokio::sync::watch;

use super::context::Context;
use super::refusals::Bad;
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

    /// The public key of that id, if it may sign in that role.
    pub fn trusted(&self, role: Role, id: &KeyId) -> Option<PublicKey> {
        self.0.borrow().as_ref().and_then(|mesh| mesh.context.trust.key(role, id))
    }

    /// Asks for a successor of the trust document; that there is none is told by what is refused then.
    pub async fn ask_trust(&self) {
        let Ok((context, client)) = self.way() else { return };
        if let Err(why) = renew::trust_over_mesh(&context, &client).await {
            tracing::info!(%why, "no newer trust document");
        }
    }

    /// Refuses something that came, so that operators hear of it.
    pub fn refuse(&self, kind: RefusalKind, why: &str) {
        if let Some(mesh) = &*self.0.borrow() {
            mesh.context.refusals.add(&Bad { kind, detail: why.to_owned(), generation: None });
        }
    }

    fn way(&self) -> Result<(Arc<Context>, Client), Unreachable> {
        let mesh = self.0.borrow().clone().ok_or_else(|| Unreachable("this device is not enrolled".into()))?;
        let link = mesh.link.borrow().clone();
        let client = link.client.filter(|_| link.connected);
        Ok((mesh.context.clone(), client.ok_or_else(|| Unreachable("the broker does not answer".into()))?))
    }
}
