//! Hundreds of devices in one process (500 in a full run), with the real agent library, real keys and a real broker: all
//! enrol, one deployment reaches all, a killed coordinator comes back without writing anything, and takes up what changed
//! meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bramble_agent::core::app::Role;
use bramble_agent::core::have::SeenState;
use bramble_contracts::api::{Connection, DeploymentView, DeviceView, Page, Readiness, ReadyView};
use bramble_contracts::subjects::Bucket;
use bramble_contracts::v1::{Health, Status};
use bramble_fleet_tests::clock::{full, stays};
use bramble_fleet_tests::keys::{In, Stolen};
use bramble_fleet_tests::mesh::Mesh;
use bramble_fleet_tests::simulated::{SimDevice, start_all};
use bramble_fleet_tests::{Fleet, Watch, manifest, wait_until};
use serde_json::{Value, json};

/// So many simulated devices.
fn count() -> usize {
    if full() { 500 } else { 200 }
}

/// For all these devices in debug builds on two busy cores: it tells a fleet that hangs from one that works.
const PATIENCE: Duration = Duration::from_secs(120);

fn stream(inside: &Mesh, bucket: Bucket) -> Value {
    let info = inside.request(&format!("$JS.API.STREAM.INFO.{}", bucket.stream()), b"").unwrap();
    let info: Value = serde_json::from_slice(&info).unwrap();
    assert!(info["error"].is_null(), "{info}");
    info["state"].clone()
}

fn last_document(inside: &Mesh) -> u64 {
    stream(inside, Bucket::Desired)["last_seq"].as_u64().unwrap()
}

/// Waits until every device is online.
fn all_online(fleet: &Fleet) {
    wait_until("all devices to be online", PATIENCE, || {
        let page: Page<DeviceView> = fleet.api().get("/api/v1/devices?limit=1000")?;
        let mut states: BTreeMap<String, u32> = BTreeMap::new();
        for device in &page.items {
            *states.entry(format!("{:?}", device.connection)).or_default() += 1;
        }
        let online = page.items.iter().filter(|d| d.connection == Connection::Online).count();
        if online == count() && page.items.len() == count() { Ok(()) } else { Err(format!("{states:?}")) }
    });
}

/// Waits until every device has reported the newest revision as proven.
fn all_confirmed(fleet: &Fleet, revision: u64) -> DeploymentView {
    wait_until(&format!("revision {revision} to be confirmed everywhere"), PATIENCE, || {
        let view = fleet.deployment_view("web")?;
        let proven = view.devices.iter().filter(|target| {
            let running = target.app.as_ref().and_then(|app| app.running_revision);
            target.status == Some(Status::Confirmed) && running.is_some_and(|r| r.0 == revision)
        });
        let proven = proven.count();
        if proven == count() && view.devices.len() == count() && view.summary.confirmed as usize == count() {
            return Ok(view);
        }
        let odd = view.devices.iter().find(|t| t.status != Some(Status::Confirmed));
        Err(format!("{proven} of {} in {:?}; for instance {odd:?}", view.devices.len(), view.summary))
    })
}

/// What every device runs: the ids of its containers and their image.
fn running(devices: &[SimDevice]) -> BTreeMap<String, Vec<(String, String)>> {
    let of = |device: &SimDevice| {
        let things = device.host().things().into_iter();
        let up = things.filter(|c| c.seen.role == Role::Main && c.seen.state == SeenState::Running);
        up.map(|c| (c.seen.id, c.image)).collect()
    };
    devices.iter().map(|device| (device.name().to_owned(), of(device))).collect()
}

/// Starts the coordinator after a kill: until it is ready it says "recovering", and when it says "ready" it knows all.
fn comes_back(fleet: &Fleet) -> Duration {
    let watch = Watch::start();
    fleet.coordinator().proc().start();
    let mut said = BTreeSet::new();
    wait_until("the coordinator to be ready", PATIENCE, || {
        let answer = fleet.api().ask("GET", "/ready", None)?;
        let view: ReadyView = serde_json::from_str(&answer.body).map_err(|err| format!("{err}: {}", answer.body))?;
        said.insert(format!("{} {:?}", answer.status, view.state));
        match (answer.status, view.state) {
            (200, Readiness::Ready) => Ok(()),
            (503, Readiness::Recovering) => Err(format!("it waits for {:?}", view.waits_for)),
            (status, state) => panic!("{status} and {state:?} do not go together"),
        }
    });
    let page: Page<DeviceView> = fleet.api().get("/api/v1/devices?limit=1000").unwrap();
    assert_eq!(page.items.len(), count(), "ready means that it knows every device");
    let blank = page.items.iter().find(|d| d.reported_generation.0 == 0 || d.desired_generation.0 == 0);
    assert!(blank.is_none(), "ready means that it knows documents and reports: {blank:?}");
    // Nobody is called offline, or well, before there was time to hear from them.
    let rash = page.items.iter().find(|d| {
        d.connection == Connection::Offline || (d.connection == Connection::Recovering && d.health != Health::Unknown)
    });
    assert!(rash.is_none(), "{rash:?}");
    println!("  said on its way: {said:?}");
    watch.elapsed()
}

/// Changes the deployment in the store, as another coordinator would that died right after.
fn change_in_the_store(inside: &Mesh, image: &str) {
    let record = inside.get(Bucket::Deployments, "default.web").unwrap();
    let mut record: Value = serde_json::from_slice(&record).unwrap();
    record["revision"] = json!(record["revision"].as_u64().unwrap() + 1);
    record["deployment"]["spec"]["containers"][0]["image"] = json!(image);
    let bytes = serde_json::to_vec(&record).unwrap();
    let ack = inside.request(&Bucket::Deployments.subject("default.web"), &bytes).unwrap();
    assert!(String::from_utf8_lossy(&ack).contains("\"seq\""), "{}", String::from_utf8_lossy(&ack));
}

#[test]
fn hundreds_of_devices_enrol_converge_and_outlive_their_coordinator() {
    let fleet = Fleet::start("simulated");
    let (label, value) = manifest::LABEL;
    let token = fleet.token_with(&json!({ "autoApprove": true, "uses": count(), "labels": { (label): value } })).token;
    let url = fleet.coordinator().url();
    let new = |n: usize| SimDevice::new(fleet.case(), &format!("sim-{n:03}"), &url, &token);
    let mut devices: Vec<SimDevice> = (0..count()).map(new).collect();
    let inside = Stolen::from(fleet.coordinator()).connect(In::Fleet);

    let watch = Watch::start();
    start_all(&mut devices, 32, PATIENCE);
    println!("{} devices enrolled and connected in {} ms", count(), watch.elapsed().as_millis());
    all_online(&fleet);
    println!("the coordinator called all of them online after {} ms", watch.elapsed().as_millis());
    let ids: BTreeSet<String> = devices.iter().map(|device| device.id().to_string()).collect();
    assert_eq!(ids.len(), count(), "every device has an id of its own");
    for bucket in Bucket::ALL {
        let consumers = stream(&inside, bucket)["consumer_count"].as_u64().unwrap();
        assert!(consumers <= 2, "{} has {consumers} consumers: devices must cost none", bucket.stream());
    }

    let watch = Watch::start();
    fleet.apply(&manifest::hello("web", 8080, 1));
    all_confirmed(&fleet, 1);
    println!("one deployment was confirmed by all after {} ms", watch.elapsed().as_millis());
    let before = running(&devices);
    let odd = before.iter().find(|(_, apps)| apps.len() != 1 || apps[0].1 != manifest::image(1));
    assert!(odd.is_none(), "{odd:?}");

    // The coordinator alone dies: nothing is written, nothing is restarted.
    let documents = last_document(&inside);
    fleet.coordinator().proc().kill();
    println!("the killed coordinator was ready again after {} ms", comes_back(&fleet).as_millis());
    let watch = Watch::start();
    all_online(&fleet);
    all_confirmed(&fleet, 1);
    println!("and had heard everybody {} ms later", watch.elapsed().as_millis());
    stays("no document is written when nothing changed", Duration::from_secs(3), || {
        let now = last_document(&inside);
        if now == documents { Ok(()) } else { Err(format!("{} documents were written", now - documents)) }
    });
    assert_eq!(running(&devices), before, "no container was touched");

    // While it is down: a change in the store, an app that crashes, a device whose agent starts again.
    fleet.coordinator().proc().kill();
    devices[7].host().end("web", 3);
    devices[8].stop();
    devices[8].start();
    let crashed = wait_until("the crashed app to be started again", PATIENCE, || {
        let now = running(&devices[7..8]);
        let apps = &now[devices[7].name()];
        if apps.len() == 1 { Ok(apps.clone()) } else { Err(format!("{apps:?}")) }
    });
    assert_eq!(crashed, before[devices[7].name()], "a crash is a restart of the same container");
    change_in_the_store(&inside, &manifest::image(2));
    let watch = Watch::start();
    println!("ready again after {} ms", comes_back(&fleet).as_millis());
    all_confirmed(&fleet, 2);
    println!("what changed while it was down was confirmed by all {} ms after its start", watch.elapsed().as_millis());
    all_online(&fleet);
    let written = last_document(&inside) - documents;
    assert_eq!(written, count() as u64, "one document for each device, and no more");
    let after = running(&devices);
    let odd = after.iter().find(|(_, apps)| apps.len() != 1 || apps[0].1 != manifest::image(2));
    assert!(odd.is_none(), "{odd:?}");
    let refused: Vec<_> = devices.iter().flat_map(|device| device.agent().view().refused).collect();
    assert!(refused.is_empty(), "{refused:?}");
}
