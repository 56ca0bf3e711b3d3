//! What the report says of the agent as a program, out of the ledger. Only the holder of the lease reports.

use bramble_contracts::v1::Status;
use bramble_contracts::v2::{AgentReport, AgentWish, UpgradePhase, UpgradeReport};

use super::begin;
use super::event::Attempt;
use super::facts::Facts;
use super::ledger::{Ledger, Outcome, Phase, Upgrade};
use crate::core::report::cut;

/// A sentence for people.
const REASON_BYTES_MAX: usize = 300;

/// All of it. `keys_version` is that of the release keys held, `bytes_got` what has come in of the binary under way.
pub fn report(ledger: &Ledger, facts: &Facts, keys_version: u64, bytes_got: u64) -> AgentReport {
    AgentReport {
        target: facts.links.and_then(|_| facts.target.clone()),
        release_seq: if facts.own == ledger.confirmed.version { ledger.confirmed.release_seq } else { own_seq(ledger) },
        floor: facts.floor,
        keys_version,
        upgrade: upgrade(ledger, facts, bytes_got),
    }
}

/// A new agent on trial is a release too.
fn own_seq(ledger: &Ledger) -> u64 {
    ledger.upgrade.as_ref().map_or(0, |upgrade| upgrade.release_seq)
}

fn upgrade(ledger: &Ledger, facts: &Facts, bytes_got: u64) -> Option<UpgradeReport> {
    if let Some(upgrade) = &ledger.upgrade {
        return Some(under_way(upgrade, bytes_got));
    }
    let Some(wish) = &facts.wish else { return ledger.last.as_ref().map(over) };
    let of = Attempt::from(wish);
    if let Some(last) = ledger.last.as_ref().filter(|last| last.of == of) {
        let over = over(last);
        let again = begin::hindrance(ledger, wish, facts).filter(|_| !last.blamed && last.status != Status::Confirmed);
        let reason = again.map_or(over.reason.clone(), |why| format!("{}; {why}", over.reason));
        return Some(UpgradeReport { reason: cut(&reason, REASON_BYTES_MAX), ..over });
    }
    let (status, phase, reason, blamed) = match ledger.denial(&of) {
        Some(denied) => (denied.status, UpgradePhase::Done, denied.why.clone(), true),
        None => {
            let why = begin::hindrance(ledger, wish, facts).unwrap_or_default();
            (Status::Staged, UpgradePhase::Waiting, why, false)
        }
    };
    Some(UpgradeReport { status, phase, reason: cut(&reason, REASON_BYTES_MAX), blamed, ..blank(of, wish) })
}

fn blank(of: Attempt, wish: &AgentWish) -> UpgradeReport {
    UpgradeReport {
        version: wish.version,
        manifest: of.manifest,
        attempt: of.number,
        status: Status::Staged,
        phase: UpgradePhase::Waiting,
        reason: String::new(),
        blamed: false,
        bytes_got: 0,
        bytes_all: 0,
        took_ms: None,
        unmanaged_ms: None,
    }
}

fn under_way(upgrade: &Upgrade, bytes_got: u64) -> UpgradeReport {
    let bytes_all = upgrade.admitted.map_or(0, |admitted| admitted.size);
    let (status, phase, got) = match &upgrade.phase {
        Phase::Judging => (Status::Staged, UpgradePhase::Draining, 0),
        Phase::Staging => (Status::Staged, UpgradePhase::Staging, bytes_got.min(bytes_all)),
        Phase::Verifying => (Status::Staged, UpgradePhase::Verifying, bytes_all),
        Phase::Starting | Phase::Halting | Phase::Released => (Status::Trial, UpgradePhase::CutoverReady, bytes_all),
        Phase::Trial { .. } | Phase::Returning(_) => (Status::Trial, UpgradePhase::Trial, bytes_all),
    };
    let reason = match &upgrade.phase {
        Phase::Returning(failure) => format!("it is turned back: {}", failure.why),
        Phase::Judging
        | Phase::Staging
        | Phase::Verifying
        | Phase::Starting
        | Phase::Halting
        | Phase::Released
        | Phase::Trial { .. } => String::new(),
    };
    UpgradeReport {
        version: upgrade.version,
        manifest: upgrade.of.manifest,
        attempt: upgrade.of.number,
        status,
        phase,
        reason: cut(&reason, REASON_BYTES_MAX),
        blamed: false,
        bytes_got: got,
        bytes_all,
        took_ms: None,
        unmanaged_ms: upgrade.unmanaged_ms,
    }
}

fn over(last: &Outcome) -> UpgradeReport {
    UpgradeReport {
        version: last.version,
        manifest: last.of.manifest,
        attempt: last.of.number,
        status: last.status,
        phase: if last.beside.is_some() { UpgradePhase::Stopping } else { UpgradePhase::Done },
        reason: cut(&last.why, REASON_BYTES_MAX),
        blamed: last.blamed,
        bytes_got: if last.status == Status::Failed { 0 } else { last.size },
        bytes_all: last.size,
        took_ms: last.took_ms,
        unmanaged_ms: last.unmanaged_ms,
    }
}
