//! Says to agents that upgrade themselves what `domain::upgrade` decides: who is confirmed, who stops, who gives up.
//!
//! Decides: how often it is said again (until it is true) and how many are spoken to at once.
//! Deliberately does not: remember anything that matters. What was said is only kept to say it less often.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bramble_contracts::{
    SessionId,
    api::Outcome,
    id::{DeviceId, Tenant},
    v1::{FrameBody, ReplyFrame, Verb},
    v2::UpgradeWord,
};
use futures::{StreamExt as _, stream::FuturesUnordered};

use super::{Core, Own, now, port::MeshError};
use crate::domain::upgrade::{self, Say};

/// Devices are looked through at most this often.
const PAUSE: Duration = Duration::from_millis(200);
/// Time alone changes what is to be said (a silent agent is no longer there).
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
/// Before the same is said again to the same agent.
const AGAIN_MS: u64 = 3_000;
/// For an answer: an agent may take 8 s to write down what it is told.
const PATIENCE: Duration = Duration::from_secs(10);
/// Spoken to at once.
const ABREAST: usize = 32;
/// What was said is forgotten after this.
const FORGET_MS: u64 = 600_000;

/// What was said last to each agent, and when.
type Said = BTreeMap<(DeviceId, SessionId), (UpgradeWord, u64)>;

/// Something that is being said.
struct Spoken {
    device: DeviceId,
    say: Say,
    answer: Result<Option<ReplyFrame>, MeshError>,
}

/// Runs for ever.
pub async fn run(core: &Core) {
    let mut ticks = core.index.ticks();
    let mut said = Said::new();
    let mut under_way = FuturesUnordered::new();
    let mut busy: BTreeSet<(DeviceId, SessionId)> = BTreeSet::new();
    let mut heard_anew: BTreeMap<(DeviceId, SessionId), UpgradeWord> = BTreeMap::new();
    loop {
        for (device, say) in due(core, &mut said, &busy) {
            busy.insert((device.clone(), say.session));
            under_way.push(async move {
                let verb = Verb::Upgrade(say.word.clone());
                let answer = core.tell(&device, say.session, verb, PATIENCE).await;
                Spoken { device, say, answer }
            });
        }
        tokio::select! {
            Some(spoken) = under_way.next() => {
                let key = (spoken.device.clone(), spoken.say.session);
                busy.remove(&key);
                let first = heard_anew.get(&key) != Some(&spoken.say.word);
                if conclude(core, &spoken, first).await == Heard::Yes {
                    heard_anew.insert(key, spoken.say.word);
                }
                heard_anew.retain(|key, _| said.contains_key(key));
            }
            changed = tokio::time::timeout(LOOK_ANYWAY, ticks.changed()) => {
                if let Ok(Err(_)) = changed {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What is to be said now, to as many as may be spoken to beside those who are.
fn due(core: &Core, said: &mut Said, busy: &BTreeSet<(DeviceId, SessionId)>) -> Vec<(DeviceId, Say)> {
    let at = now().mono_ms;
    said.retain(|_, (_, when)| at.saturating_sub(*when) < FORGET_MS);
    let all: Vec<(DeviceId, Say)> = core.index.look(|lens| {
        let upgrading = lens.fleet.reports.readable().filter(|(_, _, report)| report.program.upgrade.is_some());
        upgrading.filter_map(|(id, _, _)| Some((id.clone(), upgrade::say(lens, id)?))).collect()
    });
    let fresh = |(device, say): &(DeviceId, Say)| {
        let key = (device.clone(), say.session);
        let last = said.get(&key);
        !busy.contains(&key)
            && last.is_none_or(|(word, when)| *word != say.word || at.saturating_sub(*when) >= AGAIN_MS)
    };
    let room = ABREAST.saturating_sub(busy.len());
    let now_due: Vec<(DeviceId, Say)> = all.into_iter().filter(fresh).take(room).collect();
    for (device, say) in &now_due {
        said.insert((device.clone(), say.session), (say.word.clone(), at));
    }
    now_due
}

/// Was it taken?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Yes,
    No,
}

/// Writes down what was said and taken, once.
async fn conclude(core: &Core, Spoken { device, say, answer }: &Spoken, first: bool) -> Heard {
    let (action, detail) = words(&say.word);
    match answer {
        Ok(Some(ReplyFrame { body: FrameBody::Refused { why }, .. })) => {
            tracing::warn!(%device, action, why, "the agent refused what it was told of its upgrade");
            return Heard::No;
        }
        Err(err) => {
            tracing::warn!(%device, action, error = %err, "the agent was not reached; it is told again");
            return Heard::No;
        }
        Ok(_) => tracing::info!(%device, action, session = ?say.session, detail, "told an agent"),
    }
    if !first {
        return Heard::Yes;
    }
    let (tenant, name) = core.index.look(|lens| match lens.fleet.device(device).record() {
        Some(record) => (record.tenant.clone(), record.name.to_string()),
        None => (Tenant::default(), device.to_string()),
    });
    let object = format!("device/{name}");
    let who = "coordinator";
    let own = Own { who, action, object: &object, reason: "", outcome: Outcome::Done, detail: &detail };
    if let Err(err) = core.audit_own(&tenant, own).await {
        tracing::error!(error = %err, "cannot write an audit event");
    }
    Heard::Yes
}

fn words(word: &UpgradeWord) -> (&'static str, String) {
    match word {
        UpgradeWord::Confirm { release_seq } => {
            ("agent.confirm", format!("the agent of release sequence {release_seq} was seen to work"))
        }
        UpgradeWord::Retire => ("agent.retire", "another agent is confirmed".to_owned()),
        UpgradeWord::Abort { release_seq, why } => ("agent.abort", format!("release sequence {release_seq}: {why}")),
    }
}
