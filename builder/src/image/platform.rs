//! Platforms: `os/arch[/variant]`, normalised as containerd does, and choice from an index.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An operating system and processor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ….
    pub architecture: String,
    /// `v7`; empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// `os.version` (Windows only).
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
}

/// Why a text is not a platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a platform of the form `os/arch[/variant]`, e.g. `linux/arm64`")]
pub struct PlatformError(pub String);

impl Platform {
    /// The platform kiln runs on.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self::new("linux", architecture, "")
    }

    /// Makes a normalised platform.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = os.to_lowercase();
        let (architecture, variant) = normalise(&architecture.to_lowercase(), &variant.to_lowercase());
        let os = if os == "macos" { "darwin".to_owned() } else { os };
        Self { os, architecture, variant, os_version: String::new() }
    }

    /// How well an image for `offered` serves a request for `self`: `None` not at all, lower is better.
    /// Smaller variants of the same processor serve larger ones (arm/v7 takes v6).
    pub fn distance(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let number = |p: &Platform| {
            let default = match p.architecture.as_str() {
                "arm" => 7,
                "arm64" => 8,
                "amd64" => 1,
                _ => 0,
            };
            p.variant.strip_prefix('v').and_then(|n| n.parse::<u32>().ok()).unwrap_or(default)
        };
        number(self).checked_sub(number(offered))
    }
}

fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (a, v) => (a, v),
    };
    (architecture.to_owned(), variant.to_owned())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        if text == "local" {
            return Ok(Self::host());
        }
        let ok = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(ok) {
            return Err(PlatformError(text.to_owned()));
        }
        match parts[..] {
            [one] => {
                let lower = one.to_lowercase();
                Ok(match lower.as_str() {
                    "linux" | "windows" | "darwin" | "freebsd" => Self { os: lower, ..Self::host() },
                    "amd64" | "x86_64" | "arm64" | "aarch64" | "arm" | "armhf" | "armel" | "386" | "i386"
                    | "riscv64" | "ppc64le" | "s390x" | "loong64" | "mips64le" | "mips64" => {
                        Self::new("linux", &lower, "")
                    }
                    _ => return Err(PlatformError(text.to_owned())),
                })
            }
            [os, architecture] => Ok(Self::new(os, architecture, "")),
            [os, architecture, variant] => Ok(Self::new(os, architecture, variant)),
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("arm64", "linux/arm64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), expected);
        }
        for bad in ["not//a//platform", "", "a/b/c/d", "linux/", "nonsense"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn smaller_variants_serve() {
        let v7: Platform = "linux/arm/v7".parse().unwrap();
        let v6: Platform = "linux/arm/v6".parse().unwrap();
        assert_eq!(v7.distance(&v6), Some(1));
        assert_eq!(v6.distance(&v7), None);
        assert_eq!(v7.distance(&"linux/arm64".parse().unwrap()), None);
    }
}
