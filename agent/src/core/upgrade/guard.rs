//! The guard that is not the new binary: run by the confirmed one before every start, it counts the starts of a version
//! that is not confirmed, and turns `current` back when there were too many.

use std::collections::BTreeMap;

use bramble_contracts::v1::{AgentVersion, Instance};
use serde::{Deserialize, Serialize};

use super::facts::{Bounds, Links, TurnedBack};
use super::ledger::{Ledger, Moment};

/// The start of an instance in one boot that turns back.
const STARTS: u8 = 3;

/// What the guard keeps in a file of its own. It is durable before the start that it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Starts {
    /// When the upgrade began that is counted here; absent for a version that no upgrade started.
    pub trial: Option<Moment>,
    /// The boot that is counted here.
    pub boot: String,
    /// Starts of each instance in this boot.
    pub in_boot: BTreeMap<Instance, u8>,
    /// Boots in which there was one.
    pub boots: u8,
    /// What came of it.
    pub turned_back: Option<TurnedBack>,
}

/// What is to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// What `current` names.
    Start,
    /// This version: `current` is turned to it first, durably, after what was counted is stored.
    TurnBack(AgentVersion),
}

impl Starts {
    /// What it did about the upgrade that is under way: see `Facts::guard`.
    pub fn of(&self, ledger: &Ledger) -> Option<TurnedBack> {
        let began = ledger.upgrade.as_ref().map(|upgrade| &upgrade.began);
        self.turned_back.filter(|_| began.is_some() && began == self.trial.as_ref())
    }
}

/// May `instance` start in this boot? The ledger is absent where it cannot be read: then the links alone count.
pub fn guard(
    ledger: Option<&Ledger>,
    links: Links,
    starts: Starts,
    instance: Instance,
    boot: &str,
    bounds: &Bounds,
) -> (Starts, Verdict) {
    let confirmed = ledger.map_or(links.confirmed, |ledger| ledger.confirmed.version);
    if links.current == confirmed || links.current == links.confirmed {
        // What was counted for an upgrade is kept: it says why the old version is back.
        return (if starts.trial.is_some() { starts } else { Starts::default() }, Verdict::Start);
    }
    let trial = ledger.and_then(|ledger| ledger.upgrade.as_ref()).map(|upgrade| upgrade.began.clone());
    let mut starts = if starts.trial == trial { starts } else { Starts { trial, ..Starts::default() } };
    if starts.boot != boot {
        boot.clone_into(&mut starts.boot);
        starts.in_boot.clear();
        starts.boots = starts.boots.saturating_add(1);
    }
    let count = starts.in_boot.entry(instance).or_default();
    *count = count.saturating_add(1);
    let crashes = (*count >= STARTS).then_some(TurnedBack::Crashes);
    // The new version counts its boots itself, and gives up one boot sooner.
    let boots = (starts.boots > bounds.trial_boots.saturating_add(1)).then_some(TurnedBack::Boots);
    starts.turned_back = crashes.or(boots);
    let verdict = starts.turned_back.map_or(Verdict::Start, |_| Verdict::TurnBack(confirmed));
    (starts, verdict)
}
