//! Devices whose clock is wrong: they start alone, they work with the fleet, they say so, and they recover by themselves.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::sync::Arc;

use bramble_contracts::v1::Health;
use bramble_contracts::v2::ClockReport;
use bramble_contracts::v2::ClockVerdict::{self, Disputed, Fit, Skewed};
use bramble_fleet_tests::case::Case;
use bramble_fleet_tests::faketime::FakeClock;
use bramble_fleet_tests::net::NetNs;
use bramble_fleet_tests::ntp::{Chrony, Liar};
use bramble_fleet_tests::{Device, Fleet, FleetSetup, manifest, soon};

const TEN_YEARS: i64 = 10 * 365 * 86_400;

/// An app whose init container has to have run before it.
fn app(name: &str, port: u16) -> serde_json::Value {
    manifest::with_init(manifest::hello(name, port, 1), &[manifest::program("first", &["touch", "/tmp/x"])])
}

fn clock_is(fleet: &Fleet, verdict: ClockVerdict) -> ClockReport {
    soon(&format!("the clock to be {verdict:?}"), || {
        let clock = fleet.device_view("pi-1")?.clock;
        if clock.verdict == verdict { Ok(clock) } else { Err(format!("{clock:?}")) }
    })
}

/// Inits, then mains, as Podman has them: name, start, end.
fn history(pi: &Device) -> Vec<(String, String, String)> {
    let ids = pi.all_containers();
    let mut all: Vec<_> = ids
        .iter()
        .filter_map(|id| pi.inspect(id).ok())
        .filter(|c| c["IsInfra"] != true)
        .map(|c| {
            let state = |field: &str| c["State"][field].as_str().unwrap_or_default().to_owned();
            (c["Name"].as_str().unwrap_or_default().to_owned(), state("StartedAt"), state("FinishedAt"))
        })
        .collect();
    all.sort_by(|a, b| a.1.cmp(&b.1));
    all
}

#[test]
fn alone_after_a_cold_boot_every_app_runs_in_1970_and_in_ten_years() {
    let fleet = Fleet::start("clock-cold");
    let clock = FakeClock::off_by(fleet.case().dir(), 0);
    let mut setup = fleet.device_setup("pi-1");
    setup.clock = Some(clock.clone());
    let pi = Device::new(fleet.case(), setup);
    pi.start_agent();
    fleet.online_agent(&pi);
    let ports = [fleet.port(), fleet.port()];
    for (name, port) in ["one", "two"].into_iter().zip(ports) {
        fleet.apply(&app(name, port));
        fleet.settled(name, &pi);
    }
    assert_eq!(clock_is(&fleet, Fit).sources, "the coordinator");
    fleet.coordinator().kill_both();
    for (off, says) in [(None, "skewed, -"), (Some(TEN_YEARS), "unknown")] {
        pi.kill_agent();
        // Nothing of the last boot is left, not even a container's record.
        pi.podman().args(["rm", "--all", "--force", "--time", "0"]).check().unwrap();
        match off {
            None => clock.set_1970(),
            Some(secs) => clock.set_off_by(secs),
        }
        pi.start_agent();
        for port in ports {
            fleet.answers(port, "version 1");
        }
        let history = history(&pi);
        for name in ["one", "two"] {
            let find = |role: &str| history.iter().find(|c| c.0.contains(name) && c.0.contains(role)).unwrap().clone();
            let (init, main) = (find("first"), find("web"));
            assert!(init.2 <= main.1, "the init container ended before the app began: {history:?}");
        }
        soon("its status", || {
            let status = pi.says("status");
            let line = status.lines().find(|line| line.starts_with("clock")).unwrap_or_default().to_owned();
            if line.contains(says) { Ok(()) } else { Err(status) }
        });
    }
    let check = pi.says("check");
    assert!(check.contains("nobody has told this device the time yet"), "{check}");
    clock.set_1970();
    pi.kill_agent();
    let check = pi.says("check");
    let line = check.lines().find(|line| line.contains(" clock ")).unwrap_or_default();
    assert!(line.starts_with("look") && line.contains("enable systemd-timesyncd or chrony"), "{check}");
}

#[test]
fn under_a_wrong_clock_everything_works_over_tls_it_is_told_and_it_recovers_by_itself() {
    let case = Case::new("clock");
    let net = Arc::new(NetNs::new(&case));
    // Not on loopback: so certificates have dates to be judged.
    let serve = vec!["--device-jwt-ttl".to_owned(), "20s".to_owned()];
    let fleet = Fleet::start_in(case, &FleetSetup { listen: net.host(), serve });
    let clock = FakeClock::off_by(fleet.case().dir(), 0);
    clock.set_1970();
    let mut setup = fleet.device_setup("pi-1");
    (setup.net, setup.clock) = (Some(Arc::clone(&net)), Some(clock.clone()));
    let pi = Device::new(fleet.case(), setup);
    pi.start_agent();
    fleet.online_agent(&pi);
    let said = soon("the coordinator's word", || {
        let clock = fleet.device_view("pi-1")?.clock;
        if clock.sources == "the coordinator" { Ok(clock) } else { Err(format!("{clock:?}")) }
    });
    assert_eq!(said.verdict, Skewed);
    assert!(said.skew_ms.unwrap() < -50 * 365 * 86_400_000, "{said:?}");
    assert!(said.detail.starts_with("clock skew -"), "{said:?}");
    assert!(said.detail.ends_with("enable systemd-timesyncd or chrony"), "{said:?}");
    let bramble = |args: &[&str]| fleet.bramble().run(args).out;
    let listed = soon("the list to say so", || {
        let listed = bramble(&["get", "devices", "-o", "wide"]);
        if listed.contains("degraded (clock)") { Ok(listed) } else { Err(listed) }
    });
    assert!(listed.contains("skewed -"), "{listed}");
    assert!(bramble(&["explain", "device", "pi-1"]).contains("its clock is not to be trusted"));
    assert!(bramble(&["doctor"]).contains("1 with a wrong clock"));
    let described = bramble(&["describe", "device", "pi-1"]);
    assert!(described.contains("- clock skew -") && described.contains("by the coordinator"), "{described}");

    // New deployments, commands and the mesh's own JWT need no clock.
    let before = pi.identity()["jwt"].clone();
    fleet.apply(&app("web", fleet.port()));
    let running = fleet.settled("web", &pi);
    let out = bramble(&["exec", "pi-1", "web", "--", "/hello", "env", "PATH"]);
    assert!(out.contains('/'), "{out}");
    soon("a renewed JWT", || if pi.identity()["jwt"] == before { Err("the old one".into()) } else { Ok(()) });

    clock.set_off_by(TEN_YEARS);
    soon("the other way round", || {
        let skew = fleet.device_view("pi-1")?.clock.skew_ms;
        if skew.is_some_and(|ms| ms > TEN_YEARS * 999) { Ok(()) } else { Err(format!("{skew:?}")) }
    });
    clock.set_off_by(0);
    clock_is(&fleet, Fit);
    soon("health and alarms to follow", || {
        let view = fleet.device_view("pi-1")?;
        let alarms = view.report.map(|report| report.alarms).unwrap_or_default();
        if view.health == Health::Healthy && alarms.is_empty() {
            Ok(())
        } else {
            Err(format!("{:?} {alarms:?}", view.health))
        }
    });
    assert_eq!(fleet.settled("web", &pi), running, "the app never noticed");
    soon("a connection with dates checked", || {
        let log = pi.agent().log();
        let again = log.contains("a new connection to the broker takes over") && log.contains("dates are checked");
        if again { Ok(()) } else { Err(pi.agent().last_words()) }
    });
}

#[test]
fn ntp_and_the_coordinator_are_compared_and_either_alone_suffices() {
    let fleet = Fleet::start("clock-ntp");
    let (chrony, liars) = (Chrony::start(fleet.case()), [Liar::off_by(0), Liar::off_by(0)]);
    let mut setup = fleet.device_setup("pi-1");
    setup.ntp = vec![chrony.address(), liars[0].address(), liars[1].address()];
    let pi = Device::new(fleet.case(), setup);
    pi.start_agent();
    fleet.online_agent(&pi);
    let both = "the coordinator, 3 of 3 NTP servers";
    soon("everybody's word", || {
        let clock = fleet.device_view("pi-1")?.clock;
        if clock.verdict == Fit && clock.sources == both {
            Ok(())
        } else {
            Err(format!("{clock:?}, {}", chrony.proc().last_words()))
        }
    });
    // Most of the time servers are an hour off: the coordinator cannot be right as well.
    liars.iter().for_each(|liar| liar.set_off_by(3600));
    pi.kill_agent();
    pi.start_agent();
    let clock = clock_is(&fleet, Disputed);
    assert!(clock.detail.contains("s from what NTP says"), "{clock:?}");
    assert_eq!(fleet.device_view("pi-1").unwrap().health, Health::Degraded);
    liars.iter().for_each(|liar| liar.set_off_by(0));
    clock_is(&fleet, Fit);
    fleet.coordinator().kill_both();
    pi.kill_agent();
    pi.start_agent();
    soon("NTP alone to suffice", || {
        let status = pi.says("status");
        if status.contains("by 3 of 3 NTP servers") { Ok(()) } else { Err(status) }
    });
}
