//! One step of a rollout: a look at its devices, or a word of an operator.
//!
//! Decides: the table of what is allowed when (`admit`), how each device does (`observe`), when a batch is through, and
//! who begins next. Pure, and total: the same record with the same facts always ends in the same.

use bramble_contracts::{
    api::{RolloutState, RolloutTurn},
    id::DeviceId,
    quantity::{Amount, Millis},
};

use super::{
    BOXED_AT, Member, REASON_MAX, Rollout, amount,
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

fn asked(r: &mut Rollout, ask: Ask) -> Result<(), NotNow> {
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
    for (id, member) in &mut r.devices {
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
                RolloutState::Running | RolloutState::Approval => grant(r, facts, budget(r, facts)),
                RolloutState::Done => grant(r, facts, usize::MAX),
                RolloutState::Halted | RolloutState::Paused | RolloutState::Aborted | RolloutState::Superseded => {}
            }
        }
        RolloutState::Done => grant(r, facts, usize::MAX),
        RolloutState::Paused | RolloutState::Aborted | RolloutState::Superseded => {}
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
        // Its turn comes again by `grant`.
        RolloutTurn::Waiting => away_or_back(m, seen),
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

fn before_its_turn(m: &mut Member, seen: &Seen, now: u64) {
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
    let text = match &seen.word {
        Word::Bad(why) => return failed(m, why),
        Word::Silent => "it has not said anything of it yet",
        Word::Working { progress, text } => {
            // Written down only now and then: bytes come in all the time.
            let pause = (deadline.0 / 4).min(10_000);
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

fn brief(text: &str) -> String {
    text.chars().take(REASON_MAX).collect()
}

/// How many devices may begin now.
pub fn budget(r: &Rollout, facts: &Facts) -> usize {
    let most = amount(r.policy.max_unavailable, total(r, facts));
    most.saturating_sub(r.devices.values().filter(|m| counts(r, m)).count())
}

/// May it be without what it should have? What an operator has promoted past does not count.
fn counts(r: &Rollout, m: &Member) -> bool {
    m.is_in_flight() || (m.turn == RolloutTurn::Failed && m.batch > r.promoted)
}

fn total(r: &Rollout, facts: &Facts) -> usize {
    facts.devices.len() + r.devices.keys().filter(|id| !facts.devices.contains_key(*id)).count()
}

/// Lets devices begin whose batch has come, as many as may be without it at once.
fn grant(r: &mut Rollout, facts: &Facts, budget: usize) {
    let now = r.clock_ms;
    let ready = r.devices.iter_mut().filter_map(|(id, m)| {
        let seen = facts.devices.get(id)?;
        (m.turn == RolloutTurn::Waiting && seen.reach == Reach::Online && seen.refused.is_none()).then_some((m, seen))
    });
    for (member, seen) in ready.take(budget) {
        member.attempt = member.attempt.max(seen.attempts).saturating_add(1);
        (member.turn, member.since_ms, member.progress) = (RolloutTurn::Working, now, 0);
        member.before.clone_from(&seen.before);
        member.reason.clear();
    }
}

/// How the batch that is under way stands.
enum Standing {
    /// It is through.
    Through,
    /// It is not.
    Under,
    /// None of its devices can be reached, so nothing is proven.
    Nobody,
    /// Too many failed.
    Failed(String),
}

fn standing(r: &Rollout, facts: &Facts) -> Standing {
    if r.promoted >= r.batch {
        return Standing::Through;
    }
    let is =
        |turns: &[RolloutTurn]| r.devices.values().filter(|m| m.batch == r.batch && turns.contains(&m.turn)).count();
    let (confirmed, failed) = (is(&[RolloutTurn::Confirmed]), is(&[RolloutTurn::Failed]));
    let open = is(&[RolloutTurn::Waiting, RolloutTurn::Working, RolloutTurn::Proving]);
    let away = is(&[RolloutTurn::Unreachable]);
    let reached = confirmed + failed + open;
    let need = match r.policy.success_threshold {
        Amount::Percent(share) => (reached * usize::from(share)).div_ceil(100),
        Amount::Count(n) => usize::try_from(n).unwrap_or(usize::MAX).min(reached),
    };
    if confirmed + open < need {
        let names: Vec<&str> = failures(r, facts).into_iter().take(3).collect();
        return Standing::Failed(format!(
            "batch {} failed on {failed} of {reached} devices ({}), and {} must be confirmed: retry, promote or abort it",
            r.batch,
            names.join(", "),
            r.policy.success_threshold,
        ));
    }
    let in_flight = r.devices.values().any(Member::is_in_flight);
    if open > 0 && !in_flight && budget(r, facts) == 0 {
        let text = "devices that failed use up what may be unavailable at once: retry, promote or abort it";
        return Standing::Failed(format!("{failed} {text}"));
    }
    let anybody = r.devices.values().any(|m| m.turn == RolloutTurn::Confirmed);
    match (open, confirmed, away) {
        (1.., _, _) => Standing::Under,
        (0, 0, 1..) if r.batch < r.batches() || !anybody => Standing::Nobody,
        (0, _, _) => Standing::Through,
    }
}

fn failures<'a>(r: &Rollout, facts: &'a Facts) -> Vec<&'a str> {
    let failed = r.devices.iter().filter(|(_, m)| m.batch == r.batch && m.turn == RolloutTurn::Failed);
    failed.filter_map(|(id, _)| facts.devices.get(id).map(|seen| seen.name.as_str())).collect()
}

/// Goes on to the next batch as often as it can.
fn advance(r: &mut Rollout, facts: &Facts, effects: &mut Vec<Effect>) {
    let before = r.state;
    (r.state, r.why) = (RolloutState::Running, String::new());
    loop {
        if r.batch == r.batches() {
            // The last batch takes whoever joined meanwhile.
            assign(r, facts);
        }
        if r.batch > 0 {
            match standing(r, facts) {
                Standing::Through => {}
                Standing::Under => return,
                Standing::Nobody => {
                    r.why = format!("none of the devices of batch {} can be reached: wait, or promote it", r.batch);
                    return;
                }
                Standing::Failed(why) => {
                    if before != RolloutState::Halted {
                        effects.push(Effect::Tell { action: "rollout.halt", detail: why.clone() });
                    }
                    (r.state, r.why) = (RolloutState::Halted, why);
                    return;
                }
            }
        }
        if r.batch == r.batches() {
            r.state = RolloutState::Done;
            effects.push(Effect::Tell { action: "rollout.done", detail: said(r) });
            return;
        }
        if r.policy.approve && r.batch >= r.approved {
            if before != RolloutState::Approval {
                let detail = format!("batch {} waits for approval", r.batch + 1);
                effects.push(Effect::Tell { action: "rollout.wait", detail });
            }
            r.state = RolloutState::Approval;
            r.why = format!("batch {} waits for approval: `bramble rollout approve {}`", r.batch + 1, r.name);
            return;
        }
        r.batch += 1;
        assign(r, facts);
        let begun = r.devices.values().filter(|m| m.batch == r.batch).count();
        let detail = format!("batch {} of {} begins with {begun} devices", r.batch, r.batches());
        effects.push(Effect::Tell { action: "rollout.batch", detail });
    }
}

fn said(r: &Rollout) -> String {
    let of = |turn| r.devices.values().filter(|m| m.turn == turn).count();
    format!(
        "{} confirmed, {} failed, {} unreachable, {} left out",
        of(RolloutTurn::Confirmed),
        of(RolloutTurn::Failed),
        of(RolloutTurn::Unreachable),
        of(RolloutTurn::Boxed) + of(RolloutTurn::Refused),
    )
}

/// Puts devices into the batch that is under way: those that are there come first, then by name. Whoever cannot take
/// it, or failed too often, is named in the first batch and takes nobody's place.
fn assign(r: &mut Rollout, facts: &Facts) {
    let all = total(r, facts);
    let room = super::DEVICES_MAX.saturating_sub(r.devices.len());
    let mut waiting: Vec<(&DeviceId, &Seen)> =
        facts.devices.iter().filter(|(id, _)| !r.devices.contains_key(*id)).collect();
    waiting.sort_unstable_by_key(|(_, seen)| (seen.reach != Reach::Online, &seen.name));
    waiting.truncate(room);
    let there = r.devices.values().filter(|m| m.batch == r.batch && is_meant(m)).count();
    let size = match r.policy.batches.get(usize::try_from(r.batch.saturating_sub(1)).unwrap_or(usize::MAX)) {
        Some(size) if r.batch < r.batches() => amount(*size, all),
        Some(_) | None => usize::MAX,
    };
    let mut left = size.saturating_sub(there);
    for (id, seen) in waiting {
        let left_out = if seen.failures >= BOXED_AT {
            Some((RolloutTurn::Boxed, format!("it failed {} times in a row: retry lets it try again", seen.failures)))
        } else {
            seen.refused.as_ref().map(|why| (RolloutTurn::Refused, brief(why)))
        };
        let mut member = match left_out {
            Some((turn, reason)) => Member { reason, ..Member::new(r.batch, turn) },
            None if left == 0 => continue,
            None => {
                left -= 1;
                Member::new(r.batch, RolloutTurn::Waiting)
            }
        };
        member.failures = seen.failures;
        if member.turn == RolloutTurn::Waiting {
            before_its_turn(&mut member, seen, r.clock_ms);
        }
        r.devices.insert(id.clone(), member);
    }
}

fn is_meant(m: &Member) -> bool {
    !matches!(m.turn, RolloutTurn::Boxed | RolloutTurn::Refused)
}
