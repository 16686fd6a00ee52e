//! Annotations with the object they go to: `[type[platform]:]key=value` (cli.md 2.1) and the `annotation*` keys of
//! `--output` (cli.md 2.3).
//!
//! Invariants: a key is never empty; only types that exist per platform carry one.

use crate::image::platform::{Platform, PlatformError};

/// What carries an annotation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    /// The manifest, of one platform or of all.
    Manifest(Option<Platform>),
    /// The index.
    Index,
    /// The manifest's descriptor in the index, of one platform or of all.
    ManifestDescriptor(Option<Platform>),
    /// The index's descriptor in the OCI layout.
    IndexDescriptor,
}

impl std::fmt::Display for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manifest(None) => f.write_str("manifest"),
            Self::Manifest(Some(platform)) => write!(f, "manifest[{platform}]"),
            Self::Index => f.write_str("index"),
            Self::ManifestDescriptor(None) => f.write_str("manifest-descriptor"),
            Self::ManifestDescriptor(Some(platform)) => write!(f, "manifest-descriptor[{platform}]"),
            Self::IndexDescriptor => f.write_str("index-descriptor"),
        }
    }
}

/// One annotation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Annotation {
    /// What carries it.
    pub carrier: Carrier,
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Why a text is not an annotation.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// Not `key=value`.
    #[error("annotation `{0}` is not of the form [type:]key=value")]
    Form(String),
    /// An unknown type.
    #[error("unknown annotation type `{0}`; use manifest, index, manifest-descriptor or index-descriptor")]
    Type(String),
    /// A platform for something that exists once.
    #[error("annotation type `{0}` has no platform")]
    NoPlatform(String),
    /// A malformed platform.
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

/// Parses the value of `--annotation`; several types (`index,manifest:k=v`) give several annotations.
pub fn parse_flag(text: &str) -> Result<Vec<Annotation>, AnnotationError> {
    let form = || AnnotationError::Form(text.to_owned());
    let (left, value) = text.split_once('=').ok_or_else(form)?;
    // The colon that ends the types stands before the key; a key may hold one only behind a type.
    let (types, key) = match left.split_once(':') {
        Some((types, key)) => (types, key),
        None => ("manifest", left),
    };
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(form());
    }
    let annotation = |carrier| Annotation { carrier, key: key.to_owned(), value: value.to_owned() };
    types.split(',').map(|kind| Ok(annotation(carrier(kind)?))).collect()
}

/// Reads the key of an `--output` attribute such as `annotation-manifest[linux/amd64].KEY`; `None` when it is none.
pub fn parse_attribute(key: &str, value: &str) -> Option<Result<Annotation, AnnotationError>> {
    let rest = key.strip_prefix("annotation")?;
    // The key of a type with a platform starts behind the bracket; a variant may hold a dot.
    let end = match rest.find(['[', '.'])? {
        bracket if rest[bracket..].starts_with('[') => bracket + rest[bracket..].find("].")? + 1,
        dot => dot,
    };
    let (kind, name) = (rest.get(..end)?, rest.get(end + 1..)?);
    let kind = match kind.strip_prefix('-') {
        Some(kind) => kind.to_owned(),
        None => format!("manifest{kind}"),
    };
    if name.is_empty() {
        return Some(Err(AnnotationError::Form(format!("{key}={value}"))));
    }
    let annotation = |carrier| Annotation { carrier, key: name.to_owned(), value: value.to_owned() };
    Some(carrier(&kind).map(annotation))
}

fn carrier(text: &str) -> Result<Carrier, AnnotationError> {
    let unknown = || AnnotationError::Type(text.to_owned());
    let (kind, platform) = match text.split_once('[') {
        Some((kind, platform)) => {
            let platform = platform.strip_suffix(']').ok_or_else(unknown)?;
            (kind, Some(platform.parse::<Platform>()?))
        }
        None => (text, None),
    };
    match (kind, platform) {
        ("manifest", platform) => Ok(Carrier::Manifest(platform)),
        ("manifest-descriptor", platform) => Ok(Carrier::ManifestDescriptor(platform)),
        ("index", None) => Ok(Carrier::Index),
        ("index-descriptor", None) => Ok(Carrier::IndexDescriptor),
        ("index" | "index-descriptor", Some(_)) => Err(AnnotationError::NoPlatform(kind.to_owned())),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(carrier: Carrier, key: &str, value: &str) -> Annotation {
        Annotation { carrier, key: key.to_owned(), value: value.to_owned() }
    }

    #[test]
    fn flags() {
        let arm = Platform::new("linux", "arm64", "");
        for (text, expected) in [
            ("a.b=c=d", vec![annotation(Carrier::Manifest(None), "a.b", "c=d")]),
            ("index:k=", vec![annotation(Carrier::Index, "k", "")]),
            (
                "index,manifest[linux/arm64]:k=v:w",
                vec![
                    annotation(Carrier::Index, "k", "v:w"),
                    annotation(Carrier::Manifest(Some(arm)), "k", "v:w"),
                ],
            ),
            ("manifest:a:b=c", vec![annotation(Carrier::Manifest(None), "a:b", "c")]),
        ] {
            assert_eq!(parse_flag(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "k", "=v", "index:=v", "a b=c"] {
            assert!(matches!(parse_flag(bad), Err(AnnotationError::Form(_))), "{bad}");
        }
        assert_eq!(parse_flag("indx:k=v"), Err(AnnotationError::Type("indx".to_owned())));
        assert_eq!(
            parse_flag("manifest[linux/amd64:k=v"),
            Err(AnnotationError::Type("manifest[linux/amd64".into()))
        );
        assert!(matches!(parse_flag("index[linux/amd64]:k=v"), Err(AnnotationError::NoPlatform(_))));
        assert!(matches!(parse_flag("manifest[///]:k=v"), Err(AnnotationError::Platform(_))));
    }

    #[test]
    fn attributes() {
        let v = |key: &str| parse_attribute(key, "v").map(Result::unwrap);
        assert_eq!(v("annotation.org.x"), Some(annotation(Carrier::Manifest(None), "org.x", "v")));
        assert_eq!(v("annotation-index.k"), Some(annotation(Carrier::Index, "k", "v")));
        assert_eq!(
            v("annotation-manifest-descriptor[linux/arm64].a.b"),
            Some(annotation(
                Carrier::ManifestDescriptor(Some(Platform::new("linux", "arm64", ""))),
                "a.b",
                "v"
            ))
        );
        assert_eq!(v("annotation[linux/amd64].k").unwrap().key, "k");
        assert_eq!(v("annotated"), None);
        assert_eq!(v("dest"), None);
        assert!(parse_attribute("annotation-foo.k", "v").unwrap().is_err());
        assert!(parse_attribute("annotation.", "v").unwrap().is_err());
    }
}
