//! What COPY and ADD read: contexts, results of other stages, downloads and git checkouts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::digest::{Digest, KeyHasher};
use crate::base::events::{Event, EventSink, Meter, StepNumber};
use crate::context::fingerprint::{FileDigests, ReadAlways};
use crate::context::git::{self, GitRef};
use crate::context::http::{self, FetchOptions, FetchOutcome};
use crate::context::local::LocalContext;
use crate::layer::compress;
use crate::net::redacted;
use crate::plan::graph::{CopySource, CopySpec, GitSpec, Graph, HttpSpec, Op, Vertex, VertexId};
use crate::record::listing::Listing;
use crate::snapshot::apply::{self, UnpackOptions};
use crate::snapshot::written::Written;
use crate::store::Store;
use crate::store::records::{DownloadRecord, FsState, StepResult, Trail};
use crate::sys::rootdir::RootDir;

use super::OpError;
use super::commit::{commit, scratch};
use super::copy::{
    self, Archives, CopyError, CopyOptions, ResolvedSource, SelectOptions, Selection, SourceTree,
};
use super::executor::{Downloaded, VertexResult};
use super::local::LocalExecutor;
use super::stat_cache::StatCache;

/// What a build has found out about the outside: downloads, commits, files of contexts.
#[derive(Debug, Default)]
pub struct Fetched {
    downloads: Mutex<BTreeMap<VertexId, Downloaded>>,
    commits: Mutex<BTreeMap<VertexId, String>>,
    stat_caches: Mutex<BTreeMap<String, Arc<StatCache>>>,
}

impl Fetched {
    /// The commits of git vertices, and the digests of downloads.
    pub fn found(&self) -> (BTreeMap<VertexId, String>, BTreeMap<VertexId, Digest>) {
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        (commits, downloads.iter().map(|(id, download)| (*id, download.digest)).collect())
    }

    /// What is remembered of a context's files; read once in a build, however many steps copy from it.
    fn stat_cache(&self, store: &Store, name: &str, context: &LocalContext) -> Arc<StatCache> {
        let mut caches = self.stat_caches.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || Arc::new(StatCache::open(store, name, context));
        caches.entry(name.to_owned()).or_insert_with(open).clone()
    }
}

/// What a COPY selects of one of its inputs.
pub(super) struct Selected<'a> {
    /// Of all of it.
    pub(super) digest: Digest,
    tree: SourceTree<'a>,
    parts: Vec<(Selection, Vec<Digest>)>,
}

/// What `spec` selects of a context.
pub(super) fn selected_of_context<'a>(
    executor: &'a LocalExecutor<'_>,
    name: &str,
    spec: &CopySpec,
    input: usize,
) -> Result<Selected<'a>, OpError> {
    let context = context(executor, name)?;
    let tree = SourceTree::local(context).map_err(OpError::io("open the context"))?;
    // What is remembered is read from the database while the tree is read.
    let (selections, files) = std::thread::scope(|scope| {
        let files = scope.spawn(|| executor.fetched.stat_cache(executor.store, name, context));
        (selections(&tree, spec, input), files.join())
    });
    let files =
        files.map_err(|_| OpError::Unsupported("the thread that reads the database ended".to_owned()))?;
    let selected = selected(tree, selections?, &*files)?;
    files.save(executor.store);
    Ok(selected)
}

/// What `spec` selects of a file system.
pub(super) fn selected_of_state(
    executor: &LocalExecutor<'_>,
    state: &FsState,
    spec: &CopySpec,
    input: usize,
) -> Result<Selected<'static>, OpError> {
    let tree = SourceTree::of(executor.snapshots.view(&state.layers)?);
    let selections = selections(&tree, spec, input)?;
    selected(tree, selections, &ReadAlways)
}

/// What each source of one input means.
fn selections(tree: &SourceTree<'_>, spec: &CopySpec, wanted: usize) -> Result<Vec<Selection>, CopyError> {
    let options = SelectOptions { parents: spec.parents, exclude: &spec.exclude };
    let paths = spec.sources.iter().filter_map(|source| match source {
        CopySource::Path { input, path } if *input == wanted => Some(path),
        _ => None,
    });
    paths.map(|path| copy::select(tree, path, options)).collect()
}

fn selected<'a>(
    tree: SourceTree<'a>,
    selections: Vec<Selection>,
    files: &dyn FileDigests,
) -> Result<Selected<'a>, OpError> {
    let mut hasher = KeyHasher::new("kiln/selections/v1");
    let mut parts = Vec::new();
    for selection in selections {
        let (digest, contents) = copy::digest_files(&tree, &selection, files)?;
        hasher.digest(&digest.0);
        parts.push((selection, contents));
    }
    Ok(Selected { digest: hasher.finish(), tree, parts })
}

impl Selected<'_> {
    /// Adds the files to a listing.
    pub(super) fn list(&self, listing: &mut Listing) {
        for (selection, contents) in &self.parts {
            copy::list(&self.tree, selection, contents, listing);
        }
    }
}

fn context<'a>(executor: &'a LocalExecutor<'_>, name: &str) -> Result<&'a LocalContext, OpError> {
    executor.contexts.get(name).ok_or_else(|| {
        OpError::Unsupported(if name.is_empty() {
            "there is no build context to copy from (the Buildfile came from standard input)".to_owned()
        } else {
            format!("there is no build context `{name}`")
        })
    })
}

/// Copies the sources of `spec` into `root`; gives the digests of what was written.
pub(super) fn copy(
    executor: &LocalExecutor<'_>,
    graph: &Graph,
    vertex: &Vertex,
    spec: &CopySpec,
    inputs: &[VertexResult],
    root: &RootDir,
    step: StepNumber,
) -> Result<Written, OpError> {
    let lost = || OpError::Unsupported(format!("an input of `{}` is missing", vertex.name));
    let mut sources = Vec::new();
    for source in &spec.sources {
        sources.push(match source {
            CopySource::Inline { .. } => ResolvedSource::Inline,
            CopySource::Download { input } => match inputs.get(*input) {
                Some(VertexResult::File(file)) => ResolvedSource::Download {
                    file: executor.store.open_blob(&file.digest)?,
                    name: file.file_name.clone(),
                    mtime_seconds: file.modified,
                },
                _ => return Err(lost()),
            },
            CopySource::Path { input, .. } => {
                let id = vertex.inputs.get(*input).ok_or_else(lost)?;
                ResolvedSource::Tree(match (&graph.vertex(*id).op, inputs.get(*input)) {
                    (Op::Local(local), _) => SourceTree::local(context(executor, &local.context)?)
                        .map_err(OpError::io("open the context"))?,
                    (_, Some(VertexResult::Fs(step))) => {
                        SourceTree::of(executor.snapshots.view(&step.state.layers)?)
                    }
                    _ => return Err(lost()),
                })
            }
        });
    }
    let archives = TarArchives { events: &executor.events };
    let meter = Meter::new(&executor.events, step, "copying");
    let options = CopyOptions { archives: &archives, cancel: executor.cancel.clone(), meter: Some(&meter) };
    let written = copy::execute(spec, &sources, root, &options)?;
    meter.finish();
    Ok(written)
}

/// Archives as kiln's own reader sees them.
struct TarArchives<'a> {
    events: &'a EventSink,
}

impl Archives for TarArchives<'_> {
    fn is_archive(&self, file: &File) -> io::Result<bool> {
        let mut file = file;
        file.rewind()?;
        Ok(compress::is_archive(io::BufReader::new(file)))
    }

    fn unpack(
        &self,
        mut file: File,
        root: &RootDir,
        directory: &[u8],
        owner: Option<(u32, u32)>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        file.rewind()?;
        let plain = compress::decompressor(io::BufReader::with_capacity(256 * 1024, file))?;
        let options = UnpackOptions { chown: owner, ..UnpackOptions::default() };
        let unpacked = apply::unpack_archive(plain, root, directory, &options)?;
        for warning in &unpacked.warnings.kept {
            self.events.warn(warning.to_string());
        }
        Ok(())
    }
}

/// Downloads a URL, or finds that what the store has is current: nobody is asked when it has the checksum that is wanted. Gives the digest for the key: body, name and time.
pub(super) fn http(executor: &LocalExecutor<'_>, id: VertexId, spec: &HttpSpec) -> Result<Digest, OpError> {
    // A URL may hold credentials: people see it without them, the database knows its digest only.
    let shown =
        reqwest::Url::parse(&spec.url).map_or_else(|_| "(a malformed URL)".to_owned(), |url| redacted(&url));
    let key = Digest::of(spec.url.as_bytes()).to_string();
    let database = executor.store.database();
    let known =
        database.download(&key)?.filter(|d| executor.store.blob_size(&d.digest) == Some(d.size_bytes));
    if let Some(known) = known.as_ref().filter(|known| spec.checksum == Some(known.digest)) {
        return Ok(note_download(executor, id, known.clone()));
    }
    let incoming = executor.store.incoming_blob()?;
    let mut writer = incoming.writer()?;
    let progress = |done_bytes, total_bytes| {
        executor.events.send(Event::Progress {
            step: id.0 + 1,
            what: shown.clone(),
            done_bytes,
            total_bytes,
        });
    };
    let options = FetchOptions {
        etag: known.as_ref().and_then(|d| d.etag.clone()),
        last_modified: known.as_ref().and_then(|d| d.last_modified),
        progress: Some(&progress),
        cancel: executor.cancel.clone(),
        ..FetchOptions::default()
    };
    let record = match (http::fetch(executor.net, &spec.url, &options, &mut writer)?, known) {
        (FetchOutcome::NotModified, Some(known)) => known,
        (FetchOutcome::NotModified, None) => {
            return Err(OpError::Unsupported(format!("`{shown}` answered without a body")));
        }
        (FetchOutcome::Fetched(fetched), _) => {
            executor.store.commit_blob(incoming, writer, Some(&fetched.digest))?;
            let record = DownloadRecord {
                digest: fetched.digest,
                size_bytes: fetched.size,
                file_name: String::from_utf8_lossy(&fetched.file_name).into_owned(),
                etag: fetched.etag,
                last_modified: fetched.last_modified,
            };
            database.set_download(&key, &record)?;
            record
        }
    };
    if let Some(expected) = spec.checksum
        && expected != record.digest
    {
        return Err(OpError::Checksum { url: shown, expected, actual: record.digest });
    }
    Ok(note_download(executor, id, record))
}

/// Has a download ready for whoever copies it. Gives the digest for the key.
fn note_download(executor: &LocalExecutor<'_>, id: VertexId, record: DownloadRecord) -> Digest {
    let modified = record.last_modified.unwrap_or(0);
    let downloaded = Downloaded { digest: record.digest, file_name: record.file_name, modified };
    let digest = digest_of_download(&downloaded);
    executor.fetched.downloads.lock().unwrap_or_else(PoisonError::into_inner).insert(id, downloaded);
    digest
}

/// All of a download that a copy of it shows: body, name and time.
pub(super) fn digest_of_download(file: &Downloaded) -> Digest {
    let mut hasher = KeyHasher::new("kiln/http/v1");
    hasher.digest(&file.digest).field(file.file_name.as_bytes()).number(file.modified as u64);
    hasher.finish()
}

/// The file that [`http`] brought.
pub(super) fn downloaded(executor: &LocalExecutor<'_>, id: VertexId) -> Result<Downloaded, OpError> {
    let downloads = executor.fetched.downloads.lock().unwrap_or_else(PoisonError::into_inner);
    downloads.get(&id).cloned().ok_or_else(|| OpError::Unsupported("the download is lost".to_owned()))
}

/// Finds the commit that a reference names.
pub(super) fn git_commit(
    executor: &LocalExecutor<'_>,
    id: VertexId,
    spec: &GitSpec,
) -> Result<Digest, OpError> {
    let reference = parse_git(spec)?;
    let resolved = git::resolve_commit(&reference, &git_options(executor, spec))?;
    let mut hasher = KeyHasher::new("kiln/git/v1");
    hasher.field(resolved.commit.as_bytes());
    let mut commits = executor.fetched.commits.lock().unwrap_or_else(PoisonError::into_inner);
    commits.insert(id, resolved.commit);
    Ok(hasher.finish())
}

fn parse_git(spec: &GitSpec) -> Result<GitRef, OpError> {
    GitRef::parse_for_context(&spec.reference)
        .ok_or_else(|| OpError::Unsupported(format!("`{}` is not a git reference", spec.reference)))?
        .map_err(OpError::GitReference)
}

fn git_options(executor: &LocalExecutor<'_>, spec: &GitSpec) -> git::CheckoutOptions {
    let mut options = git::CheckoutOptions::new(executor.store.path("git"), executor.git.clone());
    options.keep_git_dir = spec.keep_git_dir.unwrap_or(false);
    options.checksum.clone_from(&spec.checksum);
    options.cancel = executor.cancel.clone();
    options
}

/// A checkout as a file system of its own.
pub(super) fn checkout(
    executor: &LocalExecutor<'_>,
    id: VertexId,
    spec: &GitSpec,
) -> Result<StepResult, OpError> {
    let reference = parse_git(spec)?;
    let begun = executor.snapshots.begin(&[])?;
    let mut options = git_options(executor, spec);
    let keep = reference.keep_git_dir_with(spec.keep_git_dir).map_err(OpError::GitReference)?;
    options.keep_git_dir = keep;
    let commits = executor.fetched.commits.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let checkout = git::checkout(&reference, &options, &begun.fs())?;
    // The key was made for the commit that was looked up; a branch that moved since must not be stored under it.
    if commits.get(&id).is_some_and(|commit| *commit != checkout.commit) {
        return Err(OpError::Unsupported(format!(
            "`{}` changed while it was fetched; build again",
            spec.reference
        )));
    }
    let base = StepResult::source(scratch());
    let mut result = commit(executor, &base, begun, false, &Written::default())?;
    result.trail = Trail::default();
    Ok(result)
}
