//! Plain tables for `kiln images` and the like.
//!
//! Invariants: columns are three spaces apart; no line ends in spaces; cells hold no control characters.

use super::text;

/// How the cells of a column stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// At the left edge.
    Left,
    /// At the right edge, for numbers and sizes.
    Right,
}

/// Rows of text under a heading.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

const GAP: &str = "   ";

impl Table {
    /// An empty table with these headings.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; cells beyond the last column are dropped, missing ones are empty.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let shown = |cell: T| text::visible(&cell.into()).into_owned();
        self.rows.push(cells.into_iter().take(self.columns.len()).map(shown).collect());
    }

    /// The table as text, each line ended.
    pub fn render(&self) -> String {
        let cell = |row: &'_ [String], column: usize| row.get(column).cloned().unwrap_or_default();
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let rows: Vec<&[String]> =
            std::iter::once(heading.as_slice()).chain(self.rows.iter().map(Vec::as_slice)).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| rows.iter().map(|row| text::width(&cell(row, column))).max().unwrap_or(0))
            .collect();
        let mut rendered = String::new();
        for row in rows {
            let mut line = String::new();
            for (column, ((_, align), width)) in self.columns.iter().zip(&widths).enumerate() {
                let content = cell(row, column);
                let padding = " ".repeat(width.saturating_sub(text::width(&content)));
                if column > 0 {
                    line.push_str(GAP);
                }
                match align {
                    Align::Left => line.extend([content, padding]),
                    Align::Right => line.extend([padding, content]),
                }
            }
            rendered.push_str(line.trim_end());
            rendered.push('\n');
        }
        rendered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("AGE", Align::Left)]);
        table.row(["debian:12", "77.8MB", "2 weeks ago"]);
        table.row(["漢字", "1kB"]);
        table.row(["a\u{1b}[2J", "1.24GB", "now", "dropped"]);
        insta::assert_snapshot!(table.render(), @r"
        NAME          SIZE   AGE
        debian:12   77.8MB   2 weeks ago
        漢字           1kB
        a\x1b[2J    1.24GB   now
        ");
    }
}
