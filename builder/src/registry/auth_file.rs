//! Keeping credentials where docker, podman and kiln look for them: a file in docker's format, or the credential
//! helper that the file names.
//!
//! | the file says | the credentials are kept |
//! |---|---|
//! | `credHelpers.HOST = X` | by `docker-credential-X` |
//! | `credsStore = X` | by `docker-credential-X` |
//! | neither | in `auths.HOST.auth` of the file, as base64, which hides nothing: hence mode 0600 |
//!
//! Invariants: everything else that the file holds stays; the file is replaced at once; secrets reach a helper through
//! its standard input, never its arguments.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::credentials::{Credential, DOCKER_HUB_KEY, MAX_AUTH_FILE_BYTES};
use super::error::tidy;
use crate::net::read_bounded;

/// Why credentials could not be kept or removed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AuthFileError {
    #[error("cannot {action} the file of credentials `{}`", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the file of credentials `{}` is not a JSON object", .0.display())]
    Malformed(PathBuf),
    #[error("cannot run the credential helper `{program}`, which `{}` names", path.display())]
    Run {
        program: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the credential helper `{program}` failed: {message}")]
    Helper { program: String, message: String },
    #[error("only a user name with a password can be kept")]
    Kind,
}

/// Where credentials are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptIn {
    /// In this file, as good as readable.
    File(PathBuf),
    /// With this program.
    Helper(String),
}

/// Where a login is kept when nothing is said: `REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json`, or
/// `~/.docker/config.json`, which docker, podman, buildah and skopeo all read.
pub fn default_login_file(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("REGISTRY_AUTH_FILE")
        .or_else(|| path("DOCKER_CONFIG").map(|dir| dir.join("config.json")))
        .or_else(|| path("HOME").map(|home| home.join(".docker/config.json")))
}

/// Keeps credentials for a registry by means of `path`, which is made when it is not there.
pub fn keep_login(path: &Path, registry: &str, credential: &Credential) -> Result<KeptIn, AuthFileError> {
    let Credential::Basic { username, password } = credential else { return Err(AuthFileError::Kind) };
    let mut file = read(path)?.unwrap_or_default();
    let key = key(registry);
    if let Some(program) = helper(&file, registry) {
        let login = json!({ "ServerURL": key, "Username": username, "Secret": password }).to_string();
        call(&program, "store", &login, path)?;
        // docker lists what a helper keeps, so that it can be found.
        object(&mut file, "auths", path)?.insert(key.to_owned(), json!({}));
        write(path, &file)?;
        return Ok(KeptIn::Helper(program));
    }
    let auth = STANDARD.encode(format!("{username}:{password}"));
    object(&mut file, "auths", path)?.insert(key.to_owned(), json!({ "auth": auth }));
    write(path, &file)?;
    Ok(KeptIn::File(path.to_owned()))
}

/// Removes the credentials of a registry. True when there were any.
pub fn erase_login(path: &Path, registry: &str) -> Result<bool, AuthFileError> {
    let Some(mut file) = read(path)? else { return Ok(false) };
    let mut found = false;
    if let Some(program) = helper(&file, registry) {
        match call(&program, "erase", key(registry), path) {
            Ok(()) => found = true,
            Err(AuthFileError::Helper { message, .. }) if message.contains("credentials not found") => {}
            Err(error) => return Err(error),
        }
    }
    if file.get("auths").is_some() {
        let auths = object(&mut file, "auths", path)?;
        // `registry` too: podman has docker's registry under its plain name.
        let removed = [auths.remove(key(registry)), auths.remove(registry)];
        if removed.iter().any(Option::is_some) {
            found = true;
            write(path, &file)?;
        }
    }
    Ok(found)
}

fn key(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB_KEY } else { registry }
}

fn helper(file: &Map<String, Value>, registry: &str) -> Option<String> {
    let own = file
        .get("credHelpers")
        .and_then(|helpers| helpers.get(key(registry)).or_else(|| helpers.get(registry)));
    let name = own.or_else(|| file.get("credsStore"))?.as_str()?;
    (!name.is_empty()).then(|| format!("docker-credential-{name}"))
}

fn call(program: &str, action: &str, input: &str, path: &Path) -> Result<(), AuthFileError> {
    let failed = |source| AuthFileError::Run { program: program.to_owned(), path: path.to_owned(), source };
    let mut child = Command::new(program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input may have all it needs.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    // Helpers tell what is wrong on standard output.
    let text = [output.stdout, output.stderr].concat();
    let message = tidy(&String::from_utf8_lossy(&text));
    Err(AuthFileError::Helper { program: program.to_owned(), message })
}

fn read(path: &Path) -> Result<Option<Map<String, Value>>, AuthFileError> {
    let bytes = match read_bounded(path, MAX_AUTH_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(AuthFileError::File { action: "read", path: path.to_owned(), source }),
    };
    if bytes.trim_ascii().is_empty() {
        return Ok(Some(Map::new()));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|_| AuthFileError::Malformed(path.to_owned()))
}

fn object<'a>(
    file: &'a mut Map<String, Value>,
    name: &str,
    path: &Path,
) -> Result<&'a mut Map<String, Value>, AuthFileError> {
    let value = file.entry(name).or_insert_with(|| json!({}));
    value.as_object_mut().ok_or_else(|| AuthFileError::Malformed(path.to_owned()))
}

fn write(path: &Path, file: &Map<String, Value>) -> Result<(), AuthFileError> {
    let fail = |source| AuthFileError::File { action: "write", path: path.to_owned(), source };
    // A file renamed over a symlink would take its place.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
    let mut new = tempfile::Builder::new()
        .prefix(".kiln-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(parent)
        .map_err(fail)?;
    let mut text = serde_json::to_vec_pretty(file).map_err(|error| fail(error.into()))?;
    text.push(b'\n');
    new.write_all(&text).and_then(|()| new.as_file().sync_all()).map_err(fail)?;
    new.persist(&target).map(drop).map_err(|error| fail(error.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(password: &str) -> Credential {
        Credential::Basic { username: "me".to_owned(), password: password.to_owned() }
    }

    #[test]
    fn files_are_made_private_and_keep_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.json");
        assert_eq!(keep_login(&path, "h:1", &login("pass")).unwrap(), KeptIn::File(path.clone()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Something of docker's own.
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        value["proxies"] = json!({ "default": { "httpProxy": "p" } });
        std::fs::write(&path, value.to_string()).unwrap();
        keep_login(&path, "docker.io", &login("hub")).unwrap();
        let value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(value["proxies"]["default"]["httpProxy"], "p");
        // `bWU6cGFzcw==` is `me:pass`, `bWU6aHVi` is `me:hub`.
        assert_eq!(value["auths"]["h:1"]["auth"], "bWU6cGFzcw==");
        assert_eq!(value["auths"][DOCKER_HUB_KEY]["auth"], "bWU6aHVi");
        assert!(erase_login(&path, "h:1").unwrap() && !erase_login(&path, "h:1").unwrap());
        assert!(erase_login(&path, "docker.io").unwrap());
        assert!(!erase_login(&dir.path().join("none"), "h").unwrap());
    }

    #[test]
    fn malformed_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for text in ["[]", "{", r#"{"auths":[]}"#] {
            std::fs::write(&path, text).unwrap();
            let error = keep_login(&path, "h", &login("x")).unwrap_err();
            assert!(matches!(error, AuthFileError::Malformed(_)), "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn symlinks_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real.json"), dir.path().join("link.json"));
        std::fs::write(&real, "{}").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        keep_login(&link, "h", &login("x")).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(std::fs::read_to_string(&real).unwrap().contains("auths"));
    }

    #[test]
    fn a_missing_helper_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, r#"{"credHelpers":{"h":"kiln-test-that-does-not-exist"}}"#).unwrap();
        let error = keep_login(&path, "h", &login("x")).unwrap_err();
        assert!(error.to_string().contains("docker-credential-kiln-test-that-does-not-exist"), "{error}");
    }

    #[test]
    fn where_a_login_goes() {
        let place = |set: &[(&str, &str)]| {
            default_login_file(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
            })
        };
        assert_eq!(place(&[("REGISTRY_AUTH_FILE", "/a"), ("HOME", "/h")]), Some("/a".into()));
        assert_eq!(place(&[("DOCKER_CONFIG", "/d"), ("HOME", "/h")]), Some("/d/config.json".into()));
        assert_eq!(place(&[("HOME", "/h")]), Some("/h/.docker/config.json".into()));
        assert_eq!(place(&[]), None);
    }
}
