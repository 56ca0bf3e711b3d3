//! One step of a rollout: a look at its devices, or a word of an operator.
//!
//! Decides how each device does (`observe`). Pure, and total: the same record with the same facts always ends in the
//! same. Which batch is on and who begins is for `batch` to say, what is allowed for `ask`.

use bramble_contracts::{
    api::{RolloutState, RolloutTurn},
    quantity::Millis,
};

use super::{
    Member, REASON_MAX, Rollout,
    ask::{Ask, NotNow, asked},
    batch::{advance, budget, grant},
    facts::{Facts, Reach, Seen, Word},
};

/// Failures told of one look, at most.
const TOLD_MAX: usize = 32;

/// What happens to a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody looks, so long after the last look.
    Look {
        /// Milliseconds, by a clock that does not jump.
        elapsed_ms: u64,
    },
    /// An operator says so.
    Ask(Ask),
}

/// What follows from a step, once its record is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Goes to the audit trail.
    Tell {
        /// `rollout.batch`, …
        action: &'static str,
        /// In words.
        detail: String,
    },
}

/// One step. Effects follow only once the record that is returned is durable.
pub fn step(mut rollout: Rollout, event: Event, facts: &Facts) -> Result<(Rollout, Vec<Effect>), NotNow> {
    let mut effects = vec![];
    match event {
        Event::Ask(ask) => asked(&mut rollout, ask)?,
        Event::Look { elapsed_ms } if rollout.is_open() => look(&mut rollout, elapsed_ms, facts, &mut effects),
        Event::Look { .. } => {}
    }
    Ok((rollout, effects))
}

fn look(r: &mut Rollout, elapsed_ms: u64, facts: &Facts, effects: &mut Vec<Effect>) {
    if r.is_timed() {
        r.clock_ms = r.clock_ms.saturating_add(elapsed_ms);
    }
    let (now, healthy, deadline) = (r.clock_ms, r.policy.healthy_for, r.policy.progress_deadline);
    if let Some(newer) = facts.overtaken.as_ref().filter(|_| r.is_live()) {
        (r.state, r.why) = (RolloutState::Superseded, format!("rollout {newer} took its place"));
        effects.push(Effect::Tell { action: "rollout.supersede", detail: r.why.clone() });
        return;
    }
    if r.is_live() {
        // What has proven it stays a proof, also of a device that is not meant any more.
        r.devices.retain(|id, m| m.turn == RolloutTurn::Confirmed || facts.devices.contains_key(id));
    }
    // Who failed may still prove it while the rollout is under way; one that is done is not changed by it for ever.
    let is_live = r.is_live();
    for (id, member) in r.devices.iter_mut().filter(|(_, m)| is_live || !m.is_settled()) {
        let Some(seen) = facts.devices.get(id) else { continue };
        let before = member.turn;
        observe(member, seen, now, healthy, deadline);
        if member.turn == RolloutTurn::Failed && before != RolloutTurn::Failed && effects.len() < TOLD_MAX {
            let detail = format!("{}: {}", seen.name, member.reason);
            effects.push(Effect::Tell { action: "rollout.fail", detail });
        }
    }
    match r.state {
        RolloutState::Running | RolloutState::Approval | RolloutState::Halted => {
            advance(r, facts, effects);
            match r.state {
                RolloutState::Running | RolloutState::Approval => {
                    grant(r, facts, budget(r, facts));
                    tell_window(r, facts);
                }
                RolloutState::Done => grant(r, facts, usize::MAX),
                RolloutState::Halted | RolloutState::Paused | RolloutState::Aborted | RolloutState::Superseded => {}
            }
        }
        RolloutState::Done => grant(r, facts, usize::MAX),
        RolloutState::Paused | RolloutState::Aborted | RolloutState::Superseded => {}
    }
}

/// Says that the window is why nobody begins.
fn tell_window(r: &mut Rollout, facts: &Facts) {
    let waits = |m: &Member| m.turn == RolloutTurn::Waiting;
    if let Some(why) = facts.closed.as_ref().filter(|_| r.why.is_empty() && r.devices.values().any(waits)) {
        r.why.clone_from(why);
    }
}

/// What is seen of a device changes how it does.
fn observe(m: &mut Member, seen: &Seen, now: u64, healthy: Millis, deadline: Millis) {
    match m.turn {
        RolloutTurn::Confirmed | RolloutTurn::Boxed => return,
        RolloutTurn::Waiting | RolloutTurn::Unreachable | RolloutTurn::Refused if m.attempt == 0 => {
            return before_its_turn(m, seen, now);
        }
        RolloutTurn::Waiting
        | RolloutTurn::Unreachable
        | RolloutTurn::Refused
        | RolloutTurn::Working
        | RolloutTurn::Proving
        | RolloutTurn::Failed => {}
    }
    if seen.reach == Reach::Unknown {
        return;
    }
    if !seen.in_trial {
        m.before.clone_from(&seen.before);
    }
    if seen.reach == Reach::Online && seen.word == Word::Good {
        return proving(m, now, healthy);
    }
    m.good_ms = None;
    match m.turn {
        // Its turn comes again by `grant`, as long as it can take it.
        RolloutTurn::Waiting => match &seen.refused {
            None => away_or_back(m, seen),
            Some(why) => (m.turn, m.reason) = (RolloutTurn::Failed, brief(why)),
        },
        RolloutTurn::Unreachable if seen.reach == Reach::Online => {
            (m.turn, m.since_ms) = (RolloutTurn::Working, now);
            m.reason.clear();
        }
        RolloutTurn::Working | RolloutTurn::Proving => under_way(m, seen, now, deadline),
        RolloutTurn::Unreachable
        | RolloutTurn::Failed
        | RolloutTurn::Refused
        | RolloutTurn::Confirmed
        | RolloutTurn::Boxed => {}
    }
}

pub(super) fn before_its_turn(m: &mut Member, seen: &Seen, now: u64) {
    match (&seen.refused, &seen.word) {
        // It has it already, whoever gave it.
        (_, Word::Good) if seen.reach == Reach::Online => (m.turn, m.good_ms) = (RolloutTurn::Proving, Some(now)),
        (Some(why), _) => {
            m.turn = RolloutTurn::Refused;
            m.reason = brief(why);
        }
        (None, _) => {
            if m.turn == RolloutTurn::Refused {
                m.turn = RolloutTurn::Waiting;
                m.reason.clear();
            }
            away_or_back(m, seen);
        }
    }
}

fn away_or_back(m: &mut Member, seen: &Seen) {
    match &seen.reach {
        Reach::Online => {
            m.turn = RolloutTurn::Waiting;
            m.reason.clear();
        }
        Reach::Away(why) => {
            m.turn = RolloutTurn::Unreachable;
            m.reason = brief(why);
        }
        Reach::Unknown => {}
    }
}

fn proving(m: &mut Member, now: u64, healthy: Millis) {
    let since = *m.good_ms.get_or_insert(now);
    if now.saturating_sub(since) >= healthy.0 {
        let (batch, attempt) = (m.batch, m.attempt);
        *m = Member { attempt, ..Member::new(batch, RolloutTurn::Confirmed) };
        return;
    }
    match m.turn {
        RolloutTurn::Working | RolloutTurn::Waiting | RolloutTurn::Unreachable | RolloutTurn::Refused => {
            m.turn = RolloutTurn::Proving;
            m.reason.clear();
        }
        // One that failed is believed once it is proven.
        RolloutTurn::Failed | RolloutTurn::Proving | RolloutTurn::Confirmed | RolloutTurn::Boxed => {}
    }
}

/// It was told, and is not as it should be (yet).
fn under_way(m: &mut Member, seen: &Seen, now: u64, deadline: Millis) {
    if m.attempt == 0 {
        // It had it before its turn, and has it no more.
        m.turn = RolloutTurn::Waiting;
        return away_or_back(m, seen);
    }
    m.turn = RolloutTurn::Working;
    // Written down only now and then.
    let pause = (deadline.0 / 4).min(10_000);
    if seen.is_held && now.saturating_sub(m.since_ms) >= pause {
        m.since_ms = now;
    }
    let text = match &seen.word {
        Word::Bad(why) => return failed(m, why),
        Word::Silent => "it has not said anything of it yet",
        Word::Working { progress, text } => {
            // Bytes come in all the time.
            if *progress > m.progress && now.saturating_sub(m.since_ms) >= pause {
                (m.progress, m.since_ms) = (*progress, now);
            }
            text
        }
        Word::Good => "it is as it should be and not connected",
    };
    if now.saturating_sub(m.since_ms) < deadline.0 {
        return;
    }
    match &seen.reach {
        // It never heard of it.
        Reach::Away(why) if !seen.has_taken => {
            m.turn = RolloutTurn::Unreachable;
            m.reason = brief(why);
        }
        Reach::Away(why) => failed(m, &format!("nothing was heard of it for {deadline}: {why}")),
        Reach::Online | Reach::Unknown => failed(m, &format!("it did not get on for {deadline}: {text}")),
    }
}

fn failed(m: &mut Member, why: &str) {
    m.turn = RolloutTurn::Failed;
    m.failures = m.failures.saturating_add(1);
    m.reason = brief(why);
}

pub(super) fn brief(text: &str) -> String {
    text.chars().take(REASON_MAX).collect()
}
