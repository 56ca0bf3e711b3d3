//! The desired document, with an upgrade of the operating system.

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::OsWish;
use crate::{
    envelope::{self, DecodeError, EncodeError, Kind, Message},
    id::{DeviceId, Generation, Name, Tenant},
    label::Labels,
    signed::{self, Role},
    v1::{self, DesiredApp},
    v2::{self, AgentWish},
};

/// What a device should run. Whole: an app that is not listed is not wanted. No wish for a release or for an upgrade of the
/// operating system, however, leaves these as they are: absence never changes them.
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
    /// The upgrade its operating system should make.
    #[serde(default)]
    pub os: Option<OsWish>,
}

impl DesiredDocument {
    /// Do both say the same, whatever their generation?
    pub fn same_meaning(&self, other: &Self) -> bool {
        let Self { device, generation: _, tenant, name, labels, apps, agent, os } = self;
        (device, tenant, name, labels, apps, agent, os)
            == (&other.device, &other.tenant, &other.name, &other.labels, &other.apps, &other.agent, &other.os)
    }

    /// Signs it in the role of the fleet, in the oldest version that carries all it says: as many agents as can read it do.
    pub fn sign(&self, fleet: &SigningKey) -> Result<Vec<u8>, EncodeError> {
        match self.clone().into_v2() {
            Some(old) => old.sign(fleet),
            None => signed::sign(self, Role::Fleet, fleet),
        }
    }

    fn into_v2(self) -> Option<v2::DesiredDocument> {
        let Self { device, generation, tenant, name, labels, apps, agent, os } = self;
        os.is_none().then_some(v2::DesiredDocument { device, generation, tenant, name, labels, apps, agent })
    }
}

impl From<v2::DesiredDocument> for DesiredDocument {
    fn from(document: v2::DesiredDocument) -> Self {
        let v2::DesiredDocument { device, generation, tenant, name, labels, apps, agent } = document;
        Self { device, generation, tenant, name, labels, apps, agent, os: None }
    }
}

impl From<v1::DesiredDocument> for DesiredDocument {
    fn from(document: v1::DesiredDocument) -> Self {
        v2::DesiredDocument::from(document).into()
    }
}

impl Message for DesiredDocument {
    const KIND: Kind = Kind::Desired;
    const VERSION: u8 = super::NEWEST_DOCUMENT;
    const MAX_BYTES: usize = v1::DesiredDocument::MAX_BYTES;

    fn older(version: u8, body: &[u8]) -> Option<Result<Self, DecodeError>> {
        match version {
            v2::DesiredDocument::VERSION => Some(envelope::contents::<v2::DesiredDocument>(body).map(Self::from)),
            _ => Some(v2::DesiredDocument::older(version, body)?.map(Self::from)),
        }
    }
}
