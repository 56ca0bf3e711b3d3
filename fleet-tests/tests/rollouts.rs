//! A deployment goes through real devices in batches: the first proves it before the second gets it, a bad revision stays
//! on the first, and the operator decides what happens then.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use bramble_contracts::{
    Revision,
    api::{RolloutState, RolloutView},
};
use bramble_fleet_tests::Fleet;
use bramble_fleet_tests::clock::{stays, wait_until};

fn manifest(image: &str) -> String {
    format!(
        "apiVersion: bramble/v1
kind: Deployment
metadata: {{ name: web }}
spec:
  selector: {{ matchLabels: {{ site: test }} }}
  containers: [{{ name: web, image: localhost/bramble-hello:{image} }}]
  lifecycle: {{ gracePeriod: 2s }}
  rollout: {{ batches: [\"1\", \"100%\"], healthyFor: 1s, progressDeadline: 2m }}
"
    )
}

fn rollout(fleet: &Fleet) -> Result<RolloutView, String> {
    fleet.api().get("/api/v1/rollouts/web")
}

fn runs(fleet: &Fleet, device: &str) -> Option<Revision> {
    let view = fleet.deployment_view("web").unwrap();
    let target = view.devices.into_iter().find(|d| d.name.as_str() == device).unwrap();
    target.app.and_then(|app| app.running_revision)
}

#[test]
fn a_bad_revision_stops_at_the_first_device() {
    let fleet = Fleet::start("rollouts");
    let (_one, _two) = (fleet.device("pi-1"), fleet.device("pi-2"));
    let bramble = fleet.bramble();
    let apply = |image: &str| {
        let file = fleet.case().dir().join("web.yaml");
        std::fs::write(&file, manifest(image)).unwrap();
        file.display().to_string()
    };
    bramble.ok(&["apply", "-f", &apply("1"), "--wait"]);
    let done = |revision: u64| {
        wait_until("the rollout is done", Duration::from_secs(120), || {
            let view = rollout(&fleet)?;
            let is_it = view.brings == format!("web revision {revision}") && view.state == RolloutState::Done;
            if is_it { Ok(view) } else { Err(format!("{} is {:?}: {}", view.brings, view.state, view.reason)) }
        })
    };
    assert_eq!(done(1).summary.confirmed, 2);

    bramble.ok(&["apply", "-f", &apply("99")]);
    wait_until("it is halted", Duration::from_secs(120), || match rollout(&fleet)? {
        view if view.state == RolloutState::Halted => Ok(()),
        view => Err(format!("{:?} {:?}", view.state, view.devices)),
    });
    stays("the second keeps what it has", Duration::from_secs(3), || match runs(&fleet, "pi-2") {
        Some(Revision(1)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let page = bramble.ok(&["describe", "rollout", "web"]);
    assert!(page.contains("halted, batch 1 of 2") && page.contains("failed"), "{page}");
    let why = bramble.ok(&["explain", "device", "pi-2", "web"]);
    assert!(why.contains("it keeps revision 1: its turn in rollout web has not come"), "{why}");
    bramble.ok(&["rollout", "abort", "web", "--reason", "there is no such image"]);

    // The coordinator is killed as soon as the first device has begun; whoever is next goes on.
    bramble.ok(&["apply", "-f", &apply("2")]);
    wait_until("the first has begun", Duration::from_secs(60), || match rollout(&fleet)? {
        view if view.brings == "web revision 3" && view.batch == 1 => Ok(()),
        view => Err(format!("{} in batch {}", view.brings, view.batch)),
    });
    fleet.coordinator().kill_both();
    fleet.coordinator().start();
    fleet.coordinator().ready();
    assert_eq!(done(3).summary.confirmed, 2);
    assert_eq!((runs(&fleet, "pi-1"), runs(&fleet, "pi-2")), (Some(Revision(3)), Some(Revision(3))));
}
