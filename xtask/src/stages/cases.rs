//! A full run: every test case in a process of its own, remembered by commit, so that a run that was cut off goes on
//! where it was.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use super::table::{Outcome, Row};
use super::{Kit, Resume, cargo, commit};
use crate::clock::Watch;
use crate::run::Cmd;
use crate::{fleet, paths};

/// The most time for one case.
const CASE_TIME: Duration = Duration::from_secs(2400);

/// One case of one test program.
struct Case {
    name: String,
    cmd: Cmd,
}

/// Runs them all, those of the real fleet too.
pub(super) fn run_all(resume: Resume, kit: &Kit) -> anyhow::Result<Vec<Row>> {
    let mut memory = Memory::open(&paths::cache().join("full"), &commit(), resume)?;
    let mut rows = vec![];
    let cases = all_cases()?;
    println!("\n── {} cases, one by one ──", cases.len());
    for case in cases {
        if memory.passed.contains(&case.name) {
            rows.push(Row { name: case.name, outcome: Outcome::PassedBefore, time: Duration::ZERO });
            continue;
        }
        let watch = Watch::start();
        let result = kit.equip(case.cmd.clone()).env("BRAMBLE_FULL", "1").check_keeping(&memory.log(&case.name));
        match &result {
            Ok(_) => memory.remember(&case.name)?,
            Err(err) => {
                println!("{} FAILED: {err}\nrun it again alone: {} {}", case.name, kit.words(), case.cmd.line());
            }
        }
        rows.push(Row { name: case.name, outcome: Outcome::of(&result), time: watch.elapsed() });
    }
    Ok(rows)
}

/// What passed at this commit, one name a line.
struct Memory {
    file: PathBuf,
    passed: BTreeSet<String>,
}

impl Memory {
    fn open(dir: &Path, commit: &str, resume: Resume) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let file = dir.join(commit);
        let passed = match resume {
            Resume::Yes => fs::read_to_string(&file).unwrap_or_default().lines().map(String::from).collect(),
            Resume::No => BTreeSet::new(),
        };
        Ok(Memory { file, passed })
    }

    /// Where all that a failed case said is kept.
    fn log(&self, case: &str) -> PathBuf {
        let name = case.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        self.file.with_extension(format!("{name}.log"))
    }

    fn remember(&mut self, case: &str) -> anyhow::Result<()> {
        self.passed.insert(case.into());
        let text: String = self.passed.iter().map(|name| format!("{name}\n")).collect();
        fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }
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

fn all_cases() -> anyhow::Result<Vec<Case>> {
    let build = ["test", "--workspace", "--no-run", "--quiet", "--message-format", "json"];
    let messages = cargo(&build).dir(paths::checkout()).check().context("cannot build the tests")?;
    let mut cases = vec![];
    for (program, package_dir, name) in programs(&messages) {
        let package = package_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let listed = Cmd::new(&program).args(["--list", "--format", "terse"]).dir(&package_dir).check()?;
        for case in listed.lines().filter_map(|line| line.strip_suffix(": test")) {
            // Many start containers; which ones do is not for us to know.
            let cmd = if fleet::is_root() { Cmd::new(&program) } else { Cmd::new("sudo").arg("-E").arg(&program) };
            // As `cargo test` would start it.
            let cmd = cmd.args(["--exact", case]).dir(&package_dir).env("CARGO_PKG_NAME", &package).within(CASE_TIME);
            cases.push(Case { name: format!("{package}/{name} {case}"), cmd });
        }
    }
    Ok(cases)
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
        memory.remember("a").unwrap();
        memory.remember("b").unwrap();
        let again = Memory::open(dir.path(), "abc", Resume::Yes).unwrap();
        assert_eq!(again.passed.into_iter().collect::<Vec<_>>(), ["a", "b"]);
        assert!(Memory::open(dir.path(), "abc", Resume::No).unwrap().passed.is_empty());
        assert!(Memory::open(dir.path(), "other", Resume::Yes).unwrap().passed.is_empty());
    }
}
