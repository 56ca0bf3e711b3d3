//! What a device gets of what is rolled out: the new thing once it was told to begin, and until then what it has.
//!
//! Decides: that "what it has" is what its own document says. So nothing older need be kept anywhere else, devices may
//! come from different revisions, and a coordinator that is behind can hold something back but never undo it.

use bramble_contracts::{
    api::{RolloutKind, RolloutState, RolloutTurn},
    id::DeviceId,
    v1,
    v2::AgentWish,
    v3::{DesiredDocument, OsWish},
};

use super::{Rollout, Subject, rollout_key};
use crate::domain::{
    fleet::Fleet,
    record::{DeploymentRecord, DeviceRecord},
    table::{Slot, Table},
};

/// The oldest document that can carry the wish for a release.
const WISH_DOCUMENT: u8 = 2;
/// The oldest document that can carry the wish for an upgrade of the operating system.
pub(super) const OS_DOCUMENT: u8 = 3;

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
        rollout.is_of(record)
            && (rollout.state == RolloutState::Done || rollout.devices.get(device).is_some_and(|m| m.attempt > 0))
    }

    /// The release that the agent of `device` should become. Absence changes nothing, so what it was told stays.
    pub fn agent(&self, device: &DeviceRecord) -> Option<AgentWish> {
        let kept = self.current.and_then(|document| document.agent.clone());
        let wish = match self.newest_word(device, RolloutKind::Agent) {
            Some((rollout, attempt, told)) => match (&rollout.subject, told) {
                (Subject::Agent(agent), Told::It) => Some(agent.wish(attempt)),
                (Subject::Agent(agent), Told::NotToGoOn) => kept.filter(|wish| wish.manifest != agent.manifest),
                (Subject::Agent(_), Told::NothingNew)
                | (Subject::Deployment(_) | Subject::Os(_), Told::It | Told::NotToGoOn | Told::NothingNew) => kept,
            },
            None => kept,
        };
        // An agent that was replaced by an older one, by hand, must still be able to read its document.
        wish.filter(|_| self.reads.is_none_or(|reads| reads >= WISH_DOCUMENT))
    }

    /// The upgrade that the operating system of `device` should make. Here, too, what it was told stays.
    pub fn os(&self, device: &DeviceRecord) -> Option<OsWish> {
        let kept = self.current.and_then(|document| document.os.clone());
        let wish = match self.newest_word(device, RolloutKind::Os) {
            Some((rollout, attempt, Told::It)) => rollout.os_wish(attempt),
            Some((rollout, _, Told::NotToGoOn)) => kept.filter(|wish| wish.id != rollout.uid),
            Some((_, _, Told::NothingNew)) | None => kept,
        };
        wish.filter(|_| self.reads.is_none_or(|reads| reads >= OS_DOCUMENT))
    }

    /// The newest rollout of that kind that said something to this device.
    fn newest_word(&self, device: &DeviceRecord, kind: RolloutKind) -> Option<(&'a Rollout, u32, Told)> {
        let all = self.rollouts?.readable().map(|(_, _, rollout)| rollout);
        let ours = all.filter(|r| r.kind() == kind && r.tenant == device.tenant);
        let said = ours.filter_map(|r| {
            let member = r.devices.get(&device.id).filter(|m| m.attempt > 0)?;
            let told = match member.turn {
                RolloutTurn::Confirmed => Told::It,
                // Another one has taken its place: until that speaks, none that is older still speaks again.
                _ if matches!(r.state, RolloutState::Aborted | RolloutState::Superseded) => Told::NotToGoOn,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bramble_contracts::{Revision, bytes::Fixed, id::Uid, quantity::Amount};

    use super::*;
    use crate::domain::{
        compose,
        rollout::{AgentSubject, Begin, DeploymentSubject, Member},
        testing,
    };

    fn rollout(
        subject: Subject,
        name: &str,
        age: u64,
        state: RolloutState,
        member: Option<(RolloutTurn, u32)>,
    ) -> Rollout {
        let mut rollout = Rollout::new(Begin {
            uid: Uid::from_entropy([1; 13]),
            tenant: testing::device(1, &[]).tenant,
            name: name.parse().unwrap(),
            subject,
            policy: v1::Rollout::default(),
            by: "ann".into(),
            wall_ms: age,
            failed_before: BTreeMap::new(),
        });
        rollout.state = state;
        if let Some((turn, attempt)) = member {
            rollout.devices.insert(testing::device(1, &[]).id, Member { attempt, ..Member::new(1, turn) });
        }
        rollout
    }

    fn table(rollouts: Vec<Rollout>) -> Table<String, Rollout> {
        let mut table = Table::default();
        table.caught_up();
        rollouts.into_iter().for_each(|r| table.set(r.key(), 1, Some(Ok(r))));
        table
    }

    fn agent(n: u8) -> AgentSubject {
        AgentSubject {
            version: format!("{n}.0.0").parse().unwrap(),
            release_seq: n.into(),
            manifest: Fixed([n; 32]),
            keys_pin: Fixed([9; 32]),
            targets: vec![],
            selector: None,
        }
    }

    /// What the document wishes after `rollouts`, where it wished this release before.
    fn wished(before: Option<u8>, reads: Option<u8>, rollouts: Vec<Rollout>) -> Option<(u64, u32)> {
        let device = testing::device(1, &[("a", "0")]);
        let composition =
            compose::Composition { agent: before.map(|n| agent(n).wish(1)), ..compose::Composition::default() };
        let document = compose::document(&device, bramble_contracts::Generation(1), &composition);
        let rollouts = table(rollouts);
        let gate = Gate { rollouts: Some(&rollouts), current: Some(&document), reads };
        gate.agent(&device).map(|wish| (wish.release_seq, wish.attempt))
    }

    #[test]
    fn a_wish_stays_until_another_rollout_changes_it() {
        use {RolloutState as S, RolloutTurn as T};
        let of = |n, age, state, member| rollout(Subject::Agent(agent(n)), &format!("r{n}"), age, state, member);
        assert_eq!(wished(None, Some(2), vec![]), None);
        assert_eq!(wished(Some(1), Some(2), vec![]), Some((1, 1)), "its rollout is long forgotten");
        assert_eq!(wished(None, Some(2), vec![of(2, 1, S::Running, None)]), None, "its turn has not come");
        assert_eq!(wished(None, Some(2), vec![of(2, 1, S::Running, Some((T::Waiting, 0)))]), None);
        assert_eq!(wished(Some(1), Some(2), vec![of(2, 1, S::Running, Some((T::Working, 3)))]), Some((2, 3)));
        assert_eq!(
            wished(None, Some(1), vec![of(2, 1, S::Running, Some((T::Working, 1)))]),
            None,
            "it could not read it"
        );
        let both = |newer| vec![of(2, 1, S::Done, Some((T::Confirmed, 1))), of(3, 2, newer, Some((T::Working, 1)))];
        assert_eq!(wished(Some(2), Some(2), both(S::Running)), Some((3, 1)), "the newer one has its way");
        assert_eq!(wished(Some(3), Some(2), both(S::Aborted)), None, "given up, and the agent stays as it is");
        assert_eq!(wished(Some(2), Some(2), both(S::Superseded)), Some((2, 1)));
        assert_eq!(wished(Some(3), Some(2), both(S::Superseded)), None, "what is older does not come back");
        let aborted = vec![of(2, 1, S::Aborted, Some((T::Confirmed, 1)))];
        assert_eq!(wished(Some(2), Some(2), aborted), Some((2, 1)), "who has it keeps it");
        let again = vec![of(2, 1, S::Running, Some((T::Waiting, 1)))];
        assert_eq!(wished(None, Some(2), again), None, "begun again, it is told anew at its turn");
    }

    #[test]
    fn a_device_keeps_the_revision_that_its_document_holds_until_its_turn() {
        let device = testing::device(1, &[("a", "0")]);
        let old = testing::record("web", ("a", "0"), 80, 1);
        let composed = compose::compose(&device, [&old], &Gate::default());
        let document = compose::document(&device, bramble_contracts::Generation(1), &composed);
        let mut new = old.clone();
        new.revision = Revision(2);
        new.deployment.spec.rollout.batches = vec![Amount::Count(1), Amount::Percent(100)];
        new.deployment.spec.containers[0].args = vec!["x".into()];
        let gets = |current, rollouts: Vec<Rollout>| {
            let rollouts = table(rollouts);
            let gate = Gate { rollouts: Some(&rollouts), current, reads: Some(2) };
            let apps = compose::compose(&device, [&new], &gate).apps;
            apps.first().map(|app| (app.revision.0, app.deployment == new.deployment))
        };
        let subject =
            |revision| Subject::Deployment(DeploymentSubject { uid: new.uid.clone(), revision: Revision(revision) });
        let of = |revision, state, member| vec![rollout(subject(revision), "web", 1, state, member)];
        let (kept, newest) = (Some((1, false)), Some((2, true)));
        assert_eq!(gets(Some(&document), vec![]), kept, "its rollout is about to begin");
        assert_eq!(gets(None, vec![]), None, "who had nothing gets nothing before its turn");
        assert_eq!(gets(Some(&document), of(1, RolloutState::Done, None)), kept, "that was another revision's");
        assert_eq!(gets(Some(&document), of(2, RolloutState::Running, None)), kept);
        let told = Some((RolloutTurn::Working, 1));
        assert_eq!(gets(Some(&document), of(2, RolloutState::Running, told)), newest);
        assert_eq!(gets(Some(&document), of(2, RolloutState::Paused, told)), newest, "a pause takes nothing back");
        assert_eq!(gets(Some(&document), of(2, RolloutState::Aborted, None)), kept);
        assert_eq!(gets(None, of(2, RolloutState::Done, None)), newest, "who joins later gets it at once");
        let made_anew = DeploymentSubject { uid: Uid::from_entropy([7; 13]), revision: Revision(2) };
        let other = vec![rollout(Subject::Deployment(made_anew), "web", 1, RolloutState::Done, None)];
        assert_eq!(gets(Some(&document), other), kept);
    }
}
