//! What is known of the cache service before it is spoken to.
//!
//! Invariants: a [`Token`] does not show itself.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use reqwest::Url;
use serde::Deserialize;

use super::ActionsError;

/// The permission to write in a token's claims.
const WRITE: u32 = 2;
/// Most scopes of a token that are looked at; GitHub gives three.
const MAX_REFS: usize = 8;

/// A secret that no log, record or debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Which protocol the service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `_apis/artifactcache`: GitHub Enterprise Server and other forges; github.com has given it up in April 2025.
    V1,
    /// Twirp, with the blobs in a storage of their own.
    V2,
}

/// GitHub's REST interface, which can list entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// `https://api.github.com`.
    pub url: Url,
    /// `OWNER/NAME`.
    pub repository: String,
    /// For that interface; not the cache service's.
    pub token: Token,
}

/// Where the cache service is, and what in it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionsOptions {
    /// Base address.
    pub url: Url,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// `ACTIONS_RUNTIME_TOKEN`: what the job may read and write is inside it.
    pub token: Token,
    /// Name of the cache; several of a repository are apart from each other.
    pub scope: String,
    /// Git references for tokens that do not say where they may read and write: the job's own one first.
    pub refs: Vec<String>,
    /// Longest time that writing takes, or reading one thing.
    pub timeout: Duration,
    /// Asked what is there, instead of one question for each blob.
    pub rest: Option<Rest>,
}

/// What a token says about itself. Nothing rests on it but which keys are asked for: the service decides.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claims {
    /// Git references whose entries can be read: the one that can be written first.
    pub(super) refs: Vec<String>,
    /// Whether one of them, the first, can be written.
    pub(super) writes: bool,
    /// Seconds since 1970.
    expires: Option<u64>,
}

#[derive(Deserialize)]
struct Payload {
    /// A list in JSON, as text.
    #[serde(default)]
    ac: Option<String>,
    #[serde(default)]
    exp: Option<u64>,
}

#[derive(Deserialize)]
struct Access {
    #[serde(rename = "Scope")]
    scope: String,
    #[serde(rename = "Permission")]
    permission: u32,
}

impl Claims {
    /// Reads a token; one that says nothing (other forges) may do everything where the job is.
    pub(super) fn of(options: &ActionsOptions) -> Self {
        let payload = payload(&options.token.0);
        let expires = payload.as_ref().and_then(|payload| payload.exp);
        let access: Option<Vec<Access>> = payload
            .and_then(|payload| serde_json::from_str(&payload.ac?).ok())
            .filter(|ac: &Vec<_>| !ac.is_empty());
        let Some(mut access) = access else {
            let refs = if options.refs.is_empty() { vec![String::new()] } else { options.refs.clone() };
            return Self { refs, writes: true, expires };
        };
        access.truncate(MAX_REFS);
        // Stable: what the token has first stays first among equals.
        access.sort_by_key(|access| access.permission & WRITE == 0);
        let writes = access.first().is_some_and(|access| access.permission & WRITE != 0);
        Self { refs: access.into_iter().map(|access| access.scope).collect(), writes, expires }
    }

    /// Fails with a token that has run out, which is told better here than by a bare 401.
    pub(super) fn check(&self) -> Result<(), ActionsError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match self.expires {
            Some(expires) if expires < now => {
                Err(ActionsError::Expired { ago: Duration::from_secs(now - expires) })
            }
            _ => Ok(()),
        }
    }
}

/// The middle part of a JSON web token (RFC 7519). Its signature is the service's business.
fn payload(token: &str) -> Option<Payload> {
    let middle = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64URL.decode(middle.trim_end_matches('=')).ok()?).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A token with such claims.
    pub(in crate::cache) fn token(claims: &str) -> Token {
        Token(format!("{}.{}.c2ln", BASE64URL.encode(r#"{"alg":"none"}"#), BASE64URL.encode(claims)))
    }

    fn options(token: Token, refs: &[&str]) -> ActionsOptions {
        ActionsOptions {
            url: Url::parse("https://results.example/").unwrap(),
            protocol: Protocol::V2,
            token,
            scope: "buildkit".to_owned(),
            refs: refs.iter().map(|name| (*name).to_owned()).collect(),
            timeout: Duration::from_secs(600),
            rest: None,
        }
    }

    #[test]
    fn a_token_says_what_can_be_read_and_written() {
        let ac = r#"[{\"Scope\":\"refs/heads/main\",\"Permission\":1},{\"Scope\":\"refs/pull/7/merge\",\"Permission\":3}]"#;
        let claims = Claims::of(&options(token(&format!(r#"{{"ac":"{ac}","exp":1,"x":2}}"#)), &["unused"]));
        assert_eq!(claims.refs, ["refs/pull/7/merge", "refs/heads/main"]);
        assert!(claims.writes && matches!(claims.check(), Err(ActionsError::Expired { .. })));
        let ac = ac.replace('3', "1");
        assert!(!Claims::of(&options(token(&format!(r#"{{"ac":"{ac}","exp":9999999999}}"#)), &[])).writes);
    }

    #[test]
    fn a_token_that_says_nothing_is_taken_as_it_is() {
        for text in ["", "opaque", "a.b.c", "a.e30.c", "a.eyJhYyI6Ijw+In0.c"] {
            let claims = Claims::of(&options(Token(text.to_owned()), &["refs/heads/x"]));
            assert_eq!((claims.refs, claims.writes), (vec!["refs/heads/x".to_owned()], true), "{text}");
        }
        assert_eq!(Claims::of(&options(Token(String::new()), &[])).refs, [""]);
    }

    #[test]
    fn a_token_does_not_show_itself() {
        let shown = format!("{:?}", options(Token("geheim".to_owned()), &[]));
        assert!(shown.contains("***") && !shown.contains("geheim"), "{shown}");
    }
}
