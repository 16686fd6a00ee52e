//! Packages of dpkg (deb-control(5), and the database's `status`).
//!
//! Invariants: of the database only what is installed counts; removed packages leave a stanza behind.

use std::collections::BTreeMap;

use super::{Kind, MAX_DATABASE_BYTES, MAX_FILE_BYTES, Package, Scan};
use crate::sys::error::FsError;
use crate::sys::rootdir::sorted_names;

const STATUS: &str = "var/lib/dpkg/status";
/// One file for each package in images that are put together without dpkg.
const STATUS_D: &str = "var/lib/dpkg/status.d";
/// Most files of such a directory.
const MAX_STATUS_FILES: usize = 50_000;

pub(super) fn scan(scan: &mut Scan<'_>) {
    if let Some(text) = scan.read(STATUS, MAX_DATABASE_BYTES) {
        stanzas(&text, STATUS).for_each(|package| scan.add(package));
    }
    // Not there in most images.
    let Ok(directory) = scan.root.subdir(STATUS_D.as_bytes()) else { return };
    let names = match sorted_names(directory.as_fd()) {
        Ok(names) => names,
        Err(error) => return scan.leave_out(&FsError::image("read directory", STATUS_D.as_bytes(), error)),
    };
    // The sums of a package's files lie beside it.
    for name in names.iter().filter(|name| !name.ends_with(b".md5sums")).take(MAX_STATUS_FILES) {
        let path = format!("{STATUS_D}/{}", String::from_utf8_lossy(name));
        if let Some(text) = scan.read(&path, MAX_FILE_BYTES) {
            stanzas(&text, &path).for_each(|package| scan.add(package));
        }
    }
}

/// The installed packages of a file of stanzas.
fn stanzas<'a>(text: &'a str, found_in: &'a str) -> impl Iterator<Item = Package> + 'a {
    text.split("\n\n")
        .map(fields)
        .filter(|fields| is_installed(fields))
        .map(|fields| package(&fields, found_in))
}

/// First lines of fields: none that is wanted has more than one.
fn fields(stanza: &str) -> BTreeMap<&str, &str> {
    let lines = stanza.lines().filter(|line| !line.starts_with([' ', '\t', '#']));
    lines.filter_map(|line| line.split_once(':')).map(|(key, value)| (key, value.trim())).collect()
}

fn is_installed(fields: &BTreeMap<&str, &str>) -> bool {
    fields.get("Status").is_none_or(|status| status.split_ascii_whitespace().nth(2) == Some("installed"))
}

fn package(fields: &BTreeMap<&str, &str>, found_in: &str) -> Package {
    let field = |key: &str| fields.get(key).copied().unwrap_or_default().to_owned();
    // `Source: NAME` or `Source: NAME (VERSION)`.
    let source = field("Source");
    let upstream = match source.split_once(" (") {
        Some((name, version)) => format!("{name}@{}", version.trim_end_matches(')')),
        None => source,
    };
    Package {
        name: field("Package"),
        version: field("Version"),
        architecture: field("Architecture"),
        upstream,
        supplier: field("Maintainer"),
        homepage: field("Homepage"),
        ..Package::new(Kind::Deb, found_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_packages_and_their_sources() {
        let text = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\nVersion: 2.36-9\n\
            Description: text\n Version: not this one\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: bsdutils\nStatus: hold ok installed\nVersion: 1:2.38\nSource: util-linux (2.38)\n\n\n";
        let found: Vec<Package> = stanzas(text, "s").filter(|package| !package.name.is_empty()).collect();
        let told: Vec<_> =
            found.iter().map(|p| (p.name.as_str(), p.version.as_str(), p.upstream.as_str())).collect();
        assert_eq!(told, [("libc6", "2.36-9", "glibc"), ("bsdutils", "1:2.38", "util-linux@2.38")]);
    }
}
