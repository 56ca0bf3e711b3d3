//! What the coordinator says to the two agents of an upgrade, out of what is stored and heard alone.
//!
//! Decides: when a new agent is confirmed, when the old one is told to stop, and when a release is given up. Nothing is
//! remembered between two looks, so a coordinator that has just started says the same.
//! Deliberately does not: send (`background::upgrade`), nor say who gets which release (`rollout`).

use bramble_contracts::{
    SessionId,
    api::{Connection, DeviceState},
    bytes::Sha256,
    id::DeviceId,
    v1::{Health, Status},
    v2::{AgentWish, UpgradePhase, UpgradeReport, UpgradeWord},
    v3::{DesiredDocument, Report},
};

use super::{
    fleet::{Beat, Seen},
    liveness,
    rollout::{Before, Subject},
    view::Lens,
};

/// A word, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// The run of the agent.
    pub session: SessionId,
    /// What.
    pub word: UpgradeWord,
}

/// What is to be said to an agent of this device now, if anything. It is said until it is heard.
pub fn say(lens: &Lens<'_>, id: &DeviceId) -> Option<Say> {
    let seen = lens.fleet.device(id);
    let (report, document) = (seen.report()?, seen.desired()?);
    let upgrade = report.program.upgrade.as_ref()?;
    if seen.record()?.state != DeviceState::Active || !lens.fleet.waits_for().is_empty() {
        return None;
    }
    match upgrade.status {
        Status::Confirmed => retire(lens, &seen, report),
        Status::Staged | Status::Trial => match wish(document, upgrade) {
            Some(wish) => {
                let is_due = upgrade.phase == UpgradePhase::Trial && lacks(lens, id).is_none();
                is_due.then(|| to(report, UpgradeWord::Confirm { release_seq: wish.release_seq }))
            }
            None => abort(lens, &seen, report, upgrade),
        },
        Status::Failed | Status::RolledBack => None,
    }
}

fn to(report: &Report, word: UpgradeWord) -> Say {
    Say { session: report.session, word }
}

/// The wish that this upgrade follows, as long as it is still wished.
fn wish<'a>(document: &'a DesiredDocument, upgrade: &UpgradeReport) -> Option<&'a AgentWish> {
    document.agent.as_ref().filter(|wish| (wish.manifest, wish.attempt) == (upgrade.manifest, upgrade.attempt))
}

fn is_heard(lens: &Lens<'_>, beat: &Beat) -> bool {
    liveness::judge(beat.heard, lens.fleet.listening(), lens.now.mono_ms, lens.timeout_ms) == Connection::Online
}

/// What a new agent on trial lacks to be confirmed, in words; none when it lacks nothing.
pub fn lacks(lens: &Lens<'_>, id: &DeviceId) -> Option<String> {
    let seen = lens.fleet.device(id);
    let (Some(report), Some(document)) = (seen.report(), seen.desired()) else {
        return Some("nothing is known of it".to_owned());
    };
    let Some((upgrade, wish)) = report.program.upgrade.as_ref().and_then(|u| Some((u, wish(document, u)?))) else {
        return Some("it is not wished any more".to_owned());
    };
    let beat = seen.beats.into_iter().flatten().find(|beat| beat.heartbeat.session == report.session);
    if !beat.is_some_and(|beat| is_heard(lens, beat) && beat.heartbeat.version == wish.version) {
        return Some("no heartbeat of the new agent has come".to_owned());
    }
    if (report.agent, report.program.release_seq) != (upgrade.version, wish.release_seq) {
        return Some("it is not the new agent that reports".to_owned());
    }
    if report.generation != document.generation {
        return Some(format!("it acts on generation {}, the newest is {}", report.generation, document.generation));
    }
    let before = before(lens, id, &wish.manifest);
    match report.health {
        Health::Healthy => {}
        Health::Unknown => return Some("it does not know yet how its apps are".to_owned()),
        // It was in trouble before, and each app is looked at below.
        Health::Progressing | Health::Degraded if is_sick(before.health) => {}
        Health::Progressing => return Some("work is under way on it".to_owned()),
        Health::Degraded => return Some("its health is degraded, and was not before".to_owned()),
    }
    document.apps.iter().find_map(|want| {
        let metadata = &want.deployment.metadata;
        let key = format!("{}.{}", metadata.tenant, metadata.name);
        let app = report.apps.iter().find(|app| (&app.uid, app.revision) == (&want.uid, want.revision));
        match app.map(|app| app.status) {
            Some(Status::Confirmed) => None,
            Some(_) if before.troubled.contains(&key) => None,
            Some(_) => Some(format!("app {} is not as it was before", metadata.name)),
            None => Some(format!("it says nothing of app {} yet", metadata.name)),
        }
    })
}

fn is_sick(health: Health) -> bool {
    match health {
        Health::Progressing | Health::Degraded => true,
        Health::Unknown | Health::Healthy => false,
    }
}

/// How the device was before, as the newest rollout of this release wrote it down.
fn before(lens: &Lens<'_>, id: &DeviceId, manifest: &Sha256) -> Before {
    let of_it = lens.fleet.rollouts.readable().filter(|(_, _, r)| match &r.subject {
        Subject::Agent(agent) => agent.manifest == *manifest && r.devices.contains_key(id),
        Subject::Deployment(_) | Subject::Os(_) => false,
    });
    let newest = of_it.max_by(|(_, _, a), (_, _, b)| a.age().cmp(&b.age()));
    newest.and_then(|(_, _, r)| r.devices.get(id)).map(|m| m.before.clone()).unwrap_or_default()
}

/// Another agent is confirmed: whoever beats beside it is told to stop.
fn retire(lens: &Lens<'_>, seen: &Seen<'_>, report: &Report) -> Option<Say> {
    let mut beats = seen.beats.into_iter().flatten();
    let acts = beats.clone().find(|beat| beat.heartbeat.session == report.session)?;
    let other = beats.find(|beat| beat.heartbeat.session != report.session)?;
    // Never the only one.
    let both = is_heard(lens, acts) && is_heard(lens, other) && report.instance != other.heartbeat.instance;
    both.then_some(Say { session: other.heartbeat.session, word: UpgradeWord::Retire })
}

/// It is not wished any more, by anybody: whoever acts gives it up.
fn abort(lens: &Lens<'_>, seen: &Seen<'_>, report: &Report, upgrade: &UpgradeReport) -> Option<Say> {
    let acts = seen.beats.into_iter().flatten().find(|beat| beat.heartbeat.session == report.session)?;
    let in_cutover = match upgrade.phase {
        UpgradePhase::CutoverReady | UpgradePhase::Trial => true,
        // Over, or so far from a cutover that its newest document is enough.
        UpgradePhase::Stopping | UpgradePhase::Done => return None,
        UpgradePhase::Waiting | UpgradePhase::Draining | UpgradePhase::Staging | UpgradePhase::Verifying => false,
    };
    let has_heard = seen.desired().is_some_and(|document| report.generation >= document.generation);
    if !is_heard(lens, acts) || !(in_cutover || has_heard) {
        return None;
    }
    let release_seq = release_seq(lens, report, upgrade)?;
    let why = match seen.desired().and_then(|document| document.agent.as_ref()) {
        Some(other) if other.manifest != upgrade.manifest => format!("release {} is wished instead", other.version),
        Some(other) => format!("attempt {} is wished instead", other.attempt),
        None => "its rollout was aborted".to_owned(),
    };
    Some(to(report, UpgradeWord::Abort { release_seq, why }))
}

fn release_seq(lens: &Lens<'_>, report: &Report, upgrade: &UpgradeReport) -> Option<u64> {
    let published = lens.fleet.releases.now().by_manifest(&upgrade.manifest).map(|release| release.release_seq);
    let rolled_out = || {
        lens.fleet.rollouts.readable().find_map(|(_, _, r)| match &r.subject {
            Subject::Agent(agent) if agent.manifest == upgrade.manifest => Some(agent.release_seq),
            Subject::Agent(_) | Subject::Deployment(_) | Subject::Os(_) => None,
        })
    };
    // On trial it is the new one that reports.
    let own = || (report.agent == upgrade.version).then_some(report.program.release_seq);
    published.or_else(rolled_out).or_else(own)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bramble_contracts::{
        Generation,
        api::RolloutTurn,
        bytes::Fixed,
        envelope,
        id::Uid,
        signed::{self, Role},
        subjects::{Bucket, liveness_key},
        v1::{self, Heartbeat, Instance, Phase},
        v2::{AgentReport, AppReport},
    };

    use super::*;
    use crate::{
        domain::{
            Now,
            compose::{self, Composition},
            fleet::Fleet,
            record::{self, DeviceRecord},
            rollout::{AgentSubject, Begin, Member, Rollout},
            testing,
        },
        store::{Change, feed::FED},
    };

    const NOW: Now = Now { wall_ms: 1_000_000, mono_ms: 50_000 };

    /// A device on trial that is as it should be; each test spoils something.
    struct World {
        device: DeviceRecord,
        wish: Option<AgentWish>,
        report: Report,
        /// When the new and the old agent beat last.
        beats: (Option<u64>, Option<u64>),
        rollout: Option<Before>,
    }

    fn upgrade(status: Status, phase: UpgradePhase) -> UpgradeReport {
        UpgradeReport {
            version: "1.2.3".parse().unwrap(),
            manifest: Fixed([1; 32]),
            attempt: 1,
            status,
            phase,
            reason: String::new(),
            blamed: false,
            bytes_got: 1,
            bytes_all: 1,
            took_ms: None,
            unmanaged_ms: None,
        }
    }

    fn subject() -> AgentSubject {
        AgentSubject {
            version: "1.2.3".parse().unwrap(),
            release_seq: 7,
            manifest: Fixed([1; 32]),
            keys_pin: Fixed([2; 32]),
            targets: vec![],
            selector: None,
        }
    }

    impl World {
        fn new() -> Self {
            let device = testing::device(1, &[("a", "0")]);
            let mut report = testing::report(&device, 5);
            report.session = Fixed([2; 8]);
            report.instance = Instance::B;
            report.agent = "1.2.3".parse().unwrap();
            report.program = AgentReport {
                release_seq: 7,
                upgrade: Some(upgrade(Status::Trial, UpgradePhase::Trial)),
                ..AgentReport::default()
            };
            let app = testing::record("web", ("a", "0"), 80, 1);
            report.apps = vec![AppReport {
                uid: app.uid,
                tenant: device.tenant.clone(),
                deployment: "web".parse().unwrap(),
                revision: app.revision,
                running_revision: None,
                running_hash: None,
                status: Status::Confirmed,
                phase: Phase::Running,
                reason: String::new(),
                last_downtime_ms: None,
                containers: vec![],
                stages: vec![],
            }];
            Self { device, wish: Some(subject().wish(1)), report, beats: (Some(49_000), Some(49_000)), rollout: None }
        }

        fn with(change: impl FnOnce(&mut Self)) -> Self {
            let mut world = Self::new();
            change(&mut world);
            world
        }

        fn fleet(&self) -> Fleet {
            let (trust, key) = testing::trust();
            let mut fleet = Fleet::new(trust);
            let id = self.device.id.to_string();
            let apps = compose::compose(
                &self.device,
                &[testing::record("web", ("a", "0"), 80, 1)],
                &crate::domain::rollout::gate::Gate::default(),
            )
            .apps;
            let composition = Composition { apps, agent: self.wish.clone(), ..Composition::default() };
            let document = compose::document(&self.device, Generation(5), &composition);
            let mut all = vec![
                (Bucket::Devices, id.clone(), record::encode(&self.device)),
                (Bucket::Desired, id.clone(), signed::sign(&document, Role::Fleet, &key).unwrap().into()),
                (Bucket::Reported, id, envelope::encode(&self.report).unwrap().into()),
            ];
            if let Some(before) = self.rollout.clone() {
                let rollout = self.rollout(&before);
                all.push((Bucket::Rollouts, rollout.key(), rollout.encode()));
            }
            let at = |mono_ms| Now { wall_ms: 0, mono_ms };
            for (bucket, key, bytes) in all {
                fleet.apply(Change::Value { bucket, key, seq: 1, bytes: Some(bytes) }, at(0));
            }
            for bucket in FED {
                fleet.apply(Change::CaughtUp(bucket), at(0));
            }
            let new = self.beats.0.map(|at| (at, self.report.session, Instance::B, "1.2.3"));
            let old = self.beats.1.map(|at| (at, Fixed([1; 8]), Instance::A, "0.1.0"));
            for (mono_ms, session, instance, version) in new.into_iter().chain(old) {
                let heartbeat = Heartbeat {
                    session,
                    instance,
                    seq: 1,
                    uptime_ms: 1,
                    generation: Generation(5),
                    version: version.parse().unwrap(),
                    newest_document: 2,
                    health: Health::Healthy,
                };
                let bytes = Some(envelope::encode(&heartbeat).unwrap().into());
                let key = liveness_key(&self.device.id, instance);
                fleet.apply(Change::Value { bucket: Bucket::Liveness, key, seq: 2, bytes }, at(mono_ms));
            }
            fleet
        }

        fn rollout(&self, before: &Before) -> Rollout {
            let mut rollout = Rollout::new(Begin {
                uid: Uid::from_entropy([1; 13]),
                tenant: self.device.tenant.clone(),
                name: "agent".parse().unwrap(),
                subject: Subject::Agent(subject()),
                policy: v1::Rollout::default(),
                by: "ann".into(),
                wall_ms: 1,
                failed_before: BTreeMap::new(),
            });
            rollout.batch = 1;
            let member =
                serde_json::json!({ "batch": 1, "turn": RolloutTurn::Working, "attempt": 1, "before": before });
            rollout.devices.insert(self.device.id.clone(), serde_json::from_value::<Member>(member).unwrap());
            rollout
        }

        fn says(&self) -> String {
            let fleet = self.fleet();
            let lens = Lens { fleet: &fleet, now: NOW, timeout_ms: 15_000 };
            let said = say(&lens, &self.device.id);
            let lacks = lacks(&lens, &self.device.id).unwrap_or_default();
            match said {
                Some(say) => {
                    let to = if say.session == self.report.session { "new" } else { "old" };
                    format!("{:?} to the {to} one", say.word)
                }
                None => format!("nothing: {lacks}"),
            }
        }
    }

    #[test]
    fn a_new_agent_is_confirmed_when_it_was_seen_to_do_all_that_the_old_one_did() {
        let with = |change: fn(&mut World)| World::with(change).says();
        let confirm = "Confirm { release_seq: 7 } to the new one";
        assert_eq!(with(|_| ()), confirm);
        for (change, lacks) in [
            ((|w| w.beats.0 = None) as fn(&mut World), "no heartbeat of the new agent has come"),
            (|w| w.beats.0 = Some(10_000), "no heartbeat of the new agent has come"),
            (|w| w.report.agent = "0.1.0".parse().unwrap(), "it is not the new agent that reports"),
            (|w| w.report.program.release_seq = 6, "it is not the new agent that reports"),
            (|w| w.report.generation = Generation(4), "it acts on generation 4, the newest is 5"),
            (|w| w.report.health = Health::Unknown, "it does not know yet how its apps are"),
            (|w| w.report.health = Health::Progressing, "work is under way on it"),
            (|w| w.report.health = Health::Degraded, "its health is degraded, and was not before"),
            (|w| w.report.apps[0].status = Status::Trial, "app web is not as it was before"),
            (|w| w.report.apps.clear(), "it says nothing of app web yet"),
        ] {
            assert_eq!(with(change), format!("nothing: {lacks}"));
        }
        let staged =
            |w: &mut World| w.report.program.upgrade = Some(upgrade(Status::Staged, UpgradePhase::CutoverReady));
        assert!(World::with(staged).says().starts_with("nothing"), "it is not on trial");
        let cut_off = |w: &mut World| w.device.state = DeviceState::Quarantined;
        assert!(World::with(cut_off).says().starts_with("nothing"));
    }

    #[test]
    fn what_was_broken_before_need_not_be_mended() {
        let sick = |w: &mut World| {
            (w.report.health, w.report.apps[0].status) = (Health::Degraded, Status::Failed);
            w.rollout = Some(Before { health: Health::Degraded, troubled: vec!["default.web".into()] });
        };
        assert_eq!(World::with(sick).says(), "Confirm { release_seq: 7 } to the new one");
        let other = |w: &mut World| {
            sick(w);
            w.rollout = Some(Before { health: Health::Degraded, troubled: vec!["default.cam".into()] });
        };
        assert_eq!(World::with(other).says(), "nothing: app web is not as it was before");
    }

    #[test]
    fn the_old_agent_is_told_to_stop_while_it_beats_and_never_the_only_one() {
        let confirmed = |beats| {
            World::with(|w| {
                w.report.program.upgrade = Some(upgrade(Status::Confirmed, UpgradePhase::Stopping));
                w.beats = beats;
            })
            .says()
        };
        assert_eq!(confirmed((Some(49_000), Some(49_000))), "Retire to the old one");
        for alone in
            [(Some(49_000), None), (Some(49_000), Some(1_000)), (None, Some(49_000)), (Some(1_000), Some(49_000))]
        {
            assert!(confirmed(alone).starts_with("nothing"), "{alone:?}");
        }
    }

    #[test]
    fn what_is_not_wished_any_more_is_given_up_by_whoever_acts() {
        let abort = |why: &str| format!("Abort {{ release_seq: 7, why: {why:?} }} to the new one");
        assert_eq!(World::with(|w| w.wish = None).says(), abort("its rollout was aborted"));
        let other = |w: &mut World| w.wish.as_mut().unwrap().manifest = Fixed([9; 32]);
        assert_eq!(World::with(other).says(), abort("release 1.2.3 is wished instead"));
        assert_eq!(World::with(|w| w.wish.as_mut().unwrap().attempt = 2).says(), abort("attempt 2 is wished instead"));
        // Far from a cutover, the newest document is enough, once it was taken.
        let staging = |generation| {
            World::with(|w| {
                (w.wish, w.report.generation) = (None, Generation(generation));
                w.report.program.upgrade = Some(upgrade(Status::Staged, UpgradePhase::Staging));
            })
            .says()
        };
        assert!(staging(4).starts_with("nothing"));
        assert_eq!(staging(5), abort("its rollout was aborted"));
        let over = |w: &mut World| {
            w.wish = None;
            w.report.program.upgrade = Some(upgrade(Status::RolledBack, UpgradePhase::Done));
        };
        assert!(World::with(over).says().starts_with("nothing"));
    }
}
