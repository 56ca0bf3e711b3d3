//! README's five-minute tour and the operator guide, typed by a machine: every command of their ```console blocks, in
//! order, and what each prints compared with what the page says it prints. A page that lies fails the tests.
//!
//! In the expected text `…` stands for anything, and a line that is only `…` for any number of lines. README brings a
//! fleet up and takes it down; then all pages of the guide share one fleet, each in a shell of its own. All of it lives in
//! a network and in a folder of its own, so a fleet that is up on this machine is not in the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::run::Cmd;
use crate::{fleet, paths};

const README: &str = "README.md";
const HEADING: &str = "## Five-minute tour";
const GUIDE: &str = "docs/guide";
/// For all pages, building included.
const TIME: Duration = Duration::from_secs(1500);

/// A page and what it says is typed.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    name: String,
    steps: Vec<Step>,
}

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

/// Types README and every page of the guide that has commands; of the guide only the pages of these names where some are
/// named, and then not README.
///
/// # Errors
/// With the first command that failed or printed something else, or a page that has none.
pub fn tour(only: &[String]) -> anyhow::Result<()> {
    if !fleet::is_root() {
        return Err(fleet::again_as_root());
    }
    let guide = guide(&paths::checkout().join(GUIDE), only)?;
    let readme = if only.is_empty() { Some(readme(&paths::checkout().join(README))?) } else { None };
    let place = Place::new()?;
    place.clear()?;
    place.make()?;
    // Taken down in the same network it was brought up in, whatever the pages themselves did.
    let script = format!("{}\ncargo xtask down --purge\n", script(readme.as_ref(), &guide));
    let output = place.shell(&script).output();
    let pages: Vec<&Page> = readme.iter().chain(&guide).collect();
    let result = output.map_err(anyhow::Error::new).and_then(|output| judge(&pages, &output.stdout));
    let cleared = place.clear();
    result?;
    cleared?;
    for page in pages {
        println!("{}: {} commands, all as written", page.name, page.steps.len());
    }
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

/// README's tour.
fn readme(file: &Path) -> anyhow::Result<Page> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (_, section) = text.split_once(HEADING).with_context(|| format!("{README} has no {HEADING:?}"))?;
    let steps = steps(section.split("\n## ").next().unwrap_or_default())?;
    ensure!(!steps.is_empty(), "the tour has no command in a ```console block");
    Ok(Page { name: README.into(), steps })
}

/// The guide's pages that have commands, by name.
fn guide(dir: &Path, only: &[String]) -> anyhow::Result<Vec<Page>> {
    let mut names: Vec<String> = fs::read_dir(dir)?
        .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| name == format!("{one}.md"));
    let mut pages = vec![];
    for name in names.iter().filter(|name| name.ends_with(".md") && wanted(name)) {
        let steps = steps(&fs::read_to_string(dir.join(name))?).with_context(|| name.clone())?;
        if !steps.is_empty() {
            pages.push(Page { name: format!("{GUIDE}/{name}"), steps });
        }
    }
    ensure!(only.len() <= pages.len(), "not all of {only:?} are pages with commands in {GUIDE}");
    Ok(pages)
}

/// The commands of a text's console blocks.
fn steps(text: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps: Vec<Step> = vec![];
    let mut inside = false;
    for line in text.lines() {
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
                (None, None) => bail!("a console block begins with output: {line:?}"),
            },
        }
    }
    Ok(steps)
}

/// All commands for one shell: what one sets the next one of its page sees; marks tell their outputs apart.
fn script(readme: Option<&Page>, guide: &[Page]) -> String {
    let mut script = String::from("exec 2>&1\n");
    let mut number = 0;
    let mut type_in = |page: &Page, script: &mut String| {
        for step in &page.steps {
            script.push_str(&format!("printf '\\n\\001begin {number}\\n'\n{}\n", step.command));
            script.push_str(&format!("printf '\\n\\001end {number} %s\\n' \"$?\"\n"));
            number += 1;
        }
    };
    if let Some(readme) = readme {
        type_in(readme, &mut script);
    }
    if !guide.is_empty() {
        script.push_str("cargo xtask up --detach\n");
    }
    for page in guide {
        script.push_str("(\n");
        type_in(page, &mut script);
        script.push_str(")\n");
    }
    script
}

/// Compares each command's output with the expected one.
fn judge(pages: &[&Page], output: &str) -> anyhow::Result<()> {
    let steps = pages.iter().flat_map(|page| page.steps.iter().map(move |step| (&page.name, step)));
    for (n, (page, step)) in steps.enumerate() {
        let command = &step.command;
        let done = done(output, n).with_context(|| format!("{page}: `{command}` was not reached or did not end"))?;
        println!("$ {command}\n{}", done.lines.join("\n"));
        ensure!(done.code == "0", "{page}: `{command}` ended with exit code {}", done.code);
        if let Err(why) = matches(&step.expected, &done.lines) {
            bail!("{page}: `{command}` printed something else than the page says: {why}");
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
        return lines.first().map_or(Ok(()), |line| Err(format!("{line:?} is not on the page")));
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

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# X\n```console\n$ not me\n```\n## Five-minute tour\nText.\n\n```console\n$ one \\\n  more\n\
                        out …\n$ two\n```\n\n## After\n```console\n$ nor me\n```\n";

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(String::from).collect()
    }

    fn step(command: &str, expected: &[&str]) -> Step {
        Step { command: command.into(), expected: expected.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn of_readme_the_tour_and_of_the_guide_every_block() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("README.md", TEXT);
        write("b.md", TEXT);
        write("a.md", "no commands");
        let file = dir.path().join("README.md");
        assert_eq!(readme(&file).unwrap().steps, [step("one \\\n  more", &["out …"]), step("two", &[])]);
        let pages = guide(dir.path(), &["b".into()]).unwrap();
        assert_eq!((pages.len(), pages[0].steps.len(), pages[0].name.as_str()), (1, 4, "docs/guide/b.md"));
        assert!(guide(dir.path(), &["a".into()]).is_err(), "a page without commands shows nothing");
        write("README.md", "# no tour");
        assert!(readme(&file).is_err());
        write("README.md", "## Five-minute tour\nno block");
        assert!(readme(&file).is_err());
    }

    #[test]
    fn a_page_keeps_what_a_command_sets_the_next_page_does_not_and_outputs_are_told_apart() {
        let page = |steps: Vec<Step>| Page { name: "p".into(), steps };
        let first = page(vec![step("X=1; printf no-newline", &[]), step("echo \"x is $X\"; false", &[])]);
        let pages = [page(vec![step("Y=2; echo $Y", &["2"])]), page(vec![step("echo \"<$X$Y>\"", &["<1>"])])];
        let script = script(Some(&first), &pages).replace("cargo xtask up --detach", "true");
        let output = Cmd::new("bash").args(["-c", &script]).output().unwrap().stdout;
        assert_eq!(done(&output, 0), Some(Done { code: "0".into(), lines: lines("no-newline") }));
        assert_eq!(done(&output, 1), Some(Done { code: "1".into(), lines: lines("x is 1") }));
        assert_eq!(done(&output, 3), Some(Done { code: "0".into(), lines: lines("<1>") }));
        assert_eq!(done(&output, 4), None);
        assert!(judge(&[&first], &output).unwrap_err().to_string().contains("no-newline"));
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
