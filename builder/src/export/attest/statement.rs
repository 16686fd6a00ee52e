//! in-toto statements (<https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::purl;
use crate::base::digest::Digest;
use crate::image::platform::Platform;
use crate::image::reference::Reference;

/// Something said of something.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: &'static str,
    /// What is said.
    #[serde(rename = "predicateType")]
    pub predicate_type: &'static str,
    /// Of what.
    pub subject: Vec<Subject>,
    /// The words.
    pub predicate: Value,
}

/// What a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// A package URL, a path, or `_`.
    pub name: String,
    /// By algorithm.
    pub digest: BTreeMap<String, String>,
}

impl Subject {
    /// A subject with a SHA-256 digest.
    pub fn new(name: impl Into<String>, digest: &Digest) -> Self {
        Self { name: name.into(), digest: BTreeMap::from([("sha256".to_owned(), digest.hex())]) }
    }
}

impl Statement {
    /// A statement.
    pub fn new(predicate_type: &'static str, subject: Vec<Subject>, predicate: Value) -> Self {
        Self { kind: "https://in-toto.io/Statement/v1", predicate_type, subject, predicate }
    }

    /// As it is beside an image.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("invariant: statements always serialise")
    }

    /// As it is beside files: for people too.
    pub fn to_file(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("invariant: statements always serialise");
        bytes.push(b'\n');
        bytes
    }
}

/// An image under each of its names; without one, in-toto still wants a subject, and BuildKit calls it `_`.
pub fn image_subjects(names: &[Reference], platform: &Platform, manifest: &Digest) -> Vec<Subject> {
    match names {
        [] => vec![Subject::new("_", manifest)],
        names => names.iter().map(|name| Subject::new(purl::of_image(name, platform), manifest)).collect(),
    }
}
