//! Upgrades of the operating system over the API, with devices that say what their documents make of them.

use std::sync::Mutex;

use axum::http::StatusCode;
use bramble_contracts::{
    Generation,
    bytes::Fixed,
    envelope,
    id::DeviceId,
    subjects::{Bucket, liveness_key},
    v1::{Health, Heartbeat, Instance, Status},
    v3::{OsPackages, OsPhase, OsPlan, OsReport, OsUpgradeReport, OsWish, Protection, Report},
};
use bramble_coordinator::domain::view::Detail;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::sim::Sim;

/// A device of these facts.
struct Pi {
    id: DeviceId,
    protection: Protection,
    reads: u8,
    says: Mutex<Option<OsUpgradeReport>>,
}

impl Pi {
    async fn new(sim: &Sim, name: &str, protection: Protection, reads: u8) -> Self {
        let id = sim.device(name, json!({ "site": "paris" })).await.id;
        let pi = Self { id, protection, reads, says: Mutex::new(None) };
        pi.speak(sim);
        pi
    }

    fn wish(&self, sim: &Sim) -> Option<OsWish> {
        sim.document(&self.id).and_then(|document| document.os)
    }

    /// It says this of the wish that its document holds.
    fn says(&self, sim: &Sim, status: Status, phase: OsPhase, reason: &str) {
        let wish = self.wish(sim).expect("it is wished");
        *self.says.lock().unwrap() = Some(OsUpgradeReport {
            id: wish.id,
            attempt: wish.attempt,
            status,
            phase,
            percent: 40,
            reason: reason.into(),
            blamed: status == Status::RolledBack,
            changes: vec![],
            changes_more: 0,
            download_bytes: 1,
            took_ms: None,
            down_ms: None,
        });
        self.speak(sim);
    }

    fn speak(&self, sim: &Sim) {
        let generation = sim.document(&self.id).map_or(Generation(0), |document| document.generation);
        let (session, instance, version) = (Fixed([1; 8]), Instance::A, "0.1.0".parse().unwrap());
        let upgrade = self.says.lock().unwrap().clone();
        let report = Report {
            device: self.id.clone(),
            session,
            instance,
            seq: 1,
            generation,
            newest_document: self.reads,
            trust_version: 1,
            agent: version,
            health: Health::Healthy,
            facts: Default::default(),
            clock: Default::default(),
            program: Default::default(),
            os: OsReport { protection: self.protection, upgrade, ..OsReport::default() },
            apps: vec![],
            refused: vec![],
            alarms: vec![],
        };
        let heartbeat = Heartbeat {
            session,
            instance,
            seq: 1,
            uptime_ms: 1,
            generation,
            version,
            newest_document: self.reads,
            health: Health::Healthy,
        };
        let bytes = |b: Vec<u8>| Some(Bytes::from(b));
        sim.store.force(Bucket::Reported, self.id.as_str(), bytes(envelope::encode(&report).unwrap()));
        let key = liveness_key(&self.id, instance);
        sim.store.force(Bucket::Liveness, &key, bytes(envelope::encode(&heartbeat).unwrap()));
    }
}

fn request(batches: &Value, more: &Value) -> Value {
    let mut request = json!({
        "kind": "os", "packages": { "these": [{ "name": "podman" }] },
        "policy": { "batches": batches, "healthyFor": "0s", "successThreshold": "100%" },
    });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

async fn rollout(sim: &Sim, name: &str) -> Value {
    sim.must("GET", &format!("/api/v1/rollouts/{name}"), None).await
}

async fn until(sim: &Sim, name: &str, state: &str) -> Value {
    for _ in 0..400 {
        let view = rollout(sim, name).await;
        if view["state"] == state {
            return view;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("rollout {name} is not {state}: {}", rollout(sim, name).await)
}

fn device<'a>(view: &'a Value, name: &str) -> &'a Value {
    view["devices"].as_array().unwrap().iter().find(|d| d["name"] == name).unwrap()
}

#[tokio::test]
async fn packages_go_through_the_fleet_and_only_what_devices_prove_counts() {
    let sim = Sim::new();
    sim.ready().await;
    let good = Pi::new(&sim, "a-good", Protection::Tryboot, 3).await;
    let bad = Pi::new(&sim, "b-bad", Protection::Tryboot, 3).await;
    let _weak = Pi::new(&sim, "c-weak", Protection::Bootcount, 3).await;
    let _old = Pi::new(&sim, "d-old", Protection::Tryboot, 2).await;
    let view = sim.must("POST", "/api/v1/rollouts", Some(request(&json!([1, "100%"]), &json!({})))).await;
    assert_eq!((view["name"].as_str(), view["brings"].as_str()), (Some("os"), Some("os podman")));

    sim.until("the first batch is told", |_| good.wish(&sim).is_some()).await;
    let wish = good.wish(&sim).unwrap();
    assert!(matches!(&wish.packages, OsPackages::These(these) if these.len() == 1), "{wish:?}");
    assert_eq!((wish.attempt, wish.least, bad.wish(&sim)), (1, Protection::Tryboot, None));
    good.says(&sim, Status::Staged, OsPhase::Applying, "");
    good.says(&sim, Status::Confirmed, OsPhase::Done, "");

    sim.until("the second batch is told", |_| bad.wish(&sim).is_some()).await;
    bad.says(&sim, Status::RolledBack, OsPhase::Done, "kernel panic");
    let halted = until(&sim, "os", "halted").await;
    assert_eq!(device(&halted, "a-good")["turn"], "confirmed");
    assert_eq!(
        (device(&halted, "b-bad")["turn"].as_str(), device(&halted, "b-bad")["reason"].as_str()),
        (Some("failed"), Some("kernel panic"))
    );
    let weak = device(&halted, "c-weak");
    assert_eq!(weak["turn"], "refused");
    assert!(weak["reason"].as_str().unwrap().contains("protected by bootcount, and tryboot is asked"), "{weak}");
    assert!(device(&halted, "d-old")["reason"].as_str().unwrap().contains("too old"), "{halted}");

    // A retry is another attempt at the same.
    sim.must("POST", "/api/v1/rollouts/os/retry", None).await;
    sim.until("it is told again", |_| bad.wish(&sim).is_some_and(|wish| wish.attempt == 2)).await;
    bad.says(&sim, Status::Confirmed, OsPhase::Done, "");
    until(&sim, "os", "done").await;
    assert!(bad.wish(&sim).is_some(), "what it was told stays: absence changes nothing");
}

fn window_in(zone: &str) -> Value {
    json!({ "days": "Mon", "from": "02:00", "to": "05:00", "timeZone": zone })
}

/// A window that is open at this moment, or not before eleven hours from now.
fn window(open: bool) -> Value {
    let hour = |ahead: u64| {
        let secs = bramble_coordinator::clock::unix_secs();
        format!("{:02}:00", (secs / 3600 + ahead) % 24)
    };
    let (from, to) = if open { (hour(23), hour(2)) } else { (hour(12), hour(13)) };
    json!({ "days": "Mon-Sun", "from": from, "to": to, "timeZone": "UTC" })
}

#[tokio::test]
async fn a_device_begins_only_within_the_window_and_judges_it_itself_too() {
    let sim = Sim::new();
    sim.ready().await;
    let pi = Pi::new(&sim, "pi", Protection::Tryboot, 3).await;
    let with = |name: &str, open: bool| {
        let policy = json!({ "batches": ["100%"], "healthyFor": "0s", "window": window(open) });
        request(&json!(["100%"]), &json!({ "name": name, "policy": policy }))
    };
    let closed = sim.must("POST", "/api/v1/rollouts", Some(with("nightly", false))).await;
    assert_eq!(closed["policy"]["window"]["days"], "Mon-Sun");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let view = rollout(&sim, "nightly").await;
    assert_eq!((view["state"].as_str(), device(&view, "pi")["turn"].as_str()), (Some("running"), Some("waiting")));
    let why = view["reason"].as_str().unwrap();
    assert!(why.starts_with("devices begin only within Mon-Sun ") && why.ends_with(" UTC"), "{why}");
    assert_eq!(pi.wish(&sim), None);

    // Another one, without or with a window that is open, takes its place.
    sim.must("POST", "/api/v1/rollouts", Some(with("now", true))).await;
    sim.until("it is told", |_| pi.wish(&sim).is_some()).await;
    let told = pi.wish(&sim).unwrap().window.unwrap();
    assert_eq!((told.days.as_str(), told.time_zone.as_str()), ("Mon-Sun", "UTC"));
    until(&sim, "nightly", "superseded").await;
    pi.says(&sim, Status::Confirmed, OsPhase::Done, "");
    until(&sim, "now", "done").await;
}

#[tokio::test]
async fn packages_that_a_device_refuses_fail_there_until_a_retry() {
    let sim = Sim::new();
    sim.ready().await;
    let pi = Pi::new(&sim, "pi", Protection::Tryboot, 3).await;
    let named = |name: &str| request(&json!(["100%"]), &json!({ "name": name }));
    sim.must("POST", "/api/v1/rollouts", Some(named("first"))).await;
    sim.until("it is told", |_| pi.wish(&sim).is_some()).await;
    let first = pi.wish(&sim).unwrap();
    pi.says(&sim, Status::RolledBack, OsPhase::Done, "app web unhealthy: probe http :80 → 500");
    until(&sim, "first", "halted").await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(pi.wish(&sim).unwrap(), first, "it is not told again by itself");

    sim.must("POST", "/api/v1/rollouts", Some(named("second"))).await;
    sim.until("the second one is told", |_| pi.wish(&sim).is_some_and(|wish| wish.id != first.id)).await;
    let why = "these packages failed before: app web unhealthy: probe http :80 → 500";
    pi.says(&sim, Status::Failed, OsPhase::Done, why);
    let halted = until(&sim, "second", "halted").await;
    assert_eq!(device(&halted, "pi")["reason"], why);

    sim.must("POST", "/api/v1/rollouts/second/retry", None).await;
    sim.until("it is told to try again", |_| pi.wish(&sim).is_some_and(|wish| wish.attempt == 2)).await;
    assert_ne!(pi.wish(&sim).unwrap().id, first.id);
    pi.says(&sim, Status::Trial, OsPhase::Applying, "");
    sim.until("its phase is shown with percent", |lens| {
        let (_, _, rollout) = lens.fleet.rollouts.readable().find(|(_, _, r)| r.name.as_str() == "second").unwrap();
        lens.rollout(rollout, 1, Detail::Whole).devices[0].phase == "applying 40 %"
    })
    .await;
    pi.says(&sim, Status::Confirmed, OsPhase::Done, "");
    until(&sim, "second", "done").await;
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_named_field_by_field() {
    let sim = Sim::new();
    sim.ready().await;
    let _pi = Pi::new(&sim, "pi", Protection::Tryboot, 3).await;
    for (more, path) in [
        (json!({ "packages": null }), "packages"),
        (json!({ "packages": { "these": [] } }), "packages.these"),
        (json!({ "version": "1.2.3" }), "version"),
        (json!({ "probation": { "confirmSecs": 60, "giveUpSecs": 60, "giveUpInAllSecs": 60 } }), "probation"),
        (json!({ "kind": "agent", "version": "1.2.3" }), "packages"),
        (json!({ "policy": { "window": window_in("Europe/Atlantis") } }), "policy.window.timeZone"),
    ] {
        let answer = sim.ask("POST", "/api/v1/rollouts", Some(request(&json!(["100%"]), &more))).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{more}: {:?}", answer.body);
        let fields = answer.body["errors"].to_string();
        assert!(fields.contains(&format!("\"{path}\"")), "{more}: {}", answer.body);
    }
    // A window is of upgrades of the operating system only, so far.
    let of_agent = json!({ "kind": "agent", "version": "1.2.3", "policy": { "window": window_in("UTC") } });
    let answer = sim.ask("POST", "/api/v1/rollouts", Some(of_agent)).await;
    assert_eq!((answer.status, &answer.body["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("unsupported")));
    assert!(answer.body["errors"].to_string().contains("policy.window"), "{}", answer.body);
    // No name of apt's own making comes through at all.
    let evil = json!({ "packages": { "these": [{ "name": "--allow-unauthenticated" }] } });
    let answer = sim.ask("POST", "/api/v1/rollouts", Some(request(&json!(["100%"]), &evil))).await;
    assert!(answer.status.is_client_error(), "{:?}", answer.body);
}

#[tokio::test]
async fn a_plan_names_every_device_and_changes_nothing() {
    let sim = Sim::new();
    sim.ready().await;
    let ready = Pi::new(&sim, "a-ready", Protection::Tryboot, 3).await;
    let done = Pi::new(&sim, "b-done", Protection::Tryboot, 3).await;
    let _weak = Pi::new(&sim, "c-weak", Protection::Bootcount, 3).await;
    let _old = Pi::new(&sim, "d-old", Protection::Tryboot, 2).await;
    let _silent = Pi::new(&sim, "e-silent", Protection::Tryboot, 3).await;
    let busy = Pi::new(&sim, "f-busy", Protection::Tryboot, 3).await;
    let _cut = Pi::new(&sim, "g-cut", Protection::Tryboot, 3).await;
    sim.must("POST", "/api/v1/devices/g-cut/quarantine", Some(json!({ "reason": "lost" }))).await;
    let change = json!({ "name": "curl", "from": "1", "to": "2" });
    let plan: OsPlan = serde_json::from_value(json!({
        "protection": "tryboot", "lacks": "", "changes": [change], "changesMore": 0, "held": [], "refused": "",
        "downloadBytes": 7, "room": { "fetchNeed": 8, "fetchFree": 9, "poolNeed": 1, "poolFree": 2 }, "waits": "",
    }))
    .unwrap();
    {
        let mut plans = sim.mesh.plans.lock().unwrap();
        plans.insert(ready.id.clone(), Ok(plan.clone()));
        plans.insert(done.id.clone(), Ok(OsPlan { changes: vec![], ..plan }));
        plans.insert(busy.id.clone(), Err("an upgrade is under way on it".into()));
    }
    let ask = |body: Value| sim.ask("POST", "/api/v1/os-upgrades/plan", Some(body));
    let answer = ask(json!({ "packages": { "these": [{ "name": "curl" }] } })).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let text = answer.body.as_str().unwrap();
    let mut lines: Vec<Value> =
        text.lines().filter(|l| !l.is_empty()).map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.pop().unwrap(), json!({ "type": "end", "devices": 7 }));
    let of = |name: &str| lines.iter().map(|line| &line["planned"]).find(|p| p["name"] == name).unwrap();
    let brief = |name: &str| (of(name)["state"].as_str().unwrap(), of(name)["reason"].as_str().unwrap());
    assert_eq!(brief("a-ready"), ("upgrade", ""));
    assert_eq!(
        (&of("a-ready")["plan"]["changes"][0]["to"], &of("a-ready")["protection"]),
        (&json!("2"), &json!("tryboot"))
    );
    assert_eq!((brief("b-done"), &of("b-done")["plan"]["room"]["poolFree"]), (("nothing", ""), &json!(2)));
    assert_eq!(brief("c-weak"), ("refused", "it is protected by bootcount, and tryboot is asked"));
    assert_eq!(brief("d-old").0, "refused");
    assert_eq!(brief("e-silent"), ("away", "it is not connected"));
    assert_eq!(brief("f-busy"), ("failed", "an upgrade is under way on it"));
    assert!(brief("g-cut").0 == "away" && brief("g-cut").1.contains("quarantined"), "{:?}", brief("g-cut"));
    assert_eq!((of("e-silent")["plan"].is_null(), ready.wish(&sim)), (true, None));

    // It is in the audit trail, by what was asked.
    let trail = sim.must("GET", "/api/v1/audit", None).await.to_string();
    assert!(trail.contains("os.plan") && trail.contains("os/curl"), "{trail}");

    for (body, path) in [
        (json!({ "packages": { "these": [] } }), "packages.these"),
        (json!({ "packages": "all", "selector": { "devices": ["nobody"] } }), "selector.devices[0]"),
        (json!({ "packages": "all", "selector": { "matchLabels": { "site": "rome" } } }), "selector"),
    ] {
        let answer = ask(body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{:?}", answer.body);
        assert!(answer.body["errors"].to_string().contains(&format!("\"{path}\"")), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn an_aborted_one_is_taken_back_from_whoever_has_not_proven_it() {
    let sim = Sim::new();
    sim.ready().await;
    let pi = Pi::new(&sim, "pi", Protection::Tryboot, 3).await;
    sim.must("POST", "/api/v1/rollouts", Some(request(&json!(["100%"]), &json!({ "name": "nightly" })))).await;
    sim.until("it is told", |_| pi.wish(&sim).is_some()).await;
    sim.must("POST", "/api/v1/rollouts/nightly/abort", Some(json!({ "reason": "enough" }))).await;
    sim.until("it is taken back", |_| pi.wish(&sim).is_none()).await;
}
