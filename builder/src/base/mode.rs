//! Modes as `--chmod` states them: octal (`0755`) or symbolic (`u=rwX,go=rX`).
//!
//! Invariants:
//! - parsing is pure, so the planner can refuse a bad mode before anything runs;
//! - a mode never changes the file type: input and output are the low twelve bits (07777);
//! - without `u`, `g`, `o` or `a` a clause means everybody; the umask plays no part (language.md 1.8).

/// Set-user-id.
const SET_USER: u32 = 0o4000;
/// Set-group-id.
const SET_GROUP: u32 = 0o2000;
/// Sticky.
const STICKY: u32 = 0o1000;
/// Anybody may execute.
const ANY_EXECUTE: u32 = 0o111;

/// A parsed `--chmod` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// All twelve bits are given.
    Octal(u32),
    /// Changes to the mode that the source has.
    Symbolic(Vec<Change>),
}

/// One operation of a symbolic mode, e.g. the `+x` of `ug+x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Classes as a mask of the bits that may change.
    who: u32,
    operator: Operator,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    /// Bits for all classes; `conditional` ones (`X`) only for directories and what was executable before.
    Bits { plain: u32, conditional: u32 },
    /// The permissions of a class (its shift: 6, 3 or 0).
    CopyOf(u32),
}

/// Why a mode is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ModeError {
    /// Begins like a number but is not octal, or is too large. The text is BuildKit's.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    NotOctal(String),
    /// Not a symbolic mode either.
    #[error(
        "invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777, \
         or symbolic such as `u=rwX,go=rX`"
    )]
    NotSymbolic(String),
}

impl Mode {
    /// Parses the value of `--chmod` (semantics facts 17 and 18, language.md 1.8).
    pub fn parse(text: &str) -> Result<Self, ModeError> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let octal = text.bytes().all(|b| matches!(b, b'0'..=b'7'));
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if octal && mode <= 0o7777 => Ok(Self::Octal(mode)),
                _ => Err(ModeError::NotOctal(text.to_owned())),
            };
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut changes).ok_or_else(|| ModeError::NotSymbolic(text.to_owned()))?;
        }
        Ok(Self::Symbolic(changes))
    }

    /// The new mode of something that has `mode`.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(octal) => *octal,
            Self::Symbolic(changes) => {
                let before = mode & 0o7777;
                // `X` asks about the mode before any change, as BSD's setmode and so BuildKit does.
                let executable = is_directory || before & ANY_EXECUTE != 0;
                changes.iter().fold(before, |mode, change| change.apply(mode, executable))
            }
        }
    }

    /// The mode of directories that are made for a destination: the permissions of an octal mode, nothing for a
    /// symbolic one (semantics fact 17).
    pub fn of_created_directories(&self) -> Option<u32> {
        match self {
            Self::Octal(octal) => Some(octal & 0o777),
            Self::Symbolic(_) => None,
        }
    }
}

impl Change {
    fn apply(self, mode: u32, executable: bool) -> u32 {
        let (who, bits) = match self.value {
            Value::Bits { plain, conditional } => {
                (self.who, plain | if executable { conditional } else { 0 })
            }
            Value::CopyOf(shift) => {
                let class = mode >> shift & 0o7;
                // Copying permissions leaves the set-id bits alone.
                (self.who & 0o777, class << 6 | class << 3 | class)
            }
        };
        let bits = bits & who;
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            // Sticky stays unless it is named: it belongs to no class.
            Operator::Set => mode & !(who & !STICKY | bits) | bits,
        }
    }
}

/// Adds the changes of one clause; `None` when it is malformed.
fn parse_clause(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let operators_at = clause.find(['+', '-', '='])?;
    let (classes, mut rest) = clause.split_at(operators_at);
    let mut who = 0;
    for class in classes.bytes() {
        who |= match class {
            b'u' => SET_USER | 0o700,
            b'g' => SET_GROUP | 0o070,
            b'o' => 0o007,
            b'a' => SET_USER | SET_GROUP | 0o777,
            _ => return None,
        };
    }
    // "t" and "s" mean nothing for others alone.
    let special = who & (SET_USER | SET_GROUP) != 0 || who == 0;
    if who == 0 {
        who = SET_USER | SET_GROUP | 0o777;
    }
    if special {
        who |= STICKY;
    }
    while let Some(first) = rest.bytes().next() {
        let operator = match first {
            b'+' => Operator::Add,
            b'-' => Operator::Remove,
            b'=' => Operator::Set,
            _ => return None,
        };
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let (permissions, next) = rest.split_at(end);
        rest = next;
        changes.push(Change { who, operator, value: parse_permissions(permissions)? });
    }
    Some(())
}

fn parse_permissions(text: &str) -> Option<Value> {
    match text {
        "u" => return Some(Value::CopyOf(6)),
        "g" => return Some(Value::CopyOf(3)),
        "o" => return Some(Value::CopyOf(0)),
        _ => {}
    }
    let (mut plain, mut conditional) = (0, 0);
    for permission in text.bytes() {
        match permission {
            b'r' => plain |= 0o444,
            b'w' => plain |= 0o222,
            b'x' => plain |= 0o111,
            b'X' => conditional |= 0o111,
            b's' => plain |= SET_USER | SET_GROUP,
            b't' => plain |= STICKY,
            _ => return None,
        }
    }
    Some(Value::Bits { plain, conditional })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(text: &str, mode: u32, is_directory: bool) -> u32 {
        Mode::parse(text).unwrap().apply(mode, is_directory)
    }

    #[test]
    fn octal_modes_replace_everything() {
        assert_eq!(apply("4755", 0o640, false), 0o4755);
        assert_eq!(apply("0", 0o777, true), 0);
        assert_eq!(apply("00644", 0o777, true), 0o644);
        assert_eq!(Mode::parse("4755").unwrap().of_created_directories(), Some(0o755));
    }

    #[test]
    fn symbolic_modes_change_what_is_there() {
        for (text, mode, file, directory) in [
            ("u=rwX,go=rX", 0o600, 0o644, 0o755),
            ("u=rwX,go=rX", 0o700, 0o755, 0o755),
            ("u=rwX,go=rX", 0o666, 0o644, 0o755),
            ("+x", 0o644, 0o755, 0o755),
            ("a+r,u+w", 0o400, 0o644, 0o644),
            ("g=u", 0o740, 0o770, 0o770),
            ("g=u", 0o2740, 0o2770, 0o2770),
            ("go=", 0o777, 0o700, 0o700),
            ("go-w", 0o666, 0o644, 0o644),
            ("go=u-w", 0o700, 0o755, 0o755),
            ("u+s", 0o755, 0o4755, 0o4755),
            ("g+s", 0o755, 0o2755, 0o2755),
            ("+s", 0o755, 0o6755, 0o6755),
            ("o+s", 0o755, 0o755, 0o755),
            ("+t", 0o777, 0o1777, 0o1777),
            ("u=rw", 0o4755, 0o655, 0o655),
            ("=r", 0o1755, 0o1444, 0o1444),
            ("a=rX", 0o640, 0o444, 0o555),
            // X looks at the mode before the first change.
            ("a-x,a+X", 0o711, 0o711, 0o711),
        ] {
            assert_eq!(apply(text, mode, false), file, "{text} on file {mode:o}");
            assert_eq!(apply(text, mode, true), directory, "{text} on directory {mode:o}");
        }
        assert_eq!(Mode::parse("+x").unwrap().of_created_directories(), None);
    }

    #[test]
    fn bad_modes_are_named() {
        for bad in ["888", "10000", "07778", "0x1ff", "99999999999999999999", "6_4"] {
            assert_eq!(
                Mode::parse(bad).unwrap_err().to_string(),
                format!(
                    "invalid chmod parameter: '{bad}'. it should be octal string and between 0 and 07777"
                )
            );
        }
        for bad in ["zzz", "", "u", "u=q", "u=rw,", "w+x", "-9", "u=rug", "+-é"] {
            let error = Mode::parse(bad).unwrap_err();
            assert!(error.to_string().starts_with(&format!("invalid chmod parameter: '{bad}'")), "{error}");
        }
    }
}
