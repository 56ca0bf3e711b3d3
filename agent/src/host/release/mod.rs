//! Releases as far as this device's disk and the site's own places know them: the keys it follows, the floor it keeps, and
//! where binaries come from besides the mesh.
//!
//! Decides how these become durable. Whether a release is taken is not decided here.

mod http;
mod source;

use std::path::Path;

use bramble_contracts::release::ReleaseKeys;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::state::{StateError, StateFile};

pub use source::{Open, Source, SourceError};

const FORMAT: u32 = 1;

/// The newest release keys this device has followed, as they were signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKeys {
    signed: String,
}

/// Files of releases in the state folder. The one on duty writes them.
#[derive(Debug, Clone)]
pub struct Files {
    keys: StateFile,
    floor: StateFile,
}

/// Why what was stored cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// State could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// It is whole, and no release keys.
    #[error("the stored release keys cannot be used: {0}")]
    Keys(String),
}

impl Files {
    /// Of the state in this folder.
    pub fn of(state_dir: &Path) -> Self {
        let file = |name: &str| StateFile::new(state_dir.join(name), FORMAT);
        Self { keys: file("release-keys"), floor: file("release-floor") }
    }

    /// The keys followed last; `None` when none were ever pinned. Damage is an error, never "none": a pin is for ever.
    pub fn keys(&self) -> Result<Option<ReleaseKeys>, FilesError> {
        let Some(stored) = self.keys.load_json::<StoredKeys>()?.value() else { return Ok(None) };
        let bytes = BASE64.decode(stored.signed.as_bytes()).map_err(|err| FilesError::Keys(err.to_string()))?;
        ReleaseKeys::open_stored(&bytes).map(Some).map_err(|err| FilesError::Keys(err.to_string()))
    }

    /// Keeps keys that were verified as the successor of those held, or by their pin; durable when this returns.
    pub fn keep_keys(&self, signed: &[u8]) -> Result<(), StateError> {
        self.keys.store_json(&StoredKeys { signed: BASE64.encode(signed) })
    }

    /// No release below this is taken.
    pub fn floor(&self) -> Result<u64, StateError> {
        Ok(self.floor.load_json::<u64>()?.value().unwrap_or(0))
    }

    /// Raises it; durable when this returns. It never sinks: one that is damaged is not written over.
    pub fn raise_floor(&self, floor: u64) -> Result<(), StateError> {
        if floor > self.floor()? { self.floor.store_json(&floor) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_only_rises() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::of(dir.path());
        assert_eq!((files.floor().unwrap(), files.keys().unwrap()), (0, None));
        files.raise_floor(7).unwrap();
        files.raise_floor(3).unwrap();
        assert_eq!(files.floor().unwrap(), 7);
        std::fs::write(dir.path().join("release-floor"), "rubbish").unwrap();
        std::fs::write(dir.path().join("release-keys"), "rubbish").unwrap();
        assert!(files.floor().is_err() && files.raise_floor(9).is_err() && files.keys().is_err());
    }
}
