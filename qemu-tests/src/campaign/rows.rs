//! What is published of a campaign: a row for each cut, in a file that only grows, and a page's summary of them.
//!
//! Decides their form. A row that cannot be read is an error: nothing is left out in silence.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

const HEAD: &str = "commit\tseed\tcut\tupgrade\tphase\twrite\tof\tlost\tend\tboots\tserving s\tsaid";
const BEGIN: &str = "<!-- power cuts: begin -->";
const END: &str = "<!-- power cuts: end -->";

/// One cut and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The tree that was tested.
    pub commit: String,
    /// The campaign's seed.
    pub seed: u64,
    /// Which of its cuts.
    pub number: u64,
    /// The upgrade.
    pub upgrade: String,
    /// What it was at.
    pub phase: String,
    /// Writes, flushes and discards that the card had been given.
    pub at: usize,
    /// Of so many in the whole recording.
    pub of: usize,
    /// What of the last ones was lost.
    pub loss: String,
    /// `old` or `new` for the system that serves, else `FAILED`.
    pub end: String,
    /// Boots until then.
    pub boots: u32,
    /// Seconds from power-on until the app answered.
    pub serving: u64,
    /// What the coordinator was told, or what was wrong.
    pub said: String,
}

impl Row {
    /// What `end` says of a device that was not as it must be.
    pub const FAILED: &'static str = "FAILED";

    fn line(&self) -> String {
        let Row { commit, seed, number, upgrade, phase, at, of, loss, end, boots, serving, said } = self;
        let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect();
        format!(
            "{commit}\t{seed}\t{number}\t{upgrade}\t{phase}\t{at}\t{of}\t{loss}\t{end}\t{boots}\t{serving}\t{said}\n"
        )
    }

    fn parse(line: &str) -> anyhow::Result<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let [commit, seed, number, upgrade, phase, at, of, loss, end, boots, serving, said] = fields[..] else {
            anyhow::bail!("{} fields instead of 12", fields.len());
        };
        Ok(Row {
            commit: commit.into(),
            seed: seed.parse()?,
            number: number.parse()?,
            upgrade: upgrade.into(),
            phase: phase.into(),
            at: at.parse()?,
            of: of.parse()?,
            loss: loss.into(),
            end: end.into(),
            boots: boots.parse()?,
            serving: serving.parse()?,
            said: said.into(),
        })
    }
}

/// All rows of a file; none where there is no file.
///
/// # Errors
/// When it cannot be read, or a row means nothing.
pub fn read(file: &Path) -> anyhow::Result<Vec<Row>> {
    if !file.exists() {
        return Ok(vec![]);
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut lines = text.lines().zip(1..);
    ensure!(lines.next().is_some_and(|(head, _)| head == HEAD), "{} has other columns", file.display());
    lines.map(|(line, n)| Row::parse(line).with_context(|| format!("{}:{n}", file.display()))).collect()
}

/// Adds one, durably.
///
/// # Errors
/// When it cannot be written.
pub fn append(file: &Path, row: &Row) -> anyhow::Result<()> {
    let head = if file.exists() { String::new() } else { format!("{HEAD}\n") };
    let open = OpenOptions::new().create(true).append(true).open(file);
    let mut out = open.with_context(|| format!("cannot open {}", file.display()))?;
    let written = out.write_all(format!("{head}{}", row.line()).as_bytes()).and_then(|()| out.sync_all());
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// Puts the summary between the page's marks.
///
/// # Errors
/// When the page has none, or cannot be written.
pub fn publish(page: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{} lacks {BEGIN}", page.display()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{} lacks {END}", page.display()))?;
    fs::write(page, format!("{before}{BEGIN}\n{}{END}{after}", summary(rows)))
        .with_context(|| format!("cannot write {}", page.display()))
}

/// How many cuts ended how.
#[derive(Default)]
struct Sum {
    cuts: usize,
    lost: usize,
    old: usize,
    new: usize,
    failed: usize,
    serving: Vec<u64>,
}

impl Sum {
    fn add(&mut self, row: &Row) {
        self.cuts += 1;
        self.lost += usize::from(row.loss.contains("unflushed"));
        match row.end.as_str() {
            "old" => self.old += 1,
            "new" => self.new += 1,
            _ => self.failed += 1,
        }
        if row.end != Row::FAILED {
            self.serving.push(row.serving);
        }
    }

    fn line(&self, name: &str) -> String {
        let mut sorted = self.serving.clone();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).map_or("–".into(), u64::to_string);
        let Sum { cuts, lost, old, new, failed, .. } = self;
        format!("| {name} | {cuts} | {lost} | {old} | {new} | {failed} | {median} |\n")
    }
}

fn summary(rows: &[Row]) -> String {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    let mut all = Sum::default();
    for row in rows {
        sums.entry(format!("{}, {}", row.upgrade, row.phase)).or_default().add(row);
        all.add(row);
    }
    let mut text = "| upgrade, phase | cuts | unflushed writes lost | old system | new system | failed | serving after, s (median) |\n\
                    | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    sums.iter().for_each(|(name, sum)| text.push_str(&sum.line(name)));
    text.push_str(&all.line("**all**"));
    let mut trees: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    rows.iter().for_each(|row| *trees.entry((&row.commit, row.seed)).or_default() += 1);
    let trees: Vec<String> =
        trees.iter().map(|((commit, seed), cuts)| format!("{commit} seed {seed} ({cuts})")).collect();
    text.push_str(&format!("\nTrees, seeds and cuts: {}.\n", trees.join(", ")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64, end: &str) -> Row {
        Row {
            commit: "abc".into(),
            seed: 7,
            number,
            upgrade: "good".into(),
            phase: "trial".into(),
            at: 10,
            of: 20,
            loss: "all unflushed".into(),
            end: end.into(),
            boots: 2,
            serving: 70 + number,
            said: "two\nlines\tand a tab".into(),
        }
    }

    #[test]
    fn rows_are_added_read_back_and_summed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, page) = (dir.path().join("rows"), dir.path().join("page"));
        assert_eq!(read(&file).unwrap(), []);
        for (number, end) in [(1, "old"), (2, "new"), (3, Row::FAILED)] {
            append(&file, &row(number, end)).unwrap();
        }
        let rows = read(&file).unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0], Row { said: "two lines and a tab".into(), ..row(1, "old") });
        fs::write(&page, format!("above\n{BEGIN}\nold\n{END}\nbelow\n")).unwrap();
        publish(&page, &rows).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.starts_with("above\n") && text.ends_with("\nbelow\n") && !text.contains("old\n<"), "{text}");
        assert!(text.contains("| good, trial | 3 | 3 | 1 | 1 | 1 | 72 |"), "{text}");
        assert!(text.contains("abc seed 7 (3)"), "{text}");
    }

    #[test]
    fn a_row_that_means_nothing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows");
        append(&file, &row(1, "old")).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{text}half a row")).unwrap();
        assert!(format!("{:#}", read(&file).unwrap_err()).contains("rows:3"));
        fs::write(&file, "other\n").unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("columns"));
    }
}
