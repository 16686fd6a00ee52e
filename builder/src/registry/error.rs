//! What can go wrong with a registry, and what to do about it.
//!
//! Invariants: URLs in messages went through [`crate::net::redacted`]; text that a server sent is bounded and free of
//! control characters.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use super::credentials::Lookup;
use crate::base::digest::{Digest, DigestError};
use crate::net::NetError;

/// Longest piece of a server's own words in a message.
const MAX_MESSAGE_CHARS: usize = 300;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No answer.
    #[error(transparent)]
    Net(#[from] NetError),
    /// An option names no host.
    #[error("`{0}` is not a registry host of the form `host[:port]`")]
    InsecureName(String),
    /// A directory of certificates cannot be listed.
    #[error("cannot list the certificates in `{}`", path.display())]
    CertificateDirectory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Half of a pair.
    #[error("`{}` is of no use without `{}`", path.display(), lacks.display())]
    LoneCertificate {
        /// What there is.
        path: PathBuf,
        /// What there is not.
        lacks: PathBuf,
    },
    /// The registry's name makes no URL.
    #[error("`{0}` is not a registry host that can be contacted")]
    Host(String),
    /// The tag, digest or repository does not exist.
    #[error("no such image `{reference}` in registry `{registry}`: not found{}", said(message))]
    NotFound {
        /// As the user may write it.
        reference: String,
        /// Host.
        registry: String,
        /// The registry's words.
        message: String,
    },
    /// A manifest names a blob that the registry lacks.
    #[error("`{url}` does not exist: the image is incomplete in its registry{}", said(message))]
    BlobNotFound {
        /// Where it should be.
        url: String,
        /// The registry's words.
        message: String,
    },
    /// The registry lacks a blob or a manifest that the pushed manifest names.
    #[error(
        "registry `{registry}` does not take the manifest of `{reference}`: it lacks a part of it{}",
        said(message)
    )]
    Incomplete {
        /// As the user may write it.
        reference: String,
        /// Host.
        registry: String,
        /// The registry's words.
        message: String,
    },
    /// 401 or 403.
    #[error("registry `{registry}` refuses access to `{url}` (status {status}){}", said(message))]
    Denied {
        /// Host.
        registry: String,
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The registry's words.
        message: String,
        /// What was known about credentials.
        lookup: Arc<Lookup>,
    },
    /// Another bad status.
    #[error("`{method} {url}` was answered with status {status}{}", said(message))]
    Status {
        /// `GET`, ….
        method: String,
        /// Redacted.
        url: String,
        /// HTTP status.
        status: u16,
        /// The registry's words.
        message: String,
    },
    /// The bytes are not what was asked for.
    #[error("`{url}` sent content with digest {actual} instead of {expected}")]
    WrongDigest {
        /// Redacted.
        url: String,
        /// As asked for.
        expected: Digest,
        /// As received.
        actual: Digest,
    },
    /// As `WrongDigest`, found by its length.
    #[error("`{url}` sent {actual} bytes instead of {expected}")]
    WrongSize {
        /// Redacted.
        url: String,
        /// As stated.
        expected: u64,
        /// As received; more may have followed.
        actual: u64,
    },
    /// The connection broke too often.
    #[error("`{url}` broke off after {received} of {size} bytes, {attempts} times in a row")]
    Broken {
        /// Redacted.
        url: String,
        /// Bytes so far.
        received: u64,
        /// Bytes in all.
        size: u64,
        /// Number of tries.
        attempts: u32,
        /// The last reason, when there is one besides a body that just ended.
        source: Option<NetError>,
    },
    /// A partial answer for another part than the one asked for.
    #[error("`{url}` was asked to go on at byte {wanted} and sent `{got}`")]
    WrongRange {
        /// Redacted.
        url: String,
        /// Offset.
        wanted: u64,
        /// `Content-Range`.
        got: String,
    },
    /// More than kiln reads of such a document.
    #[error("`{url}` is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Redacted.
        url: String,
        /// In bytes.
        limit: u64,
    },
    /// A document that does not parse.
    #[error("`{url}` sent a malformed {what}")]
    Malformed {
        /// Redacted.
        url: String,
        /// `manifest`, ….
        what: &'static str,
        /// Where.
        source: serde_json::Error,
    },
    /// A manifest that readers could take for two different things.
    #[error("`{url}` sent a manifest that is ambiguous: {reason}")]
    Ambiguous {
        /// Redacted.
        url: String,
        /// How.
        reason: String,
    },
    /// Something else than an image.
    #[error("`{reference}` has the media type `{media_type}`, which is not an image that kiln can read")]
    MediaType {
        /// As the user may write it.
        reference: String,
        /// Shortened.
        media_type: String,
    },
    /// An index without the platform.
    #[error("`{reference}` has no image for {wanted}; it offers {}", offers(offered))]
    NoPlatform {
        /// As the user may write it.
        reference: String,
        /// Asked for.
        wanted: String,
        /// Sorted.
        offered: Vec<String>,
    },
    /// An index in an index in an index.
    #[error("`{0}` is an index nested too deeply")]
    Nested(String),
    /// A digest header that is none.
    #[error("`{url}` sent a bad Docker-Content-Digest")]
    DigestHeader {
        /// Redacted.
        url: String,
        /// Why.
        source: DigestError,
    },
    /// Credentials asked for in the clear.
    #[error("registry `{registry}` wants credentials sent unencrypted to `{realm}`")]
    PlainRealm {
        /// Host.
        registry: String,
        /// Redacted.
        realm: String,
    },
    /// A challenge that kiln cannot answer.
    #[error("registry `{registry}` asks for authentication in a way that is not supported: `{challenge}`")]
    Challenge {
        /// Host.
        registry: String,
        /// Shortened.
        challenge: String,
    },
    /// The token server answered without a token.
    #[error("`{0}` sent an answer without a usable token")]
    NoToken(String),
    /// An upload without a place to go to.
    #[error("`{0}` accepted an upload without saying where to send it")]
    NoLocation(String),
    /// The caller's writer failed.
    #[error("cannot store what `{url}` sends")]
    Sink {
        /// Redacted.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// The caller's reader failed.
    #[error("cannot read blob {digest} to push it")]
    Source {
        /// Which.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// The caller's reader ended too early.
    #[error("blob {digest} should have {size} bytes and has {actual}")]
    ShortSource {
        /// Which.
        digest: Digest,
        /// As described.
        size: u64,
        /// As read.
        actual: u64,
    },
}

impl RegistryError {
    /// What the user can do, one line, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Denied { registry, lookup, .. } => {
                Some(match (&lookup.credential, lookup.problems.first()) {
                    (None, Some(problem)) => {
                        format!("no credentials could be had for `{registry}`: {problem}")
                    }
                    (None, None) => {
                        format!("the image may not exist, or it needs a login: `kiln login {registry}`")
                    }
                    (Some(_), _) => format!(
                        "the credentials for `{registry}` were not good enough; log in again with `kiln login \
                         {registry}` or check the account's rights"
                    ),
                })
            }
            Self::Net(error) => error.hint().map(str::to_owned),
            Self::NotFound { .. } => Some("check the spelling of the name and the tag".to_owned()),
            Self::NoPlatform { .. } => Some("choose one of these with `--platform`".to_owned()),
            Self::Status { status: 429, .. } => {
                Some("the registry limits how often it is asked; log in or try again later".to_owned())
            }
            _ => None,
        }
    }

    /// True when the same call may succeed a little later. Calls have already been retried when they say so.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Net(error) => error.is_temporary(),
            Self::Status { status, .. } => {
                reqwest::StatusCode::from_u16(*status).is_ok_and(crate::net::retry::is_temporary_status)
            }
            Self::Broken { .. } => true,
            _ => false,
        }
    }

    /// True when the build was cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Net(NetError::Cancelled))
    }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn offers(offered: &[String]) -> String {
    if offered.is_empty() { "no platform at all".to_owned() } else { offered.join(", ") }
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
    #[serde(default)]
    details: String,
    #[serde(default)]
    error_description: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The words of an error answer (distribution spec, "Error Codes"; token servers use other keys).
pub(super) fn message_of(body: &[u8]) -> String {
    let Ok(parsed) = serde_json::from_slice::<ErrorBody>(body) else {
        let text = String::from_utf8_lossy(body);
        // Pages of HTML say nothing that fits a line.
        return if text.trim_start().starts_with(['<', '{', '[']) { String::new() } else { tidy(&text) };
    };
    let entries: Vec<String> = parsed
        .errors
        .iter()
        .map(|entry| if entry.message.is_empty() { entry.code.clone() } else { entry.message.clone() })
        .chain([parsed.details, parsed.error_description, parsed.message])
        .filter(|text| !text.is_empty())
        .collect();
    tidy(&entries.join("; "))
}

/// The codes of an error answer.
pub(super) fn codes_of(body: &[u8]) -> Vec<String> {
    let parsed = serde_json::from_slice::<ErrorBody>(body);
    parsed.map(|body| body.errors.into_iter().map(|entry| entry.code).collect()).unwrap_or_default()
}

/// One line without control characters.
pub(super) fn tidy(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_registries() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m rights"},{"code":"X"}]}"#;
        assert_eq!(message_of(body), "no [31m rights; X");
        assert_eq!(
            message_of(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
        assert_eq!(message_of(b"<html>sorry</html>"), "");
        assert_eq!(message_of(b"plain\nwords\n"), "plain words");
        assert_eq!(tidy(&"x".repeat(1000)).chars().count(), MAX_MESSAGE_CHARS + 1);
    }
}
