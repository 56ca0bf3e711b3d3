//! Carries rollouts on: looks at the devices of each, takes the step that `domain::rollout` decides, and writes it by
//! compare-and-set, so that several coordinators race safely.
//!
//! Decides: when to look, and how much time has passed for a rollout: what this process itself waited since it saw the
//! record that it replaces. So time is counted once, however many coordinators there are, and not at all while none of
//! them works. Documents follow from the record (`reconcile`); only the audit trail is told here.

use std::{collections::BTreeMap, time::Duration};

use bramble_contracts::{
    api::{Outcome, RolloutKind, RolloutState},
    id::Uid,
    subjects::Bucket,
};

use super::{Core, Own, metrics::count};
use crate::{
    domain::{
        rollout::{self, Begin, DeploymentSubject, Effect, Event, Rollout, Subject, facts, gate, rollout_key},
        view::Lens,
    },
    keys::entropy,
    store::{Expect, StoreError},
};

/// Rollouts are looked at at most this often.
const PAUSE: Duration = Duration::from_millis(200);
/// And at least this often: connections and time change without any change in the store.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);
/// Time that passed is written down at least this often.
const WRITE_MS: u64 = 5_000;
/// No more than this has passed between two looks, whatever the clock says.
const STEP_MAX_MS: u64 = 30_000;
/// Finished rollouts of the agent that are kept of each tenant.
const KEPT: usize = 20;

/// When this process first saw each record as it is.
type SeenAt = BTreeMap<String, (u64, u64)>;

/// What to write.
enum Write {
    Put { rollout: Box<Rollout>, expect: Expect, effects: Vec<Effect> },
    Delete { rollout: Box<Rollout>, seq: u64 },
}

impl Write {
    fn key(&self) -> String {
        match self {
            Self::Put { rollout, .. } | Self::Delete { rollout, .. } => rollout.key(),
        }
    }
}

/// Runs for ever.
pub async fn run(core: &Core) {
    let mut ticks = core.index.ticks();
    let mut seen_at = SeenAt::new();
    loop {
        if let Ok(Err(_)) = tokio::time::timeout(LOOK_ANYWAY, ticks.changed()).await {
            return;
        }
        if core.index.may_write() {
            pass(core, &mut seen_at).await;
        } else {
            // Nothing is heard of devices: their time stands still.
            seen_at.clear();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One look at every rollout.
async fn pass(core: &Core, seen_at: &mut SeenAt) {
    let writes = core.index.look(|lens| due(lens, seen_at));
    for write in writes {
        match carry_out(core, write).await {
            Ok(()) => {}
            Err(StoreError::Conflict { .. }) => count(&core.metrics.conflicts),
            Err(err @ StoreError::Unavailable { .. }) => {
                count(&core.metrics.failed);
                tracing::warn!(error = %err, "cannot write a rollout");
            }
        }
    }
}

fn due(lens: &Lens<'_>, seen_at: &mut SeenAt) -> Vec<Write> {
    seen_at.retain(|key, _| lens.fleet.rollouts.get(key).is_some());
    let mut writes = begun_by_deployments(lens);
    let begun: Vec<String> = writes.iter().map(Write::key).collect();
    for (key, seq, rollout) in lens.fleet.rollouts.readable() {
        if is_orphan(lens, rollout) {
            writes.push(Write::Delete { rollout: Box::new(rollout.clone()), seq });
        } else if rollout.is_open() && !begun.contains(key) {
            let seen = seen_at.entry(key.clone()).or_insert((seq, lens.now.mono_ms));
            if seen.0 != seq {
                *seen = (seq, lens.now.mono_ms);
            }
            let elapsed_ms = lens.now.mono_ms.saturating_sub(seen.1).min(STEP_MAX_MS);
            writes.extend(step(lens, rollout, seq, elapsed_ms));
        }
    }
    writes.extend(too_old(lens));
    writes
}

fn step(lens: &Lens<'_>, rollout: &Rollout, seq: u64, elapsed_ms: u64) -> Option<Write> {
    let facts = facts::of(lens, rollout)?;
    let (mut next, effects) = rollout::step(rollout.clone(), Event::Look { elapsed_ms }, &facts).ok()?;
    let mut timeless = next.clone();
    timeless.clock_ms = rollout.clock_ms;
    if timeless == *rollout && next.clock_ms.saturating_sub(rollout.clock_ms) < WRITE_MS {
        return None;
    }
    next.updated_ms = lens.now.wall_ms;
    Some(Write::Put { rollout: Box::new(next), expect: Expect::Seq(seq), effects })
}

/// Deployments that are to go in batches and whose newest revision has no rollout yet. One that is there for an older
/// revision gives its place to it.
fn begun_by_deployments(lens: &Lens<'_>) -> Vec<Write> {
    let mut writes = vec![];
    for record in lens.fleet.deployment_records() {
        let policy = &record.deployment.spec.rollout;
        let subject = DeploymentSubject { uid: record.uid.clone(), revision: record.revision };
        let there = lens.fleet.rollouts.get(&rollout_key(record.tenant(), record.name()));
        if gate::is_immediate(policy) {
            continue;
        }
        let before = match there.map(|slot| (slot.seq, &slot.value)) {
            None => None,
            Some((seq, Ok(rollout))) => match &rollout.subject {
                Subject::Deployment(other) if *other != subject => Some((seq, rollout)),
                // Its own, or (refused when it was applied) another one that is called so.
                Subject::Deployment(_) | Subject::Agent(_) | Subject::Os(_) => continue,
            },
            // A damaged record is an alarm, and never a missing one.
            Some((_, Err(_))) => continue,
        };
        let rollout = Rollout::new(Begin {
            uid: Uid::from_entropy(entropy()),
            tenant: record.tenant().clone(),
            name: record.name().clone(),
            subject: Subject::Deployment(subject),
            policy: policy.clone(),
            by: "coordinator".to_owned(),
            wall_ms: lens.now.wall_ms,
            failed_before: before.map(|(_, old)| old.failures(old.failed_before.clone())).unwrap_or_default(),
        });
        let detail = match before {
            Some((_, old)) if old.is_live() => format!("{}, instead of {}", rollout.brings(), old.brings()),
            Some(_) | None => rollout.brings(),
        };
        let effects = vec![Effect::Tell { action: "rollout.begin", detail }];
        let expect = before.map_or(Expect::Absent, |(seq, _)| Expect::Seq(seq));
        writes.push(Write::Put { rollout: Box::new(rollout), expect, effects });
    }
    writes
}

/// Is the deployment gone, or does it go to all devices at once now?
fn is_orphan(lens: &Lens<'_>, rollout: &Rollout) -> bool {
    match &rollout.subject {
        Subject::Agent(_) | Subject::Os(_) => false,
        Subject::Deployment(_) => match lens.fleet.deployment(&rollout.tenant, &rollout.name) {
            None => true,
            Some(slot) => slot.ok().is_some_and(|record| gate::is_immediate(&record.deployment.spec.rollout)),
        },
    }
}

/// Finished rollouts of no deployment beyond those that are kept, the oldest first. Devices keep what they were told.
fn too_old(lens: &Lens<'_>) -> Vec<Write> {
    let mut finished: Vec<(u64, &Rollout)> = lens
        .fleet
        .rollouts
        .readable()
        .filter(|(_, _, r)| r.kind() != RolloutKind::Deployment && !r.is_live())
        .map(|(_, seq, r)| (seq, r))
        .collect();
    // One that is under way must still see who took its devices.
    let oldest_live = |r: &Rollout| {
        let live = lens.fleet.rollouts.readable().map(|(_, _, other)| other);
        live.filter(|other| other.is_live() && other.tenant == r.tenant).all(|other| other.age() > r.age())
    };
    finished.sort_unstable_by(|(_, a), (_, b)| (&a.tenant, b.age()).cmp(&(&b.tenant, a.age())));
    let mut kept: BTreeMap<_, usize> = BTreeMap::new();
    let beyond = finished.into_iter().filter(|(_, r)| {
        let of_tenant = kept.entry(&r.tenant).or_default();
        *of_tenant += 1;
        *of_tenant > KEPT && oldest_live(r)
    });
    beyond.map(|(seq, r)| Write::Delete { rollout: Box::new(r.clone()), seq }).collect()
}

async fn carry_out(core: &Core, write: Write) -> Result<(), StoreError> {
    match write {
        Write::Put { rollout, expect, effects } => {
            if let Some(other) = another(core, &rollout).await? {
                tracing::debug!(rollout = rollout.key(), other, "the index is behind the store");
                return Ok(());
            }
            core.store.put(Bucket::Rollouts, &rollout.key(), rollout.encode(), expect).await?;
            for Effect::Tell { action, detail } in effects {
                tracing::info!(rollout = rollout.key(), action, detail, "rollout");
                tell(core, &rollout, action, &detail).await;
            }
        }
        Write::Delete { rollout, seq } => {
            core.store.delete(Bucket::Rollouts, &rollout.key(), seq).await?;
            if rollout.is_live() {
                tell(core, &rollout, "rollout.end", "its deployment is gone, or goes to all devices at once").await;
            }
        }
    }
    Ok(())
}

/// What the store has instead, where a rollout that is about to begin is not what the store wants any more.
async fn another(core: &Core, rollout: &Rollout) -> Result<Option<String>, StoreError> {
    let Subject::Deployment(subject) = &rollout.subject else { return Ok(None) };
    if rollout.batch > 0 {
        return Ok(None);
    }
    let Some(entry) = core.store.get(Bucket::Deployments, &rollout.key()).await? else {
        return Ok(Some("no deployment".to_owned()));
    };
    let record = crate::domain::record::decode::<crate::domain::record::DeploymentRecord>(&entry.bytes);
    let same = record.as_ref().is_ok_and(|r| (&r.uid, r.revision) == (&subject.uid, subject.revision));
    Ok((!same).then(|| record.map_or_else(|err| err.to_string(), |r| format!("revision {}", r.revision))))
}

async fn tell(core: &Core, rollout: &Rollout, action: &str, detail: &str) {
    let object = format!("rollout/{}", rollout.name);
    let outcome = if rollout.state == RolloutState::Halted { Outcome::Failed } else { Outcome::Done };
    let own = Own { who: "coordinator", action, object: &object, reason: &rollout.why, outcome, detail };
    if let Err(err) = core.audit_own(&rollout.tenant, own).await {
        tracing::error!(error = %err, "cannot write an audit event");
    }
}
