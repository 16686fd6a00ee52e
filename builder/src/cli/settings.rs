//! `kiln.toml`: settings that the command line would have to repeat (docs/registry.md).
//!
//! | file | read |
//! |---|---|
//! | the one that `KILN_CONFIG` names | alone, and it must be there; an empty value means no file at all |
//! | `$XDG_CONFIG_HOME/kiln/kiln.toml`, else `~/.config/kiln/kiln.toml` | over the machine's, key by key |
//! | `/etc/kiln/kiln.toml` | below the user's |
//!
//! Invariants: an unknown key is an error, told with its line; paths in a file are relative to its directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::args::amount;
use crate::net::KeyPair;
use crate::registry::{HostOptions, Mirror};
use crate::ui::failure::{Failure, Kind};

/// Largest file; a thousand registries have room in it.
const MAX_BYTES: u64 = 1024 * 1024;
/// The machine's file.
const SYSTEM: &str = "/etc/kiln/kiln.toml";

/// What the files say.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Settings {
    pub(super) retries: Option<u32>,
    pub(super) retry_delay: Option<Duration>,
    /// Authorities for every server.
    pub(super) authorities: Vec<PathBuf>,
    pub(super) registries: BTreeMap<String, HostOptions>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    network: Network,
    #[serde(default)]
    registry: BTreeMap<String, Registry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Network {
    retries: Option<u32>,
    retry_delay: Option<String>,
    ca: Option<Vec<PathBuf>>,
}

/// The keys are those of buildkitd.toml.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Registry {
    mirrors: Option<Vec<String>>,
    http: Option<bool>,
    insecure: Option<bool>,
    ca: Option<Vec<PathBuf>>,
    keypair: Option<Vec<Pair>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

/// Reads the files that there are.
pub(super) fn load(variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    if let Some(path) = variable("KILN_CONFIG") {
        if !path.is_empty() {
            let path = PathBuf::from(path);
            let text = read(&path)?
                .ok_or_else(|| failure(&path, "it does not exist").with_hint("KILN_CONFIG names it"))?;
            settings.add(&path, &text)?;
        }
        return Ok(settings);
    }
    let directory = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = directory("XDG_CONFIG_HOME").or_else(|| directory("HOME").map(|home| home.join(".config")));
    let files = [Some(PathBuf::from(SYSTEM)), user.map(|dir| dir.join("kiln/kiln.toml"))];
    for path in files.into_iter().flatten() {
        if let Some(text) = read(&path)? {
            settings.add(&path, &text)?;
        }
    }
    Ok(settings)
}

fn failure(path: &Path, cause: &str) -> Failure {
    Failure {
        causes: vec![cause.to_owned()],
        ..Failure::new(Kind::Config, format!("cannot use the settings in `{}`", path.display()))
    }
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    let bytes = match crate::net::read_bounded(path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failure(path, &error.to_string())),
    };
    String::from_utf8(bytes).map(Some).map_err(|_| failure(path, "it is not UTF-8"))
}

impl Settings {
    /// Lays a file over what is known.
    fn add(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        let fail = |cause: String| failure(path, &cause);
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1);
            fail(format!("line {line}: {}", error.message()))
        })?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let absolute = |paths: Vec<PathBuf>| paths.into_iter().map(|path| directory.join(path)).collect();
        let Network { retries, retry_delay, ca } = file.network;
        self.retries = retries.or(self.retries);
        if let Some(text) = retry_delay {
            let delay = amount::duration(&text).map_err(|error| fail(format!("retry-delay: {error}")))?;
            self.retry_delay = Some(delay);
        }
        if let Some(ca) = ca {
            self.authorities = absolute(ca);
        }
        for (name, registry) in file.registry {
            let named = super::args::login::parse_registry(&name).map_err(|error| fail(error.clone()))?;
            let known = self.registries.entry(named).or_default();
            if let Some(mirrors) = registry.mirrors {
                let parse = |text: &String| {
                    text.parse::<Mirror>()
                        .map_err(|error| fail(format!("registry.\"{name}\".mirrors: {error}")))
                };
                known.mirrors = mirrors.iter().map(parse).collect::<Result<_, _>>()?;
            }
            known.http = registry.http.or(known.http);
            known.insecure = registry.insecure.or(known.insecure);
            if let Some(ca) = registry.ca {
                known.authorities = absolute(ca);
            }
            if let Some(pairs) = registry.keypair {
                let pair = |pair: Pair| KeyPair {
                    certificate: directory.join(pair.cert),
                    key: directory.join(pair.key),
                };
                known.key_pairs = pairs.into_iter().map(pair).collect();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_file_wins_key_by_key() {
        let mut settings = Settings::default();
        let system = r#"
            [network]
            retries = 7
            retry-delay = "20ms"
            [registry."docker.io"]
            mirrors = ["m.example:5000/hub"]
            [registry."r.example"]
            insecure = true
            ca = ["corp.pem"]
        "#;
        settings.add(Path::new("/etc/kiln/kiln.toml"), system).unwrap();
        let user = r#"
            network.retries = 1
            [registry."r.example"]
            ca = ["/own.pem"]
            keypair = [{ cert = "c.pem", key = "k.pem" }]
        "#;
        settings.add(Path::new("/home/me/kiln.toml"), user).unwrap();
        assert_eq!((settings.retries, settings.retry_delay), (Some(1), Some(Duration::from_millis(20))));
        assert_eq!(settings.registries["docker.io"].mirrors, ["m.example:5000/hub".parse().unwrap()]);
        let own = &settings.registries["r.example"];
        assert_eq!((own.insecure, own.http), (Some(true), None));
        assert_eq!(own.authorities, [PathBuf::from("/own.pem")]);
        assert_eq!(own.key_pairs[0].key, Path::new("/home/me/k.pem"));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let told = |text: &str| {
            let failure = Settings::default().add(Path::new("/x/kiln.toml"), text).unwrap_err();
            format!("{}: {}", failure.message, failure.causes.join(" "))
        };
        let unknown = told("[network]\nretrys = 1\n");
        assert!(unknown.contains("/x/kiln.toml") && unknown.contains("line 2"), "{unknown}");
        assert!(unknown.contains("retrys") && unknown.contains("retries"), "{unknown}");
        assert!(told("[registry.\"a/b\"]\n").contains("HOST"));
        assert!(told("[registry.\"h:1\"]\nmirrors = [\"https://m\"]\n").contains("is a URL"));
        assert!(told("[network]\nretry-delay = \"soon\"\n").contains("retry-delay"));
        assert!(told("[[[").contains("line 1"));
    }

    #[test]
    fn the_documented_file_is_one() {
        let docs = include_str!("../../../docs/registry.md");
        let (_, rest) = docs.split_once("```toml\n").unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        let mut settings = Settings::default();
        settings.add(Path::new("/etc/kiln/kiln.toml"), text).unwrap();
        assert_eq!((settings.retries, settings.registries.len()), (Some(5), 2));
        assert_eq!(settings.registries["docker.io"].mirrors.len(), 2);
    }

    #[test]
    fn one_file_can_be_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own.toml");
        std::fs::write(&path, "network.retries = 9").unwrap();
        let at = |value: &Path| load(|name| (name == "KILN_CONFIG").then(|| value.as_os_str().to_owned()));
        assert_eq!(at(&path).unwrap().retries, Some(9));
        assert_eq!(at(Path::new("")).unwrap(), Settings::default());
        assert!(at(&dir.path().join("none")).unwrap_err().causes[0].contains("does not exist"));
    }
}
