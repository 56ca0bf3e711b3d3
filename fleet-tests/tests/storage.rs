//! Images from a real registry, over a bad link, in a store that is damaged; as operators see it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::BTreeMap;
use std::fs;

use bramble_contracts::v1::Phase;
use bramble_fleet_tests::proxy::Mode;
use bramble_fleet_tests::registry::Registry;
use bramble_fleet_tests::{Device, Fleet, manifest, soon};

#[test]
fn images_come_over_a_bad_link_and_a_damaged_store_is_mended() {
    let fleet = Fleet::start("storage");
    let registry = Registry::start(fleet.case());
    let mut setup = fleet.device_setup("pi-1");
    setup.podman = registry.settings();
    let pi = Device::new(fleet.case(), setup);
    let images = [registry.publish(&pi, 1), registry.publish(&pi, 2)];
    pi.start_agent();
    fleet.online_agent(&pi);
    let (port, other) = (fleet.port(), fleet.port());
    let web = |version: usize| {
        let mut web = manifest::hello("web", port, 1);
        web["spec"]["containers"][0]["image"] = images[version - 1].clone().into();
        web
    };
    fleet.apply(&manifest::hello("neighbour", other, 1));
    let neighbour = fleet.settled("neighbour", &pi);
    fleet.apply(&web(1));
    let first = fleet.settled("web", &pi);
    fleet.answers(port, "version 1");

    // The link is cut in the middle of a pull: people are told, the old one runs on, and it is tried again.
    registry.link().set(Mode::LoseAnswers);
    fleet.apply(&web(2));
    let target = fleet.target_until("to have failed to pull", "web", "pi-1", |t| t.reason.contains("(try "));
    assert_eq!(target.phase, Some(Phase::Preparing), "{target:?}");
    let said = fleet.bramble().ok(&["explain", "device", "pi-1", "web"]);
    assert!(said.contains("hello:2"), "{said}");
    let ids = BTreeMap::from([("web".to_owned(), first.id("web").to_owned())]);
    assert_eq!(pi.running(&ids).unwrap(), first, "the old one runs on");
    registry.link().set(Mode::Pass);
    let second = fleet.settled("web", &pi);
    fleet.answers(port, "version 2");

    // A layer of the image is lost while the app is down: fetched anew, by itself, and told.
    let agent = pi.stop_agent();
    assert!(agent.success(), "{agent}");
    pi.podman().args(["kill", second.id("web")]).check().unwrap();
    let layer = pi.podman().args(["image", "inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", &images[1]]);
    let layer = layer.check().unwrap();
    let layer = layer.trim().strip_suffix("/diff").expect("the layer's folder");
    pi.podman().args(["container", "cleanup", second.id("web")]).output().unwrap();
    fs::remove_dir_all(layer).unwrap();
    pi.start_agent();
    fleet.answers(port, "version 2");
    let third = fleet.settled("web", &pi);
    assert_ne!(third.id("web"), second.id("web"));
    let alarms = soon("the device to tell what it did", || {
        let alarms = fleet.device_view("pi-1")?.report.ok_or("no report")?.alarms;
        if alarms.iter().any(|alarm| alarm.contains("damaged")) { Ok(alarms) } else { Err(format!("{alarms:?}")) }
    });
    println!("{alarms:#?}");
    assert_eq!(fleet.settled("neighbour", &pi), neighbour, "and nobody else noticed");
}
