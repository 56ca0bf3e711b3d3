//! The table at the end of a test run. Decides only how it looks.

use std::time::Duration;

/// How a row ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It passed.
    Passed,
    /// It passed in an earlier run of the same commit.
    PassedBefore,
    /// It did not pass.
    Failed,
}

/// One stage or case.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) outcome: Outcome,
    pub(super) time: Duration,
}

impl Outcome {
    pub(super) fn of<T, E>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Outcome::Passed,
            Err(_) => Outcome::Failed,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Outcome::Passed => "ok",
            Outcome::PassedBefore => "ok (before)",
            Outcome::Failed => "FAILED",
        }
    }
}

/// Prints it.
pub(super) fn print(commit: &str, seed: u32, rows: &[Row]) {
    println!("\n{}", render(commit, seed, rows));
}

fn render(commit: &str, seed: u32, rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut text = format!("commit {commit}  seed {seed}\n");
    for row in rows {
        let seconds = row.time.as_secs_f64();
        text.push_str(&format!("{:<width$}  {:<11}  {seconds:>7.1} s\n", row.name, row.outcome.word()));
    }
    let failed = rows.iter().filter(|row| row.outcome == Outcome::Failed).count();
    let total: f64 = rows.iter().map(|row| row.time.as_secs_f64()).sum();
    text.push_str(&format!("in {total:.0} s: {} passed, {failed} failed", rows.len() - failed));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_there_with_its_outcome() {
        let row = |name: &str, outcome| Row { name: name.into(), outcome, time: Duration::from_millis(1500) };
        let rows = [row("format", Outcome::Passed), row("x", Outcome::Failed), row("y", Outcome::PassedBefore)];
        let want = "commit abc  seed 7\n\
                    format  ok               1.5 s\n\
                    x       FAILED           1.5 s\n\
                    y       ok (before)      1.5 s\n\
                    in 4 s: 2 passed, 1 failed";
        assert_eq!(render("abc", 7, &rows), want);
    }
}
