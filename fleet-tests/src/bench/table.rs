//! Figures: several measurements, their median, what they are compared with, and whether a goal is met. Text for a
//! terminal and Markdown for the documents.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Unit {
    /// Milliseconds.
    Ms,
    /// Mebibytes.
    MiB,
    /// Bytes.
    Bytes,
    /// Percent of one core.
    Percent,
    /// A bare count.
    Count,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Ms if value < 10.0 => format!("{value:.1} ms"),
            Self::Ms => format!("{value:.0} ms"),
            Self::MiB => format!("{value:.1} MiB"),
            Self::Bytes => format!("{value:.0} B"),
            Self::Percent => format!("{value:.3} %"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// Measurements of one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Samples {
    unit: Unit,
    sorted: Vec<f64>,
}

impl Samples {
    /// # Panics
    /// When there are none.
    pub(super) fn new(unit: Unit, mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        Self { unit, sorted: values }
    }

    pub(super) fn times(times: impl IntoIterator<Item = Duration>) -> Self {
        Self::new(Unit::Ms, times.into_iter().map(|t| t.as_secs_f64() * 1000.0).collect())
    }

    pub(super) fn one(unit: Unit, value: f64) -> Self {
        Self::new(unit, vec![value])
    }

    pub(super) fn median(&self) -> f64 {
        let n = self.sorted.len();
        (self.sorted[(n - 1) / 2] + self.sorted[n / 2]) / 2.0
    }

    fn max(&self) -> f64 {
        self.sorted[self.sorted.len() - 1]
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.unit.show(self.median()))?;
        if self.sorted.len() > 1 {
            let (min, max) = (self.unit.show(self.sorted[0]), self.unit.show(self.max()));
            write!(f, " ({min} – {max}, n={})", self.sorted.len())?;
        }
        Ok(())
    }
}

/// What is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) enum Goal {
    /// The median is at most so many times the reference's.
    Ratio(f64),
    /// The median is at most this.
    Median(f64),
    /// Every single one is at most this.
    Every(f64),
    /// None: for information.
    None,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    what: String,
    ours: Samples,
    reference: Option<(String, Samples)>,
    goal: Goal,
}

impl Row {
    pub(super) fn new(what: &str, ours: Samples) -> Self {
        Self { what: what.to_owned(), ours, reference: None, goal: Goal::None }
    }

    pub(super) fn beside(mut self, what: &str, reference: Samples) -> Self {
        self.reference = Some((what.to_owned(), reference));
        self
    }

    pub(super) fn goal(mut self, goal: Goal) -> Self {
        self.goal = goal;
        self
    }

    fn ratio(&self) -> Option<f64> {
        self.reference.as_ref().map(|(_, reference)| self.ours.median() / reference.median())
    }

    /// Whether the goal is met; `None` without one.
    fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::Ratio(most) => self.ratio().map(|ratio| ratio <= most),
            Goal::Median(most) => Some(self.ours.median() <= most),
            Goal::Every(most) => Some(self.ours.max() <= most),
            Goal::None => None,
        }
    }

    fn cells(&self) -> [String; 5] {
        let reference = self.reference.as_ref().map_or_else(String::new, |(what, s)| format!("{what}: {s}"));
        let ratio = self.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}×"));
        let goal = match self.goal {
            Goal::Ratio(most) => format!("≤ {most}×"),
            Goal::Median(most) => format!("≤ {}", self.ours.unit.show(most)),
            Goal::Every(most) => format!("every one ≤ {}", self.ours.unit.show(most)),
            Goal::None => String::new(),
        };
        let mark = match self.met() {
            Some(true) => "✓ ",
            Some(false) => "✗ ",
            None => "",
        };
        [self.what.clone(), self.ours.to_string(), reference, ratio, format!("{mark}{goal}")]
    }
}

/// For a terminal.
pub(super) fn text(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let [what, ours, reference, ratio, goal] = row.cells();
        let beside = if reference.is_empty() { String::new() } else { format!("\n    beside {reference} → {ratio}") };
        format!("{what}: {ours}  {goal}{beside}\n")
    };
    rows.iter().map(line).collect()
}

fn markdown(machine: &str, rows: &[Row]) -> String {
    let mut text =
        format!("{machine}\n\n| what | Bramble | reference | ratio | goal |\n| --- | --- | --- | --- | --- |\n");
    for row in rows {
        text.push_str(&format!("| {} |\n", row.cells().join(" | ")));
    }
    text
}

/// Puts the table between the markers of a document.
pub(super) fn write(file: &Path, machine: &str, rows: &[Row]) -> anyhow::Result<()> {
    let old = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let new = replace(&old, &markdown(machine, rows));
    let new = new.with_context(|| format!("{} has no lines {BEGIN} and {END}", file.display()))?;
    std::fs::write(file, new).with_context(|| format!("cannot write {}", file.display()))
}

fn replace(old: &str, table: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_or_missed() {
        let ms = |values: &[f64]| Samples::new(Unit::Ms, values.to_vec());
        let row = Row::new("x", ms(&[300.0, 110.0, 90.0])).beside("y", ms(&[100.0]));
        assert_eq!(row.ours.to_string(), "110 ms (90 ms – 300 ms, n=3)");
        assert_eq!(row.clone().goal(Goal::Ratio(1.15)).met(), Some(true));
        assert_eq!(row.clone().goal(Goal::Ratio(1.05)).met(), Some(false));
        assert_eq!(row.clone().goal(Goal::Median(110.0)).met(), Some(true));
        assert_eq!(row.clone().goal(Goal::Every(299.0)).met(), Some(false));
        assert_eq!(row.met(), None);
        assert!((ms(&[1.0, 2.0]).median() - 1.5).abs() < 1e-9);
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let old = format!("# A\n{BEGIN}\nold\n{END}\ntail\n");
        let rows = [Row::new("x", Samples::one(Unit::Bytes, 27.0)).goal(Goal::Every(40.0))];
        let new = replace(&old, &markdown("a machine", &rows)).unwrap();
        assert!(new.starts_with("# A\n") && new.ends_with(&format!("{END}\ntail\n")), "{new}");
        assert!(new.contains("| x | 27 B |  |  | ✓ every one ≤ 40 B |\n") && !new.contains("old"), "{new}");
        assert_eq!(replace("no markers", "t"), None);
    }
}
