//! Why is this device not as it should be? One sentence, what it rests on, and what to do next.
//!
//! Decides: which of many true things is the one that matters, outermost first: the coordinator, the device's state,
//! its connection, the document, then its apps.

mod agent;
mod app;

pub(super) use app::phase_word;

use bramble_contracts::{
    api::{Connection, DeviceState, Explanation},
    id::{DeviceId, Name},
    v2::{AppReport, ClockVerdict},
};

use super::{compose, hold, record::DeviceRecord, view::Lens};

fn answer(sentence: String, evidence: Vec<String>, next: &str) -> Explanation {
    Explanation { up_to_date: false, sentence, evidence, next: next.to_owned() }
}

/// Explains one device, or one deployment on it.
pub fn explain(lens: &Lens<'_>, id: &DeviceId, only: Option<&Name>) -> Explanation {
    let waits = lens.fleet.waits_for();
    if !waits.is_empty() {
        let evidence = waits.into_iter().map(|w| format!("waits for {w}")).collect();
        return answer(
            "The coordinator is recovering: what it knows of this device may be old.".into(),
            evidence,
            "Ask again in a few seconds; the device goes on by itself meanwhile.",
        );
    }
    let seen = lens.fleet.device(id);
    if let Some(Err(why)) = seen.record.map(|slot| &slot.value) {
        let evidence = vec![format!("devices/{id}: {why}")];
        let next = "Restore the record from a backup; nothing is written to the device until then.";
        return answer(format!("The record of {id} in the store is damaged."), evidence, next);
    }
    let Some(record) = seen.record() else {
        let evidence = vec![format!("it acts on generation {}", seen.reported_generation())];
        let sentence = lens.hold(id).map_or_else(|| format!("{id} is not known."), |why| format!("On hold: {why}."));
        return answer(sentence, evidence, "bramble resume shows the difference and takes the device back");
    };
    barrier(lens, record)
        .or_else(|| unreachable(lens, record, only))
        .or_else(|| document(lens, record, only))
        .or_else(|| refused(lens, record))
        .or_else(|| turn(lens, record, only))
        .or_else(|| apps(lens, record, only))
        .or_else(|| only.is_none().then(|| agent::explain(lens, record)).flatten())
        .or_else(|| clock(lens, record, only))
        .unwrap_or_else(|| fine(lens, record, only))
}

fn barrier(lens: &Lens<'_>, record: &DeviceRecord) -> Option<Explanation> {
    let why = lens.barrier(record)?;
    let (word, next) = match record.state {
        DeviceState::Pending => ("waits for approval", format!("bramble device approve {}", record.name)),
        DeviceState::Quarantined => (
            "is quarantined; its apps keep running and nothing new reaches it",
            format!("bramble device unquarantine {}", record.name),
        ),
        DeviceState::Decommissioned => ("is decommissioned", String::new()),
        DeviceState::Active => {
            ("is on hold; its apps keep running and nothing is written to it", "bramble resume".to_owned())
        }
    };
    Some(answer(format!("{} {word}.", record.name), vec![why], &next))
}

fn unreachable(lens: &Lens<'_>, record: &DeviceRecord, only: Option<&Name>) -> Option<Explanation> {
    let name = &record.name;
    let seen = lens.fleet.device(&record.id);
    let behind = format!(
        "wanted is generation {}, it last reported {}",
        seen.desired().map_or(0, |d| d.generation.0),
        seen.reported_generation()
    );
    let mut evidence = vec![behind];
    if let Some(name) = only {
        evidence.push(format!("so nothing is known of {name} now"));
        let last = seen.report().and_then(|r| r.apps.iter().find(|a| a.deployment == *name));
        evidence.extend(last.map(|app| format!("when it was last heard: {}", app::evidence(app).join("; "))));
    }
    let (sentence, next) = match lens.connection(&record.id) {
        Connection::Online => return None,
        Connection::Never => (
            format!("{name} has enrolled and never connected."),
            "On the device: `bramble-agent check`, and `journalctl -u bramble-agent`.",
        ),
        Connection::Recovering => (
            format!("The coordinator has not listened long enough to say whether {name} is there."),
            "Ask again after one heartbeat timeout.",
        ),
        Connection::Offline => (
            format!("{name} is offline; it goes on with what it has and catches up when it is back."),
            "Check its power and network; on the device: `bramble-agent check`.",
        ),
    };
    Some(answer(sentence, evidence, next))
}

fn document(lens: &Lens<'_>, record: &DeviceRecord, only: Option<&Name>) -> Option<Explanation> {
    let composition = lens.composition(record);
    let blocked = composition.blocked.iter().find(|b| only.is_none_or(|n| b.deployment == *n));
    if let Some(blocked) = blocked {
        let sentence = format!("Deployment {} is left out on {}: {}.", blocked.deployment, record.name, blocked.reason);
        return Some(answer(
            sentence,
            vec!["everything else on the device goes on".into()],
            "Change or delete one of the two.",
        ));
    }
    if let Some(name) = only
        && !composition.apps.iter().any(|a| a.deployment.metadata.name == *name)
    {
        let labels: Vec<String> = record.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let evidence = match lens.fleet.deployment(&record.tenant, name) {
            None => vec![format!("there is no deployment {name} in tenant {}", record.tenant)],
            Some(_) => vec![format!("the device is called {} and has labels [{}]", record.name, labels.join(", "))],
        };
        let sentence = format!("Deployment {name} does not select {}.", record.name);
        return Some(answer(sentence, evidence, "Change the selector, or label the device: `bramble device label`."));
    }
    let seen = lens.fleet.device(&record.id);
    if let Some(Err(why)) = seen.desired.map(|s| &s.value) {
        let next = "Restore bucket desired from a backup; the device goes on with what it has.";
        return Some(answer(format!("The desired document of {} is damaged.", record.name), vec![why.clone()], next));
    }
    if let Some(ahead) = hold::ahead(seen.desired(), seen.reported_generation(), seen.report()) {
        let sentence = format!("{} knows more than the store; the coordinator is looking into it.", record.name);
        return Some(answer(sentence, vec![ahead.to_string()], "Ask again in a moment."));
    }
    let floor = seen.desired().map_or(bramble_contracts::Generation(0), |d| d.generation);
    if compose::next_document(seen.desired(), floor, record, &composition).is_some() {
        let sentence = format!("A newer document for {} is being written.", record.name);
        return Some(answer(sentence, vec![format!("the store has generation {floor}")], "Ask again in a moment."));
    }
    let reported = seen.reported_generation();
    (reported < floor).then(|| {
        let evidence = vec![format!("the store has generation {floor}, the device acts on {reported}")];
        answer(
            format!("{} is online and has not taken the newest document yet.", record.name),
            evidence,
            "Ask again in a moment.",
        )
    })
}

fn refused(lens: &Lens<'_>, record: &DeviceRecord) -> Option<Explanation> {
    let seen = lens.fleet.device(&record.id);
    let wanted = seen.desired()?.generation;
    if seen.report()?.generation >= wanted {
        return None;
    }
    let last = seen.report()?.refused.iter().rev().find(|r| r.generation.is_none_or(|g| g == wanted))?;
    let sentence = format!("{} refused its document: {}.", record.name, last.detail);
    Some(answer(
        sentence,
        vec![format!("refused {} times", last.times)],
        "bramble audit shows what it refused and when",
    ))
}

/// A deployment that is asked about by name and whose newest revision this device does not have yet.
fn turn(lens: &Lens<'_>, record: &DeviceRecord, only: Option<&Name>) -> Option<Explanation> {
    let name = only?;
    let deployment = lens.fleet.deployment(&record.tenant, name)?.ok()?;
    let why = lens.waits_for_turn(deployment, &record.id)?;
    let sentence = format!("{name} on {} is not in revision {}: {why}.", record.name, deployment.revision);
    let next = format!("bramble describe rollout {name}");
    Some(answer(sentence, vec![format!("revision {} is rolled out in batches", deployment.revision)], &next))
}

fn apps(lens: &Lens<'_>, record: &DeviceRecord, only: Option<&Name>) -> Option<Explanation> {
    let seen = lens.fleet.device(&record.id);
    let wanted = seen.desired().map_or(&[][..], |document| &document.apps);
    app::explain(&record.name, wanted, &seen.report()?.apps, only)
}

/// A wrong clock stops no app, so it is told only when the device as a whole is asked about and all else is well.
fn clock(lens: &Lens<'_>, record: &DeviceRecord, only: Option<&Name>) -> Option<Explanation> {
    let clock = &lens.fleet.device(&record.id).report()?.clock;
    if only.is_some() || !clock.is_wrong() {
        return None;
    }
    let sentence = format!("{} runs everything it should, and its clock is not to be trusted.", record.name);
    let evidence = vec![clock.detail.clone(), format!("the time by: {}", clock.sources)];
    let next = match clock.verdict {
        ClockVerdict::Disputed => {
            "Compare: `bramble doctor` for the coordinator's clock, agent.toml for the NTP servers."
        }
        ClockVerdict::Skewed | ClockVerdict::Fit | ClockVerdict::Unknown => {
            "On the device: `systemctl enable --now systemd-timesyncd`, then `bramble-agent check`."
        }
    };
    Some(answer(sentence, evidence, next))
}

fn fine(lens: &Lens<'_>, record: &DeviceRecord, only: Option<&Name>) -> Explanation {
    let seen = lens.fleet.device(&record.id);
    let apps = seen.desired().map_or(0, |d| d.apps.len());
    let generation = seen.desired().map_or(0, |d| d.generation.0);
    let sentence = match (only, apps) {
        (Some(name), _) => format!("{name} on {} is up to date.", record.name),
        (None, 0) => format!("{} is up to date: no deployment selects it.", record.name),
        (None, _) => format!("{} is up to date: every app is as it should be.", record.name),
    };
    let mut evidence = vec![format!("it acts on generation {generation}, the newest; it runs {apps} deployments")];
    let asked = |a: &&AppReport| only.is_some_and(|name| a.deployment == *name);
    for app in seen.report().into_iter().flat_map(|r| r.apps.iter().filter(asked)) {
        evidence.extend(app::evidence(app));
        if !app.reason.is_empty() {
            evidence.push(app.reason.clone());
        }
    }
    evidence.extend(seen.report().into_iter().flat_map(|r| r.alarms.iter().map(|a| format!("alarm: {a}"))));
    Explanation { up_to_date: true, sentence, evidence, next: String::new() }
}

#[cfg(test)]
mod tests {
    use bramble_contracts::{
        Generation, Revision, envelope,
        signed::{self, Role},
        subjects::{Bucket, liveness_key},
        v1::{
            ContainerReport, ContainerRole, ContainerState, Dependency, DependencyCondition, Health, Heartbeat,
            Instance, Phase, Status,
        },
        v3::Report,
    };
    use bytes::Bytes;

    use super::*;
    use crate::{
        domain::{
            Now,
            fleet::Fleet,
            record::{self as records, DeploymentRecord},
            rollout::gate::Gate,
            testing::{device, record, report, trust},
            view::note,
        },
        store::{Change, feed::FED},
    };

    const NOW: Now = Now { wall_ms: 1_000_000, mono_ms: 50_000 };

    struct World {
        device: DeviceRecord,
        deployments: Vec<DeploymentRecord>,
        document: Option<u64>,
        report: Option<Report>,
        beat: bool,
        ready: bool,
    }

    impl World {
        fn new() -> Self {
            let device = device(1, &[("a", "0")]);
            let report = Some(report(&device, 1));
            Self {
                device,
                deployments: vec![record("web", ("a", "0"), 80, 1)],
                document: Some(1),
                report,
                beat: true,
                ready: true,
            }
        }

        fn app(mut self, status: Status, phase: Phase, reason: &str, container: Option<ContainerReport>) -> Self {
            let of = &self.deployments[0];
            let app = AppReport {
                uid: of.uid.clone(),
                tenant: of.tenant().clone(),
                deployment: of.name().clone(),
                revision: Revision(1),
                running_revision: None,
                running_hash: None,
                status,
                phase,
                reason: reason.to_owned(),
                last_downtime_ms: None,
                containers: container.into_iter().collect(),
                stages: vec![],
            };
            self.report.as_mut().unwrap().apps.push(app);
            self
        }

        fn fleet(&self) -> Fleet {
            let (trust, key) = trust();
            let mut fleet = Fleet::new(trust);
            let id = self.device.id.as_str().to_owned();
            let mut told = |bucket, key: String, bytes: Bytes| {
                fleet.apply(Change::Value { bucket, key, seq: 1, bytes: Some(bytes) }, Now { wall_ms: 0, mono_ms: 0 });
            };
            told(Bucket::Devices, id.clone(), records::encode(&self.device));
            for d in &self.deployments {
                told(Bucket::Deployments, d.key(), records::encode(d));
            }
            if let Some(generation) = self.document {
                let composition = compose::compose(&self.device, &self.deployments, &Gate::default());
                let document = compose::document(&self.device, Generation(generation), &composition);
                told(Bucket::Desired, id.clone(), signed::sign(&document, Role::Fleet, &key).unwrap().into());
            }
            if let Some(report) = &self.report {
                told(Bucket::Reported, id, envelope::encode(report).unwrap().into());
            }
            if self.ready {
                for bucket in FED {
                    fleet.apply(Change::CaughtUp(bucket), Now { wall_ms: 0, mono_ms: 0 });
                }
            }
            if self.beat {
                let heartbeat = Heartbeat {
                    session: bramble_contracts::bytes::Fixed([1; 8]),
                    instance: Instance::A,
                    seq: 1,
                    uptime_ms: 1,
                    generation: self.report.as_ref().map_or(Generation(0), |r| r.generation),
                    version: "0.1.0".parse().unwrap(),
                    newest_document: 1,
                    health: Health::Healthy,
                };
                let (key, bytes) = (liveness_key(&self.device.id, Instance::A), envelope::encode(&heartbeat).unwrap());
                let change = Change::Value { bucket: Bucket::Liveness, key, seq: 2, bytes: Some(bytes.into()) };
                fleet.apply(change, Now { wall_ms: 0, mono_ms: 49_000 });
            }
            fleet
        }

        fn says(&self, only: Option<&str>) -> String {
            let fleet = self.fleet();
            let lens = Lens { fleet: &fleet, now: NOW, timeout_ms: 15_000 };
            let only = only.map(|n| n.parse().unwrap());
            let got = explain(&lens, &self.device.id, only.as_ref());
            assert!(got.up_to_date == got.next.is_empty() || !got.up_to_date, "{got:?}");
            got.sentence
        }
    }

    fn container(role: ContainerRole, exit_code: Option<i32>) -> ContainerReport {
        ContainerReport {
            name: "main".parse().unwrap(),
            role,
            id: String::new(),
            state: ContainerState::Exited,
            exit_code,
            oom_killed: false,
            restarts: 2,
            started_at_ms: 0,
            image_digest: String::new(),
            healthy: None,
            last_lines: vec!["boom".into()],
        }
    }

    #[test]
    fn each_trouble_has_its_own_sentence() {
        let with = |change: fn(&mut World)| {
            let mut world = World::new();
            change(&mut world);
            world
        };
        let app = |status, phase, reason: &str, c| World::new().app(status, phase, reason, c);
        let failed = Status::Failed;
        let skewed = || {
            let mut world = app(Status::Confirmed, Phase::Running, "", None);
            world.report.as_mut().unwrap().clock.verdict = ClockVerdict::Skewed;
            world
        };
        let cases = [
            (app(Status::Confirmed, Phase::Running, "", None), None, "pi-1 is up to date: every app"),
            (skewed(), None, "pi-1 runs everything it should, and its clock is not to be trusted"),
            (skewed(), Some("web"), "web on pi-1 is up to date"),
            (with(|w| w.ready = false), None, "The coordinator is recovering"),
            (with(|w| w.beat = false), None, "pi-1 is offline"),
            (with(|w| (w.beat, w.report) = (false, None)), None, "pi-1 has enrolled and never connected"),
            (with(|w| w.device.state = DeviceState::Pending), None, "pi-1 waits for approval"),
            (with(|w| w.device.state = DeviceState::Quarantined), None, "pi-1 is quarantined"),
            (with(|w| w.device.hold = Some(note("x", "y", NOW))), None, "pi-1 is on hold"),
            (with(|w| w.report.as_mut().unwrap().generation = Generation(9)), None, "pi-1 knows more than the store"),
            (
                with(|w| w.deployments.push(record("new", ("a", "0"), 80, 2))),
                None,
                "Deployment new is left out on pi-1: host port 80",
            ),
            (
                with(|w| w.device.newest_document = 0),
                Some("web"),
                "Deployment web is left out on pi-1: it needs document version",
            ),
            (with(|w| w.deployments.clear()), None, "pi-1 is up to date: no deployment selects it"),
            (with(|_| ()), Some("other"), "Deployment other does not select pi-1"),
            (with(|w| w.document = None), None, "pi-1 knows more than the store"),
            (with(|w| w.document = Some(2)), None, "pi-1 is online and has not taken the newest document"),
            (app(failed, Phase::Preparing, "no image", None), None, "web on pi-1 cannot be prepared: no image"),
            (
                app(failed, Phase::Failed, "init", Some(container(ContainerRole::Init, Some(1)))),
                None,
                "web on pi-1 failed in its init container main: init",
            ),
            (
                app(Status::Trial, Phase::Starting, "", Some(container(ContainerRole::Init, None))),
                None,
                "web on pi-1 waits for its init container main",
            ),
            (
                app(Status::Trial, Phase::CrashLoop, "", Some(container(ContainerRole::Main, Some(2)))),
                None,
                "web on pi-1 keeps stopping in container main",
            ),
            (
                app(Status::Staged, Phase::Waiting, "waits for deployment db to be healthy", None),
                None,
                "web on pi-1 is held back: waits for deployment db to be healthy.",
            ),
            (app(Status::Trial, Phase::Probing, "", None), None, "web on pi-1 runs, and its probe has not passed yet"),
        ];
        for (world, only, want) in cases {
            let got = world.says(only);
            assert!(got.starts_with(want), "wanted {want:?}, got {got:?}");
        }
    }

    #[test]
    fn what_is_waited_for_is_explained_before_who_waits() {
        let mut world = World::new();
        let depends = |name: &str| Dependency { name: name.parse().unwrap(), condition: DependencyCondition::Healthy };
        world.deployments[0].deployment.spec.depends_on = vec![depends("db"), depends("ghost")];
        world.deployments.push(record("db", ("a", "0"), 81, 2));
        let reason = "waits for deployment db to be healthy";
        let mut world = world.app(Status::Trial, Phase::Waiting, reason, None);
        let mut db = world.report.as_ref().unwrap().apps[0].clone();
        (db.deployment, db.phase, db.reason) = ("db".parse().unwrap(), Phase::Probing, "probe failed".into());
        db.uid = world.deployments[1].uid.clone();
        world.report.as_mut().unwrap().apps.push(db);
        assert!(
            world.says(None).starts_with("db on pi-1 runs, and its probe has not passed yet: probe failed"),
            "{}",
            world.says(None)
        );
        let fleet = world.fleet();
        let lens = Lens { fleet: &fleet, now: NOW, timeout_ms: 15_000 };
        let web = explain(&lens, &world.device.id, Some(&"web".parse().unwrap()));
        assert_eq!(web.sentence, "web on pi-1 is held back: waits for deployment db to be healthy.");
        let wanted = ["deployment db is in phase probing: probe failed", "deployment ghost is not wanted on pi-1"];
        assert_eq!(web.evidence[1..], wanted, "{web:?}");
    }
}
