//! Removing a tree that somebody hostile made.
//!
//! Invariants:
//! - nothing is followed: a directory is entered by an open one and a name;
//! - neither stack nor open files grow with the depth of the tree: what lies deeper than [`MAX_DEPTH`] is moved up
//!   before it is emptied. A command can nest directories without end; the path does not have to be nameable.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::sys::rootdir::proc_path;

/// Directories that are open at a time.
const MAX_DEPTH: usize = 64;
/// Names that are read at a time: a directory may have millions.
const BATCH_NAMES: usize = 4096;

/// Removes a directory and all below it; nothing happens when it is not there. Directories that may not be read or
/// changed are opened to their owner first.
///
/// # Errors
/// When something cannot be removed; what is left is still below `path`.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match fs::openat(CWD, path, flags, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    empty(top)?;
    match fs::unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A directory that is being emptied.
struct Level {
    directory: OwnedFd,
    /// In the level before.
    name: CString,
    names: std::vec::IntoIter<CString>,
}

impl Level {
    fn new(directory: OwnedFd, name: CString) -> Self {
        Self { directory, name, names: Vec::new().into_iter() }
    }

    /// The next name; `None` when the directory is empty.
    fn next(&mut self) -> Result<Option<CString>, Errno> {
        if let Some(name) = self.names.next() {
            return Ok(Some(name));
        }
        let directory = self.directory.as_fd();
        self.names = permitted(directory, || batch(directory))?.into_iter();
        Ok(self.names.next())
    }
}

fn empty(top: OwnedFd) -> Result<(), Errno> {
    let mut levels = vec![Level::new(top, CString::default())];
    let mut moved = 0u64;
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.next()? else {
            let done = levels.pop();
            if let (Some(done), Some(level)) = (done, levels.last()) {
                unlink(level.directory.as_fd(), &done.name, AtFlags::REMOVEDIR)?;
            }
            continue;
        };
        let directory = level.directory.as_fd();
        match unlink(directory, &name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            result => {
                result?;
                continue;
            }
        }
        match unlink(directory, &name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            result => {
                result?;
                continue;
            }
        }
        let child = open_directory(directory, &name)?;
        if levels.len() < MAX_DEPTH {
            levels.push(Level::new(child, name));
        } else if let (Some(top), Some(level)) = (levels.first(), levels.last()) {
            move_up(level.directory.as_fd(), &name, child.as_fd(), top.directory.as_fd(), &mut moved)?;
        }
    }
    Ok(())
}

/// Moves a directory into `top` under a name that is free there; it comes up again when `top` is read again.
fn move_up(
    parent: BorrowedFd<'_>,
    name: &CString,
    child: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let place = format!(".removed-{moved}");
        // A moved directory gets another `..`, so it must be writable itself.
        let rename = || fs::renameat(parent, name.as_c_str(), top, place.as_str());
        match permitted(parent, || permitted(top, || permitted(child, rename))) {
            // Something of that name is there.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            result => return result,
        }
    }
}

/// Removes one name; one that is not there any more is fine.
fn unlink(directory: BorrowedFd<'_>, name: &CString, flags: AtFlags) -> Result<(), Errno> {
    match permitted(directory, || fs::unlinkat(directory, name.as_c_str(), flags)) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Does something in a directory, after opening it to its owner when it is refused.
fn permitted<T>(directory: BorrowedFd<'_>, action: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match action() {
        Err(Errno::ACCESS) => {
            fs::chmod(proc_path(directory), Mode::RWXU)?;
            action()
        }
        result => result,
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &CString) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    permitted(parent, || fs::openat(parent, name.as_c_str(), flags, Mode::empty()))
}

/// Some names of a directory, without `.` and `..`.
fn batch(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    // The handle is O_PATH; reading needs a real one.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for entry in fs::Dir::new(fs::openat(directory, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
        if names.len() == BATCH_NAMES {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs as host;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_tree_of_any_depth_goes() {
        // Deeper than a stack or a table of open files takes, and than any path can name.
        const DEPTH: usize = 20_000;
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        host::create_dir(&tree).unwrap();
        // A name that the removal would have chosen itself.
        host::create_dir_all(tree.join(".removed-1/x")).unwrap();
        host::write(tree.join(".removed-2"), "").unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = fs::openat(CWD, &tree, flags, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = fs::openat(&here, "d", flags, Mode::empty()).unwrap();
        }
        drop(here);
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn links_are_not_followed_and_modes_do_not_matter() {
        let place = tempfile::tempdir().unwrap();
        let (tree, outside) = (place.path().join("tree"), place.path().join("outside"));
        host::create_dir_all(outside.join("kept")).unwrap();
        host::create_dir_all(tree.join("closed/inner")).unwrap();
        for number in 0..(BATCH_NAMES + 10) {
            host::write(tree.join(number.to_string()), "").unwrap();
        }
        symlink(&outside, tree.join("closed/inner/link")).unwrap();
        symlink(&outside, tree.join("top")).unwrap();
        host::set_permissions(tree.join("closed/inner"), host::Permissions::from_mode(0o000)).unwrap();
        host::set_permissions(tree.join("closed"), host::Permissions::from_mode(0o500)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("kept").is_dir());
        assert!(remove_tree(&place.path().join("outside/../outside/kept/x")).is_ok());
        symlink(&outside, &tree).unwrap();
        assert!(remove_tree(&tree).is_err(), "a link is not a tree");
        assert!(outside.join("kept").is_dir());
    }
}
