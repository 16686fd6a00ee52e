//! Tests of COPY, ADD and WORKDIR over real directories, named by the fact that they check.
//!
//! Most need root, because they look at owners; without it they say so and pass.

mod destination;
mod digest;
mod hostile;
mod metadata;
mod select;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::context::local::LocalContext;
use crate::plan::graph::{CopySource, CopySpec, Unpack};
use crate::snapshot::diff;
use crate::snapshot::written::Written;
use crate::sys::rootdir::RootDir;

/// A context and an image, side by side in a directory that stands for the host.
struct Place {
    host: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let host = tempfile::tempdir().unwrap();
        std::fs::create_dir(host.path().join("context")).unwrap();
        std::fs::create_dir(host.path().join("image")).unwrap();
        Self { host }
    }

    /// The host path of e.g. `context/a` or `image/b`.
    fn at(&self, path: &str) -> PathBuf {
        self.host.path().join(path)
    }

    fn dir(&self, path: &str, mode: u32) -> &Self {
        std::fs::create_dir_all(self.at(path)).unwrap();
        std::fs::set_permissions(self.at(path), PermissionsExt::from_mode(mode)).unwrap();
        self
    }

    fn file(&self, path: &str, content: &str) -> &Self {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        std::fs::write(self.at(path), content).unwrap();
        self.mode(path, 0o644)
    }

    fn mode(&self, path: &str, mode: u32) -> &Self {
        std::fs::set_permissions(self.at(path), PermissionsExt::from_mode(mode)).unwrap();
        self
    }

    fn owner(&self, path: &str, uid: u32, gid: u32) -> &Self {
        std::os::unix::fs::lchown(self.at(path), Some(uid), Some(gid)).unwrap();
        self
    }

    fn link(&self, path: &str, target: impl AsRef<Path>) -> &Self {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        symlink(target, self.at(path)).unwrap();
        self
    }

    fn time(&self, path: &str, seconds: i64, nanoseconds: i64) -> &Self {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, self.at(path), &times, nofollow).unwrap();
        self
    }

    fn image(&self) -> RootDir {
        RootDir::open(&self.at("image")).unwrap()
    }

    fn context(&self) -> LocalContext {
        LocalContext::open(&self.at("context"), None).unwrap()
    }

    /// COPY from the local context.
    fn copy(&self, words: &str) -> Result<(), CopyError> {
        let context = self.context();
        let spec = spec(words);
        let tree = || ResolvedSource::Tree(SourceTree::local(&context).unwrap());
        let sources: Vec<_> = spec.sources.iter().map(|_| tree()).collect();
        self.execute(&spec, &sources)
    }

    /// COPY --from: the context directory as a file system of its own.
    fn copy_from(&self, words: &str) -> Result<(), CopyError> {
        let spec = spec(words);
        let tree = || ResolvedSource::Tree(SourceTree::of(RootDir::open(&self.at("context")).unwrap()));
        let sources: Vec<_> = spec.sources.iter().map(|_| tree()).collect();
        self.execute(&spec, &sources)
    }

    /// Copies, and sees to it that the digests which the copy gives are those of the files.
    fn execute(&self, spec: &CopySpec, sources: &[ResolvedSource<'_>]) -> Result<(), CopyError> {
        let written = execute(spec, sources, &self.image(), &CopyOptions::default())?;
        let summary = |written| diff::summarise(&self.image(), None, written).unwrap();
        assert_eq!(summary(&written), summary(&Written::default()));
        Ok(())
    }

    fn stat(&self, path: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.at("image").join(path)).unwrap()
    }

    /// Mode and owner of something in the image.
    fn shown(&self, path: &str) -> (u32, u32, u32) {
        let stat = self.stat(path);
        (stat.mode() & 0o7777, stat.uid(), stat.gid())
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.at("image").join(path)).unwrap()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.at("image").join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Everything below a directory of the image, sorted.
    fn tree(&self, path: &str) -> Vec<String> {
        let root = self.at("image").join(path);
        walkdir::WalkDir::new(&root)
            .min_depth(1)
            .sort_by_file_name()
            .into_iter()
            .map(|entry| entry.unwrap().path().strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
            .collect()
    }
}

/// A spec from words like those of an instruction: flags, sources, destination.
fn spec(words: &str) -> CopySpec {
    let mut spec = CopySpec {
        sources: Vec::new(),
        destination: String::new(),
        chown: None,
        chmod: None,
        parents: false,
        exclude: Vec::new(),
        unpack: Unpack::Never,
        link: false,
    };
    let mut paths: Vec<&str> = Vec::new();
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some(("--chown", owner)) => spec.chown = Some(owner.to_owned()),
            Some(("--chmod", mode)) => spec.chmod = Some(mode.to_owned()),
            _ if word.starts_with("--chmod=") => spec.chmod = word.get(8..).map(str::to_owned),
            Some(("--exclude", pattern)) => spec.exclude.push(pattern.to_owned()),
            _ if word == "--parents" => spec.parents = true,
            _ => paths.push(word),
        }
    }
    spec.destination = paths.pop().unwrap().to_owned();
    let source = |path: &&str| CopySource::Path { input: 1, path: (*path).to_owned() };
    spec.sources = paths.iter().map(source).collect();
    spec
}

/// Whether owners can be tested.
fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: this test needs root, because it looks at owners");
    }
    root
}
