//! Logs through the whole fleet: many followers of a flood, and one follower through everything that can die.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::time::Duration;

use bramble_fleet_tests::clock::{full, pause, wait_until};
use bramble_fleet_tests::process::{Line, Proc, pss};
use bramble_fleet_tests::{Device, Fleet, manifest, sample, soon};
use serde_json::Value;

/// What a busy machine needs to get somewhere.
const LONG: Duration = Duration::from_secs(120);

/// `bramble logs …` as a process; what it prints and notes is in its log.
fn follower(fleet: &Fleet, name: &str, args: &[&str]) -> Proc {
    let (coordinator, case) = (fleet.coordinator(), fleet.case());
    let line = Line::new(&bramble_fleet_tests::programs::programs().bramble).args(["logs"]).args(args);
    let line = line.env("BRAMBLE_API", &coordinator.url()).env("BRAMBLE_TOKEN", &coordinator.admin_token());
    let line =
        if coordinator.uses_tls() { line.env("BRAMBLE_CA", &coordinator.ca().display().to_string()) } else { line };
    let proc = Proc::new(name, &case.logs(), line.env("HOME", &case.subdir("home").display().to_string()));
    proc.start();
    proc
}

/// What a follower has got.
#[derive(Debug, Default)]
struct Got {
    lines: u64,
    missed: u64,
    uncounted: u64,
    /// How often the numbers began anew.
    runs: u64,
    last: u64,
}

/// Checks that numbered lines go on without a gap that was not told, and without a line twice.
fn check(log: &str, word: &str) -> Result<Got, String> {
    let mut got = Got::default();
    let (mut due, mut any) = (None, false);
    for line in log.lines() {
        let numbered =
            line.strip_prefix(word).and_then(|rest| rest.trim_start().split(' ').next()?.parse::<u64>().ok());
        if let Some(n) = numbered {
            match due {
                _ if n == 0 => got.runs += 1,
                Some(due) if any && n >= due => {}
                Some(due) if n != due => return Err(format!("{line:?} where {due} was due")),
                Some(_) | None => {}
            }
            (due, any) = (Some(n + 1), false);
            got.lines += 1;
            got.last = n;
        } else if let Some((_, note)) = line.split_once(": ").filter(|_| line.ends_with("before they could be read)")) {
            match note.split(' ').next().and_then(|n| n.parse::<u64>().ok()) {
                Some(n) => {
                    got.missed += n;
                    due = due.map(|due| due + n);
                }
                None => {
                    got.uncounted += 1;
                    any = true;
                }
            }
        }
    }
    Ok(got)
}

fn until(what: &str, proc: &Proc, word: &str, enough: impl Fn(&Got) -> bool) -> Got {
    wait_until(what, LONG, || {
        let got = check(&proc.log(), word).unwrap_or_else(|why| panic!("{what}: {why}"));
        if proc.is_running() && enough(&got) { Ok(got) } else { Err(format!("{got:?}; {}", proc.last_words())) }
    })
}

fn chatter(millis: u64, version: u32) -> Value {
    let mut container = manifest::program("talk", &["chatter", &millis.to_string()]);
    container["image"] = Value::from(manifest::image(version));
    manifest::deployment("talk", &[container])
}

#[test]
fn twenty_followers_read_a_flood_and_the_agent_stays_small() {
    let fleet = Fleet::start("logs-flood");
    let pi = fleet.device("pi-1");
    let calm = manifest::program("calm", &["chatter", "100"]);
    fleet.apply(&manifest::deployment("flood", &[manifest::program("flood", &["flood"]), calm]));
    fleet.settled("flood", &pi);
    let agent = pi.agent().pid().unwrap();
    let before = pss(agent);
    let name = |n: usize| format!("follower-{n}");
    let args = ["flood", "-f", "--tail", "1", "--container", "flood"];
    let followers: Vec<Proc> = (0..20).map(|n| follower(&fleet, &name(n), &args)).collect();
    // The one beside the flood, in the same stream.
    let both = follower(&fleet, "both", &["flood", "-f", "--tail", "1"]);
    let mut most = before;
    for (n, one) in followers.iter().enumerate() {
        let got = until(&name(n), one, "flood ", |got| got.lines > 5_000);
        most = most.max(pss(agent));
        println!("{}: {got:?}", name(n));
    }
    let calm = wait_until("lines of the container beside the flood", LONG, || {
        let lines = both.log().lines().filter(|line| line.starts_with("calm: ")).count();
        if lines > 10 { Ok(lines) } else { Err(format!("{lines}")) }
    });
    println!("{calm} calm lines; memory {before:.1} MiB alone, {most:.1} MiB with 21 followers of a flood");
    assert!(most < before + 12.0, "{before:.1} MiB, then {most:.1} MiB");
    let logs = pi.apps_dir().join("logs/default.flood/flood");
    let kib = xtask::run::Cmd::new("du").arg("-sk").arg(&logs).check().unwrap();
    let kib: u64 = kib.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib <= 11 * 1024, "{kib} KiB in {}", logs.display());
}

#[test]
fn a_follower_goes_on_through_the_death_of_everybody_and_an_upgrade() {
    let fleet = Fleet::start("logs-follow");
    let pi = fleet.device("pi-1");
    fleet.apply(&chatter(20, 1));
    fleet.settled("talk", &pi);
    let one = follower(&fleet, "follower", &["talk", "-f", "--tail", "all"]);
    let more = |what: &str, runs: u64| {
        let from = until(what, &one, "chatter ", |got| got.lines > 0).lines;
        until(what, &one, "chatter ", |got| got.lines > from + 20 && got.runs == runs)
    };
    more("lines", 1);
    pi.kill_agent();
    pause(Duration::from_secs(1));
    pi.start_agent();
    more("lines after the agent was killed", 1);
    fleet.coordinator().proc().kill();
    fleet.coordinator().proc().start();
    fleet.coordinator().ready();
    more("lines after the coordinator was killed", 1);
    fleet.coordinator().kill_both();
    fleet.coordinator().proc().start();
    fleet.coordinator().ready();
    more("lines after coordinator and broker were killed", 1);
    fleet.apply(&chatter(20, 2));
    let got = more("lines of the next revision", 2);
    assert_eq!((got.missed, got.uncounted), (0, 0), "{got:?}");
    // Nothing is ever said by a deployment that is gone: the follower ends by itself.
    fleet.delete("talk");
    let end = one.wait_end(LONG);
    assert!(end.success(), "{end}: {}", one.last_words());
}

#[test]
fn what_was_printed_during_an_outage_and_before_an_upgrade_is_there_afterwards() {
    let fleet = Fleet::start("logs-outage");
    let pi = fleet.device("pi-1");
    fleet.apply(&chatter(20, 1));
    fleet.settled("talk", &pi);
    let bramble = fleet.bramble();
    let last = |args: &[&str]| {
        let out = bramble.ok(&[&["logs", "talk"], args].concat());
        check(&out, "chatter ").unwrap_or_else(|why| panic!("{why}"))
    };
    let before = last(&[]).last;
    // No agent, no coordinator: the container and conmon are alone.
    pi.kill_agent();
    pause(Duration::from_secs(2));
    pi.start_agent();
    fleet.online_agent(&pi);
    let all = soon("lines of the outage", || {
        let got = last(&["--tail", "all"]);
        if got.last > before + 60 { Ok(got) } else { Err(format!("{got:?}")) }
    });
    assert_eq!((all.lines, all.runs, all.uncounted), (all.last + 1, 1, 0), "all lines from the first on: {all:?}");
    assert_eq!(last(&["--tail", "7"]).lines, 7);

    let out = bramble.ok(&["logs", "talk", "--tail", "3", "-o", "json"]);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    let stamp = |line: &Value| line["at"].as_str().unwrap().to_owned();
    assert!(stamp(&lines[0]).len() == 30 && stamp(&lines[0]).ends_with('Z'), "nanoseconds: {}", stamp(&lines[0]));
    assert_eq!((lines[0]["device"].as_str(), lines[0]["container"].as_str()), (Some("pi-1"), Some("talk")));
    let since = bramble.ok(&["logs", "talk", "--since", &stamp(&lines[1]), "--timestamps"]);
    assert!(since.lines().next().unwrap().starts_with(&stamp(&lines[1])), "{since}");
    let until = bramble.ok(&["logs", "talk", "--until", &stamp(&lines[1]), "--tail", "1", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&until).unwrap()["text"], lines[1]["text"]);
    assert_eq!(last(&["--since", "1h"]).runs, 1);

    fleet.apply(&chatter(20, 2));
    fleet.settled("talk", &pi);
    let previous = last(&["--previous"]);
    assert!(previous.runs == 1 && previous.last >= all.last, "{previous:?}");
    let both = last(&["--tail", "all"]);
    assert!(both.runs == 2 && both.lines > previous.lines, "{both:?}");
    let said = bramble.fails(1, &["logs", "talk", "--container", "nope"]);
    assert!(said.contains("has no log of a container nope here; it has talk"), "{said}");
    let said = bramble.fails(2, &["logs", "talk", "--since", "yesterday"]);
    assert!(said.contains("2026-01-02T03:04:05Z"), "{said}");
    fleet.delete("talk");
    soon("the app to be gone", || {
        let left = pi.all_containers();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let kept = bramble.ok(&["logs", "talk", "--device", "pi-1", "--tail", "1"]);
    assert!(kept.contains("chatter"), "a deleted deployment's logs are there for a while: {kept}");
}

#[test]
fn devices_are_merged_by_time_and_named_and_one_that_is_away_is_told() {
    let fleet = Fleet::start("logs-merge");
    let devices: Vec<Device> = ["pi-1", "pi-2"].map(|name| fleet.device(name)).into();
    fleet.apply(&chatter(50, 1));
    devices.iter().for_each(|pi| drop(fleet.settled("talk", pi)));
    let out = fleet.bramble().ok(&["logs", "talk", "--tail", "10", "--timestamps"]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 20, "{out}");
    assert!(lines.is_sorted(), "by time: {out}");
    assert!(["pi-1: ", "pi-2: "].iter().all(|name| out.contains(name)), "{out}");
    let one = follower(&fleet, "follower", &["talk", "-f", "--tail", "1"]);
    let of = |name: &str| {
        let log: String = one.log().lines().filter_map(|l| l.strip_prefix(name)).map(|l| format!("{l}\n")).collect();
        check(&log, "chatter ").unwrap_or_else(|why| panic!("{name}: {why}"))
    };
    let more = |name: &str| {
        let from = of(name).lines;
        wait_until(name, LONG, || if of(name).lines > from + 10 { Ok(()) } else { Err(one.last_words()) });
    };
    more("pi-1: ");
    devices[1].stop_agent();
    // Long before a window would have ended by itself.
    wait_until("a note that pi-2 is away", Duration::from_secs(30), || {
        if one.log().contains("its log goes on when it is back") { Ok(()) } else { Err(one.last_words()) }
    });
    more("pi-1: ");
    let before = of("pi-2: ").last;
    devices[1].start_agent();
    more("pi-2: ");
    assert!(of("pi-2: ").last > before, "without a gap, also for the time it was away");
}

#[test]
fn a_quiet_log_is_followed_for_longer_than_one_answer_may_last() {
    if !sample::takes("quiet-log") {
        return;
    }
    let fleet = Fleet::start("logs-quiet");
    let pi = fleet.device("pi-1");
    // Longer than one window; in full, longer than the broker lets a device answer one command.
    let millis = if full() { 620_000 } else { 33_000 };
    fleet.apply(&chatter(millis, 1));
    fleet.settled("talk", &pi);
    let one = follower(&fleet, "follower", &["talk", "-f"]);
    let got = wait_until("the second line", Duration::from_millis(millis) + LONG, || {
        let got = check(&one.log(), "chatter ").unwrap();
        if got.lines >= 2 { Ok(got) } else { Err(one.last_words()) }
    });
    assert_eq!((got.lines, got.last), (2, 1), "{}", one.log());
}
