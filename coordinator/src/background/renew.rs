//! Answers devices that ask for a new JWT for the same key, for newer trust documents, for the time, and for releases.
//!
//! Decides: who gets a JWT, by the store itself. Deliberately does not: authenticate; the broker has, by the subject.

use std::sync::Arc;

use bramble_contracts::{api::DeviceState, envelope, id::DeviceId, subjects::Bucket, v1::RenewReply};

use super::{Core, releases};
use crate::{
    domain::{
        lifecycle,
        record::{self, DeviceRecord},
    },
    mesh::{Answerer, Question},
};

/// What the mesh asks for every question of a device.
pub fn answerer(core: &Arc<Core>) -> Answerer {
    let (core, counter) = (Arc::clone(core), Arc::new(releases::Counter::default()));
    Arc::new(move |device, question| {
        let (core, counter) = (Arc::clone(&core), Arc::clone(&counter));
        Box::pin(async move {
            match question {
                Question::Renew(request) => {
                    let jwt = jwt(&core, &device).await.map(Some);
                    envelope::encode(&reply(&core, &device, jwt, request.trust_version))
                }
                Question::Trust(request) => envelope::encode(&reply(&core, &device, Ok(None), request.trust_version)),
                // Whoever may ask at all may know the time: nothing else is given away by it.
                Question::Time(request) => core.keys.sign_time(device, request.nonce),
                Question::Release(ask) => releases::answer(&core, &counter, &device, ask).await,
            }
        })
    })
}

fn reply(core: &Core, device: &DeviceId, jwt: Result<Option<String>, String>, trust_version: u64) -> RenewReply {
    let trust = core.keys.trust_chain_after(trust_version);
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
