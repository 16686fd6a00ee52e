//! Plain tables for `kiln images` and the like.
//!
//! Invariants: columns are three spaces apart, two where a terminal is too narrow; no line ends in spaces; cells hold no control characters.

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
const NARROW_GAP: &str = "  ";
/// Fewest columns of a column that is cut.
const MIN_CUT_COLUMNS: usize = 8;

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

    /// The table as text, each line ended, with one column cut so that lines fit into a terminal of so many columns.
    /// What the other columns leave to it is at least [`MIN_CUT_COLUMNS`].
    pub fn render_within(mut self, columns: usize, cut: usize) -> String {
        let widest = |rendered: &str| rendered.lines().map(text::width).max().unwrap_or(0);
        let rendered = self.render();
        if widest(&rendered) <= columns {
            return rendered;
        }
        let widest = widest(&self.render_with(NARROW_GAP));
        let cells = self.rows.iter().filter_map(|row| row.get(cut));
        let width = cells.map(|cell| text::width(cell)).max().unwrap_or(0);
        let room = width.saturating_sub(widest.saturating_sub(columns)).max(MIN_CUT_COLUMNS);
        for cell in self.rows.iter_mut().filter_map(|row| row.get_mut(cut)) {
            *cell = text::fit(cell, room).into_owned();
        }
        self.render_with(NARROW_GAP)
    }

    /// The table as text, each line ended.
    pub fn render(&self) -> String {
        self.render_with(GAP)
    }

    fn render_with(&self, gap: &str) -> String {
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
                    line.push_str(gap);
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
        let mut table = Table::new(&[("ID", Align::Left), ("NAME", Align::Left), ("SIZE", Align::Right)]);
        table.row(["1", "registry.example/team/application:latest", "1MB"]);
        table.row(["2", "app", "20MB"]);
        insta::assert_snapshot!(table.clone().render_within(32, 1), @r"
        ID  NAME                    SIZE
        1   registry.example/te...   1MB
        2   app                     20MB
        ");
        assert_eq!(table.clone().render_within(80, 1), table.render());
        assert!(table.render_within(3, 1).contains("1   regis...  "));
    }
}
