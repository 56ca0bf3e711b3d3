//! Agents of other versions with this coordinator: one of an earlier commit, which knows version 1 of everything and cannot
//! replace itself, and back to it from a newer one. In full runs only: the older agent has to be built.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use bramble_contracts::v1::Status;
use bramble_fleet_tests::clock::full;
use bramble_fleet_tests::programs::{place, programs};
use bramble_fleet_tests::{Device, Fleet, manifest, soon};
use std::path::Path;

/// The older agent does not know these settings (and asks nobody for the time).
fn for_older(device: &Device) {
    let file = device.state_dir().with_file_name("agent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.split("\n[disk]").next().unwrap()).unwrap();
}

/// The device's next agents are this program.
fn runs(device: &Device, program: &Path) {
    let mut line = device.agent().line();
    let at = line.words.iter().position(|word| word == "run").unwrap();
    line.words[at - 1] = program.display().to_string();
    device.agent().set_line(line);
}

#[test]
fn an_older_agent_works_with_this_coordinator_and_comes_back_after_a_newer_one() {
    if !full() {
        println!("only in full runs (`cargo xtask test --full`): the older agent has to be built");
        return;
    }
    let older = xtask::prepare::older_agent().unwrap_or_else(|err| panic!("{err:#}"));
    programs();
    let fleet = Fleet::start("mixed");
    let mut pi = Device::new(fleet.case(), fleet.device_setup("pi-1"));
    for_older(&pi);
    runs(&pi, &older);
    pi.start_agent();
    fleet.online_agent(&pi);
    let port = fleet.port();
    let app = |version| manifest::deployment("web", &[manifest::server("web", port, version)]);
    fleet.apply(&app(1));
    fleet.settled("web", &pi);
    fleet.answers(port, "version 1");
    fleet.apply(&app(2));
    let running = fleet.settled("web", &pi);
    fleet.answers(port, "version 2");
    // What it cannot do is refused by name.
    let why = fleet.bramble().run(&["agent", "upgrade", "--to", "9.9.9"]);
    assert_ne!(why.code, 0, "{}{}", why.out, why.err);

    // A newer one in its place: nothing is touched, everything is written anew by it.
    pi.stop_agent();
    pi.reconfigure(|setup| setup.token = None);
    runs(&pi, &place("bramble-agent"));
    pi.start_agent();
    soon("the newer agent to report", || {
        let report = fleet.device_view("pi-1")?.report.ok_or("no report")?;
        let reads = report.newest_document;
        if reads >= 2 { Ok(()) } else { Err(format!("it reads documents up to {reads}")) }
    });
    assert_eq!(fleet.settled("web", &pi), running, "the app was touched");
    let other = fleet.port();
    fleet.apply(&manifest::deployment("more", &[manifest::server("more", other, 1)]));
    fleet.settled("more", &pi);

    // And back, alone, after a power cut: it reads what the newer one wrote.
    fleet.coordinator().kill_both();
    pi.kill_agent();
    for_older(&pi);
    runs(&pi, &older);
    pi.power_cut();
    fleet.answers(port, "version 2");
    fleet.answers(other, "version 1");
    fleet.coordinator().start();
    fleet.online_agent(&pi);
    for name in ["web", "more"] {
        let target = fleet.target_until("well again", name, "pi-1", |target| target.status == Some(Status::Confirmed));
        assert!(target.reason.is_empty(), "{target:?}");
    }
    assert!(fleet.device_view("pi-1").unwrap().report.unwrap().alarms.is_empty(), "nothing it could not read");
}
