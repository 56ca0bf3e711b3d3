//! The desired document: everything one device should run, signed as a whole. Superseded by [`crate::v3::DesiredDocument`],
//! and still what is written where that says no more.

use serde::{Deserialize, Serialize};

use super::spec::{Deployment, ImageRef};
use crate::{
    bytes::Sha256,
    envelope::{Kind, Message},
    id::{DeviceId, Generation, Name, Revision, Tenant, Uid},
    label::Labels,
};

/// What a device should run. Whole: an app that is not listed is not wanted.
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
}

/// One app of the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredApp {
    /// Of the deployment: made anew, it is another app.
    pub uid: Uid,
    /// Of the deployment.
    pub revision: Revision,
    /// The deployment, whole.
    pub deployment: Deployment,
    /// Images pinned to what the first batch proved.
    pub pins: Vec<ImagePin>,
}

/// An image pinned to a digest (for `localhost/` images, to the image's id).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImagePin {
    /// As the deployment names it.
    pub image: ImageRef,
    /// What it must be.
    pub digest: Sha256,
}

impl Message for DesiredDocument {
    const KIND: Kind = Kind::Desired;
    const VERSION: u8 = 1;
    const MAX_BYTES: usize = 512 * 1024;
}
