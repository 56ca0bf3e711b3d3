//! A device whose agent upgrades itself as its document wishes and the coordinator says: two instances, one that acts.

use std::sync::Mutex;

use bramble_contracts::{
    Generation, SessionId,
    bytes::{Fixed, Sha256},
    envelope,
    id::DeviceId,
    release::{Artifact, KeyRing, ReleaseKeys, ReleaseManifest},
    signed::public_key,
    subjects::{Bucket, liveness_key},
    v1::{AgentVersion, Health, Heartbeat, Instance, Status, Verb},
    v2::{AgentReport, AgentWish, AppReport, UpgradePhase, UpgradeReport, UpgradeWord},
    v3::Report,
};
use bramble_coordinator::domain::{
    record,
    releases::{CATALOGUE, CatalogueRecord, KEYS, KeysRecord, Published},
};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use serde_json::json;

use crate::sim::Sim;

pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";

fn published(signed: Vec<u8>) -> Published {
    Published { signed, at_ms: 1, by: "ann".into() }
}

/// Publishes these versions, with the sequences 1, 2, …
pub(super) async fn publish(sim: &Sim, versions: &[&str]) {
    let key = |n: u8| SigningKey::from_bytes(&[n; 32]);
    let (roots, signers) = ([key(1), key(2)], [key(3), key(4)]);
    let ring = |keys: &[SigningKey]| KeyRing { keys: keys.iter().map(public_key).collect(), threshold: 2 };
    let keys = ReleaseKeys { version: 1, root: ring(&roots), release: ring(&signers) };
    let signed = keys.sign(&[&roots[0], &roots[1]]).unwrap();
    let record = KeysRecord { chain: vec![published(signed)] };
    sim.store.force(Bucket::Releases, KEYS, Some(record::encode(&record)));
    let releases = versions.iter().zip(1..).map(|(version, release_seq)| {
        let artifact = Artifact { target: TARGET.parse().unwrap(), size: 9, sha256: Sha256::of(version.as_bytes()) };
        let manifest = ReleaseManifest {
            product: ReleaseManifest::PRODUCT.into(),
            version: version.parse().unwrap(),
            release_seq,
            min_seq: 1,
            created_ms: 1,
            expires_ms: u64::MAX,
            artifacts: vec![artifact],
        };
        published(manifest.sign(&[&signers[0], &signers[1]]).unwrap())
    });
    let catalogue = CatalogueRecord { releases: releases.collect() };
    sim.store.force(Bucket::Releases, CATALOGUE, Some(record::encode(&catalogue)));
    let last: AgentVersion = versions.last().unwrap().parse().unwrap();
    sim.until("the release is known", |lens| lens.fleet.releases.now().get(&last).is_some()).await;
}

/// How its agents take a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Well.
    Well,
    /// Its self-test fails, and passes at the second attempt.
    FailsOnce,
    /// It stays on trial with an app that was well before and is not any more.
    BreaksApp,
    /// It reads only documents of the first version.
    NotAtAll,
}

#[derive(Debug, Clone)]
struct One {
    instance: Instance,
    session: SessionId,
    version: AgentVersion,
    seq: u64,
}

#[derive(Debug, Clone)]
struct State {
    acts: One,
    /// The other agent, while there is one.
    other: Option<One>,
    generation: Generation,
    upgrade: Option<UpgradeReport>,
    apps: Vec<AppReport>,
    runs: u8,
    online: bool,
}

/// One device.
pub(super) struct Agent {
    pub(super) id: DeviceId,
    takes: Takes,
    state: Mutex<State>,
}

impl Agent {
    pub(super) async fn new(sim: &Sim, name: &str, takes: Takes) -> Self {
        let id = sim.device(name, json!({ "site": "paris" })).await.id;
        let acts = One { instance: Instance::A, session: Fixed([1; 8]), version: "0.1.0".parse().unwrap(), seq: 0 };
        let (generation, apps) = (Generation(0), vec![]);
        let state = State { acts, other: None, generation, upgrade: None, apps, runs: 1, online: true };
        let agent = Self { id, takes, state: Mutex::new(state) };
        agent.speak(sim);
        agent
    }

    /// Its phase, and the version that acts.
    pub(super) fn is(&self) -> (Option<(Status, UpgradePhase)>, String) {
        let state = self.state.lock().unwrap();
        (state.upgrade.as_ref().map(|u| (u.status, u.phase)), state.acts.version.to_string())
    }

    pub(super) fn sessions(&self) -> (SessionId, Option<SessionId>) {
        let state = self.state.lock().unwrap();
        (state.acts.session, state.other.as_ref().map(|o| o.session))
    }

    pub(super) fn goes(&self, sim: &Sim) {
        self.state.lock().unwrap().online = false;
        sim.core.index.disconnected(&self.id);
    }

    pub(super) fn comes_back(&self, sim: &Sim) {
        self.state.lock().unwrap().online = true;
        self.speak(sim);
    }

    /// Does the next thing that there is to do, and says so. True when something changed.
    pub(super) fn go_on(&self, sim: &Sim) -> bool {
        let mut state = self.state.lock().unwrap();
        if !state.online {
            return false;
        }
        let before = format!("{state:?}");
        if let Some(document) = sim.document(&self.id) {
            state.generation = document.generation;
            if self.takes != Takes::NotAtAll {
                self.follow(sim, &mut state, document.agent);
            }
        }
        let changed = format!("{state:?}") != before;
        drop(state);
        if changed {
            self.speak(sim);
        }
        changed
    }

    fn follow(&self, sim: &Sim, state: &mut State, wish: Option<AgentWish>) {
        use UpgradePhase as P;
        let words: Vec<(SessionId, UpgradeWord)> = sim
            .mesh
            .words
            .lock()
            .unwrap()
            .iter()
            .filter(|c| c.device == self.id)
            .filter_map(|c| match &c.verb {
                Verb::Upgrade(word) => Some((c.session, word.clone())),
                _ => None,
            })
            .collect();
        let told = |session: SessionId, word: &dyn Fn(&UpgradeWord) -> bool| {
            words.iter().any(|(s, w)| *s == session && word(w))
        };
        let acting = state.acts.session;
        let fresh = |wish: &AgentWish| {
            state.upgrade.as_ref().is_none_or(|u| (u.manifest, u.attempt) != (wish.manifest, wish.attempt))
        };
        if let Some(wish) = wish.as_ref().filter(|wish| fresh(wish)) {
            state.upgrade = Some(begun(wish));
            return;
        }
        let Some(upgrade) = state.upgrade.as_mut() else { return };
        match (upgrade.status, upgrade.phase) {
            (Status::Staged, P::Staging) => upgrade.phase = P::Verifying,
            (Status::Staged, P::Verifying) if self.takes == Takes::FailsOnce && upgrade.attempt == 1 => {
                (upgrade.status, upgrade.phase, upgrade.blamed) = (Status::Failed, P::Done, true);
                upgrade.reason = "self-test: it cannot read the state".into();
            }
            (Status::Staged, P::Verifying) => upgrade.phase = P::CutoverReady,
            (Status::Staged, P::CutoverReady) => {
                (upgrade.status, upgrade.phase) = (Status::Trial, P::Trial);
                state.runs += 1;
                let instance = if state.acts.instance == Instance::A { Instance::B } else { Instance::A };
                let seq = wish.map_or(0, |wish| wish.release_seq);
                let new = One { instance, session: Fixed([state.runs; 8]), version: upgrade.version, seq };
                state.other = Some(std::mem::replace(&mut state.acts, new));
                if self.takes == Takes::BreaksApp {
                    state.apps.iter_mut().for_each(|app| app.status = Status::Failed);
                }
            }
            (Status::Trial, P::Trial) if told(acting, &|w| matches!(w, UpgradeWord::Confirm { .. })) => {
                (upgrade.status, upgrade.phase) = (Status::Confirmed, P::Stopping);
            }
            (Status::Trial, P::Trial) if told(acting, &|w| matches!(w, UpgradeWord::Abort { .. })) => {
                (upgrade.status, upgrade.phase) = (Status::RolledBack, P::Done);
                upgrade.reason = "the coordinator gave it up".into();
                state.acts = state.other.take().unwrap();
            }
            (Status::Confirmed, P::Stopping) => {
                let retired = state.other.as_ref().is_none_or(|o| told(o.session, &|w| *w == UpgradeWord::Retire));
                if retired {
                    state.other = None;
                    upgrade.phase = P::Done;
                }
            }
            _ => {}
        }
    }

    /// Runs this app, and it is well.
    pub(super) fn runs(&self, sim: &Sim, name: &str) {
        let document = sim.document(&self.id).unwrap();
        let app = document.apps.iter().find(|a| a.deployment.metadata.name.as_str() == name).unwrap();
        let report = app_report(app, Status::Confirmed);
        self.state.lock().unwrap().apps = vec![report];
        self.speak(sim);
    }

    fn speak(&self, sim: &Sim) {
        let state = self.state.lock().unwrap().clone();
        let newest_document = if self.takes == Takes::NotAtAll { 1 } else { 2 };
        let health =
            if state.apps.iter().any(|a| a.status == Status::Failed) { Health::Degraded } else { Health::Healthy };
        let report = Report {
            device: self.id.clone(),
            session: state.acts.session,
            instance: state.acts.instance,
            seq: 1,
            generation: state.generation,
            newest_document,
            trust_version: 1,
            agent: state.acts.version,
            health,
            facts: Default::default(),
            clock: Default::default(),
            program: AgentReport {
                target: (newest_document == 2).then(|| TARGET.parse().unwrap()),
                release_seq: state.acts.seq,
                upgrade: state.upgrade.clone(),
                ..AgentReport::default()
            },
            os: Default::default(),
            apps: state.apps.clone(),
            refused: vec![],
            alarms: vec![],
        };
        sim.store.force(Bucket::Reported, self.id.as_str(), Some(envelope::encode(&report).unwrap().into()));
        for one in std::iter::once(&state.acts).chain(&state.other) {
            let heartbeat = Heartbeat {
                session: one.session,
                instance: one.instance,
                seq: 1,
                uptime_ms: 1000,
                generation: state.generation,
                version: one.version,
                newest_document,
                health,
            };
            let key = liveness_key(&self.id, one.instance);
            sim.store.force(Bucket::Liveness, &key, Some(Bytes::from(envelope::encode(&heartbeat).unwrap())));
        }
        if state.other.is_none() {
            // What the other one said last stays in the bucket and grows old there.
            let gone = if state.acts.instance == Instance::A { Instance::B } else { Instance::A };
            sim.store.force(Bucket::Liveness, &liveness_key(&self.id, gone), None);
        }
    }
}

fn begun(wish: &AgentWish) -> UpgradeReport {
    UpgradeReport {
        version: wish.version,
        manifest: wish.manifest,
        attempt: wish.attempt,
        status: Status::Staged,
        phase: UpgradePhase::Staging,
        reason: String::new(),
        blamed: false,
        bytes_got: 3,
        bytes_all: 9,
        took_ms: None,
        unmanaged_ms: None,
    }
}

/// What a device says of an app of its document.
pub(super) fn app_report(app: &bramble_contracts::v1::DesiredApp, status: Status) -> AppReport {
    AppReport {
        uid: app.uid.clone(),
        tenant: app.deployment.metadata.tenant.clone(),
        deployment: app.deployment.metadata.name.clone(),
        revision: app.revision,
        running_revision: Some(app.revision),
        running_hash: None,
        status,
        phase: bramble_contracts::v1::Phase::Running,
        reason: if status == Status::Failed { "it burnt".into() } else { String::new() },
        last_downtime_ms: None,
        containers: vec![],
        stages: vec![],
    }
}

/// Lets the devices go on until `so`; nothing is waited for but the coordinator.
pub(super) async fn go_on_until(sim: &Sim, agents: &[&Agent], what: &str, mut so: impl FnMut() -> bool) {
    let mut ticks = sim.core.index.ticks();
    let going = async {
        while !so() {
            if agents.iter().filter(|agent| agent.go_on(sim)).count() == 0 {
                let _ = tokio::time::timeout(std::time::Duration::from_millis(20), ticks.changed()).await;
            }
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(30), going).await.is_ok();
    let states: Vec<_> = agents.iter().map(|a| a.is()).collect();
    assert!(in_time, "waited in vain until {what}: {states:?}");
}
