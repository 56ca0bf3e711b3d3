//! The agent's own files: is each whole by its checksum, and does each app's record say what it should?
//!
//! Decides which files are state: those with our head line, those that have one before them, and those we know by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Answer, failed, look, ok};
use crate::config::Config;
use crate::host::device::Places;
use crate::host::records;
use crate::host::state::{Loaded, StateFile, is_state};
use crate::supervise::FoundRecord;

const KNOWN: [&str; 9] = [
    "keys/device",
    "keys/identity",
    "keys/trust",
    "desired",
    "generation",
    "refusals",
    "upgrade.json",
    "release-keys",
    "release-floor",
];

pub(super) fn files(config: &Config) -> impl FnOnce() -> Answer + Send + 'static {
    let (state, records) = (config.state_dir.clone(), Places::below(&config.apps_dir).records);
    move || judge(&state, &records)
}

fn judge(state: &Path, records_dir: &Path) -> Answer {
    if !state.exists() {
        return look(format!("are none: {} is not there, so no agent has run here", state.display()));
    }
    let mut found = Findings::default();
    for path in state_files(state) {
        found.note(StateFile::new(&path, u32::MAX).load().map_err(|err| told(&err)), &path);
    }
    match records::read(records_dir) {
        Ok(all) => all.into_iter().for_each(|record| found.record(record)),
        Err(err) => found.bad.push(format!("{} cannot be read: {err}", records_dir.display())),
    }
    let Findings { whole, old, bad } = found;
    match (bad.as_slice(), old.as_slice()) {
        ([], []) => ok(format!("are whole: {whole} of them")),
        ([], old) => look(format!("are usable, and the one before it is used for {}", old.join("; "))),
        (bad, _) => failed(format!("are damaged: {}", bad.join("; "))),
    }
}

/// An error with its causes.
fn told(err: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(err.source(), |err| err.source());
    causes.fold(err.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[derive(Default)]
struct Findings {
    whole: usize,
    old: Vec<String>,
    bad: Vec<String>,
}

impl Findings {
    fn note(&mut self, loaded: Result<Loaded<Vec<u8>>, String>, path: &Path) {
        match loaded {
            Ok(Loaded::Good(_)) => self.whole += 1,
            Ok(Loaded::Missing) => {}
            Ok(Loaded::Previous { why, .. }) => self.old.push(format!("{} ({why})", path.display())),
            Err(why) => self.bad.push(why),
        }
    }

    fn record(&mut self, record: FoundRecord) {
        match record {
            FoundRecord::Good(_, None) => self.whole += 1,
            FoundRecord::Good(_, Some(why)) => self.old.push(why),
            FoundRecord::Damaged(_, why) | FoundRecord::Unusable(_, why) | FoundRecord::Unread(_, why) => {
                self.bad.push(why);
            }
        }
    }
}

fn state_files(state: &Path) -> BTreeSet<PathBuf> {
    let mut found: BTreeSet<PathBuf> = KNOWN.iter().map(|name| state.join(name)).collect();
    for dir in [state.to_owned(), state.join("keys")] {
        // What cannot be listed is missed by name above: reading it says why.
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.strip_suffix(".prev") {
                Some(newest) => drop(found.insert(path.with_file_name(newest))),
                None if name.ends_with(".new") || name.ends_with(".link") => {}
                None if path.is_file() && is_state(&path) => drop(found.insert(path)),
                None => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use bramble_contracts::smoke::CheckState;

    use super::*;

    #[test]
    fn every_kind_of_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (state, records) = (dir.path().join("state"), dir.path().join("records"));
        assert_eq!(judge(&state, &records).0, CheckState::Look);
        let file = |name: &str| StateFile::new(state.join(name), 1);
        for name in ["keys/device", "keys/identity", "desired", "made-later"] {
            file(name).store(b"one").unwrap();
            file(name).store(b"two").unwrap();
        }
        std::fs::write(state.join("acting.lock"), "").unwrap();
        std::fs::write(state.join("token"), "bramble1.a.b").unwrap();
        assert_eq!(judge(&state, &records), ok("are whole: 4 of them"));

        std::fs::write(state.join("made-later"), "rubbish").unwrap();
        let (verdict, words) = judge(&state, &records);
        assert!(verdict == CheckState::Look && words.contains("made-later (it has no head line)"), "{words}");

        std::fs::write(state.join("keys/identity"), "rubbish").unwrap();
        std::fs::remove_file(state.join("keys/identity.prev")).unwrap();
        std::fs::create_dir_all(&records).unwrap();
        std::fs::write(records.join("default.web.record"), "rubbish").unwrap();
        let (verdict, words) = judge(&state, &records);
        assert_eq!(verdict, CheckState::Failed);
        assert!(words.contains("keys/identity is damaged") && words.contains("default.web.record"), "{words}");
    }
}
