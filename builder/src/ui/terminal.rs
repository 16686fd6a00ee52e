//! What the terminal behind a stream can do.
//!
//! Invariants: nothing here is cached, so that a resize is seen at once.

use std::io::IsTerminal as _;

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

/// Assumed when the terminal does not say.
pub const DEFAULT_SIZE: Size = Size { columns: 80, rows: 24 };

/// True when stderr is a terminal.
pub fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// True when stdout is a terminal.
pub fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Size of the terminal at stderr; [`DEFAULT_SIZE`] when there is none or it does not know.
pub fn stderr_size() -> Size {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { columns: usize::from(size.ws_col), rows: usize::from(size.ws_row) }
        }
        _ => DEFAULT_SIZE,
    }
}

/// Columns of the terminal at stdout; `None` when it is none, so that nothing needs to be cut.
pub fn stdout_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(if size.ws_col > 0 { usize::from(size.ws_col) } else { DEFAULT_SIZE.columns })
}

/// True when the terminal at stderr understands cursor movement.
pub fn stderr_can_redraw() -> bool {
    stderr_is_terminal() && is_capable()
}

fn is_capable() -> bool {
    !matches!(std::env::var("TERM").as_deref(), Ok("" | "dumb") | Err(_))
}

fn colour_is_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What the environment says about displays.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// True when stderr should be coloured: a capable terminal, and `NO_COLOR` unset or empty (no-color.org).
pub fn stderr_colour() -> bool {
    stderr_can_redraw() && colour_is_wanted()
}

/// True when stdout should be coloured, by the same rules.
pub fn stdout_colour() -> bool {
    stdout_is_terminal() && is_capable() && colour_is_wanted()
}

/// True when stdin is a terminal.
pub fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Reads a line from stdin, without its end.
pub fn read_line() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// [`read_line`] without showing what is typed.
pub fn read_hidden_line() -> std::io::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &quiet)?;
    let line = read_line();
    tcsetattr(&stdin, OptionalActions::Flush, &before)?;
    eprintln!();
    line
}
