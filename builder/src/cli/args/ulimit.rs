//! `--ulimit type=soft[:hard]` (cli.md 2.1).
//!
//! Invariants: the soft limit never exceeds the hard one; names are those of docker.

use crate::export::spec::attributes::closest;

/// One resource limit of RUN steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// One of [`NAMES`].
    pub name: &'static str,
    /// Soft limit; [`UNLIMITED`] for none.
    pub soft: u64,
    /// Hard limit; [`UNLIMITED`] for none.
    pub hard: u64,
}

impl std::fmt::Display for Ulimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = |limit: u64| if limit == UNLIMITED { "-1".to_owned() } else { limit.to_string() };
        write!(f, "{}={}:{}", self.name, number(self.soft), number(self.hard))
    }
}

/// No limit: `RLIM_INFINITY`.
pub const UNLIMITED: u64 = u64::MAX;

/// Names of limits, as in docker's go-units.
pub const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Why a text is not a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UlimitError {
    /// Not `name=soft[:hard]`.
    #[error("`{0}` is not of the form name=soft[:hard], e.g. nofile=1024:4096")]
    Form(String),
    /// An unknown name.
    #[error("unknown limit `{name}`{}; known are {}", .meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default(), NAMES.join(", "))]
    Name {
        /// The name.
        name: String,
        /// The most similar one.
        meant: Option<&'static str>,
    },
    /// Not a number.
    #[error("`{0}` is not a limit: write a number, or -1 for no limit")]
    Number(String),
    /// Soft above hard.
    #[error("the soft limit of `{0}` is above the hard limit")]
    Order(String),
}

/// Parses `nofile=1024:4096`.
pub fn parse(text: &str) -> Result<Ulimit, UlimitError> {
    let (name, limits) = text.split_once('=').ok_or_else(|| UlimitError::Form(text.to_owned()))?;
    let known = NAMES.into_iter().find(|known| *known == name);
    let name =
        known.ok_or_else(|| UlimitError::Name { name: name.to_owned(), meant: closest(name, NAMES) })?;
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if soft > hard {
        return Err(UlimitError::Order(text.to_owned()));
    }
    Ok(Ulimit { name, soft, hard })
}

fn number(text: &str) -> Result<u64, UlimitError> {
    match text {
        "-1" | "unlimited" => Ok(UNLIMITED),
        digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map_err(|_| UlimitError::Number(text.to_owned()))
        }
        _ => Err(UlimitError::Number(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        assert_eq!(parse("nofile=123:456"), Ok(Ulimit { name: "nofile", soft: 123, hard: 456 }));
        assert_eq!(parse("core=0"), Ok(Ulimit { name: "core", soft: 0, hard: 0 }));
        assert_eq!(parse("memlock=-1:-1"), Ok(Ulimit { name: "memlock", soft: UNLIMITED, hard: UNLIMITED }));
        assert_eq!(parse("cpu=5:unlimited"), Ok(Ulimit { name: "cpu", soft: 5, hard: UNLIMITED }));
        assert!(matches!(parse("nofile"), Err(UlimitError::Form(_))));
        assert!(matches!(parse("nofiles=1"), Err(UlimitError::Name { meant: Some("nofile"), .. })));
        assert!(matches!(parse("nofile=5:4"), Err(UlimitError::Order(_))));
        assert!(matches!(parse("nofile=-1:4"), Err(UlimitError::Order(_))));
        for bad in
            ["nofile=", "nofile=x", "nofile=1:", "nofile=+1", "nofile=-2", "nofile=1:2:3", "nofile=1.5"]
        {
            assert!(matches!(parse(bad), Err(UlimitError::Number(_))), "{bad}");
        }
    }
}
