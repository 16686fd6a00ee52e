//! Removing a store whole.
//!
//! Invariants: only a directory that is a store is touched, and in it only what kiln puts there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{StoreError, process, remove_tree};

/// What kiln puts into a store, the database last: without it the directory is no store any more, so an interrupted
/// removal can be taken up again.
const CONTENT: [&str; 21] = [
    "blobs",
    "snapshots",
    "mounts",
    "stubs",
    "spots",
    "tmp",
    "git",
    "locks",
    "records",
    "oci-layout",
    "index.json",
    "boot",
    "collected",
    "secret-key",
    "leases",
    "kiln.db-journal",
    "kiln.db-wal",
    "kiln.db-shm",
    "kiln.db.damaged",
    "kiln.lock",
    "kiln.db",
];

/// Why a store is not removed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ResetError {
    #[error("`{}` is not a store of kiln's: nothing was removed", path.display())]
    NotAStore { path: PathBuf },
    #[error("{count} running kiln {} the store", if *count == 1 { "process uses" } else { "processes use" })]
    InUse { count: usize },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Removes the store at `root`, when it is forced even while processes use it. Gives the names of what else is in the
/// directory, which stays.
///
/// # Errors
/// When it is no store, is in use, or cannot be removed.
pub fn reset(root: &Path, in_use: super::InUse) -> Result<Vec<String>, ResetError> {
    if !root.join("kiln.db").is_file()
        || !root.join("snapshots").is_dir() && !root.join("kiln.lock").is_file()
    {
        return Err(ResetError::NotAStore { path: root.to_owned() });
    }
    let count = process::live(root)?.len();
    if count > 0 && in_use == super::InUse::Keep {
        return Err(ResetError::InUse { count });
    }
    for name in CONTENT {
        let path = root.join(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => remove_tree(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(StoreError::io("remove", &path))?;
    }
    let entries = fs::read_dir(root).map_err(StoreError::io("list", root))?;
    let mut left: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    left.sort();
    if left.is_empty() {
        // A directory that cannot be removed, a mount point for instance, is as good as a new one.
        let _ = fs::remove_dir(root);
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{InUse, Store};

    #[test]
    fn a_store_goes_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let store = Store::open(&root).unwrap();
        store.put_blob(b"x").unwrap();
        assert!(matches!(reset(&root, InUse::Keep), Err(ResetError::InUse { count: 1 })));
        drop(store);
        fs::write(root.join("mine"), "").unwrap();
        assert_eq!(reset(&root, InUse::Keep).unwrap(), ["mine"]);
        fs::remove_file(root.join("mine")).unwrap();
        Store::open(&root).unwrap();
        assert!(reset(&root, InUse::Keep).unwrap().is_empty() && !root.exists());
        fs::create_dir_all(dir.path().join("other/snapshots")).unwrap();
        let refused = reset(&dir.path().join("other"), InUse::Force);
        assert!(matches!(refused, Err(ResetError::NotAStore { .. })));
        assert!(dir.path().join("other/snapshots").exists());
    }

    /// What this version of kiln puts into a store is known here.
    #[test]
    fn the_list_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("s");
        let store = Store::open(&root).unwrap();
        store.put_blob(b"x").unwrap();
        store.write_index().unwrap();
        store.collect_automatically(&Default::default()).unwrap();
        for entry in fs::read_dir(&root).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(CONTENT.contains(&name.as_str()), "{name}");
        }
    }
}
