//! Values of `--provenance`, `--sbom` and `--attest` (cli.md 2.5; buildx util/buildflags/attests.go).
//!
//! Invariants: of several options about one kind of attestation the last one holds, `--provenance` and `--sbom` after
//! `--attest`, as in buildx.

use crate::export::spec::attributes::{self, AttributeError};

/// What is said of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attestations {
    /// How it was made.
    pub provenance: Option<ProvenanceOptions>,
    /// What packages it has.
    pub sbom: bool,
}

impl Attestations {
    /// What options come to; later ones win.
    pub fn of<'a>(flags: impl IntoIterator<Item = &'a AttestFlag>) -> Self {
        let mut all = Self::default();
        for flag in flags {
            match flag {
                AttestFlag::Nothing => {}
                AttestFlag::Provenance(options) => all.provenance.clone_from(options),
                AttestFlag::Sbom(wanted) => all.sbom = *wanted,
            }
        }
        all
    }

    /// Whether nothing is said.
    pub fn is_none(&self) -> bool {
        self.provenance.is_none() && !self.sbom
    }
}

/// How a provenance is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenanceOptions {
    /// `mode`.
    pub mode: Mode,
    /// `version`.
    pub version: Version,
    /// `builder-id`: a URI of who built.
    pub builder_id: Option<String>,
    /// `filename`: what it is called beside files.
    pub file_name: String,
    /// `reproducible`: the user says that another build would give the same bytes.
    pub reproducible: bool,
    /// `inline-only`: beside images, not beside files.
    pub inline_only: bool,
}

impl Default for ProvenanceOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Max,
            version: Version::V1,
            builder_id: None,
            file_name: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: false,
        }
    }
}

/// How much a provenance tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// What was built of, by what, and when.
    Min,
    /// Build arguments, names of secrets, steps and the Buildfile too.
    Max,
}

/// Version of the predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// SLSA v1.
    V1,
    /// SLSA v0.2.
    V02,
}

/// One option about attestations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttestFlag {
    /// An empty value: as if the option were not there.
    Nothing,
    /// A provenance, or none.
    Provenance(Option<ProvenanceOptions>),
    /// A list of packages, or none.
    Sbom(bool),
}

/// Why a text is no option about attestations.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AttestError {
    /// Bad attributes.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// No `type`.
    #[error("`{0}` has no type; write type=provenance or type=sbom")]
    NoType(String),
    /// An unknown type.
    #[error("unknown attestation type `{0}`; use provenance or sbom")]
    Type(String),
    /// An unknown mode.
    #[error("unknown mode `{0}` of a provenance; use mode=min or mode=max")]
    Mode(String),
    /// An unknown version.
    #[error("unknown version `{0}` of a provenance; use version=v1 or version=v0.2")]
    Version(String),
    /// A scanner of somebody else's.
    #[error(
        "generator={0} cannot be used: kiln looks for packages itself and runs no scanner image; leave generator out, \
         or run the scanner on what was built (e.g. -o type=oci,dest=image.tar)"
    )]
    Generator(String),
    /// Not the name of a file in the output's directory.
    #[error("`{0}` cannot be the name of a file: it is empty, `.`, `..` or has a slash")]
    FileName(String),
}

const PROVENANCE_KEYS: [&str; 6] =
    ["mode", "version", "builder-id", "filename", "reproducible", "inline-only"];

/// Reads `--provenance`.
pub fn parse_provenance(text: &str) -> Result<AttestFlag, AttestError> {
    shorthand("provenance", text)
}

/// Reads `--sbom`.
pub fn parse_sbom(text: &str) -> Result<AttestFlag, AttestError> {
    shorthand("sbom", text)
}

/// Reads `--attest`.
pub fn parse_attest(text: &str) -> Result<AttestFlag, AttestError> {
    let mut pairs = attributes::pairs(text)?;
    let at = pairs.iter().position(|(key, _)| key == "type");
    let (_, kind) = pairs.remove(at.ok_or_else(|| AttestError::NoType(text.to_owned()))?);
    of_type(&kind, &pairs)
}

fn shorthand(kind: &str, text: &str) -> Result<AttestFlag, AttestError> {
    if text.is_empty() {
        return Ok(AttestFlag::Nothing);
    }
    if let Ok(wanted) = attributes::boolean(kind, text) {
        return of_type(kind, &[("disabled".to_owned(), (!wanted).to_string())]);
    }
    of_type(kind, &attributes::pairs(text)?)
}

fn of_type(kind: &str, pairs: &[(String, String)]) -> Result<AttestFlag, AttestError> {
    let mut seen: Vec<&str> = Vec::new();
    let mut disabled = false;
    let mut own: Vec<(&str, &str)> = Vec::new();
    for (key, value) in pairs {
        if seen.contains(&key.as_str()) {
            return Err(AttributeError::Twice(key.clone()).into());
        }
        seen.push(key);
        match key.as_str() {
            "disabled" => disabled = attributes::boolean(key, value)?,
            key => own.push((key, value)),
        }
    }
    match kind {
        "provenance" => {
            let options = provenance(&own)?;
            Ok(AttestFlag::Provenance((!disabled).then_some(options)))
        }
        "sbom" => {
            match own.first() {
                Some(("generator", image)) => return Err(AttestError::Generator((*image).to_owned())),
                Some((key, _)) => return Err(attributes::unknown(key, &["type", "disabled"]).into()),
                None => {}
            }
            Ok(AttestFlag::Sbom(!disabled))
        }
        other => Err(AttestError::Type(other.to_owned())),
    }
}

fn provenance(pairs: &[(&str, &str)]) -> Result<ProvenanceOptions, AttestError> {
    let mut options = ProvenanceOptions::default();
    for (key, value) in pairs.iter().copied() {
        match key {
            "mode" => {
                options.mode = match value {
                    "min" => Mode::Min,
                    // `full` is what BuildKit called it first.
                    "max" | "full" => Mode::Max,
                    other => return Err(AttestError::Mode(other.to_owned())),
                };
            }
            "version" => {
                options.version = match value {
                    "v1" => Version::V1,
                    "v0.2" => Version::V02,
                    other => return Err(AttestError::Version(other.to_owned())),
                };
            }
            "builder-id" => options.builder_id = Some(value.to_owned()).filter(|id| !id.is_empty()),
            "filename" => options.file_name = file_name(value)?,
            "reproducible" => options.reproducible = attributes::boolean(key, value)?,
            "inline-only" => options.inline_only = attributes::boolean(key, value)?,
            other => return Err(attributes::unknown(other, &PROVENANCE_KEYS).into()),
        }
    }
    Ok(options)
}

/// The name of a file in a directory of the output's.
pub fn file_name(text: &str) -> Result<String, AttestError> {
    match text {
        "" | "." | ".." => Err(AttestError::FileName(text.to_owned())),
        name if name.contains(['/', '\0']) => Err(AttestError::FileName(name.to_owned())),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(flags: &[AttestFlag]) -> Attestations {
        Attestations::of(flags)
    }

    #[test]
    fn the_words_of_buildx() {
        let max = ProvenanceOptions::default();
        assert_eq!(max.mode, Mode::Max);
        for text in ["true", "1", "mode=max", "mode=full", "disabled=false"] {
            assert_eq!(parse_provenance(text), Ok(AttestFlag::Provenance(Some(max.clone()))), "{text}");
        }
        for text in ["false", "0", "mode=min,disabled=true"] {
            assert_eq!(parse_provenance(text), Ok(AttestFlag::Provenance(None)), "{text}");
        }
        assert_eq!(parse_provenance(""), Ok(AttestFlag::Nothing));
        let all = "type=provenance,mode=min,version=v0.2,builder-id=https://ci/1,filename=p.json,reproducible=true,\
                   inline-only=true";
        let options = ProvenanceOptions {
            mode: Mode::Min,
            version: Version::V02,
            builder_id: Some("https://ci/1".to_owned()),
            file_name: "p.json".to_owned(),
            reproducible: true,
            inline_only: true,
        };
        assert_eq!(parse_attest(all), Ok(AttestFlag::Provenance(Some(options))));
        assert_eq!(parse_attest("type=sbom"), Ok(AttestFlag::Sbom(true)));
        assert_eq!(parse_sbom("false"), Ok(AttestFlag::Sbom(false)));
    }

    #[test]
    fn the_last_one_holds() {
        let max = AttestFlag::Provenance(Some(ProvenanceOptions::default()));
        assert!(of(&[]).is_none());
        assert!(of(&[max.clone(), AttestFlag::Nothing]).provenance.is_some());
        assert!(of(&[max, AttestFlag::Provenance(None)]).is_none());
        assert!(of(&[AttestFlag::Sbom(false), AttestFlag::Sbom(true)]).sbom);
    }

    #[test]
    fn mistakes_are_told() {
        for (text, part) in [
            ("mode=max", "has no type"),
            ("type=slsa", "unknown attestation type `slsa`"),
            ("type=provenance,mode=mid", "unknown mode `mid`"),
            ("type=provenance,version=v2", "unknown version `v2`"),
            ("type=provenance,filename=../p", "cannot be the name of a file"),
            ("type=provenance,filename=", "cannot be the name of a file"),
            ("type=provenance,reproducable=true", "did you mean `reproducible`?"),
            ("type=provenance,mode=max,mode=min", "more than once"),
            ("type=sbom,generator=docker/scout", "runs no scanner image"),
            ("type=sbom,scan=all", "unknown key `scan`"),
            ("type=sbom,disabled=maybe", "must be true or false"),
        ] {
            let error = parse_attest(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(parse_provenance("max").expect_err("no key").to_string().contains("key=value"));
    }
}
