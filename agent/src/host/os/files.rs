//! Where the agent and its privileged units leave each other word: orders, results and the ledger on the state volume, what
//! is of this boot below `/run`, and which run made a root on that root itself.
//!
//! Decides names. An order or a result that is not whole counts as none: the one before it is of another run.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bramble_contracts::boot::PutBack;
use serde::{Deserialize, Serialize};

use super::look::Seen;
use crate::core::os::{Order, Progress, Sentence, Ticket, UnitResult, Verb};
use crate::host::state::{Loaded, StateError, StateFile};

const FORMAT: u32 = 1;
/// On root: it comes and goes with it.
const STAMP: &str = "usr/lib/bramble/os-upgrade.json";

/// Places.
#[derive(Clone, Debug)]
pub struct Files {
    state_dir: PathBuf,
    run: PathBuf,
    root: PathBuf,
}

/// How far a unit is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Which.
    pub verb: Verb,
    /// For which run.
    pub ticket: Ticket,
    /// How far.
    pub progress: Progress,
}

impl Files {
    /// Of this machine.
    pub fn of(state_dir: &Path) -> Self {
        Self { state_dir: state_dir.to_owned(), run: "/run/bramble".into(), root: "/".into() }
    }

    /// Of a machine below another folder.
    #[cfg(test)]
    pub(super) fn below(base: &Path) -> Self {
        Self { state_dir: base.join("state"), run: base.join("run"), root: base.join("root") }
    }

    fn state(&self, name: &str) -> StateFile {
        StateFile::new(self.state_dir.join("os").join(name), FORMAT)
    }

    /// What is remembered of upgrades.
    pub fn ledger(&self) -> StateFile {
        self.state("ledger.json")
    }

    /// The probation unit's word.
    pub fn sentence(&self) -> StateFile {
        self.state("sentence.json")
    }

    /// Panics that were there before.
    pub(super) fn panics(&self) -> StateFile {
        self.state("panics.json")
    }

    /// One unit at a time holds it.
    pub(super) fn lock(&self) -> PathBuf {
        self.state_dir.join("os/lock")
    }

    /// The folder of all of these.
    pub(super) fn folder(&self) -> PathBuf {
        self.state_dir.join("os")
    }

    /// Where state lies.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The root file system.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder or a file of this boot.
    pub(super) fn run(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }

    fn order_file(&self, verb: Verb) -> StateFile {
        self.state(&format!("order-{verb}.json"))
    }

    fn result_file(&self, verb: Verb) -> StateFile {
        self.state(&format!("result-{verb}.json"))
    }

    /// Where the result of a verb comes to lie.
    pub fn result_path(&self, verb: Verb) -> PathBuf {
        self.result_file(verb).path().to_owned()
    }

    /// What a unit is to do.
    pub(super) fn order(&self, verb: Verb) -> Result<Order, String> {
        let order: Order = newest(&self.order_file(verb))?.ok_or_else(|| format!("there is no order to {verb}"))?;
        if order.verb == verb { Ok(order) } else { Err(format!("the order is to {}", order.verb)) }
    }

    /// Leaves an order, durably, and takes away what an earlier one came to.
    pub fn ask(&self, order: &Order) -> Result<(), StateError> {
        self.result_file(order.verb).remove()?;
        self.order_file(order.verb).store_json(order)
    }

    /// Leaves a result, durably.
    pub(super) fn leave(&self, verb: Verb, result: &UnitResult) -> Result<(), StateError> {
        self.result_file(verb).store_json(result)
    }

    /// What a unit came to; nothing where its file is not whole.
    pub fn result(&self, verb: Verb) -> Option<UnitResult> {
        newest(&self.result_file(verb)).unwrap_or_default()
    }

    /// What the probation unit said last.
    pub fn said(&self) -> Option<Sentence> {
        newest(&self.sentence()).unwrap_or_default()
    }

    /// What the guard noted when it put root back.
    pub fn put_back(&self) -> Option<PutBack> {
        let text = fs::read(self.state_dir.join(PutBack::FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Forgets, durably, what the guard and the probation unit said.
    pub fn forget(&self) -> Result<(), String> {
        self.sentence().remove().map_err(|err| err.to_string())?;
        let note = self.state_dir.join(PutBack::FILE);
        match fs::remove_file(&note) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(format!("{}: {err}", note.display())),
            Ok(()) | Err(_) => {}
        }
        let synced = File::open(&self.state_dir).and_then(|folder| folder.sync_all());
        synced.map_err(|err| format!("{}: {err}", self.state_dir.display()))
    }

    fn stamp_file(&self) -> StateFile {
        StateFile::new(self.root.join(STAMP), FORMAT)
    }

    /// Which run made this root.
    pub fn stamp(&self) -> Option<Ticket> {
        newest(&self.stamp_file()).unwrap_or_default()
    }

    /// Root is not whole from now on.
    pub(super) fn take_stamp(&self) -> Result<(), StateError> {
        self.stamp_file().remove()
    }

    /// Says, durably, which run made it.
    pub(super) fn put_stamp(&self, ticket: &Ticket) -> Result<(), StateError> {
        self.stamp_file().store_json(ticket)
    }

    /// What the machine was, when it was looked at last.
    pub(super) fn seen_path(&self) -> PathBuf {
        self.run("os-seen.json")
    }

    /// The same; nothing where it was not looked at since that was taken away.
    pub fn seen(&self) -> Option<Seen> {
        serde_json::from_slice(&fs::read(self.seen_path()).ok()?).ok()
    }

    /// Takes away what was seen.
    pub fn forget_seen(&self) -> io::Result<()> {
        match fs::remove_file(self.seen_path()) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// How far a unit of this boot is.
    pub fn progress(&self) -> Option<Told> {
        serde_json::from_slice(&fs::read(self.run("os-progress.json")).ok()?).ok()
    }

    /// Tells it. It is of this boot only, so nothing is synced.
    pub(super) fn tell(&self, told: &Told) -> io::Result<()> {
        put(&self.run("os-progress.json"), &serde_json::to_vec(told)?)
    }
}

/// Replaces a file of this boot: whoever reads it finds one or the other.
pub(super) fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension("new");
    File::create(&beside)?.write_all(bytes)?;
    fs::rename(&beside, path)
}

/// Only the newest, and only where it is whole.
fn newest<T: serde::de::DeserializeOwned>(file: &StateFile) -> Result<Option<T>, String> {
    match file.load_json() {
        Ok(Loaded::Good(value)) => Ok(Some(value)),
        Ok(Loaded::Missing) => Ok(None),
        Ok(Loaded::Previous { why, .. }) => Err(format!("{}: {why}", file.path().display())),
        Err(err) => Err(err.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::os::{BootFiles, What};
    use crate::core::upgrade::Moment;

    #[test]
    fn an_order_takes_the_earlier_result_away_and_half_a_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        let ticket = Ticket { wish: "w".into(), attempt: 1, began: Moment { boot: "b".into(), up_ms: 1 } };
        let result = UnitResult { ticket: ticket.clone(), boot: "b".into(), result: Ok(None) };
        files.leave(Verb::Arm, &result).unwrap();
        files.leave(Verb::Arm, &result).unwrap();
        assert_eq!(files.result(Verb::Arm), Some(result.clone()));
        let order = Order { verb: Verb::Arm, ticket, what: What::Full, slot: None, boot_files: BootFiles::Held };
        files.ask(&order).unwrap();
        assert_eq!((files.result(Verb::Arm), files.order(Verb::Arm)), (None, Ok(order.clone())));
        assert!(files.order(Verb::Fail).unwrap_err().contains("no order to fail"));
        files.leave(Verb::Arm, &result).unwrap();
        files.leave(Verb::Arm, &result).unwrap();
        fs::write(files.result_path(Verb::Arm), "half").unwrap();
        assert_eq!(files.result(Verb::Arm), None, "the one before it is of another run");
    }

    #[test]
    fn what_was_put_back_is_forgotten_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::below(dir.path());
        fs::create_dir_all(files.state_dir()).unwrap();
        files.forget().unwrap();
        fs::write(files.state_dir().join(PutBack::FILE), r#"{"format":1,"why":"judged-failed"}"#).unwrap();
        assert!(files.put_back().is_some());
        files.forget().unwrap();
        assert_eq!(files.put_back(), None);
    }
}
