//! `type=gha` of `--cache-from` and `--cache-to`: attributes, and what the runner's environment says besides.
//!
//! | attribute | without it |
//! | --- | --- |
//! | `token` | `ACTIONS_RUNTIME_TOKEN` |
//! | `url_v2` | `ACTIONS_RESULTS_URL`, when `ACTIONS_CACHE_SERVICE_V2` is true |
//! | `url` | `ACTIONS_CACHE_URL`, else `ACTIONS_RESULTS_URL` |
//! | `repository` | `GITHUB_REPOSITORY`, when there is a `ghtoken` |

use std::time::Duration;

use reqwest::Url;

use super::cache::CacheError;
use super::{ArgsError, Environment, amount, choice};
use crate::cache::actions::{ActionsOptions, Protocol, Rest, Token};

/// Attributes of this type only.
pub const KEYS: [&str; 8] =
    ["scope", "token", "url", "url_v2", "timeout", "repository", "ghtoken", "version"];
/// BuildKit's.
const SCOPE: &str = "buildkit";
const TIMEOUT: Duration = Duration::from_secs(600);
/// Keys of the service have 512 characters at most.
const MAX_SCOPE_CHARS: usize = 200;
/// Of github.com's services.
const GITHUB: &str = "actions.githubusercontent.com";

/// What was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionsSpec {
    scope: String,
    token: Option<Token>,
    url: Option<Url>,
    url_v2: Option<Url>,
    timeout: Duration,
    repository: Option<String>,
    ghtoken: Option<Token>,
    version: Option<Protocol>,
}

impl ActionsSpec {
    /// Reads the attributes.
    pub fn parse<'a>(given: impl Fn(&str) -> Option<&'a str>) -> Result<Self, CacheError> {
        let text = |key: &str| given(key).filter(|value| !value.is_empty());
        let url = |key: &'static str| {
            text(key).map(|value| address(value).ok_or(CacheError::Url { key })).transpose()
        };
        let scope = text("scope").unwrap_or(SCOPE);
        let fits = |c: char| !c.is_control() && !matches!(c, ',' | '#');
        if scope.chars().count() > MAX_SCOPE_CHARS || !scope.chars().all(fits) {
            return Err(CacheError::Scope);
        }
        let repository = text("repository").map(str::to_owned);
        if let Some(name) = repository.as_deref().filter(|name| !is_repository(name)) {
            return Err(CacheError::Repository(name.to_owned()));
        }
        Ok(Self {
            scope: scope.to_owned(),
            token: text("token").map(|token| Token(token.to_owned())),
            url: url("url")?,
            url_v2: url("url_v2")?,
            timeout: text("timeout").map(amount::duration).transpose()?.unwrap_or(TIMEOUT),
            repository,
            ghtoken: text("ghtoken").map(|token| Token(token.to_owned())),
            version: match text("version") {
                None => None,
                Some("1") => Some(Protocol::V1),
                Some("2") => Some(Protocol::V2),
                Some(other) => return Err(CacheError::Version(other.to_owned())),
            },
        })
    }

    /// What the attributes and the environment say together; `None` outside of a job, which has neither token nor
    /// address.
    pub fn resolve(&self, environment: Environment<'_>) -> Result<Option<ActionsOptions>, ArgsError> {
        let variable = |name: &str| {
            let value = environment(name)?.into_string().ok()?;
            (!value.is_empty()).then_some(value)
        };
        let url = |name: &'static str| {
            let bad = || ArgsError::Variable { name, reason: "it is not an http or https URL".to_owned() };
            variable(name).map(|value| address(&value).ok_or_else(bad)).transpose()
        };
        let Some(token) = self.token.clone().or_else(|| variable("ACTIONS_RUNTIME_TOKEN").map(Token)) else {
            return Ok(None);
        };
        let says_v2 =
            || variable("ACTIONS_CACHE_SERVICE_V2").is_some_and(|value| choice::boolean(&value) == Ok(true));
        let results = url("ACTIONS_RESULTS_URL")?;
        let v2 = self.version.map_or_else(says_v2, |version| version == Protocol::V2);
        let url_v2 = self.url_v2.clone().or_else(|| results.clone().filter(|_| v2));
        let url_v2 = url_v2.filter(|_| self.version != Some(Protocol::V1));
        let place = match (url_v2, self.url.clone()) {
            (Some(url), _) => Some((url, Protocol::V2)),
            (None, Some(url)) => Some((url.clone(), self.version.unwrap_or_else(|| protocol_of(&url)))),
            (None, None) => match (url("ACTIONS_CACHE_URL")?, results) {
                // The first protocol is no more there.
                (Some(old), Some(new)) if self.version.is_none() && is_github(&old) => {
                    Some((new, Protocol::V2))
                }
                (Some(url), _) | (None, Some(url)) => {
                    Some((url.clone(), self.version.unwrap_or_else(|| protocol_of(&url))))
                }
                (None, None) => None,
            },
        };
        let Some((url_of_service, protocol)) = place else { return Ok(None) };
        let base = variable("GITHUB_BASE_REF").map(|name| format!("refs/heads/{name}"));
        let repository = self
            .repository
            .clone()
            .or_else(|| variable("GITHUB_REPOSITORY").filter(|name| is_repository(name)));
        let rest = match (&self.ghtoken, repository) {
            (Some(token), Some(repository)) => {
                let github = || address("https://api.github.com").expect("invariant: a URL");
                let url = url("GITHUB_API_URL")?.unwrap_or_else(github);
                Some(Rest { url, repository, token: token.clone() })
            }
            _ => None,
        };
        Ok(Some(ActionsOptions {
            url: url_of_service,
            protocol,
            token,
            scope: self.scope.clone(),
            refs: variable("GITHUB_REF").into_iter().chain(base).collect(),
            timeout: self.timeout,
            rest,
        }))
    }
}

fn address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.host_str().is_some()).then_some(url)
}

fn is_github(url: &Url) -> bool {
    url.host_str().is_some_and(|host| host == GITHUB || host.ends_with(&format!(".{GITHUB}")))
}

/// What an address speaks that nobody has said it of.
fn protocol_of(url: &Url) -> Protocol {
    if is_github(url) { Protocol::V2 } else { Protocol::V1 }
}

fn is_repository(name: &str) -> bool {
    let fits = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    name.split_once('/').is_some_and(|(owner, name)| fits(owner) && fits(name))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn resolve(attributes: &[(&str, &str)], variables: &[(&str, &str)]) -> Option<ActionsOptions> {
        let find = |all: &[(&str, &str)], name: &str| {
            all.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let spec = ActionsSpec::parse(|name| {
            attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
        });
        spec.unwrap().resolve(&|name| find(variables, name).map(OsString::from)).unwrap()
    }

    const TOKEN: (&str, &str) = ("ACTIONS_RUNTIME_TOKEN", "t");
    const OLD: (&str, &str) = ("ACTIONS_CACHE_URL", "https://artifactcache.actions.githubusercontent.com/x/");
    const NEW: (&str, &str) =
        ("ACTIONS_RESULTS_URL", "https://results-receiver.actions.githubusercontent.com/");
    const V2: (&str, &str) = ("ACTIONS_CACHE_SERVICE_V2", "True");

    #[test]
    fn the_runner_says_where_the_service_is() {
        let place = |attributes: &[(&str, &str)], variables: &[(&str, &str)]| {
            let found = resolve(attributes, &[variables, &[TOKEN]].concat())?;
            Some((found.url.to_string(), found.protocol))
        };
        let new = || Some((NEW.1.to_owned(), Protocol::V2));
        assert_eq!(place(&[], &[V2, OLD, NEW]), new());
        assert_eq!(place(&[], &[NEW]), new());
        assert_eq!(place(&[], &[OLD, NEW]), new(), "github.com has one protocol left");
        let own = ("ACTIONS_CACHE_URL", "http://10.0.0.1:8088/abc/");
        assert_eq!(place(&[], &[own, NEW]), Some((own.1.to_owned(), Protocol::V1)));
        assert_eq!(place(&[("version", "1")], &[OLD, NEW]), Some((OLD.1.to_owned(), Protocol::V1)));
        assert_eq!(place(&[("url", "http://h/")], &[NEW]), Some(("http://h/".to_owned(), Protocol::V1)));
        assert_eq!(
            place(&[("url", "http://h/"), ("version", "2")], &[]),
            Some(("http://h/".to_owned(), Protocol::V2))
        );
        assert_eq!(
            place(&[("url_v2", "http://v/"), ("url", "http://h/")], &[OLD]),
            Some(("http://v/".to_owned(), Protocol::V2))
        );
        assert_eq!(place(&[], &[]), None);
        assert_eq!(resolve(&[], &[V2, NEW]), None, "no token");
    }

    #[test]
    fn attributes_come_before_the_environment() {
        let found = resolve(
            &[
                ("token", "mine"),
                ("scope", "app"),
                ("timeout", "90s"),
                ("ghtoken", "g"),
                ("url_v2", "http://h/"),
            ],
            &[
                TOKEN,
                ("GITHUB_REF", "refs/pull/7/merge"),
                ("GITHUB_BASE_REF", "main"),
                ("GITHUB_REPOSITORY", "me/app"),
            ],
        )
        .unwrap();
        assert_eq!(
            (found.token.0.as_str(), found.scope.as_str(), found.timeout.as_secs()),
            ("mine", "app", 90)
        );
        assert_eq!(found.refs, ["refs/pull/7/merge", "refs/heads/main"]);
        let rest = found.rest.unwrap();
        assert_eq!((rest.repository.as_str(), rest.url.as_str()), ("me/app", "https://api.github.com/"));
    }
}
