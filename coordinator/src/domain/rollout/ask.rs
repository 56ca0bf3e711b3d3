//! What operators say to a rollout: one total table of what is allowed when, and what each word does.
//!
//! Deliberately does not: look at devices; the next look sees what has changed.

use bramble_contracts::api::{RolloutState, RolloutTurn};

use super::{Member, Rollout};

/// What an operator may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// No further device begins.
    Pause,
    /// Go on after a pause.
    Resume,
    /// End it.
    Abort,
    /// Do not wait for this batch any longer.
    Promote,
    /// Let devices that failed try again, and go on.
    Retry,
    /// Let the next batch begin.
    Approve,
}

/// Not allowed in this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a rollout that is {} cannot be {}: {}", word(*.state), .ask.done(), instead(*.state))]
pub struct NotNow {
    /// What was asked.
    pub ask: Ask,
    /// Where it is.
    pub state: RolloutState,
}

impl Ask {
    /// All of them, as they are asked for.
    pub const ALL: [Self; 6] = [Self::Pause, Self::Resume, Self::Abort, Self::Promote, Self::Retry, Self::Approve];

    /// As it stands in paths and in the audit trail.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Promote => "promote",
            Self::Retry => "retry",
            Self::Approve => "approve",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Abort => "aborted",
            Self::Promote => "promoted",
            Self::Retry => "retried",
            Self::Approve => "approved",
        }
    }
}

/// A state in words.
pub fn word(state: RolloutState) -> &'static str {
    match state {
        RolloutState::Running => "running",
        RolloutState::Paused => "paused",
        RolloutState::Approval => "waiting for approval",
        RolloutState::Halted => "halted",
        RolloutState::Done => "done",
        RolloutState::Aborted => "aborted",
        RolloutState::Superseded => "superseded",
    }
}

fn instead(state: RolloutState) -> &'static str {
    match state {
        RolloutState::Running => "it goes on by itself; pause, promote or abort it",
        RolloutState::Paused => "resume it first",
        RolloutState::Approval => "approve its next batch, or abort it",
        RolloutState::Halted => "retry the devices that failed, promote it past them, or abort it",
        RolloutState::Done => "nothing is left to be done; retry lets devices that failed try again",
        RolloutState::Aborted => "retry begins again with the devices that do not have it",
        RolloutState::Superseded => "a newer rollout took its place: look at that one",
    }
}

/// The state after `ask`, in every state there is.
pub fn admit(state: RolloutState, ask: Ask) -> Result<RolloutState, NotNow> {
    use {Ask as A, RolloutState as S};
    match (state, ask) {
        (S::Running | S::Paused | S::Approval | S::Halted, A::Pause) => Ok(S::Paused),
        (S::Running | S::Paused, A::Resume)
        | (S::Running | S::Approval | S::Halted, A::Promote)
        | (S::Approval, A::Approve)
        | (S::Running | S::Approval | S::Halted | S::Done | S::Aborted, A::Retry) => Ok(S::Running),
        (S::Paused, A::Retry) => Ok(S::Paused),
        (S::Running | S::Paused | S::Approval | S::Halted | S::Aborted, A::Abort) => Ok(S::Aborted),
        (S::Done | S::Aborted | S::Superseded, A::Pause | A::Resume | A::Promote | A::Approve)
        | (S::Approval | S::Halted, A::Resume)
        | (S::Paused, A::Promote)
        | (S::Running | S::Paused | S::Halted, A::Approve)
        | (S::Done | S::Superseded, A::Abort)
        | (S::Superseded, A::Retry) => Err(NotNow { ask, state }),
    }
}

/// Does it, if it is allowed.
pub(super) fn asked(r: &mut Rollout, ask: Ask) -> Result<(), NotNow> {
    let state = r.state;
    r.state = admit(state, ask)?;
    let failed = |m: &Member| matches!(m.turn, RolloutTurn::Failed | RolloutTurn::Boxed);
    if (state, ask) == (RolloutState::Done, Ask::Retry) && !r.devices.values().any(failed) {
        r.state = state;
        return Err(NotNow { ask, state });
    }
    r.why.clear();
    match ask {
        Ask::Pause => r.why = "an operator paused it".to_owned(),
        Ask::Resume => {}
        Ask::Abort => r.why = "an operator aborted it".to_owned(),
        Ask::Approve => r.approved = r.batch + 1,
        Ask::Promote => {
            r.promoted = r.batch;
            r.approved = r.batch + 1;
        }
        Ask::Retry => {
            r.promoted = 0;
            for member in r.devices.values_mut() {
                match member.turn {
                    RolloutTurn::Failed | RolloutTurn::Boxed => {
                        member.turn = RolloutTurn::Waiting;
                        (member.batch, member.good_ms) = (r.batch, None);
                        member.reason.clear();
                    }
                    RolloutTurn::Waiting
                    | RolloutTurn::Unreachable
                    | RolloutTurn::Working
                    | RolloutTurn::Proving
                    | RolloutTurn::Confirmed
                    | RolloutTurn::Refused => {}
                }
            }
        }
    }
    if r.state == RolloutState::Aborted {
        for member in r.devices.values_mut().filter(|m| m.is_in_flight()) {
            // Begun again, it is told anew.
            (member.turn, member.good_ms) = (RolloutTurn::Waiting, None);
            member.reason = "the rollout was aborted while it was under way".to_owned();
        }
    }
    Ok(())
}
