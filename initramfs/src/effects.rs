//! From the decision to what is done, as data, and what is done instead where one of these things does not work.
//!
//! Decides order: what a later boot has to know is written before what it is about. Does nothing itself.

use bramble_contracts::boot::{Phase, Slot, Snapshot, Tryboot, Why};

use crate::decide::{Action, Facts, Volumes, decide};

/// A count among the snapshot's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Trial boots.
    Attempt,
    /// Ways back to the old slot.
    Returns,
}

impl Count {
    /// Its tag, without the value.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::Attempt => Snapshot::ATTEMPT,
            Self::Returns => Snapshot::RETURNS,
        }
    }
}

/// One thing to do. Each may be done again after a power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// On the console and in the kernel's log.
    Say(String),
    /// Writes on the first partition how often in a row the volumes could not be read.
    CountUnreadable(u32),
    /// Replaces a count among the snapshot's tags.
    Recount(Count, u32, u32),
    /// Writes on the state volume that root is put back, and why.
    Note(Why),
    /// Puts root back.
    Merge,
    /// Makes a plain boot get this slot.
    WriteAutoboot(Slot),
    /// Asks the firmware for one boot on trial.
    AskTryboot,
    /// Removes a snapshot that is of no upgrade.
    Drop,
    /// Tries to mend the pool's map.
    Repair,
    /// Makes an older text of LVM's count, where LVM knows no group for want of the newest.
    Recall,
    /// Waits, and keeps the watchdog quiet meanwhile.
    Wait(u32),
    /// Boots again.
    Reboot,
}

/// What an action comes to.
pub fn effects(facts: &Facts, action: Action) -> Vec<Effect> {
    let (attempt, returns) = match facts.volumes {
        Volumes::Snapshot { attempt, returns, .. } => (attempt, returns),
        Volumes::Plain | Volumes::Begun | Volumes::Unreadable { .. } => (0, 0),
    };
    let tried = Effect::Recount(Count::Attempt, attempt, attempt.saturating_add(1));
    let returned = Effect::Recount(Count::Returns, returns, returns.saturating_add(1));
    let say = |text: String| Effect::Say(text);
    match action {
        Action::Boot if facts.volumes == Volumes::Begun => vec![Effect::Drop],
        Action::Boot | Action::BootCommitted => vec![],
        Action::BootOnTrial if facts.tryboot == Tryboot::Unsupported => vec![tried],
        Action::BootOnTrial => vec![],
        Action::MergeAndBoot { why } => {
            vec![say(format!("root is put back: {why}")), Effect::Note(why), Effect::Merge]
        }
        Action::RearmTryboot => vec![
            say(format!("the new system did not come up; trial {} follows", attempt.saturating_add(2))),
            tried,
            Effect::AskTryboot,
            Effect::Reboot,
        ],
        Action::MendAutoboot { to } => vec![
            say(format!("this is not the slot to boot; back to {to}, which autoboot.txt has to name again")),
            returned,
            Effect::WriteAutoboot(to),
            Effect::Reboot,
        ],
        Action::RebootTo { slot } => {
            vec![say(format!("this is not the slot to boot; back to {slot}")), returned, Effect::Reboot]
        }
        Action::BootDegraded { why } => vec![say(format!("degraded: {why}"))],
        Action::RepairAndReboot => {
            let said = say("the volumes cannot be read; a repair is tried".into());
            counted(facts).into_iter().chain([said, Effect::Repair, Effect::Recall, Effect::Reboot]).collect()
        }
        Action::RebootToOther { slot } => {
            let said = say(format!("the volumes cannot be read, again; slot {slot} is tried"));
            let mend = [said, Effect::Recall];
            counted(facts).into_iter().chain(mend).chain(to_other(facts)).chain([Effect::Reboot]).collect()
        }
        Action::WaitAndReboot { secs } => {
            let said = say(format!("the volumes cannot be read, whatever was tried; next boot in {secs} s"));
            counted(facts).into_iter().chain([said, Effect::Recall, Effect::Wait(secs), Effect::Reboot]).collect()
        }
    }
}

fn counted(facts: &Facts) -> Option<Effect> {
    match facts.volumes {
        Volumes::Unreadable { times: Some(times) } => Some(Effect::CountUnreadable(times)),
        Volumes::Unreadable { times: None } | Volumes::Plain | Volumes::Begun | Volumes::Snapshot { .. } => None,
    }
}

/// A plain boot gets the slot that autoboot.txt names; the other one is a boot on trial.
fn to_other(facts: &Facts) -> Option<Effect> {
    let plain_is_other = facts.autoboot == Some(facts.booted.other());
    (!plain_is_other).then_some(Effect::AskTryboot)
}

/// What follows an effect that did not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// It was not essential.
    GoOn,
    /// This instead, on these grounds.
    Instead(Facts, Action),
}

/// A count that cannot be written counts as its bound, so that nothing is tried for ever. A merge that fails is a volume
/// group that cannot be read: `times` is what its count would be.
pub fn failed(facts: &Facts, action: Action, effect: &Effect, times: Option<u32>) -> Failed {
    let unreadable = |times| {
        let facts = Facts { volumes: Volumes::Unreadable { times }, ..*facts };
        Failed::Instead(facts, decide(&facts))
    };
    let in_phase = |wanted: Phase| matches!(facts.volumes, Volumes::Snapshot { phase, .. } if phase == wanted);
    match effect {
        Effect::Say(_) | Effect::Note(_) | Effect::Drop | Effect::Repair | Effect::Recall | Effect::Wait(_) => {
            Failed::GoOn
        }
        Effect::CountUnreadable(_) => match action {
            // Nothing further down would wait less.
            Action::WaitAndReboot { .. } => Failed::GoOn,
            _ => unreadable(None),
        },
        Effect::Recount(..) | Effect::AskTryboot | Effect::WriteAutoboot(_) if in_phase(Phase::Trial) => {
            Failed::Instead(*facts, Action::MergeAndBoot { why: Why::TrialsUsedUp })
        }
        // Root is half written: whole is better than of the right slot.
        Effect::Recount(..) | Effect::WriteAutoboot(_) if in_phase(Phase::Apply) => {
            Failed::Instead(*facts, Action::MergeAndBoot { why: Why::PowerCutInApply })
        }
        Effect::Recount(..) | Effect::WriteAutoboot(_) => {
            Failed::Instead(*facts, Action::BootDegraded { why: Why::CannotReturn })
        }
        // Then the same slot comes again, and the count is one further.
        Effect::AskTryboot => Failed::GoOn,
        Effect::Merge => unreadable(times),
        Effect::Reboot => Failed::GoOn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(volumes: Volumes, booted: Slot, tryboot: Tryboot, autoboot: Option<Slot>) -> Facts {
        Facts { volumes, booted, tryboot, autoboot, attempts_max: 2, returns_max: 3 }
    }

    fn snapshot(phase: Phase) -> Volumes {
        Volumes::Snapshot { phase, new_slot: Slot::B, attempt: 1, returns: 2 }
    }

    fn done(facts: &Facts) -> Vec<Effect> {
        effects(facts, decide(facts)).into_iter().filter(|effect| !matches!(effect, Effect::Say(_))).collect()
    }

    #[test]
    fn what_is_done_row_by_row() {
        use Effect::*;
        use Slot::{A, B};
        use Tryboot::{Clear, Set, Unsupported};
        let unreadable = |times| Volumes::Unreadable { times };
        let rows = [
            (facts(Volumes::Plain, A, Clear, Some(A)), vec![]),
            (facts(Volumes::Begun, A, Clear, Some(A)), vec![Drop]),
            (facts(snapshot(Phase::Trial), B, Set, Some(A)), vec![]),
            (facts(snapshot(Phase::Trial), B, Clear, Some(B)), vec![]),
            (facts(snapshot(Phase::Trial), B, Unsupported, None), vec![Recount(Count::Attempt, 1, 2)]),
            (facts(snapshot(Phase::Trial), A, Clear, Some(A)), vec![Recount(Count::Attempt, 1, 2), AskTryboot, Reboot]),
            (facts(snapshot(Phase::Apply), A, Clear, Some(A)), vec![Note(Why::PowerCutInApply), Merge]),
            (facts(snapshot(Phase::Failed), A, Clear, Some(A)), vec![Note(Why::JudgedFailed), Merge]),
            (facts(snapshot(Phase::Failed), B, Clear, Some(A)), vec![Recount(Count::Returns, 2, 3), Reboot]),
            (
                facts(snapshot(Phase::Failed), B, Clear, Some(B)),
                vec![Recount(Count::Returns, 2, 3), WriteAutoboot(A), Reboot],
            ),
            (facts(unreadable(Some(1)), A, Clear, Some(A)), vec![CountUnreadable(1), Repair, Recall, Reboot]),
            (facts(unreadable(Some(2)), A, Clear, Some(A)), vec![CountUnreadable(2), Recall, AskTryboot, Reboot]),
            (facts(unreadable(Some(2)), A, Set, Some(B)), vec![CountUnreadable(2), Recall, Reboot]),
            (facts(unreadable(Some(2)), A, Unsupported, None), vec![CountUnreadable(2), Recall, Wait(60), Reboot]),
            (facts(unreadable(Some(4)), A, Clear, Some(A)), vec![CountUnreadable(4), Recall, Wait(120), Reboot]),
            (facts(unreadable(None), A, Clear, None), vec![Recall, Wait(600), Reboot]),
        ];
        for (facts, want) in rows {
            assert_eq!(done(&facts), want, "{facts:?}");
        }
    }

    /// Whatever fails, and what fails then: it ends in a boot or a reboot after a bounded number of tries.
    #[test]
    fn failures_end_somewhere() {
        for phase in [Phase::Apply, Phase::Trial, Phase::Failed] {
            for (booted, tryboot) in [
                (Slot::A, Tryboot::Clear),
                (Slot::B, Tryboot::Set),
                (Slot::B, Tryboot::Clear),
                (Slot::A, Tryboot::Unsupported),
            ] {
                let mut facts = facts(snapshot(phase), booted, tryboot, Some(Slot::A));
                let mut action = decide(&facts);
                for turn in 0.. {
                    assert!(turn < 6, "{facts:?} goes round");
                    let list = effects(&facts, action);
                    let worst = list.iter().find_map(|effect| match failed(&facts, action, effect, Some(1)) {
                        Failed::Instead(facts, action) => Some((facts, action)),
                        Failed::GoOn => None,
                    });
                    let Some(other) = worst else { break };
                    (facts, action) = other;
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_counted_is_not_tried_again() {
        let on_trial = facts(snapshot(Phase::Trial), Slot::A, Tryboot::Clear, Some(Slot::A));
        let merge = Failed::Instead(on_trial, Action::MergeAndBoot { why: Why::TrialsUsedUp });
        let recount = Effect::Recount(Count::Attempt, 1, 2);
        assert_eq!(failed(&on_trial, Action::RearmTryboot, &recount, None), merge);
        assert_eq!(failed(&on_trial, Action::RearmTryboot, &Effect::AskTryboot, None), merge);
        let gone_wrong = facts(snapshot(Phase::Failed), Slot::B, Tryboot::Clear, None);
        let degraded = Failed::Instead(gone_wrong, Action::BootDegraded { why: Why::CannotReturn });
        let mend = Action::MendAutoboot { to: Slot::A };
        assert_eq!(failed(&gone_wrong, mend, &Effect::WriteAutoboot(Slot::A), None), degraded);
        let unreadable = Facts { volumes: Volumes::Unreadable { times: None }, ..gone_wrong };
        let wait = Failed::Instead(unreadable, Action::WaitAndReboot { secs: 600 });
        assert_eq!(failed(&gone_wrong, Action::RepairAndReboot, &Effect::CountUnreadable(1), None), wait);
    }
}
