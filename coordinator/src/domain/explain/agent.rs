//! Why is the agent of a device not the release that is rolled out? Said once everything else on the device is well.
//!
//! Decides the words for every turn there is. Deliberately does not: know why an upgrade failed; the device says that.

use bramble_contracts::{
    api::{Explanation, RolloutState, RolloutTurn},
    v2::UpgradeReport,
};

use super::answer;
use crate::domain::{
    record::DeviceRecord,
    rollout::{
        Member, Rollout, Subject,
        facts::{self, upgrade_words},
        word,
    },
    upgrade,
    view::Lens,
};

/// Explains the agent, where a rollout wants another one.
pub(super) fn explain(lens: &Lens<'_>, record: &DeviceRecord) -> Option<Explanation> {
    match lens.rollout_of_agent(&record.id) {
        Some((rollout, member)) => of_member(lens, record, rollout, member),
        None => not_yet(lens, record),
    }
}

fn runs(lens: &Lens<'_>, record: &DeviceRecord) -> String {
    let report = lens.fleet.device(&record.id).report();
    report.map_or_else(|| "an unknown agent".to_owned(), |report| format!("agent {}", report.agent))
}

/// Its batch has not come.
fn not_yet(lens: &Lens<'_>, record: &DeviceRecord) -> Option<Explanation> {
    let all = lens.fleet.rollouts.readable().map(|(_, _, rollout)| rollout);
    let waiting = all.filter(|r| match &r.subject {
        Subject::Agent(_) => r.is_live() && r.tenant == record.tenant && r.selects(&record.name, &record.labels),
        Subject::Deployment(_) | Subject::Os(_) => false,
    });
    let rollout = waiting.max_by(|a, b| a.age().cmp(&b.age()))?;
    let sentence = format!(
        "{} has {} and gets {}: its turn in rollout {} has not come.",
        record.name,
        runs(lens, record),
        rollout.brings(),
        rollout.name
    );
    Some(answer(sentence, evidence(rollout, None), &format!("bramble describe rollout {}", rollout.name)))
}

fn of_member(lens: &Lens<'_>, record: &DeviceRecord, rollout: &Rollout, member: &Member) -> Option<Explanation> {
    let report = lens.fleet.device(&record.id).report();
    let upgrade = report.and_then(|r| r.program.upgrade.as_ref());
    let (name, reason) = (&record.name, member.reason.trim_end_matches('.'));
    let has = runs(lens, record);
    let brings = rollout.brings();
    let (sentence, next) = match member.turn {
        RolloutTurn::Confirmed => return None,
        _ if matches!(rollout.state, RolloutState::Aborted | RolloutState::Superseded) => return None,
        RolloutTurn::Working => {
            let way = upgrade.map_or_else(|| "it has not said anything of it yet".to_owned(), upgrade_words);
            (format!("{name} has {has} and is on its way to {brings}: {way}."), "Ask again in a moment.".to_owned())
        }
        RolloutTurn::Proving => (
            format!("{name} has {brings} and is being watched for {}.", rollout.policy.healthy_for),
            "Wait.".to_owned(),
        ),
        RolloutTurn::Failed => (
            format!("{name} has {has}: its upgrade to {brings} failed: {reason}."),
            format!("bramble rollout retry {}", rollout.name),
        ),
        RolloutTurn::Boxed => (
            format!("{name} has {has} and was left out of rollout {}: {reason}.", rollout.name),
            format!("bramble rollout retry {}", rollout.name),
        ),
        RolloutTurn::Refused => (
            format!("{name} has {has} and cannot become {brings}: {reason}."),
            "Do what the sentence says; the rollout sees it by itself.".to_owned(),
        ),
        RolloutTurn::Waiting | RolloutTurn::Unreachable => (
            format!("{name} has {has} and gets {brings}: its turn in rollout {} has not come.", rollout.name),
            format!("bramble describe rollout {}", rollout.name),
        ),
    };
    let mut evidence = evidence(rollout, upgrade);
    if member.turn == RolloutTurn::Working {
        let on_trial = upgrade.is_some_and(|u| u.status == bramble_contracts::v1::Status::Trial);
        evidence.extend(
            on_trial
                .then(|| upgrade::lacks(lens, &record.id))
                .flatten()
                .map(|lacks| format!("not confirmed yet: {lacks}")),
        );
    }
    Some(answer(sentence, evidence, &next))
}

fn evidence(rollout: &Rollout, upgrade: Option<&UpgradeReport>) -> Vec<String> {
    let mut all = vec![format!(
        "rollout {} is {}, in batch {} of {}",
        rollout.name,
        word(rollout.state),
        rollout.batch,
        rollout.batches()
    )];
    if !rollout.why.is_empty() {
        all.push(rollout.why.clone());
    }
    all.extend(upgrade.map(|u| {
        let blame = if u.blamed { ", and it is refused until a retry" } else { "" };
        format!("attempt {} at {} is in phase {}{blame}", u.attempt, u.version, facts::upgrade_phase(u.phase))
    }));
    all
}
