//! What is remembered of every app, as far as it could be read, and what follows when it could not.
//!
//! Decides that an app whose record may yet be read is not planned, that a record damaged beyond use is made anew from
//! the labels of the app's containers, and that a record of another format is left alone. Does not read files.

use std::collections::BTreeMap;
use std::time::Duration;

use super::host::{FoundRecord, HostError};
use crate::core::app::{App, AppKey};
use crate::core::backoff::Backoff;
use crate::core::record::Record;

/// A disk that fails for a moment is asked again soon, one that fails for long costs nothing.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));

/// Where an app's loop gets its record from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Recall {
    /// It is known, or there never was one.
    Known(Box<Record>),
    /// It was damaged: the containers' labels tell what we made.
    FromLabels(AppKey),
}

/// Why an app is not planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withheld<'a> {
    /// Its record could not be read yet.
    Unread(&'a str),
    /// Its record is not for this agent.
    Unusable(&'a str),
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    good: BTreeMap<AppKey, Record>,
    damaged: BTreeMap<AppKey, String>,
    unusable: BTreeMap<AppKey, String>,
    unread: BTreeMap<AppKey, String>,
    /// No record could be read at all, or nobody has tried yet.
    blind: Option<String>,
    notes: BTreeMap<AppKey, String>,
    failures: u32,
    again: Option<Duration>,
}

impl Ledger {
    /// Before the first look: nothing may be planned.
    pub(super) fn unread() -> Self {
        Self { blind: Some("the records were not read yet".into()), ..Self::default() }
    }

    /// Takes in what a look at the disk found; what was read before stays.
    pub(super) fn take_in(&mut self, found: Result<Vec<FoundRecord>, HostError>, now: Duration) {
        match found {
            Ok(found) => self.sort(found),
            Err(err) => {
                tracing::error!(%err, "cannot read what this agent has made");
                self.blind = Some(err.to_string());
            }
        }
        let complete = self.blind.is_none() && self.unread.is_empty();
        self.failures = if complete { 0 } else { self.failures.saturating_add(1) };
        self.again = (!complete).then(|| now + AGAIN.delay(self.failures));
    }

    fn sort(&mut self, found: Vec<FoundRecord>) {
        let first = self.blind.take().is_some();
        let mut missing = std::mem::take(&mut self.unread);
        for one in found {
            let key = one.key().clone();
            if missing.remove(&key).is_none() && !first {
                continue;
            }
            match one {
                FoundRecord::Good(record, note) => {
                    self.notes.extend(note.map(|note| (key.clone(), note)));
                    self.good.insert(key, *record);
                }
                FoundRecord::Damaged(_, why) => self.lose(key, &why),
                FoundRecord::Unusable(_, why) => {
                    self.unusable.insert(key, why);
                }
                FoundRecord::Unread(_, why) => {
                    tracing::warn!(app = %key, why, "a record cannot be read yet");
                    self.unread.insert(key, why);
                }
            }
        }
        // There was a record a moment ago: its loss does not make our containers a stranger's.
        for (key, why) in missing {
            self.lose(key, &format!("it could not be read ({why}) and has vanished since"));
        }
    }

    fn lose(&mut self, key: AppKey, why: &str) {
        let note = format!(
            "the record of {key} was lost: {why}; containers with this agent's labels and names for it count as its own"
        );
        tracing::error!(app = %key, "{note}");
        self.notes.insert(key.clone(), note);
        self.damaged.insert(key, why.to_owned());
    }

    /// When the disk is asked again.
    pub(super) fn again(&self) -> Option<Duration> {
        self.again
    }

    /// Why an app must not be planned now.
    pub(super) fn withheld(&self, key: &AppKey) -> Option<Withheld<'_>> {
        let unread = self.blind.as_ref().or_else(|| self.unread.get(key)).map(|why| Withheld::Unread(why));
        unread.or_else(|| self.unusable.get(key).map(|why| Withheld::Unusable(why)))
    }

    /// Apps whose record waits for a loop.
    pub(super) fn keys(&self) -> impl Iterator<Item = &AppKey> {
        self.good.keys().chain(self.damaged.keys())
    }

    /// The specs that records set out to run, of apps that have no loop yet.
    pub(super) fn specs(&self) -> impl Iterator<Item = App> {
        self.good.values().filter_map(Record::current_app)
    }

    /// Hands an app's record to its loop.
    pub(super) fn hand_out(&mut self, key: AppKey) -> Recall {
        if self.damaged.remove(&key).is_some() {
            return Recall::FromLabels(key);
        }
        Recall::Known(Box::new(self.good.remove(&key).unwrap_or_else(|| Record::new(key))))
    }

    /// Nothing is left of the app.
    pub(super) fn forget(&mut self, key: &AppKey) {
        self.notes.remove(key);
    }

    /// What people should look at.
    pub(super) fn alarms(&self) -> impl Iterator<Item = String> {
        let waits = |why: &String| format!("{why}; it is tried again, and nothing is changed meanwhile");
        let all = self.blind.iter().map(waits).chain(self.unread.values().map(waits));
        all.chain(self.unusable.values().cloned()).chain(self.notes.values().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> AppKey {
        AppKey::parse(&format!("default.{name}")).unwrap()
    }

    #[test]
    fn nothing_is_planned_before_its_record_was_read() {
        let (web, db) = (key("web"), key("db"));
        let mut ledger = Ledger::unread();
        assert!(ledger.withheld(&web).is_some());
        ledger.take_in(Err(HostError("EMFILE".into())), Duration::ZERO);
        let first = ledger.again().unwrap();
        ledger.take_in(Err(HostError("EMFILE".into())), Duration::ZERO);
        assert!(ledger.again().unwrap() > first, "pauses grow");
        let good = |key: &AppKey| FoundRecord::Good(Box::new(Record::new(key.clone())), None);
        ledger.take_in(Ok(vec![FoundRecord::Unread(web.clone(), "EIO".into()), good(&db)]), Duration::ZERO);
        assert_eq!((ledger.withheld(&web), ledger.withheld(&db)), (Some(Withheld::Unread("EIO")), None));
        assert!(ledger.alarms().any(|alarm| alarm.contains("EIO")));
        assert_eq!(ledger.hand_out(db.clone()), Recall::Known(Box::new(Record::new(db.clone()))));
        ledger.take_in(Ok(vec![good(&web), good(&db)]), Duration::ZERO);
        assert_eq!((ledger.withheld(&web), ledger.again(), ledger.alarms().count()), (None, None, 0));
        assert_eq!(ledger.keys().collect::<Vec<_>>(), [&web], "what a loop has is not handed out again");
    }

    #[test]
    fn a_lost_record_is_made_anew_and_a_newer_format_is_left_alone() {
        let (web, db, gone) = (key("web"), key("db"), key("gone"));
        let mut ledger = Ledger::unread();
        let found = vec![
            FoundRecord::Damaged(web.clone(), "bad checksum".into()),
            FoundRecord::Unusable(db.clone(), "format 9".into()),
            FoundRecord::Unread(gone.clone(), "EIO".into()),
        ];
        ledger.take_in(Ok(found), Duration::ZERO);
        assert_eq!(ledger.withheld(&db), Some(Withheld::Unusable("format 9")));
        assert_eq!(ledger.hand_out(web.clone()), Recall::FromLabels(web));
        ledger.take_in(Ok(vec![]), Duration::ZERO);
        assert_eq!(ledger.hand_out(gone.clone()), Recall::FromLabels(gone));
        assert_eq!(ledger.alarms().count(), 3);
    }
}
