//! Columns of text, two blanks apart. The last column is not padded and may be long.

use super::style::{Tone, clean, paint};

/// A table that grows by rows.
#[derive(Debug, Default)]
pub(crate) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<(Tone, String)>>,
}

/// How wide a text shows, near enough: one column for each character that is not a mark on another.
fn width(text: &str) -> usize {
    text.chars().filter(|c| !matches!(c, '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe0f}')).count()
}

impl Table {
    /// With these headings.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: vec![] }
    }

    /// One more row; texts are made harmless here.
    pub(crate) fn row(&mut self, cells: Vec<(Tone, String)>) {
        debug_assert_eq!(cells.len(), self.head.len(), "invariant: a cell for each heading");
        self.rows.push(cells.into_iter().map(|(tone, text)| (tone, clean(&text).into_owned())).collect());
    }

    /// The whole table as text.
    pub(crate) fn render(&self) -> String {
        let mut text = self.line(&self.head.iter().map(|h| (Tone::Strong, (*h).to_owned())).collect::<Vec<_>>());
        text.extend(self.rows.iter().map(|row| self.line(row)));
        text
    }

    /// The newest row alone, laid out as `render` would.
    pub(crate) fn render_last(&self) -> String {
        self.rows.last().map(|row| self.line(row)).unwrap_or_default()
    }

    fn line(&self, cells: &[(Tone, String)]) -> String {
        let mut line = String::new();
        for (i, (tone, text)) in cells.iter().enumerate() {
            line.push_str(&paint(*tone, text));
            if i + 1 < cells.len() {
                let pad = self.column(i).saturating_sub(width(text)) + 2;
                line.extend(std::iter::repeat_n(' ', pad));
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }

    fn column(&self, i: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|(_, text)| width(text));
        cells.chain([width(self.head[i])]).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_ends_are_trimmed() {
        let mut table = Table::new(&["NAME", "STATE", "LABELS"]);
        let plain = |cells: [&str; 3]| cells.map(|c| (Tone::Plain, c.to_owned())).to_vec();
        table.row(plain(["pi-1", "active", "site=paris"]));
        table.row(plain(["pi-with-a-long-name", "ok", ""]));
        assert_eq!(
            table.render(),
            "NAME                 STATE   LABELS\n\
             pi-1                 active  site=paris\n\
             pi-with-a-long-name  ok\n"
        );
        assert_eq!(table.render_last(), "pi-with-a-long-name  ok\n");
    }

    #[test]
    fn a_cell_cannot_steer_the_terminal_or_break_the_line() {
        let mut table = Table::new(&["A"]);
        table.row(vec![(Tone::Plain, "x\ny\x1b[2J".into())]);
        assert_eq!(table.render(), "A\nx\u{fffd}y\u{fffd}[2J\n");
    }
}
