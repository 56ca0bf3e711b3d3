//! The agent's own upgrade, with everything real: releases that are signed, published and rolled out, two agents and one
//! lease, a broker, and an app that has to answer all the while.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bramble_contracts::v1::Status;
use bramble_contracts::v2::UpgradeReport;
use bramble_fleet_tests::clock::{full, pause, wait_until};
use bramble_fleet_tests::process::kill_pid;
use bramble_fleet_tests::release::{Fault, Publisher};
use bramble_fleet_tests::sample;
use bramble_fleet_tests::{Device, Fleet, Running, Starter, Watch, manifest, soon};

const PATIENCE: Duration = Duration::from_secs(240);

/// A device that upgrades itself, with times a test can wait for.
fn device(fleet: &Fleet, name: &str) -> Device {
    let mut setup = fleet.device_setup(name);
    setup.starter = Starter::Supervisor;
    setup.settings += "[upgrade]\nstart_secs = 8\ntrial_secs = 20\nretry_secs = 2\n";
    let device = Device::new(fleet.case(), setup);
    device.start_agent();
    fleet.online_agent(&device);
    device
}

/// Asks an app again and again, and counts the answers that did not come.
struct Visitor {
    over: Arc<AtomicBool>,
    thread: JoinHandle<(u32, Vec<String>)>,
}

impl Visitor {
    fn start(port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let (mut count, mut failed) = (0, vec![]);
            while !told.load(Ordering::Relaxed) {
                match xtask::http::get(([127, 0, 0, 1], port).into(), "/") {
                    Ok(answer) if answer.status == 200 => {}
                    Ok(answer) => failed.push(format!("request {count}: {}", answer.status)),
                    Err(err) => failed.push(format!("request {count}: {err}")),
                }
                count += 1;
                pause(Duration::from_millis(10));
            }
            (count, failed)
        });
        Self { over, thread }
    }

    fn leave(self) {
        self.over.store(true, Ordering::Relaxed);
        let (count, failed) = self.thread.join().unwrap();
        println!("the app answered {count} requests, {} failed", failed.len());
        assert!(failed.is_empty() && count > 20, "{failed:?}");
    }
}

/// An app on the device, and what runs of it.
fn app(fleet: &Fleet, pi: &Device) -> (Running, Visitor) {
    let port = fleet.port();
    fleet.apply(&manifest::deployment("web", &[manifest::server("web", port, 1)]));
    let running = fleet.settled("web", pi);
    fleet.answers(port, "version 1");
    (running, Visitor::start(port))
}

fn upgrade(fleet: &Fleet, to: &str) {
    fleet.bramble().ok(&[
        "agent",
        "upgrade",
        "--to",
        to,
        "--batches",
        "100%",
        "--healthy-for",
        "1s",
        "--progress-deadline",
        "3m",
    ]);
}

/// The device's last word on the upgrade to a version: what acts now, and how it ended.
fn end(fleet: &Fleet, pi: &Device, to: &str) -> Result<(String, UpgradeReport), String> {
    let view = fleet.device_view(pi.name())?;
    let report = view.report.ok_or("no report")?;
    let upgrade = report.program.upgrade.clone().ok_or_else(|| format!("no upgrade; {}", pi.agent().last_words()))?;
    // What was in doubt, or nobody's fault, is tried again by itself.
    let over = upgrade.status == Status::Confirmed || upgrade.blamed;
    if upgrade.version.to_string() != to || !over {
        return Err(format!("{:?} by {}", upgrade, report.agent));
    }
    Ok((report.agent.to_string(), upgrade))
}

#[track_caller]
fn ends(fleet: &Fleet, pi: &Device, to: &str) -> (String, UpgradeReport) {
    wait_until(&format!("the upgrade to {to} to end"), PATIENCE, || end(fleet, pi, to))
}

/// One agent runs, acts, and is this version.
#[track_caller]
fn alone(pi: &Device, version: &str) {
    wait_until(&format!("{version} to be the only agent"), PATIENCE, || {
        let all = pi.statuses();
        let brief: Vec<_> = all.iter().map(|one| (one.version.clone(), one.instance, one.acts)).collect();
        match &all[..] {
            [one] if one.acts && one.version == version => Ok(()),
            _ => Err(format!("{brief:?}; {}", pi.agent().last_words())),
        }
    });
}

#[test]
fn a_release_replaces_the_agent_and_the_next_one_replaces_that() {
    let fleet = Fleet::start("agent-upgrade");
    let pi = device(&fleet, "pi-1");
    let (running, visitor) = app(&fleet, &pi);
    let publisher = Publisher::new(&fleet);
    for version in ["0.1.1", "0.1.2"] {
        publisher.publish(&fleet, version, &publisher.agent(version));
        let watch = Watch::start();
        upgrade(&fleet, version);
        let (acts, upgrade) = ends(&fleet, &pi, version);
        println!(
            "{version}: {:?} after {:.1} s as typed, {} bytes, unmanaged for {:?} ms",
            upgrade.status,
            watch.elapsed().as_secs_f64(),
            upgrade.bytes_all,
            upgrade.unmanaged_ms
        );
        assert_eq!((acts.as_str(), upgrade.status), (version, Status::Confirmed), "{upgrade:?}");
        assert!(upgrade.unmanaged_ms.is_some() && upgrade.bytes_got == upgrade.bytes_all && upgrade.bytes_all > 0);
        alone(&pi, version);
        assert_eq!(fleet.settled("web", &pi), running, "the app was touched");
    }
    let seen = fleet.bramble().ok(&["describe", "device", "pi-1"]);
    assert!(seen.contains("0.1.2"), "{seen}");
    // What is there now comes back by itself after everything on the device was killed.
    let agents: Vec<_> = pi.statuses().iter().map(|one| one.pid).collect();
    pi.kill_agent();
    soon("the agents to end with their supervisor", || {
        let left: Vec<_> = pi.statuses().iter().map(|one| one.pid).filter(|pid| agents.contains(pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    pi.start_agent();
    alone(&pi, "0.1.2");
    fleet.online_agent(&pi);
    assert_eq!(fleet.settled("web", &pi), running, "the app was touched");
    visitor.leave();
}

#[test]
fn a_bad_release_leaves_the_old_agent_and_is_refused_until_it_is_retried() {
    let fleet = Fleet::start("agent-bad");
    let pi = device(&fleet, "pi-1");
    let (running, visitor) = app(&fleet, &pi);
    let publisher = Publisher::new(&fleet);
    // Nobody is blamed for an agent that finds no broker before the old one has been connected for two minutes.
    let taken = Fault::ALL.into_iter().filter(|fault| match fault {
        Fault::Hang => sample::takes("release-hangs"),
        Fault::Deaf => sample::takes("release-is-deaf"),
        Fault::SelfTest | Fault::Crash | Fault::Rubbish => true,
    });
    for (n, fault) in taken.enumerate() {
        let version = format!("0.2.{n}");
        publisher.publish(&fleet, &version, &publisher.bad_agent(&version, fault));
        upgrade(&fleet, &version);
        let (acts, upgrade) = ends(&fleet, &pi, &version);
        println!("{fault:?}: {:?} ({})", upgrade.status, upgrade.reason);
        assert!(matches!(upgrade.status, Status::RolledBack | Status::Failed), "{fault:?}: {upgrade:?}");
        assert!(acts == "0.1.0" && upgrade.blamed && !upgrade.reason.is_empty(), "{fault:?}: {acts} {upgrade:?}");
        alone(&pi, "0.1.0");
        assert_eq!(fleet.settled("web", &pi), running, "the app was touched");
    }
    publisher.publish(&fleet, "0.3.0", &publisher.agent("0.3.0"));
    upgrade(&fleet, "0.3.0");
    let (acts, good) = ends(&fleet, &pi, "0.3.0");
    assert_eq!((acts.as_str(), good.status), ("0.3.0", Status::Confirmed), "{good:?}");
    alone(&pi, "0.3.0");
    visitor.leave();
}

/// Who is hit in the middle of an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Acting,
    Waiting,
    Supervisor,
    Coordinator,
    Broker,
}

impl Victim {
    const ALL: [Self; 5] = [Self::Acting, Self::Waiting, Self::Supervisor, Self::Coordinator, Self::Broker];
}

fn hit(fleet: &Fleet, pi: &Device, victim: Victim) {
    let agents = |acts: bool| pi.statuses().into_iter().filter(move |one| one.acts == acts).map(|one| one.pid);
    match victim {
        Victim::Acting => agents(true).for_each(|pid| kill_pid(i32::try_from(pid).unwrap())),
        Victim::Waiting => agents(false).for_each(|pid| kill_pid(i32::try_from(pid).unwrap())),
        Victim::Supervisor => {
            pi.kill_agent();
            pi.start_agent();
        }
        Victim::Coordinator => {
            fleet.coordinator().proc().kill();
            fleet.coordinator().start();
        }
        Victim::Broker => fleet.coordinator().kill_broker(),
    }
}

#[test]
fn whoever_is_killed_in_the_middle_of_an_upgrade_it_ends_in_one_of_both_versions() {
    let fleet = Fleet::start("agent-blows");
    let pi = device(&fleet, "pi-1");
    let (running, visitor) = app(&fleet, &pi);
    let publisher = Publisher::new(&fleet);
    let mut dice = fleet.case().dice();
    let mut have = "0.1.0".to_owned();
    let mut victims: Vec<Victim> = (0..if full() { 20 } else { 1 }).flat_map(|_| Victim::ALL).collect();
    dice.shuffle(&mut victims);
    for (round, victim) in (1..).zip(victims) {
        let version = format!("{}.{}.{}", 1 + round / 100, round / 10 % 10, round % 10);
        publisher.publish(&fleet, &version, &publisher.agent(&version));
        upgrade(&fleet, &version);
        dice.moment(Duration::from_secs(6));
        hit(&fleet, &pi, victim);
        let (acts, upgrade) = ends(&fleet, &pi, &version);
        println!(
            "round {round}: {victim:?} was hit; {version} is {:?} ({}), {acts} acts",
            upgrade.status, upgrade.reason
        );
        match upgrade.status {
            Status::Confirmed => have = version,
            Status::RolledBack | Status::Failed | Status::Staged | Status::Trial => {}
        }
        alone(&pi, &have);
        assert_eq!(fleet.settled("web", &pi), running, "the app was touched");
        // The blow may have come after the end of the upgrade: nothing is published while the broker is away.
        let coordinator = fleet.coordinator();
        soon("the broker to be back", || coordinator.broker_pid().ok_or_else(|| coordinator.proc().last_words()));
        coordinator.ready();
    }
    visitor.leave();
}
