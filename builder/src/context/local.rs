//! Local build contexts: a directory of the client and what its ignore file leaves out.
//!
//! Invariants:
//! - the ignore file is read as a regular file inside the directory that holds it: a symlink that leads out of
//!   that directory names nothing;
//! - hiding is decided by paths alone, so a context that changes meanwhile never shows an ignored file;
//! - a directory that is ignored is still seen when something below it is not (language.md 1.11).

use std::path::{Path, PathBuf};

use kiln_grammar::ignore::{IgnoreError, Matcher};

use crate::base::limits::MAX_BUILDFILE_BYTES;
use crate::sys::error::FsError;
use crate::sys::rootdir::RootDir;

/// Name of a context's own ignore file.
const IGNORE_FILE: &str = ".dockerignore";

/// A directory of the client that serves as context.
#[derive(Debug)]
pub struct LocalContext {
    /// The directory; paths in it never lead out of it.
    pub root: RootDir,
    /// What is left out.
    pub ignore: Option<Ignore>,
}

/// The patterns of an ignore file.
#[derive(Debug)]
pub struct Ignore {
    /// The file, as people know it: `.dockerignore` or `Buildfile.dockerignore`.
    file: String,
    matcher: Matcher,
}

/// Why a context cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The directory or its ignore file cannot be read.
    #[error(transparent)]
    File(#[from] FsError),
    /// The ignore file is not text.
    #[error("ignore file `{file}` is not UTF-8 text")]
    NotText {
        /// Which.
        file: String,
    },
    /// A pattern is malformed.
    #[error("bad pattern in ignore file `{file}`: {source}")]
    Pattern {
        /// Which file.
        file: String,
        /// Which pattern.
        #[source]
        source: IgnoreError,
    },
}

/// Hides a part of a tree.
pub trait PathFilter: Sync {
    /// Whether `path` (relative to the tree's root, clean) or a directory above it is left out.
    fn hides(&self, path: &[u8]) -> bool;

    /// Whether something below the hidden directory `directory` may be shown.
    fn may_show_below(&self, directory: &[u8]) -> bool;

    /// For people: what hides `path`, e.g. ``line 3 of `.dockerignore` ``; `None` when nothing does.
    fn reason(&self, path: &[u8]) -> Option<String>;
}

impl LocalContext {
    /// Opens a directory as context. `<buildfile>.dockerignore` beside the Buildfile wins over the directory's own
    /// `.dockerignore`; without a Buildfile on disk (stdin, or a named context) only the latter counts
    /// (language.md 1.11).
    pub fn open(directory: &Path, buildfile: Option<&Path>) -> Result<Self, ContextError> {
        let root = RootDir::open(directory)?;
        let beside = buildfile.map(Ignore::beside).transpose()?.flatten();
        let ignore = match beside {
            Some(ignore) => Some(ignore),
            None => Ignore::read(&root, IGNORE_FILE.as_bytes(), IGNORE_FILE)?,
        };
        Ok(Self { root, ignore })
    }

    /// What hides paths of this context.
    pub fn filter(&self) -> Option<&dyn PathFilter> {
        self.ignore.as_ref().map(|ignore| ignore as &dyn PathFilter)
    }
}

impl Ignore {
    /// Parses the text of an ignore file that people know as `file`.
    pub fn parse(file: &str, text: &str) -> Result<Self, ContextError> {
        let matcher =
            Matcher::parse(text).map_err(|source| ContextError::Pattern { file: file.to_owned(), source })?;
        Ok(Self { file: file.to_owned(), matcher })
    }

    /// The file, as people know it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Its patterns.
    pub fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    /// The ignore file that belongs to one Buildfile only.
    fn beside(buildfile: &Path) -> Result<Option<Self>, ContextError> {
        use std::os::unix::ffi::OsStrExt as _;
        let Some(name) = buildfile.file_name() else { return Ok(None) };
        let directory = match buildfile.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut ignore_name = name.as_bytes().to_vec();
        ignore_name.extend_from_slice(IGNORE_FILE.as_bytes());
        let shown = String::from_utf8_lossy(&ignore_name).into_owned();
        Self::read(&RootDir::open(&directory)?, &ignore_name, &shown)
    }

    fn read(root: &RootDir, name: &[u8], shown: &str) -> Result<Option<Self>, ContextError> {
        let Some(bytes) = root.read_file(name, MAX_BUILDFILE_BYTES)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| ContextError::NotText { file: shown.to_owned() })?;
        Self::parse(shown, &text).map(Some)
    }
}

impl PathFilter for Ignore {
    fn hides(&self, path: &[u8]) -> bool {
        self.matcher.verdict_bytes(path).ignored
    }

    fn may_show_below(&self, directory: &[u8]) -> bool {
        self.matcher.may_match_below_bytes(directory)
    }

    fn reason(&self, path: &[u8]) -> Option<String> {
        let verdict = self.matcher.verdict_bytes(path);
        let pattern = verdict.pattern.filter(|_| verdict.ignored)?;
        let pattern = self.matcher.patterns().get(pattern)?;
        Some(format!("line {} of `{}`", pattern.line, self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_buildfiles_own_ignore_file_wins() {
        let host = tempfile::tempdir().unwrap();
        let context = host.path().join("context");
        std::fs::create_dir(&context).unwrap();
        std::fs::write(context.join(".dockerignore"), "general\n").unwrap();
        let buildfile = host.path().join("Buildfile");
        let hides = |name: &str| {
            let opened = LocalContext::open(&context, Some(&buildfile)).unwrap();
            opened.filter().unwrap().hides(name.as_bytes())
        };
        assert!(hides("general") && !hides("special"));
        std::fs::write(host.path().join("Buildfile.dockerignore"), "special\n").unwrap();
        assert!(!hides("general") && hides("special"));
        // A Buildfile on stdin has no ignore file of its own (semantics fact 108).
        let opened = LocalContext::open(&context, None).unwrap();
        assert!(opened.filter().unwrap().hides(b"general"));
    }

    #[test]
    fn an_ignore_file_outside_the_context_is_not_read() {
        let host = tempfile::tempdir().unwrap();
        let context = host.path().join("context");
        std::fs::create_dir(&context).unwrap();
        std::fs::write(host.path().join("patterns"), "f\n").unwrap();
        symlink(host.path().join("patterns"), context.join(".dockerignore")).unwrap();
        assert!(LocalContext::open(&context, None).unwrap().ignore.is_none());
        // A link that stays inside is followed.
        std::fs::remove_file(context.join(".dockerignore")).unwrap();
        std::fs::write(context.join("patterns"), "f\n").unwrap();
        symlink("/patterns", context.join(".dockerignore")).unwrap();
        assert!(LocalContext::open(&context, None).unwrap().filter().unwrap().hides(b"f"));
    }

    #[test]
    fn bad_ignore_files_are_errors() {
        let host = tempfile::tempdir().unwrap();
        let path = host.path().join(".dockerignore");
        std::fs::write(&path, "!\n").unwrap();
        let error = LocalContext::open(host.path(), None).unwrap_err();
        assert!(matches!(error, ContextError::Pattern { .. }), "{error}");
        std::fs::write(&path, b"\xff\n").unwrap();
        let error = LocalContext::open(host.path(), None).unwrap_err();
        assert!(matches!(error, ContextError::NotText { .. }), "{error}");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(LocalContext::open(host.path(), None).is_err());
        assert!(LocalContext::open(&host.path().join("none"), None).is_err());
    }

    #[test]
    fn reasons_name_the_line() {
        let ignore = Ignore::parse(".dockerignore", "# logs\n*.log\n!keep.log\n").unwrap();
        assert_eq!(ignore.reason(b"a.log").unwrap(), "line 2 of `.dockerignore`");
        assert_eq!(ignore.reason(b"keep.log"), None);
    }
}
