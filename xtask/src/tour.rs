//! README's five-minute tour, typed by a machine: every command of its ```console blocks, in order, in one shell, and
//! what each prints compared with what README says it prints. A tour that lies fails the tests.
//!
//! In the expected text `…` stands for anything, and a line that is only `…` for any number of lines. The shell lives
//! in a network of its own and in a folder of its own, so a fleet that is up on this machine is not in the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::run::Cmd;
use crate::{fleet, paths};

const HEADING: &str = "## Five-minute tour";
/// For the whole tour, building included.
const TIME: Duration = Duration::from_secs(1500);

/// One command and what it should print.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    expected: Vec<String>,
}

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    code: String,
    lines: Vec<String>,
}

/// Takes the tour.
///
/// # Errors
/// With the first command that failed or printed something else.
pub fn tour() -> anyhow::Result<()> {
    if !fleet::is_root() {
        return Err(fleet::again_as_root());
    }
    let readme = fs::read_to_string(paths::checkout().join("README.md")).context("cannot read README.md")?;
    let steps = steps(&readme)?;
    let place = Place::new()?;
    place.clear()?;
    place.make()?;
    // Taken down in the same network it was brought up in, whatever the tour itself did.
    let script = format!("{}\ncargo xtask down --purge\n", script(&steps));
    let output = place.shell(&script).output();
    let result = output.map_err(anyhow::Error::new).and_then(|output| judge(&steps, &output.stdout));
    let cleared = place.clear();
    result?;
    cleared?;
    println!("README's tour: {} commands, all as written", steps.len());
    Ok(())
}

/// Where the tour takes place.
struct Place {
    dir: PathBuf,
    this: PathBuf,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        Ok(Place { dir: paths::checkout().join("target/tour"), this: std::env::current_exe()? })
    }

    /// A folder that looks like the checkout to the commands: the documents are there, and cargo finds the workspace.
    fn make(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir)?;
        for name in ["docs", "README.md"] {
            std::os::unix::fs::symlink(paths::checkout().join(name), self.dir.join(name))?;
        }
        Ok(())
    }

    fn shell(&self, script: &str) -> Cmd {
        let setup = "ip link set lo up && exec bash --noprofile --norc -c \"$0\"";
        self.at_home(Cmd::new("unshare").args(["--net", "--", "sh", "-c", setup, script]).within(TIME))
    }

    /// Takes down a fleet that an earlier tour may have left, and removes the folder.
    fn clear(&self) -> anyhow::Result<()> {
        if self.dir.exists() {
            let down = Cmd::new(&self.this).args(["down", "--purge"]).within(Duration::from_secs(180));
            self.at_home(down).check()?;
            fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))?;
        }
        Ok(())
    }

    fn at_home(&self, cmd: Cmd) -> Cmd {
        let cmd = cmd.dir(&self.dir).env("BRAMBLE_DIR", self.dir.join(".bramble")).env("NO_COLOR", "1");
        cmd.env("XDG_CONFIG_HOME", self.dir.join("config")).without_env("BRAMBLE_API").without_env("BRAMBLE_TOKEN")
    }
}

/// The commands of the tour's section.
fn steps(readme: &str) -> anyhow::Result<Vec<Step>> {
    let (_, section) = readme.split_once(HEADING).with_context(|| format!("README.md has no {HEADING:?}"))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut steps: Vec<Step> = vec![];
    let mut inside = false;
    for line in section.lines() {
        match (line, inside) {
            ("```console", false) => inside = true,
            ("```", true) => inside = false,
            (_, false) => {}
            (line, true) => match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step { command: command.into(), expected: vec![] }),
                (None, Some(step)) if step.command.ends_with('\\') => {
                    step.command.push('\n');
                    step.command.push_str(line);
                }
                (None, Some(step)) => step.expected.push(line.into()),
                (None, None) => bail!("a console block of the tour begins with output: {line:?}"),
            },
        }
    }
    ensure!(!steps.is_empty(), "the tour has no command in a ```console block");
    Ok(steps)
}

/// All commands for one shell, so that what one sets the next one sees; marks tell their outputs apart.
fn script(steps: &[Step]) -> String {
    let mut script = String::from("exec 2>&1\n");
    for (n, step) in steps.iter().enumerate() {
        script.push_str(&format!("printf '\\n\\001begin {n}\\n'\n{}\n", step.command));
        script.push_str(&format!("printf '\\n\\001end {n} %s\\n' \"$?\"\n"));
    }
    script
}

/// Compares each command's output with the expected one.
fn judge(steps: &[Step], output: &str) -> anyhow::Result<()> {
    for (n, step) in steps.iter().enumerate() {
        let done = done(output, n).with_context(|| format!("`{}` was not reached or did not end", step.command))?;
        println!("$ {}\n{}", step.command, done.lines.join("\n"));
        ensure!(done.code == "0", "`{}` ended with exit code {}", step.command, done.code);
        if let Err(why) = matches(&step.expected, &done.lines) {
            bail!("`{}` printed something else than README says: {why}", step.command);
        }
    }
    Ok(())
}

fn done(output: &str, n: usize) -> Option<Done> {
    let (_, rest) = output.split_once(&format!("\x01begin {n}\n"))?;
    let (text, rest) = rest.split_once(&format!("\x01end {n} "))?;
    let lines = text.trim_end_matches('\n').lines().map(String::from).collect();
    Some(Done { code: rest.lines().next()?.into(), lines })
}

/// Every expected line in order, nothing between them but what `…` allows.
fn matches(expected: &[String], lines: &[String]) -> Result<(), String> {
    let Some((first, rest)) = expected.split_first() else {
        return lines.first().map_or(Ok(()), |line| Err(format!("{line:?} is not in README")));
    };
    if first.trim() == "…" {
        let fits = (0..=lines.len()).any(|skip| matches(rest, &lines[skip..]).is_ok());
        return if fits { Ok(()) } else { Err(format!("nothing after it fits {rest:?}")) };
    }
    let (line, others) = lines.split_first().ok_or_else(|| format!("{first:?} is missing"))?;
    if !line_matches(first, line) {
        return Err(format!("{line:?} instead of {first:?}"));
    }
    matches(rest, others)
}

/// `…` stands for any text; runs of blanks count as one, so that a table's widths may differ.
fn line_matches(expected: &str, line: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (expected, line) = (squeeze(expected), squeeze(line));
    let mut rest = line.as_str();
    let parts: Vec<&str> = expected.split('…').collect();
    for (n, part) in parts.iter().enumerate() {
        let last = n + 1 == parts.len();
        let found = match (n, last) {
            (0, true) => return rest == *part,
            (0, false) => rest.strip_prefix(part),
            (_, true) => return rest.ends_with(part),
            (_, false) => rest.split_once(part).map(|(_, after)| after),
        };
        match found {
            Some(after) => rest = after,
            None => return false,
        }
    }
    true
}

/// For the tidy test and for people: how many commands README's tour has.
///
/// # Errors
/// When README has no tour.
pub fn length(readme: &Path) -> anyhow::Result<usize> {
    Ok(steps(&fs::read_to_string(readme)?)?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# X\n```console\n$ not me\n```\n## Five-minute tour\nText.\n\n```console\n$ one \\\n  more\n\
                          out …\n$ two\n```\n\n## After\n```console\n$ nor me\n```\n";

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(String::from).collect()
    }

    #[test]
    fn the_commands_of_the_tour_and_no_others() {
        let want = [
            Step { command: "one \\\n  more".into(), expected: vec!["out …".into()] },
            Step { command: "two".into(), expected: vec![] },
        ];
        assert_eq!(steps(README).unwrap(), want);
        assert!(steps("# no tour").is_err());
        assert!(steps("## Five-minute tour\nno block").is_err());
    }

    #[test]
    fn the_shell_keeps_what_a_command_sets_and_the_outputs_are_told_apart() {
        let step = |command: &str| Step { command: command.into(), expected: vec![] };
        let steps = [step("X=1; printf no-newline"), step("echo \"x is $X\"; false")];
        let output = Cmd::new("bash").args(["-c", &script(&steps)]).output().unwrap().stdout;
        assert_eq!(done(&output, 0), Some(Done { code: "0".into(), lines: lines("no-newline") }));
        assert_eq!(done(&output, 1), Some(Done { code: "1".into(), lines: lines("x is 1") }));
        assert_eq!(done(&output, 2), None);
        assert!(judge(&steps, &output).unwrap_err().to_string().contains("no-newline"));
    }

    #[test]
    fn dots_stand_for_anything_and_nothing_else_does() {
        let ok = |want: &str, got: &str| matches(&lines(want), &lines(got)).is_ok();
        assert!(ok("a …\nb", "a thing\nb"));
        assert!(ok("NAME   STATE\npi-1 online …", "NAME STATE\npi-1      online   3s"));
        assert!(ok("…\nlast", "x\ny\nlast"));
        assert!(ok("first\n…", "first"));
        assert!(ok("a … b … c", "a 1 b 2 c"));
        assert!(!ok("a", "b"));
        assert!(!ok("a", "a\nb"));
        assert!(!ok("a\nb", "a"));
        assert!(!ok("…\nlast", "x\ny"));
        assert!(!ok("a …", "b a x"));
        assert!(!ok("", "surprise"));
    }
}
