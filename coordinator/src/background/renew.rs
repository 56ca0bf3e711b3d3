//! Answers devices that ask for a new JWT for the same key, and for newer trust documents.
//!
//! Decides: who gets a JWT, by the store itself. Deliberately does not: authenticate; the broker has, by the subject.

use std::sync::Arc;

use bramble_contracts::{
    api::DeviceState,
    id::DeviceId,
    subjects::{Bucket, Up},
    v1::RenewReply,
};

use super::Core;
use crate::{
    domain::{
        lifecycle,
        record::{self, DeviceRecord},
    },
    mesh::Answerer,
};

/// What the mesh asks for every question of a device.
pub fn answerer(core: &Arc<Core>) -> Answerer {
    let core = Arc::clone(core);
    Arc::new(move |device, up, request| {
        let core = Arc::clone(&core);
        Box::pin(async move { reply(&core, &device, up, request.trust_version).await })
    })
}

/// The answer to one question.
pub async fn reply(core: &Core, device: &DeviceId, up: Up, trust_version: u64) -> RenewReply {
    let trust = core.keys.trust_chain_after(trust_version);
    let jwt = match up {
        Up::Trust => Ok(None),
        Up::Renew => jwt(core, device).await.map(Some),
    };
    match jwt {
        Ok(jwt) => RenewReply { jwt, trust, refused: None },
        Err(why) => {
            tracing::warn!(%device, why, "refused a device a new JWT");
            RenewReply { jwt: None, trust, refused: Some(why) }
        }
    }
}

async fn jwt(core: &Core, device: &DeviceId) -> Result<String, String> {
    let entry = core.store.get(Bucket::Devices, device.as_str()).await.map_err(|err| err.to_string())?;
    let entry = entry.ok_or("the store has no record of this device: see `bramble resume`")?;
    let record: DeviceRecord = record::decode(&entry.bytes).map_err(|err| err.to_string())?;
    issue(core, &record)
}

/// A JWT for a device that may have one.
pub(crate) fn issue(core: &Core, record: &DeviceRecord) -> Result<String, String> {
    match record.state {
        DeviceState::Active => {}
        DeviceState::Pending | DeviceState::Quarantined | DeviceState::Decommissioned => {
            return Err(format!("the device is {}", lifecycle::word(record.state)));
        }
    }
    let key = record.public_key.as_deref().ok_or("the device's key is not known any more: enrol it again")?;
    core.keys.device_jwt(&record.id, key, core.times.device_jwt).map_err(|err| err.to_string())
}
