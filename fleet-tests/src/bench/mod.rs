//! The benchmarks: every figure beside its reference, taken in the same run on the same machine, with its goal.
//!
//! Decides which parts there are, that each runs in a process of its own (one that fails takes nobody with it, and
//! leaves nothing behind), and how the table looks. What is measured, and how, is in the parts.

mod agent;
mod cold;
mod crash;
mod idle;
mod libpod;
mod logs;
mod machine;
mod poll;
mod proc_stat;
mod quarantine;
mod start;
mod table;
mod upgrade;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use xtask::paths;
use xtask::run::Cmd;

use crate::case::Case;
use table::Row;

/// A part: its name, what it measures, and the function that does.
struct Part {
    name: &'static str,
    about: &'static str,
    run: fn(Reps) -> Vec<Row>,
}

/// How often something is measured.
#[derive(Debug, Clone, Copy)]
pub struct Reps(pub usize);

impl Reps {
    /// Fewer, for what takes long; at least three.
    fn fewer(self, times: usize) -> usize {
        (self.0 / times).max(3)
    }
}

const PARTS: [Part; 10] = [
    Part { name: "start", about: "apply → HTTP answer, beside podman", run: start::one },
    Part { name: "pod", about: "the same for a pod of two, beside libpod's API", run: start::pod },
    Part { name: "upgrade", about: "how long an app is down at an upgrade", run: upgrade::downtime },
    Part { name: "crash", about: "a main process is killed → its app answers again", run: crash::back },
    Part { name: "agent", about: "the agent's own upgrade, as typed; who manages meanwhile", run: agent::replaced },
    Part { name: "idle", about: "memory and CPU of an idle agent, bytes of a heartbeat", run: idle::idle },
    Part { name: "cold", about: "coordinator start with 10,000 devices, and its memory", run: cold::cold },
    Part { name: "logs", about: "a log line's way to the terminal, beside podman logs -f", run: logs::latency },
    Part { name: "flood", about: "20 followers of a container that floods its log", run: logs::flood },
    Part { name: "quarantine", about: "quarantine → connection closed", run: quarantine::cut },
];

/// The command line.
#[derive(Debug, Default)]
struct Args {
    only: Option<String>,
    markdown: Option<PathBuf>,
    reps: Option<usize>,
    /// Where a part's own process puts its rows.
    rows: Option<PathBuf>,
    /// The programs are measured as they are found, and not built first.
    as_built: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> anyhow::Result<Args> {
    let mut args = Args::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--only" => args.only = Some(value()?),
            "--markdown" => args.markdown = Some(value()?.into()),
            "--reps" => args.reps = Some(value()?.parse().context("--reps needs a number")?),
            "--rows" => args.rows = Some(value()?.into()),
            "--as-built" => args.as_built = true,
            _ => bail!("{word} is unknown. {}", usage()),
        }
    }
    Ok(args)
}

fn usage() -> String {
    let parts: Vec<String> = PARTS.iter().map(|p| format!("  {:<11} {}", p.name, p.about)).collect();
    format!(
        "bench [--only PART] [--reps N] [--markdown FILE] [--as-built]\nparts:\n{}\nFILE gets the table between its markers.",
        parts.join("\n")
    )
}

/// Runs what the command line says.
///
/// # Errors
/// When the command line is wrong, a part fails, or the table cannot be written. A missed goal is no error.
pub fn main(words: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let args = parse(words)?;
    let reps = Reps(args.reps.unwrap_or(15));
    if let (Some(rows), Some(only)) = (&args.rows, &args.only) {
        let part = PARTS.iter().find(|p| p.name == only).with_context(usage)?;
        let found = (part.run)(reps);
        let json = serde_json::to_vec(&found).context("rows are JSON")?;
        return std::fs::write(rows, json).with_context(|| format!("cannot write {}", rows.display()));
    }
    let chosen: Vec<&Part> = PARTS.iter().filter(|p| args.only.as_ref().is_none_or(|only| only == p.name)).collect();
    if chosen.is_empty() {
        bail!("there is no such part. {}", usage());
    }
    if !args.as_built {
        build()?;
    }
    let (mut rows, mut failed) = (vec![], vec![]);
    for part in chosen {
        println!("── {}: {} ──", part.name, part.about);
        match in_own_process(part, reps) {
            Ok(found) => {
                print!("{}", table::text(&found));
                rows.extend(found);
            }
            Err(err) => {
                println!("{}: {err:#}", part.name);
                failed.push(part.name);
            }
        }
    }
    // Making a case sweeps what parts that failed have left.
    drop(Case::new("bench"));
    let machine = machine::describe();
    println!("\n{machine}\n\n{}", table::text(&rows));
    if let Some(file) = &args.markdown {
        table::write(file, &machine, &rows)?;
        println!("written into {}", file.display());
    }
    if failed.is_empty() { Ok(()) } else { bail!("these parts failed: {}", failed.join(", ")) }
}

/// The programs as they ship; cargo does nothing when they are new enough.
fn build() -> anyhow::Result<()> {
    Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--release",
            "--quiet",
            "-p",
            "bramble-coordinator",
            "-p",
            "bramble-agent",
            "-p",
            "bramble-cli",
        ])
        .dir(paths::checkout())
        .within(Duration::from_secs(3600))
        .show()
        .context("cannot build the programs as they ship")
}

fn in_own_process(part: &Part, reps: Reps) -> anyhow::Result<Vec<Row>> {
    let file = std::env::temp_dir().join(format!("bramble-bench-{}-{}.json", std::process::id(), part.name));
    let me = std::env::current_exe().context("cannot find this program")?;
    Cmd::new(me)
        .args(["--only", part.name, "--reps", &reps.0.to_string(), "--rows"])
        .arg(&file)
        .env("BRAMBLE_BIN_DIR", paths::target().join("release"))
        .within(Duration::from_secs(1800))
        .show()?;
    let json = std::fs::read(&file).with_context(|| format!("{} left no rows", part.name))?;
    drop(std::fs::remove_file(&file));
    serde_json::from_slice(&json).context("rows are JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_and_its_errors_are_named() {
        let words = |line: &str| parse(line.split_whitespace().map(String::from).collect::<Vec<_>>().into_iter());
        let args = words("--only cold --reps 3 --markdown x.md").unwrap();
        assert_eq!((args.only.as_deref(), args.reps), (Some("cold"), Some(3)));
        assert!(words("--fast").unwrap_err().to_string().contains("--fast"));
        assert!(words("--reps").unwrap_err().to_string().contains("needs a value"));
    }

    #[test]
    fn every_part_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = PARTS.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), PARTS.len());
        assert!(names.iter().all(|name| usage().contains(name)));
    }
}
