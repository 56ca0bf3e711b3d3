//! What happens before every start of an agent, by a program that is not the new one: `core::upgrade::guard` counts, and
//! this reads, keeps and turns.
//!
//! Decides nothing, and never keeps an agent from starting: what cannot be counted is turned back.

use std::path::Path;

use bramble_contracts::v1::{AgentVersion, Instance};

use super::binaries::{Binaries, BinaryError, Link};
use crate::core::upgrade::{self, Bounds, Ledger, LedgerFile, Links, Starts, Verdict};
use crate::host::facts;
use crate::host::state::StateFile;

const FORMAT: u32 = 1;

/// What the guard found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// What `current` names starts.
    Starts,
    /// `current` names this version again.
    TurnedBack(AgentVersion),
}

/// Where upgrades are remembered.
pub fn ledger_file(state_dir: &Path) -> StateFile {
    StateFile::new(state_dir.join("upgrade.json"), FORMAT)
}

fn starts_file(state_dir: &Path) -> StateFile {
    StateFile::new(state_dir.join("starts"), FORMAT)
}

/// What was counted; nothing where that cannot be read.
pub fn starts(state_dir: &Path) -> Starts {
    starts_file(state_dir).load_json().ok().and_then(|loaded| loaded.value()).unwrap_or_default()
}

/// To be called before each start.
pub fn guard(state_dir: &Path, instance: Instance, bounds: &Bounds) -> Result<Guarded, BinaryError> {
    let binaries = Binaries::of(state_dir);
    let (current, confirmed) = (binaries.target(Link::Current), binaries.target(Link::Confirmed));
    let links = match (current, confirmed) {
        (Some(current), Some(confirmed)) => Links { current, confirmed },
        // It leads nowhere.
        (None, Some(confirmed)) => return turn_back(&binaries, confirmed),
        // Nothing was ever confirmed here: there is nothing to go back to.
        (_, None) => return Ok(Guarded::Starts),
    };
    let ledger: Option<LedgerFile> = ledger_file(state_dir).load_json().ok().and_then(|loaded| loaded.value());
    let ledger = ledger.map(Ledger::from);
    let before = starts(state_dir);
    let (next, verdict) = upgrade::guard(ledger.as_ref(), links, before.clone(), instance, &facts::boot_id(), bounds);
    if next != before
        && let Err(err) = starts_file(state_dir).store_json(&next)
    {
        tracing::error!(%err, "starts cannot be counted");
        return turn_back(&binaries, links.confirmed);
    }
    match verdict {
        Verdict::Start => Ok(Guarded::Starts),
        Verdict::TurnBack(version) => turn_back(&binaries, version),
    }
}

fn turn_back(binaries: &Binaries, version: AgentVersion) -> Result<Guarded, BinaryError> {
    binaries.turn(Link::Current, version)?;
    Ok(Guarded::TurnedBack(version))
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
        let guard = || guard(dir.path(), Instance::A, &Bounds::default()).unwrap();
        assert_eq!(guard(), Guarded::Starts, "nothing is there yet");
        binaries.turn(Link::Confirmed, version(1)).unwrap();
        binaries.turn(Link::Current, version(1)).unwrap();
        assert!((0..9).all(|_| guard() == Guarded::Starts));
        binaries.turn(Link::Current, version(2)).unwrap();
        assert_eq!([guard(), guard(), guard()], [Guarded::Starts, Guarded::Starts, Guarded::TurnedBack(version(1))]);
        assert_eq!(binaries.target(Link::Current), Some(version(1)));
        assert_eq!(guard(), Guarded::Starts);
    }

    #[test]
    fn a_link_to_nothing_is_turned_back_and_so_is_what_cannot_be_counted() {
        let (dir, binaries) = site();
        let guard = || guard(dir.path(), Instance::B, &Bounds::default()).unwrap();
        binaries.turn(Link::Confirmed, version(1)).unwrap();
        assert_eq!(guard(), Guarded::TurnedBack(version(1)), "no link at all");
        binaries.turn(Link::Current, version(2)).unwrap();
        // A folder in its place: it can be neither read nor replaced.
        std::fs::create_dir_all(dir.path().join("starts/x")).unwrap();
        assert_eq!(guard(), Guarded::TurnedBack(version(1)));
    }
}
