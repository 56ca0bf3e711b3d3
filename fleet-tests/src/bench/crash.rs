//! How long an app is away when its main process crashes, as a client sees it; beside a container that Podman itself
//! starts again (`--restart=always`).

use std::time::Duration;

use xtask::clock::until;

use super::Reps;
use super::poll::{Poller, answered};
use super::start::remove;
use super::table::{Row, Samples};
use crate::{Device, Fleet, manifest};

pub(super) fn back(reps: Reps) -> Vec<Row> {
    let fleet = Fleet::start("bench-crash");
    let pi = fleet.device("pi-1");
    let (mut ours, mut podmans) = (vec![], vec![]);
    for n in 0..reps.0 {
        // A new app each time: one that has crashed before waits longer, by design.
        let (name, port) = (format!("web-{n}"), fleet.port());
        fleet.apply(&manifest::hello(&name, port, 1));
        let id = fleet.settled(&name, &pi).id("web").to_owned();
        ours.push(crash(&pi, &id, port));
        fleet.delete(&name);
        crate::soon("the app to be gone", || {
            let left = pi.all_containers();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        podmans.push(by_podman(&pi, fleet.port()));
    }
    vec![
        Row::new("a main process is killed → its app answers again", Samples::times(ours))
            .beside("a container of `podman run --restart=always`", Samples::times(podmans)),
    ]
}

fn by_podman(pi: &Device, port: u16) -> Duration {
    let publish = format!("0.0.0.0:{port}:80");
    let args = ["run", "--detach", "--restart=always", "--name", "phoenix", "--publish", &publish, &manifest::image(1)];
    let id = pi.podman().args(args).check().unwrap_or_else(|err| panic!("{err}"));
    let away = crash(pi, id.trim(), port);
    remove(pi, "phoenix");
    away
}

/// Kills the main process of a container and says for how long nobody answered.
fn crash(pi: &Device, id: &str, port: u16) -> Duration {
    answered(port);
    let pid =
        pi.inspect(id).unwrap_or_else(|err| panic!("{err}"))["State"]["Pid"].as_i64().expect("a running container");
    let poller = Poller::start(port);
    poller.saw_answers(10);
    crate::process::kill_pid(i32::try_from(pid).expect("a process id"));
    until("another main process", Duration::from_secs(60), || {
        let now = pi.inspect(id)?["State"]["Pid"].as_i64();
        if now.is_some_and(|now| now > 0 && now != pid) { Ok(()) } else { Err(format!("{now:?} instead of {pid}")) }
    })
    .unwrap_or_else(|vain| panic!("{vain}"));
    answered(port);
    poller.saw_answers(10);
    poller.longest_silence()
}
