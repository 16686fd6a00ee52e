//! Cache mounts as archives: out of one store, into another.
//!
//! The archive is a plain tar with an entry `./` for the directory itself. Owners are those that a RUN sees, times have
//! nanoseconds; modes, links, hard links and the attributes that a layer carries are kept.
//!
//! Invariants:
//! - an archive is unpacked into a directory of its own, by the code that unpacks archives for ADD: whatever it says,
//!   nothing is written elsewhere;
//! - a mount takes an archive's content whole or not at all; who uses the earlier content meanwhile keeps it.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::apply::{ApplyError, Top, UnpackOptions, Unpacked, unpack_archive};
use super::diff::{Change, DiffError, Names, Scope, walk};
use super::node::Metadata;
use super::warning::Warnings;
use super::written::Written;
use crate::base::cancel::CancelToken;
use crate::layer::tar::{Entry, Kind, TarError, Writer};
use crate::store::{Store, StoreError, Thing, remove_tree};
use crate::sys::error::FsError;
use crate::sys::rootdir::RootDir;

/// Why a cache mount cannot be exported or imported.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MountError {
    #[error("there is no cache mount `{id}`")]
    Missing { id: String },
    #[error("cancelled")]
    Cancelled,
    #[error("cannot {action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("it is empty, and no archive")]
    Empty,
    #[error("the archive was cut: its end is missing")]
    Cut,
    #[error("`{path}` changed while it was read: something uses the cache mount")]
    Changed { path: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Read(DiffError),
    #[error(transparent)]
    Unpack(#[from] ApplyError),
}

impl From<DiffError> for MountError {
    fn from(error: DiffError) -> Self {
        match error {
            DiffError::Tar(TarError::ShortData { path, .. }) => Self::Changed { path },
            other => Self::Read(other),
        }
    }
}

/// What was exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// Entries of the archive, the directory itself left out.
    pub entries: u64,
    /// Bytes of regular files.
    pub file_bytes: u64,
    /// What was left out.
    pub warnings: Warnings,
}

/// What was imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// What the mount holds now, without the directory itself: what [`count`] says.
    pub entries: u64,
    /// Bytes of regular files.
    pub file_bytes: u64,
    /// What was left out.
    pub warnings: Warnings,
}

/// What becomes of a cache mount that is there when one is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is imported.
    Keep,
    /// The imported one takes its place.
    Replace,
}

/// Writes the cache mount `id` as an uncompressed tar. Waits for a RUN that has the mount for itself
/// (`sharing=locked`, `private`).
///
/// # Errors
/// When there is none, when it cannot be read, or when a file shrinks meanwhile.
pub fn export(
    store: &Store,
    id: &str,
    cancel: &CancelToken,
    out: &mut dyn Write,
) -> Result<Exported, MountError> {
    let directory = store.use_cache_mount(id)?.ok_or_else(|| MountError::Missing { id: id.to_owned() })?;
    let path = store.path(&directory);
    let _lock = lock(&store.path(&format!("{directory}.lock")), cancel)?;
    let root = RootDir::open(&path).map_err(|e| MountError::from(DiffError::Fs(e)))?;
    let mut writer = Writer::new(out);
    let tar = |error| MountError::from(DiffError::Tar(error));
    writer.append_empty(&top(&root, &path)?).map_err(tar)?;
    let mut exported = Exported::default();
    exported.warnings = walk(&root, None, (Names::Plain, Scope::Upper), &Written::default(), &mut |change| {
        let Change { entry, data, .. } = change;
        if cancel.is_cancelled() {
            return Err(DiffError::Sink(io::Error::other("cancelled")));
        }
        exported.entries += 1;
        exported.file_bytes += entry.size;
        match data {
            Some(file) => writer.append(&entry, file)?,
            None => writer.append_empty(&entry)?,
        }
        Ok(())
    })
    .map_err(|error| if cancel.is_cancelled() { MountError::Cancelled } else { error.into() })?;
    writer.finish().map_err(tar)?;
    Ok(exported)
}

/// The entry of the directory itself.
fn top(root: &RootDir, path: &Path) -> Result<Entry, MountError> {
    let fail = |source| MountError::Io { action: "read", path: path.to_owned(), source };
    let stat = rustix::fs::fstat(root.as_fd()).map_err(|e| fail(e.into()))?;
    let metadata = Metadata::of_node(root.as_fd(), &stat).map_err(fail)?;
    Ok(Entry {
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        mtime_seconds: metadata.mtime.0,
        mtime_nanoseconds: metadata.mtime.1,
        xattrs: metadata.xattrs,
        ..Entry::new("./", Kind::Directory)
    })
}

/// Makes the cache mount `id` of an uncompressed tar. The whole of `archive` is read. `None` when there was one and
/// it stays.
///
/// # Errors
/// When the archive is empty, cut or damaged, or wants to leave its directory, or the store cannot be written; the mount is as it was
/// then.
pub fn import(
    store: &Store,
    id: &str,
    archive: impl Read,
    existing: Existing,
) -> Result<Option<Imported>, MountError> {
    let earlier = store.database().cache_mount(id)?.map(|mount| mount.directory);
    let there = earlier.as_ref().is_some_and(|directory| store.path(directory).is_dir());
    if there && existing == Existing::Keep {
        return Ok(None);
    }
    let directory = format!("mounts/{}", store.fresh_name()?);
    store.lease(Thing::Mount(&directory))?;
    let path = store.path(&directory);
    fs::DirBuilder::new().mode(0o755).create(&path).map_err(|source| MountError::Io {
        action: "create directory",
        path: path.clone(),
        source,
    })?;
    let fresh = Fresh { path: Some(path.clone()) };
    let root = RootDir::open(&path).map_err(|e: FsError| ApplyError::Fs(e))?;
    let options = UnpackOptions { top: Top::Set, ..UnpackOptions::default() };
    let mut archive = BufReader::with_capacity(64 * 1024, archive);
    // An archive of nothing has its two blocks; what has no byte was never written.
    if archive.fill_buf().map_err(|e| ApplyError::Tar(TarError::Read(e)))?.is_empty() {
        return Err(MountError::Empty);
    }
    let unpacked = unpack_archive(archive, &root, b"", &options)?;
    if !unpacked.closed {
        return Err(MountError::Cut);
    }
    let Unpacked { file_bytes, warnings, .. } = unpacked;
    let imported = Imported { entries: count(&path)?, file_bytes, warnings };
    let claimed = store.database().claim_cache_mount(id, &directory, there || earlier.is_some())?;
    if claimed != directory {
        // Another process made one meanwhile, and `existing` says that it stays.
        return Ok(None);
    }
    fresh.keep();
    if let Some(earlier) = earlier {
        store.discard_mount_directory(&earlier)?;
    }
    Ok(Some(imported))
}

/// A directory that is removed unless it is kept.
struct Fresh {
    path: Option<PathBuf>,
}

impl Fresh {
    fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What stays behind has no row and goes at the next collection.
            let _ = remove_tree(path);
        }
    }
}

/// The lock that RUN takes for mounts which are not shared.
fn lock(path: &Path, cancel: &CancelToken) -> Result<File, MountError> {
    let fail = |source| MountError::Io { action: "lock", path: path.to_owned(), source };
    let file = File::create(path).map_err(fail)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if cancel.is_cancelled() => return Err(MountError::Cancelled),
            Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
    }
}

/// How many things a directory holds.
///
/// # Errors
/// When it cannot be walked.
pub fn count(path: &Path) -> Result<u64, MountError> {
    let mut count = 0;
    for entry in walkdir::WalkDir::new(path).min_depth(1).follow_links(false) {
        entry.map_err(|e| MountError::Io { action: "list", path: path.to_owned(), source: e.into() })?;
        count += 1;
    }
    Ok(count)
}

/// Mode and owner of a mount's directory.
///
/// # Errors
/// When it cannot be looked at.
pub fn owner(path: &Path) -> Result<(u32, u32, u32), MountError> {
    let metadata = fs::symlink_metadata(path).map_err(|source| MountError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::sys::xattr;

    fn store(dir: &tempfile::TempDir, name: &str) -> Store {
        Store::open(&dir.path().join(name)).unwrap()
    }

    fn mount(store: &Store, id: &str) -> PathBuf {
        let directory = format!("mounts/{}", store.fresh_name().unwrap());
        fs::create_dir(store.path(&directory)).unwrap();
        store.database().claim_cache_mount(id, &directory, false).unwrap();
        store.path(&directory)
    }

    fn directory(store: &Store, id: &str) -> PathBuf {
        store.path(&store.database().cache_mount(id).unwrap().unwrap().directory)
    }

    #[test]
    fn what_a_mount_holds_arrives() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (store(&dir, "one"), store(&dir, "other"));
        let path = mount(&one, "npm");
        fs::create_dir(path.join("sub")).unwrap();
        fs::write(path.join("sub/.wh.file"), "content").unwrap();
        fs::hard_link(path.join("sub/.wh.file"), path.join("link")).unwrap();
        symlink("/etc/passwd", path.join("absolute")).unwrap();
        fs::set_permissions(path.join("sub"), fs::Permissions::from_mode(0o1751)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2770)).unwrap();
        let file = File::open(path.join("link")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789))
            .unwrap();
        let has_xattrs = xattr::set(std::os::fd::AsFd::as_fd(&file), b"user.note", b"kept").is_ok();
        let mut tar = Vec::new();
        let exported = export(&one, "npm", &CancelToken::new(), &mut tar).unwrap();
        assert_eq!((exported.entries, exported.file_bytes), (4, 7));

        import(&other, "npm", &tar[..], Existing::Keep).unwrap().unwrap();
        let there = directory(&other, "npm");
        let (a, b) =
            (fs::metadata(there.join("link")).unwrap(), fs::metadata(there.join("sub/.wh.file")).unwrap());
        assert_eq!((a.ino(), a.nlink(), a.mtime(), a.mtime_nsec()), (b.ino(), 2, 1_000_000_000, 123_456_789));
        assert_eq!(fs::read_link(there.join("absolute")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(owner(&there.join("sub")).unwrap().0, 0o1751);
        assert_eq!(owner(&there).unwrap().0, 0o2770);
        if has_xattrs {
            let file = File::open(there.join("link")).unwrap();
            let value = xattr::get(std::os::fd::AsFd::as_fd(&file), b"user.note").unwrap();
            assert_eq!(value.as_deref(), Some(&b"kept"[..]));
        }
        let mut again = Vec::new();
        export(&other, "npm", &CancelToken::new(), &mut again).unwrap();
        assert_eq!(again, tar, "the same content is the same archive");
    }

    #[test]
    fn an_import_replaces_all_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir, "s");
        let path = mount(&store, "id");
        fs::write(path.join("old"), "").unwrap();
        let archive = |names: &[&str]| {
            let mut writer = Writer::new(Vec::new());
            for name in names {
                writer.append_empty(&Entry::new(*name, Kind::File)).unwrap();
            }
            writer.finish().unwrap()
        };
        let replace = |tar: &[u8]| import(&store, "id", tar, Existing::Replace);
        assert!(replace(&archive(&["new", "../../escaped"])).is_err());
        assert!(replace(&archive(&["new"])[..700]).is_err());
        assert!(matches!(replace(&archive(&["new"])[..512]), Err(MountError::Cut)), "cut between entries");
        assert!(matches!(replace(b""), Err(MountError::Empty)));
        assert!(replace(&b"no archive".repeat(100)).is_err());
        assert!(directory(&store, "id").join("old").exists());
        assert_eq!(
            fs::read_dir(store.path("mounts")).unwrap().count(),
            1,
            "a refused archive leaves nothing"
        );
        assert!(!store.path("escaped").exists() && !dir.path().join("escaped").exists());
        let kept = import(&store, "id", &archive(&["new"])[..], Existing::Keep).unwrap();
        assert!(kept.is_none() && directory(&store, "id").join("old").exists());
        // A name that comes twice is one thing, and so is a directory that only the names below it tell of.
        let imported = replace(&archive(&["new", "new", "sub/below"])).unwrap().unwrap();
        assert_eq!(imported.entries, 3);
        let now = directory(&store, "id");
        assert!(now.join("new").exists() && !now.join("old").exists());
        assert!(!path.exists(), "the earlier directory is not kept when nobody uses it");
    }

    #[test]
    fn a_mount_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let error = export(&store(&dir, "s"), "x", &CancelToken::new(), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, MountError::Missing { .. }));
    }
}
