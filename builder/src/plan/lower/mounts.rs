//! `RUN --mount`.
//!
//! Invariants:
//! - `from` decides which stages are needed, so it is read before anything is expanded;
//! - of a local directory only the mounted part becomes an input (language.md 1.13);
//! - targets are absolute and clean, and never `/`;
//! - mounts of the command line (`--mount`) come first, so a RUN's own mount of the same target covers them; a stage
//!   that such a mount is taken from, and those above it, do not get it.

use kiln_grammar::ast::{Run, Word};
use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::expand;
use kiln_grammar::mount::{self, Mount, MountKind, Sharing};
use kiln_grammar::span::Span;

use super::super::graph::{CacheSharing, MountSource, MountSpec, VertexId};
use super::super::paths;
use super::super::stages::Source;
use super::copy::input_index;
use super::{Lowering, files};

/// Mode of a cache directory (language.md 1.7).
const CACHE_MODE: u32 = 0o755;

/// Mounts of a RUN.
pub(super) struct Mounts {
    /// In the order written.
    pub(super) specs: Vec<MountSpec>,
    /// Where the first SSH agent's socket is.
    pub(super) ssh_socket: Option<String>,
}

impl Lowering<'_, '_> {
    /// Lowers the mounts of a RUN; what they read is added to `inputs`.
    pub(super) fn mounts(&mut self, run: &Run, inputs: &mut Vec<VertexId>) -> Result<Mounts, Diagnostic> {
        let mut mounts = Mounts { specs: Vec::new(), ssh_socket: None };
        let mut sockets = 0_usize;
        let given: Vec<Word> =
            self.session.options.mounts.iter().map(|value| self.word_of_command_line(value)).collect();
        let given = given.iter().map(|word| (word, true));
        for (word, outside) in given.chain(run.mounts.iter().map(|word| (word, false))) {
            if outside && self.is_taken_from_later(word) {
                continue;
            }
            let tell = |error: Diagnostic| if outside { of_command_line(error, word) } else { error };
            let mount = self.parse_mount(word, outside).map_err(tell)?;
            let default = match &mount.kind {
                MountKind::Secret { id, env: None, .. } => format!("/run/secrets/{}", paths::base_name(id)),
                MountKind::Ssh { .. } => {
                    sockets += 1;
                    format!("/run/buildkit/ssh_agent.{}", sockets - 1)
                }
                _ => String::new(),
            };
            let target = self.mount_target(&mount, &default, word.span).map_err(tell)?;
            if matches!(mount.kind, MountKind::Ssh { .. }) && mounts.ssh_socket.is_none() {
                mounts.ssh_socket = Some(target.clone());
            }
            let source = self.mount_content(&mount, word, inputs).map_err(tell)?;
            mounts.specs.push(MountSpec { target, source, read_only: mount.read_only });
        }
        Ok(mounts)
    }

    /// A `--mount` of the command line, at the place of the instruction that gets it.
    fn word_of_command_line(&self, value: &str) -> Word {
        Word { value: value.to_owned(), span: self.site.span }
    }

    /// Whether a mount is taken from this stage or one below it, which cannot be mounted here.
    fn is_taken_from_later(&self, word: &Word) -> bool {
        let Some(from) = from_of(&word.value) else { return false };
        match self.session.table.mount_source(&from, word.span, &self.site) {
            Ok(Source::Stage(index)) => index >= self.entry.index,
            // A name that is none is told where the mount is read.
            Ok(Source::Image(_)) | Err(_) => false,
        }
    }

    fn parse_mount(&self, word: &Word, outside: bool) -> Result<Mount, Diagnostic> {
        let fixed = from_of(&word.value).and_then(|from| from.find('$').map(|at| at + 1 != from.len()));
        if fixed == Some(true) {
            return Err(self
                .site
                .error(word.span, "'from' doesn't support variable expansion, define alias stage instead")
                .with_hint("add `FROM IMAGE AS NAME` before this stage and write from=NAME"));
        }
        let escape = self.session.escape;
        let mut expand =
            |text: &str| expand::word(text, escape, &self.state.env).map(|expanded| expanded.value);
        mount::parse_with(&word.value, &mut expand).map_err(|error| {
            // A place in the value is a place in the file only where no quote or continuation was taken out.
            let exact = !outside && word.span.end - word.span.start == word.value.len();
            let span = error.span.filter(|_| exact).map_or(word.span, |span| {
                Span::new(word.span.start + span.start, word.span.start + span.end)
            });
            let mut diagnostic = self.site.error(span, error.message);
            diagnostic.hint = error.hint;
            diagnostic
        })
    }

    /// Joined to the working directory; empty for a secret that is a variable only.
    fn mount_target(&self, mount: &Mount, default: &str, span: Span) -> Result<String, Diagnostic> {
        let written = mount.target.as_deref().filter(|target| !target.is_empty());
        if written.is_none() && matches!(mount.kind, MountKind::Secret { env: Some(_), .. }) {
            return Ok(String::new());
        }
        let target = paths::absolute(&self.state.working_dir(), written.unwrap_or(default));
        if target == "/" {
            return Err(self
                .site
                .error(span, "invalid mount target \"/\"")
                .with_hint("mount onto a directory below /; a relative target is seen from WORKDIR"));
        }
        Ok(target)
    }

    fn mount_content(
        &mut self,
        mount: &Mount,
        word: &Word,
        inputs: &mut Vec<VertexId>,
    ) -> Result<MountSource, Diagnostic> {
        let path = paths::join("/", mount.source.as_deref().unwrap_or_default());
        Ok(match &mount.kind {
            MountKind::Bind => {
                let vertex = self.mounted_files(mount.from.as_deref(), &path, word)?;
                MountSource::Bind { input: input_index(vertex, inputs), path }
            }
            MountKind::Cache { id, sharing, mode, uid, gid } => {
                let own_base = path == "/" && (mode.is_some() || uid.is_some() || gid.is_some());
                let target = mount.target.as_deref().unwrap_or_default();
                let base = id.as_ref().filter(|id| !id.is_empty()).cloned();
                let mut id = self.cache_id(base.unwrap_or_else(|| paths::clean(target)));
                let (mode, uid, gid) =
                    (mode.unwrap_or(CACHE_MODE), uid.unwrap_or_default(), gid.unwrap_or_default());
                if own_base {
                    // Each combination is a cache of its own (fact 53).
                    id.push_str(&format!("#mode={mode:04o},uid={uid},gid={gid}"));
                }
                let seed = match mount.from.as_deref().filter(|from| !from.is_empty() && !own_base) {
                    Some(from) => {
                        let vertex = self.mounted_files(Some(from), &path, word)?;
                        Some((input_index(vertex, inputs), path))
                    }
                    None => None,
                };
                MountSource::Cache { id, sharing: cache_sharing(*sharing), mode, uid, gid, seed }
            }
            MountKind::Tmpfs { size_bytes } => MountSource::Tmpfs { size_bytes: *size_bytes },
            MountKind::Secret { id, env, required, mode, uid, gid, cache_key } => MountSource::Secret {
                id: id.clone(),
                env: env.clone(),
                required: *required,
                mode: *mode,
                uid: *uid,
                gid: *gid,
                cache_key: *cache_key,
            },
            MountKind::Ssh { id, required, mode, uid, gid } => {
                MountSource::Ssh { id: id.clone(), required: *required, mode: *mode, uid: *uid, gid: *gid }
            }
        })
    }

    /// `BUILDKIT_CACHE_MOUNT_NS` separates the caches of builds that should not meet (language.md 1.5).
    fn cache_id(&self, id: String) -> String {
        match self.session.scope.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
            _ => id,
        }
    }

    fn mounted_files(&mut self, from: Option<&str>, path: &str, word: &Word) -> Result<VertexId, Diagnostic> {
        let platform = self.state.platform.clone();
        let site = self.site;
        let Some(from) = from.filter(|from| !from.is_empty()) else {
            let context = files::main_context(self.session, &platform, &site)?;
            return Ok(files::part(self.session, context, path, &platform, &site));
        };
        let source = self.session.table.mount_source(from, word.span, &site)?;
        if let Source::Stage(index) = &source
            && !self.session.is_done(*index)
        {
            let message = format!(
                "cannot mount from stage {from:?}, it needs to be defined before current stage {:?}",
                self.entry.name
            );
            return Err(site.error(word.span, message));
        }
        match files::named_local(self.session, &source, &site) {
            Some(local) => Ok(files::part(self.session, local?, path, &platform, &site)),
            None => files::from_source(self.session, &source, word.span, &site),
        }
    }
}

/// Says which option an error is about.
fn of_command_line(mut error: Diagnostic, word: &Word) -> Diagnostic {
    error.message = format!("--mount {}: {}", word.value, error.message);
    error
}

/// The `from` of a mount as written, before anything is expanded: it decides which stages are needed.
pub(in crate::plan) fn from_of(mount: &str) -> Option<String> {
    let last = fields_of(mount).into_iter().rev().find_map(|field| {
        let (key, value) = field.split_once('=')?;
        key.eq_ignore_ascii_case("from").then(|| value.to_owned())
    });
    last.filter(|from| !from.is_empty())
}

/// Comma-separated fields; a field in double quotes may hold commas, `""` in it is a quote.
fn fields_of(text: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

fn cache_sharing(sharing: Sharing) -> CacheSharing {
    match sharing {
        Sharing::Shared => CacheSharing::Shared,
        Sharing::Private => CacheSharing::Private,
        Sharing::Locked => CacheSharing::Locked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_is_found_without_expansion() {
        assert_eq!(from_of("type=bind,From=build,target=/x"), Some("build".to_owned()));
        assert_eq!(from_of("\"from=a,b\",ro"), Some("a,b".to_owned()));
        assert_eq!(from_of("from=a,from=b"), Some("b".to_owned()));
        assert_eq!(from_of("target=/from=x"), None);
        assert_eq!(from_of("from="), None);
    }
}
