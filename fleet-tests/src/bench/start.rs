//! From the command to the first HTTP answer: an app applied by `bramble`, beside the same image started by `podman`
//! with nothing in between; and a pod of two beside the same calls to libpod's API. The image is prepared on both sides,
//! both use the device's own store, and they take turns.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::run::Cmd;

use super::Reps;
use super::libpod::Libpod;
use super::poll::answered;
use super::table::{Goal, Row, Samples};
use crate::{Device, Fleet, Watch, manifest, soon};

/// Starts a command and waits until its ports answer.
fn until_answered(cmd: Cmd, ports: &[u16]) -> Duration {
    let watch = Watch::start();
    let line = std::thread::spawn(move || cmd.check());
    ports.iter().for_each(|port| answered(*port));
    let took = watch.elapsed();
    let said = line.join().expect("the command ends");
    said.unwrap_or_else(|err| panic!("{err}"));
    took
}

fn apply(fleet: &Fleet, file: &Path, manifest: &Value) -> Cmd {
    fs::write(file, manifest.to_string()).expect("the case's folder can be written");
    fleet.bramble().cmd().clone().args(["apply", "-f"]).arg(file)
}

/// Takes the app away and waits until nothing of it is left.
fn clear(fleet: &Fleet, pi: &Device, name: &str) {
    fleet.delete(name);
    soon("the app to be gone", || {
        let left = pi.all_containers();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// One container.
pub(super) fn one(reps: Reps) -> Vec<Row> {
    let fleet = Fleet::start("bench-start");
    let pi = fleet.device("pi-1");
    let file = fleet.case().dir().join("web.json");
    let (mut ours, mut by_hand, mut device) = (vec![], vec![], vec![]);
    for n in 0..reps.0 {
        let (name, port) = (format!("web-{n}"), fleet.port());
        ours.push(until_answered(apply(&fleet, &file, &manifest::hello(&name, port, 1)), &[port]));
        fleet.settled(&name, &pi);
        clear(&fleet, &pi, &name);

        let port = fleet.port();
        let publish = format!("0.0.0.0:{port}:80");
        let run = pi.podman().args(["run", "--detach", "--name", &name, "--publish", &publish, &manifest::image(1)]);
        by_hand.push(until_answered(run, &[port]));
        remove(&pi, &name);

        // The same without any command line: what the mesh and the agent add to Podman's own work.
        let port = fleet.port();
        let watch = Watch::start();
        fleet.apply(&manifest::hello(&name, port, 1));
        answered(port);
        device.push(watch.elapsed());
        fleet.settled(&name, &pi);
        clear(&fleet, &pi, &name);
    }
    let by_hand = Samples::times(by_hand);
    vec![
        Row::new("`bramble apply` → HTTP answer, one container", Samples::times(ours))
            .beside("`podman run --detach`", by_hand.clone())
            .goal(Goal::Ratio(1.15)),
        Row::new("the same, applied over the HTTP API", Samples::times(device))
            .beside("`podman run --detach`", by_hand),
    ]
}

pub(super) fn remove(pi: &Device, name: &str) {
    let removed = pi.podman().args(["rm", "--force", "--time", "0", name]).check();
    removed.unwrap_or_else(|err| panic!("{err}"));
}

/// The pod of both sides: two servers, each on a port of its own.
fn pod_manifest(name: &str, ports: [u16; 2]) -> Value {
    let container = |name: &str, inside: u16, port: u16| {
        json!({ "name": name, "image": manifest::image(1), "args": ["serve", "--port", inside.to_string()],
                "ports": [{ "host": port, "container": inside }] })
    };
    manifest::deployment(name, &[container("left", 8001, ports[0]), container("right", 8002, ports[1])])
}

/// What somebody would ask libpod for who wants that pod.
fn pod_by_hand(libpod: &Libpod, name: &str, ports: [u16; 2]) -> Duration {
    let watch = Watch::start();
    let mapping = |host: u16, inside: u16| json!({ "host_port": host, "container_port": inside, "protocol": "tcp" });
    let pod = json!({ "name": name, "netns": { "nsmode": "bridge" }, "hostadd": ["left:127.0.0.1", "right:127.0.0.1"],
                      "portmappings": [mapping(ports[0], 8001), mapping(ports[1], 8002)] });
    let pod = libpod.call("POST", "/pods/create", &pod);
    for (part, inside) in [("left", 8001), ("right", 8002)] {
        let spec = json!({ "name": format!("{name}-{part}"), "image": manifest::image(1), "pod": pod,
                           "command": ["serve", "--port", inside.to_string()], "restart_policy": "no",
                           "log_configuration": { "driver": "k8s-file" } });
        libpod.call("POST", "/containers/create", &spec);
    }
    libpod.call("POST", &format!("/pods/{pod}/start"), &Value::Null);
    ports.iter().for_each(|port| answered(*port));
    watch.elapsed()
}

/// A pod of two.
pub(super) fn pod(reps: Reps) -> Vec<Row> {
    let fleet = Fleet::start("bench-pod");
    let pi = fleet.device("pi-1");
    let libpod = Libpod::new(&pi.podman_socket());
    let (mut ours, mut by_hand) = (vec![], vec![]);
    for n in 0..reps.0 {
        let (name, ports) = (format!("pod-{n}"), [fleet.port(), fleet.port()]);
        let watch = Watch::start();
        fleet.apply(&pod_manifest(&name, ports));
        ports.iter().for_each(|port| answered(*port));
        ours.push(watch.elapsed());
        fleet.settled(&name, &pi);
        clear(&fleet, &pi, &name);

        let by = format!("by-hand-{n}");
        by_hand.push(pod_by_hand(&libpod, &by, [fleet.port(), fleet.port()]));
        let removed = pi.podman().args(["pod", "rm", "--force", "--time", "0", &by]).check();
        removed.unwrap_or_else(|err| panic!("{err}"));
    }
    vec![
        Row::new("apply over the HTTP API → both answer, pod of two", Samples::times(ours))
            .beside("the same pod by libpod's API", Samples::times(by_hand))
            .goal(Goal::Ratio(1.15)),
    ]
}
