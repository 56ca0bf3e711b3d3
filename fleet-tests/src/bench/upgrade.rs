//! How long an app is down when it is upgraded, as a client sees it that asks every millisecond or two; beside what an
//! operator does with podman: stop the old one, run the new one. And how long nobody answers when the new one starts first,
//! beside the same app when nothing happens to it.

use std::time::Duration;

use serde_json::json;

use super::Reps;
use super::poll::{Poller, answered};
use super::start::remove;
use super::table::{Goal, Row, Samples};
use crate::clock::Watch;
use crate::{Device, Fleet, manifest};

const OLD: &str = "version 1";
const NEW: &str = "version 2";

fn podman(pi: &Device, args: &[&str]) {
    pi.podman().args(args).check().unwrap_or_else(|err| panic!("{err}"));
}

pub(super) fn downtime(reps: Reps) -> Vec<Row> {
    let fleet = Fleet::start("bench-upgrade");
    let pi = fleet.device("pi-1");
    let (mut ours, mut run, mut start) = (vec![], vec![], vec![]);
    for n in 0..reps.0 {
        let (name, port) = (format!("web-{n}"), fleet.port());
        fleet.apply(&manifest::hello(&name, port, 1));
        fleet.settled(&name, &pi);
        let poller = Poller::start(port);
        answered(port);
        fleet.apply(&manifest::hello(&name, port, 2));
        fleet.settled(&name, &pi);
        ours.push(poller.downtime(OLD, NEW));
        fleet.delete(&name);
        gone(&pi);
        run.push(by_hand(&pi, fleet.port(), ByHand::StopRun));
        start.push(by_hand(&pi, fleet.port(), ByHand::StopStart));
    }
    let (upgraded, left_alone) = start_first(&fleet, &pi, reps);
    let ours = Samples::times(ours);
    vec![
        Row::new("an app's downtime at an upgrade", ours.clone())
            .beside("`podman stop` + `podman run` of the new one", Samples::times(run))
            .goal(Goal::Ratio(1.1)),
        Row::new("the same", ours)
            .beside("`podman stop` + `podman start` of one made before", Samples::times(start))
            .goal(Goal::Ratio(1.1)),
        Row::new("an app's longest silence at an upgrade with `handover: startFirst`", Samples::times(upgraded))
            .beside("of the same app in as long a time without an upgrade", Samples::times(left_alone))
            .goal(Goal::Median(50.0)),
    ]
}

/// The longest silences during an upgrade, and as long after it.
fn start_first(fleet: &Fleet, pi: &Device, reps: Reps) -> (Vec<Duration>, Vec<Duration>) {
    let (mut upgraded, mut left_alone) = (vec![], vec![]);
    for n in 0..reps.fewer(2) {
        let (name, port) = (format!("front-{n}"), fleet.port());
        let version = |version: u32| {
            let mut manifest = manifest::hello(&name, port, version);
            manifest["spec"]["lifecycle"]["handover"] = json!("startFirst");
            manifest["spec"]["containers"][0]["probe"] = json!({ "http": { "port": 80 }, "interval": "1s" });
            manifest
        };
        fleet.apply(&version(1));
        fleet.settled(&name, pi);
        answered(port);
        let (poller, watch) = (Poller::start(port), Watch::start());
        fleet.apply(&version(2));
        fleet.settled(&name, pi);
        let took = watch.elapsed();
        upgraded.push(poller.longest_silence());
        let poller = Poller::start(port);
        std::thread::sleep(took);
        left_alone.push(poller.longest_silence());
        fleet.delete(&name);
        gone(pi);
    }
    (upgraded, left_alone)
}

fn gone(pi: &Device) {
    crate::soon("the app to be gone", || {
        let left = pi.all_containers();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// How somebody upgrades by hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ByHand {
    /// Stops the old one and runs the new one.
    StopRun,
    /// Makes the new one, stops the old one, starts the new one.
    StopStart,
}

fn by_hand(pi: &Device, port: u16, how: ByHand) -> Duration {
    let publish = format!("0.0.0.0:{port}:80");
    podman(pi, &["run", "--detach", "--name", "old", "--publish", &publish, &manifest::image(1)]);
    let poller = Poller::start(port);
    answered(port);
    match how {
        ByHand::StopRun => {
            podman(pi, &["stop", "old"]);
            podman(pi, &["run", "--detach", "--name", "new", "--publish", &publish, &manifest::image(2)]);
        }
        ByHand::StopStart => {
            podman(pi, &["create", "--name", "new", "--publish", &publish, &manifest::image(2)]);
            podman(pi, &["stop", "old"]);
            podman(pi, &["start", "new"]);
        }
    }
    answered(port);
    // One answer more, so that the poller has seen it too.
    std::thread::sleep(Duration::from_millis(100));
    let down = poller.downtime(OLD, NEW);
    remove(pi, "old");
    remove(pi, "new");
    down
}
