//! Logs on real Podman and conmon: what outlives a container, an agent, a flood; what is missing is told.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bramble_agent::core::app::AppKey;
use bramble_agent::host::logs::Budget;
use bramble_contracts::stamp::{Moment, Stamp};
use bramble_contracts::v1::{LogCursor, LogLives, LogPart, LogPlace, LogSpan, LogWindow, LogWish, Phase};
use common::{Device, container, deployment, running, texts};

const PATIENCE: Duration = Duration::from_secs(90);
/// Both outputs, a line without an end, and a long one.
const SPEAK: &str =
    "trap 'echo bye; exit 0' TERM; echo up $V; echo oops >&2; printf 'no end'; while :; do sleep 0.1; done";
const FLOOD: &str = "i=0; while :; do echo flood $i; i=$((i+1)); done";

fn speaker(version: u32) -> serde_json::Value {
    deployment("web", &[], &[container("web", SPEAK).env("V", &version.to_string())])
}

fn on(cursors: Vec<LogCursor>) -> LogSpan {
    LogSpan::On { from: cursors, to: vec![] }
}

fn bytes_below(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut seen = BTreeSet::new();
    let files = std::fs::read_dir(dir).unwrap().flatten().filter_map(|entry| entry.metadata().ok());
    files.filter(|meta| seen.insert(meta.ino())).map(|meta| meta.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_outlive_their_container_and_are_found_by_time_and_life() {
    let device = Device::start().await;
    let began = Moment::At(Stamp(bramble_agent::host::clock::wall_ms() * 1_000_000));
    device.want(&[(1, speaker(1))]);
    device.until("web", running).await;
    let between = Moment::At(Stamp(bramble_agent::host::clock::wall_ms() * 1_000_000));
    device.want(&[(2, speaker(2))]);
    device.until("web", |r| running(r) && r.running_revision.is_some_and(|v| v.0 == 2)).await;

    let first = ["up 1", "oops", "no endbye"].map(String::from);
    let second = ["up 2", "oops", "no end"].map(String::from);
    // What an app prints on two outputs at once comes in either order.
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(device.logs("web").await), sorted([first.clone(), second.clone()].concat()));
    let of = async |wish: LogWish| {
        let lines = texts(&device.log_parts("web", wish).await);
        sorted(lines.into_iter().map(|(_, text)| text).collect())
    };
    let previous = LogWish { lives: LogLives::Previous, ..LogWish::default() };
    assert_eq!(of(previous).await, sorted(first.to_vec()));
    let since = of(LogWish { since: Some(between), ..LogWish::default() }).await;
    assert!(second.iter().all(|line| since.contains(line)) && !since.contains(&"up 1".to_owned()), "{since:?}");
    assert_eq!(of(LogWish { until: Some(began), ..LogWish::default() }).await, Vec::<String>::new());
    assert_eq!(of(LogWish { tail: Some(1), ..LogWish::default() }).await, ["no end"]);
    let stamps = device.log_parts("web", LogWish::default()).await;
    let LogPart::Lines { lines, .. } = &stamps[0] else { panic!("{stamps:?}") };
    assert!(lines.iter().any(|line| line.at.0 % 1_000_000 != 0), "more than milliseconds: {lines:?}");

    device.want(&[]);
    device.until_gone("web").await;
    assert!(device.logs("web").await.contains(&"up 2".to_owned()), "also of a deleted app");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_pod_have_logs_of_their_own_and_a_crash_loop_keeps_its_earlier_lines() {
    let device = Device::start().await;
    let talker =
        |name: &str| container(name, &format!("trap 'exit 0' TERM; echo I am {name}; while :; do sleep 0.1; done"));
    device.want(&[
        (1, deployment("pair", &[], &[talker("one"), talker("two")])),
        (1, deployment("sick", &[], &[container("sick", "echo tried; exit 3")])),
    ]);
    device.until("pair", running).await;
    let parts = device.log_parts("pair", LogWish::default()).await;
    let of = |part: &LogPart| match part {
        LogPart::Lines { container, lines } => Some((container.to_string(), lines[0].text.clone())),
        LogPart::Span { .. } | LogPart::Gap { .. } | LogPart::Rest(_) => None,
    };
    let all: BTreeSet<_> = parts.iter().filter_map(of).collect();
    let want = [("one", "I am one"), ("two", "I am two")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(all, BTreeSet::from(want));
    device.until("sick", |r| r.phase == Phase::CrashLoop).await;
    let tries = device.logs("sick").await;
    assert!(tries.len() >= 3 && tries.iter().all(|line| line == "tried"), "{tries:?}");
}

/// The number of a line of the flood.
fn number(text: &str) -> u64 {
    text.strip_prefix("flood ").unwrap().parse().unwrap()
}

/// A reader of a flood that takes little at a time.
#[derive(Debug, Default)]
struct Slow {
    place: Option<LogPlace>,
    /// The number of the next line, where it is known.
    due: Option<u64>,
    read: u64,
    missed: u64,
    uncounted: u64,
}

impl Slow {
    /// Reads one window. Panics when lines and what it was told that it missed do not add up.
    async fn read_on(&mut self, device: &Device) {
        let cursor = self.place.map(|place| LogCursor { container: "flood".parse().unwrap(), place });
        let ask = device.window("flood", on(cursor.into_iter().collect()));
        let ask = LogWindow { bytes: 4_000, wait: Some("1s".parse().unwrap()), ..ask };
        let (window, _) = device.log_files().open(ask).await.unwrap();
        let (_, parts) = device.log_files().batch(window).await.unwrap();
        for part in parts {
            match part {
                LogPart::Lines { lines, .. } => {
                    for line in lines {
                        let got = number(&line.text);
                        assert!(self.due.is_none_or(|due| due == got), "{got} after {self:?}");
                        self.due = Some(got + 1);
                        self.read += 1;
                        self.place = Some(line.next);
                    }
                }
                LogPart::Gap { lines, to, .. } => {
                    self.due = self.due.zip(lines).map(|(due, lines)| due + lines);
                    self.missed += lines.unwrap_or(0);
                    self.uncounted += u64::from(lines.is_none());
                    self.place = Some(to);
                }
                LogPart::Span { .. } | LogPart::Rest(_) => panic!("{part:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_stays_within_its_bound_and_a_slow_reader_is_told_exactly_what_it_missed() {
    let mut device = Device::start().await;
    device.budget = Budget { container: 1 << 20, ..Budget::default() };
    device.restart_agent().await;
    device.want(&[(1, deployment("flood", &[], &[container("flood", FLOOD)]))]);
    device.until("flood", running).await;
    let dir = device.log_dir("flood", "flood");
    let mut slow = Slow::default();
    let reading = async {
        // A machine that is too busy to keep a file says so, and goes on.
        while slow.missed == 0 || slow.read < 5_000 {
            slow.read_on(&device).await;
            assert!(bytes_below(&dir) <= 1 << 20, "{}", bytes_below(&dir));
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reading).await.is_ok(), "{slow:?}");
    println!("{slow:?}");

    // An agent that was away cannot count, and says so; nothing is read twice.
    device.restart_agent().await;
    device.want(&[(1, deployment("flood", &[], &[container("flood", FLOOD)]))]);
    let before = slow.uncounted;
    let after = async {
        while slow.uncounted == before {
            slow.read_on(&device).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, after).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_told_of_each_line_without_asking() {
    let device = Device::start().await;
    device.want(&[(1, speaker(1))]);
    let report = device.until("web", running).await;
    let mut ticks = device.log_files().follow(AppKey::parse("default.web").unwrap()).await.unwrap();
    let ask = LogWindow { wait: Some("1s".parse().unwrap()), ..device.window("web", on(vec![])) };
    let (mut window, _) = device.log_files().open(ask).await.unwrap();
    let mut heard = Vec::new();
    device.podman.kill(&report.containers[0].id, "SIGTERM").await.unwrap();
    let following = async {
        while !heard.iter().any(|(_, text)| text == "no endbye") {
            ticks.mark_unchanged();
            let (read, parts) = device.log_files().batch(window).await.unwrap();
            window = read;
            heard.extend(texts(&parts));
            if parts.is_empty() {
                ticks.changed().await.unwrap();
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, following).await.is_ok(), "{heard:?}");
    assert!(device.log_files().is_known(AppKey::parse("default.web").unwrap()).await);
}
