//! The boot guard's decision: from what the boot found to what is done, before root is mounted.
//!
//! Pure and total: every combination has an answer, and none of them is a shell. One invariant carries it: the content of
//! root follows the boot slot that the firmware actually booted. Decides; reads and changes nothing.

use bramble_contracts::boot::{Phase, Slot, Tryboot, Why};
use serde::{Deserialize, Serialize};

/// The volume group, as far as it could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "state", deny_unknown_fields)]
pub enum Volumes {
    /// It could not be read; never the same as "no upgrade".
    Unreadable {
        /// Boots in a row that met this, this one included; absent when the count itself cannot be kept.
        times: Option<u32>,
    },
    /// Read, and there is no snapshot.
    Plain,
    /// Read, and an upgrade had only begun: there is a snapshot that no phase is tagged to, and root is as it was.
    Begun,
    /// An upgrade is under way.
    Snapshot {
        /// How far it was.
        phase: Phase,
        /// The slot it wrote.
        new_slot: Slot,
        /// Trial boots so far.
        attempt: u32,
        /// Reboots so far that tried to reach the old slot after a failure.
        returns: u32,
    },
}

/// What one boot found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Facts {
    /// The volume group.
    pub volumes: Volumes,
    /// The slot whose files were booted.
    pub booted: Slot,
    /// Of this boot.
    pub tryboot: Tryboot,
    /// The slot that autoboot.txt names; absent when it cannot be read.
    pub autoboot: Option<Slot>,
    /// Trial boots allowed.
    pub attempts_max: u32,
    /// Reboots allowed on the way back to the old slot.
    pub returns_max: u32,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", tag = "action")]
pub enum Action {
    /// Mount root and go on.
    Boot,
    /// Mount root and go on: the agent judges this boot.
    BootOnTrial,
    /// Mount root and go on: the upgrade was committed, its snapshot is removed later.
    BootCommitted,
    /// Merge the snapshot back, note why, mount root and go on.
    MergeAndBoot {
        /// For the journal on `state`.
        why: Why,
    },
    /// Ask the firmware for one more trial and reboot.
    RearmTryboot,
    /// Make autoboot.txt name this slot, then reboot.
    MendAutoboot {
        /// The old slot.
        to: Slot,
    },
    /// Reboot into this slot, which autoboot.txt names already.
    RebootTo {
        /// The old slot.
        slot: Slot,
    },
    /// Mount root and go on, and say loudly that this is not as it should be.
    BootDegraded {
        /// For the report.
        why: Why,
    },
    /// Try to repair what is wrong with the volumes, then reboot.
    RepairAndReboot,
    /// Boot the other slot.
    RebootToOther {
        /// Which that is.
        slot: Slot,
    },
    /// Wait, then reboot; the reason goes to the console and the first partition.
    WaitAndReboot {
        /// How long.
        secs: u32,
    },
}

const WAIT_FIRST_SECS: u32 = 60;
const WAIT_MAX_SECS: u32 = 600;

/// The decision.
pub fn decide(facts: &Facts) -> Action {
    match facts.volumes {
        Volumes::Plain | Volumes::Begun => Action::Boot,
        Volumes::Unreadable { times } => unreadable(facts, times),
        Volumes::Snapshot { phase: Phase::Apply, new_slot, returns, .. } => applied(facts, new_slot, returns),
        Volumes::Snapshot { phase: Phase::Trial, new_slot, attempt, .. } => trial(facts, new_slot, attempt),
        Volumes::Snapshot { phase: Phase::Failed, new_slot, returns, .. } => failed(facts, new_slot, returns),
    }
}

/// The half-written slot is only booted where the other one was tried for its own sake: root must not be put back under it.
/// Past the bound a whole root counts more.
fn applied(facts: &Facts, new_slot: Slot, returns: u32) -> Action {
    let merge = Action::MergeAndBoot { why: Why::PowerCutInApply };
    let old = new_slot.other();
    match (facts.tryboot, facts.booted == old) {
        (Tryboot::Unsupported, _) | (Tryboot::Set | Tryboot::Clear, true) => merge,
        (Tryboot::Set | Tryboot::Clear, false) if returns >= facts.returns_max => merge,
        (Tryboot::Set | Tryboot::Clear, false) if facts.autoboot == Some(old) => Action::RebootTo { slot: old },
        (Tryboot::Set | Tryboot::Clear, false) => Action::MendAutoboot { to: old },
    }
}

fn trial(facts: &Facts, new_slot: Slot, attempt: u32) -> Action {
    let used_up = Action::MergeAndBoot { why: Why::TrialsUsedUp };
    match (facts.tryboot, facts.booted == new_slot) {
        (Tryboot::Unsupported, _) if attempt >= facts.attempts_max => used_up,
        (Tryboot::Unsupported, _) => Action::BootOnTrial,
        (Tryboot::Set | Tryboot::Clear, false) if attempt >= facts.attempts_max => used_up,
        (Tryboot::Set | Tryboot::Clear, false) => Action::RearmTryboot,
        (Tryboot::Set, true) => Action::BootOnTrial,
        (Tryboot::Clear, true) if facts.autoboot == Some(new_slot) => Action::BootCommitted,
        (Tryboot::Clear, true) => Action::BootOnTrial,
    }
}

fn failed(facts: &Facts, new_slot: Slot, returns: u32) -> Action {
    let old = new_slot.other();
    match (facts.tryboot, facts.booted == old) {
        // Without a one-shot boot there is one set of boot files, and only root can be brought back.
        (Tryboot::Unsupported, _) | (Tryboot::Set | Tryboot::Clear, true) => {
            Action::MergeAndBoot { why: Why::JudgedFailed }
        }
        (Tryboot::Set | Tryboot::Clear, false) if returns >= facts.returns_max => {
            Action::BootDegraded { why: Why::CannotReturn }
        }
        (Tryboot::Set | Tryboot::Clear, false) if facts.autoboot == Some(old) => Action::RebootTo { slot: old },
        (Tryboot::Set | Tryboot::Clear, false) => Action::MendAutoboot { to: old },
    }
}

/// First a repair, then the other slot, if one can be asked for, then longer and longer pauses. A count that cannot be kept
/// counts as high.
fn unreadable(facts: &Facts, times: Option<u32>) -> Action {
    match times {
        Some(0 | 1) => Action::RepairAndReboot,
        Some(2) if facts.tryboot != Tryboot::Unsupported => Action::RebootToOther { slot: facts.booted.other() },
        Some(times) => Action::WaitAndReboot { secs: pause_secs(times.saturating_sub(3)) },
        None => Action::WaitAndReboot { secs: WAIT_MAX_SECS },
    }
}

/// Longer and longer, up to ten minutes.
pub fn pause_secs(waits_before: u32) -> u32 {
    (WAIT_FIRST_SECS << waits_before.min(16)).min(WAIT_MAX_SECS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    fn snapshot(phase: Phase, attempt: u32, returns: u32) -> Volumes {
        Volumes::Snapshot { phase, new_slot: Slot::B, attempt, returns }
    }

    fn facts(volumes: Volumes, booted: Slot, tryboot: Tryboot, autoboot: Option<Slot>) -> Facts {
        Facts { volumes, booted, tryboot, autoboot, attempts_max: 3, returns_max: 3 }
    }

    /// The table of the design, row by row. The new slot is B.
    #[test]
    fn the_table() {
        use Action::*;
        use Phase::{Apply, Failed, Trial};
        use Slot::{A, B};
        use Tryboot::{Clear, Set, Unsupported};
        let merge = |why| MergeAndBoot { why };
        let rows = [
            (Volumes::Plain, A, Clear, Some(A), Boot),
            (Volumes::Plain, B, Set, None, Boot),
            (Volumes::Begun, A, Clear, Some(A), Boot),
            (snapshot(Apply, 0, 0), A, Clear, Some(A), merge(Why::PowerCutInApply)),
            (snapshot(Apply, 0, 0), B, Set, Some(A), RebootTo { slot: A }),
            (snapshot(Apply, 0, 0), B, Clear, None, MendAutoboot { to: A }),
            (snapshot(Apply, 0, 3), B, Clear, Some(B), merge(Why::PowerCutInApply)),
            (snapshot(Apply, 0, 0), B, Unsupported, None, merge(Why::PowerCutInApply)),
            (snapshot(Trial, 0, 0), A, Clear, Some(A), RearmTryboot),
            (snapshot(Trial, 2, 0), A, Clear, Some(A), RearmTryboot),
            (snapshot(Trial, 3, 0), A, Clear, Some(A), merge(Why::TrialsUsedUp)),
            (snapshot(Trial, 1, 0), B, Set, Some(A), BootOnTrial),
            (snapshot(Trial, 1, 0), B, Clear, Some(B), BootCommitted),
            (snapshot(Trial, 1, 0), B, Clear, Some(A), BootOnTrial),
            (snapshot(Trial, 1, 0), B, Clear, None, BootOnTrial),
            (snapshot(Failed, 1, 0), A, Clear, Some(A), merge(Why::JudgedFailed)),
            (snapshot(Failed, 1, 0), A, Set, None, merge(Why::JudgedFailed)),
            (snapshot(Failed, 1, 0), B, Clear, Some(A), RebootTo { slot: A }),
            (snapshot(Failed, 1, 0), B, Clear, Some(B), MendAutoboot { to: A }),
            (snapshot(Failed, 1, 0), B, Clear, None, MendAutoboot { to: A }),
            (snapshot(Failed, 1, 3), B, Clear, Some(B), BootDegraded { why: Why::CannotReturn }),
            (snapshot(Trial, 2, 0), A, Unsupported, None, BootOnTrial),
            (snapshot(Trial, 3, 0), A, Unsupported, None, merge(Why::TrialsUsedUp)),
            (snapshot(Failed, 1, 0), B, Unsupported, None, merge(Why::JudgedFailed)),
            (Volumes::Unreadable { times: Some(1) }, A, Clear, Some(A), RepairAndReboot),
            (Volumes::Unreadable { times: Some(2) }, A, Clear, Some(A), RebootToOther { slot: B }),
            (Volumes::Unreadable { times: Some(2) }, A, Unsupported, None, WaitAndReboot { secs: 60 }),
            (Volumes::Unreadable { times: Some(3) }, A, Clear, Some(A), WaitAndReboot { secs: 60 }),
            (Volumes::Unreadable { times: Some(5) }, A, Clear, Some(A), WaitAndReboot { secs: 240 }),
            (Volumes::Unreadable { times: Some(u32::MAX) }, A, Clear, Some(A), WaitAndReboot { secs: 600 }),
            (Volumes::Unreadable { times: None }, B, Set, None, WaitAndReboot { secs: 600 }),
        ];
        for (volumes, booted, tryboot, autoboot, want) in rows {
            let facts = facts(volumes, booted, tryboot, autoboot);
            assert_eq!(decide(&facts), want, "{facts:?}");
        }
    }

    fn slot() -> impl Strategy<Value = Slot> {
        prop_oneof![Just(Slot::A), Just(Slot::B)]
    }

    fn volumes() -> impl Strategy<Value = Volumes> {
        let phase = prop_oneof![Just(Phase::Apply), Just(Phase::Trial), Just(Phase::Failed)];
        prop_oneof![
            any::<Option<u32>>().prop_map(|times| Volumes::Unreadable { times }),
            Just(Volumes::Plain),
            Just(Volumes::Begun),
            (phase, slot(), any::<u32>(), any::<u32>()).prop_map(|(phase, new_slot, attempt, returns)| {
                Volumes::Snapshot { phase, new_slot, attempt, returns }
            }),
        ]
    }

    fn any_facts() -> impl Strategy<Value = Facts> {
        let tryboot = prop_oneof![Just(Tryboot::Set), Just(Tryboot::Clear), Just(Tryboot::Unsupported)];
        let autoboot = prop_oneof![Just(None), slot().prop_map(Some)];
        (volumes(), slot(), tryboot, autoboot, any::<u32>(), any::<u32>()).prop_map(
            |(volumes, booted, tryboot, autoboot, attempts_max, returns_max)| Facts {
                volumes,
                booted,
                tryboot,
                autoboot,
                attempts_max,
                returns_max,
            },
        )
    }

    proptest! {
        #[test]
        fn root_follows_the_slot_that_booted(facts in any_facts()) {
            let action = decide(&facts);
            let merges = matches!(action, Action::MergeAndBoot { .. });
            match facts.volumes {
                Volumes::Plain | Volumes::Begun => prop_assert_eq!(action, Action::Boot),
                // An error while reading is never "no upgrade pending".
                Volumes::Unreadable { .. } => {
                    let waits = matches!(
                        action,
                        Action::RepairAndReboot | Action::RebootToOther { .. } | Action::WaitAndReboot { .. }
                    );
                    prop_assert!(waits);
                }
                Volumes::Snapshot { phase, new_slot, returns, .. } => {
                    prop_assert!(action != Action::Boot, "a snapshot is never forgotten");
                    // With new kernel and modules booted, the old root must not be put under them.
                    let bounded = phase == Phase::Apply && returns >= facts.returns_max;
                    if !bounded && facts.booted == new_slot && facts.tryboot != Tryboot::Unsupported {
                        prop_assert!(!merges);
                    }
                }
            }
        }

        #[test]
        fn facts_read_back(facts in any_facts()) {
            let text = serde_json::to_string(&facts).unwrap();
            prop_assert_eq!(serde_json::from_str::<Facts>(&text).unwrap(), facts);
        }
    }
}
