//! Lines of the live display, laid out and drawn by indicatif: templates with a part at the right edge, and the bar
//! of a transfer.
//!
//! Each line is an [`indicatif::ProgressBar`] drawn onto a canvas of one row (indicatif's `TermLike` draw target),
//! and [`super::screen`] puts the rows together. indicatif's own `MultiProgress` is not used for that: it pads every
//! line to the full width and counts rows at the old width, so a terminal that was made narrower keeps remains of old
//! frames.
//!
//! Invariants:
//! - a line is never wider than asked for, and the same input gives the same line: no clock is read into it.

use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::ui::text;

/// Columns of a transfer's bar with its brackets, and what must be left for its name.
const BAR_COLUMNS: usize = 22;
const NAME_COLUMNS: usize = 24;

static PLAIN: LazyLock<ProgressStyle> = LazyLock::new(|| style("{wide_msg} {prefix}"));
static WITH_BAR: LazyLock<ProgressStyle> =
    LazyLock::new(|| style("{wide_msg} [{bar:20}] {prefix}").progress_chars("=> "));

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("invariant: the templates are literals that parse")
}

/// `left` cut as needed, then `right` at the right edge; `right` is left out where it would leave nothing of `left`.
pub fn line(left: &str, right: &str, columns: usize) -> String {
    let right_width = text::width(right);
    if right_width == 0 || columns < right_width + 12 {
        return text::fit(left, columns).into_owned();
    }
    draw(&PLAIN, text::fit(left, columns - right_width - 1).into_owned(), right, None, columns)
}

/// As [`line`], with a bar of how much of `total` is done before `right` where there is room for one.
pub fn transfer(left: &str, right: &str, done: u64, total: Option<u64>, columns: usize) -> String {
    let used = text::width(right) + 1 + BAR_COLUMNS + 1;
    let Some(total) = total.filter(|_| columns >= used + NAME_COLUMNS) else {
        return line(left, right, columns);
    };
    let left = text::fit(left, columns - used).into_owned();
    draw(&WITH_BAR, left, right, Some((done.min(total), total)), columns)
}

fn draw(
    style: &ProgressStyle,
    left: String,
    right: &str,
    position: Option<(u64, u64)>,
    columns: usize,
) -> String {
    let canvas = Canvas { columns: u16::try_from(columns).unwrap_or(u16::MAX), row: Arc::default() };
    let (done, total) = position.unzip();
    let target = ProgressDrawTarget::term_like(Box::new(canvas.clone()));
    let bar = ProgressBar::with_draw_target(total, target)
        .with_style(style.clone())
        .with_message(left)
        .with_prefix(right.to_owned())
        .with_position(done.unwrap_or(0));
    bar.tick();
    let mut row = std::mem::take(&mut *canvas.row.lock().unwrap_or_else(PoisonError::into_inner));
    row.truncate(row.trim_end().len());
    row
}

/// A terminal of one row that keeps what is written to it.
#[derive(Debug, Clone)]
struct Canvas {
    columns: u16,
    row: Arc<Mutex<String>>,
}

impl TermLike for Canvas {
    fn width(&self) -> u16 {
        self.columns
    }

    fn height(&self) -> u16 {
        1
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        // indicatif returns to the start of the row before it draws; the row is empty then.
        self.row
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(text.chars().filter(|c| !c.is_control()));
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.row.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_part_stands_at_the_edge() {
        assert_eq!(line(" => step", "1.0s", 20), " => step        1.0s");
        assert_eq!(line(" => a long name of a step", "1.0s", 20), " => a long n... 1.0s");
        assert_eq!(line(" => step", "1.0s", 10), " => step");
        assert_eq!(line(" => {bar} {wide_msg}", "", 30), " => {bar} {wide_msg}");
    }

    #[test]
    fn a_bar_shows_where_there_is_room() {
        let half = transfer("name", "5MB / 10MB", 5, Some(10), 60);
        assert_eq!(half, "name                       [==========>         ] 5MB / 10MB");
        assert!(transfer("name", "20MB / 10MB", 20, Some(10), 60).contains("[====================]"));
        assert!(!transfer("name", "5MB", 5, None, 60).contains('['));
        assert!(!transfer("name", "0B / 0B", 5, Some(10), 40).contains('['));
        for columns in 0..90 {
            let shown = transfer("a name 漢字", "5MB / 10MB 1MB/s", 5, Some(10), columns);
            assert!(text::width(&shown) <= columns, "{columns}: {shown}");
        }
    }
}
