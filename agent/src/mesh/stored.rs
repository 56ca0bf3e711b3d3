//! The desired document on disk, and beside it the highest generation that was ever accepted.
//!
//! Decides what is left when files are damaged: the document before, or none, but never a lower floor than is known.
//! Does not decide what is done with it.

use std::path::Path;

use bramble_contracts::bytes::{Fixed, PublicKey, key_id};
use bramble_contracts::signed::{self, Role};
use bramble_contracts::v3::DesiredDocument;
use bramble_contracts::{DeviceId, Generation};
use serde::{Deserialize, Serialize};

use super::context::Context;
use crate::host::state::{Loaded, StateError, StateFile};

/// The document: the key that verified it, then the signed bytes as they came.
///
/// The key lies beside it so that a document accepted before a key rotation still counts after a cold boot. The floor
/// is a file of its own so that damage to the document does not let an older signed one in.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    document: StateFile,
    floor: StateFile,
    /// What was acted on when changes ceased to be: there only as long as that is so.
    held: StateFile,
}

/// No document of a lower generation is accepted by this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Floor {
    device: DeviceId,
    generation: Generation,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The newest document that can be used.
    pub(crate) document: Option<DesiredDocument>,
    /// The highest generation that was ever accepted, as far as is known.
    pub(crate) floor: Generation,
    /// What people should know of it.
    pub(crate) alarm: Option<String>,
    /// A newer document than this was accepted and is lost.
    pub(crate) damaged: bool,
}

impl Stored {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            document: StateFile::new(state_dir.join("desired"), 1),
            floor: StateFile::new(state_dir.join("generation"), 1),
            held: StateFile::new(state_dir.join("desired-held"), 1),
        }
    }

    pub(crate) fn store(&self, key: PublicKey, bytes: &[u8]) -> Result<(), StateError> {
        self.document.store(&[key.0.as_slice(), bytes].concat())
    }

    /// Notes that a document of this generation was accepted; after the document, so that only damage sets them apart.
    pub(crate) fn raise(&self, device: DeviceId, generation: Generation) -> Result<(), StateError> {
        let floor = Floor { device, generation };
        match self.floor.load_json::<Floor>() {
            Ok(Loaded::Good(known)) if known.device == floor.device && known.generation >= generation => Ok(()),
            Ok(Loaded::Good(_) | Loaded::Previous { .. } | Loaded::Missing) | Err(_) => self.floor.store_json(&floor),
        }
    }

    /// Keeps a copy of the document for as long as newer ones are not acted on.
    pub(crate) fn hold(&self) -> Result<(), StateError> {
        match self.document.load()?.value() {
            Some(body) => self.held.store(&body),
            None => self.release(),
        }
    }

    /// Newer ones are acted on again.
    pub(crate) fn release(&self) -> Result<(), StateError> {
        if self.held.path().exists() { self.held.remove() } else { Ok(()) }
    }

    /// The copy. One that is damaged is none: the newest is acted on then.
    pub(crate) fn held(&self, device: &DeviceId) -> Option<DesiredDocument> {
        match self.held.load() {
            Ok(Loaded::Good(body)) => open(&body, device).ok().map(|(document, _)| document),
            Ok(Loaded::Missing | Loaded::Previous { .. }) | Err(_) => None,
        }
    }

    /// The signed bytes, as they came.
    pub(crate) fn signed(&self) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.document.load()?.value().and_then(|body| body.get(32..).map(<[u8]>::to_vec)))
    }

    /// Verifies what is stored, and writes nothing. Damage and a key that is not known any more are no reason not to act,
    /// and none not to be told.
    pub(crate) fn verified(
        &self,
        device: &DeviceId,
        known: impl Fn(&PublicKey) -> bool,
    ) -> Result<Option<DesiredDocument>, String> {
        let Kept { document, alarm, .. } = self.read(device, known);
        match (document, alarm) {
            (None, Some(alarm)) => Err(alarm),
            (document, _) => Ok(document),
        }
    }

    /// Verifies what is stored.
    pub(crate) fn load(&self, context: &Context) -> Kept {
        let known = |key: &PublicKey| context.trust.key(Role::Fleet, &key_id(key)).is_some();
        let kept = self.read(&context.device, known);
        if !kept.damaged
            && let Some(document) = &kept.document
            && let Err(err) = self.raise(context.device.clone(), document.generation)
        {
            tracing::warn!(%err, "the generation of the desired document cannot be noted");
        }
        kept
    }

    fn read(&self, device: &DeviceId, known: impl Fn(&PublicKey) -> bool) -> Kept {
        let (floor, floor_alarm) = match self.floor.load_json::<Floor>() {
            Ok(loaded) => (loaded.value().filter(|floor| floor.device == *device), None),
            Err(err) => (None, Some(err.to_string())),
        };
        let floor = floor.map(|floor| floor.generation).unwrap_or_default();
        let nothing = |why: String| Kept { floor, alarm: Some(why), damaged: true, ..Kept::default() };
        let (body, fallback) = match self.document.load() {
            Ok(Loaded::Missing) if floor == Generation::default() => {
                return Kept { alarm: floor_alarm, ..Kept::default() };
            }
            Ok(Loaded::Missing) => {
                return nothing(format!(
                    "the stored desired document of generation {floor} is gone; nothing is changed until a new one comes"
                ));
            }
            Ok(Loaded::Good(body)) => (body, None),
            Ok(Loaded::Previous { value, why }) => (value, Some(why)),
            Err(err) => return nothing(err.to_string()),
        };
        let (document, key) = match open(&body, device) {
            Ok(opened) => opened,
            Err(why) => return nothing(why),
        };
        let generation = document.generation;
        let lost = fallback.or_else(|| (generation < floor).then(|| format!("generation {floor} was accepted since")));
        let damaged = lost.is_some();
        let lost = lost.map(|why| {
            format!(
                "the newest stored desired document is lost ({why}); generation {generation} is acted on, and nothing is removed until a document comes from the network"
            )
        });
        let old = "the stored desired document was signed by a fleet key that is no longer trusted";
        let old = (!known(&key)).then(|| old.to_owned());
        Kept { document: Some(document), floor: floor.max(generation), alarm: lost.or(old).or(floor_alarm), damaged }
    }
}

fn open(body: &[u8], device: &DeviceId) -> Result<(DesiredDocument, PublicKey), String> {
    let Some((head, bytes)) = body.split_first_chunk::<32>() else {
        return Err("the stored desired document is too short; nothing is changed until a new one".into());
    };
    let key: PublicKey = Fixed(*head);
    match signed::open::<DesiredDocument>(bytes, Role::Fleet, |_, id| (key_id(&key) == *id).then_some(key)) {
        Ok(document) if document.device == *device => Ok((document, key)),
        Ok(document) => Err(format!("the stored desired document is for device {}", document.device)),
        Err(err) => Err(format!("the stored desired document is not usable: {err}")),
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::Tenant;
    use bramble_contracts::signed::{public_key, sign};
    use ed25519_dalek::SigningKey;

    use super::*;

    fn device() -> DeviceId {
        DeviceId::from_entropy([1; 13])
    }

    /// A state directory that accepted generations 1 to `last`.
    fn accepted(last: u64) -> (tempfile::TempDir, Stored) {
        let dir = tempfile::tempdir().unwrap();
        let (stored, key) = (Stored::new(dir.path()), SigningKey::from_bytes(&[7; 32]));
        for generation in (1..=last).map(Generation) {
            let document = DesiredDocument {
                device: device(),
                generation,
                tenant: Tenant::default(),
                name: "pi".parse().unwrap(),
                labels: Default::default(),
                apps: vec![],
                agent: None,
                os: None,
            };
            stored.store(public_key(&key), &sign(&document, Role::Fleet, &key).unwrap()).unwrap();
            stored.raise(device(), generation).unwrap();
        }
        (dir, stored)
    }

    fn found(stored: &Stored) -> (u64, u64, bool, bool) {
        let kept = stored.read(&device(), |_| true);
        let generation = kept.document.map_or(0, |document| document.generation.0);
        (generation, kept.floor.0, kept.damaged, kept.alarm.is_some())
    }

    #[test]
    fn damage_is_told_and_keeps_the_floor() {
        let (dir, stored) = accepted(3);
        let path = |name: &str| dir.path().join(name);
        assert_eq!(found(&stored), (3, 3, false, false));
        std::fs::write(path("desired"), "rubbish").unwrap();
        assert_eq!(found(&stored), (2, 3, true, true), "the one before");
        std::fs::copy(path("desired.prev"), path("desired")).unwrap();
        assert_eq!(found(&stored), (2, 3, true, true), "put back by hand or from a backup");
        std::fs::write(path("desired"), "rubbish").unwrap();
        std::fs::write(path("desired.prev"), "rubbish").unwrap();
        assert_eq!(found(&stored), (0, 3, true, true), "both");
        std::fs::remove_file(path("desired")).unwrap();
        std::fs::remove_file(path("desired.prev")).unwrap();
        assert_eq!(found(&stored), (0, 3, true, true), "gone");
    }

    #[test]
    fn a_damaged_floor_is_told_and_never_lies_below_the_document() {
        let (dir, stored) = accepted(3);
        std::fs::write(dir.path().join("generation"), "rubbish").unwrap();
        assert_eq!(found(&stored), (3, 3, false, false), "the one before it helps");
        std::fs::write(dir.path().join("generation.prev"), "rubbish").unwrap();
        assert_eq!(found(&stored), (3, 3, false, true));
        stored.raise(device(), Generation(3)).unwrap();
        assert_eq!(found(&stored), (3, 3, false, false));
    }

    #[test]
    fn a_copy_is_kept_until_it_is_released() {
        let (dir, stored) = accepted(3);
        assert_eq!(stored.held(&device()), None);
        stored.release().unwrap();
        stored.hold().unwrap();
        let newer = accepted(5).0;
        std::fs::copy(newer.path().join("desired"), dir.path().join("desired")).unwrap();
        let of = |document: Option<DesiredDocument>| document.map(|document| document.generation.0);
        assert_eq!((of(stored.held(&device())), found(&stored).0), (Some(3), 5));
        assert_eq!(stored.held(&DeviceId::from_entropy([2; 13])), None);
        stored.hold().unwrap();
        assert_eq!(of(stored.held(&device())), Some(5), "another upgrade");
        std::fs::write(dir.path().join("desired-held"), "rubbish").unwrap();
        assert_eq!(stored.held(&device()), None, "the one before is of another upgrade");
        stored.release().unwrap();
        assert_eq!(stored.held(&device()), None);
    }

    #[test]
    fn a_floor_is_of_one_device_and_never_sinks() {
        let (_dir, stored) = accepted(3);
        stored.raise(device(), Generation(2)).unwrap();
        assert_eq!(found(&stored), (3, 3, false, false));
        let other = DeviceId::from_entropy([2; 13]);
        assert_eq!(stored.read(&other, |_| true).floor, Generation(0));
    }
}
