//! Where credentials come from: files in docker's and podman's format, and credential helpers.
//!
//! Invariants: nothing here reads the environment (callers pass [`default_auth_files`] a look-up); secrets have no
//! `Debug`; a file or helper that does not work is remembered, not fatal: most pulls need no login, and the
//! problem is told when one does.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::Inner;
use crate::net::read_bounded;

/// Largest file of credentials.
pub(super) const MAX_AUTH_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// The key under which docker keeps the credentials of `docker.io`.
pub(super) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What proves who the user is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// User name and password or access token.
    Basic {
        /// User.
        username: String,
        /// Secret.
        password: String,
    },
    /// A refresh token of the registry's token server.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Credential::Basic(…)",
            Self::IdentityToken(_) => "Credential::IdentityToken(…)",
        })
    }
}

/// Why a source of credentials gave none.
#[derive(Debug, thiserror::Error)]
pub enum CredentialProblem {
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be, or the helper that it names failed.
    #[error("`{}` gave no credentials: {}", path.display(), super::error::tidy(&source.to_string()))]
    Source {
        /// Which.
        path: PathBuf,
        /// Why.
        source: CredentialRetrievalError,
    },
}

/// What the sources said about one repository.
#[derive(Debug, Default)]
pub struct Lookup {
    /// The first that was found.
    pub credential: Option<Credential>,
    /// Sources that did not work.
    pub problems: Vec<CredentialProblem>,
}

/// The files that docker and podman use, given a look-up of environment variables: `REGISTRY_AUTH_FILE` alone when it
/// is set; else `$DOCKER_CONFIG/config.json`, podman's two places, and `~/.docker/config.json`.
pub fn default_auth_files(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let directory = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(file) = directory("REGISTRY_AUTH_FILE") {
        return vec![file];
    }
    let home = directory("HOME");
    let docker = directory("DOCKER_CONFIG");
    let config = directory("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    let fallback = if docker.is_some() { None } else { home };
    [
        docker.map(|path| path.join("config.json")),
        directory("XDG_RUNTIME_DIR").map(|path| path.join("containers/auth.json")),
        config.map(|path| path.join("containers/auth.json")),
        fallback.map(|path| path.join(".docker/config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Inner {
    /// The credentials for a repository, looked up once.
    pub(super) fn lookup(&self, registry: &str, repository: &str) -> Arc<Lookup> {
        if let Some(credential) = self.options.credentials.get(registry) {
            return Arc::new(Lookup { credential: Some(credential.clone()), problems: Vec::new() });
        }
        let key = (registry.to_owned(), repository.to_owned());
        let mut known = self.credentials.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let lookup = || Arc::new(look_up(&self.options.auth_files, registry, repository));
        Arc::clone(known.entry(key).or_insert_with(lookup))
    }
}

fn look_up(files: &[PathBuf], registry: &str, repository: &str) -> Lookup {
    let mut lookup = Lookup::default();
    for path in files {
        let bytes = match read_bounded(path, MAX_AUTH_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(source) => {
                lookup.problems.push(CredentialProblem::Unreadable { path: path.clone(), source });
                continue;
            }
        };
        for server in servers(&bytes, registry, repository) {
            match ask(&bytes, &server, path) {
                Ok(Some(credential)) => {
                    lookup.credential = Some(credential);
                    return lookup;
                }
                Ok(None) => {}
                Err(problem) => lookup.problems.push(problem),
            }
        }
    }
    lookup
}

/// The names to ask a file for, best first: podman's keys may have a part of the path
/// (`quay.io/team/app`), docker has an old name for its own registry.
fn servers(bytes: &[u8], registry: &str, repository: &str) -> Vec<String> {
    let mut servers = Vec::new();
    let parsed = serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
    let mut name = format!("{registry}/{repository}");
    while name.len() > registry.len() {
        if parsed.get("auths").and_then(|auths| auths.get(&name)).is_some() {
            servers.push(name.clone());
        }
        name.truncate(name.rfind('/').unwrap_or(0));
    }
    if registry == "docker.io" {
        servers.push(DOCKER_HUB_KEY.to_owned());
    }
    servers.push(registry.to_owned());
    servers
}

fn ask(bytes: &[u8], server: &str, path: &Path) -> Result<Option<Credential>, CredentialProblem> {
    match docker_credential::get_credential_from_reader(bytes, server) {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Some(Credential::Basic { username, password }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credential::IdentityToken(token))),
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        // Helpers have no other way to say that they know nothing.
        Err(CredentialRetrievalError::HelperFailure { stdout, stderr, .. })
            if stdout.contains("credentials not found") || stderr.contains("credentials not found") =>
        {
            Ok(None)
        }
        Err(source) => Err(CredentialProblem::Source { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn basic(username: &str, password: &str) -> Option<Credential> {
        Some(Credential::Basic { username: username.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn files_are_asked_in_order_and_by_path() {
        // `dTpw` is `u:p`, `eDp5` is `x:y`.
        let one = file(r#"{"auths":{"quay.io":{"auth":"dTpw"},"quay.io/team":{"auth":"eDp5"}}}"#);
        let two =
            file(r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}, "h:1":{"identitytoken":"t"}}}"#);
        let files = [PathBuf::from("/nonexistent/config.json"), one.path().to_owned(), two.path().to_owned()];
        assert_eq!(look_up(&files, "quay.io", "other/app").credential, basic("u", "p"));
        assert_eq!(look_up(&files, "quay.io", "team/app").credential, basic("x", "y"));
        assert_eq!(look_up(&files, "docker.io", "library/x").credential, basic("u", "p"));
        assert_eq!(look_up(&files, "h:1", "x").credential, Some(Credential::IdentityToken("t".to_owned())));
        let nothing = look_up(&files, "ghcr.io", "x");
        assert!(nothing.credential.is_none() && nothing.problems.is_empty());
    }

    #[test]
    fn broken_sources_are_remembered() {
        let broken = file("{");
        let helper = file(r#"{"credHelpers":{"h":"kiln-test-that-does-not-exist"}}"#);
        let lookup = look_up(&[broken.path().to_owned(), helper.path().to_owned()], "h", "x");
        assert!(lookup.credential.is_none());
        assert_eq!(lookup.problems.len(), 2);
        assert!(lookup.problems[0].to_string().contains(&*broken.path().to_string_lossy()));
    }

    #[test]
    fn the_usual_places() {
        let places = |set: &[(&str, &str)]| {
            let set: Vec<(String, OsString)> =
                set.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
            default_auth_files(|name| set.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()))
        };
        assert_eq!(places(&[("REGISTRY_AUTH_FILE", "/a"), ("HOME", "/h")]), [PathBuf::from("/a")]);
        assert_eq!(
            places(&[("DOCKER_CONFIG", "/d"), ("HOME", "/h")]),
            [PathBuf::from("/d/config.json"), PathBuf::from("/h/.config/containers/auth.json")]
        );
        assert_eq!(
            places(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")]),
            [
                PathBuf::from("/r/containers/auth.json"),
                PathBuf::from("/h/.config/containers/auth.json"),
                PathBuf::from("/h/.docker/config.json")
            ]
        );
        assert!(places(&[]).is_empty());
    }

    #[test]
    fn secrets_are_not_printed() {
        assert!(!format!("{:?}", basic("u", "secret")).contains("secret"));
    }
}
