//! The harness itself: a network that is cut, a Podman store of its own, and nothing left behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::net::NetNs;
use bramble_fleet_tests::{Device, DeviceSetup, Starter, soon, wait_until};
use xtask::run::Cmd;

#[test]
fn a_cut_link_passes_nothing_until_it_heals() {
    let case = Case::new("harness-net");
    let net = NetNs::new(&case);
    let listener = TcpListener::bind((net.host(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connects = || {
        let to = format!("exec 3<>/dev/tcp/{}/{port}", net.host());
        net.cmd(&["timeout", "2", "bash", "-c", &to]).output().unwrap().status.success()
    };
    wait_until("a connection out of the namespace", Duration::from_secs(10), || {
        if connects() { Ok(()) } else { Err("none".into()) }
    });
    net.cut();
    assert!(!connects(), "nothing passes a cut");
    net.heal();
    assert!(connects(), "it passes again");
    let name = net.name().to_owned();
    drop(net);
    drop(case);
    assert!(!Path::new("/run/netns").join(name).exists());
}

#[test]
fn a_device_has_its_own_podman_and_leaves_nothing() {
    let case = Case::new("harness-device");
    bramble_fleet_tests::programs::machine();
    let setup = DeviceSetup {
        name: "pi-1".into(),
        coordinator: "http://127.0.0.1:1".into(),
        token: None,
        net: None,
        images: vec![1],
        settings: String::new(),
        podman: String::new(),
        ntp: vec![],
        clock: None,
        starter: Starter::Case,
    };
    let device = Device::new(&case, setup);
    let id = device.podman().args(["run", "-d", "--name", "x", "localhost/bramble-hello:1"]).check().unwrap();
    let id = id.trim().to_owned();
    let running = || device.running(&[("x".to_owned(), id.clone())].into());
    let before = soon("the container to run", running);
    assert_eq!(before, running().unwrap());
    assert_eq!(device.all_containers(), std::slice::from_ref(&id));
    device.podman().args(["restart", "--time", "0", "x"]).check().unwrap();
    assert_ne!(before, soon("it to run again", running), "a restart is seen");
    let dir = case.dir().to_owned();
    drop(device);
    drop(case);
    assert!(!dir.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&dir.display().to_string()), "{mounts}");
    let left = Cmd::new("pgrep").args(["-f", &id]).output().unwrap();
    assert!(!left.status.success(), "a process of the container lives: {}", left.stdout);
}
