//! Source policies: which images, downloads, repositories and directories a build may take, and what it takes in
//! place of some. The files and their meaning are BuildKit's (docs/security.md).
//!
//! | source | identifier | attributes that a rule may set |
//! |---|---|---|
//! | an image | `docker-image://docker.io/library/alpine:3` | |
//! | an image of a layout | `oci-layout://PATH` as written | |
//! | a download | the URL | `http.checksum` |
//! | a git repository | `git://HOST/PATH#REF:FOLDER` | `git.checksum`, `git.fullurl` |
//! | a directory of the client | `local://context`, or the name of a context | |
//!
//! Invariants:
//! - of ALLOW and DENY the last rule that matches decides, and what no rule matches is allowed;
//! - after a CONVERT all rules are asked again about the new source, so nothing denied comes back under another name;
//! - a key that is not known is an error: a rule must not be lost by a typing mistake.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde::Deserialize;

use crate::base::digest::Digest;

use super::graph::{GitSpec, HttpSpec, Op};
use super::remote::without_credentials;

/// Conversions of one source, after which rules are taken to go round in circles (BuildKit's number).
const MAX_CONVERSIONS: usize = 20;

const IMAGE: &str = "docker-image://";
const LAYOUT: &str = "oci-layout://";
const LOCAL: &str = "local://";
const GIT: &str = "git://";
const HTTP_CHECKSUM: &str = "http.checksum";
const GIT_CHECKSUM: &str = "git.checksum";
const GIT_URL: &str = "git.fullurl";

/// One file of rules.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The file, for messages.
    name: String,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    action: Action,
    pattern: Regex,
    constraints: Vec<(String, Test)>,
    updates: Updates,
}

#[derive(Debug, Clone)]
enum Test {
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

/// Why a text is no policy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PolicyError {
    #[error("it is not a source policy in JSON")]
    Json(#[from] serde_json::Error),
    #[error("rule {rule}: `{pattern}` is not a regular expression")]
    Pattern {
        rule: usize,
        pattern: String,
        #[source]
        source: regex_lite::Error,
    },
    #[error("rule {rule}: a CONVERT needs `updates`")]
    NoUpdates { rule: usize },
    #[error("rule {rule}: `**` has no meaning in a pattern; `*` stands for any text")]
    Stars { rule: usize },
    #[error("rule {rule}: unknown attribute `{key}`; http.checksum, git.checksum and git.fullurl can be set")]
    Attribute { rule: usize, key: String },
}

/// Why a source is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Refused {
    #[error("`{source_name}` is denied by rule {rule} of the source policy `{file}`")]
    Denied { source_name: String, rule: usize, file: String },
    #[error("the rules of the source policy change `{source_name}` more than {MAX_CONVERSIONS} times")]
    Circle { source_name: String },
    #[error("the source policy `{file}` makes `{from}` into `{into}`, which is another kind of source")]
    Kind { from: String, into: String, file: String },
    #[error(
        "the source policy `{file}` changes `{source_name}`, which has a query; write it with `#REF` to have it changed"
    )]
    Query { source_name: String, file: String },
    #[error("the source policy sets `{key}` of `{source_name}` to `{value}`, which is no digest")]
    Checksum { source_name: String, key: &'static str, value: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "version")]
    _version: i64,
    #[serde(default)]
    rules: Vec<RuleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    #[serde(default)]
    action: Action,
    selector: Selector,
    updates: Option<Updates>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
enum Action {
    #[default]
    #[serde(rename = "ALLOW")]
    Allow,
    #[serde(rename = "DENY")]
    Deny,
    #[serde(rename = "CONVERT")]
    Convert,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    identifier: String,
    #[serde(default, alias = "match_type", rename = "matchType")]
    match_type: MatchType,
    #[serde(default)]
    constraints: Vec<Constraint>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum MatchType {
    #[default]
    Wildcard,
    Exact,
    Regex,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Constraint {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    condition: Condition,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Condition {
    #[default]
    Equal,
    NotEqual,
    Matches,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Updates {
    identifier: Option<String>,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// What rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    identifier: String,
    attributes: BTreeMap<String, String>,
}

impl Address {
    fn new(identifier: String) -> Self {
        Self { identifier, attributes: BTreeMap::new() }
    }

    fn with(mut self, key: &str, value: Option<String>) -> Self {
        self.attributes.extend(value.map(|value| (key.to_owned(), value)));
        self
    }
}

impl Policy {
    /// Reads a file of rules.
    ///
    /// # Errors
    /// When it is not of BuildKit's form.
    pub fn parse(name: &str, text: &str) -> Result<Self, PolicyError> {
        let file: File = serde_json::from_str(text)?;
        let rules = file.rules.into_iter().zip(1..).map(|(rule, number)| rule.compile(number));
        Ok(Self { name: name.to_owned(), rules: rules.collect::<Result<_, _>>()? })
    }

    /// What the rules make of a source: another one, or the number of the rule that denies it.
    fn judge(&self, address: &Address) -> Result<Option<Address>, usize> {
        let mut denied = None;
        for (rule, number) in self.rules.iter().zip(1..) {
            if !rule.matches(address) {
                continue;
            }
            match rule.action {
                Action::Allow => denied = None,
                Action::Deny => denied = Some(number),
                Action::Convert => {
                    let converted = rule.converted(address);
                    if converted != *address {
                        return Ok(Some(converted));
                    }
                }
            }
        }
        denied.map_or(Ok(None), Err)
    }
}

impl RuleText {
    fn compile(self, rule: usize) -> Result<Rule, PolicyError> {
        let Self { action, selector, updates } = self;
        let regex = |pattern: &str| {
            Regex::new(pattern).map_err(|source| PolicyError::Pattern {
                rule,
                pattern: pattern.to_owned(),
                source,
            })
        };
        let literal = regex_lite::escape(&selector.identifier);
        let pattern = match selector.match_type {
            MatchType::Exact => format!("^{literal}$"),
            MatchType::Wildcard if selector.identifier.contains("**") => {
                return Err(PolicyError::Stars { rule });
            }
            MatchType::Wildcard => format!("^{}$", literal.replace(r"\*", "(.*)")),
            MatchType::Regex => selector.identifier,
        };
        let test = |constraint: Constraint| {
            let Constraint { key, value, condition } = constraint;
            let test = match condition {
                Condition::Equal => Test::Equal(value),
                Condition::NotEqual => Test::NotEqual(value),
                Condition::Matches => Test::Matches(regex(&value)?),
            };
            Ok((key, test))
        };
        if action == Action::Convert && updates.is_none() {
            return Err(PolicyError::NoUpdates { rule });
        }
        let updates = updates.unwrap_or_default();
        let known = |key: &&String| ![HTTP_CHECKSUM, GIT_CHECKSUM, GIT_URL].contains(&key.as_str());
        if let Some(key) = updates.attrs.keys().find(known) {
            return Err(PolicyError::Attribute { rule, key: key.clone() });
        }
        let constraints = selector.constraints.into_iter().map(test).collect::<Result<_, PolicyError>>()?;
        Ok(Rule { action, pattern: regex(&pattern)?, constraints, updates })
    }
}

impl Rule {
    fn matches(&self, address: &Address) -> bool {
        let holds = |(key, test): &(String, Test)| {
            let value = address.attributes.get(key).map_or("", String::as_str);
            match test {
                Test::Equal(wanted) => value == wanted,
                Test::NotEqual(unwanted) => value != unwanted,
                Test::Matches(pattern) => pattern.is_match(value),
            }
        };
        self.pattern.is_match(&address.identifier) && self.constraints.iter().all(holds)
    }

    fn converted(&self, address: &Address) -> Address {
        let mut converted = address.clone();
        if let (Some(template), Some(found)) =
            (&self.updates.identifier, self.pattern.captures(&address.identifier))
        {
            converted.identifier.clear();
            found.expand(template, &mut converted.identifier);
        }
        converted.attributes.extend(self.updates.attrs.clone());
        converted
    }
}

/// Asks all policies, each about what the one before made of the source, until nothing changes. Gives what is to be
/// taken, and the file that changed it last.
fn ask(policies: &[Policy], address: Address) -> Result<(Address, Option<&str>), Refused> {
    let source_name = || without_credentials(&address.identifier);
    let mut now = address.clone();
    let mut changed_by = None;
    for _ in 0..=MAX_CONVERSIONS {
        let mut changed = false;
        for policy in policies {
            let judged = policy.judge(&now).map_err(|rule| Refused::Denied {
                source_name: without_credentials(&now.identifier),
                rule,
                file: policy.name.clone(),
            })?;
            if let Some(converted) = judged {
                (now, changed_by, changed) = (converted, Some(policy.name.as_str()), true);
                break;
            }
        }
        if !changed {
            return Ok((now, changed_by));
        }
    }
    Err(Refused::Circle { source_name: source_name() })
}

/// The image to take for one that is named; `full` is its whole reference.
///
/// # Errors
/// When it is denied, or made into something else than an image.
pub(super) fn image(policies: &[Policy], name: &str, full: &str) -> Result<String, Refused> {
    let identifier = if name.starts_with(LAYOUT) { name.to_owned() } else { format!("{IMAGE}{full}") };
    let (address, file) = ask(policies, Address::new(identifier.clone()))?;
    let Some(file) = file else { return Ok(name.to_owned()) };
    match address.identifier.strip_prefix(IMAGE) {
        Some(image) => Ok(image.to_owned()),
        None if address.identifier.starts_with(LAYOUT) => Ok(address.identifier),
        None => Err(Refused::Kind { from: identifier, into: address.identifier, file: file.to_owned() }),
    }
}

/// The download or checkout to take for one that is named; other operations stay as they are.
///
/// # Errors
/// When it is denied, or made into something else.
pub(super) fn remote(policies: &[Policy], op: Op) -> Result<Op, Refused> {
    Ok(match op {
        Op::Http(mut spec) => {
            let known = spec.checksum.map(|digest| digest.to_string());
            let (address, file) = ask(policies, Address::new(spec.url.clone()).with(HTTP_CHECKSUM, known))?;
            let kind = ["http://", "https://"].iter().any(|scheme| address.identifier.starts_with(scheme));
            if let (Some(file), false) = (file, kind) {
                let (from, into) = (without_credentials(&spec.url), address.identifier);
                return Err(Refused::Kind { from, into, file: file.to_owned() });
            }
            if let Some(value) = address.attributes.get(HTTP_CHECKSUM) {
                spec.checksum = Some(value.parse().map_err(|_| Refused::Checksum {
                    source_name: without_credentials(&spec.url),
                    key: HTTP_CHECKSUM,
                    value: value.clone(),
                })?);
            }
            spec.url = address.identifier;
            Op::Http(spec)
        }
        Op::Git(mut spec) => {
            let (mut address, changed) = ask(policies, git_address(&spec.reference, spec.checksum.clone()))?;
            if let Some(file) = changed {
                spec.reference = changed_reference(&spec.reference, &address, file)?;
                spec.checksum = address.attributes.remove(GIT_CHECKSUM);
            }
            Op::Git(spec)
        }
        other => other,
    })
}

/// Whether a directory of the client may be read.
///
/// # Errors
/// When it is denied.
pub(super) fn local(policies: &[Policy], context: &str) -> Result<(), Refused> {
    let name = if context.is_empty() { "context" } else { context };
    let identifier = format!("{LOCAL}{name}");
    match ask(policies, Address::new(identifier.clone()))? {
        (_, None) => Ok(()),
        (address, Some(file)) => {
            Err(Refused::Kind { from: identifier, into: address.identifier, file: file.to_owned() })
        }
    }
}

/// The file to download for one that is named before there is a plan, and its digest when a rule says so.
///
/// # Errors
/// When it is denied, or made into something else.
pub fn download(policies: &[Policy], url: &str) -> Result<(String, Option<Digest>), Refused> {
    match remote(policies, Op::Http(HttpSpec { url: url.to_owned(), checksum: None }))? {
        Op::Http(spec) => Ok((spec.url, spec.checksum)),
        _ => Ok((url.to_owned(), None)),
    }
}

/// The repository to take for one that is named before there is a plan. A checksum becomes its ref.
///
/// # Errors
/// When it is denied, or made into something else.
pub fn repository(policies: &[Policy], reference: &str) -> Result<String, Refused> {
    let op = Op::Git(GitSpec { reference: reference.to_owned(), keep_git_dir: None, checksum: None });
    Ok(match remote(policies, op)? {
        Op::Git(GitSpec { reference, checksum: Some(commit), .. }) => with_commit(&reference, &commit),
        Op::Git(spec) => spec.reference,
        _ => reference.to_owned(),
    })
}

/// `reference#commit:folder` with the commit in the place of the ref.
fn with_commit(reference: &str, commit: &str) -> String {
    let (base, fragment) = reference.split_once('#').unwrap_or((reference, ""));
    match fragment.split_once(':') {
        Some((_, folder)) => format!("{base}#{commit}:{folder}"),
        None => format!("{base}#{commit}"),
    }
}

/// Host and path of a repository, without scheme and user, and what follows.
fn git_address(reference: &str, checksum: Option<String>) -> Address {
    let (base, rest) = reference.split_at(reference.find(['?', '#']).unwrap_or(reference.len()));
    let place = match base.split_once("://") {
        Some(_) => {
            let shown = without_credentials(base);
            shown.split_once("://").map_or_else(|| shown.clone(), |(_, place)| place.to_owned())
        }
        // `user@host:path`, or a host and a path.
        None => match base.split_once('@') {
            Some((_, place)) => place.replacen(':', "/", 1),
            None => base.to_owned(),
        },
    };
    let url = base.contains("://").then(|| base.to_owned());
    Address::new(format!("{GIT}{place}{rest}")).with(GIT_URL, url).with(GIT_CHECKSUM, checksum)
}

/// The reference that a changed identifier means: by the old way to the repository, where that is the same one.
fn changed_reference(old: &str, address: &Address, file: &str) -> Result<String, Refused> {
    let shown = || without_credentials(old);
    if old.contains('?') {
        return Err(Refused::Query { source_name: shown(), file: file.to_owned() });
    }
    let Some(place) = address.identifier.strip_prefix(GIT) else {
        return Err(Refused::Kind { from: shown(), into: address.identifier.clone(), file: file.to_owned() });
    };
    let (place, fragment) = place.split_at(place.find('#').unwrap_or(place.len()));
    let (base, _) = old.split_at(old.find('#').unwrap_or(old.len()));
    let before = git_address(base, None);
    let url = address.attributes.get(GIT_URL);
    let base = match url.filter(|url| before.attributes.get(GIT_URL) != Some(url)) {
        Some(url) => url.clone(),
        None if before.identifier.strip_prefix(GIT) == Some(place) => base.to_owned(),
        None => format!("https://{place}"),
    };
    Ok(format!("{base}{fragment}"))
}

#[cfg(test)]
mod tests;
