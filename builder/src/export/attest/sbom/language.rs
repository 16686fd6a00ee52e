//! Packages that languages' own tools have installed: Python's and Node's, which say exactly what they are.
//!
//! Invariants: a file counts where its language's tools put it, and nowhere else: a `package.json` of a project is no
//! installed package.

use serde_json::Value;

use super::{Kind, MAX_FILE_BYTES, Package, Scan};

/// Adds what a file says of a package.
pub(super) fn look_at(scan: &mut Scan<'_>, path: &[u8]) {
    let parts: Vec<&[u8]> = path.rsplit(|byte| *byte == b'/').take(4).collect();
    let is_python = match parts[..] {
        [b"METADATA", directory, ..] => directory.ends_with(b".dist-info"),
        [b"PKG-INFO", directory, ..] => directory.ends_with(b".egg-info"),
        [file, directory, ..] => file.ends_with(b".egg-info") && directory.ends_with(b"-packages"),
        _ => false,
    };
    let is_node = match parts[..] {
        [b"package.json", _, b"node_modules", ..] => true,
        [b"package.json", _, scope, b"node_modules"] => scope.starts_with(b"@"),
        _ => false,
    };
    if !is_python && !is_node {
        return;
    }
    let Some(bytes) = scan.bytes(path, MAX_FILE_BYTES) else { return };
    let found_in = String::from_utf8_lossy(path);
    if is_python {
        scan.add(python(&String::from_utf8_lossy(&bytes), &found_in));
    } else if let Some(package) = node(&bytes, &found_in) {
        scan.add(package);
    }
}

/// Core metadata (<https://packaging.python.org/en/latest/specifications/core-metadata/>).
fn python(text: &str, found_in: &str) -> Package {
    let mut package = Package::new(Kind::Pypi, found_in);
    // The description is behind an empty line.
    for line in text.lines().take_while(|line| !line.is_empty()) {
        let Some((key, value)) = line.split_once(':') else { continue };
        let field = match key.to_ascii_lowercase().as_str() {
            "name" => &mut package.name,
            "version" => &mut package.version,
            // One of them; the newer one comes later or alone.
            "license" | "license-expression" => &mut package.license,
            "home-page" => &mut package.homepage,
            _ => continue,
        };
        value.trim().clone_into(field);
    }
    package
}

fn node(bytes: &[u8], found_in: &str) -> Option<Package> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let text = |key: &str| value.get(key)?.as_str().map(str::to_owned);
    Some(Package {
        name: text("name")?,
        version: text("version")?,
        // `{"type": "MIT"}` is what npm took long ago.
        license: text("license")
            .or_else(|| value.get("license")?.get("type")?.as_str().map(str::to_owned))
            .unwrap_or_default(),
        homepage: text("homepage").unwrap_or_default(),
        ..Package::new(Kind::Npm, found_in)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_says_it_in_headers() {
        let text = "Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.0\nLicense: MIT\n\nName: not this\n";
        let package = python(text, "f");
        assert_eq!(
            (package.name.as_str(), package.version.as_str(), package.license.as_str()),
            ("Foo_Bar", "1.0", "MIT")
        );
    }

    #[test]
    fn node_says_it_in_json() {
        let package =
            node(br#"{"name":"@a/b","version":"1.2.3","license":{"type":"ISC"}}"#, "f").expect("package");
        assert_eq!(
            (package.name.as_str(), package.version.as_str(), package.license.as_str()),
            ("@a/b", "1.2.3", "ISC")
        );
        for broken in [&b"{"[..], b"[]", br#"{"name":"x"}"#, br#"{"name":1,"version":"1"}"#] {
            assert_eq!(node(broken, "f"), None);
        }
    }
}
