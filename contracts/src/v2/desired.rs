//! The desired document, with the release of the agent that a device is to run. Superseded by
//! [`crate::v3::DesiredDocument`].

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::{
    bytes::Sha256,
    envelope::{self, DecodeError, EncodeError, Kind, Message},
    id::{DeviceId, Generation, Name, Tenant},
    label::Labels,
    signed::{self, Role},
    v1::{self, AgentVersion, DesiredApp},
};

/// What a device should run. Whole: an app that is not listed is not wanted. No wish for a release, however, leaves the
/// agent as it is: absence never changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredDocument {
    /// For this device and no other.
    pub device: DeviceId,
    /// Only grows.
    pub generation: Generation,
    /// The device's tenant, name and labels, so that a store can be rebuilt from documents.
    pub tenant: Tenant,
    /// See `tenant`.
    pub name: Name,
    /// See `tenant`.
    pub labels: Labels,
    /// Sorted by tenant and name of the deployment.
    pub apps: Vec<DesiredApp>,
    /// The release its agent should become.
    #[serde(default)]
    pub agent: Option<AgentWish>,
}

/// A release that a device's agent should become. It says which one; that it is genuine is for the release keys to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentWish {
    /// As people say it.
    pub version: AgentVersion,
    /// Of the release.
    pub release_seq: u64,
    /// The digest of the signed manifest, whole.
    pub manifest: Sha256,
    /// The digest of version 1 of the release keys: pinned by a device that has none yet, and ignored by one that has.
    pub keys_pin: Sha256,
    /// From 1. One more is an operator's retry: a release that failed at this attempt is refused, and tried at the next.
    pub attempt: u32,
}

impl DesiredDocument {
    /// Signs it in the role of the fleet, in the oldest version that carries all it says: as many agents as can read it do.
    pub fn sign(&self, fleet: &SigningKey) -> Result<Vec<u8>, EncodeError> {
        match self.clone().into_v1() {
            Some(old) => signed::sign(&old, Role::Fleet, fleet),
            None => signed::sign(self, Role::Fleet, fleet),
        }
    }

    fn into_v1(self) -> Option<v1::DesiredDocument> {
        let Self { device, generation, tenant, name, labels, apps, agent } = self;
        agent.is_none().then_some(v1::DesiredDocument { device, generation, tenant, name, labels, apps })
    }
}

impl From<v1::DesiredDocument> for DesiredDocument {
    fn from(document: v1::DesiredDocument) -> Self {
        let v1::DesiredDocument { device, generation, tenant, name, labels, apps } = document;
        Self { device, generation, tenant, name, labels, apps, agent: None }
    }
}

impl Message for DesiredDocument {
    const KIND: Kind = Kind::Desired;
    const VERSION: u8 = 2;
    const MAX_BYTES: usize = v1::DesiredDocument::MAX_BYTES;

    fn older(version: u8, body: &[u8]) -> Option<Result<Self, DecodeError>> {
        (version == v1::DesiredDocument::VERSION)
            .then(|| envelope::contents::<v1::DesiredDocument>(body).map(Self::from))
    }
}
