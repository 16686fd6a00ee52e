//! Every file of a root file system that nobody vouches for.
//!
//! Invariants: symlinks are never followed; what is only mounted in a running container (/proc, /sys, /dev) is left out;
//! the order is one that names alone decide.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, FileType, OFlags, statat};

use super::statement::Subject;
use crate::base::digest::HashingWriter;
use crate::sys::error::FsError;
use crate::sys::rootdir::{Last, RootDir, sorted_names};

/// Directories of the kernel's.
const NOT_FILES: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// Why the files of an image cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot look at the files of the image for its attestations")]
pub struct WalkError(#[from] FsError);

/// Hears of a regular file by its path, or of a directory that cannot be read.
type Visit<'a, E> = dyn FnMut(Result<&[u8], FsError>) -> Result<(), E> + 'a;

/// Calls `visit` with the path, without leading slash, of every regular file, and with the error of every directory that
/// cannot be read.
pub(super) fn files<E>(root: &RootDir, visit: &mut Visit<'_, E>) -> Result<(), E> {
    let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let mut below = Vec::new();
        let entries = match entries(root, &path) {
            Ok(entries) => entries,
            Err(error) => {
                visit(Err(error))?;
                continue;
            }
        };
        for (name, kind) in entries {
            let whole = if path.is_empty() { name.clone() } else { [&path[..], b"/", &name].concat() };
            match kind {
                FileType::Directory if !(path.is_empty() && NOT_FILES.contains(&&name[..])) => {
                    below.push(whole);
                }
                FileType::RegularFile => visit(Ok(&whole))?,
                _ => {}
            }
        }
        below.reverse();
        pending.append(&mut below);
    }
    Ok(())
}

/// What is in a directory, sorted.
fn entries(root: &RootDir, path: &[u8]) -> Result<Vec<(Vec<u8>, FileType)>, FsError> {
    let fail = |e: std::io::Error| FsError::image("read directory", path, e);
    let directory =
        root.entry(path, Last::Keep, None)?.open(OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
    let names = sorted_names(directory.as_fd()).map_err(fail)?.into_iter();
    let with_kind = names.map(|name| {
        let stat = statat(&directory, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| fail(e.into()))?;
        Ok((name, FileType::from_raw_mode(stat.st_mode)))
    });
    with_kind.collect()
}

/// Every regular file with its digest: what a statement beside files is about.
pub(super) fn subjects(root: &RootDir) -> Result<Vec<Subject>, WalkError> {
    let mut subjects = Vec::new();
    files(root, &mut |path| {
        let path = path?;
        let mut hasher = HashingWriter::new(std::io::sink());
        let mut file = root.open_file(path)?;
        std::io::copy(&mut file, &mut hasher).map_err(|e| FsError::image("read", path, e))?;
        let (_, digest, _) = hasher.finish();
        subjects.push(Subject::new(String::from_utf8_lossy(path).into_owned(), &digest));
        Ok::<(), WalkError>(())
    })?;
    subjects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(subjects)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::base::digest::Digest;

    #[test]
    fn links_and_kernel_directories_are_left_out() {
        let host = tempfile::tempdir().unwrap();
        let at = |path: &str| host.path().join(path);
        for directory in ["root/a/proc", "root/proc/1", "root/b", "outside"] {
            std::fs::create_dir_all(at(directory)).unwrap();
        }
        for file in ["root/a/proc/f", "root/proc/1/f", "root/b/f", "root/z", "outside/f"] {
            std::fs::write(at(file), file).unwrap();
        }
        symlink(at("outside"), at("root/out")).unwrap();
        symlink("/", at("root/b/up")).unwrap();
        let root = RootDir::open(&at("root")).unwrap();
        let found = subjects(&root).unwrap();
        let names: Vec<&str> = found.iter().map(|subject| subject.name.as_str()).collect();
        assert_eq!(names, ["a/proc/f", "b/f", "z"]);
        assert_eq!(found[2], Subject::new("z", &Digest::of(b"root/z")));
    }
}
