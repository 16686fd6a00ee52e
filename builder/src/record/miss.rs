//! Why a step was not taken from the store: one variant for each cause, each with a sentence for people.
//!
//! Invariants: serialised form is part of the record's format: variants and fields are only ever added.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;

/// Longest value that a sentence quotes.
const MAX_QUOTED_CHARACTERS: usize = 60;

/// Why a step ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum MissReason {
    /// No earlier record has such a step.
    FirstBuild,
    /// Earlier records have it, and it never succeeded there.
    NeverSucceeded,
    /// `--no-cache`.
    NoCache,
    /// `--no-cache-filter`.
    NoCacheFilter,
    /// `--cache-ttl`.
    Expired {
        age_seconds: u64,
    },
    /// Nothing differs from an earlier build whose result is not in the store any more.
    Removed,
    Command {
        was: String,
        is: String,
    },
    Environment {
        name: String,
        was: Option<String>,
        is: Option<String>,
    },
    BuildArg {
        name: String,
        was: Option<String>,
        is: Option<String>,
    },
    WorkingDirectory {
        was: String,
        is: String,
    },
    User {
        was: String,
        is: String,
    },
    Network {
        was: String,
        is: String,
    },
    Security {
        was: String,
        is: String,
    },
    Privileges,
    HostName {
        was: String,
        is: String,
    },
    ExtraHosts {
        was: Vec<String>,
        is: Vec<String>,
    },
    Ulimits {
        was: Vec<String>,
        is: Vec<String>,
    },
    ShmSize {
        was: Option<u64>,
        is: Option<u64>,
    },
    Script {
        name: String,
    },
    Platform {
        was: String,
        is: String,
    },
    MountAdded {
        mount: String,
    },
    MountRemoved {
        mount: String,
    },
    MountOption {
        mount: String,
        was: String,
        is: String,
    },
    /// A secret that counts in the key.
    Secret,
    Sources {
        was: String,
        is: String,
    },
    Inline {
        name: String,
    },
    Destination {
        was: String,
        is: String,
    },
    Owner {
        was: Option<String>,
        is: Option<String>,
    },
    Mode {
        was: Option<String>,
        is: Option<String>,
    },
    CopyOption {
        option: String,
        was: String,
        is: String,
    },
    Address {
        was: String,
        is: String,
    },
    Checksum,
    BaseImage {
        name: String,
        was: Option<Digest>,
        is: Option<Digest>,
    },
    Download {
        address: String,
    },
    Commit {
        address: String,
    },
    /// `more` counts the other files that differ.
    FileChanged {
        path: String,
        was: String,
        is: String,
        more: usize,
    },
    FileAdded {
        path: String,
        more: usize,
    },
    FileRemoved {
        path: String,
        more: usize,
    },
    FileMode {
        path: String,
        was: String,
        is: String,
        more: usize,
    },
    FileKind {
        path: String,
        was: String,
        is: String,
        more: usize,
    },
    FileOwner {
        path: String,
        was: String,
        is: String,
        more: usize,
    },
    /// Its extended attributes, and nothing else of it.
    FileAttributes {
        path: String,
        more: usize,
    },
    /// Something selected differs and the earlier listing is gone.
    Files,
    /// The order or the names under which files are selected differ, not the files.
    Selection,
    /// What an input gives differs since it ran again.
    InputRan {
        step: String,
    },
    /// It stands on another step than before.
    InputReplaced {
        step: String,
        was: String,
    },
    /// Nothing but an order, for instance of environment variables.
    Order {
        of: String,
    },
    /// The spec differs in a way that this version has no word for.
    Other,
}

impl fmt::Display for MissReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstBuild => f.write_str("first build of this step"),
            Self::NeverSucceeded => f.write_str("it has not succeeded before"),
            Self::NoCache => f.write_str("--no-cache"),
            Self::NoCacheFilter => f.write_str("--no-cache-filter"),
            Self::Expired { age_seconds } => {
                write!(f, "the stored result is {} old, --cache-ttl allows less", age(*age_seconds))
            }
            Self::Removed => {
                f.write_str("the stored result was removed (by prune, gc or repair) or found lost")
            }
            Self::Command { was, is } => changed(f, "command", was, is),
            Self::Environment { name, was, is } => variable(f, "environment", name, was, is),
            Self::BuildArg { name, was, is } => variable(f, "build argument", name, was, is),
            Self::WorkingDirectory { was, is } => changed(f, "working directory", was, is),
            Self::User { was, is } => changed(f, "user", was, is),
            Self::Network { was, is } => changed(f, "network mode", was, is),
            Self::Security { was, is } => changed(f, "security mode", was, is),
            Self::Privileges => f.write_str("capabilities, devices or the seccomp profile changed"),
            Self::HostName { was, is } => changed(f, "host name", was, is),
            Self::ExtraHosts { was, is } => changed(f, "names of --add-host", &was.join(" "), &is.join(" ")),
            Self::Ulimits { was, is } => changed(f, "ulimits", &was.join(" "), &is.join(" ")),
            Self::ShmSize { was, is } => changed(f, "size of /dev/shm", &number(*was), &number(*is)),
            Self::Script { name } => write!(f, "here-document {} changed", quoted(name)),
            Self::Platform { was, is } => changed(f, "platform", was, is),
            Self::MountAdded { mount } => write!(f, "mount added: {}", quoted(mount)),
            Self::MountRemoved { mount } => write!(f, "mount removed: {}", quoted(mount)),
            Self::MountOption { mount, was, is } => changed(f, &format!("mount {mount}"), was, is),
            Self::Secret => f.write_str("a secret with cachekey=true changed"),
            Self::Sources { was, is } => changed(f, "sources", was, is),
            Self::Inline { name } => write!(f, "here-document {} changed", quoted(name)),
            Self::Destination { was, is } => changed(f, "destination", was, is),
            Self::Owner { was, is } => changed(f, "--chown", &word(was), &word(is)),
            Self::Mode { was, is } => changed(f, "--chmod", &word(was), &word(is)),
            Self::CopyOption { option, was, is } => changed(f, option, was, is),
            Self::Address { was, is } => changed(f, "address", was, is),
            Self::Checksum => f.write_str("--checksum changed"),
            Self::BaseImage { name, was, is } => {
                let short = |digest: &Option<Digest>| digest.map_or_else(|| "none".to_owned(), |d| d.short());
                write!(f, "base image {name}: digest {}→{}", short(was), short(is))
            }
            Self::Download { address } => write!(f, "what {} gives changed", quoted(address)),
            Self::Commit { address } => write!(f, "{} names another commit", quoted(address)),
            Self::FileChanged { path, was, is, more } => {
                write!(f, "{path} changed (sha256 {was}→{is}){}", others(*more))
            }
            Self::FileAdded { path, more } => write!(f, "{path} was added{}", others(*more)),
            Self::FileRemoved { path, more } => write!(f, "{path} was removed{}", others(*more)),
            Self::FileMode { path, was, is, more } => {
                write!(f, "{path} changed its mode ({was}→{is}){}", others(*more))
            }
            Self::FileKind { path, was, is, more } => {
                write!(f, "{path} was a {was}, is a {is}{}", others(*more))
            }
            Self::FileOwner { path, was, is, more } => {
                write!(f, "{path} changed its owner ({was}→{is}){}", others(*more))
            }
            Self::FileAttributes { path, more } => {
                write!(f, "{path} changed its extended attributes{}", others(*more))
            }
            Self::Files => f.write_str("files changed"),
            Self::Selection => f.write_str("the same files are selected under other names"),
            Self::InputRan { step } => write!(f, "an input ran again: {step}"),
            Self::InputReplaced { step, was } => write!(f, "input was {was}, is {step}"),
            Self::Order { of } => write!(f, "the order of the {of} changed"),
            Self::Other => f.write_str("the step itself changed"),
        }
    }
}

fn changed(f: &mut fmt::Formatter<'_>, what: &str, was: &str, is: &str) -> fmt::Result {
    let (was, is) = around_difference(was, is);
    write!(f, "{what} was {}, is {}", quoted(&was), quoted(&is))
}

fn variable(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    name: &str,
    was: &Option<String>,
    is: &Option<String>,
) -> fmt::Result {
    match (was, is) {
        (Some(was), Some(is)) => changed(f, &format!("{kind} {name}"), was, is),
        (None, Some(is)) => write!(f, "{kind} {name} was not set, is {}", quoted(is)),
        (Some(was), None) => write!(f, "{kind} {name} was {}, is not set", quoted(was)),
        (None, None) => write!(f, "{kind} {name} changed"),
    }
}

/// Two long texts, from a little before the place where they part.
fn around_difference(was: &str, is: &str) -> (String, String) {
    let long = |text: &str| text.chars().count() > MAX_QUOTED_CHARACTERS;
    if !long(was) && !long(is) {
        return (was.to_owned(), is.to_owned());
    }
    let same = was.chars().zip(is.chars()).take_while(|(a, b)| a == b).count();
    let skip = same.saturating_sub(MAX_QUOTED_CHARACTERS / 4);
    let from = |text: &str| {
        let rest: String = text.chars().skip(skip).collect();
        if skip > 0 { format!("…{rest}") } else { rest }
    };
    (from(was), from(is))
}

fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_QUOTED_CHARACTERS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

fn others(more: usize) -> String {
    match more {
        0 => String::new(),
        1 => ", and 1 more file".to_owned(),
        more => format!(", and {more} more files"),
    }
}

fn word(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

fn number(value: Option<u64>) -> String {
    value.map(|number| number.to_string()).unwrap_or_default()
}

fn age(seconds: u64) -> String {
    match seconds {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        let text = |reason: MissReason| reason.to_string();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            text(MissReason::Environment { name: "FOO".into(), was: some("1"), is: some("2") }),
            "environment FOO was \"1\", is \"2\""
        );
        assert_eq!(
            text(MissReason::BuildArg { name: "V".into(), was: None, is: some("2") }),
            "build argument V was not set, is \"2\""
        );
        assert_eq!(
            text(MissReason::FileChanged { path: "a.rs".into(), was: "12".into(), is: "34".into(), more: 1 }),
            "a.rs changed (sha256 12→34), and 1 more file"
        );
        let digest = |byte| Some(Digest::from_bytes([byte; 32]));
        assert_eq!(
            text(MissReason::BaseImage { name: "debian".into(), was: digest(0xaa), is: digest(0xbb) }),
            "base image debian: digest aaaaaaaaaaaa→bbbbbbbbbbbb"
        );
        assert_eq!(
            text(MissReason::Expired { age_seconds: 7300 }),
            "the stored result is 2 h old, --cache-ttl allows less"
        );
    }

    #[test]
    fn long_values_show_where_they_part() {
        let was = format!("{}1{}", "x".repeat(500), "y".repeat(500));
        let reason = MissReason::Command { is: was.replace('1', "2"), was };
        let text = reason.to_string();
        assert!(text.chars().count() < 200 && text.contains("xx1yy") && text.contains("xx2yy"), "{text}");
    }

    #[test]
    fn control_characters_do_not_get_out() {
        let reason = MissReason::Command { was: "\u{1b}[2J".to_owned(), is: "\n".to_owned() };
        assert_eq!(reason.to_string(), "command was \"\\u{1b}[2J\", is \"\\n\"");
    }

    #[test]
    fn the_serialised_form_is_a_promise() {
        let reason = MissReason::FileAdded { path: "p".into(), more: 2 };
        let json = serde_json::to_string(&reason).unwrap();
        assert_eq!(json, r#"{"reason":"file_added","path":"p","more":2}"#);
        assert_eq!(serde_json::from_str::<MissReason>(&json).unwrap(), reason);
    }
}
