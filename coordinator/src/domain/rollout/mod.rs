//! Rollouts: a release's or a revision's way through the fleet, in batches. One engine for all of them.
//!
//! Decides, as `step(rollout, event, facts) -> (rollout, effects)`: which device begins when, what is proof, what is
//! failure, and when the rollout goes on, stops or is over. The record of a rollout is durable before anything follows
//! from it, and everything that follows is derived from the record (`gate`), so a coordinator that dies between the two
//! loses nothing.
//! Time is the rollout's own: it is added up from what coordinators waited, so that neither a clock that jumps nor a
//! coordinator that is away makes anybody late.
//! Deliberately does not: write documents (`background::reconcile`), nor speak to agents (`upgrade`).

mod ask;
mod batch;
pub mod facts;
pub mod foresee;
pub mod gate;
mod os;
pub mod show;
mod step;
#[cfg(test)]
mod tests;

pub use ask::{Ask, NotNow, admit, word};
pub use step::{Effect, Event, step};

use std::collections::BTreeMap;

use bramble_contracts::{
    Labels, Revision,
    api::{RolloutKind, RolloutState, RolloutTurn},
    bytes::Sha256,
    id::{DeviceId, Name, Tenant, Uid},
    label::Selector,
    quantity::Amount,
    release::Target,
    v1::{self, AgentVersion, Health},
    v2::AgentWish,
    v3::{OsPackage, OsPackages, OsWish, Probation, Protection},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::record::{self, DeploymentRecord};

/// Failures in a row after which a device is left out.
pub const BOXED_AT: u8 = 3;
/// Devices of one rollout, at most: its record is one value of the store.
pub const DEVICES_MAX: usize = 8000;
/// A record larger than this loses its words, so that it can still be written.
const RECORD_MAX: usize = 900 * 1024;
/// Characters of a device's reason that are kept.
const REASON_MAX: usize = 160;
/// Troubled apps of one device that are remembered.
pub(crate) const TROUBLED_MAX: usize = 64;

/// A rollout, by `<tenant>.<name>` in bucket `rollouts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Of this run of it.
    pub uid: Uid,
    /// Whose.
    pub tenant: Tenant,
    /// What it is called.
    pub name: Name,
    /// What it brings.
    pub subject: Subject,
    /// How it goes.
    pub policy: v1::Rollout,
    /// Where it is.
    pub state: RolloutState,
    /// Why it is there, in words; empty when all is well.
    pub why: String,
    /// The batch that is under way, from 1; 0 before the first.
    pub batch: u32,
    /// Batches up to this one may begin, where each needs approval.
    pub approved: u32,
    /// Batches up to this one are not waited for any more.
    pub promoted: u32,
    /// For how long it has been under way.
    pub clock_ms: u64,
    /// Devices whose batch has come.
    pub devices: BTreeMap<DeviceId, Member>,
    /// Devices that failed in rollouts before this one, each with how often in a row.
    #[serde(default)]
    pub failed_before: BTreeMap<DeviceId, u8>,
    /// Who began it.
    pub by: String,
    /// When, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it last changed, in milliseconds since 1970.
    pub updated_ms: u64,
}

/// What a rollout brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Subject {
    /// A release of the agent.
    Agent(AgentSubject),
    /// A revision of a deployment. What runs before is in the devices' documents.
    Deployment(DeploymentSubject),
    /// Newer packages of the operating system.
    Os(OsSubject),
}

/// Newer packages of the operating system for some devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OsSubject {
    /// Which.
    pub packages: OsPackages,
    /// Devices that are protected less are left out.
    pub least: Protection,
    /// How the new system proves itself.
    pub probation: Probation,
    /// For which devices; all of the tenant when absent.
    pub selector: Option<Selector>,
}

/// A release of the agent for some devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentSubject {
    /// As people say it.
    pub version: AgentVersion,
    /// Of the release.
    pub release_seq: u64,
    /// The digest of the signed manifest.
    pub manifest: Sha256,
    /// The digest of version 1 of the release keys.
    pub keys_pin: Sha256,
    /// There is a binary for these.
    pub targets: Vec<Target>,
    /// For which devices; all of the tenant when absent.
    pub selector: Option<Selector>,
}

/// A revision of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentSubject {
    /// Of the deployment.
    pub uid: Uid,
    /// Which revision.
    pub revision: Revision,
}

/// A device whose batch has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// In which batch, from 1.
    pub batch: u32,
    /// How it does.
    pub turn: RolloutTurn,
    /// How often it was told; 0 before its turn.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attempt: u32,
    /// When it was told or last got on, by the rollout's clock.
    #[serde(default, skip_serializing_if = "is_default")]
    pub since_ms: u64,
    /// Since when it has been as it should, by the rollout's clock.
    #[serde(default, skip_serializing_if = "is_default")]
    pub good_ms: Option<u64>,
    /// How far it got.
    #[serde(default, skip_serializing_if = "is_default")]
    pub progress: u64,
    /// How often it failed in a row, in rollouts before this one, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub failures: u8,
    /// Why it waits or failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: String,
    /// How it was before it began: a new agent need not mend what was broken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before: Before,
}

/// How a device was before its agent was replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Before {
    /// In one word.
    pub health: Health,
    /// Apps that were not as they should be, `<tenant>.<name>`.
    pub troubled: Vec<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Member {
    fn new(batch: u32, turn: RolloutTurn) -> Self {
        let (reason, before) = (String::new(), Before::default());
        Self { batch, turn, attempt: 0, since_ms: 0, good_ms: None, progress: 0, failures: 0, reason, before }
    }

    /// Is it at its end, as far as a rollout that is done can say?
    pub fn is_settled(&self) -> bool {
        match self.turn {
            RolloutTurn::Confirmed | RolloutTurn::Failed | RolloutTurn::Boxed | RolloutTurn::Refused => true,
            RolloutTurn::Waiting | RolloutTurn::Unreachable | RolloutTurn::Working | RolloutTurn::Proving => false,
        }
    }

    /// Is it without what it should have, or may it be?
    pub fn is_in_flight(&self) -> bool {
        match self.turn {
            RolloutTurn::Working | RolloutTurn::Proving => true,
            RolloutTurn::Waiting
            | RolloutTurn::Unreachable
            | RolloutTurn::Confirmed
            | RolloutTurn::Failed
            | RolloutTurn::Boxed
            | RolloutTurn::Refused => false,
        }
    }
}

/// What a rollout begins with.
#[derive(Debug, Clone)]
pub struct Begin {
    /// Of this run of it.
    pub uid: Uid,
    /// Whose.
    pub tenant: Tenant,
    /// What it is called.
    pub name: Name,
    /// What it brings.
    pub subject: Subject,
    /// How it goes.
    pub policy: v1::Rollout,
    /// Who begins it.
    pub by: String,
    /// In milliseconds since 1970.
    pub wall_ms: u64,
    /// Devices that failed before, each with how often in a row.
    pub failed_before: BTreeMap<DeviceId, u8>,
}

impl Rollout {
    /// Nothing of it has begun.
    pub fn new(begin: Begin) -> Self {
        let Begin { uid, tenant, name, subject, policy, by, wall_ms, failed_before } = begin;
        Self {
            uid,
            tenant,
            name,
            subject,
            policy,
            state: RolloutState::Running,
            why: String::new(),
            batch: 0,
            approved: 1,
            promoted: 0,
            clock_ms: 0,
            devices: BTreeMap::new(),
            failed_before,
            by,
            created_ms: wall_ms,
            updated_ms: wall_ms,
        }
    }

    /// Its key in the bucket.
    pub fn key(&self) -> String {
        rollout_key(&self.tenant, &self.name)
    }

    /// What it brings, in few words.
    pub fn brings(&self) -> String {
        match &self.subject {
            Subject::Agent(agent) => format!("agent {}", agent.version),
            Subject::Deployment(deployment) => format!("{} revision {}", self.name, deployment.revision),
            Subject::Os(os) => format!("os {}", packages(&os.packages)),
        }
    }

    /// Is it for a device that is called so? A deployment says that itself.
    pub fn selects(&self, name: &Name, labels: &Labels) -> bool {
        let selector = match &self.subject {
            Subject::Agent(agent) => &agent.selector,
            Subject::Os(os) => &os.selector,
            Subject::Deployment(_) => return false,
        };
        selector.as_ref().is_none_or(|selector| selector.matches(name, labels))
    }

    /// The upgrade of the operating system that it brings, as it stands in a device's document.
    pub fn os_wish(&self, attempt: u32) -> Option<OsWish> {
        let Subject::Os(OsSubject { packages, least, probation, selector: _ }) = &self.subject else { return None };
        let (id, packages) = (self.uid.clone(), packages.clone());
        let window = self.policy.window.clone();
        Some(OsWish { id, attempt, packages, least: *least, probation: *probation, window })
    }

    /// How often each device has failed in a row, where `failed` says what was known before. Failures count only where
    /// another device has proven the same thing: else it is that which was wrong, and no device is to blame.
    pub fn failures(&self, mut failed: BTreeMap<DeviceId, u8>) -> BTreeMap<DeviceId, u8> {
        let is_proven = self.devices.values().any(|m| m.turn == RolloutTurn::Confirmed);
        for (id, member) in self.devices.iter().filter(|_| is_proven) {
            failed.insert(id.clone(), member.failures);
        }
        failed.retain(|_, failures| *failures > 0);
        failed
    }

    /// Of what.
    pub fn kind(&self) -> RolloutKind {
        match self.subject {
            Subject::Agent(_) => RolloutKind::Agent,
            Subject::Deployment(_) => RolloutKind::Deployment,
            Subject::Os(_) => RolloutKind::Os,
        }
    }

    /// Does it bring this deployment, in this revision?
    pub fn is_of(&self, record: &DeploymentRecord) -> bool {
        match &self.subject {
            Subject::Agent(_) | Subject::Os(_) => false,
            Subject::Deployment(of) => (&of.uid, of.revision) == (&record.uid, record.revision),
        }
    }

    /// Newer ones come later.
    pub fn age(&self) -> (u64, &Uid) {
        (self.created_ms, &self.uid)
    }

    /// Batches in all.
    pub fn batches(&self) -> u32 {
        u32::try_from(self.policy.batches.len()).unwrap_or(u32::MAX)
    }

    /// May it still begin with a device?
    pub fn is_live(&self) -> bool {
        is_live(self.state)
    }

    /// Is anything left that a look may change?
    pub fn is_open(&self) -> bool {
        self.is_live() || (self.state == RolloutState::Done && self.devices.values().any(|m| !m.is_settled()))
    }

    /// Is time being counted?
    pub fn is_timed(&self) -> bool {
        self.devices.values().any(|m| m.is_in_flight() || m.good_ms.is_some())
    }

    /// The devices that may get something else than `before`; none where any device may.
    pub fn changes_for(&self, before: &Self) -> Option<Vec<DeviceId>> {
        if (&self.uid, &self.subject, self.state) != (&before.uid, &before.subject, before.state) {
            return None;
        }
        let told = |m: &Member| (m.attempt, m.turn == RolloutTurn::Confirmed, m.turn == RolloutTurn::Waiting);
        let of = |rollout: &Self, id: &DeviceId| rollout.devices.get(id).map(told);
        let gone = before.devices.keys().filter(|id| !self.devices.contains_key(*id));
        let all = self.devices.keys().chain(gone);
        Some(all.filter(|id| of(self, id) != of(before, id)).cloned().collect())
    }

    /// As bytes for the store, always small enough for it.
    pub fn encode(&self) -> Bytes {
        let bytes = record::encode(self);
        if bytes.len() <= RECORD_MAX {
            return bytes;
        }
        let mut brief = self.clone();
        for member in brief.devices.values_mut() {
            member.reason.clear();
            member.before = Before::default();
        }
        record::encode(&brief)
    }
}

/// May a rollout in this state still begin with a device, now or after a word of an operator?
pub fn is_live(state: RolloutState) -> bool {
    match state {
        RolloutState::Running | RolloutState::Paused | RolloutState::Approval | RolloutState::Halted => true,
        RolloutState::Done | RolloutState::Aborted | RolloutState::Superseded => false,
    }
}

impl AgentSubject {
    /// As it stands in a device's document.
    pub fn wish(&self, attempt: u32) -> AgentWish {
        let Self { version, release_seq, manifest, keys_pin, targets: _, selector: _ } = self;
        AgentWish { version: *version, release_seq: *release_seq, manifest: *manifest, keys_pin: *keys_pin, attempt }
    }
}

/// Packages in few words.
pub fn packages(of: &OsPackages) -> String {
    match of {
        OsPackages::All => "all packages".to_owned(),
        OsPackages::These(packages) => {
            let one = |p: &OsPackage| p.version.as_ref().map_or(p.name.to_string(), |v| format!("{}={v}", p.name));
            let words = packages.iter().take(3).map(one).collect::<Vec<_>>().join(" ");
            match packages.len() {
                0..=3 => words,
                n => format!("{words} and {} more", n - 3),
            }
        }
    }
}

/// The key of a rollout in bucket `rollouts`.
pub fn rollout_key(tenant: &Tenant, name: &Name) -> String {
    format!("{tenant}.{name}")
}

/// So many of `total`, at least one.
pub fn amount(of: Amount, total: usize) -> usize {
    match of {
        Amount::Count(n) => usize::try_from(n).unwrap_or(usize::MAX).max(1),
        Amount::Percent(share) => (total * usize::from(share)).div_ceil(100).max(1),
    }
}

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// A batch beyond the last one.
    Batch(u32),
    /// A device is in a batch that has not begun.
    Early(DeviceId),
    /// A device that was left out was told nevertheless.
    Told(DeviceId),
    /// A device that was never told is under way, or failed.
    Untold(DeviceId),
    /// A time that has not come.
    Future(DeviceId),
    /// It is over, and not every batch has begun.
    Over,
}

/// Everything that is wrong with a rollout.
pub fn violations(rollout: &Rollout) -> Vec<Violation> {
    let mut found = vec![];
    if rollout.batch > rollout.batches() {
        found.push(Violation::Batch(rollout.batch));
    }
    if rollout.state == RolloutState::Done && rollout.batch < rollout.batches() {
        found.push(Violation::Over);
    }
    for (id, m) in &rollout.devices {
        if m.batch == 0 || m.batch > rollout.batch {
            found.push(Violation::Early(id.clone()));
        }
        match m.turn {
            RolloutTurn::Boxed | RolloutTurn::Refused if m.attempt > 0 => found.push(Violation::Told(id.clone())),
            RolloutTurn::Working | RolloutTurn::Failed if m.attempt == 0 => found.push(Violation::Untold(id.clone())),
            RolloutTurn::Waiting
            | RolloutTurn::Unreachable
            | RolloutTurn::Working
            | RolloutTurn::Proving
            | RolloutTurn::Confirmed
            | RolloutTurn::Failed
            | RolloutTurn::Boxed
            | RolloutTurn::Refused => {}
        }
        if m.since_ms > rollout.clock_ms || m.good_ms.is_some_and(|good| good > rollout.clock_ms) {
            found.push(Violation::Future(id.clone()));
        }
    }
    found
}
