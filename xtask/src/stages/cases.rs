//! A full run: every test case in a process of its own, remembered by commit, so that a run that was cut off goes on
//! where it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, thread};

use anyhow::Context as _;
use serde::Deserialize;

use super::table::{Outcome, Row};
use super::{FLEET, GUESTS, Kit, Resume, cargo, commit};
use crate::clock::Watch;
use crate::run::Cmd;
use crate::{fleet, paths};

/// The most time for one case.
const CASE_TIME: Duration = Duration::from_secs(2400);
/// For one with a guest, which may have to survive five upgrades, beside another one.
const GUEST_TIME: Duration = Duration::from_secs(4800);
/// Every case in full, and guests side by side: one processor each.
const FULL: [(&str, &str); 2] = [("BRAMBLE_FULL", "1"), ("BRAMBLE_GUEST_CPUS", "1")];

/// One test program.
struct Program {
    /// Which others it may run beside.
    turn: Turn,
    cases: Vec<Case>,
}

/// When a program's cases run, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// Side by side, as `cargo test` would.
    Parts,
    /// One after the other: each measures and starves real processes.
    Fleet,
    /// Last, and side by side: each has one processor.
    Guests,
}

impl Turn {
    fn of(package: &str) -> Self {
        match package {
            FLEET => Turn::Fleet,
            GUESTS => Turn::Guests,
            _ => Turn::Parts,
        }
    }

    fn limit(self) -> Duration {
        match self {
            Turn::Parts | Turn::Fleet => CASE_TIME,
            Turn::Guests => GUEST_TIME,
        }
    }

    fn lanes(self) -> usize {
        match self {
            Turn::Parts | Turn::Guests => thread::available_parallelism().map_or(1, usize::from),
            Turn::Fleet => 1,
        }
    }
}

/// One case of it.
struct Case {
    name: String,
    cmd: Cmd,
}

/// Runs them all, those of the real fleet too, and those that need a guest last.
pub(super) fn run_all(resume: Resume, guests: bool, kit: &Kit) -> anyhow::Result<Vec<Row>> {
    let memory = Mutex::new(Memory::open(&paths::cache().join("full"), &commit(), resume)?);
    let mut programs = all_programs()?;
    programs.retain(|program| guests || program.turn != Turn::Guests);
    programs.sort_by_key(|program| program.turn);
    println!("\n── {} cases, each by itself ──", programs.iter().map(|program| program.cases.len()).sum::<usize>());
    let mut rows = vec![];
    for Program { turn, cases } in programs {
        rows.extend(run_program(cases, turn.lanes(), &memory, kit)?);
    }
    Ok(rows)
}

/// So many of its cases at a time, as `cargo test` would run them, each in a process of its own.
fn run_program(cases: Vec<Case>, lanes: usize, memory: &Mutex<Memory>, kit: &Kit) -> anyhow::Result<Vec<Row>> {
    let left = Mutex::new(cases.into_iter());
    let lane = || -> anyhow::Result<Vec<Row>> {
        let mut rows = vec![];
        loop {
            let Some(case) = lock(&left).next() else { return Ok(rows) };
            rows.push(run_case(case, memory, kit)?);
        }
    };
    let rows: anyhow::Result<Vec<_>> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        let ended = lanes.into_iter().map(|lane| lane.join().map_err(|_| anyhow::anyhow!("a lane of cases died"))?);
        ended.collect()
    });
    let mut rows: Vec<Row> = rows?.into_iter().flatten().collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

fn run_case(case: Case, memory: &Mutex<Memory>, kit: &Kit) -> anyhow::Result<Row> {
    let (before, log) = {
        let memory = lock(memory);
        (memory.passed.get(&case.name).copied(), memory.log(&case.name))
    };
    if let Some(time) = before {
        return Ok(Row { name: case.name, outcome: Outcome::PassedBefore, time });
    }
    let watch = Watch::start();
    let cmd = FULL.iter().fold(kit.equip(case.cmd.clone()), |cmd, (name, value)| cmd.env(name, value));
    let result = cmd.check_keeping(&log);
    let time = watch.elapsed();
    match &result {
        Ok(()) => lock(memory).remember(&case.name, time)?,
        Err(err) => {
            let full = FULL.map(|(name, value)| format!("{name}={value} ")).concat();
            println!("{} FAILED: {err}\nrun it again alone: {full}{} {}", case.name, kit.words(), case.cmd.line());
        }
    }
    Ok(Row { name: case.name, outcome: Outcome::of(&result), time })
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What passed at this commit and how long it took, one name a line.
struct Memory {
    file: PathBuf,
    passed: BTreeMap<String, Duration>,
}

impl Memory {
    fn open(dir: &Path, commit: &str, resume: Resume) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let file = dir.join(commit);
        let passed = match resume {
            Resume::Yes => fs::read_to_string(&file).unwrap_or_default().lines().filter_map(read_passed).collect(),
            Resume::No => BTreeMap::new(),
        };
        Ok(Memory { file, passed })
    }

    /// Where all that a failed case said is kept.
    fn log(&self, case: &str) -> PathBuf {
        let name = case.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        self.file.with_extension(format!("{name}.log"))
    }

    fn remember(&mut self, case: &str, time: Duration) -> anyhow::Result<()> {
        self.passed.insert(case.into(), time);
        let line = |(name, time): (&String, &Duration)| format!("{} ms {name}\n", time.as_millis());
        let text: String = self.passed.iter().map(line).collect();
        fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }
}

/// A line of the memory.
fn read_passed(line: &str) -> Option<(String, Duration)> {
    let (time, name) = line.split_once(" ms ")?;
    Some((name.to_owned(), Duration::from_millis(time.parse().ok()?)))
}

/// The part of cargo's messages that says where a test program is.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    profile: Option<Profile>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

fn all_programs() -> anyhow::Result<Vec<Program>> {
    let build = ["test", "--workspace", "--no-run", "--quiet", "--message-format", "json"];
    let messages = cargo(&build).dir(paths::checkout()).check().context("cannot build the tests")?;
    let mut all = vec![];
    for (program, package_dir, name) in programs(&messages) {
        let dir = package_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let turn = Turn::of(&format!("bramble-{dir}"));
        let listed = Cmd::new(&program).args(["--list", "--format", "terse"]).dir(&package_dir).check()?;
        let cases = listed.lines().filter_map(|line| line.strip_suffix(": test")).map(|case| {
            // Many start containers; which ones do is not for us to know.
            let cmd = if fleet::is_root() { Cmd::new(&program) } else { Cmd::new("sudo").arg("-E").arg(&program) };
            // As `cargo test` would start it.
            let cmd = cmd.args(["--exact", case]).dir(&package_dir).env("CARGO_PKG_NAME", &dir);
            let cmd = cmd.within(turn.limit());
            Case { name: format!("{dir}/{name} {case}"), cmd }
        });
        all.push(Program { turn, cases: cases.collect() });
    }
    Ok(all)
}

fn programs(messages: &str) -> Vec<(PathBuf, PathBuf, String)> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    messages
        .filter(|message| message.profile.as_ref().is_some_and(|p| p.test))
        .filter_map(|message| {
            let dir = message.manifest_path?.parent()?.to_path_buf();
            Some((message.executable?, dir, message.target?.name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_programs_are_taken_from_cargos_messages() {
        let messages = r#"
            {"reason":"compiler-artifact","manifest_path":"/x/a/Cargo.toml","target":{"name":"a"},"profile":{"test":true},"executable":"/t/a-1"}
            {"reason":"compiler-artifact","manifest_path":"/x/b/Cargo.toml","target":{"name":"b"},"profile":{"test":false},"executable":"/t/b-1"}
            {"reason":"compiler-artifact","manifest_path":"/x/c/Cargo.toml","target":{"name":"c"},"profile":{"test":true},"executable":null}
            {"reason":"build-finished","success":true}
            not json"#;
        assert_eq!(programs(messages), [("/t/a-1".into(), "/x/a".into(), "a".to_string())]);
    }

    #[test]
    fn a_run_that_was_cut_off_goes_on_and_a_new_one_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut memory = Memory::open(dir.path(), "abc", Resume::No).unwrap();
        let times = [Duration::from_millis(1500), Duration::from_secs(1)];
        memory.remember("a x::y", times[0]).unwrap();
        memory.remember("b", times[1]).unwrap();
        let again = Memory::open(dir.path(), "abc", Resume::Yes).unwrap();
        assert_eq!(again.passed, [("a x::y".to_owned(), times[0]), ("b".to_owned(), times[1])].into());
        assert!(Memory::open(dir.path(), "abc", Resume::No).unwrap().passed.is_empty());
        assert!(Memory::open(dir.path(), "other", Resume::Yes).unwrap().passed.is_empty());
    }
}
