//! `--cache-from` and `--cache-to` (cli.md 2.4).
//!
//! Invariants: what a type needs is there; a type that kiln does not have is refused here, not in mid-build.

use std::collections::BTreeMap;

use crate::export::spec::attributes::{self, AttributeError, closest};

/// Where a cache is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// In a registry; `ref`.
    Registry,
    /// In a directory; `src` or `dest`.
    Local,
    /// In the image itself.
    Inline,
    /// In GitHub's cache service.
    Gha,
}

/// How much is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheMode {
    /// What the result consists of.
    #[default]
    Min,
    /// Every step.
    Max,
}

/// One cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSpec {
    /// Where.
    pub kind: CacheKind,
    /// `mode` of an export.
    pub mode: CacheMode,
    /// The other attributes, those that the type needs included.
    pub attributes: BTreeMap<String, String>,
}

/// Why a text is not a cache.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Bad attributes.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// No type.
    #[error("`{0}` has no type; write type=registry,ref=IMAGE or type=local")]
    NoType(String),
    /// An unknown type.
    #[error("unknown cache type `{kind}`{}; use registry, local, inline or gha", .meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default())]
    Type {
        /// The type.
        kind: String,
        /// The most similar one.
        meant: Option<&'static str>,
    },
    /// Something is missing.
    #[error("type={kind} needs `{key}`; write type={kind},{key}=...")]
    Missing {
        /// The type.
        kind: &'static str,
        /// The key.
        key: &'static str,
    },
    /// An unknown mode.
    #[error("unknown cache mode `{0}`; use mode=min or mode=max")]
    Mode(String),
}

const COMMON_TO: [&str; 8] = [
    "type",
    "mode",
    "ignore-error",
    "image-manifest",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
];

/// Parses the value of `--cache-from`; a text that is no attribute is an image.
pub fn parse_from(text: &str) -> Result<CacheSpec, CacheError> {
    parse(text, false)
}

/// Parses `--cache-ttl`: a duration, or 0 without a unit.
pub fn parse_ttl(text: &str) -> Result<std::time::Duration, super::amount::AmountError> {
    if text == "0" { Ok(std::time::Duration::ZERO) } else { super::amount::duration(text) }
}

/// Parses the value of `--cache-to`; a text that is no attribute is an image.
pub fn parse_to(text: &str) -> Result<CacheSpec, CacheError> {
    parse(text, true)
}

fn parse(text: &str, export: bool) -> Result<CacheSpec, CacheError> {
    let fields = attributes::fields(text)?;
    let mut pairs = match fields.as_slice() {
        [image] if !image.contains('=') => {
            vec![("type".to_owned(), "registry".to_owned()), ("ref".to_owned(), image.clone())]
        }
        _ => attributes::pairs(text)?,
    };
    let place = pairs.iter().position(|(key, _)| key == "type");
    let kind = place.map(|place| pairs.remove(place).1).ok_or_else(|| CacheError::NoType(text.to_owned()))?;
    let (kind, name, needed, own): (_, _, Option<&'static str>, &[&str]) = match (kind.as_str(), export) {
        ("registry", _) => (CacheKind::Registry, "registry", Some("ref"), &["ref", "registry.insecure"]),
        ("local", true) => (CacheKind::Local, "local", Some("dest"), &["dest", "tag", "reset"]),
        ("local", false) => (CacheKind::Local, "local", Some("src"), &["src", "tag", "digest"]),
        ("inline", _) => (CacheKind::Inline, "inline", None, &[]),
        ("gha", _) => {
            let own = &["scope", "token", "url", "url_v2", "timeout", "repository", "ghtoken"];
            (CacheKind::Gha, "gha", None, own)
        }
        (other, _) => {
            let meant = closest(other, ["registry", "local", "inline", "gha"]);
            return Err(CacheError::Type { kind: other.to_owned(), meant });
        }
    };
    let known: Vec<&str> = if export { [&COMMON_TO, own].concat() } else { [&["type"], own].concat() };
    let mut spec = CacheSpec { kind, mode: CacheMode::default(), attributes: BTreeMap::new() };
    for (key, value) in pairs {
        if !known.contains(&key.as_str()) {
            return Err(attributes::unknown(&key, &known).into());
        }
        if key == "mode" {
            spec.mode = mode(&value)?;
        }
        if spec.attributes.insert(key.clone(), value).is_some() || key == "type" {
            return Err(AttributeError::Twice(key).into());
        }
    }
    match needed {
        Some(key) if spec.attributes.get(key).is_none_or(String::is_empty) => {
            Err(CacheError::Missing { kind: name, key })
        }
        _ => Ok(spec),
    }
}

fn mode(value: &str) -> Result<CacheMode, CacheError> {
    match value {
        "min" => Ok(CacheMode::Min),
        "max" => Ok(CacheMode::Max),
        other => Err(CacheError::Mode(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches() {
        let bare = parse_from("me/app:cache").unwrap();
        assert_eq!(bare.kind, CacheKind::Registry);
        assert_eq!(bare.attributes.get("ref").map(String::as_str), Some("me/app:cache"));
        let to = parse_to("type=local,dest=c,mode=max").unwrap();
        assert_eq!((to.kind, to.mode), (CacheKind::Local, CacheMode::Max));
        assert_eq!(parse_to("type=inline").unwrap().kind, CacheKind::Inline);
    }

    #[test]
    fn messages_show_the_way() {
        let mut messages = String::new();
        for bad in [
            "",
            "ref=x",
            "type=registy,ref=x",
            "type=local",
            "type=registry,ref=",
            "type=inline,rf=1",
            "type=registry,ref=x,mode=mid",
            "type=inline,type=gha",
            "type=gha,scope=a,scope=b",
        ] {
            messages.push_str(&format!("{bad}\n    {}\n", parse_to(bad).unwrap_err()));
        }
        messages.push_str(&format!("from\n    {}\n", parse_from("type=local,dest=x").unwrap_err()));
        insta::assert_snapshot!(messages, @r"

            the value is empty
        ref=x
            `ref=x` has no type; write type=registry,ref=IMAGE or type=local
        type=registy,ref=x
            unknown cache type `registy` (did you mean `registry`?); use registry, local, inline or gha
        type=local
            type=local needs `dest`; write type=local,dest=...
        type=registry,ref=
            type=registry needs `ref`; write type=registry,ref=...
        type=inline,rf=1
            unknown key `rf`; known are type, mode, ignore-error, image-manifest, oci-mediatypes, compression, compression-level, force-compression
        type=registry,ref=x,mode=mid
            unknown cache mode `mid`; use mode=min or mode=max
        type=inline,type=gha
            `type` is given more than once
        type=gha,scope=a,scope=b
            `scope` is given more than once
        from
            unknown key `dest`; known are type, src, tag, digest
        ");
    }
}
