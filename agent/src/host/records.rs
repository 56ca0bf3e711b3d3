//! Records of apps as files, one each: found again whole, or with the reason why not.

use std::collections::BTreeMap;
use std::path::Path;

use super::state::{Loaded, StateError, StateFile};
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

/// Is there one of this app, in whatever state?
pub(super) fn exists(dir: &Path, key: &AppKey) -> bool {
    let path = file(dir, key).path().to_owned();
    let before = path.with_added_extension("prev");
    path.exists() || before.exists()
}

/// Every record in a directory.
pub(crate) fn read(dir: &Path) -> Result<Vec<FoundRecord>, std::io::Error> {
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
            Some(FoundRecord::Unusable(key, format!("{} is about another app", file.path().display())))
        }
        // Its directory entry was there a moment ago; a look that finds it gone ends that.
        Ok(Loaded::Missing) => None,
        Err(err) => Some(failed(key, &err)),
    });
    Ok(read.collect())
}

/// What the disk refuses now it may give later; what is damaged stays so.
fn failed(key: AppKey, err: &StateError) -> FoundRecord {
    let why = super::device::text(err);
    match err {
        StateError::Io { .. } => FoundRecord::Unread(key, why),
        StateError::Damaged { .. } => FoundRecord::Damaged(key, why),
        StateError::TooNew { .. } | StateError::Meaning { .. } => FoundRecord::Unusable(key, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(dir: &Path) -> FoundRecord {
        let mut found = read(dir).unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    #[test]
    fn what_may_pass_and_what_will_not_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let key = AppKey::parse("default.web").unwrap();
        let record = file(dir.path(), &key);
        record.store_json(&Record::new(key.clone())).unwrap();
        assert!(matches!(found(dir.path()), FoundRecord::Good(_, None)));
        std::fs::write(record.path(), "rubbish").unwrap();
        assert!(matches!(found(dir.path()), FoundRecord::Damaged(..)));
        StateFile::new(record.path(), FORMAT + 1).store(b"{}").unwrap();
        assert!(matches!(found(dir.path()), FoundRecord::Unusable(..)));
        record.remove().unwrap();
        // Reading a directory fails as a bad sector does: with an error that is not "there is none".
        std::fs::create_dir(record.path()).unwrap();
        assert!(matches!(found(dir.path()), FoundRecord::Unread(..)));
    }
}
