//! Runs the stories in `scenarios/*.txt` on the simulated device. `BLESS=1` writes what happened into the files. What the
//! agents record meanwhile, replayed, tells the same effects.

use std::path::{Path, PathBuf};

use bramble_agent::core::upgrade::{Event, replay, report};
use bramble_agent::host::cmd::{self, Bounds};
use bramble_contracts::quantity::Millis;
use bramble_contracts::v1::AgentVersion;

use super::coordinator::Mood;
use super::kinds::{self, Kind};
use super::world::{World, wish};

#[test]
fn every_scenario_goes_as_written() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the scenarios are there");
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (played, world) = play(&text);
        assert!(world.wrong.is_empty(), "{}: {:?}", file.display(), world.wrong);
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&file, &played).unwrap();
        } else if played != text {
            wrong.push(format!("{}\n--- written\n{text}--- happened\n{played}", file.display()));
        }
        check_replay(&world, &file);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The commands and comments of a story, each followed by what happened.
fn play(text: &str) -> (String, World) {
    let mut world = World::new();
    (world.recording, world.story) = (true, Vec::new());
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.starts_with("  ")) {
        out.push_str(line);
        out.push('\n');
        let Some(command) = line.strip_prefix("> ") else { continue };
        let words: Vec<&str> = command.split(' ').collect();
        for said in obey(&mut world, &words) {
            out.push_str(&format!("  {said}\n"));
        }
    }
    (out, world)
}

/// Only `wait` lets time pass.
fn obey(world: &mut World, words: &[&str]) -> Vec<String> {
    match words {
        ["wait", time] => {
            let time: Millis = time.parse().unwrap();
            world.run(u64::try_from(time.duration().as_millis()).unwrap());
        }
        ["look"] => return look(world),
        ["wish", version, "attempt", attempt] => {
            let version: AgentVersion = version.parse().unwrap();
            world.wish = Some(wish(version.minor, attempt.parse().unwrap()));
            let pids: Vec<u32> = world.procs.values().map(|proc| proc.pid).collect();
            pids.into_iter().for_each(|pid| world.tell(pid, &Event::Wished));
        }
        ["no-wish"] => world.wish = None,
        ["release", version, kind] => {
            let named = |found: &Kind| format!("{found:?}").eq_ignore_ascii_case(&kind.replace('-', ""));
            let kind = kinds::ALL.into_iter().find(named).unwrap();
            world.kinds.insert(version.parse().unwrap(), kind);
        }
        ["coordinator", "good"] => {
            world.mood = Mood::Good;
            world.look_soon();
        }
        ["coordinator", "silent"] => world.mood = Mood::Silent,
        ["coordinator", "aborts"] => world.mood = Mood::AbortsLate,
        ["mesh", "down"] => world.lose_mesh(None),
        ["mesh", "up"] => world.regain_mesh(),
        ["clock", "unfit"] => world.clock_fit = false,
        ["clock", "fit"] => world.clock_fit = true,
        ["room", mib] => world.free_bytes = mib.parse::<u64>().unwrap() << 20,
        ["power"] => world.boot(),
        ["kill", name] => {
            let pid = world.procs.values().find(|proc| proc.instance.name() == *name).unwrap().pid;
            world.kill(pid);
        }
        other => panic!("unknown command {other:?}"),
    }
    let story = std::mem::take(&mut world.story);
    story.into_iter().filter(|line| !line.starts_with("      ") && !line.ends_with(": store")).collect()
}

fn look(world: &World) -> Vec<String> {
    let Some(proc) = world.procs.values().find(|proc| proc.acts) else { return vec!["nobody acts".into()] };
    let disk = &world.disk;
    let waits = world.procs.values().filter(|other| other.pid != proc.pid);
    let waits: Vec<String> = waits.map(|other| format!("{} {} waits", other.instance.name(), other.version)).collect();
    let mut said = vec![format!("{} {} acts; {}", proc.instance.name(), proc.version, waits.join(", "))];
    let names = format!("current {}, confirmed {}", disk.links.current, disk.links.confirmed);
    let binaries: Vec<String> = disk.binaries.iter().map(ToString::to_string).collect();
    said.push(format!("{names}, floor {}, there are {}", disk.floor, binaries.join(" ")));
    let program = report(&disk.ledger, &world.facts(proc), 1, 0);
    said.extend(program.upgrade.map(|upgrade| {
        let blamed = if upgrade.blamed { ", refused until it is retried" } else { "" };
        let took = upgrade.took_ms.map(|ms| format!(", took {ms} ms")).unwrap_or_default();
        let gap = upgrade.unmanaged_ms.map(|ms| format!(", unmanaged for {ms} ms")).unwrap_or_default();
        let reason = if upgrade.reason.is_empty() { String::new() } else { format!(": {}", upgrade.reason) };
        let (version, attempt, status, phase) = (upgrade.version, upgrade.attempt, upgrade.status, upgrade.phase);
        format!("{version} attempt {attempt}: {status:?} {phase:?}{blamed}{took}{gap}{reason}")
    }));
    said
}

/// The recorded lines, replayed, have the effects that were decided then.
fn check_replay(world: &World, file: &Path) {
    let told = replay(&world.lines.join("\n")).unwrap();
    let effects: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let effects: Vec<&str> = effects.into_iter().filter(|line| !line.starts_with("= ")).collect();
    assert_eq!(effects, world.decided, "{}: {told}", file.display());
    assert!(!told.contains("lines are missing"), "{}: {told}", file.display());
}

/// `bramble-agent replay FILE`, on what an upgrade that goes well records.
#[tokio::test]
async fn the_program_replays_a_log() {
    let text = "> wait 1m\n> wish 0.6.0 attempt 1\n> wait 5m\n";
    let (_, world) = play(text);
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("upgrade.log");
    std::fs::write(&log, world.lines.join("\n") + "\n{\"facts\":{\"upM").unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_bramble-agent"));
    let bounds = Bounds { time: std::time::Duration::from_secs(60), ..Bounds::default() };
    let done = cmd::run(bin, &["replay", log.to_str().unwrap()], bounds).await.unwrap();
    let said = done.stdout;
    assert!(said.contains("b 0.6.0 holds the lease: told: confirm 6\n  raise floor to 5\n"), "{said}");
    assert!(said.ends_with("(the last line was cut off)\n"), "{said}");
    std::fs::write(&log, "{}\n").unwrap();
    let done = cmd::run(bin, &["replay", log.to_str().unwrap()], bounds).await.unwrap();
    let said = done.stderr;
    assert!(!done.status.success() && said.contains("line 1 is not a step"), "{said}");
}
