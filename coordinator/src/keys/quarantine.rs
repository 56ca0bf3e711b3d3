//! The file beside the operator key that says which device keys are cut off.
//!
//! Decides: what is believed when the file is missing or damaged (nothing: every device must renew).
//! Deliberately does not: push the list to a broker; `mesh::accounts` does.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    accounts::Quarantined,
    files::{self, FileError},
};

/// Its name in the keys folder.
pub(super) const FILE: &str = "quarantined.json";

#[derive(Serialize, Deserialize)]
#[serde(tag = "format", deny_unknown_fields)]
enum OnDisk {
    #[serde(rename = "1")]
    V1 {
        /// Public nkey to the second since when.
        keys: BTreeMap<String, u64>,
    },
}

pub(super) fn bytes(keys: &BTreeMap<String, u64>) -> Vec<u8> {
    serde_json::to_vec_pretty(&OnDisk::V1 { keys: keys.clone() }).expect("invariant: a map of texts is JSON")
}

pub(super) fn load(dir: &Path, now: u64) -> Quarantined {
    let read = files::read(&dir.join(FILE)).map_err(|err| format!("{err}: {}", err.err));
    let parsed = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|err| err.to_string()));
    match parsed {
        Ok(OnDisk::V1 { keys }) => Quarantined::Known(keys),
        Err(why) => {
            tracing::error!(
                why,
                "the list of quarantined devices is lost: every device must renew before it may connect"
            );
            Quarantined::Unreadable { since: now }
        }
    }
}

pub(super) fn store(dir: &Path, keys: &BTreeMap<String, u64>) -> Result<(), FileError> {
    files::replace(&dir.join(FILE), &bytes(keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_never_an_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path(), 5), Quarantined::Unreadable { since: 5 });
        let keys = BTreeMap::from([("UA".to_owned(), 3)]);
        store(dir.path(), &keys).unwrap();
        assert_eq!(load(dir.path(), 5), Quarantined::Known(keys));
        for bad in ["", "{}", r#"{"format":"2","keys":{}}"#, r#"{"format":"1","keys":{},"more":1}"#] {
            std::fs::write(dir.path().join(FILE), bad).unwrap();
            assert_eq!(load(dir.path(), 6), Quarantined::Unreadable { since: 6 }, "{bad}");
        }
    }
}
