//! Logs: how long a line travels from the container to the operator's terminal, beside `podman logs -f` on the device
//! itself; and what 20 followers of a container that floods its log cost the agent.

use std::time::Duration;

use xtask::run::Cmd;

use super::Reps;
use super::proc_stat::{Used, pss};
use super::table::{Goal, Row, Samples, Unit};
use crate::clock::{pause, unix_nanos};
use crate::process::Printing;
use crate::{Fleet, Watch, manifest};

const LINES: usize = 400;
const FOLLOWERS: usize = 20;
const FLOOD_TIME: Duration = Duration::from_secs(10);

/// Travel times of lines that say when they were written.
fn travel(cmd: &Cmd) -> Vec<Duration> {
    let mut printing = Printing::start(cmd);
    let mut times = vec![];
    // The first ones are of the start.
    for n in 0..LINES + 20 {
        let line = printing.line().unwrap_or_else(|| panic!("{} has ended", cmd.line()));
        let now = unix_nanos();
        let written: u128 = line.rsplit(' ').next().and_then(|at| at.parse().ok()).expect("a line of `chatter`");
        if n >= 20 {
            times.push(Duration::from_nanos(u64::try_from(now.saturating_sub(written)).unwrap_or(u64::MAX)));
        }
    }
    times
}

fn p99(times: &[Duration]) -> Samples {
    let mut sorted = times.to_vec();
    sorted.sort();
    Samples::times([sorted[sorted.len() * 99 / 100]])
}

/// From the container's write to the terminal.
pub(super) fn latency(_: Reps) -> Vec<Row> {
    let fleet = Fleet::start("bench-logs");
    let pi = fleet.device("pi-1");
    fleet.apply(&manifest::deployment("talk", &[manifest::program("talk", &["chatter", "10"])]));
    let running = fleet.settled("talk", &pi);
    let ours = travel(&fleet.bramble().cmd().clone().args(["logs", "talk", "-f", "--tail", "0"]));
    let podman = travel(&pi.podman().args(["logs", "-f", "--tail", "0", running.id("talk")]));
    vec![
        Row::new("a log line, container → operator's terminal", Samples::times(ours.clone()))
            .beside("`podman logs -f` on the device", Samples::times(podman.clone())),
        Row::new("the same, 99th percentile", p99(&ours)).beside("`podman logs -f` on the device", p99(&podman)),
    ]
}

/// Many followers of a flood.
pub(super) fn flood(_: Reps) -> Vec<Row> {
    let fleet = Fleet::start("bench-flood");
    let pi = fleet.device("pi-1");
    fleet.apply(&manifest::deployment("flood", &[manifest::program("flood", &["flood"])]));
    fleet.settled("flood", &pi);
    let agent = pi.agent().pid().expect("the agent runs");
    pause(Duration::from_secs(3));
    let alone = (pss(agent), Used::now(agent));
    pause(Duration::from_secs(3));
    let (alone_cpu, _) = Used::now(agent).since(alone.1, Duration::from_secs(3));
    let cmd = fleet.bramble().cmd().clone().args(["logs", "flood", "-f", "--tail", "1"]);
    let followers: Vec<_> = (0..FOLLOWERS)
        .map(|_| {
            let mut printing = Printing::start(&cmd);
            let watch = Watch::start();
            std::thread::spawn(move || {
                let mut lines = 0u32;
                while watch.elapsed() < FLOOD_TIME && printing.line().is_some() {
                    lines += 1;
                }
                f64::from(lines) / watch.elapsed().as_secs_f64()
            })
        })
        .collect();
    let (watch, before) = (Watch::start(), Used::now(agent));
    let mut memory = vec![];
    while watch.elapsed() < FLOOD_TIME {
        memory.push(pss(agent));
        pause(Duration::from_millis(500));
    }
    let (cpu, _) = Used::now(agent).since(before, watch.elapsed());
    let rates = followers.into_iter().map(|f| f.join().expect("a follower ends")).collect();
    vec![
        Row::new("memory of the agent while 20 followers read a flood (PSS)", Samples::new(Unit::MiB, memory))
            .beside("the same agent before they came", Samples::one(Unit::MiB, alone.0))
            .goal(Goal::Every(16.0)),
        Row::new("CPU of the agent meanwhile, of one core", Samples::one(Unit::Percent, cpu))
            .beside("with the flood and no follower", Samples::one(Unit::Percent, alone_cpu)),
        Row::new("lines a second that each of them gets", Samples::new(Unit::Count, rates)),
    ]
}
