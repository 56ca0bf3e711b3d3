//! The agent for aarch64, the very file that is sent to devices, as a member of a fleet: by emulation where this machine is
//! no aarch64 itself. Shows that its cryptography, TLS, and its way to Podman work; kernel and hardware of a Pi are the
//! virtual Pi's matter.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::sync::Arc;
use std::time::Duration;

use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::clock::wait_until;
use bramble_fleet_tests::net::NetNs;
use bramble_fleet_tests::{Device, Fleet, FleetSetup, manifest};

/// Emulated and on two busy cores.
const LONG: Duration = Duration::from_secs(120);

/// The device's next agents are the one for aarch64.
fn runs_aarch64(device: &Device) {
    let programs = xtask::cross::programs().unwrap_or_else(|err| panic!("{err:#}"));
    let mut line = device.agent().line();
    let at = line.words.iter().position(|word| word == "run").unwrap() - 1;
    line.words[at] = programs.agent.display().to_string();
    if let Some(emulator) = xtask::cross::EMULATOR {
        line.words.insert(at, emulator.into());
    }
    device.agent().set_line(line);
}

#[test]
fn it_enrols_over_tls_runs_an_app_and_replaces_it() {
    let case = Case::new("aarch64");
    let net = Arc::new(NetNs::new(&case));
    // Not on loopback: so coordinator and broker speak TLS, by the fleet's own CA.
    let fleet = Fleet::start_in(case, &FleetSetup { listen: net.host(), ..FleetSetup::default() });
    assert!(fleet.coordinator().url().starts_with("https://"));
    let mut setup = fleet.device_setup("pi-1");
    setup.net = Some(Arc::clone(&net));
    let pi = Device::new(fleet.case(), setup);
    runs_aarch64(&pi);
    pi.start_agent();
    fleet.online_agent(&pi);
    wait_until("its report", LONG, || {
        let report = fleet.device_view("pi-1")?.report.ok_or("none yet")?;
        if report.facts.arch == "aarch64" { Ok(()) } else { Err(format!("it calls itself {}", report.facts.arch)) }
    });

    let port = fleet.port();
    for version in [1, 2] {
        fleet.apply(&manifest::hello("web", port, version));
        fleet.settled("web", &pi);
        wait_until("the app to answer", LONG, || {
            let answer = xtask::http::get((net.inside(), port).into(), "/").map_err(|err| err.to_string())?;
            let body = answer.body;
            if body.contains(&format!("version {version}")) { Ok(()) } else { Err(body) }
        });
    }
}
