//! Why the cache service of GitHub Actions could not be used.
//!
//! Invariants: no message has a token or the query of a signed URL in it.

use std::io;
use std::time::Duration;

use crate::base::digest::Digest;
use crate::net::NetError;

/// Longest message of a service that is shown, in characters.
const MAX_MESSAGE_CHARS: usize = 300;

/// Why the cache service could not be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ActionsError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("the token for the cache service ran out {} ago", minutes(*ago))]
    Expired { ago: Duration },
    #[error("the token may only read the cache")]
    ReadOnly,
    #[error("`{url}` refuses the token ({status}){}", said(.message))]
    Denied { url: String, status: u16, message: String },
    #[error("cannot {action}: `{url}` answers {status}{}", said(.message))]
    Status { action: &'static str, url: String, status: u16, message: String },
    #[error("cannot {action}: the cache service says no{}", said(.message))]
    Refused { action: &'static str, message: String },
    #[error("cannot {action}: the answer of `{url}` is not what the cache service answers")]
    Malformed {
        action: &'static str,
        url: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot {action}: the answer of `{url}` is larger than {limit} bytes")]
    TooLarge { action: &'static str, url: String, limit: usize },
    #[error("the cache service names an address that is not used: {0}")]
    Address(&'static str),
    #[error("the index `{key}` of the cache is damaged: {reason}")]
    Index { key: String, reason: &'static str },
    #[error("the cache service does not have {0} any more")]
    NoBlob(Digest),
    #[error("`{url}` sends more than the {size} bytes of the blob")]
    TooLong { url: String, size: u64 },
    #[error("`{url}` broke off {attempts} times, the last time after {received} of {size} bytes")]
    Broken {
        url: String,
        received: u64,
        size: u64,
        attempts: u32,
        #[source]
        source: Option<NetError>,
    },
    #[error("cannot read the blob to be sent")]
    Source(#[source] io::Error),
    #[error("cannot keep what `{url}` sends")]
    Sink {
        url: String,
        #[source]
        source: io::Error,
    },
    #[error("the cache service took longer than {} to {action}", seconds(*.timeout))]
    Timeout { action: &'static str, timeout: Duration },
    #[error("other jobs are writing to the cache all the time")]
    Busy,
}

impl ActionsError {
    /// Whether one blob is bad, and not the service out of reach.
    pub(in crate::cache) fn is_about_one_step(&self) -> bool {
        matches!(self, Self::NoBlob(_) | Self::TooLong { .. })
    }

    /// What the user can do.
    pub(in crate::cache) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Net(error) => error.hint()?.to_owned(),
            Self::Expired { .. } | Self::Denied { .. } => "a token is good for its own job only: \
                 take ACTIONS_RUNTIME_TOKEN of this run, see docs/ci.md"
                .to_owned(),
            Self::ReadOnly => {
                "jobs for changes from forks may not write: leave out --cache-to there".to_owned()
            }
            Self::Timeout { .. } => "`timeout=` of the cache gives it more time".to_owned(),
            _ => return None,
        })
    }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn seconds(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{}s", time.as_secs()) } else { format!("{}ms", time.as_millis()) }
}

fn minutes(time: Duration) -> String {
    format!("{} min", time.as_secs().div_ceil(60))
}

/// A server's words on one line, without anything that could move a cursor.
pub(super) fn tidy(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(MAX_MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_one_short_line() {
        assert_eq!(tidy(" a\n\u{1b}[31m b "), "a [31m b");
        assert_eq!(tidy(&"x".repeat(9999)).len(), MAX_MESSAGE_CHARS);
    }
}
