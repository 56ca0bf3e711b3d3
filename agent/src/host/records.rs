//! Records of apps as files, one each: found again whole, or with the reason why not.

use std::collections::BTreeMap;
use std::path::Path;

use super::state::{Loaded, StateFile};
use crate::core::app::AppKey;
use crate::core::record::Record;
use crate::supervise::FoundRecord;

/// Format of an app's record on disk.
const FORMAT: u32 = 1;
const SUFFIX: &str = ".record";

/// The file of one app.
pub(super) fn file(dir: &Path, key: &AppKey) -> StateFile {
    StateFile::new(dir.join(format!("{key}{SUFFIX}")), FORMAT)
}

/// Every record in a directory.
pub(super) fn read(dir: &Path) -> Result<Vec<FoundRecord>, std::io::Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut keys = BTreeMap::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // The previous file alone still counts: a lost newest one is not "nothing".
        let stem = name.strip_suffix(".prev").unwrap_or(&name);
        if let Some(key) = stem.strip_suffix(SUFFIX).and_then(AppKey::parse) {
            keys.insert(key.clone(), file(dir, &key));
        }
    }
    let read = keys.into_iter().filter_map(|(key, file)| match file.load_json::<Record>() {
        Ok(Loaded::Good(record)) if record.key == key => Some(FoundRecord::Good(Box::new(record), None)),
        Ok(Loaded::Previous { value, why }) if value.key == key => {
            let alarm = format!("{}: {why}; the one before it is used", file.path().display());
            Some(FoundRecord::Good(Box::new(value), Some(alarm)))
        }
        Ok(Loaded::Good(_) | Loaded::Previous { .. }) => {
            Some(FoundRecord::Damaged(key, format!("{} is about another app", file.path().display())))
        }
        Ok(Loaded::Missing) => None,
        Err(err) => Some(FoundRecord::Damaged(key, super::device::text(&err))),
    });
    Ok(read.collect())
}
