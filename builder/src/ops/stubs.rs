//! Directories of empty mount points: the lowest lower of every RUN, so that mount points which an image lacks are
//! there without ever appearing in an upper directory (design.md, Snapshots and layers).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use crate::base::digest::KeyHasher;
use crate::store::Store;

use super::OpError;

/// Every sandbox needs these.
const ALWAYS: [(&str, bool); 5] =
    [("proc", true), ("sys", true), ("dev", true), ("etc/resolv.conf", false), ("etc/hosts", false)];

/// The stub directory for these further mount points (absolute path, is a directory), relative to the store.
pub(super) fn directory(store: &Store, targets: &[(String, bool)]) -> Result<String, OpError> {
    with(store, ALWAYS.into_iter().collect(), targets)
}

/// A stub directory for these mount points alone, for a mount that others are put into.
pub(super) fn only(store: &Store, targets: &[(String, bool)]) -> Result<String, OpError> {
    with(store, BTreeMap::new(), targets)
}

/// What a RUN with these further mount points finds that its image may lack: the points and the directories above them,
/// relative to the root, each after those above it.
pub(super) fn points(targets: &[(String, bool)]) -> BTreeSet<String> {
    let all = ALWAYS.iter().map(|(path, _)| *path).chain(targets.iter().map(|(path, _)| path.as_str()));
    let mut points = BTreeSet::new();
    for path in all {
        let mut point = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if !point.is_empty() {
                point.push('/');
            }
            point.push_str(part);
            points.insert(point.clone());
        }
    }
    points
}

fn with<'t>(
    store: &Store,
    mut points: BTreeMap<&'t str, bool>,
    targets: &'t [(String, bool)],
) -> Result<String, OpError> {
    for (target, is_directory) in targets {
        let relative = target.trim_matches('/');
        if !relative.is_empty() {
            points.insert(relative, *is_directory);
        }
    }
    let mut hasher = KeyHasher::new("kiln/stubs/v1");
    for (path, is_directory) in &points {
        hasher.field(path.as_bytes()).number(u64::from(*is_directory));
    }
    let name = format!("stubs/{}", &hasher.finish().hex()[..20]);
    let target = store.path(&name);
    if target.is_dir() {
        return Ok(name);
    }
    let temporary = store.temporary()?;
    let root = temporary.path().join("root");
    let make = || -> io::Result<()> {
        fs::create_dir(&root)?;
        for (path, is_directory) in &points {
            make_point(&root, path, *is_directory)?;
        }
        match fs::rename(&root, &target) {
            // Another process or thread was faster; its directory is the same.
            Err(_) if target.is_dir() => Ok(()),
            result => result,
        }
    };
    make().map_err(OpError::io("make mount points"))?;
    Ok(name)
}

fn make_point(root: &Path, path: &str, is_directory: bool) -> io::Result<()> {
    let full = root.join(path);
    let directory = if is_directory { full.as_path() } else { full.parent().unwrap_or(root) };
    // A point below another one that is a file cannot be a stub; the sandbox reports it when it mounts.
    if let Err(error) = fs::create_dir_all(directory) {
        return if error.kind() == io::ErrorKind::NotADirectory || error.kind() == io::ErrorKind::AlreadyExists
        {
            Ok(())
        } else {
            Err(error)
        };
    }
    if !is_directory && !full.exists() {
        fs::File::create(&full)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_come_with_what_is_above_them() {
        let points = points(&[("/a/deep/er".to_owned(), true)]);
        let points: Vec<&str> = points.iter().map(String::as_str).collect();
        assert_eq!(
            points,
            ["a", "a/deep", "a/deep/er", "dev", "etc", "etc/hosts", "etc/resolv.conf", "proc", "sys"]
        );
    }

    #[test]
    fn stubs_are_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s")).unwrap();
        let targets = [("/a/deep/er".to_owned(), true), ("/b/file".to_owned(), false)];
        let name = directory(&store, &targets).unwrap();
        assert!(store.path(&name).join("a/deep/er").is_dir());
        assert!(store.path(&name).join("b/file").is_file());
        assert!(store.path(&name).join("proc").is_dir());
        assert_eq!(directory(&store, &targets).unwrap(), name);
        assert_ne!(directory(&store, &[]).unwrap(), name);
    }
}
