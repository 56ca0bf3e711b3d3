//! What the report says of an OS upgrade, out of the ledger. Plain types of the core; the wire has its own.

use bramble_contracts::boot::{Slot, Snapshot};
use bramble_contracts::v1::Status;
use serde::{Deserialize, Serialize};

use super::begin::hindrance;
use super::facts::{Facts, Volumes};
use super::ledger::{Ledger, Outcome, Phase, Upgrade};
use super::packages::{Delta, Plan};
use super::probation::sick_before;
use super::progress::Progress;
use super::wish::{Protection, Wish};
use crate::core::report::cut;

/// A sentence for people.
const REASON_BYTES_MAX: usize = 300;

/// Where an upgrade is, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OsPhase {
    /// Nothing is under way.
    Idle,
    /// It is planned and fetched.
    Preflight,
    /// The snapshot is made.
    Snapshot,
    /// Packages are written.
    Applying,
    /// It is about to reboot into the new system.
    Armed,
    /// The new system is watched.
    Trial,
    /// The new system stays; what is left of the old one is removed.
    Confirmed,
    /// The old system comes back, or is back.
    RolledBack,
    /// The old system cannot be reached: people have to help.
    Degraded,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OsStatus {
    /// [`Wish::id`]; absent where nothing was ever asked.
    pub wish: Option<String>,
    /// [`Wish::attempt`].
    pub attempt: u32,
    /// Its public status; absent where nothing was ever asked.
    pub status: Option<Status>,
    /// Where it is.
    pub phase: OsPhase,
    /// Of what the phase does, 0 to 100.
    pub percent: Option<u8>,
    /// Why it does not go on, or went back; empty when all is well.
    pub reason: String,
    /// Is the package set refused from now on?
    pub blamed: bool,
    /// What changes.
    pub delta: Delta,
    /// Held packages that would change.
    pub held: Vec<String>,
    /// To be fetched.
    pub bytes: u64,
    /// From its beginning to its end, in milliseconds, without what firmware took.
    pub took_ms: Option<u64>,
    /// From the start of the new kernel until all was well, in milliseconds.
    pub down_ms: Option<u64>,
    /// Apps that were sick before and do not count.
    pub sick_before: Vec<String>,
    /// What brings the old system back here.
    pub protection: Protection,
    /// The slot that was booted.
    pub slot: Option<Slot>,
    /// The snapshot, if there is one.
    pub snapshot: Option<Snapshot>,
}

impl OsStatus {
    /// One line for people: `rolled back: no broker for 10 min after reboot`.
    pub fn headline(&self) -> String {
        let word = match (self.phase, self.status) {
            (OsPhase::Idle, Some(Status::Confirmed)) | (OsPhase::Confirmed, _) => "confirmed",
            (OsPhase::Idle, Some(Status::RolledBack)) => "rolled back",
            (OsPhase::Idle, Some(Status::Failed)) => "failed",
            (OsPhase::Idle, Some(Status::Staged | Status::Trial)) => "waiting",
            (OsPhase::Idle, None) => "none",
            (OsPhase::Preflight, _) => "preflight",
            (OsPhase::Snapshot, _) => "snapshot",
            (OsPhase::Applying, _) => "applying",
            (OsPhase::Armed, _) => "armed",
            (OsPhase::Trial, _) => "on trial",
            (OsPhase::RolledBack, _) => "rolling back",
            (OsPhase::Degraded, _) => "degraded",
        };
        let percent = self.percent.map(|percent| format!(" {percent} %")).unwrap_or_default();
        if self.reason.is_empty() { format!("{word}{percent}") } else { format!("{word}{percent}: {}", self.reason) }
    }
}

/// What is told. `progress` is of the unit that runs.
pub fn status(ledger: &Ledger, facts: &Facts, progress: Option<&Progress>) -> OsStatus {
    let told = match (&ledger.upgrade, &facts.wish) {
        (Some(upgrade), _) => under_way(upgrade, facts, progress),
        (None, Some(wish)) => wished(ledger, wish, facts),
        (None, None) => ledger.last.as_ref().map_or_else(|| blank(facts), |last| over(last, facts)),
    };
    OsStatus { reason: cut(&told.reason, REASON_BYTES_MAX), ..told }
}

fn blank(facts: &Facts) -> OsStatus {
    OsStatus {
        wish: None,
        attempt: 0,
        status: None,
        phase: OsPhase::Idle,
        percent: None,
        reason: String::new(),
        blamed: false,
        delta: Delta::default(),
        held: vec![],
        bytes: 0,
        took_ms: None,
        down_ms: None,
        sick_before: vec![],
        protection: facts.protection,
        slot: facts.booted,
        snapshot: match facts.volumes {
            Volumes::Snapshot(snapshot) => Some(snapshot),
            Volumes::Plain | Volumes::Unreadable(_) => None,
        },
    }
}

fn with_plan(plan: Option<&Plan>, told: OsStatus) -> OsStatus {
    match plan {
        None => told,
        Some(plan) => OsStatus { delta: plan.delta.shown(), held: plan.held.clone(), bytes: plan.fetch_bytes, ..told },
    }
}

fn wished(ledger: &Ledger, wish: &Wish, facts: &Facts) -> OsStatus {
    let of_wish = |last: &&Outcome| (&last.ticket.wish, last.ticket.attempt) == (&wish.id, wish.attempt);
    let denied = ledger.denial(wish);
    if let Some(last) = ledger.last.as_ref().filter(of_wish) {
        let told = over(last, facts);
        let waits = denied.is_none() && last.status != Status::Confirmed;
        let why = hindrance(ledger, wish, facts).filter(|_| waits);
        let reason = why.map_or(told.reason.clone(), |why| format!("{}; {why}", told.reason));
        return OsStatus { reason, ..told };
    }
    let told = OsStatus { wish: Some(wish.id.clone()), attempt: wish.attempt, ..blank(facts) };
    match denied {
        Some(denied) => OsStatus {
            status: Some(denied.status),
            reason: denied.reason.to_string(),
            blamed: denied.set.is_some(),
            ..told
        },
        None => OsStatus {
            status: Some(Status::Staged),
            reason: hindrance(ledger, wish, facts).unwrap_or_default(),
            ..told
        },
    }
}

fn over(last: &Outcome, facts: &Facts) -> OsStatus {
    let told = OsStatus {
        wish: Some(last.ticket.wish.clone()),
        attempt: last.ticket.attempt,
        status: Some(last.status),
        reason: last.reason.as_ref().map(ToString::to_string).unwrap_or_default(),
        blamed: last.blamed,
        took_ms: Some(last.took_ms),
        down_ms: last.down_ms,
        sick_before: last.sick_before.clone(),
        ..blank(facts)
    };
    with_plan(last.plan.as_ref(), told)
}

fn under_way(upgrade: &Upgrade, facts: &Facts, progress: Option<&Progress>) -> OsStatus {
    let (status, phase) = match &upgrade.phase {
        Phase::Planning | Phase::Fetching => (Status::Staged, OsPhase::Preflight),
        Phase::Snapshot => (Status::Trial, OsPhase::Snapshot),
        Phase::Applying | Phase::Arming => (Status::Trial, OsPhase::Applying),
        Phase::Armed => (Status::Trial, OsPhase::Armed),
        Phase::Trial(_) | Phase::Committing { .. } | Phase::Unsettled => (Status::Trial, OsPhase::Trial),
        Phase::Removing | Phase::Resyncing => (Status::Confirmed, OsPhase::Confirmed),
        Phase::Mending(None) => (Status::Trial, OsPhase::Trial),
        Phase::Mending(Some(_)) | Phase::Failing(_) | Phase::Returning(_) => (Status::Trial, OsPhase::RolledBack),
        Phase::Degraded(_) => (Status::Failed, OsPhase::Degraded),
    };
    let why = match &upgrade.phase {
        Phase::Trial(trial) => trial.watch.missing.as_ref(),
        Phase::Mending(reason) => reason.as_ref(),
        Phase::Failing(reason) | Phase::Returning(reason) | Phase::Degraded(reason) => Some(reason),
        Phase::Planning
        | Phase::Fetching
        | Phase::Snapshot
        | Phase::Applying
        | Phase::Arming
        | Phase::Armed
        | Phase::Committing { .. }
        | Phase::Unsettled
        | Phase::Removing
        | Phase::Resyncing => None,
    };
    let why = why.map(|why| if phase == OsPhase::Trial { why.at(facts.up_ms) } else { why.clone() });
    let parts = [why.map(|why| why.to_string()), upgrade.trouble.clone()];
    let told = OsStatus {
        wish: Some(upgrade.wish.id.clone()),
        attempt: upgrade.wish.attempt,
        status: Some(status),
        phase,
        percent: match upgrade.phase {
            // All is written.
            Phase::Arming => Some(100),
            _ => progress.map(|progress| progress.percent),
        },
        reason: parts.into_iter().flatten().collect::<Vec<_>>().join("; "),
        down_ms: upgrade.down_ms,
        sick_before: sick_before(&upgrade.before),
        ..blank(facts)
    };
    with_plan(upgrade.plan.as_ref(), told)
}
