//! Mirrors: other places that may have what a registry has. They are read from, never written to.
//!
//! Invariants: a digest is verified wherever its content came from; a mirror that does not answer, or gives something
//! else than it was asked for, is no failure; it is told, and not asked again by this process.

use std::fmt;
use std::str::FromStr;

use super::pull::Origin;
use super::{Inner, RawManifest, RegistryError};
use crate::base::causes::one_line;
use crate::base::digest::HashingWriter;
use crate::base::sink::BlobSink;
use crate::image::manifest::Descriptor;
use crate::image::reference::{Reference, ReferenceError};

/// A mirror: a host, and a path below which it has the registry's repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// `host[:port]`.
    pub registry: String,
    /// Without slashes at its ends; empty for none.
    pub prefix: String,
}

impl FromStr for Mirror {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (registry, prefix) = text.split_once('/').unwrap_or((text, ""));
        let prefix = prefix.trim_matches('/');
        let bad = |reason: &str| ReferenceError { text: text.to_owned(), reason: reason.to_owned() };
        if text.contains("://") {
            return Err(bad("is a URL: a mirror is written HOST[:PORT][/PATH]"));
        }
        // A repository below it shows whether both are well formed.
        let below = if prefix.is_empty() { "x".to_owned() } else { format!("{prefix}/x") };
        let reference: Reference = format!("{registry}/{below}").parse()?;
        if reference.registry != registry {
            return Err(bad("has no host: a mirror is written HOST[:PORT][/PATH]"));
        }
        Ok(Self { registry: registry.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.registry)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl Mirror {
    fn of(&self, reference: &Reference) -> Reference {
        let repository = match self.prefix.as_str() {
            "" => reference.repository.clone(),
            prefix => format!("{prefix}/{}", reference.repository),
        };
        Reference { registry: self.registry.clone(), repository, ..reference.clone() }
    }
}

impl Inner {
    /// What stands for `reference` at the mirrors that are still good.
    fn mirrored(&self, reference: &Reference) -> Vec<Reference> {
        let Some(host) = self.options.hosts.get(&reference.registry) else { return Vec::new() };
        let given_up = self.lost_mirrors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let good = host.mirrors.iter().filter(|mirror| !given_up.contains(&mirror.registry));
        good.map(|mirror| mirror.of(reference)).collect()
    }

    /// Whether there is a mirror that is still good.
    pub(super) fn asks_mirrors(&self, reference: &Reference) -> bool {
        !self.mirrored(reference).is_empty()
    }

    /// A mirror that lacks something may have the next thing; one that fails in another way is left alone, which is told
    /// once.
    fn note_failure(&self, mirror: &Reference, error: &RegistryError) {
        let lacks = matches!(error, RegistryError::NotFound { .. } | RegistryError::BlobNotFound { .. });
        if lacks || error.is_cancelled() {
            return;
        }
        let fresh = {
            let mut given_up = self.lost_mirrors.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            given_up.insert(mirror.registry.clone())
        };
        if fresh {
            let why = one_line(error);
            self.options
                .notices
                .warn(format!("mirror `{}` is left alone from here on: {why}", mirror.registry));
        }
    }

    /// A manifest from the first mirror that has it, or from the registry.
    pub(super) async fn manifest_raw(&self, reference: &Reference) -> Result<RawManifest, RegistryError> {
        for mirror in self.mirrored(reference) {
            match self.manifest_at(&mirror).await {
                Ok(raw) => return Ok(raw),
                Err(error) => self.note_failure(&mirror, &error),
            }
        }
        self.manifest_at(reference).await
    }

    /// A blob from the first mirror that has the right one; false when none has. Nothing is in `sink` then.
    pub(super) async fn blob_from_mirrors(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: &mut HashingWriter<&mut dyn BlobSink>,
        progress: &dyn Fn(u64),
    ) -> Result<bool, RegistryError> {
        for mirror in self.mirrored(reference) {
            let endpoint = match self.endpoint(&mirror.registry).await {
                Ok(endpoint) => endpoint,
                Err(error) => {
                    self.note_failure(&mirror, &error);
                    continue;
                }
            };
            let origin = Origin::registry(&endpoint, &mirror, descriptor)?;
            let mut received = 0;
            match self.blob_from(&origin, descriptor, &mut received, sink, progress).await {
                Ok(()) => return Ok(true),
                Err(error @ RegistryError::Sink { .. }) => return Err(error),
                Err(error) => self.note_failure(&mirror, &error),
            }
            if received > 0 {
                let fail = |source| RegistryError::Sink { url: reference.familiar(), source };
                sink.restart().map_err(fail)?;
                progress(0);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_hosts_with_paths() {
        let mirror: Mirror = "m.example:5000/hub/".parse().unwrap();
        assert_eq!((mirror.registry.as_str(), mirror.prefix.as_str()), ("m.example:5000", "hub"));
        assert_eq!(mirror.to_string(), "m.example:5000/hub");
        let reference: Reference = "debian:12".parse().unwrap();
        assert_eq!(mirror.of(&reference).to_string(), "m.example:5000/hub/library/debian:12");
        for bad in ["https://m.example", "mirror", "m.example/UPPER", ""] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }
}
