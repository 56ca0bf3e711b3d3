//! Mistakes that somebody could make, planted in the simulated device one by one. Each has to be caught.

use super::crashes;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Effects are done before the ledger is stored.
    ActsBeforeStoring,
    /// The ledger is not synced before the reboot on trial.
    LedgerNotDurable,
    /// The agent takes an error of LVM for "no upgrade pending".
    AgentTakesErrorForNone,
    /// The guard does.
    GuardTakesErrorForNone,
    /// The snapshot is tagged before the pool has made it.
    TaggedBeforeMade,
    /// The snapshot is not tagged for the trial.
    TrialTagForgotten,
    /// The snapshot does not say which slot is written.
    SlotTagForgotten,
    /// What is judged failed is not tagged so.
    FailTagForgotten,
    /// autoboot.txt is not synced.
    FlipNotSynced,
    /// The snapshot is removed before autoboot.txt is flipped.
    RemovedBeforeFlip,
    /// What apt wrote is not synced.
    ApplyNotSynced,
    /// apt writes to the slot that was booted.
    ActiveSlotWritten,
    /// The guard does not count trials.
    AttemptNotCounted,
    /// The guard takes every slot for the first.
    SlotIsGuessed,
    /// The result of an earlier run is taken for that of this one.
    StaleResults,
    /// Nobody asks how the apps are.
    AppsNotAsked,
    /// The probation timer does not run.
    NoTimer,
}

/// Every one.
pub const ALL: [Bug; 17] = [
    Bug::ActsBeforeStoring,
    Bug::LedgerNotDurable,
    Bug::AgentTakesErrorForNone,
    Bug::GuardTakesErrorForNone,
    Bug::TaggedBeforeMade,
    Bug::TrialTagForgotten,
    Bug::SlotTagForgotten,
    Bug::FailTagForgotten,
    Bug::FlipNotSynced,
    Bug::RemovedBeforeFlip,
    Bug::ApplyNotSynced,
    Bug::ActiveSlotWritten,
    Bug::AttemptNotCounted,
    Bug::SlotIsGuessed,
    Bug::StaleResults,
    Bug::AppsNotAsked,
    Bug::NoTimer,
];

#[test]
fn every_planted_bug_is_caught() {
    let mut missed = vec![];
    for bug in ALL {
        match crashes::first_wrong(bug) {
            Some((cases, what)) => println!("{bug:?}: caught by case {cases}: {what}"),
            None => missed.push(bug),
        }
    }
    println!("{} bugs planted, {} caught", ALL.len(), ALL.len() - missed.len());
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
