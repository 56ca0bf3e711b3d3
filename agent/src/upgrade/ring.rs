//! What happened to upgrades of this device's agents, in `state/upgrade.log`, for whoever has to find out later:
//! `bramble-agent replay` runs the lines through the same step again.
//!
//! Decides how much is kept. No agent reads it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::core::upgrade::{Event, Facts, Ledger, Line};

/// Of the newest file; there is one more of this size at most.
const BYTES_MAX: u64 = 128 << 10;

/// The lines of both instances: each is appended whole.
pub(super) struct Ring {
    path: PathBuf,
}

impl Ring {
    pub(super) fn of(state_dir: &Path) -> Self {
        Self { path: state_dir.join("upgrade.log") }
    }

    /// Keeps one step; that it cannot be kept hinders nothing.
    pub(super) fn keep(&self, ledger: &Ledger, event: &Event, facts: &Facts) {
        if let Err(err) = self.try_keep(ledger, event, facts) {
            tracing::debug!(%err, "an event of an upgrade is not kept");
        }
    }

    fn try_keep(&self, ledger: &Ledger, event: &Event, facts: &Facts) -> std::io::Result<()> {
        let len = fs::metadata(&self.path).map_or(0, |file| file.len());
        let is_new = len == 0 || len > BYTES_MAX;
        if len > BYTES_MAX {
            fs::rename(&self.path, self.path.with_extension("log.old"))?;
        }
        let ledger = (is_new || *event == Event::Started).then(|| ledger.clone());
        let mut line = serde_json::to_vec(&Line { ledger, facts: facts.clone(), event: event.clone() })?;
        line.push(b'\n');
        OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::v1::{AgentVersion, Instance};

    use super::*;
    use crate::core::upgrade::replay;

    #[test]
    fn it_is_bounded_and_what_is_kept_can_be_replayed() {
        let dir = tempfile::tempdir().unwrap();
        let ring = Ring::of(dir.path());
        let facts: Facts = serde_json::from_value(serde_json::json!({
            "upMs": 1, "boot": "b".repeat(1000), "own": "1.0.0", "instance": "a", "lease": "held", "links": null,
            "target": null, "wish": null, "mesh": "down", "clock": "fit", "freeBytes": 0, "floor": 0, "guard": null
        }))
        .unwrap();
        let ledger = Ledger::new(AgentVersion { major: 1, minor: 0, patch: 0 }, Instance::A);
        for _ in 0..500 {
            ring.keep(&ledger, &Event::Tick, &facts);
        }
        let files: Vec<u64> = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).collect();
        assert!(files.len() == 2 && files.iter().all(|len| *len <= BYTES_MAX + 4096), "{files:?}");
        ring.keep(&ledger, &Event::Started, &facts);
        let story = replay(&fs::read_to_string(&ring.path).unwrap()).unwrap();
        assert!(story.trim_end().ends_with("act"), "{story}");
    }
}
