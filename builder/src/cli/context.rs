//! The Buildfile and the contexts of a build, from wherever the command line says they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::args::source::{ContextSource, FileSource, NamedContext};
use crate::base::cancel::CancelToken;
use crate::base::limits::MAX_BUILDFILE_BYTES;
use crate::context::git::{self, GitEnvironment, GitRef};
use crate::context::http::{self, FetchOptions, FetchOutcome};
use crate::context::layout;
use crate::context::local::{Ignore, LocalContext};
use crate::export::attest::provenance::RemoteContext;
use crate::layer::blob::VerifiedReader;
use crate::layer::compress;
use crate::net::Net;
use crate::plan::graph::ContextKind;
use crate::plan::policy::{self, Policy};
use crate::plan::without_credentials;
use crate::snapshot::apply::{self, UnpackOptions};
use crate::store::Store;
use crate::sys::rootdir::RootDir;
use crate::ui::failure::{Failure, Kind};

/// Names that are tried when no -f is given, in this order.
const NAMES: [&str; 4] = ["Buildfile", "Dockerfile", "Containerfile", "dockerfile"];

/// What a build reads.
pub(super) struct Inputs {
    /// For messages.
    pub file_name: String,
    pub text: String,
    pub main: ContextKind,
    /// The archive that a local main context was unpacked from.
    pub remote: Option<RemoteContext>,
    pub kinds: BTreeMap<String, ContextKind>,
    pub directories: BTreeMap<String, LocalContext>,
    /// Directories that live as long as the build.
    pub _temporary: Vec<tempfile::TempDir>,
}

/// What finding contexts needs.
pub(super) struct Finder<'a> {
    pub store: &'a Store,
    pub net: &'a Net,
    pub git: &'a GitEnvironment,
    pub cancel: &'a CancelToken,
    pub policies: &'a [Policy],
}

fn user(message: impl Into<String>) -> Failure {
    Failure::new(Kind::User, message)
}

/// What a named context is that is no directory here. None for standard input.
pub(super) fn kind_of(source: &ContextSource) -> Option<ContextKind> {
    Some(match source {
        ContextSource::Path(_) => ContextKind::Local,
        ContextSource::Image(reference) => ContextKind::Image(reference.to_string()),
        ContextSource::Scratch => ContextKind::Image("scratch".to_owned()),
        ContextSource::Git(reference) => ContextKind::Git(reference.clone()),
        ContextSource::Http(url) => ContextKind::Http(url.clone()),
        ContextSource::OciLayout { path, tag, digest } => {
            let mut text = format!("{}{}", layout::PREFIX, path.display());
            if let Some(tag) = tag {
                text.push_str(&format!(":{tag}"));
            }
            if let Some(digest) = digest {
                text.push_str(&format!("@{digest}"));
            }
            ContextKind::Layout(text)
        }
        ContextSource::Stdin => return None,
    })
}

/// Checks and reads a Buildfile's bytes.
fn text(name: &str, mut reader: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    reader.by_ref().take(MAX_BUILDFILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Failure {
        causes: vec![e.to_string()],
        ..user(format!("cannot read the Buildfile `{name}`"))
    })?;
    if bytes.len() as u64 > MAX_BUILDFILE_BYTES {
        return Err(user(format!("the Buildfile `{name}` is larger than {MAX_BUILDFILE_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        user(format!("{name}:{line}: the Buildfile is not UTF-8 text"))
    })
}

/// The Buildfile of a directory: `-f`, or the first default name that exists.
pub(super) fn buildfile(
    file: Option<&FileSource>,
    directory: Option<&Path>,
) -> Result<(String, String, Option<PathBuf>), Failure> {
    buildfile_named(&NAMES, file, directory)
}

/// [`buildfile`] with other default names.
pub(super) fn buildfile_named(
    names: &[&str],
    file: Option<&FileSource>,
    directory: Option<&Path>,
) -> Result<(String, String, Option<PathBuf>), Failure> {
    let open = |path: &Path| {
        File::open(path).map_err(|error| {
            let name = path.display();
            let failure = if error.kind() == io::ErrorKind::NotFound {
                user(format!("there is no Buildfile `{name}`"))
            } else {
                Failure {
                    causes: vec![error.to_string()],
                    ..user(format!("cannot open the Buildfile `{name}`"))
                }
            };
            failure.with_hint("name it with -f FILE, or write one: FROM IMAGE, then COPY, RUN, ...")
        })
    };
    match (file, directory) {
        (Some(FileSource::Stdin), _) => Ok(("(stdin)".to_owned(), text("(stdin)", io::stdin())?, None)),
        (Some(FileSource::Url(url)), _) => {
            Err(user(format!("the Buildfile at `{}` has to be downloaded first", without_credentials(url))))
        }
        (Some(FileSource::Path(path)), _) => {
            let name = shown(path);
            Ok((name.clone(), text(&name, open(path)?)?, Some(path.clone())))
        }
        (None, Some(directory)) => {
            let found = names.iter().map(|name| directory.join(name)).find(|path| path.is_file());
            let Some(path) = found else {
                return Err(user(format!(
                    "there is no Buildfile in `{}` (looked for {})",
                    directory.display(),
                    names.join(", ")
                ))
                .with_hint("name it with -f FILE, or write one: FROM IMAGE, then COPY, RUN, ..."));
            };
            let name = shown(&path);
            Ok((name.clone(), text(&name, open(&path)?)?, Some(path)))
        }
        (None, None) => {
            Err(user("there is no Buildfile: the context is not a directory; name it with -f FILE"))
        }
    }
}

/// A path as people would write it from here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.as_deref().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path);
    short.strip_prefix("./").unwrap_or(short).display().to_string()
}

impl Finder<'_> {
    /// Finds everything.
    pub(super) fn find(
        &self,
        context: &ContextSource,
        file: Option<&FileSource>,
        ignore_file: Option<&Path>,
        named: &[NamedContext],
    ) -> Result<Inputs, Failure> {
        let mut temporary = Vec::new();
        let downloaded = match file {
            Some(FileSource::Url(url)) => Some((self.buildfile_at(url, &mut temporary)?, url)),
            _ => None,
        };
        let file = downloaded.as_ref().map_or(file, |(path, _)| Some(path));
        let mut inputs = match context {
            ContextSource::Path(path) => self.directory(path, file, ignore_file)?,
            ContextSource::Stdin => self.stream(io::stdin(), "standard input", file, &mut temporary)?,
            ContextSource::Git(reference) => self.git(reference, file, &mut temporary)?,
            ContextSource::Http(url) => self.http(url, file, &mut temporary)?,
            other => return Err(user(format!("{other:?} can be a named context only, see --build-context"))),
        };
        for NamedContext { name, source } in named {
            let kind = match source {
                ContextSource::Path(path) => {
                    let context = open_directory(path)
                        .and_then(|()| {
                            LocalContext::open(path, None).map_err(|e| Failure::from_error(Kind::User, &e))
                        })
                        .map_err(|failure| Failure {
                            message: format!("build context `{name}`: {}", failure.message),
                            ..failure
                        })?;
                    inputs.directories.insert(name.clone(), context);
                    ContextKind::Local
                }
                other => kind_of(other)
                    .ok_or_else(|| user(format!("build context `{name}` cannot be standard input")))?,
            };
            inputs.kinds.insert(name.clone(), kind);
        }
        if let Some((_, url)) = downloaded {
            inputs.file_name = without_credentials(url);
        }
        inputs._temporary = temporary;
        Ok(inputs)
    }

    fn directory(
        &self,
        path: &Path,
        file: Option<&FileSource>,
        ignore_file: Option<&Path>,
    ) -> Result<Inputs, Failure> {
        open_directory(path)?;
        let (file_name, text, buildfile) = buildfile(file, Some(path))?;
        let mut context = LocalContext::open(path, buildfile.as_deref())
            .map_err(|e| Failure::from_error(Kind::User, &e))?;
        if let Some(ignore) = ignore_file {
            let name = ignore.display().to_string();
            let text = std::fs::read_to_string(ignore).map_err(|e| Failure {
                causes: vec![e.to_string()],
                ..user(format!("cannot read the ignore file `{name}`"))
            })?;
            context.ignore =
                Some(Ignore::parse(&name, &text).map_err(|e| Failure::from_error(Kind::User, &e))?);
        }
        let directories = BTreeMap::from([(String::new(), context)]);
        Ok(inputs(file_name, text, ContextKind::Local, directories))
    }

    /// An archive is the context; anything else is the Buildfile of a build without context.
    fn stream(
        &self,
        mut stream: impl Read,
        name: &str,
        file: Option<&FileSource>,
        temporary: &mut Vec<tempfile::TempDir>,
    ) -> Result<Inputs, Failure> {
        let internal = |e: &dyn std::error::Error| Failure {
            causes: vec![e.to_string()],
            ..user(format!("cannot read the context from {name}"))
        };
        let dir = self.store.temporary().map_err(|e| super::failure::of_store(&e))?;
        let packed = dir.path().join("packed");
        let mut out = File::create(&packed).map_err(|e| internal(&e))?;
        io::copy(&mut stream, &mut out).map_err(|e| internal(&e))?;
        let packed = || File::open(&packed).map(io::BufReader::new);
        if !compress::is_archive(packed().map_err(|e| internal(&e))?) {
            let text = text(name, packed().map_err(|e| internal(&e))?)?;
            return Ok(inputs(format!("({name})"), text, ContextKind::None, BTreeMap::new()));
        }
        let path = dir.path().join("context");
        std::fs::create_dir(&path).map_err(|e| internal(&e))?;
        let root = RootDir::open(&path).map_err(|e| internal(&e))?;
        let plain = compress::decompressor(packed().map_err(|e| internal(&e))?).map_err(|e| internal(&e))?;
        let options = UnpackOptions { chown: Some((0, 0)), ..UnpackOptions::default() };
        apply::unpack_archive(plain, &root, b"/", &options).map_err(|e| internal(&e))?;
        temporary.push(dir);
        self.unpacked(&path, file)
    }

    /// A context that was fetched: the Buildfile is inside, and ignore files do not apply (language.md 1.11).
    fn unpacked(&self, path: &Path, file: Option<&FileSource>) -> Result<Inputs, Failure> {
        let root = RootDir::open(path).map_err(|e| Failure::from_error(Kind::User, &e))?;
        let (file_name, text) = self.inside(&root, file)?;
        let context = LocalContext { root, ignore: None };
        Ok(inputs(file_name, text, ContextKind::Local, BTreeMap::from([(String::new(), context)])))
    }

    fn inside(&self, root: &RootDir, file: Option<&FileSource>) -> Result<(String, String), Failure> {
        let candidates: Vec<String> = match file {
            Some(FileSource::Stdin | FileSource::Url(_)) => {
                return buildfile(file, None).map(|(name, text, _)| (name, text));
            }
            // A file of this machine wins over one of the context.
            Some(FileSource::Path(path)) if path.is_absolute() || path.exists() => {
                return buildfile(file, None).map(|(name, text, _)| (name, text));
            }
            Some(FileSource::Path(path)) => vec![path.display().to_string()],
            None => NAMES.iter().map(|name| (*name).to_owned()).collect(),
        };
        for name in &candidates {
            let found = root
                .read_file(name.as_bytes(), MAX_BUILDFILE_BYTES)
                .map_err(|e| Failure::from_error(Kind::User, &e))?;
            if let Some(bytes) = found {
                return Ok((name.clone(), text(name, bytes.as_slice())?));
            }
        }
        Err(user(format!("there is no Buildfile in the context (looked for {})", candidates.join(", ")))
            .with_hint("name it with -f FILE"))
    }

    /// `-f URL`: a file that has what is there.
    fn buildfile_at(&self, url: &str, temporary: &mut Vec<tempfile::TempDir>) -> Result<FileSource, Failure> {
        let dir = self.store.temporary().map_err(|e| super::failure::of_store(&e))?;
        let path = dir.path().join("Buildfile");
        self.download(url, &path).map_err(|failure| Failure {
            message: format!("cannot fetch the Buildfile: {}", failure.message),
            ..failure
        })?;
        temporary.push(dir);
        Ok(FileSource::Path(path))
    }

    /// Fetches what the source policies allow, and checks it when they say what it is.
    /// Gives what was downloaded, since a policy may have it come from elsewhere.
    fn download(&self, url: &str, path: &Path) -> Result<RemoteContext, Failure> {
        let io = |e: io::Error| Failure::from_error(Kind::User, &e);
        let (url, checksum) = policy::download(self.policies, url)
            .map_err(|refused| Failure::from_error(Kind::User, &refused))?;
        let mut out = File::create(path).map_err(io)?;
        let options = FetchOptions { cancel: self.cancel.clone(), ..FetchOptions::default() };
        let outcome = http::fetch(self.net, &url, &options, &mut out)
            .map_err(|e| Failure::from_error(Kind::Network, &e))?;
        let FetchOutcome::Fetched(fetched) = outcome else {
            // Nobody asked whether it had changed.
            return Err(user(format!("`{}` answered without a body", without_credentials(&url))));
        };
        let remote = RemoteContext { uri: without_credentials(&url), digest: fetched.digest };
        let Some(wanted) = checksum else { return Ok(remote) };
        let body = File::open(path).map_err(io)?;
        let mut verified = VerifiedReader::new(body, wanted, None);
        let read = std::io::copy(&mut verified, &mut std::io::sink());
        read.map(|_| remote).map_err(|e| Failure {
            causes: vec![e.to_string()],
            ..user(format!("`{}` is not what the source policy says", without_credentials(&url)))
        })
    }

    fn git(
        &self,
        text: &str,
        file: Option<&FileSource>,
        temporary: &mut Vec<tempfile::TempDir>,
    ) -> Result<Inputs, Failure> {
        let text = &policy::repository(self.policies, text)
            .map_err(|refused| Failure::from_error(Kind::User, &refused))?;
        let reference = GitRef::parse_for_context(text)
            .ok_or_else(|| user(format!("`{text}` is not a git reference")))?
            .map_err(|e| Failure::from_error(Kind::User, &e))?;
        let dir = self.store.temporary().map_err(|e| super::failure::of_store(&e))?;
        let path = dir.path().join("checkout");
        std::fs::create_dir(&path).map_err(|e| Failure::from_error(Kind::User, &e))?;
        let mut options = git::CheckoutOptions::new(self.store.path("git"), self.git.clone());
        options.cancel = self.cancel.clone();
        git::checkout(&reference, &options, &path).map_err(|e| Failure::from_error(Kind::Network, &e))?;
        let root = RootDir::open(&path).map_err(|e| Failure::from_error(Kind::User, &e))?;
        let (file_name, file_text) = self.inside(&root, file)?;
        temporary.push(dir);
        Ok(inputs(file_name, file_text, ContextKind::Git(text.to_owned()), BTreeMap::new()))
    }

    fn http(
        &self,
        url: &str,
        file: Option<&FileSource>,
        temporary: &mut Vec<tempfile::TempDir>,
    ) -> Result<Inputs, Failure> {
        let dir = self.store.temporary().map_err(|e| super::failure::of_store(&e))?;
        let path = dir.path().join("body");
        let remote = self.download(url, &path)?;
        let body = File::open(&path).map_err(|e| Failure::from_error(Kind::User, &e))?;
        Ok(Inputs { remote: Some(remote), ..self.stream(body, url, file, temporary)? })
    }
}

fn inputs(
    file_name: String,
    text: String,
    main: ContextKind,
    directories: BTreeMap<String, LocalContext>,
) -> Inputs {
    Inputs {
        file_name,
        text,
        main,
        remote: None,
        kinds: BTreeMap::new(),
        directories,
        _temporary: Vec::new(),
    }
}

fn open_directory(path: &Path) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(user(format!("the context `{}` is not a directory", path.display())).with_hint(
            "the last argument is the directory that COPY copies from; name a Buildfile with -f, and give an archive as `- < FILE`",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(user(format!("there is no context directory `{}`", path.display()))
                .with_hint("the last argument is the directory that COPY copies from; `.` is the current one"))
        }
        Err(error) => Err(Failure {
            causes: vec![error.to_string()],
            ..user(format!("cannot open the context `{}`", path.display()))
        }),
    }
}
