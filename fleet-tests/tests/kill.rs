//! SIGKILL to agent, coordinator and broker, alone and together, at random moments and under load: everything
//! converges, and what ran runs on, the same container, without a break.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bramble_contracts::api::DeploymentView;
use bramble_fleet_tests::clock::{Watch, full, pause, wait_until};
use bramble_fleet_tests::{Device, Fleet, manifest};
use serde_json::{Value, json};

const AGENT: u64 = 1;
const COORDINATOR: u64 = 2;
const BROKER: u64 = 4;

fn kill(who: u64, fleet: &Fleet, pi: &Device) {
    if who & AGENT != 0 {
        pi.kill_agent();
    }
    match (who & COORDINATOR != 0, who & BROKER != 0) {
        (true, true) => fleet.coordinator().kill_both(),
        (true, false) => fleet.coordinator().proc().kill(),
        (false, true) => fleet.coordinator().kill_broker(),
        (false, false) => {}
    }
}

fn start_again(who: u64, fleet: &Fleet, pi: &Device) {
    // In either order: who comes first must not matter.
    let coordinator = || {
        if who & COORDINATOR != 0 {
            fleet.coordinator().proc().start();
        }
    };
    if who & BROKER == 0 {
        coordinator();
    }
    if who & AGENT != 0 {
        pi.start_agent();
    }
    if who & BROKER != 0 {
        coordinator();
    }
    fleet.coordinator().ready();
}

#[test]
fn killed_at_any_moment_everything_converges_and_the_app_never_stops() {
    let fleet = Fleet::start("kill");
    let pi = fleet.device("pi-1");
    let (port, other) = (fleet.port(), fleet.port());
    fleet.apply(&manifest::hello("web", port, 1));
    let before = fleet.settled("web", &pi);
    let mut dice = fleet.case().dice();
    let mut blows: Vec<u64> = (1..=7).collect();
    if full() {
        blows.extend((0..28).map(|_| 1 + dice.below(7)));
    }
    for round in 0..blows.len() {
        let pick = round + usize::try_from(dice.below(u64::try_from(blows.len() - round).unwrap())).unwrap();
        blows.swap(round, pick);
        let who = blows[round];
        println!("round {round}: kill {who:03b} (broker, coordinator, agent)");
        // Something is under way most times, so that blows hit downloads, starts, stops and writes.
        let mut version = 0;
        if dice.below(4) > 0 {
            version = 1 + u32::try_from(dice.below(2)).unwrap();
            fleet.apply(&manifest::hello("other", other, version));
        }
        dice.moment(Duration::from_millis(2000));
        kill(who, &fleet, &pi);
        dice.moment(Duration::from_millis(700));
        start_again(who, &fleet, &pi);
        fleet.online_agent(&pi);
        if version > 0 {
            fleet.settled("other", &pi);
            fleet.answers(other, &format!("version {version}"));
        }
        assert_eq!(fleet.settled("web", &pi), before, "after round {round}, kill {who:03b}");
        fleet.answers(port, "version 1");
    }
    let mains = pi.all_containers().len();
    assert!(mains <= 2, "one container for each app and no leftovers, not {mains}");
}

/// Writes as fast as the API takes them, and remembers what was acknowledged.
struct Load<'a> {
    fleet: &'a Fleet,
    stop: AtomicBool,
    count: AtomicU64,
    acknowledged: Mutex<BTreeMap<String, u64>>,
}

/// Deployments that no device runs, beside the one that all run.
const NAMES: u64 = 40;

/// A deployment with a number in it that changes no container. (Without a host port: two devices share this machine.)
fn numbered(name: &str, n: u64) -> Value {
    let mut manifest = manifest::deployment(name, &[json!({ "name": "web", "image": manifest::image(1) })]);
    manifest["metadata"]["labels"] = json!({ "n": n.to_string() });
    if name == "web" {
        manifest["spec"]["lifecycle"]["gracePeriod"] = json!(format!("{}s", 5 + n % 20));
    } else {
        manifest["spec"]["selector"] = json!({ "matchLabels": { "no": "device" } });
    }
    manifest
}

impl Load<'_> {
    fn write(&self) {
        let api = self.fleet.api();
        while !self.stop.load(Ordering::SeqCst) {
            let n = self.count.fetch_add(1, Ordering::SeqCst) + 1;
            let name = if n.is_multiple_of(5) { "web".to_owned() } else { format!("load-{}", n % NAMES) };
            match api.ask("PUT", &format!("/api/v1/deployments/{name}"), Some(&numbered(&name, n))) {
                Ok(answer) if answer.status < 300 => {
                    self.acknowledged.lock().unwrap().insert(name, n);
                }
                // Recovering, or nobody there: write on.
                Ok(_) | Err(_) => pause(Duration::from_millis(5)),
            }
        }
    }
}

fn number(view: &DeploymentView) -> u64 {
    let labels = serde_json::to_value(&view.manifest.metadata.labels).unwrap();
    labels["n"].as_str().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[test]
fn killed_under_write_load_it_converges_within_30_s() {
    let fleet = Fleet::start("load");
    let pis = [fleet.device("pi-1"), fleet.device("pi-2")];
    fleet.apply(&numbered("web", 0));
    let before: Vec<_> = pis.iter().map(|pi| fleet.settled("web", pi)).collect();
    let load = Load { fleet: &fleet, stop: false.into(), count: 0.into(), acknowledged: Mutex::default() };
    let took = std::thread::scope(|scope| {
        scope.spawn(|| load.write());
        pause(Duration::from_secs(4));
        let written = load.acknowledged.lock().unwrap().len();
        fleet.coordinator().kill_both();
        pis[0].kill_agent();
        pause(Duration::from_millis(500));
        let watch = Watch::start();
        pis[0].start_agent();
        fleet.coordinator().proc().start();
        // The load goes on for a while, into the recovery.
        pause(Duration::from_secs(3));
        load.stop.store(true, Ordering::SeqCst);
        assert!(written > 5, "only {written} deployments were written under load");
        converged(&fleet, &load, watch);
        watch.elapsed()
    });
    println!("converged {} ms after the start, {} writes", took.as_millis(), load.count.load(Ordering::SeqCst));
    assert!(took < Duration::from_secs(30), "{took:?}");
    let after: Vec<_> = pis.iter().map(|pi| fleet.settled("web", pi)).collect();
    assert_eq!(before, after);
}

fn converged(fleet: &Fleet, load: &Load<'_>, watch: Watch) {
    let left = Duration::from_secs(40).saturating_sub(watch.elapsed());
    wait_until("everything acknowledged to be there, and the devices to act on it", left, || {
        let known = load.acknowledged.lock().map_err(|err| err.to_string())?.clone();
        for (name, n) in &known {
            let there = number(&fleet.deployment_view(name)?);
            if there < *n {
                return Err(format!("write {n} of {name} was acknowledged and {there} is there"));
            }
        }
        for pi in ["pi-1", "pi-2"] {
            let view = fleet.device_view(pi)?;
            if view.desired_generation != view.reported_generation || view.hold.is_some() {
                let (want, have) = (view.desired_generation, view.reported_generation);
                return Err(format!("{pi} acts on {have}, wanted is {want}, hold: {:?}", view.hold));
            }
        }
        Ok(())
    });
}
