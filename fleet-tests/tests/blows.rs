//! SIGKILL to the agent in the middle of upgrades, at random moments, at times together with Podman's service: afterwards
//! the app is the new one or legibly failed, and nothing of the old one is left over.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::BTreeSet;
use std::time::Duration;

use bramble_contracts::v1::{Phase, Status};
use bramble_fleet_tests::clock::{Dice, full};
use bramble_fleet_tests::{Device, Fleet, manifest, soon};
use serde_json::{Value, json};

/// What the app is upgraded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// One container.
    Plain,
    /// Two containers in a pod, with an init container and a volume.
    Pod,
    /// One that ends at once with code 3.
    Broken,
}

/// A look of the app that differs from every other in its spec.
#[derive(Clone, Copy, Debug)]
struct Look {
    shape: Shape,
    round: u64,
}

impl Look {
    fn manifest(self, ports: [u16; 2]) -> Value {
        let mark = json!([{ "name": "ROUND", "value": self.round.to_string() }]);
        let version = 1 + u32::try_from(self.round % 2).unwrap();
        let marked = |mut container: Value| {
            container["env"] = mark.clone();
            container
        };
        match self.shape {
            Shape::Plain => manifest::deployment("app", &[marked(manifest::server("web", ports[0], version))]),
            Shape::Broken => manifest::deployment("app", &[marked(manifest::program("web", &["exit", "3"]))]),
            Shape::Pod => {
                let with_volume = |mut container: Value| {
                    container["volumes"] = json!([{ "name": "data", "path": "/data" }]);
                    marked(container)
                };
                let mut side = manifest::server("side", ports[1], version);
                side["args"] = json!(["serve", "--port", "81"]);
                side["ports"] = json!([{ "host": ports[1], "container": 81 }]);
                let mains = [with_volume(manifest::server("web", ports[0], version)), marked(side)];
                let init = with_volume(manifest::program("seed", &["touch", "/data/seed"]));
                manifest::with_init(manifest::deployment("app", &mains), &[init])
            }
        }
    }

    /// Everything that Podman may hold for it: containers, of these running, pods.
    fn things(self) -> (usize, Option<usize>, usize) {
        match self.shape {
            Shape::Plain => (1, Some(1), 0),
            // Mains, the init container that ended, the pod's pause container.
            Shape::Pod => (4, Some(3), 1),
            // It is started again and again.
            Shape::Broken => (1, None, 0),
        }
    }
}

fn next(dice: &mut Dice, round: u64) -> Look {
    let shape = match dice.below(5) {
        0 | 1 => Shape::Plain,
        2 | 3 => Shape::Pod,
        _ => Shape::Broken,
    };
    Look { shape, round }
}

fn count(pi: &Device, args: &[&str]) -> usize {
    pi.podman().args(args).check().unwrap().lines().count()
}

/// Nothing but what the look needs: containers, monitors, pods, volumes, records.
fn nothing_else(pi: &Device, look: Look) {
    let (all, running, pods) = look.things();
    soon(&format!("nothing to be left but {look:?}"), || {
        let seen_all = count(pi, &["ps", "--all", "--quiet"]);
        let seen_pods = count(pi, &["pod", "ps", "--quiet"]);
        if (seen_all, seen_pods) != (all, pods) {
            let list = pi.podman().args(["ps", "--all"]).check().unwrap();
            return Err(format!("{seen_all} containers and {seen_pods} pods, wanted are {all} and {pods}:\n{list}"));
        }
        let Some(running) = running else { return Ok(()) };
        let seen = (count(pi, &["ps", "--quiet"]), pi.monitors());
        if seen == (running, running) { Ok(()) } else { Err(format!("{seen:?} run, with monitors; wanted {running}")) }
    });
    let records = std::fs::read_dir(pi.apps_dir().join("records")).unwrap().flatten();
    // What a kill in the middle of writing leaves beside a record is replaced by the next one.
    let stem = |name: &str| {
        [".prev", ".new", ".link"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    let names = records.map(|entry| stem(&entry.file_name().to_string_lossy()));
    let names: BTreeSet<String> = names.collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["default.app.record"], "one record and the one before it");
}

fn ended_well(fleet: &Fleet, pi: &Device, look: Look, ports: [u16; 2]) {
    if look.shape == Shape::Broken {
        fleet.target_until("failed, in words", "app", pi.name(), |target| {
            let failed = target.status == Some(Status::Failed) && target.phase == Some(Phase::CrashLoop);
            failed && target.reason.contains("exit code 3")
        });
        return;
    }
    fleet.settled("app", pi);
    let version = format!("version {}", 1 + look.round % 2);
    fleet.answers(ports[0], &version);
    if look.shape == Shape::Pod {
        fleet.answers(ports[1], &version);
    }
}

#[test]
fn an_agent_killed_in_the_middle_of_upgrades_finishes_them() {
    let fleet = Fleet::start("blows");
    let pi = fleet.device("pi-1");
    let ports = [fleet.port(), fleet.port()];
    let mut dice = fleet.case().dice();
    let rounds = if full() { 200 } else { 7 };
    for round in 1..=rounds {
        let look = next(&mut dice, round);
        let service = dice.below(4) == 0;
        println!("round {round}: to {:?}, {}", look.shape, if service { "Podman's service dies too" } else { "agent" });
        fleet.apply(&look.manifest(ports));
        dice.moment(Duration::from_millis(1200));
        pi.kill_agent();
        if service {
            pi.kill_podman_service();
        }
        pi.start_agent();
        fleet.online_agent(&pi);
        ended_well(&fleet, &pi, look, ports);
        nothing_else(&pi, look);
    }
    fleet.delete("app");
    soon("nothing to be left", || {
        let left = (count(&pi, &["ps", "--all", "--quiet"]), count(&pi, &["pod", "ps", "--quiet"]), pi.monitors());
        if left == (0, 0, 0) { Ok(()) } else { Err(format!("{left:?} containers, pods, monitors")) }
    });
}
