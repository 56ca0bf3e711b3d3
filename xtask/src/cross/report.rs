//! What is told of the programs: their size and their digest. Decides only how it looks.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::build::Toolchain;
use super::{AGENT_BYTES_MAX, Programs};
use crate::prepare::sha256_of;

const BEGIN: &str = "<!-- cross: begin -->";
const END: &str = "<!-- cross: end -->";

/// One program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    name: String,
    bytes: u64,
    bytes_max: Option<u64>,
    digest: String,
}

pub(super) fn rows(programs: &Programs) -> anyhow::Result<Vec<Row>> {
    let row = |program: &Path| {
        let bytes = fs::metadata(program).with_context(|| format!("cannot read {}", program.display()))?.len();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes_max = (program == programs.agent).then_some(AGENT_BYTES_MAX);
        Ok(Row { name, bytes, bytes_max, digest: sha256_of(program)? })
    };
    programs.all().into_iter().map(row).collect()
}

/// For a terminal.
pub(super) fn text(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let goal = row.goal().map(|goal| format!("  {goal}")).unwrap_or_default();
        format!("{:<18} {:>9}  sha256 {}{goal}", row.name, mib(row.bytes), row.digest)
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Puts the table into a document, between its marks.
pub(super) fn write(file: &Path, toolchain: &Toolchain, rows: &[Row]) -> anyhow::Result<()> {
    let old = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let made = format!("Rust {}, standard library: {}.", toolchain.rust, toolchain.std.way.in_short());
    let table = markdown(&made, rows);
    let new = replace(&old, &table).with_context(|| format!("{} has no {BEGIN} … {END}", file.display()))?;
    fs::write(file, new).with_context(|| format!("cannot write {}", file.display()))
}

fn markdown(made: &str, rows: &[Row]) -> String {
    let mut text = format!("{made}\n\n| program | size | bytes | goal |\n| --- | --- | --- | --- |\n");
    for row in rows {
        let goal = row.goal().unwrap_or_default();
        text.push_str(&format!("| `{}` | {} | {} | {goal} |\n", row.name, mib(row.bytes), row.bytes));
    }
    text
}

impl Row {
    fn goal(&self) -> Option<String> {
        let max = self.bytes_max?;
        Some(format!("{} ≤ {}", if self.bytes <= max { "✓" } else { "✗" }, mib(max)))
    }
}

fn replace(old: &str, table: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

#[allow(clippy::cast_precision_loss, reason = "a program has far fewer bytes than a float counts exactly")]
fn mib(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / 1024.0 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> [Row; 2] {
        let row = |name: &str, bytes, bytes_max| Row { name: name.into(), bytes, bytes_max, digest: "ab".into() };
        [row("agent", 9 << 20, Some(8 << 20)), row("guard", 1 << 19, None)]
    }

    #[test]
    fn a_program_that_is_too_big_is_marked() {
        let want = "agent               9.00 MiB  sha256 ab  ✗ ≤ 8.00 MiB\nguard               0.50 MiB  sha256 ab";
        assert_eq!(text(&rows()), want);
    }

    #[test]
    fn the_table_stands_between_its_marks() {
        let old = format!("# A\n{BEGIN}\nold\n{END}\ntail\n");
        let new = replace(&old, &markdown("made so", &rows())).unwrap();
        assert!(new.starts_with("# A\n") && new.ends_with(&format!("{END}\ntail\n")), "{new}");
        assert!(new.contains("| `guard` | 0.50 MiB | 524288 |  |\n") && !new.contains("old"), "{new}");
        assert_eq!(replace("no marks", "t"), None);
    }
}
