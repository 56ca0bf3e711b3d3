//! A device in a network of its own, over TLS, and that network cut: both sides change, and one reconcile after it heals
//! brings everything together, without a restart of what did not change.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::sync::Arc;
use std::time::Duration;

use bramble_contracts::api::Connection;
use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::clock::{Watch, full, pause, wait_until};
use bramble_fleet_tests::net::NetNs;
use bramble_fleet_tests::{Device, Fleet, FleetSetup, manifest, soon, with_other_pin};

/// The app's answer, from this machine over the cable.
fn answer(net: &NetNs, port: u16) -> Result<String, String> {
    let answer = xtask::http::get((net.inside(), port).into(), "/").map_err(|err| err.to_string())?;
    Ok(answer.body)
}

/// The app's answer, from inside: also when the cable is cut.
fn inside_says(net: &NetNs, port: u16, word: &str) {
    soon(&format!("{word:?} inside"), || {
        let url = format!("http://{}:{port}/", net.inside());
        let said = net.cmd(&["curl", "-s", "--max-time", "2", &url]).output().map_err(|e| e.to_string())?;
        if said.stdout.contains(word) { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

fn accepted(pi: &Device) -> usize {
    pi.agent().log().matches("desired document accepted").count()
}

#[test]
fn over_tls_and_through_a_cut_network_both_sides_come_together_in_one_reconcile() {
    let case = Case::new("partition");
    let net = Arc::new(NetNs::new(&case));
    // Not on loopback: so coordinator and broker speak TLS, by the fleet's own CA.
    let fleet = Fleet::start_in(case, &FleetSetup { listen: net.host(), ..FleetSetup::default() });
    assert!(fleet.coordinator().url().starts_with("https://"));
    let mut setup = fleet.device_setup("pi-1");
    setup.net = Some(Arc::clone(&net));
    let token = setup.token.clone().unwrap();
    setup.token = Some(with_other_pin(&token));
    let mut pi = Device::new(fleet.case(), setup);
    pi.start_agent();
    soon("the agent to refuse a server with another CA", || {
        let refuses = pi.agent().log().contains("digest");
        if refuses { Ok(()) } else { Err(pi.agent().last_words()) }
    });
    assert_eq!(fleet.bramble().json(&["get", "devices"]).to_string().matches("pi-1").count(), 0);
    pi.kill_agent();
    pi.reconfigure(|setup| setup.token = Some(token));
    pi.start_agent();
    fleet.online_agent(&pi);

    let (changed, kept, crashed) = (fleet.port(), fleet.port(), fleet.port());
    fleet.apply(&manifest::hello("changed", changed, 1));
    fleet.apply(&manifest::hello("kept", kept, 1));
    fleet.apply(&manifest::hello("crashed", crashed, 1));
    fleet.settled("changed", &pi);
    let (kept_before, crashed_before) = (fleet.settled("kept", &pi), fleet.settled("crashed", &pi));
    wait_until("an answer over the cable", Duration::from_secs(20), || answer(&net, kept).map(drop));
    let (documents, generation) = (accepted(&pi), fleet.device_view("pi-1").unwrap().reported_generation);

    net.cut();
    let watch = Watch::start();
    soon("the device to be seen as offline", || fleet.is("pi-1", Connection::Offline));
    // This side changes its mind more than once,
    fleet.apply(&manifest::hello("changed", changed, 2));
    fleet.apply(&manifest::hello("new", fleet.port(), 1));
    fleet.delete("new");
    let added = fleet.port();
    fleet.apply(&manifest::hello("added", added, 1));
    // and the other side has a life too: an app crashes and is brought back by the device alone, agent and all.
    pi.podman().args(["kill", crashed_before.id("web")]).check().unwrap();
    inside_says(&net, crashed, "version 1");
    pi.kill_agent();
    pi.start_agent();
    let long = Duration::from_secs(if full() { 240 } else { 25 });
    pause(long.saturating_sub(watch.elapsed()));
    inside_says(&net, kept, "version 1");
    inside_says(&net, changed, "version 1");
    let explained = fleet.bramble().run(&["explain", "device", "pi-1"]).out;
    assert!(explained.to_lowercase().contains("offline") || explained.contains("not connected"), "{explained}");

    net.heal();
    let healed = Watch::start();
    fleet.online("pi-1");
    println!("online {} ms after the network healed", healed.elapsed().as_millis());
    fleet.settled("changed", &pi);
    fleet.settled("added", &pi);
    inside_says(&net, changed, "version 2");
    inside_says(&net, added, "version 1");
    assert_eq!(fleet.settled("kept", &pi), kept_before, "what did not change was not restarted");
    assert_eq!(fleet.settled("crashed", &pi).id("web"), crashed_before.id("web"));
    assert_eq!(accepted(&pi), documents + 1, "one document, whatever happened meanwhile");
    assert!(fleet.device_view("pi-1").unwrap().reported_generation > generation);
}
