//! Directories of certificates as docker and podman have them (`certs.d/HOST:PORT`): `*.crt` are authorities, `NAME.cert`
//! with `NAME.key` is what this client proves itself with.
//!
//! Invariants: a certificate without its key, and a key without its certificate, are errors: a login that silently does
//! not happen is hard to find.

use std::io;
use std::path::{Path, PathBuf};

use super::RegistryError;
use crate::net::KeyPair;

/// What a directory holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Certificates {
    pub(super) authorities: Vec<PathBuf>,
    pub(super) key_pairs: Vec<KeyPair>,
}

impl Certificates {
    /// Lists a directory; `None` where there is none.
    pub(super) fn list(directory: &Path) -> Result<Option<Self>, RegistryError> {
        let fail = |source| RegistryError::CertificateDirectory { path: directory.to_owned(), source };
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            // Directories of root's that others may not look into say nothing to them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(fail)?.path());
        }
        // The order of a directory means nothing; with several pairs the first by name is taken.
        paths.sort();
        let mut found = Self::default();
        for path in &paths {
            let other = |extension: &str| path.with_extension(extension);
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => found.authorities.push(path.clone()),
                Some("cert") if paths.contains(&other("key")) => {
                    found.key_pairs.push(KeyPair { certificate: path.clone(), key: other("key") });
                }
                Some("cert") => {
                    return Err(RegistryError::LoneCertificate { path: path.clone(), lacks: other("key") });
                }
                Some("key") if !paths.contains(&other("cert")) => {
                    return Err(RegistryError::LoneCertificate { path: path.clone(), lacks: other("cert") });
                }
                _ => {}
            }
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_read_as_docker_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Certificates::list(&dir.path().join("none")).unwrap(), None);
        for name in ["b.crt", "a.crt", "client.cert", "client.key", "readme.txt"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let at = |name: &str| dir.path().join(name);
        let found = Certificates::list(dir.path()).unwrap().unwrap();
        assert_eq!(found.authorities, [at("a.crt"), at("b.crt")]);
        assert_eq!(found.key_pairs, [KeyPair { certificate: at("client.cert"), key: at("client.key") }]);
        std::fs::remove_file(at("client.key")).unwrap();
        let error = Certificates::list(dir.path()).unwrap_err();
        assert!(matches!(error, RegistryError::LoneCertificate { .. }), "{error:?}");
    }
}
