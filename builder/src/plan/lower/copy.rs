//! COPY and ADD.
//!
//! Invariants:
//! - all sources of one instruction are one vertex and one layer (fact 13);
//! - with `--link` the files go onto an empty file system and are merged, unless the mode or a user name would need
//!   what lies below (fact 11);
//! - here-documents come after the other sources, as BuildKit orders them.

use kiln_grammar::ast::{self, Instruction, Word};
use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::expand;
use kiln_grammar::span::Span;

use crate::base::digest::Digest;
use crate::base::mode::Mode;

use super::super::graph::{CopySource, CopySpec, GitSpec, HttpSpec, Op, Unpack, VertexId};
use super::super::history;
use super::super::paths;
use super::super::remote::{SourceKind, classify};
use super::super::stages::Source;
use super::{Lowering, display, files};

/// Which of the two instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// ADD.
    Add,
    /// COPY.
    Copy,
}

impl Verb {
    fn keyword(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Copy => "COPY",
        }
    }
}

/// Flags and words after expansion.
struct Expanded<'a> {
    chown: Option<String>,
    chmod: Option<String>,
    checksum: Option<String>,
    sources: Vec<(&'a Word, String)>,
    destination: String,
}

impl Lowering<'_, '_> {
    /// Lowers COPY and ADD.
    pub(super) fn copy(
        &mut self,
        copy: &ast::Copy,
        instruction: &Instruction,
        verb: Verb,
    ) -> Result<(), Diagnostic> {
        let words = self.copy_words(copy, verb)?;
        let name = self.step_name(&display(instruction, Some(&self.state.env)));
        let mut inputs = vec![self.state.files];
        let mut sources = self.sources(copy, &words, verb, &mut inputs)?;
        for heredoc in &copy.heredocs {
            let content = if heredoc.expand {
                expand::heredoc_body(&heredoc.body, &self.state.env)
                    .map_err(|error| self.site.error(heredoc.span, error.to_string()))?
                    .value
            } else {
                heredoc.body.clone()
            };
            sources.push(CopySource::Inline { name: heredoc.name.clone(), content });
        }
        let link = copy.link && words.chmod.is_none() && words.chown.as_deref().is_none_or(is_numeric);
        let created_by = history_text(copy, &words, verb);
        let spec = CopySpec {
            sources,
            destination: paths::destination(&self.state.working_dir(), &words.destination),
            chown: words.chown,
            chmod: words.chmod,
            parents: copy.parents,
            exclude: copy.exclude.iter().map(|word| word.value.clone()).collect(),
            unpack: match (verb, copy.unpack) {
                (Verb::Copy, _) | (_, Some(false)) => Unpack::Never,
                (Verb::Add, None) => Unpack::Local,
                (Verb::Add, Some(true)) => Unpack::Always,
            },
            link,
        };
        let below = self.state.files;
        self.state.files =
            if link { self.link(spec, inputs, below, &name) } else { self.add(Op::Copy(spec), inputs, name) };
        self.record(created_by, Some(self.state.files));
        Ok(())
    }

    /// The copy on nothing, merged onto `below` where there is something.
    fn link(&mut self, spec: CopySpec, mut inputs: Vec<VertexId>, below: VertexId, name: &str) -> VertexId {
        let platform = self.state.platform.clone();
        let empty = files::scratch(self.session, &platform);
        if let Some(first) = inputs.first_mut() {
            *first = empty;
        }
        let copied = self.add(Op::Copy(spec), inputs, name.to_owned());
        if below == empty {
            return copied;
        }
        self.add(Op::Merge, vec![below, copied], name.to_owned())
    }

    fn copy_words<'a>(&self, copy: &'a ast::Copy, verb: Verb) -> Result<Expanded<'a>, Diagnostic> {
        let chown = self.expand_option(copy.chown.as_ref())?;
        let chmod = self.expand_option(copy.chmod.as_ref())?;
        let checksum = self.expand_option(copy.checksum.as_ref())?;
        let sources = copy
            .sources
            .iter()
            .map(|word| Ok((word, self.expand(word)?)))
            .collect::<Result<Vec<_>, Diagnostic>>()?;
        let destination = self.expand(&copy.destination)?;
        if let (Some(mode), Some(word)) = (&chmod, &copy.chmod) {
            Mode::parse(mode).map_err(|error| {
                self.site
                    .error(word.span, error.to_string())
                    .with_hint("write an octal mode such as 0755, or a symbolic one such as u=rwX,go=rX")
            })?;
        }
        if let (Some(checksum), Some(word)) = (&checksum, &copy.checksum) {
            check_checksum(checksum, &sources, verb)
                .map_err(|message| self.site.error(word.span, message))?;
        }
        // Of several sources all but one may be wildcards: those may match nothing. BuildKit lets this through and keeps
        // the last source only; the Dockerfile reference forbids it.
        let literal =
            sources.iter().filter(|(_, source)| !has_wildcard(source)).count() + copy.heredocs.len();
        // A backslash at the end is how files for Windows write a directory.
        let directory =
            destination.ends_with(['/', '\\']) || destination.ends_with("/.") || destination == ".";
        if literal > 1 && !directory {
            let message = format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                verb.keyword()
            );
            let hint = format!("write `{destination}/`");
            return Err(self.site.error(copy.destination.span, message).with_hint(hint));
        }
        Ok(Expanded { chown, chmod, checksum, sources, destination })
    }

    /// Sources that are not here-documents; their vertices are added to `inputs`.
    fn sources(
        &mut self,
        copy: &ast::Copy,
        words: &Expanded<'_>,
        verb: Verb,
        inputs: &mut Vec<VertexId>,
    ) -> Result<Vec<CopySource>, Diagnostic> {
        let mut from = None;
        let mut sources = Vec::new();
        for (word, text) in &words.sources {
            let kind = classify(text);
            if verb == Verb::Copy && kind != SourceKind::Path {
                let what = if kind == SourceKind::Git { "git ref" } else { "URL" };
                return Err(self
                    .site
                    .error(word.span, format!("source can't be a {what} for COPY"))
                    .with_hint("use ADD"));
            }
            sources.push(match kind {
                SourceKind::Http => {
                    let checksum = words.checksum.as_ref().and_then(|text| text.parse::<Digest>().ok());
                    let op = Op::Http(HttpSpec { url: text.clone(), checksum });
                    CopySource::Download { input: self.input(op, word.span, inputs)? }
                }
                SourceKind::Git => {
                    let op = Op::Git(GitSpec {
                        reference: text.clone(),
                        keep_git_dir: copy.keep_git_dir,
                        checksum: words.checksum.clone(),
                    });
                    CopySource::Path { input: self.input(op, word.span, inputs)?, path: "/".to_owned() }
                }
                SourceKind::Path => {
                    let vertex = match from {
                        Some(vertex) => vertex,
                        None => *from.insert(self.copy_from(copy)?),
                    };
                    CopySource::Path { input: input_index(vertex, inputs), path: text.clone() }
                }
            });
        }
        Ok(sources)
    }

    /// A vertex for a download or checkout, as an input.
    fn input(&mut self, op: Op, span: Span, inputs: &mut Vec<VertexId>) -> Result<usize, Diagnostic> {
        let platform = self.state.platform.clone();
        let vertex = files::remote(self.session, op, &platform, span, &self.site)?;
        Ok(input_index(vertex, inputs))
    }

    /// The tree that paths are taken from: the context or what `--from` names.
    fn copy_from(&mut self, copy: &ast::Copy) -> Result<VertexId, Diagnostic> {
        let platform = self.state.platform.clone();
        let site = self.site;
        let Some(word) = copy.from.as_ref().filter(|word| !word.value.is_empty()) else {
            return files::main_context(self.session, &platform, &site);
        };
        let source = self.session.table.copy_source(word, &site)?;
        if let Source::Stage(index) = &source
            && !self.session.is_done(*index)
        {
            let message = format!(
                "cannot copy from stage {:?}, it needs to be defined before current stage {:?}",
                word.value, self.entry.name
            );
            return Err(site.error(word.span, message));
        }
        match files::named_local(self.session, &source, &site) {
            Some(local) => local,
            None => files::from_source(self.session, &source, word.span, &site),
        }
    }
}

/// Position of a vertex among the inputs behind the first, which is the file system that is changed.
pub(super) fn input_index(vertex: VertexId, inputs: &mut Vec<VertexId>) -> usize {
    match inputs.iter().skip(1).position(|input| *input == vertex) {
        Some(position) => position + 1,
        None => {
            inputs.push(vertex);
            inputs.len() - 1
        }
    }
}

/// Flags in BuildKit's order, without `--from`, `--link` and `--exclude` (fact 33).
fn history_text(copy: &ast::Copy, words: &Expanded<'_>, verb: Verb) -> String {
    let mut text = verb.keyword().to_owned();
    if copy.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", &words.chown), ("chmod", &words.chmod)] {
        if let Some(value) = value {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    for (_, source) in &words.sources {
        text.push_str(&format!(" {source}"));
    }
    for heredoc in &copy.heredocs {
        text.push_str(&format!(" <<{}", heredoc.name));
    }
    format!("{text} {}{}", words.destination, history::SUFFIX)
}

/// One remote source, and a checksum of the kind that it can have (language.md 1.8).
fn check_checksum(checksum: &str, sources: &[(&Word, String)], verb: Verb) -> Result<(), String> {
    if verb == Verb::Copy {
        return Err("checksum can't be specified for COPY".to_owned());
    }
    let [(_, source)] = sources else {
        return Err("checksum can't be specified for multiple sources".to_owned());
    };
    match classify(source) {
        SourceKind::Path => Err("checksum requires HTTP(S) or Git sources".to_owned()),
        SourceKind::Http => {
            checksum.parse::<Digest>().map(drop).map_err(|error| format!("invalid checksum: {error}"))
        }
        SourceKind::Git => {
            let hex = checksum.bytes().all(|b| b.is_ascii_hexdigit()) && checksum.len() <= 64;
            let message =
                || format!("invalid checksum: `{checksum}` is not a commit or the beginning of one");
            hex.then_some(()).ok_or_else(message)
        }
    }
}

/// Whether a source is a pattern.
fn has_wildcard(source: &str) -> bool {
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}

/// Whether `--chown` needs no passwd or group file.
fn is_numeric(owner: &str) -> bool {
    owner.split(':').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}
