//! What the process does that does not hold the lease: it waits for it, ends the other instance when that one's time is
//! over, and goes when it is told to. It writes nothing; `ledger` was read just now.

use bramble_contracts::v2::UpgradeWord;

use super::effect::{Effect, ExitCode};
use super::event::Event;
use super::facts::Facts;
use super::ledger::{Ledger, Phase};
use super::step::{Who, end};

pub(super) fn step(ledger: &Ledger, event: &Event, facts: &Facts) -> Vec<Effect> {
    match event {
        Event::Started => vec![started(ledger, facts)],
        Event::Tick if is_overdue(ledger, facts) => vec![Effect::StopInstance(facts.instance.other())],
        Event::Word(UpgradeWord::Retire) if is_spare(ledger, facts) => vec![Effect::Exit(ExitCode::Retire)],
        Event::Failed { effect: Effect::WaitForLease, .. } => vec![Effect::Exit(ExitCode::Restart)],
        Event::Tick
        | Event::Word(UpgradeWord::Retire | UpgradeWord::Confirm { .. } | UpgradeWord::Abort { .. })
        | Event::Failed { .. }
        | Event::LeaseGot
        | Event::Wished
        | Event::Judged { .. }
        | Event::Staged { .. }
        | Event::Tested { .. }
        | Event::Ready { .. }
        | Event::LinkTurned(_)
        | Event::Halted
        | Event::Reconciled
        | Event::InstanceGone(_) => vec![],
    }
}

/// Somebody acts already. Is this one waited for, or one too many?
fn started(ledger: &Ledger, facts: &Facts) -> Effect {
    let home = facts.instance == ledger.confirmed.instance;
    let returning = ledger.upgrade.as_ref().is_some_and(|upgrade| matches!(upgrade.phase, Phase::Returning(_)));
    match Who::of(facts.own, ledger) {
        Who::Confirmed if home => Effect::WaitForLease,
        Who::New if !returning => Effect::WaitForLease,
        Who::Confirmed => Effect::Exit(ExitCode::Retire),
        Who::New | Who::Stranger => end(facts.instance, ledger),
    }
}

/// Is another version, or another instance, confirmed, and no hand-over under way in which this one may be needed?
fn is_spare(ledger: &Ledger, facts: &Facts) -> bool {
    let handing_over = ledger.upgrade.as_ref().is_some_and(super::Upgrade::is_cut_over);
    !handing_over && ledger.confirmed.instance != facts.instance
}

/// For how long the other instance may go on before this one ends it, in milliseconds since the phase began.
pub(super) fn patience_ms(ledger: &Ledger, facts: &Facts) -> Option<u64> {
    let upgrade = ledger.upgrade.as_ref()?;
    let beside_new = Who::of(facts.own, ledger) == Who::New;
    match upgrade.phase {
        Phase::Released if beside_new => None,
        Phase::Trial { instance, .. } if instance == facts.instance => None,
        Phase::Released | Phase::Trial { .. } | Phase::Returning(_) => {
            Some(upgrade.bound_ms(&facts.bounds).saturating_add(facts.bounds.grace_ms))
        }
        // The old one acts, and nobody waits for its end.
        Phase::Judging | Phase::Staging | Phase::Verifying | Phase::Starting | Phase::Halting => None,
    }
}

fn is_overdue(ledger: &Ledger, facts: &Facts) -> bool {
    let elapsed_ms = ledger.upgrade.as_ref().map(|upgrade| upgrade.since.elapsed_ms(facts));
    elapsed_ms.zip(patience_ms(ledger, facts)).is_some_and(|(elapsed, patience)| elapsed >= patience)
}
