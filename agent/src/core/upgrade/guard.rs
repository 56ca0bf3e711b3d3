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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::upgrade::testing::{facts, version, wish};
    use crate::core::upgrade::{Event, Facts, step};

    const ON_TRIAL: Links = Links { current: version_of(6), confirmed: version_of(5) };

    const fn version_of(minor: u16) -> AgentVersion {
        AgentVersion { major: 0, minor, patch: 0 }
    }

    fn ledger() -> Ledger {
        let ledger = Ledger::new(version(5), Instance::A);
        step(ledger, &Event::Wished, &Facts { wish: Some(wish(6, 1)), ..facts(version(5)) }).0
    }

    fn starts(ledger: Option<&Ledger>, places: &[(Instance, &str)]) -> (Starts, Vec<bool>) {
        let (mut starts, mut turned) = (Starts::default(), Vec::new());
        for (instance, boot) in places {
            let (next, verdict) = guard(ledger, ON_TRIAL, starts, *instance, boot, &Bounds::default());
            assert!([Verdict::Start, Verdict::TurnBack(version(5))].contains(&verdict));
            turned.push(verdict != Verdict::Start);
            starts = next;
        }
        (starts, turned)
    }

    #[test]
    fn the_third_start_of_an_instance_in_one_boot_turns_back() {
        let (ledger, a) = (ledger(), (Instance::A, "boot-1"));
        let (counted, turned) = starts(Some(&ledger), &[a, a, (Instance::B, "boot-1"), a]);
        assert_eq!(turned, [false, false, false, true]);
        assert_eq!(counted.of(&ledger), Some(TurnedBack::Crashes));
        let (_, turned) = starts(Some(&ledger), &[a, a, (Instance::A, "boot-2"), (Instance::A, "boot-2")]);
        assert_eq!(turned, [false; 4], "who loses power does not crash");
        assert_eq!(starts(None, &[a, a, a]).1, [false, false, true], "by the links alone");
    }

    #[test]
    fn too_many_boots_turn_back_after_the_new_one_had_its_chance_to_give_up() {
        let boots: Vec<String> = (1..=5).map(|n| format!("boot-{n}")).collect();
        let boots: Vec<(Instance, &str)> = boots.iter().map(|boot| (Instance::A, boot.as_str())).collect();
        let (counted, turned) = starts(Some(&ledger()), &boots);
        assert_eq!(turned, [false, false, false, false, true]);
        assert_eq!(counted.of(&ledger()), Some(TurnedBack::Boots));
    }

    #[test]
    fn what_is_confirmed_is_not_counted_and_the_next_upgrade_is_counted_anew() {
        let a = (Instance::A, "boot-1");
        let (counted, _) = starts(Some(&ledger()), &[a, a]);
        let back = Links { current: version(5), ..ON_TRIAL };
        let same = guard(Some(&ledger()), back, counted.clone(), Instance::A, "boot-1", &Bounds::default());
        assert_eq!(same, (counted.clone(), Verdict::Start));
        let mut confirmed = ledger();
        confirmed.confirmed.version = version(6);
        let same = guard(Some(&confirmed), ON_TRIAL, counted.clone(), Instance::A, "boot-1", &Bounds::default());
        assert_eq!(same, (counted.clone(), Verdict::Start), "its link is not marked yet");
        let mut later = ledger();
        later.upgrade.as_mut().unwrap().began.up_ms += 1;
        let (anew, verdict) = guard(Some(&later), ON_TRIAL, counted, Instance::A, "boot-1", &Bounds::default());
        assert_eq!((anew.in_boot[&Instance::A], verdict), (1, Verdict::Start));
        assert_eq!(anew.of(&ledger()), None);
    }
}
