//! `bramble-agent self-test`: can this program take over this device? Run by the agent that acts, before it lets go.
//!
//! Decides what a new agent has to be able to do: read everything that is stored, reach Podman and its store, verify a
//! signature, and be the device to the broker. Changes nothing. And it decides whom a failure says something of.

use std::path::Path;

use bramble_contracts::smoke::{Check, CheckResult, CheckState, Suite};
use futures::future::{FutureExt as _, join_all};

use super::{Answer, Part, ask_disk, bounded, failed, ok, podman, state, store};
use crate::config::Config;
use crate::core::upgrade::LedgerFile;
use crate::host::instances::ledger_file;
use crate::host::podman::Podman;
use crate::host::records;
use crate::host::release::Files;
use crate::host::state::StateFile;
use crate::mesh::rehearsal::Rehearsal;
use crate::supervise::FoundRecord;

const STORED: &str = "stored state";
const SIGNATURE: &str = "signature";
const BROKER: &str = "broker";
const IMAGES: &str = "image list";
const UPGRADES: &str = "upgrade state";
const PODMAN: &str = "podman";
const STORE: &str = "image store";
const FILES: &str = "state files";
const RECORDS: &str = "app records";

/// What failed says something of …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blame {
    /// The connection.
    Connection,
    /// The device.
    Device,
    /// The program.
    Program,
}

/// Whom the failures of a suite say something of, worst first; `None` when nothing failed.
pub fn blame(suite: &Suite) -> Option<Blame> {
    let of = |one: &CheckResult| match one.check.to_string().as_str() {
        BROKER => Blame::Connection,
        PODMAN | STORE | IMAGES | FILES => Blame::Device,
        _ => Blame::Program,
    };
    suite.checks.iter().filter(|one| one.state == CheckState::Failed).map(of).max()
}

/// Looks at everything a new agent needs.
pub async fn self_test(config: &Config) -> Suite {
    let dir = config.state_dir.clone();
    let parts: Vec<Part<'_>> = vec![
        as_the_device(config).boxed(),
        ask_disk(FILES, state::files(config)),
        ask_disk(RECORDS, {
            let dir = config.places().records;
            move || app_records(&dir)
        }),
        ask_disk(UPGRADES, {
            let dir = dir.clone();
            move || upgrades(&ledger_file(&dir), &Files::of(&dir))
        }),
        super::ask(PODMAN, podman::podman(config)),
        super::ask(IMAGES, images(config)),
        ask_disk(STORE, store::store(config)),
    ];
    let checks = join_all(parts).await.into_iter().flatten().collect();
    Suite { name: "self-test".to_owned(), checks }
}

async fn as_the_device(config: &Config) -> Vec<CheckResult> {
    let settings = match config.settings() {
        Ok(settings) => settings,
        Err(err) => return vec![CheckResult::new(Check::holds(STORED), CheckState::Failed, err.to_string())],
    };
    let read = tokio::task::spawn_blocking(move || Rehearsal::read(settings)).await;
    let read = read.unwrap_or_else(|err| Err(err.to_string()));
    let rehearsal = match read {
        Ok(rehearsal) => rehearsal,
        Err(why) => {
            return vec![CheckResult::new(Check::holds(STORED), CheckState::Failed, format!("cannot be used: {why}"))];
        }
    };
    let signature = bounded(Check::holds(SIGNATURE), async { answer(rehearsal.verify()) }).await;
    // It has a bound of its own: connecting may take several tries.
    let asked = answer(rehearsal.ask().await);
    let broker = CheckResult::new(Check::holds(BROKER), asked.0, asked.1);
    vec![CheckResult::new(Check::holds(STORED), CheckState::Passed, "can be used"), signature, broker]
}

fn answer(said: Result<String, String>) -> Answer {
    said.map_or_else(failed, ok)
}

/// What upgrades have left behind must be read by whoever comes next, also by the one before.
fn upgrades(ledger: &StateFile, files: &Files) -> Answer {
    let read = ledger.load_json::<LedgerFile>().map(drop).map_err(|err| err.to_string());
    let keys = files.keys().map(drop).map_err(|err| err.to_string());
    let floor = files.floor().map(drop).map_err(|err| err.to_string());
    answer(read.and(keys).and(floor).map(|()| "can be used".to_owned()))
}

/// Damage is the device's; a record that is whole has to be understood.
fn app_records(dir: &Path) -> Answer {
    let read = match records::read(dir) {
        Ok(read) => read,
        Err(err) => return failed(format!("cannot be read: {err}")),
    };
    let strange = read.iter().find_map(|record| match record {
        FoundRecord::Unusable(_, why) => Some(why.clone()),
        FoundRecord::Good(..) | FoundRecord::Damaged(..) | FoundRecord::Unread(..) => None,
    });
    strange.map_or_else(|| ok(format!("are understood: {} of them", read.len())), failed)
}

async fn images(config: &Config) -> Answer {
    match Podman::new(config.socket()).images().await {
        Ok(images) => ok(format!("has {} images", images.len())),
        Err(err) => failed(format!("cannot be read: {err}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_failure_says_whom_it_speaks_of() {
        let one = |name, state| CheckResult::new(Check::holds(name), state, "");
        let suite = |checks| Suite { name: "self-test".into(), checks };
        assert_eq!(blame(&suite(vec![one(STORED, CheckState::Passed), one(STORE, CheckState::Look)])), None);
        let broker = one(BROKER, CheckState::Failed);
        assert_eq!(blame(&suite(vec![broker.clone()])), Some(Blame::Connection));
        assert_eq!(blame(&suite(vec![broker.clone(), one(PODMAN, CheckState::Failed)])), Some(Blame::Device));
        assert_eq!(blame(&suite(vec![broker, one(STORED, CheckState::Failed)])), Some(Blame::Program));
    }
}
