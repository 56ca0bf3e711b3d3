//! Answers what an upgrade would do, while none is under way: the privileged unit asks apt, and nothing is remembered.
//!
//! Decides how long that may take. A wish that comes meanwhile waits for the unit, as for any that runs.

use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::v3::OsPackages;
use tokio::sync::{Notify, mpsc};

use super::sight::Sight;
use super::{beside, wire};
use crate::core::os::{
    BootFiles, Facts, Ledger, Order, OwnUpgrade, Plan, Protection, Ticket, UnitResult, Verb, foresee, unasked,
};
use crate::core::upgrade::Moment;
use crate::host::os::{Files, Units};
use crate::mesh::Question;

/// Below the time in which a command may be answered.
const TIME_MAX: Duration = Duration::from_secs(540);
const POLL: Duration = Duration::from_millis(500);
/// A unit that ends without a word is found out by this many polls.
const LOST_AFTER: u32 = 10;
/// In tickets. No wish has such an id.
const NOBODY: &str = "plan";

/// Where questions come in.
pub(crate) type Questions = mpsc::Receiver<Question>;

/// Begins to answer. Returns once the unit is started; the answer comes by itself, and then `over` is told: a wish may have
/// waited for the unit.
pub(super) async fn begin(
    sight: &mut Sight,
    files: &Files,
    ledger: &Ledger,
    own: OwnUpgrade,
    question: Question,
    over: Arc<Notify>,
) {
    let Question { packages, answer } = question;
    match started(sight, files, ledger, own, &packages).await {
        Err(why) => drop(answer.send(Err(why))),
        Ok((order, facts)) => {
            let strength = sight.machine.strength();
            let (files, ledger) = (files.clone(), ledger.clone());
            tokio::spawn(async move {
                let planned = tokio::time::timeout(TIME_MAX, wait(&files, &order)).await;
                let said = planned.unwrap_or_else(|_| Err(format!("apt took longer than {} s", TIME_MAX.as_secs())));
                let told = said
                    .map(|plan| wire::plan(facts.protection, &strength.lacks, &plan, &foresee(&ledger, &facts, &plan)));
                let _ = answer.send(told);
                over.notify_one();
            });
        }
    }
}

async fn started(
    sight: &mut Sight,
    files: &Files,
    ledger: &Ledger,
    own: OwnUpgrade,
    packages: &OsPackages,
) -> Result<(Order, Facts), String> {
    let what = wire::what(packages);
    let facts = sight.gather_for_plan(files, ledger, own).await;
    if let Some(why) = unasked(ledger, &what, &facts) {
        let lacks = sight.machine.strength().lacks;
        return Err(if lacks.is_empty() || facts.protection != Protection::None {
            why
        } else {
            format!("{why}: {lacks}")
        });
    }
    if let Some(verb) = Units.active().await?.first() {
        return Err(format!("another part of an upgrade is at work on it ({verb}): try again in a moment"));
    }
    let began = Moment { boot: facts.boot.clone(), up_ms: facts.up_ms };
    let ticket = Ticket { wish: NOBODY.into(), attempt: 0, began };
    let boot_files = match facts.protection {
        Protection::Tryboot => BootFiles::Upgraded,
        Protection::Bootcount | Protection::None => BootFiles::Held,
    };
    let order = Order { verb: Verb::Plan, ticket, what, slot: None, boot_files };
    let (places, asked) = (files.clone(), order.clone());
    let left = beside(move || places.ask(&asked).map_err(|err| err.to_string())).await;
    left.unwrap_or_else(|| Err("leaving the order broke off".into()))?;
    Units.start(Verb::Plan).await?;
    Ok((order, facts))
}

/// Waits for what the unit leaves.
async fn wait(files: &Files, order: &Order) -> Result<Plan, String> {
    for poll in 1_u32.. {
        tokio::time::sleep(POLL).await;
        // Asked before the result is read: one that ends between the two still counts as running.
        let runs = !poll.is_multiple_of(LOST_AFTER) || Units.active().await?.contains(&Verb::Plan);
        let places = files.clone();
        let found = beside(move || places.result(Verb::Plan)).await.flatten();
        match found.filter(|found| found.ticket == order.ticket) {
            Some(UnitResult { result: Ok(Some(plan)), .. }) => return Ok(plan),
            Some(UnitResult { result: Ok(None), .. }) => return Err("apt's unit left no plan".into()),
            Some(UnitResult { result: Err(failure), .. }) => return Err(failure.why),
            None if runs => {}
            None => break,
        }
    }
    Err("apt's unit ended without a word: see `journalctl -u bramble-os@plan` on the device".into())
}
