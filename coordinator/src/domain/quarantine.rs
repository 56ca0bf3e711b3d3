//! Who is cut off, out of two lists that may differ: device records, and the file beside the operator's key.
//!
//! Decides: in doubt, cut off. A key leaves the list only when its device was seen to leave quarantine here.

use std::collections::{BTreeMap, BTreeSet};

use bramble_contracts::{api::DeviceState, id::DeviceId};

/// A device with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub id: DeviceId,
    /// Its nkey.
    pub key: String,
    /// As its record says.
    pub state: DeviceState,
}

/// What both lists should say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// The keys that are cut off, each with the second since when.
    pub keys: BTreeMap<String, u64>,
    /// Devices whose record has to say so.
    pub requarantine: Vec<DeviceId>,
}

/// Brings both lists together. `left`: devices that were quarantined the last time this process looked.
pub fn settle(file: &BTreeMap<String, u64>, devices: &[Known], left: &BTreeSet<DeviceId>, now_secs: u64) -> Settled {
    let mut settled = Settled { keys: file.clone(), requarantine: vec![] };
    for device in devices {
        match device.state {
            DeviceState::Quarantined | DeviceState::Decommissioned => {
                settled.keys.entry(device.key.clone()).or_insert(now_secs);
            }
            DeviceState::Pending | DeviceState::Active => {
                if !settled.keys.contains_key(&device.key) {
                    continue;
                }
                if left.contains(&device.id) {
                    settled.keys.remove(&device.key);
                } else {
                    settled.requarantine.push(device.id.clone());
                }
            }
        }
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_doubt_a_key_stays_cut_off() {
        let id = DeviceId::from_entropy([1; 13]);
        let known = |state| vec![Known { id: id.clone(), key: "UA".into(), state }];
        let file = BTreeMap::from([("UA".to_owned(), 5)]);
        let none = BTreeSet::new();
        let restored = settle(&file, &known(DeviceState::Active), &none, 9);
        assert_eq!((restored.keys.clone(), restored.requarantine), (file.clone(), vec![id.clone()]));
        let lost_file = settle(&BTreeMap::new(), &known(DeviceState::Quarantined), &none, 9);
        assert_eq!(lost_file.keys, BTreeMap::from([("UA".to_owned(), 9)]));
        let wiped = settle(&file, &[], &none, 9);
        assert_eq!(wiped.keys, file);
        let left = BTreeSet::from([id.clone()]);
        assert_eq!(settle(&file, &known(DeviceState::Active), &left, 9), Settled::default());
    }
}
