//! Options of every command that speaks to registries, named as podman's and buildah's.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{amount, choice};

const REGISTRY: &str = "Registries";

/// How registries are spoken to.
#[derive(Debug, Clone, Default, Args)]
pub struct AccessArgs {
    /// Credentials for the registry of the image
    #[arg(long, value_name = "USER:PASSWORD", value_parser = parse_login, help_heading = REGISTRY)]
    pub creds: Option<Login>,
    /// File of credentials in docker's format [env: REGISTRY_AUTH_FILE] [default: those of docker and
    /// podman]
    #[arg(long, value_name = "FILE", help_heading = REGISTRY)]
    pub authfile: Option<PathBuf>,
    /// false takes any certificate, and plain http [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean, help_heading = REGISTRY)]
    pub tls_verify: Option<bool>,
    /// Directory of certificates: *.crt are trusted, NAME.cert and NAME.key are shown to the registry
    #[arg(long, value_name = "DIR", help_heading = REGISTRY)]
    pub cert_dir: Option<PathBuf>,
    /// Retries of what failed for a passing reason [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100), help_heading = REGISTRY)]
    pub retry: Option<u32>,
    /// Pause before the first retry, doubled each time [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = amount::duration, help_heading = REGISTRY)]
    pub retry_delay: Option<Duration>,
}

/// User name and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User.
    pub username: String,
    /// Secret.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(…)")
    }
}

/// Parses `USER:PASSWORD`. The text may be a secret, so no message repeats it.
pub fn parse_login(text: &str) -> Result<Login, String> {
    match text.split_once(':') {
        Some((username, password)) if !username.is_empty() => {
            Ok(Login { username: username.to_owned(), password: password.to_owned() })
        }
        _ => Err("write USER:PASSWORD, or use `kiln login`, which does not show the password".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_may_have_colons_and_are_not_shown() {
        let login = parse_login("me:a:b").unwrap();
        assert_eq!((login.username.as_str(), login.password.as_str()), ("me", "a:b"));
        assert!(!format!("{login:?}").contains('a'));
        let error = parse_login("s3cret").unwrap_err();
        assert!(!error.contains("s3cret"));
        assert!(parse_login(":x").is_err());
    }
}
