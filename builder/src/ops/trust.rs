//! `--ca-bundle`: authorities that RUN trusts and that no image keeps.
//!
//! Where a command finds them:
//!
//! | place | how | for |
//! |---|---|---|
//! | [`PLACE`] | a file mounted there | the variables below |
//! | the bundles that the image has ([`BUNDLES`], symlinks followed); where it has none but a directory for it, one there | a layer above the image's | what reads a fixed path: apt, wget, Go |
//! | [`VARIABLES`], unless the Buildfile sets one | environment | OpenSSL, curl, Python, Node, git, cargo |
//! | [`APT_PLACE`], named by `APT_CONFIG` | a file mounted there | apt where the image has no bundle yet |
//!
//! Invariants:
//! - the bundle is in no key: neither its content nor whether there is one;
//! - the files are plain files of a lower directory and not mounts, so that a command may replace them
//!   (`update-ca-certificates` renames a new file over the old one, which fails on a mount point); what it writes is its
//!   own and goes into the layer;
//! - what the kernel copied up with the bundle's content, because a command changed or appended to the file, gets the
//!   image's content back before the diff is made ([`restore`]);
//! - directories of the layer look like the image's own: mode, owner, time and attributes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat, Timespec, Timestamps, unlinkat};

use crate::base::digest::{Digest, KeyHasher};
use crate::layer::attributes;
use crate::sandbox::spec::{SandboxMount, SandboxSource};
use crate::store::records::FsState;
use crate::sys::override_stat;
use crate::sys::rootdir::{Last, RootDir};
use crate::sys::xattr;

use super::OpError;
use super::local::LocalExecutor;

/// Where the bundle always is during RUN.
pub const PLACE: &str = "/run/kiln/ca-bundle.pem";

/// Settings of apt, which has no variable for a bundle.
const APT_PLACE: &str = "/run/kiln/apt.conf";

/// Where systems keep their bundle: Debian and Alpine, Fedora, openSUSE, Fedora's real file, Alpine and BSD.
pub const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Variables that name a bundle. Node and Deno add it to their own authorities, the others use it instead.
const VARIABLES: [&str; 12] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "NIX_SSL_CERT_FILE",
    "AWS_CA_BUNDLE",
    "PERL_LWP_SSL_CA_FILE",
    "HEX_CACERTS_PATH",
    "DENO_CERT",
];

/// Largest bundle; systems have a quarter of a megabyte.
const MAX_BUNDLE_BYTES: u64 = 8 * 1024 * 1024;
/// Largest bundle file of an image that is written back.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Why a file is no bundle.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BundleError {
    #[error("cannot read it")]
    Read(#[source] io::Error),
    #[error("it has no certificate in PEM form")]
    NoCertificate,
    #[error("it has a private key, which commands must not see")]
    PrivateKey,
    #[error("it is larger than {MAX_BUNDLE_BYTES} bytes")]
    Large,
}

/// Authorities in PEM form.
#[derive(Debug, Clone)]
pub struct Bundle {
    bytes: Vec<u8>,
    digest: Digest,
}

impl Bundle {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(BundleError::Read)?;
        file.take(MAX_BUNDLE_BYTES + 1).read_to_end(&mut bytes).map_err(BundleError::Read)?;
        if bytes.len() as u64 > MAX_BUNDLE_BYTES {
            return Err(BundleError::Large);
        }
        let text = String::from_utf8_lossy(&bytes);
        if text.contains("PRIVATE KEY-----") {
            return Err(BundleError::PrivateKey);
        }
        if !["-----BEGIN CERTIFICATE-----", "-----BEGIN TRUSTED CERTIFICATE-----"]
            .iter()
            .any(|mark| text.contains(mark))
        {
            return Err(BundleError::NoCertificate);
        }
        let digest = Digest::of(&bytes);
        Ok(Self { bytes, digest })
    }

    /// The files that are mounted.
    pub(super) fn mounts(&self) -> [SandboxMount; 2] {
        let apt = format!("Acquire::https::CAInfo \"{PLACE}\";\n");
        [(PLACE, self.bytes.clone()), (APT_PLACE, apt.into_bytes())].map(|(target, content)| {
            let source = SandboxSource::File { content, mode: 0o444, uid: 0, gid: 0 };
            SandboxMount { target: target.to_owned(), source, read_only: true }
        })
    }
}

/// The variables, as `NAME=VALUE`.
pub(super) fn environment() -> impl Iterator<Item = String> {
    let bundle = VARIABLES.iter().map(|name| format!("{name}={PLACE}"));
    bundle.chain([format!("APT_CONFIG={APT_PLACE}")])
}

/// The layer with the bundle, for one base.
#[derive(Debug, Clone)]
pub(super) struct Trusted {
    /// Relative to the store.
    pub(super) lower: String,
    /// The files in it, without leading slash.
    files: Vec<String>,
}

/// How a directory of the layer shall look.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u64),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Look {
    fn of(dir: &RootDir, stat: &Stat) -> io::Result<Self> {
        let stat = override_stat::effective(dir.as_fd(), *stat)?;
        let mut xattrs = BTreeMap::new();
        for name in xattr::list(dir.as_fd())? {
            if attributes::is_carried(&name)
                && let Some(value) = xattr::get(dir.as_fd(), &name)?
            {
                xattrs.insert(name, value);
            }
        }
        let mtime = (stat.st_mtime, stat.st_mtime_nsec);
        Ok(Self { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime, xattrs })
    }
}

/// Makes the layer, or finds it.
pub(super) fn lower(
    executor: &LocalExecutor<'_>,
    base: &FsState,
    bundle: &Bundle,
) -> Result<Trusted, OpError> {
    let view = executor.snapshots.view(&base.layers)?;
    let files = files(&view);
    let mut looks = BTreeMap::new();
    let root = view.stat(b"/", Last::Keep)?.ok_or(OpError::Cancelled)?;
    let root = Look::of(&view, &root).map_err(OpError::io("read the base's root directory"))?;
    looks.insert(String::new(), root);
    for file in &files {
        let mut path = String::new();
        let parts: Vec<&str> = file.split('/').collect();
        for part in parts.iter().take(parts.len().saturating_sub(1)) {
            path = if path.is_empty() { (*part).to_owned() } else { format!("{path}/{part}") };
            if looks.contains_key(&path) {
                continue;
            }
            let stat = view.stat(path.as_bytes(), Last::Keep)?.ok_or(OpError::Cancelled)?;
            let look = Look::of(&view.subdir(path.as_bytes())?, &stat)
                .map_err(OpError::io(format!("read the base's directory `/{path}`")))?;
            looks.insert(path.clone(), look);
        }
    }
    let name = format!("stubs/{}", &key(bundle, &files, &looks).hex()[..20]);
    let target = executor.store.path(&name);
    if !target.is_dir() {
        let temporary = executor.store.temporary()?;
        let tree = temporary.path().join("root");
        make(&tree, bundle, &files, &looks)
            .and_then(|()| match fs::rename(&tree, &target) {
                // Another process or thread was faster; its directory is the same.
                Err(_) if target.is_dir() => Ok(()),
                result => result,
            })
            .map_err(OpError::io("make the layer with the authorities of --ca-bundle"))?;
    }
    Ok(Trusted { lower: name, files })
}

/// The bundles that a base has, with symlinks resolved; where there is none, the place for one.
fn files(view: &RootDir) -> Vec<String> {
    let found = |path: &str| -> Option<(String, bool)> {
        let entry = view.entry(path.as_bytes(), Last::Follow, None).ok()?;
        let stat = entry.stat().ok()?;
        let usable = stat.is_none_or(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
        usable.then(|| Some((String::from_utf8(entry.real).ok()?, stat.is_some())))?
    };
    let places: Vec<(String, bool)> = BUNDLES.iter().filter_map(|path| found(path)).collect();
    let present: BTreeSet<String> =
        places.iter().filter(|(_, is_there)| *is_there).map(|(path, _)| path.clone()).collect();
    if !present.is_empty() {
        return present.into_iter().collect();
    }
    // Debian's and Fedora's directories come with packages that do not bring the bundle; the others' mean nothing.
    let empty = |path: &str| found(path).map(|(real, _)| real);
    if let Some(path) = empty(BUNDLES[0]).or_else(|| empty(BUNDLES[1])) {
        return vec![path];
    }
    // In a directory that is missing, none: a command that makes the directory itself would find it there, change
    // nothing, and leave an image without it.
    Vec::new()
}

fn key(bundle: &Bundle, files: &[String], looks: &BTreeMap<String, Look>) -> Digest {
    let mut hasher = KeyHasher::new("kiln/trust/v1");
    hasher.digest(&bundle.digest).number(files.len() as u64);
    for file in files {
        hasher.field(file.as_bytes());
    }
    for (path, look) in looks {
        hasher.field(path.as_bytes()).number(u64::from(look.mode));
        hasher.number(u64::from(look.uid)).number(u64::from(look.gid));
        hasher.field(&look.mtime.0.to_be_bytes()).number(look.mtime.1).number(look.xattrs.len() as u64);
        for (name, value) in &look.xattrs {
            hasher.field(name).field(value);
        }
    }
    hasher.finish()
}

fn make(tree: &Path, bundle: &Bundle, files: &[String], looks: &BTreeMap<String, Look>) -> io::Result<()> {
    // Sorted, so a parent comes before what is in it.
    for path in looks.keys() {
        fs::create_dir(tree.join(path))?;
    }
    for file in files {
        let path = tree.join(file);
        fs::write(&path, &bundle.bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        let parent = file.rsplit_once('/').map_or("", |(parent, _)| parent);
        if let Some(look) = looks.get(parent) {
            set_time(&File::open(&path)?, look)?;
        }
    }
    // Children first: making one changes its parent's time.
    for (path, look) in looks.iter().rev() {
        let directory = File::open(tree.join(path))?;
        override_stat::set_owner(directory.as_fd(), &rustix::fs::fstat(&directory)?, look.uid, look.gid)?;
        directory.set_permissions(fs::Permissions::from_mode(look.mode))?;
        for (name, value) in &look.xattrs {
            xattr::set(directory.as_fd(), name, value)?;
        }
        set_time(&directory, look)?;
    }
    Ok(())
}

fn set_time(file: &File, look: &Look) -> io::Result<()> {
    let time = Timespec { tv_sec: look.mtime.0, tv_nsec: look.mtime.1 as _ };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?)
}

/// Takes the bundle's content out of what a command left in `upper`, on the base that `view` shows.
pub(super) fn restore(
    upper: &RootDir,
    view: &RootDir,
    trusted: &Trusted,
    bundle: &Bundle,
) -> Result<(), OpError> {
    for path in &trusted.files {
        restore_file(upper, view, path, bundle)
            .map_err(OpError::io(format!("put the image's own `/{path}` back")))?;
    }
    Ok(())
}

fn restore_file(upper: &RootDir, view: &RootDir, path: &str, bundle: &Bundle) -> io::Result<()> {
    let mut through_link = false;
    let Ok(entry) = upper.entry_through(path.as_bytes(), Last::Keep, &mut |_| through_link = true) else {
        return Ok(());
    };
    let Some(stat) = entry.stat()?.filter(|stat| FileType::from_raw_mode(stat.st_mode).is_file()) else {
        return Ok(());
    };
    if through_link || (stat.st_size as u64) < bundle.bytes.len() as u64 {
        return Ok(());
    }
    let mut content = Vec::new();
    entry.open_regular()?.take(MAX_FILE_BYTES + 1).read_to_end(&mut content)?;
    let Some(added) = content.strip_prefix(bundle.bytes.as_slice()) else { return Ok(()) };
    let own = view.read_file(path.as_bytes(), MAX_FILE_BYTES).map_err(io::Error::other)?;
    // Written in place, so that other names of the file lose the bundle as well.
    let name = std::ffi::OsStr::new(std::str::from_utf8(&entry.name).map_err(io::Error::other)?);
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(&entry.dir, name, flags, rustix::fs::Mode::empty())?;
    let mut file = File::from(file);
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(own.as_deref().unwrap_or_default())?;
    file.write_all(added)?;
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    rustix::fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
    if own.is_none() && added.is_empty() {
        unlinkat(&entry.dir, name, AtFlags::empty())?;
    }
    Ok(())
}
