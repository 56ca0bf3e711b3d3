//! What a device gets of what is rolled out: the new thing once it was told to begin, and until then what it has.
//!
//! Decides: that "what it has" is what its own document says. So nothing older need be kept anywhere else, devices may
//! come from different revisions, and a coordinator that is behind can hold something back but never undo it.

use bramble_contracts::{
    api::{RolloutState, RolloutTurn},
    id::DeviceId,
    v1,
    v2::{AgentWish, DesiredDocument},
};

use super::{Rollout, Subject, rollout_key};
use crate::domain::{
    fleet::Fleet,
    record::{DeploymentRecord, DeviceRecord},
    table::{Slot, Table},
};

/// The oldest document that can carry the wish for a release.
const WISH_DOCUMENT: u8 = 2;

/// What is known of one device's turns.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gate<'a> {
    rollouts: Option<&'a Table<String, Rollout>>,
    current: Option<&'a DesiredDocument>,
    /// The newest document that its agent reads; none when unknown.
    reads: Option<u8>,
}

/// What a device gets of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gets {
    /// Its newest revision.
    New,
    /// What its document holds.
    Old(Box<DeploymentRecord>),
    /// Nothing, until its turn comes.
    Nothing,
}

/// Does a change go to all devices at once, without a rollout?
pub fn is_immediate(policy: &v1::Rollout) -> bool {
    *policy == v1::Rollout::default()
}

impl<'a> Gate<'a> {
    /// Of one device.
    pub fn of(fleet: &'a Fleet, id: &DeviceId) -> Self {
        let seen = fleet.device(id);
        Self {
            rollouts: Some(&fleet.rollouts),
            current: seen.desired(),
            reads: seen.report().map(|r| r.newest_document),
        }
    }

    /// What `device` gets of this deployment.
    pub fn app(&self, record: &DeploymentRecord, device: &DeviceId) -> Gets {
        let policy = &record.deployment.spec.rollout;
        if self.rollouts.is_none() || is_immediate(policy) || self.is_told(record, device) {
            return Gets::New;
        }
        let apps = self.current.map_or(&[][..], |document| &document.apps);
        match apps.iter().find(|app| app.uid == record.uid) {
            Some(app) => {
                let (revision, deployment) = (app.revision, app.deployment.clone());
                Gets::Old(Box::new(DeploymentRecord { revision, deployment, ..record.clone() }))
            }
            None => Gets::Nothing,
        }
    }

    fn is_told(&self, record: &DeploymentRecord, device: &DeviceId) -> bool {
        let key = rollout_key(record.tenant(), record.name());
        let Some(rollout) = self.rollouts.and_then(|all| all.get(&key)).and_then(Slot::ok) else { return false };
        let Subject::Deployment(subject) = &rollout.subject else { return false };
        let is_it = (&subject.uid, subject.revision) == (&record.uid, record.revision);
        is_it && (rollout.state == RolloutState::Done || rollout.devices.get(device).is_some_and(|m| m.attempt > 0))
    }

    /// The release that the agent of `device` should become. Absence changes nothing, so what it was told stays.
    pub fn agent(&self, device: &DeviceRecord) -> Option<AgentWish> {
        let kept = self.current.and_then(|document| document.agent.clone());
        let wish = match self.newest_word(device) {
            Some((rollout, attempt, told)) => match (&rollout.subject, told) {
                (Subject::Agent(agent), Told::It) => Some(agent.wish(attempt)),
                (Subject::Agent(agent), Told::NotToGoOn) => kept.filter(|wish| wish.manifest != agent.manifest),
                (Subject::Agent(_), Told::NothingNew)
                | (Subject::Deployment(_), Told::It | Told::NotToGoOn | Told::NothingNew) => kept,
            },
            None => kept,
        };
        // An agent that was replaced by an older one, by hand, must still be able to read its document.
        wish.filter(|_| self.reads.is_none_or(|reads| reads >= WISH_DOCUMENT))
    }

    /// The newest rollout of the agent that said something to this device.
    fn newest_word(&self, device: &DeviceRecord) -> Option<(&'a Rollout, u32, Told)> {
        let all = self.rollouts?.readable().map(|(_, _, rollout)| rollout);
        let said = all.filter(|r| r.tenant == device.tenant && r.state != RolloutState::Superseded).filter_map(|r| {
            let Subject::Agent(_) = &r.subject else { return None };
            let member = r.devices.get(&device.id).filter(|m| m.attempt > 0)?;
            let told = match member.turn {
                RolloutTurn::Confirmed => Told::It,
                _ if r.state == RolloutState::Aborted => Told::NotToGoOn,
                // It is to be told again, once its turn comes.
                RolloutTurn::Waiting => Told::NothingNew,
                RolloutTurn::Unreachable
                | RolloutTurn::Working
                | RolloutTurn::Proving
                | RolloutTurn::Failed
                | RolloutTurn::Boxed
                | RolloutTurn::Refused => Told::It,
            };
            Some((r, member.attempt, told))
        });
        said.max_by(|(a, ..), (b, ..)| a.age().cmp(&b.age()))
    }
}

/// What a rollout said to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// To become its release.
    It,
    /// That it was given up.
    NotToGoOn,
    /// Nothing after what it knows.
    NothingNew,
}
