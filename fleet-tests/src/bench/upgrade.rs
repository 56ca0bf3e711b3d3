//! How long an app is down when it is upgraded, as a client sees it that asks every millisecond or two; beside what an
//! operator does with podman: stop the old one, run the new one.

use super::Reps;
use super::poll::{Poller, answered};
use super::start::remove;
use super::table::{Goal, Row, Samples};
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
        crate::soon("the app to be gone", || {
            let left = pi.all_containers();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        run.push(by_hand(&pi, fleet.port(), ByHand::StopRun));
        start.push(by_hand(&pi, fleet.port(), ByHand::StopStart));
    }
    let ours = Samples::times(ours);
    vec![
        Row::new("an app's downtime at an upgrade", ours.clone())
            .beside("`podman stop` + `podman run` of the new one", Samples::times(run))
            .goal(Goal::Ratio(1.1)),
        Row::new("the same", ours)
            .beside("`podman stop` + `podman start` of one made before", Samples::times(start))
            .goal(Goal::Ratio(1.1)),
    ]
}

/// How somebody upgrades by hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ByHand {
    /// Stops the old one and runs the new one.
    StopRun,
    /// Makes the new one, stops the old one, starts the new one.
    StopStart,
}

fn by_hand(pi: &Device, port: u16, how: ByHand) -> std::time::Duration {
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
    std::thread::sleep(std::time::Duration::from_millis(100));
    let down = poller.downtime(OLD, NEW);
    remove(pi, "old");
    remove(pi, "new");
    down
}
