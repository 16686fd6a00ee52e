//! Names of places: where an image comes from or goes to.
//!
//! | text | place |
//! |---|---|
//! | `NAME[:TAG][@DIGEST]`, or an id | the store; as a source, the registry where the store has none |
//! | `docker://NAME[:TAG][@DIGEST]` | a registry |
//! | `oci:DIR[:TAG]`, `oci-layout://DIR[:TAG]` | an OCI layout |
//! | `oci-archive:FILE[:TAG]` | a tar of one |
//! | `docker-archive:FILE[:NAME]` | the same with docker's `manifest.json`; as a source also without a layout |
//! | `./PATH`, `/PATH` | a layout or an archive, whichever is there |
//!
//! The prefixes are skopeo's and podman's.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::context::layout::LayoutRef;
use crate::image::reference::{Reference, ReferenceError};

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A name without a prefix, as it was written.
    Named(Reference, String),
    /// In a registry.
    Registry(Reference),
    /// A layout directory, or an archive of one as a source.
    Layout(LayoutRef),
    /// A tar of a layout.
    OciArchive(LayoutRef),
    /// A tar that `docker load` takes.
    DockerArchive(PathBuf, Option<Reference>),
}

/// Why a text names no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlaceError {
    /// A prefix that skopeo knows and kiln does not.
    #[error("`{0}` is a place that kiln cannot use; it knows {FORMS}")]
    Unknown(String),
    /// Nothing behind the prefix.
    #[error("`{0}` names no file or directory")]
    Empty(String),
    /// A bad name.
    #[error("{0}; write NAME[:TAG], or one of {FORMS}")]
    Name(#[from] ReferenceError),
}

const FORMS: &str = "docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME]";

/// Places of skopeo and podman that need their libraries or a daemon.
const FOREIGN: [&str; 6] = ["containers-storage:", "docker-daemon:", "dir:", "ostree:", "sif:", "tarball:"];

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let layout = |path: &str| match path.is_empty() {
            true => Err(PlaceError::Empty(text.to_owned())),
            false => Ok(LayoutRef::parse(path)),
        };
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(name.parse()?));
        }
        for prefix in ["oci-layout://", "oci:"] {
            if let Some(path) = text.strip_prefix(prefix) {
                return layout(path).map(Self::Layout);
            }
        }
        if let Some(path) = text.strip_prefix("oci-archive:") {
            return layout(path).map(Self::OciArchive);
        }
        if let Some(path) = text.strip_prefix("docker-archive:") {
            return Self::docker_archive(path).ok_or_else(|| PlaceError::Empty(text.to_owned()))?;
        }
        if let Some(foreign) = FOREIGN.iter().find(|prefix| text.starts_with(**prefix)) {
            return Err(PlaceError::Unknown((*foreign).to_owned()));
        }
        if text.starts_with(['.', '/']) {
            return layout(text).map(Self::Layout);
        }
        Ok(Self::Named(text.parse()?, text.to_owned()))
    }
}

impl Place {
    /// `FILE[:NAME]`: a name has colons itself, a file name seldom has one.
    fn docker_archive(text: &str) -> Option<Result<Self, PlaceError>> {
        let (path, name) = match text.split_once(':') {
            _ if std::path::Path::new(text).exists() => (text, None),
            Some((path, name)) => (path, Some(name)),
            None => (text, None),
        };
        if path.is_empty() {
            return None;
        }
        let name = name.map(str::parse::<Reference>).transpose();
        Some(name.map(|name| Self::DockerArchive(path.into(), name)).map_err(PlaceError::from))
    }

    /// The registry and repository, when it is or may be in a registry.
    pub fn reference(&self) -> Option<&Reference> {
        match self {
            Self::Named(reference, _) | Self::Registry(reference) => Some(reference),
            _ => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = |f: &mut fmt::Formatter<'_>, prefix: &str, layout: &LayoutRef| {
            write!(f, "{prefix}{}", layout.path.display())?;
            if let Some(tag) = &layout.tag {
                write!(f, ":{tag}")?;
            }
            layout.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
        };
        match self {
            Self::Named(reference, _) => f.write_str(&reference.familiar()),
            Self::Registry(reference) => write!(f, "docker://{}", reference.familiar()),
            Self::Layout(place) => layout(f, "oci:", place),
            Self::OciArchive(place) => layout(f, "oci-archive:", place),
            Self::DockerArchive(path, None) => write!(f, "docker-archive:{}", path.display()),
            Self::DockerArchive(path, Some(name)) => {
                write!(f, "docker-archive:{}:{}", path.display(), name.familiar())
            }
        }
    }
}
