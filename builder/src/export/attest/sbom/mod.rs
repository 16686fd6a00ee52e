//! What packages a root file system has, as SPDX 2.3 in JSON (<https://spdx.github.io/spdx-spec/v2.3/>).
//!
//! | found | where |
//! | --- | --- |
//! | deb | `/var/lib/dpkg/status`, `/var/lib/dpkg/status.d/*` (distroless) |
//! | apk | `/lib/apk/db/installed`, `/usr/lib/apk/db/installed` |
//! | rpm | `rpmdb.sqlite` in `/usr/lib/sysimage/rpm` and `/var/lib/rpm` |
//! | pypi | `*.dist-info/METADATA`, `*.egg-info/PKG-INFO` |
//! | npm | `node_modules/NAME/package.json` |
//!
//! Invariants:
//! - nothing of the image runs, and nothing outside of it is read: paths are resolved inside the root;
//! - the files belong to nobody one trusts: reads are bounded, and what cannot be read is left out and told in the document;
//! - equal file systems and names give equal bytes.

mod alpine;
mod debian;
mod document;
mod language;
mod rpm;

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::walk;
use crate::sys::error::FsError;
use crate::sys::rootdir::RootDir;

pub use document::{About, SPDX, document};

/// Largest database of a distribution's packages.
const MAX_DATABASE_BYTES: u64 = 256 << 20;
/// Largest file about one package.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Most packages of one image; the largest distributions have a third of that.
const MAX_PACKAGES: usize = 200_000;
/// Longest name or version that is believed.
const MAX_WORD_BYTES: usize = 512;

/// What kind of package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    Apk,
    Deb,
    Npm,
    Pypi,
    Rpm,
}

impl Kind {
    /// As package URLs have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apk => "apk",
            Self::Deb => "deb",
            Self::Npm => "npm",
            Self::Pypi => "pypi",
            Self::Rpm => "rpm",
        }
    }
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// What kind.
    pub kind: Kind,
    /// Name; of npm with its scope.
    pub name: String,
    /// Version with everything that the distribution adds.
    pub version: String,
    /// Architecture as the distribution calls it; may be empty.
    pub architecture: String,
    /// Source package, and its version when that is another one (`NAME` or `NAME@VERSION`); may be empty.
    pub upstream: String,
    /// Epoch of rpm; may be empty.
    pub epoch: String,
    /// As declared; may be empty.
    pub license: String,
    /// Who packed it; may be empty.
    pub supplier: String,
    /// Home page; may be empty.
    pub homepage: String,
    /// The file that says so, without leading slash.
    pub found_in: String,
}

impl Package {
    fn new(kind: Kind, found_in: &str) -> Self {
        let none = String::new;
        Self {
            kind,
            name: none(),
            version: none(),
            architecture: none(),
            upstream: none(),
            epoch: none(),
            license: none(),
            supplier: none(),
            homepage: none(),
            found_in: found_in.to_owned(),
        }
    }

    fn is_sound(&self) -> bool {
        let word = |text: &str| !text.is_empty() && text.len() <= MAX_WORD_BYTES;
        word(&self.name) && word(&self.version)
    }
}

/// What a root file system has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// `ID`, `VERSION_ID` and `PRETTY_NAME` of os-release; may be empty.
    pub system: System,
    /// Sorted, each once.
    pub packages: Vec<Package>,
    /// What could not be read, for people.
    pub left_out: Vec<String>,
}

/// The distribution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct System {
    /// `debian`.
    pub id: String,
    /// `12`.
    pub version: String,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub title: String,
}

/// Looks for packages.
pub fn scan(root: &RootDir) -> Inventory {
    let mut found = Scan { root, packages: Vec::new(), left_out: Vec::new() };
    let system = found.system();
    debian::scan(&mut found);
    alpine::scan(&mut found);
    rpm::scan(&mut found);
    let Ok(()) = walk::files(root, &mut |path| {
        match path {
            Ok(path) => language::look_at(&mut found, path),
            Err(error) => found.leave_out(&error),
        }
        Ok::<(), Infallible>(())
    });
    let Scan { mut packages, mut left_out, .. } = found;
    packages.retain(Package::is_sound);
    packages.sort();
    packages.dedup();
    if packages.len() > MAX_PACKAGES {
        left_out.push(format!("{} packages beyond the first {MAX_PACKAGES}", packages.len() - MAX_PACKAGES));
        packages.truncate(MAX_PACKAGES);
    }
    left_out.sort();
    Inventory { system, packages, left_out }
}

struct Scan<'a> {
    root: &'a RootDir,
    packages: Vec<Package>,
    left_out: Vec<String>,
}

impl Scan<'_> {
    /// A file, if it is there and can be read.
    fn read(&mut self, path: &str, limit: u64) -> Option<String> {
        let bytes = self.bytes(path.as_bytes(), limit)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn bytes(&mut self, path: &[u8], limit: u64) -> Option<Vec<u8>> {
        match self.root.read_file(path, limit) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.leave_out(&error);
                None
            }
        }
    }

    fn leave_out(&mut self, error: &FsError) {
        // A hostile image must not make the document as large as itself.
        const MOST: usize = 100;
        match self.left_out.len() {
            0..MOST => self.left_out.push(error.to_string()),
            MOST => self.left_out.push("more files that cannot be read".to_owned()),
            _ => {}
        }
    }

    fn add(&mut self, package: Package) {
        // One more than is told of, so that it is known that there were more.
        if self.packages.len() <= 2 * MAX_PACKAGES {
            self.packages.push(package);
        }
    }

    /// What os-release says (freedesktop.org, os-release(5)).
    fn system(&mut self) -> System {
        let text = ["etc/os-release", "usr/lib/os-release"]
            .into_iter()
            .find_map(|path| self.read(path, MAX_FILE_BYTES))
            .unwrap_or_default();
        let fields: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let field = |key: &str| {
            let value = fields.get(key).copied().unwrap_or_default();
            let bare = value.trim_matches(['"', '\'']);
            if bare.len() <= MAX_WORD_BYTES { bare.to_owned() } else { String::new() }
        };
        System { id: field("ID"), version: field("VERSION_ID"), title: field("PRETTY_NAME") }
    }
}

#[cfg(test)]
mod tests;
