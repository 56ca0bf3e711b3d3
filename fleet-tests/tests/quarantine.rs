//! Quarantine: the connection is cut at once, the apps run on, and the device stays out through every restart, a wiped
//! resolver and a second coordinator with an old list, until it is let back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use bramble_contracts::api::DeviceState;
use bramble_fleet_tests::clock::{Watch, stays, wait_until};
use bramble_fleet_tests::keys::{In, Stolen};
use bramble_fleet_tests::mesh::Mesh;
use bramble_fleet_tests::{Device, Fleet, empty_dir, manifest, soon};

/// Tries the door with the device's own credentials, as they lie on its disk.
fn knock(fleet: &Fleet, pi: &Device) -> Result<Mesh, String> {
    let identity = pi.identity();
    let inbox = format!("_INBOX_{}", identity["device"].as_str().unwrap());
    Mesh::connect(fleet.coordinator().broker(), identity["jwt"].as_str().unwrap(), &pi.seed(), Some(&inbox))
}

fn stays_out(fleet: &Fleet, pi: &Device, after: &str) {
    stays(&format!("the device is out after {after}"), Duration::from_secs(3), || match knock(fleet, pi) {
        Ok(_) => Err("the broker let it in".into()),
        Err(why) if why.contains("uthorization") => Ok(()),
        // The broker may be on its way up.
        Err(why) if why.contains("Io") || why.contains("refused") => Ok(()),
        Err(why) => Err(why),
    });
    wait_until("the broker to say no", Duration::from_secs(20), || match knock(fleet, pi) {
        Ok(_) => panic!("the broker let it in after {after}"),
        Err(why) if why.contains("uthorization") => Ok(()),
        Err(why) => Err(why),
    });
    let view = fleet.device_view("pi-1").unwrap();
    assert_eq!(view.state, DeviceState::Quarantined, "{view:?}");
}

#[test]
fn a_quarantined_device_is_out_at_once_and_stays_out_until_it_is_let_back() {
    let fleet = Fleet::start("quarantine");
    let (pi, other) = (fleet.device("pi-1"), fleet.device("pi-2"));
    let port = fleet.port();
    fleet.apply(&manifest::only_for(manifest::hello("web", port, 1), &["pi-1"]));
    let before = fleet.settled("web", &pi);
    let renew = format!("up.{}.renew", pi.identity()["device"].as_str().unwrap());

    // A second coordinator whose list of quarantined keys will be old when it starts.
    let late = fleet.second("late");

    // Asked and not answered, nothing happens; the question says exactly what would.
    let asked = fleet.bramble().run(&["device", "quarantine", "pi-1", "--reason", "it was stolen"]);
    let question = format!("{}{}", asked.out, asked.err);
    assert!(asked.code != 0 && question.contains("keeps running") && question.contains("cut"), "{asked:?}");
    assert_eq!(fleet.device_view("pi-1").unwrap().state, DeviceState::Active);

    // Its own connection, opened beside the agent's, shows when the cut comes.
    let inside = knock(&fleet, &pi).unwrap();
    let watch = Watch::start();
    fleet.bramble().ok(&["device", "quarantine", "pi-1", "--yes", "--reason", "it was stolen"]);
    wait_until("the connection to be cut", Duration::from_secs(5), || {
        let cut = inside
            .events()
            .iter()
            .any(|e| e.contains("disconnected") || e.contains("uthorization") || e.contains("closed"));
        if cut { Ok(()) } else { Err(format!("{:?}", inside.events())) }
    });
    println!("cut {} ms after the command was typed", watch.elapsed().as_millis());
    assert!(inside.request(&renew, b"").is_err());
    stays_out(&fleet, &pi, "the quarantine");
    fleet.answers(port, "version 1");
    let reasons = fleet.device_view("pi-1").unwrap().quarantine.unwrap();
    assert!(reasons.contains("it was stolen"), "{reasons}");
    let explained = fleet.bramble().run(&["explain", "device", "pi-1"]).out;
    assert!(explained.contains("quarantine") && explained.contains("it was stolen"), "{explained}");

    fleet.coordinator().kill_broker();
    fleet.coordinator().ready();
    stays_out(&fleet, &pi, "a restart of the broker");
    fleet.coordinator().proc().kill();
    fleet.coordinator().start();
    stays_out(&fleet, &pi, "a restart of the coordinator");
    pi.kill_agent();
    pi.start_agent();
    fleet.coordinator().kill_both();
    empty_dir(&fleet.coordinator().resolver());
    fleet.coordinator().start();
    stays_out(&fleet, &pi, "a wiped resolver");
    fleet.online("pi-2");
    // Whoever pushes the account without the revocation (a coordinator with an old list, a restored backup) is
    // corrected.
    let stolen = Stolen::from(fleet.coordinator());
    let sys = stolen.connect(In::Sys);
    sys.request("$SYS.REQ.CLAIMS.UPDATE", old_account(&fleet).as_bytes()).unwrap();
    soon("the old account to be corrected", || match knock(&fleet, &pi) {
        Ok(_) => Err("the broker lets it in".into()),
        Err(_) => Ok(()),
    });
    stays_out(&fleet, &pi, "an older account was pushed");
    late.start();
    stays_out(&fleet, &pi, "a second coordinator came with an old list");
    fleet.coordinator().kill_both();
    fleet.coordinator().start();
    stays_out(&fleet, &pi, "two coordinators raced for a new broker");
    late.proc().term(Duration::from_secs(30));
    assert!(pi.agent().is_running(), "the agent goes on trying: {}", pi.agent().last_words());
    fleet.answers(port, "version 1");

    fleet.bramble().ok(&["device", "unquarantine", "pi-1", "--reason", "it was found"]);
    fleet.online_agent(&pi);
    assert_eq!(fleet.settled("web", &pi), before, "the apps ran through all of it");
    fleet.apply(&manifest::only_for(manifest::hello("web", port, 2), &["pi-1"]));
    fleet.answers(port, "version 2");
    drop(other);
    let actions: Vec<String> = fleet.audit().into_iter().map(|e| format!("{} {}", e.action, e.reason)).collect();
    assert!(actions.iter().any(|a| a == "device.quarantine it was stolen"), "{actions:?}");
    assert!(actions.iter().any(|a| a == "device.unquarantine it was found"), "{actions:?}");
}

/// The account of the devices as the configuration had it before the quarantine, signed by the operator: claims without
/// revocations.
fn old_account(fleet: &Fleet) -> String {
    let dir = fleet.coordinator().state().join("keys");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap().trim().to_owned();
    let operator = nkeys::KeyPair::from_seed(&read("operator-signing.nk")).unwrap();
    let dev = nkeys::KeyPair::from_seed(&read("dev.nk")).unwrap().public_key();
    let kept = std::fs::read_to_string(fleet.coordinator().resolver().join(format!("{dev}.jwt"))).unwrap();
    let mut claims = bramble_fleet_tests::jwt::claims(&kept);
    let nats = claims["nats"].as_object_mut().unwrap();
    assert!(nats.remove("revocations").is_some(), "the account carries the quarantine");
    claims.as_object_mut().unwrap().remove("jti");
    bramble_fleet_tests::jwt::sign(&operator, claims)
}
