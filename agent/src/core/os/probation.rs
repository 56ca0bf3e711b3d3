//! Whether a system on trial is well: connected, healthy and in time, without a break, for long enough, before its time is
//! over.
//!
//! Two use it: the agent, at every change, and the probation unit, which holds to the limit also where no agent is alive.
//! Decides the verdict; what follows is the machine's.

use bramble_contracts::boot::{BootRecord, Outcome};
use serde::{Deserialize, Serialize};

use super::effect::Verb;
use super::facts::Apps;
use super::ledger::{Ledger, Phase};
use super::place::Place;
use super::reason::Reason;
use crate::core::upgrade::{Clock, Mesh};

/// An agent that is alive says so to its ledger at least so often while it watches, in milliseconds.
pub(super) const SIGN_MS: u64 = 60_000;
/// One that has not said so for this long is not there.
const SILENT_MS: u64 = 3 * SIGN_MS;

/// How long things may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// All has to be well for so long, without a break.
    pub confirm_for_ms: u64,
    /// Of uptime: then it fails.
    pub give_up_after_ms: u64,
    /// The same, of all boots of the trial.
    pub give_up_in_all_ms: u64,
    /// One break of the connection may be so long.
    pub reconnect_ms: u64,
}

impl Default for Terms {
    fn default() -> Self {
        const MINUTE: u64 = 60_000;
        Self {
            confirm_for_ms: 2 * MINUTE,
            give_up_after_ms: 10 * MINUTE,
            give_up_in_all_ms: 30 * MINUTE,
            reconnect_ms: MINUTE / 2,
        }
    }
}

impl Terms {
    /// The uptime at which this boot's time is over, when earlier boots of the trial took so long.
    pub fn limit_ms(&self, spent_ms: u64) -> u64 {
        self.give_up_after_ms.min(self.give_up_in_all_ms.saturating_sub(spent_ms))
    }
}

/// What the one who watches remembers of this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watch {
    /// All is well since then, but for a break that is forgiven.
    pub well_since_ms: Option<u64>,
    /// The break that is forgiven, if it ends soon.
    pub break_since_ms: Option<u64>,
    /// There was one since all is well.
    pub forgiven: bool,
    /// It was connected in this boot.
    pub was_connected: bool,
    /// When all was well for the first time.
    pub first_well_ms: Option<u64>,
    /// What is missing.
    pub missing: Option<Reason>,
    /// The last look.
    pub looked_ms: u64,
}

/// What one look sees.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Milliseconds since boot.
    pub up_ms: u64,
    /// What earlier boots of the trial took.
    pub spent_ms: u64,
    /// The connection.
    pub mesh: Mesh,
    /// What the clock is worth.
    pub clock: &'a Clock,
    /// The apps now.
    pub apps: &'a Apps,
    /// The apps before the upgrade.
    pub before: &'a Apps,
    /// How long things may take.
    pub terms: &'a Terms,
}

/// What follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on; look again at this uptime at the latest.
    Wait {
        /// In milliseconds.
        until_ms: u64,
    },
    /// The new system is well.
    Pass,
    /// It is not, and its time is over.
    Fail(Reason),
}

/// One look at a system on trial.
pub fn probation(watch: &Watch, look: &Look<'_>) -> (Watch, Verdict) {
    let mut watch = watch.clone();
    let (up_ms, terms) = (look.up_ms, look.terms);
    let missing = missing(&watch, look);
    match (&missing, look.mesh) {
        (None, Mesh::Up { since_ms }) => well(&mut watch, since_ms, look),
        (None, Mesh::Down) => {}
        (Some(Reason::NoBroker { .. } | Reason::LostBroker { .. }), Mesh::Down) => broken(&mut watch, look),
        (Some(_), Mesh::Up { .. } | Mesh::Down) => start_again(&mut watch),
    }
    watch.was_connected |= look.mesh != Mesh::Down;
    watch.missing = missing;
    watch.looked_ms = up_ms;
    let well_for = watch.well_since_ms.map(|since| up_ms.saturating_sub(since));
    if watch.missing.is_none() && well_for.is_some_and(|ms| ms >= terms.confirm_for_ms) {
        return (watch, Verdict::Pass);
    }
    let limit_ms = terms.limit_ms(look.spent_ms);
    if up_ms >= limit_ms {
        let steady = Reason::NotSteady { needed_ms: terms.confirm_for_ms };
        let reason = watch.missing.as_ref().map_or(steady, |reason| reason.at(up_ms));
        return (watch, Verdict::Fail(reason));
    }
    let due = [
        watch.well_since_ms.map(|since| since.saturating_add(terms.confirm_for_ms)),
        watch.break_since_ms.map(|since| since.saturating_add(terms.reconnect_ms).saturating_add(1)),
        Some(limit_ms),
        Some(up_ms.saturating_add(SIGN_MS)),
    ];
    let until_ms = due.into_iter().flatten().filter(|due| *due > up_ms).min().unwrap_or(limit_ms);
    (watch, Verdict::Wait { until_ms })
}

fn start_again(watch: &mut Watch) {
    (watch.well_since_ms, watch.break_since_ms, watch.forgiven) = (None, None, false);
}

/// Nothing is missing. The connection may have broken and come back since the last look.
fn well(watch: &mut Watch, connected_since_ms: u64, look: &Look<'_>) {
    let unseen = watch.break_since_ms.is_none() && connected_since_ms > watch.looked_ms;
    let began = watch.break_since_ms.or(unseen.then_some(watch.looked_ms)).filter(|_| watch.well_since_ms.is_some());
    if let Some(began_ms) = began {
        let long = connected_since_ms.saturating_sub(began_ms) > look.terms.reconnect_ms;
        if long || watch.forgiven {
            start_again(watch);
        } else {
            (watch.break_since_ms, watch.forgiven) = (None, true);
        }
    }
    watch.well_since_ms.get_or_insert(look.up_ms);
    watch.first_well_ms.get_or_insert(look.up_ms);
}

/// Only the connection is missing.
fn broken(watch: &mut Watch, look: &Look<'_>) {
    if watch.well_since_ms.is_none() {
        return;
    }
    let since_ms = *watch.break_since_ms.get_or_insert(look.up_ms);
    if watch.forgiven || look.up_ms.saturating_sub(since_ms) > look.terms.reconnect_ms {
        start_again(watch);
    }
}

/// The first thing that is missing; apps before the connection, for they say more.
fn missing(watch: &Watch, look: &Look<'_>) -> Option<Reason> {
    let app = look.before.iter().filter(|(_, before)| before.sick.is_none()).find_map(|(name, before)| {
        let app = name.clone();
        let Some(now) = look.apps.get(name) else { return Some(Reason::AppMissing(app)) };
        match &now.sick {
            Some(why) => Some(Reason::AppUnhealthy { app, why: why.clone() }),
            None if now.revision != before.revision => {
                Some(Reason::AppChanged { app, was: before.revision, is: now.revision })
            }
            None => None,
        }
    });
    let broker = || {
        let never = Reason::NoBroker { for_ms: 0 };
        let lost = Reason::LostBroker { needed_ms: look.terms.confirm_for_ms };
        (look.mesh == Mesh::Down).then_some(if watch.was_connected { lost } else { never })
    };
    let clock = || match look.clock {
        Clock::Fit => None,
        Clock::Unfit(why) => Some(Reason::ClockUnfit(why.clone())),
    };
    // Who has no connection may have no time either, for that reason.
    app.or_else(broker).or_else(clock)
}

/// Apps that were sick before the upgrade: they are listed, and do not count.
pub fn sick_before(before: &Apps) -> Vec<String> {
    before.iter().filter(|(_, app)| app.sick.is_some()).map(|(name, _)| name.clone()).collect()
}

/// What the probation unit does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// There is nothing to enforce.
    Nothing,
    /// Look again at this uptime.
    LookAgain {
        /// In milliseconds.
        at_ms: u64,
    },
    /// Leave the reason, and then tag the snapshot failed, under the lock, if it is on trial and not committed then; reboot.
    Fail(Reason),
    /// It is tagged failed already: only the reboot is missing.
    Reboot,
}

/// The limit, also where no agent is alive. The ledger is absent where it cannot be read.
pub fn enforce(
    ledger: Option<&Ledger>,
    place: &Place,
    record: Option<&BootRecord>,
    boot: &str,
    up_ms: u64,
) -> Enforced {
    let degraded = record.is_some_and(|record| matches!(record.outcome, Outcome::Degraded { .. }));
    match place {
        Place::OnTrial => {}
        // Of a degraded boot the guard knows that no reboot helps.
        Place::Failed if !degraded => return Enforced::Reboot,
        Place::Unknown(_) => return Enforced::LookAgain { at_ms: up_ms.saturating_add(SIGN_MS) },
        Place::Clean | Place::Applying | Place::BeforeTrial | Place::Committed | Place::Failed => {
            return Enforced::Nothing;
        }
    }
    let upgrade = ledger.and_then(|ledger| ledger.upgrade.as_ref());
    let terms = upgrade.map_or(Terms::default(), |upgrade| upgrade.wish.terms());
    let here = upgrade.is_some_and(|upgrade| upgrade.since.boot == boot);
    let trial = upgrade.and_then(|upgrade| match &upgrade.phase {
        Phase::Trial(trial) => Some((trial, here)),
        Phase::Planning
        | Phase::Fetching
        | Phase::Snapshot
        | Phase::Applying
        | Phase::Arming
        | Phase::Armed
        | Phase::Committing { .. }
        | Phase::Unsettled
        | Phase::Removing
        | Phase::Resyncing
        | Phase::Mending(_)
        | Phase::Failing(_)
        | Phase::Returning(_)
        | Phase::Degraded(_) => None,
    });
    let spent_ms = trial.map_or(0, |(trial, here)| if here { trial.spent_ms } else { trial.spent_with(&trial.watch) });
    let limit_ms = terms.limit_ms(spent_ms);
    if up_ms < limit_ms {
        return Enforced::LookAgain { at_ms: limit_ms };
    }
    match upgrade.map(|upgrade| &upgrade.phase) {
        // It is well, and about to be committed.
        Some(Phase::Committing { .. }) if here && up_ms < limit_ms.saturating_add(SILENT_MS) => {
            return Enforced::LookAgain { at_ms: limit_ms.saturating_add(SILENT_MS) };
        }
        Some(Phase::Committing { .. }) if here => return Enforced::Fail(Reason::Hung(Verb::Commit)),
        Some(Phase::Failing(reason)) => return Enforced::Fail(reason.clone()),
        Some(_) | None => {}
    }
    let seen = trial.filter(|(trial, here)| *here && up_ms.saturating_sub(trial.watch.looked_ms) < SILENT_MS);
    let reason = match seen {
        None => Reason::AgentSilent { for_ms: up_ms },
        Some((trial, _)) => match &trial.watch.missing {
            Some(reason) => reason.at(up_ms),
            None => Reason::NotSteady { needed_ms: terms.confirm_for_ms },
        },
    };
    Enforced::Fail(reason)
}

#[cfg(test)]
mod tests {
    use bramble_contracts::boot::Why;

    use super::*;
    use crate::core::os::facts::App;
    use crate::core::os::testing::record;

    const SECOND: u64 = 1000;
    const TERMS: Terms = Terms {
        confirm_for_ms: 20 * SECOND,
        give_up_after_ms: 120 * SECOND,
        give_up_in_all_ms: 300 * SECOND,
        reconnect_ms: 5 * SECOND,
    };

    fn apps(all: &[(&str, u64, Option<&str>)]) -> Apps {
        let app = |(name, revision, sick): &(&str, u64, Option<&str>)| {
            (name.to_string(), App { revision: *revision, sick: sick.map(str::to_owned) })
        };
        all.iter().map(app).collect()
    }

    /// Looks at these seconds with these connections (since when, in seconds).
    fn looks(all: &[(u64, Option<u64>)]) -> Vec<&'static str> {
        let apps = apps(&[("web", 1, None)]);
        let mut watch = Watch::default();
        let told = |verdict: &Verdict| match verdict {
            Verdict::Wait { .. } => "wait",
            Verdict::Pass => "pass",
            Verdict::Fail(_) => "fail",
        };
        let mut said = vec![];
        for (up, since) in all {
            let mesh = since.map_or(Mesh::Down, |since| Mesh::Up { since_ms: since * SECOND });
            let up_ms = up * SECOND;
            let look = Look { up_ms, spent_ms: 0, mesh, clock: &Clock::Fit, apps: &apps, before: &apps, terms: &TERMS };
            let (next, verdict) = probation(&watch, &look);
            said.push(told(&verdict));
            watch = next;
        }
        said
    }

    #[test]
    fn well_for_long_enough_passes() {
        assert_eq!(looks(&[(10, Some(9)), (29, Some(9)), (30, Some(9))]), ["wait", "wait", "pass"]);
    }

    #[test]
    fn one_short_break_is_forgiven_and_a_second_or_a_long_one_is_not() {
        let (down, at) = (None, |s| Some(s));
        assert_eq!(looks(&[(10, at(9)), (15, down), (19, at(19)), (30, at(19))]).last(), Some(&"pass"));
        assert_eq!(looks(&[(10, at(9)), (15, down), (21, at(21)), (30, at(21)), (41, at(21))])[3..], ["wait", "pass"]);
        let twice = [(10, at(9)), (15, down), (19, at(19)), (22, down), (24, at(24)), (30, at(24)), (44, at(24))];
        assert_eq!(looks(&twice)[5..], ["wait", "pass"]);
        // Breaks between two looks show in the age of the connection.
        assert_eq!(looks(&[(10, at(9)), (15, at(13)), (30, at(13))]).last(), Some(&"pass"));
        assert_eq!(looks(&[(10, at(9)), (25, at(20)), (30, at(20))]).last(), Some(&"wait"));
    }

    #[test]
    fn the_limit_is_of_this_boot_and_of_all() {
        assert_eq!(
            (TERMS.limit_ms(0), TERMS.limit_ms(250 * SECOND), TERMS.limit_ms(900 * SECOND)),
            (120_000, 50_000, 0)
        );
        assert_eq!(looks(&[(10, None), (119, None), (120, None)]), ["wait", "wait", "fail"]);
        assert_eq!(looks(&[(100, Some(99)), (120, Some(99))]), ["wait", "pass"], "just in time");
        assert_eq!(looks(&[(101, Some(99)), (120, Some(99))]), ["wait", "fail"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let before = apps(&[("cam", 3, Some("was sick before")), ("web", 1, None)]);
        let why = |apps: &Apps, mesh, clock: &Clock| {
            let up_ms = TERMS.give_up_after_ms;
            let look = Look { up_ms, spent_ms: 0, mesh, clock, apps, before: &before, terms: &TERMS };
            match probation(&Watch::default(), &look).1 {
                Verdict::Fail(reason) => reason.to_string(),
                other => format!("{other:?}"),
            }
        };
        let (up, unfit) = (Mesh::Up { since_ms: 0 }, Clock::Unfit("1970".into()));
        let sick = apps(&[("web", 1, Some("probe http :80 → 500"))]);
        assert_eq!(why(&sick, up, &Clock::Fit), "app web unhealthy: probe http :80 → 500");
        assert_eq!(why(&apps(&[]), Mesh::Down, &unfit), "app web is missing");
        assert_eq!(why(&apps(&[("web", 2, None)]), up, &Clock::Fit), "app web runs revision 2, it was 1");
        assert_eq!(why(&before, Mesh::Down, &unfit), "no broker for 2 min after reboot");
        assert_eq!(why(&before, up, &unfit), "the clock is not fit: 1970");
        assert_eq!(why(&before, up, &Clock::Fit), "it was never well for 20 s without a break");
        assert_eq!(sick_before(&before), ["cam"]);
    }

    #[test]
    fn the_unit_holds_to_the_limit_without_an_agent() {
        let limit = Terms::default().give_up_after_ms;
        assert_eq!(enforce(None, &Place::OnTrial, None, "b", limit - 1), Enforced::LookAgain { at_ms: limit });
        let silent = Reason::AgentSilent { for_ms: limit };
        assert_eq!(enforce(None, &Place::OnTrial, None, "b", limit), Enforced::Fail(silent));
        for place in [Place::Clean, Place::Applying, Place::BeforeTrial, Place::Committed] {
            assert_eq!(enforce(None, &place, None, "b", limit), Enforced::Nothing);
        }
        assert_eq!(enforce(None, &Place::Failed, None, "b", 0), Enforced::Reboot);
        let degraded = record(Outcome::Degraded { why: Why::CannotReturn });
        assert_eq!(enforce(None, &Place::Failed, Some(&degraded), "b", limit), Enforced::Nothing);
        let again = Enforced::LookAgain { at_ms: limit + SIGN_MS };
        assert_eq!(enforce(None, &Place::Unknown("lvs".into()), None, "b", limit), again);
    }
}
