//! What happens before every start of an agent, by a program that is not the new one: starts without confirmation are
//! counted, and at the third the link is turned back.
//!
//! Decides which binary a start runs when the upgrade itself cannot. It never keeps an agent from starting.

use std::path::Path;

use bramble_contracts::v1::AgentVersion;
use serde::{Deserialize, Serialize};

use super::binaries::{Binaries, BinaryError, Link};
use crate::host::state::StateFile;

/// At so many starts without confirmation the one before is run again.
pub const STARTS_MAX: u32 = 3;
const FORMAT: u32 = 1;

/// How often which version was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Starts {
    version: String,
    starts: u32,
}

/// What the guard found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// The confirmed one starts.
    Confirmed,
    /// One that is not confirmed starts, so often by now.
    Unconfirmed(u32),
    /// It was turned back to the confirmed one.
    TurnedBack(AgentVersion),
    /// There is nothing to guard: no version was ever confirmed here.
    Nothing,
}

/// To be called before each start.
pub fn guard(state_dir: &Path) -> Result<Guarded, BinaryError> {
    let (binaries, file) = (Binaries::of(state_dir), file(state_dir));
    let Some(confirmed) = binaries.target(Link::Confirmed) else { return Ok(Guarded::Nothing) };
    let current = binaries.target(Link::Current);
    if current == Some(confirmed) {
        file.remove()?;
        return Ok(Guarded::Confirmed);
    }
    let starts = current.and_then(|current| count(&file, current));
    match starts {
        Some(starts) if starts < STARTS_MAX => Ok(Guarded::Unconfirmed(starts)),
        // Also when starts cannot be counted, or the link leads nowhere.
        Some(_) | None => {
            binaries.turn(Link::Current, confirmed)?;
            Ok(Guarded::TurnedBack(confirmed))
        }
    }
}

/// A new trial begins: its starts are counted from here on.
pub(super) fn file(state_dir: &Path) -> StateFile {
    StateFile::new(state_dir.join("starts"), FORMAT)
}

/// Counts one more; durable when this returns. `None` when it cannot be.
fn count(file: &StateFile, current: AgentVersion) -> Option<u32> {
    let version = current.to_string();
    let known = file.load_json::<Starts>().ok().and_then(|loaded| loaded.value());
    let before = known.filter(|known| known.version == version).map_or(0, |known| known.starts);
    let starts = before.saturating_add(1);
    match file.store_json(&Starts { version, starts }) {
        Ok(()) => Some(starts),
        Err(err) => {
            tracing::error!(%err, "starts cannot be counted");
            None
        }
    }
}

impl Binaries {
    /// Begins a trial: starts of this version are counted anew, then starts run it.
    pub fn begin_trial(&self, state_dir: &Path, version: AgentVersion) -> Result<(), BinaryError> {
        file(state_dir).remove()?;
        self.turn(Link::Current, version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(patch: u16) -> AgentVersion {
        AgentVersion { major: 1, minor: 0, patch }
    }

    fn site() -> (tempfile::TempDir, Binaries) {
        let dir = tempfile::tempdir().unwrap();
        let binaries = Binaries::of(dir.path());
        std::fs::write(dir.path().join("program"), "#!/bin/sh\n").unwrap();
        for patch in 1..=2 {
            binaries.install(&dir.path().join("program"), version(patch)).unwrap();
        }
        (dir, binaries)
    }

    #[test]
    fn the_third_start_without_confirmation_runs_the_one_before() {
        let (dir, binaries) = site();
        let guard = || guard(dir.path()).unwrap();
        assert_eq!(guard(), Guarded::Nothing);
        binaries.turn(Link::Confirmed, version(1)).unwrap();
        binaries.turn(Link::Current, version(1)).unwrap();
        for _ in 0..9 {
            assert_eq!(guard(), Guarded::Confirmed);
        }
        binaries.begin_trial(dir.path(), version(2)).unwrap();
        assert_eq!([guard(), guard()], [Guarded::Unconfirmed(1), Guarded::Unconfirmed(2)]);
        // Tried again: it is counted anew.
        binaries.begin_trial(dir.path(), version(2)).unwrap();
        assert_eq!([guard(), guard()], [Guarded::Unconfirmed(1), Guarded::Unconfirmed(2)]);
        assert_eq!(guard(), Guarded::TurnedBack(version(1)));
        assert_eq!(binaries.target(Link::Current), Some(version(1)));
        assert_eq!(guard(), Guarded::Confirmed);
        binaries.begin_trial(dir.path(), version(2)).unwrap();
        assert_eq!(guard(), Guarded::Unconfirmed(1));
        binaries.turn(Link::Confirmed, version(2)).unwrap();
        assert_eq!(guard(), Guarded::Confirmed);
    }

    #[test]
    fn a_link_to_nothing_is_turned_back() {
        let (dir, binaries) = site();
        binaries.turn(Link::Confirmed, version(1)).unwrap();
        binaries.begin_trial(dir.path(), version(2)).unwrap();
        std::fs::remove_file(binaries.path(version(2))).unwrap();
        assert_eq!(guard(dir.path()).unwrap(), Guarded::TurnedBack(version(1)));
    }
}
