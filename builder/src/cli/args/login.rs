//! Options of `kiln login` and `kiln logout`.

use std::path::PathBuf;

use clap::Args;

use super::choice;

/// `kiln login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Registry, as host or host:port
    #[arg(value_name = "REGISTRY", default_value = "docker.io", value_parser = parse_registry)]
    pub registry: String,
    /// User name; asked for when it is not given
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password or token; others on this machine can see it, so better leave it out
    #[arg(short, long, value_name = "SECRET", conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// File to keep it in [env: REGISTRY_AUTH_FILE] [default: ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// false takes any certificate, and plain http [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = choice::boolean)]
    pub tls_verify: Option<bool>,
    /// Directory of certificates: *.crt are trusted, NAME.cert and NAME.key are shown to the registry
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
}

/// `kiln logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// Registry, as host or host:port
    #[arg(value_name = "REGISTRY", default_value = "docker.io", value_parser = parse_registry)]
    pub registry: String,
    /// File that it is kept in [env: REGISTRY_AUTH_FILE] [default: all that docker and podman use]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
}

/// Parses `host[:port]`, also as the URL that docker's documentation has for its own registry.
pub fn parse_registry(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let host = host.trim_end_matches('/');
    let host = host.strip_suffix("/v1").or_else(|| host.strip_suffix("/v2")).unwrap_or(host);
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    // A name below the host makes it a reference, which checks the host's form.
    match format!("{host}/x").parse::<crate::image::reference::Reference>() {
        Ok(reference) if reference.registry == host => Ok(host.to_owned()),
        _ => Err(format!("`{text}` is no registry; write HOST or HOST:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_hosts() {
        for (text, host) in [
            ("quay.io", "quay.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://r.example/", "r.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(parse_registry(text).as_deref(), Ok(host), "{text}");
        }
        for bad in ["quay.io/team", "", "a b.c", "user@h.io", "plain"] {
            assert!(parse_registry(bad).is_err(), "{bad}");
        }
    }
}
