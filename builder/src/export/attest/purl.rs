//! Package URLs (<https://github.com/package-url/purl-spec>).

use crate::image::platform::Platform;
use crate::image::reference::Reference;

/// A package URL.
#[derive(Debug, Clone, Default)]
pub(super) struct PackageUrl<'a> {
    /// `docker`, `deb`, ...
    pub kind: &'a str,
    /// Segments with slashes between them; may be empty.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Version; may be empty.
    pub version: &'a str,
    /// Sorted by key; those without value are left out.
    pub qualifiers: &'a [(&'a str, &'a str)],
}

impl std::fmt::Display for PackageUrl<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pkg:{}/", self.kind)?;
        for segment in self.namespace.split('/').filter(|segment| !segment.is_empty()) {
            write!(f, "{}/", escaped(segment))?;
        }
        f.write_str(&escaped(self.name))?;
        if !self.version.is_empty() {
            write!(f, "@{}", escaped(self.version))?;
        }
        let given = self.qualifiers.iter().filter(|(_, value)| !value.is_empty());
        for (number, (key, value)) in given.enumerate() {
            write!(f, "{}{key}={}", if number == 0 { '?' } else { '&' }, escaped(value))?;
        }
        Ok(())
    }
}

/// Percent-encodes all but letters, digits, `.-_~` and the colon, which the specification leaves as it is.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// An image of a registry, as BuildKit names it (util/purl/image.go).
pub(super) fn of_image(reference: &Reference, platform: &Platform) -> String {
    let bare = Reference { tag: None, digest: None, ..reference.clone() };
    let name = bare.familiar();
    let (namespace, name) = name.rsplit_once('/').unwrap_or(("", &name));
    let digest = reference.digest.as_ref().map(ToString::to_string).unwrap_or_default();
    let version = match (&reference.tag, &reference.digest) {
        (Some(tag), _) => tag,
        (None, Some(_)) => "",
        (None, None) => "latest",
    };
    let platform = platform.to_string();
    let qualifiers = [("digest", digest.as_str()), ("platform", platform.as_str())];
    PackageUrl { kind: "docker", namespace, name, version, qualifiers: &qualifiers }.to_string()
}

/// An image of a layout, by a name that says nothing of this machine.
pub(super) fn of_layout(name: &str, platform: &Platform) -> String {
    let platform = platform.to_string();
    PackageUrl { kind: "oci", name, qualifiers: &[("platform", &platform)], ..PackageUrl::default() }
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_as_buildkit_names_them() {
        let platform = Platform::new("linux", "amd64", "");
        let purl = |name: &str| of_image(&name.parse().expect("reference"), &platform);
        assert_eq!(purl("alpine:3.17"), "pkg:docker/alpine@3.17?platform=linux%2Famd64");
        assert_eq!(purl("alpine"), "pkg:docker/alpine@latest?platform=linux%2Famd64");
        assert_eq!(purl("127.0.0.1:5000/a/b:c"), "pkg:docker/127.0.0.1:5000/a/b@c?platform=linux%2Famd64");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            purl(&format!("me/app@{digest}")),
            format!("pkg:docker/me/app?digest={digest}&platform=linux%2Famd64")
        );
    }

    #[test]
    fn what_has_a_meaning_is_escaped() {
        let url = PackageUrl {
            kind: "deb",
            namespace: "debian",
            name: "g++ x",
            version: "1:2+b~1",
            qualifiers: &[("arch", ""), ("distro", "a&b")],
        };
        assert_eq!(url.to_string(), "pkg:deb/debian/g%2B%2B%20x@1:2%2Bb~1?distro=a%26b");
    }
}
