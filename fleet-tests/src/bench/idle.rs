//! An agent with one app and nothing to do, with the settings it ships with: its memory, its time on a core, the bytes
//! of its heartbeats as the broker sees them; and what Podman's service takes beside it.

use std::time::Duration;

use bramble_contracts::subjects::Bucket;

use super::Reps;
use super::proc_stat::{Used, pss};
use super::table::{Goal, Row, Samples, Unit};
use crate::clock::pause;
use crate::keys::{In, Stolen};
use crate::{Device, Fleet, Watch, manifest, wait_until};

const LONG: Duration = Duration::from_secs(60);

pub(super) fn idle(_: Reps) -> Vec<Row> {
    let fleet = Fleet::start("bench-idle");
    let inside = Stolen::from(fleet.coordinator()).connect(In::Fleet);
    let beats = inside.record(&[&Bucket::Liveness.subject("*.*")]);
    let mut setup = fleet.device_setup("pi-1");
    setup.settings = String::new();
    let pi = Device::new(fleet.case(), setup);
    pi.start_agent();
    fleet.online_agent(&pi);
    fleet.apply(&manifest::hello("web", fleet.port(), 1));
    fleet.settled("web", &pi);
    let agent = pi.agent().pid().expect("the agent runs");
    let podman = *pi.agent().children("podman").first().expect("the agent has started Podman's service");
    // What a start takes is not what idling takes.
    pause(Duration::from_secs(10));
    let watch = Watch::start();
    let before = (Used::now(agent), Used::now(podman));
    let mut memory = (vec![], vec![]);
    while watch.elapsed() < LONG {
        memory.0.push(pss(agent));
        memory.1.push(pss(podman));
        pause(Duration::from_secs(10).min(LONG.saturating_sub(watch.elapsed()) + Duration::from_millis(1)));
    }
    let time = watch.elapsed();
    let (cpu, wakeups) = Used::now(agent).since(before.0, time);
    let (podman_cpu, _) = Used::now(podman).since(before.1, time);
    let sizes = wait_until("heartbeats", LONG, || {
        let heard = beats.heard();
        let sizes: Vec<f64> = heard.iter().map(|m| f64::from(u32::try_from(m.payload.len()).unwrap_or(0))).collect();
        if sizes.len() >= 5 { Ok(sizes) } else { Err(format!("{} so far", sizes.len())) }
    });
    vec![
        Row::new("memory of an idle agent (PSS)", Samples::new(Unit::MiB, memory.0))
            .beside("its `podman system service`", Samples::new(Unit::MiB, memory.1))
            .goal(Goal::Every(8.0)),
        Row::new("CPU of an idle agent over 60 s, of one core", Samples::one(Unit::Percent, cpu))
            .beside("its `podman system service`", Samples::one(Unit::Percent, podman_cpu))
            .goal(Goal::Every(0.1)),
        Row::new("wake-ups of an idle agent in a minute", Samples::one(Unit::Count, wakeups)),
        Row::new("payload of a heartbeat on the wire", Samples::new(Unit::Bytes, sizes)).goal(Goal::Every(40.0)),
    ]
}
