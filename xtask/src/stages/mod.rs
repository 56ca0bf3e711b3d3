//! What counts as tested: the stages of `cargo xtask test`, in order, and the table at the end.
//!
//! Decides which checks there are and how each can be run again alone. What a test checks is the test's own matter.

mod cases;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Watch;
use crate::prepare;
use crate::run::{Cmd, RunError};
use crate::{fleet, paths};

use table::{Outcome, Row};

/// The packages whose tests need the machine for themselves.
const FLEET: &str = "bramble-fleet-tests";
const GUESTS: &str = "bramble-qemu-tests";

/// The fleet's test programs of which two cases may run at a time: they wait most of their time. The others measure and
/// starve real processes, so theirs run one after the other.
const BESIDE: [&str; 10] =
    ["agent_upgrade", "clock", "compose", "enrol", "forged", "race", "smoke", "store", "terminal", "upgrade"];

/// How much of the test cases runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What every change has to pass.
    Change,
    /// Every case by itself, with a table of all of them.
    Full(Resume),
}

/// Where a full run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Anew.
    No,
    /// After the cases that passed at this commit already.
    Yes,
}

/// What every test is given.
struct Kit {
    seed: u32,
    nats_server: PathBuf,
    docker_registry: PathBuf,
}

/// One check.
struct Stage {
    name: &'static str,
    cmd: Cmd,
}

/// Runs them all, without `guests` none that needs a virtual machine, and prints the table; later stages run even if an
/// earlier one failed.
///
/// # Errors
/// When a stage failed, naming it.
pub fn test(depth: Depth, guests: bool) -> anyhow::Result<()> {
    let seed = seed();
    println!("commit {}, seed {seed} (BRAMBLE_SEED={seed} repeats it)", commit());
    let watch = Watch::start();
    let prepared = make_ready();
    let outcome = Outcome::of(&prepared);
    let mut rows = vec![Row { name: "prepare".into(), outcome, time: watch.elapsed() }];
    // Without the tools no later stage can tell anything.
    let (deny, nats_server, docker_registry) = match prepared {
        Ok(tools) => tools,
        Err(err) => return Err(err.context("cannot make this machine ready for the tests")),
    };
    let kit = Kit { seed, nats_server, docker_registry };
    for stage in stages(&deny, depth, guests) {
        rows.push(run(&stage, &kit));
    }
    if let Depth::Full(resume) = depth {
        rows.extend(cases::run_all(resume, guests, &kit)?);
    }
    table::print(&commit(), seed, &rows);
    let failed: Vec<&str> = rows.iter().filter(|row| row.outcome == Outcome::Failed).map(|r| r.name.as_str()).collect();
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// The licence checker, the broker, and a registry of images.
fn make_ready() -> anyhow::Result<(PathBuf, PathBuf, PathBuf)> {
    if fleet::is_root() {
        prepare::ready(true)?;
    }
    Ok((prepare::cargo_deny()?, prepare::nats_server()?, prepare::docker_registry()?))
}

fn stages(deny: &Path, depth: Depth, guests: bool) -> Vec<Stage> {
    let deny = Cmd::new(deny).args(["--log-level", "error", "check", "licenses", "bans", "sources"]);
    let this = std::env::current_exe().unwrap_or_else(|_| "xtask".into());
    let mut stages = vec![
        Stage { name: "format", cmd: cargo(&["fmt", "--all", "--check"]) },
        Stage { name: "lints", cmd: cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]) },
        Stage { name: "licences, bans, sources", cmd: deny.within(Duration::from_secs(300)) },
    ];
    // Before the tests that run them; a full run also proves that the bytes are a function of the source.
    let cross = |more: &[&str]| {
        let cmd = Cmd::new(&this).arg("cross").args(more).within(Duration::from_secs(3600));
        Stage { name: "the programs for aarch64", cmd }
    };
    match depth {
        Depth::Change => {
            stages.push(cross(&[]));
            let without = ["--exclude", FLEET, "--exclude", GUESTS];
            let parts = cargo(&[&["test", "--workspace", "--no-fail-fast"][..], &without].concat());
            stages.push(Stage { name: "each part alone", cmd: as_root(parts) });
            let board = cargo(&["test", "-p", GUESTS, "--lib", "--bins"]);
            stages.push(Stage { name: "the virtual board, without a guest", cmd: as_root(board) });
            let beside = fleet_cases(&BESIDE.map(|one| format!("--test={one}")), 2);
            stages.push(Stage { name: "the fleet, two cases at a time", cmd: beside });
            let rest = fleet_programs().into_iter().filter(|one| !BESIDE.contains(&one.as_str()));
            let rest: Vec<String> =
                ["--lib".into(), "--bins".into()].into_iter().chain(rest.map(|one| format!("--test={one}"))).collect();
            stages.push(Stage { name: "the fleet, one case at a time", cmd: fleet_cases(&rest, 1) });
            if guests {
                let guests = cargo(&["test", "-p", GUESTS, "--no-fail-fast", "--test", "*", "--", "--test-threads=1"]);
                stages.push(Stage { name: "the virtual Pi", cmd: as_root(guests) });
            }
        }
        // Case by case instead, guests among them; what has no cases of its own comes here.
        Depth::Full(_) => {
            stages.push(cross(&["--check-reproducible"]));
            stages.push(Stage { name: "doc tests", cmd: cargo(&["test", "--workspace", "--doc"]) });
        }
    }
    stages.push(Stage { name: "README and guide", cmd: Cmd::new(&this).arg("tour").within(Duration::from_secs(1800)) });
    stages.into_iter().map(|s| Stage { cmd: s.cmd.dir(paths::checkout()), ..s }).collect()
}

fn fleet_cases(programs: &[String], at_a_time: u32) -> Cmd {
    let threads = format!("--test-threads={at_a_time}");
    as_root(cargo(&["test", "-p", FLEET, "--no-fail-fast"]).args(programs).args(["--", &threads]))
}

/// The names of the fleet's test programs.
fn fleet_programs() -> Vec<String> {
    let dir = paths::checkout().join("fleet-tests/tests");
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

fn run(stage: &Stage, kit: &Kit) -> Row {
    println!("\n── {} ── {}", stage.name, stage.cmd.line());
    let watch = Watch::start();
    let result = kit.equip(stage.cmd.clone()).show();
    if let Err(err) = &result {
        println!("\n{} FAILED: {err}\nrun it again alone: {} {}", stage.name, kit.words(), stage.cmd.line());
    }
    Row { name: stage.name.into(), outcome: Outcome::of(&result), time: watch.elapsed() }
}

impl Kit {
    fn equip(&self, cmd: Cmd) -> Cmd {
        let cmd = cmd.env("BRAMBLE_NATS_SERVER", &self.nats_server);
        let cmd = cmd.env("BRAMBLE_DOCKER_REGISTRY", &self.docker_registry);
        cmd.env("BRAMBLE_SEED", self.seed.to_string()).env("PROPTEST_RNG_SEED", self.seed.to_string())
    }

    /// The same, to be typed.
    fn words(&self) -> String {
        let (seed, nats, registry) = (self.seed, self.nats_server.display(), self.docker_registry.display());
        format!(
            "BRAMBLE_SEED={seed} PROPTEST_RNG_SEED={seed} BRAMBLE_NATS_SERVER={nats} BRAMBLE_DOCKER_REGISTRY={registry}"
        )
    }
}

fn cargo(args: &[&str]) -> Cmd {
    // By its plain name, so that the line that is printed can be typed; the toolchain is handed on by the environment.
    Cmd::new("cargo").args(args).within(Duration::from_secs(3000))
}

/// Test programs that start containers run as root; cargo itself stays who it is.
fn as_root(cmd: Cmd) -> Cmd {
    if fleet::is_root() {
        return cmd;
    }
    let host = format!("{}_UNKNOWN_LINUX_GNU", std::env::consts::ARCH.to_uppercase());
    cmd.env(format!("CARGO_TARGET_{host}_RUNNER"), "sudo -E")
}

/// The seed that was asked for, else one that follows from the commit: the same commit is tested the same way.
fn seed() -> u32 {
    let asked = std::env::var("BRAMBLE_SEED").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or_else(|| u32::from_str_radix(commit().get(..8).unwrap_or_default(), 16).unwrap_or(1))
}

/// The commit, marked when the tree differs from it.
fn commit() -> String {
    let git = |args: &[&str]| -> Result<String, RunError> { Cmd::new("git").args(args).dir(paths::checkout()).check() };
    let Ok(commit) = git(&["rev-parse", "HEAD"]) else { return "unknown".into() };
    let commit = commit.trim().to_string();
    match git(&["status", "--porcelain"]) {
        Ok(changes) if changes.trim().is_empty() => commit,
        Ok(_) | Err(_) => {
            let diff = git(&["diff", "HEAD"]).unwrap_or_default();
            format!("{commit}-dirty-{}", &prepare::sha256(diff.as_bytes())[..8])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_of_the_fleet_is_run_in_one_of_both_ways() {
        let all = fleet_programs();
        assert!(all.len() > BESIDE.len() && BESIDE.iter().all(|one| all.iter().any(|name| name == one)), "{all:?}");
        let deny = PathBuf::from("cargo-deny");
        let lines: Vec<String> = stages(&deny, Depth::Change, true).iter().map(|stage| stage.cmd.line()).collect();
        for name in all {
            let word = format!("--test={name}");
            let runs = lines.iter().filter(|line| line.split(' ').any(|one| one == word)).count();
            assert_eq!(runs, 1, "{name} in {lines:#?}");
        }
    }
}
