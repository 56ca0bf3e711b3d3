//! The broker's storage wiped, or an older backup restored: no app stops, devices that are ahead go on hold, and
//! `bramble resume` shows, adopts or overwrites. Never a document that lists less without anybody saying so.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use bramble_contracts::{Generation, v3::DesiredDocument};
use bramble_fleet_tests::keys::{In, Stolen};
use bramble_fleet_tests::mesh::Recorder;
use bramble_fleet_tests::{Device, Fleet, Running, copy_dir, empty_dir, manifest, soon};

/// Where the store itself tells what it has taken; `$KV.desired.*` would also show writes that lost a race.
const STORED: &str = "dev.*.desired";

/// Everything is down: the agents by SIGKILL, the coordinator in peace.
fn all_down(fleet: &Fleet, devices: &[&Device]) {
    devices.iter().for_each(|d| d.kill_agent());
    fleet.coordinator().stop();
}

fn held(fleet: &Fleet, device: &str) {
    soon(&format!("{device} to be on hold"), || {
        let view = fleet.device_view(device)?;
        view.hold.clone().map(drop).ok_or_else(|| format!("{view:?}"))
    });
}

fn not_held(fleet: &Fleet, device: &str) {
    soon(&format!("{device} not to be on hold and to act on what is wanted"), || {
        let view = fleet.device_view(device)?;
        let done = view.hold.is_none() && view.desired_generation == view.reported_generation;
        if done { Ok(()) } else { Err(format!("{view:?}")) }
    });
}

/// What is written for devices while nobody has said anything: never less than they have.
fn lists_no_less(stolen: &Stolen, written: &Recorder, apps: usize) {
    soon("the device's own document to be taken over", || {
        if written.heard().is_empty() { Err("nothing was written".into()) } else { Ok(()) }
    });
    let documents: Vec<DesiredDocument> =
        written.heard().iter().filter(|m| !m.payload.is_empty()).map(|m| stolen.open(&m.payload)).collect();
    for document in documents {
        assert_eq!(document.apps.len(), apps, "a document that lists other apps was written: {document:?}");
    }
}

struct Scene {
    fleet: Fleet,
    pi: Device,
    away: Device,
    port: u16,
    other: u16,
    web: Running,
    second: Running,
    far: Running,
}

/// Two devices with one app each, the first with a second one.
fn scene(name: &str) -> Scene {
    let fleet = Fleet::start(name);
    let (pi, away) = (fleet.device("pi-1"), fleet.device("pi-2"));
    let (port, other, far_port) = (fleet.port(), fleet.port(), fleet.port());
    fleet.apply(&manifest::only_for(manifest::hello("web", port, 1), &["pi-1"]));
    fleet.apply(&manifest::only_for(manifest::hello("second", other, 1), &["pi-1"]));
    fleet.apply(&manifest::only_for(manifest::hello("far", far_port, 1), &["pi-2"]));
    let (web, second, far) = (fleet.settled("web", &pi), fleet.settled("second", &pi), fleet.settled("far", &away));
    Scene { fleet, pi, away, port, other, web, second, far }
}

#[test]
fn a_wiped_store_stops_nothing_and_is_adopted_from_the_devices() {
    let Scene { fleet, pi, away, port, other, web, second, far } = scene("wiped");
    all_down(&fleet, &[&pi, &away]);
    empty_dir(&fleet.coordinator().storage());
    fleet.coordinator().start();
    let stolen = Stolen::from(fleet.coordinator());
    let store = stolen.connect(In::Fleet);
    let written = store.record(&[STORED]);
    // One device comes at once; the other one was offline during the reset and comes back much later.
    pi.start_agent();
    held(&fleet, "pi-1");
    let shown = fleet.bramble().ok(&["resume"]);
    assert!(shown.contains("pi-1") && shown.contains("web") && shown.contains("second"), "{shown}");
    let explained = fleet.bramble().ok(&["explain", "device", "pi-1"]);
    assert!(explained.contains("bramble resume"), "{explained}");
    fleet.answers(port, "version 1");
    fleet.answers(other, "version 1");
    lists_no_less(&stolen, &written, 2);
    drop(written);

    fleet.bramble().ok(&["resume", "--adopt", "--yes", "--reason", "the store was wiped"]);
    not_held(&fleet, "pi-1");
    assert_eq!(fleet.settled("web", &pi), web);
    assert_eq!(fleet.settled("second", &pi), second);

    let written = store.record(&[STORED]);
    away.start_agent();
    held(&fleet, "pi-2");
    lists_no_less(&stolen, &written, 1);
    fleet.bramble().ok(&["resume", "--adopt", "--yes", "--device", "pi-2", "--reason", "it was away"]);
    not_held(&fleet, "pi-2");
    assert_eq!(fleet.settled("far", &away), far);

    // And the fleet is in the operator's hands again.
    fleet.apply(&manifest::only_for(manifest::hello("web", port, 2), &["pi-1"]));
    fleet.answers(port, "version 2");
    assert_eq!(fleet.settled("second", &pi), second);
    let actions: Vec<String> = fleet.audit().into_iter().map(|e| e.action).collect();
    assert!(actions.iter().any(|a| a == "device.hold"), "{actions:?}");
    assert!(actions.iter().any(|a| a.contains("resume")), "{actions:?}");
}

#[test]
fn an_older_backup_puts_devices_on_hold_until_an_operator_decides() {
    let Scene { fleet, pi, away, port, other, web, second, far } = scene("backup");
    fleet.coordinator().stop();
    let backup = fleet.case().dir().join("backup");
    copy_dir(&fleet.coordinator().storage(), &backup);
    fleet.coordinator().start();
    fleet.online("pi-1");
    fleet.online("pi-2");
    let third = fleet.port();
    fleet.apply(&manifest::only_for(manifest::hello("web", port, 2), &["pi-1"]));
    fleet.apply(&manifest::only_for(manifest::hello("third", third, 1), &["pi-1", "pi-2"]));
    fleet.delete("second");
    let newer = (fleet.settled("web", &pi), fleet.port());
    assert_ne!(newer.0, web);
    soon("the second app to be gone", || match fleet.target("second", "pi-1") {
        Err(_) => Ok(()),
        Ok(target) => Err(format!("{target:?}")),
    });
    let generation: Generation = fleet.device_view("pi-1").unwrap().reported_generation;
    drop(second);

    all_down(&fleet, &[&pi, &away]);
    empty_dir(&fleet.coordinator().storage());
    copy_dir(&backup, &fleet.coordinator().storage());
    fleet.coordinator().start();
    let stolen = Stolen::from(fleet.coordinator());
    let written = stolen.connect(In::Fleet).record(&[STORED]);
    pi.start_agent();
    held(&fleet, "pi-1");
    fleet.answers(port, "version 2");
    for heard in written.heard() {
        let document = stolen.open(&heard.payload);
        assert!(document.generation > generation && document.apps.len() == 2, "{document:?}");
    }
    drop(written);
    // An apply while it is on hold is kept, and does not reach the device.
    let shown = fleet.bramble().ok(&["resume"]);
    assert!(shown.contains("web") && shown.contains("second") && shown.contains("third"), "{shown}");

    fleet.bramble().ok(&["resume", "--overwrite", "--yes", "--device", "pi-1", "--reason", "the backup is right"]);
    not_held(&fleet, "pi-1");
    fleet.answers(port, "version 1");
    fleet.answers(other, "version 1");
    let view = fleet.device_view("pi-1").unwrap();
    assert!(view.reported_generation > generation, "{view:?}");
    away.start_agent();
    held(&fleet, "pi-2");
    assert_eq!(fleet.settled("far", &away), far);
    fleet.bramble().ok(&["resume", "--overwrite", "--yes", "--reason", "the backup is right"]);
    not_held(&fleet, "pi-2");
    assert_eq!(fleet.settled("far", &away), far, "what both sides want runs on");
}
