//! Platforms as far as checks need them: operating system and processor out of `os/arch[/variant]`.
//!
//! Invariants: what containerd does not take as a platform is `None`, never a guess.

/// Operating systems that may stand alone.
const SYSTEMS: [&str; 16] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

/// Processors that may stand alone.
const PROCESSORS: [&str; 25] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
    "i386",
];

/// A platform, its names in their usual form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    pub(super) variant: String,
}

impl Platform {
    /// Reads a platform; what is left out is taken from `host`.
    pub(super) fn parse(text: &str, host: &Platform) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| !is_component(part)) {
            return None;
        }
        let os = |name: &str| match name.to_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        match parts[..] {
            [only] => {
                let lower = os(only);
                if SYSTEMS.contains(&lower.as_str()) {
                    return Some(Self { os: lower, ..host.clone() });
                }
                let (architecture, variant) = processor(only, "");
                PROCESSORS.contains(&architecture.as_str()).then(|| Self {
                    os: host.os.clone(),
                    architecture,
                    variant,
                })
            }
            [system, name] => {
                let (architecture, variant) = processor(name, "");
                Some(Self { os: os(system), architecture, variant })
            }
            [system, name, variant] => {
                let (architecture, variant) = processor(name, variant);
                Some(Self { os: os(system), architecture, variant })
            }
            _ => None,
        }
    }

    /// What a fact says, or 64-bit Linux.
    pub(super) fn of_fact(text: Option<&str>) -> Self {
        let default = Self { os: "linux".into(), architecture: "amd64".into(), variant: String::new() };
        text.and_then(|text| Self::parse(text, &default)).unwrap_or(default)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

fn is_component(part: &str) -> bool {
    // An operating system may have its version behind it in parentheses.
    let name = part.split('(').next().unwrap_or(part);
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn processor(name: &str, variant: &str) -> (String, String) {
    let (name, variant) = (name.to_lowercase(), variant.to_lowercase());
    let (name, variant) = match (name.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (name.to_owned(), variant.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_platforms() {
        let host = Platform::of_fact(None);
        let read = |text: &str| Platform::parse(text, &host).map(|platform| platform.to_string());
        assert_eq!(read("linux/x86_64").as_deref(), Some("linux/amd64"));
        assert_eq!(read("Linux/arm/v6").as_deref(), Some("linux/arm/v6"));
        assert_eq!(read("arm64").as_deref(), Some("linux/arm64"));
        assert_eq!(read("windows").as_deref(), Some("windows/amd64"));
        for not in ["", "linux/", "foo", "a/b/c/d", "linux/$X"] {
            assert_eq!(read(not), None, "{not}");
        }
    }
}
