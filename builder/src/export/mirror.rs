//! `type=local,mode=delete`: a directory that has what the result has, and nothing else.
//!
//! Invariants: links are never followed, so nothing outside of the directory is removed.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::FileType;

use super::archive::OutputFailure;
use crate::store::remove_tree;
use crate::sys::rootdir::{Last, RootDir};

/// Removes what `root` does not have, or has as something else, from a directory.
pub(super) fn remove_others(root: &RootDir, directory: &Path) -> Result<(), OutputFailure> {
    below(root, b"", directory)
}

/// The same for a directory of `root` and its image in `directory`.
fn below(root: &RootDir, path: &[u8], directory: &Path) -> Result<(), OutputFailure> {
    for entry in fs::read_dir(directory).map_err(OutputFailure::write(directory))? {
        let entry = entry.map_err(OutputFailure::write(directory))?;
        let here = entry.path();
        let is_directory = entry.file_type().map_err(OutputFailure::write(&here))?.is_dir();
        let there = [path, b"/", entry.file_name().as_bytes()].concat();
        let wanted = root
            .stat(&there, Last::Keep)
            .map_err(|e| OutputFailure::write(&here)(io::Error::other(e)))?
            .map(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
        match (wanted, is_directory) {
            (Some(true), true) => below(root, &there, &here)?,
            // A file is replaced by the file that comes.
            (Some(false), false) => {}
            (_, true) => remove_tree(&here).map_err(OutputFailure::write(&here))?,
            (_, false) => fs::remove_file(&here).map_err(OutputFailure::write(&here))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_the_result_lacks_goes_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["root/kept", "root/file", "out/kept/deep", "out/gone/deep", "outside"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::remove_dir(at("root/file")).unwrap();
        for file in ["root/file", "root/kept/f", "out/kept/f", "out/kept/deep/f", "out/extra", "outside/f"] {
            fs::write(at(file), "x").unwrap();
        }
        // A directory in the place of a file, a link in the place of a directory, a link that the result lacks.
        fs::create_dir_all(at("out/file/deep")).unwrap();
        fs::create_dir(at("root/linked")).unwrap();
        symlink(at("outside"), at("out/linked")).unwrap();
        symlink(at("outside"), at("out/more")).unwrap();
        remove_others(&RootDir::open(&at("root")).unwrap(), &at("out")).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(at("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["kept"]);
        assert_eq!(fs::read_dir(at("out/kept")).unwrap().count(), 1);
        assert!(at("outside/f").exists());
    }
}
