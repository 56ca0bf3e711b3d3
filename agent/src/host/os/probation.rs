//! The probation unit: holds to the limit of a trial, also where no agent is alive. No part of the agent.
//!
//! What it does is `core::os::enforce`'s word. Ends where there is nothing to enforce, which no later moment of the same
//! boot can change: a trial begins with a boot.

use std::time::Duration;

use bramble_contracts::boot::Phase;

use super::files::Files;
use super::look::seen;
use super::machine::Machine;
use super::reboot::{Way, reboot};
use super::verbs::{retag, turn};
use crate::core::os::{self, Enforced, Ground, Ledger, LedgerFile, Manner, Place, Reason, Sentence, enforce};
use crate::host::{clock, facts};

/// The agent's ledger says more as time goes on.
const LOOK_MAX: Duration = Duration::from_secs(30);
const LOOK_MIN: Duration = Duration::from_secs(1);
/// An orderly reboot that does not come in this time is forced.
const ORDERLY_MAX: Duration = Duration::from_secs(180);

/// Enforces until there is nothing left to.
///
/// # Errors
/// The lock, the sentence or the reboot; whoever started it starts it again.
pub async fn run(files: &Files) -> anyhow::Result<()> {
    let machine = Machine::look();
    if !machine.is_ours() {
        return Ok(());
    }
    loop {
        let ground = seen(files).await.ground(&machine);
        match enforced(files, &machine, &ground) {
            Enforced::Nothing => return Ok(()),
            Enforced::LookAgain { at_ms } => {
                let left = Duration::from_millis(at_ms.saturating_sub(clock::up_ms()));
                tokio::time::sleep(left.clamp(LOOK_MIN, LOOK_MAX)).await;
            }
            Enforced::Fail(reason) => {
                if sentence(files, &machine, &reason).await? {
                    return back(&machine).await;
                }
            }
            Enforced::Reboot => return back(&machine).await,
        }
    }
}

fn ledger(files: &Files) -> Option<Ledger> {
    files.ledger().load_json::<LedgerFile>().ok().and_then(|found| found.value()).map(Ledger::from)
}

fn enforced(files: &Files, machine: &Machine, ground: &Ground) -> Enforced {
    let (ledger, place) = (ledger(files), place(ground, machine));
    enforce(ledger.as_ref(), &place, machine.record(), &facts::boot_id(), clock::up_ms())
}

fn place(ground: &Ground, machine: &Machine) -> Place {
    let Ground { volumes, booted, autoboot, protection, .. } = ground;
    os::place_of(volumes, *booted, *autoboot, machine.record(), *protection)
}

/// Leaves the reason, then tags the snapshot failed: under the lock, where it is still on trial. False where it is not.
async fn sentence(files: &Files, machine: &Machine, reason: &Reason) -> anyhow::Result<bool> {
    let _turn = turn(files)?;
    let ground = seen(files).await.ground(machine);
    // Whoever held the lock may have committed it.
    if !matches!(enforced(files, machine, &ground), Enforced::Fail(_)) {
        return Ok(false);
    }
    tracing::error!(%reason, "the system on trial fails: the old one comes back");
    let ticket = ledger(files).and_then(|ledger| ledger.upgrade).map(|upgrade| upgrade.ticket);
    // A volume that is full keeps no reason, and must not keep the new system for that.
    if let Err(err) = files.sentence().store_json(&Sentence { ticket, reason: reason.clone() }) {
        tracing::error!(%err, "the old system comes back, and will not know why");
    }
    retag(&ground.volumes, Phase::Failed).await.map_err(anyhow::Error::msg)?;
    Ok(true)
}

/// In good order first; then not.
async fn back(machine: &Machine) -> anyhow::Result<()> {
    let has_slots = machine.tier() == os::Protection::Tryboot;
    let plainly = |manner| reboot(Way { into: os::Way::Plain, manner }, has_slots);
    match plainly(Manner::Orderly).await {
        Ok(()) => tokio::time::sleep(ORDERLY_MAX).await,
        Err(err) => tracing::error!(%err, "no reboot in good order"),
    }
    plainly(Manner::Forced).await
}
