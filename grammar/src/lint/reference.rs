//! Whether a text can be the name of an image, and its parts.
//!
//! Invariants: accepts what distribution's `ParseNormalizedNamed` accepts, `scratch` included.

/// Longest name without domain and tag.
const MAX_PATH: usize = 255;

/// The parts of an image name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference<'r> {
    /// Domain and path as written.
    pub(super) name: &'r str,
    pub(super) tag: Option<&'r str>,
    pub(super) digest: Option<&'r str>,
}

impl<'r> Reference<'r> {
    /// Reads a name as people write it.
    pub(super) fn parse(text: &'r str) -> Option<Self> {
        // 64 hexadecimal digits would be taken for the id of an image.
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let path_start = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest.get(path_start..).and_then(|last| last.split_once(':')) {
            Some((last, tag)) => (rest.get(..path_start + last.len()).unwrap_or(""), Some(tag)),
            None => (rest, None),
        };
        let (domain, path) = match name.split_once('/') {
            Some((domain, path)) if is_domain_like(domain) => (Some(domain), path),
            _ => (None, name),
        };
        let valid = domain.is_none_or(is_domain)
            && is_path(path)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest);
        valid.then_some(Self { name, tag, digest })
    }
}

/// What makes the first component a registry and not a part of the path.
fn is_domain_like(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(inner) = domain.strip_prefix('[') {
        let Some((address, port)) = inner.split_once(']') else { return false };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        ("", port.strip_prefix(':'))
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    let label = |label: &str| {
        let end = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        end(label.bytes().next())
            && end(label.bytes().last())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let host_valid = domain.starts_with('[') || host.split('.').all(label);
    host_valid && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

fn is_path(path: &str) -> bool {
    path.len() <= MAX_PATH && path.split('/').all(is_component)
}

/// Lower-case letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut rest = component;
    loop {
        let after = rest.trim_start_matches(word);
        if after.len() == rest.len() {
            return false;
        }
        if after.is_empty() {
            return true;
        }
        let separator = after.len() - after.trim_start_matches(|c| !word(c)).len();
        let (separator, next) = after.split_at(separator);
        let known = matches!(separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
        if !known {
            return false;
        }
        rest = next;
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.len() <= 128 && tag.starts_with(word) && tag.chars().all(|c| word(c) || matches!(c, '.' | '-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let expected = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == expected && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_names_of_images() {
        let digest = format!("alpine@sha256:{}", "a".repeat(64));
        for name in [
            "scratch",
            "alpine:3.20",
            "a/b-c/d__e.f",
            "localhost:5000/x",
            "LOCAL/x",
            "ghcr.io/A-1.b/c".to_lowercase().as_str(),
            "[::1]:5000/x:T",
            &digest,
        ] {
            assert!(Reference::parse(name).is_some(), "{name}");
        }
        for name in [
            "",
            "BUG_stage",
            "/",
            ":",
            "/:",
            "golang:",
            "a//b",
            "a:-b",
            "-a",
            "a-",
            "a...b",
            "a@sha256:1",
            "Foo:1",
            "a b",
            &"0".repeat(64),
        ] {
            assert!(Reference::parse(name).is_none(), "{name}");
        }
        let parts = Reference::parse("localhost:5000/x:T").unwrap();
        assert_eq!((parts.name, parts.tag, parts.digest), ("localhost:5000/x", Some("T"), None));
    }
}
