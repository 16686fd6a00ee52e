//! The list as a document of SPDX 2.3 (<https://spdx.github.io/spdx-spec/v2.3/>).
//!
//! Invariants:
//! - identifiers are made of letters, digits, dots and dashes, and each is there once;
//! - a licence is stated only where it is an expression of well-known identifiers, else it is a comment: a reader must not
//!   take words for identifiers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Inventory, Kind, Package};
use crate::base::digest::Digest;
use crate::export::attest::purl::PackageUrl;

/// Predicate type.
pub const SPDX: &str = "https://spdx.dev/Document";

/// What a document is about.
#[derive(Debug, Clone)]
pub struct About {
    /// Name of the image, or of its files.
    pub name: String,
    /// Digest of the manifest; empty for files.
    pub version: String,
    /// RFC 3339.
    pub created: String,
}

/// Makes the document.
pub fn document(inventory: &Inventory, about: &About) -> Value {
    let root = "SPDXRef-Image";
    let mut packages = vec![json!({
        "SPDXID": root,
        "name": about.name,
        "versionInfo": about.version,
        "primaryPackagePurpose": "CONTAINER",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
    })];
    if about.version.is_empty()
        && let Some(image) = packages[0].as_object_mut()
    {
        image.remove("versionInfo");
    }
    let relation = |from: &str, kind: &str, to: &str| json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to });
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", root)];
    let system = &inventory.system;
    if !system.id.is_empty() {
        let id = "SPDXRef-OperatingSystem";
        let mut entry = json!({
            "SPDXID": id,
            "name": system.id,
            "primaryPackagePurpose": "OPERATING_SYSTEM",
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
        });
        if !system.version.is_empty() {
            entry["versionInfo"] = json!(system.version);
        }
        if !system.title.is_empty() {
            entry["summary"] = json!(system.title);
        }
        packages.push(entry);
        relations.push(relation(root, "CONTAINS", id));
    }
    for package in &inventory.packages {
        let id = identifier(package);
        packages.push(entry(package, &id, inventory));
        relations.push(relation(root, "CONTAINS", &id));
    }
    let mut creation = json!({
        "created": about.created,
        "creators": [format!("Tool: kiln-{}", env!("CARGO_PKG_VERSION"))],
    });
    if !inventory.left_out.is_empty() {
        creation["comment"] = json!(format!("not complete: {}", inventory.left_out.join("; ")));
    }
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": about.name,
        "creationInfo": creation,
        "packages": packages,
        "relationships": relations,
    });
    // It has to be another one for each document, and the same for the same one.
    let digest = Digest::of(document.to_string().as_bytes());
    document["documentNamespace"] = json!(format!("https://spdx.org/spdxdocs/kiln-{}", digest.hex()));
    document
}

fn entry(package: &Package, id: &str, inventory: &Inventory) -> Value {
    let mut entry = json!({
        "SPDXID": id,
        "name": package.name,
        "versionInfo": package.version,
        "supplier": "NOASSERTION",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "sourceInfo": format!("found in /{}", package.found_in),
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": url(package, inventory),
        }],
    });
    let license = package.license.trim();
    if is_expression(license) {
        entry["licenseDeclared"] = json!(license);
    } else if !license.is_empty() {
        // Some packages have the whole text there.
        let short: String = license.chars().take(200).collect();
        entry["licenseComments"] = json!(format!("declared as: {short}"));
    }
    if let Some(supplier) = supplier(package.kind, &package.supplier) {
        entry["supplier"] = json!(supplier);
    }
    if package.homepage.starts_with("https://") || package.homepage.starts_with("http://") {
        entry["homepage"] = json!(package.homepage);
    }
    entry
}

/// `Name <mail>` as SPDX has it, which wants to know whether that is a person: of rpm it is a vendor, of others a
/// maintainer (who may be a team all the same).
fn supplier(kind: Kind, text: &str) -> Option<String> {
    let who = if kind == Kind::Rpm { "Organization" } else { "Person" };
    let text = text.trim();
    let line = text.lines().next().filter(|line| !line.is_empty() && line.len() <= super::MAX_WORD_BYTES)?;
    Some(match line.split_once('<') {
        Some((name, mail)) => {
            format!("{who}: {} ({})", name.trim(), mail.trim_end_matches('>').trim())
        }
        None => format!("{who}: {line}"),
    })
}

fn url(package: &Package, inventory: &Inventory) -> String {
    let Package { kind, name, version, architecture, upstream, epoch, .. } = package;
    let system = &inventory.system;
    // A distribution's packages are named after it.
    let distribution = match (kind, system.id.as_str()) {
        (Kind::Deb, "") => "debian",
        (Kind::Apk, "") => "alpine",
        (_, id) => id,
    };
    let distro = match (system.id.as_str(), system.version.as_str()) {
        ("", _) | (_, "") => String::new(),
        (id, version) => format!("{id}-{version}"),
    };
    let (namespace, name) = match kind {
        Kind::Deb | Kind::Apk | Kind::Rpm => (distribution, name.clone()),
        // Names are equal however they are written (PEP 503).
        Kind::Pypi => ("", name.to_lowercase().replace('_', "-")),
        Kind::Npm => {
            name.rsplit_once('/').map_or(("", name.clone()), |(scope, name)| (scope, name.to_owned()))
        }
    };
    let of_system = matches!(kind, Kind::Deb | Kind::Apk | Kind::Rpm);
    let upstream = if upstream == &name { "" } else { upstream };
    let qualifiers = [
        ("arch", architecture.as_str()),
        ("distro", if of_system { &distro } else { "" }),
        ("epoch", epoch.as_str()),
        ("upstream", upstream),
    ];
    PackageUrl { kind: kind.name(), namespace, name: &name, version, qualifiers: &qualifiers }.to_string()
}

/// Says what it is, and is another one for everything that is another one.
fn identifier(package: &Package) -> String {
    let name: String = package
        .name
        .chars()
        .take(60)
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let whole = format!("{package:?}");
    format!("SPDXRef-{}-{name}-{}", package.kind.name(), Digest::of(whole.as_bytes()).short())
}

/// Identifiers of the SPDX licence list that packages usually have; others are told in a comment.
const LICENSES: &[&str] = &[
    "0BSD",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-4-Clause",
    "BSL-1.0",
    "BlueOak-1.0.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC0-1.0",
    "EPL-2.0",
    "GFDL-1.3-or-later",
    "GPL-1.0-or-later",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "ISC",
    "LGPL-2.0-or-later",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MIT",
    "MIT-0",
    "MPL-1.1",
    "MPL-2.0",
    "OFL-1.1",
    "OpenSSL",
    "PSF-2.0",
    "Python-2.0",
    "Ruby",
    "Unlicense",
    "Vim",
    "WTFPL",
    "X11",
    "Zlib",
    "curl",
];

/// Whether a text is identifiers with AND and OR between them. Brackets and exceptions are left to the comment.
fn is_expression(text: &str) -> bool {
    let known: BTreeSet<&str> = LICENSES.iter().copied().collect();
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    words.len() % 2 == 1
        && words.iter().enumerate().all(|(number, word)| match number % 2 {
            0 => known.contains(word),
            _ => matches!(*word, "AND" | "OR"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::attest::sbom::System;

    fn package(kind: Kind, name: &str) -> Package {
        Package { name: name.to_owned(), version: "1".to_owned(), ..Package::new(kind, "db") }
    }

    fn of(id: &str, version: &str) -> Inventory {
        let system = System { id: id.to_owned(), version: version.to_owned(), title: String::new() };
        Inventory { system, ..Inventory::default() }
    }

    #[test]
    fn package_urls_as_their_types_have_them() {
        let debian = of("debian", "12");
        let libc = Package {
            version: "2.36-9+deb12u4".to_owned(),
            architecture: "amd64".to_owned(),
            upstream: "glibc".to_owned(),
            ..package(Kind::Deb, "libc6")
        };
        assert_eq!(
            url(&libc, &debian),
            "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12&upstream=glibc"
        );
        let own = Package { upstream: "musl".to_owned(), ..package(Kind::Apk, "musl") };
        assert_eq!(url(&own, &of("", "")), "pkg:apk/alpine/musl@1");
        assert_eq!(url(&package(Kind::Npm, "@a/b"), &debian), "pkg:npm/%40a/b@1");
        assert_eq!(url(&package(Kind::Pypi, "Foo_Bar"), &debian), "pkg:pypi/foo-bar@1");
        let rpm = Package { epoch: "2".to_owned(), ..package(Kind::Rpm, "vim") };
        assert_eq!(url(&rpm, &of("fedora", "40")), "pkg:rpm/fedora/vim@1?distro=fedora-40&epoch=2");
    }

    #[test]
    fn licences_are_stated_only_where_they_are_identifiers() {
        for good in ["MIT", "Apache-2.0 OR MIT", "MIT AND ISC AND Zlib"] {
            assert!(is_expression(good), "{good}");
        }
        for words in ["", "MIT License", "GPLv2+", "MIT AND", "AND", "MIT OR Mine", "(MIT)"] {
            assert!(!is_expression(words), "{words}");
        }
        let free = Package { license: "BSD style\nsee there".to_owned(), ..package(Kind::Pypi, "x") };
        let entry = entry(&free, "SPDXRef-x", &Inventory::default());
        assert_eq!(entry["licenseDeclared"], "NOASSERTION");
        assert_eq!(entry["licenseComments"], "declared as: BSD style\nsee there");
    }

    #[test]
    fn identifiers_are_sound_and_differ() {
        let strange = identifier(&package(Kind::Npm, "@a/b_c é"));
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        assert!(strange.strip_prefix("SPDXRef-").is_some_and(|rest| rest.chars().all(sound)), "{strange}");
        let other = Package { found_in: "elsewhere".to_owned(), ..package(Kind::Npm, "@a/b_c é") };
        assert_ne!(strange, identifier(&other));
    }

    #[test]
    fn equal_lists_are_equal_documents() {
        let mut inventory = of("debian", "12");
        inventory.packages = vec![package(Kind::Deb, "a"), package(Kind::Deb, "b")];
        let about = |created: &str| About {
            name: "x".to_owned(),
            version: "sha256:0".to_owned(),
            created: created.to_owned(),
        };
        let first = document(&inventory, &about("2020-01-01T00:00:00Z"));
        assert_eq!(first, document(&inventory, &about("2020-01-01T00:00:00Z")));
        let other = document(&inventory, &about("2021-01-01T00:00:00Z"));
        assert_ne!(first["documentNamespace"], other["documentNamespace"]);
        assert_eq!(first["packages"].as_array().map(Vec::len), Some(4));
        assert_eq!(first["relationships"].as_array().map(Vec::len), Some(4));
        inventory.left_out.push("cannot read `x`".to_owned());
        let partial = document(&inventory, &about("2020-01-01T00:00:00Z"));
        assert_eq!(partial["creationInfo"]["comment"], "not complete: cannot read `x`");
    }
}
