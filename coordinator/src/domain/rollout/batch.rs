//! Batches: when one is through, when it has failed, who is in the next one, and who may begin now.

use bramble_contracts::{
    api::{RolloutState, RolloutTurn},
    id::DeviceId,
    quantity::Amount,
};

use super::{
    BOXED_AT, Member, Rollout, amount,
    facts::{Facts, Reach, Seen},
    step::{Effect, before_its_turn, brief},
};

/// How many devices may begin now.
pub(super) fn budget(r: &Rollout, facts: &Facts) -> usize {
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

/// Lets devices begin whose batch has come, as many as may be without it at once; none outside of the window.
pub(super) fn grant(r: &mut Rollout, facts: &Facts, budget: usize) {
    if facts.closed.is_some() {
        return;
    }
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
pub(super) fn advance(r: &mut Rollout, facts: &Facts, effects: &mut Vec<Effect>) {
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
                Standing::Nobody if refill(r, facts) == Refilled::Yes => return,
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
            r.devices.values_mut().filter(|m| m.is_settled()).for_each(|m| m.good_ms = None);
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
    let there = r.devices.values().filter(|m| m.batch == r.batch && takes_a_place(m)).count();
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

fn takes_a_place(m: &Member) -> bool {
    !matches!(m.turn, RolloutTurn::Boxed | RolloutTurn::Refused | RolloutTurn::Unreachable)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refilled {
    Yes,
    No,
}

/// Nobody of this batch can be reached: devices that can, and whose batch has not come, take their places.
fn refill(r: &mut Rollout, facts: &Facts) -> Refilled {
    let before = r.devices.len();
    if facts.devices.iter().any(|(id, seen)| seen.reach == Reach::Online && !r.devices.contains_key(id)) {
        assign(r, facts);
    }
    if r.devices.len() > before { Refilled::Yes } else { Refilled::No }
}
