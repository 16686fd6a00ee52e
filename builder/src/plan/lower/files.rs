//! File systems that a stage starts from or reads: images, other stages, contexts.
//!
//! Invariants:
//! - a directory of the client is never a file system by itself: it is copied onto an empty one, only the part that is
//!   used, so that only that part is in the key (language.md 1.13);
//! - an image without layers is an empty file system.

use std::sync::Arc;

use kiln_grammar::diagnostic::Diagnostic;
use kiln_grammar::span::Span;

use crate::image::config::{ImageConfig, RootFs};
use crate::image::platform::Platform;

use super::super::args::{DEFAULT_PATH, Environment, is_true};
use super::super::graph::{
    ContextKind, CopySource, CopySpec, GitSpec, Guards, HttpSpec, ImageRequest, ImageSpec, LocalSpec, Op,
    Origin, ResolvedImage, Unpack, Vertex, VertexId,
};
use super::super::policy;
use super::super::remote::without_credentials;
use super::super::site::Site;
use super::super::sources::{Meaning, layout_name};
use super::super::stages::{Base, Source, StageEntry};
use super::{Session, StageState, prefix, step_total};

/// The state right after FROM.
pub(super) fn start(session: &mut Session<'_>, entry: &StageEntry<'_>) -> Result<StageState, Diagnostic> {
    if entry.replaced {
        let name = entry.ast.from.name.as_ref().map(|name| name.value.clone()).unwrap_or_default();
        return from_name(session, entry, &name);
    }
    match &entry.base {
        Base::Scratch => {
            let platform = session.target.clone();
            Ok(empty_state(scratch(session, &platform), platform))
        }
        Base::Stage(index) => {
            let base = session.done.get(*index).and_then(Option::as_ref);
            let mut state = base.expect("invariant: a stage is lowered after its base").clone();
            // Triggers run in the stage that builds on this one, not further down (language.md 1.9).
            state.config.config.on_build.clear();
            Ok(state)
        }
        Base::Image(name) => from_name(session, entry, name),
    }
}

/// A stage that starts from an image or a named context.
fn from_name(
    session: &mut Session<'_>,
    entry: &StageEntry<'_>,
    name: &str,
) -> Result<StageState, Diagnostic> {
    let platform = entry.platform.clone().unwrap_or_else(|| session.target.clone());
    let prefix = if entry.replaced {
        format!("[context {name}] ")
    } else {
        prefix(session, entry, &platform, 1, step_total(entry))
    };
    let span = entry.ast.from.base.span;
    let site = Site::in_file(session.text, entry.ast.from.span);
    match session.sources.meaning(name, &platform) {
        Meaning::Scratch => Ok(empty_state(scratch(session, &platform), platform)),
        Meaning::Files(context, kind) => {
            let files = context_files(session, &context, &kind, &platform, &site)?;
            Ok(empty_state(files, platform))
        }
        Meaning::Image(request) => {
            let image = resolve(session, &request, name, span, &site)?;
            warn_about_platform(session, &image, &request, span);
            session.base_images.entry(name.to_owned()).or_insert_with(|| image.clone());
            let files = image_files(session, &image, &platform, &prefix, &site);
            Ok(image_state(&image, files, platform))
        }
    }
}

/// The file system that `--from` names. An image is taken for the target platform, whatever the platform of the stage
/// that reads it, as BuildKit does.
pub(super) fn from_source(
    session: &mut Session<'_>,
    source: &Source,
    span: Span,
    site: &Site<'_>,
) -> Result<VertexId, Diagnostic> {
    let name = match source {
        Source::Stage(index) => {
            let stage = session.done.get(*index).and_then(Option::as_ref);
            return Ok(stage.expect("invariant: the caller has checked that the stage is done").files);
        }
        Source::Image(name) => name,
    };
    let platform = session.target;
    match session.sources.meaning(name, platform) {
        Meaning::Scratch => Ok(scratch(session, platform)),
        Meaning::Files(context, kind) => context_files(session, &context, &kind, platform, site),
        Meaning::Image(request) => {
            let image = resolve(session, &request, name, span, site)?;
            Ok(image_files(session, &image, platform, "", site))
        }
    }
}

/// What COPY and a bind mount without `from` read: a local directory as such, so that its files are selected by the
/// step that wants them, or a file system.
pub(super) fn main_context(
    session: &mut Session<'_>,
    platform: &Platform,
    site: &Site<'_>,
) -> Result<VertexId, Diagnostic> {
    match &session.options.main_context {
        ContextKind::Local => local(session, "", platform, site),
        // No context is an empty one: what is named is not found, wildcards match nothing (language.md 1.8).
        kind => context_files(session, "", &kind.clone(), platform, site),
    }
}

/// The named local context that a `--from` means, if it is one: read like the main context.
pub(super) fn named_local(
    session: &mut Session<'_>,
    source: &Source,
    site: &Site<'_>,
) -> Option<Result<VertexId, Diagnostic>> {
    let Source::Image(name) = source else { return None };
    match session.sources.meaning(name, session.target) {
        Meaning::Files(context, ContextKind::Local) => Some(local(session, &context, session.target, site)),
        _ => None,
    }
}

/// A download or checkout for ADD.
pub(super) fn remote(
    session: &mut Session<'_>,
    op: Op,
    platform: &Platform,
    span: Span,
    site: &Site<'_>,
) -> Result<VertexId, Diagnostic> {
    let op = allowed(session, op, span, site)?;
    let name = format!("[internal] fetch {}", without_credentials(address(&op)));
    Ok(session.graph.add(source_vertex(op, Vec::new(), name, platform, Some(site.origin()))))
}

/// What the source policies make of a download or checkout.
fn allowed(session: &Session<'_>, op: Op, span: Span, site: &Site<'_>) -> Result<Op, Diagnostic> {
    policy::remote(&session.options.policies, op).map_err(|refused| site.error(span, refused.to_string()))
}

/// Where a download or checkout is.
fn address(op: &Op) -> &str {
    match op {
        Op::Http(spec) => &spec.url,
        Op::Git(spec) => &spec.reference,
        _ => "",
    }
}

/// An empty file system.
pub(super) fn scratch(session: &mut Session<'_>, platform: &Platform) -> VertexId {
    session.graph.add(source_vertex(Op::Scratch, Vec::new(), "scratch".to_owned(), platform, None))
}

/// What a bind mount of `path` reads: of a local directory that part, at the same place in an otherwise empty file
/// system; any other tree as it is.
pub(super) fn part(
    session: &mut Session<'_>,
    tree: VertexId,
    path: &str,
    platform: &Platform,
    site: &Site<'_>,
) -> VertexId {
    if !matches!(session.graph.vertex(tree).op, Op::Local(_)) {
        return tree;
    }
    let below = path.trim_matches('/');
    let source = if below.is_empty() { "/" } else { below };
    let name = format!("[internal] take {path} from the context");
    let spec = whole(CopySource::Path { input: 1, path: source.to_owned() }, Unpack::Never);
    copied(session, CopySpec { parents: !below.is_empty(), ..spec }, tree, name, platform, site)
}

/// A tree of files that is not an image.
fn context_files(
    session: &mut Session<'_>,
    context: &str,
    kind: &ContextKind,
    platform: &Platform,
    site: &Site<'_>,
) -> Result<VertexId, Diagnostic> {
    let label = if context.is_empty() { "[internal]".to_owned() } else { format!("[context {context}]") };
    match kind {
        ContextKind::Local => {
            let local = local(session, context, platform, site)?;
            let spec = whole(CopySource::Path { input: 1, path: "/".to_owned() }, Unpack::Never);
            Ok(copied(session, spec, local, format!("{label} load from client"), platform, site))
        }
        ContextKind::None => Ok(scratch(session, platform)),
        ContextKind::Git(reference) => {
            let keep_git_dir = session.scope.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
            let spec = GitSpec {
                reference: reference.clone(),
                keep_git_dir: keep_git_dir.map(|value| is_true(value)),
                checksum: None,
            };
            let op = allowed(session, Op::Git(spec), site.span, site)?;
            let name = format!("{label} load git source {}", without_credentials(address(&op)));
            Ok(session.graph.add(source_vertex(op, Vec::new(), name, platform, None)))
        }
        ContextKind::Http(url) => {
            let spec = HttpSpec { url: url.clone(), checksum: None };
            let op = allowed(session, Op::Http(spec), site.span, site)?;
            let name = format!("{label} load remote context {}", without_credentials(address(&op)));
            let download = session.graph.add(source_vertex(op, Vec::new(), name, platform, None));
            let spec = whole(CopySource::Download { input: 1 }, Unpack::Always);
            Ok(copied(session, spec, download, format!("{label} unpack remote context"), platform, site))
        }
        // Named contexts that are images are looked up as images, so these are main contexts.
        ContextKind::Image(name) => image_context(session, name, platform, site),
        ContextKind::Layout(layout) => image_context(session, &layout_name(layout), platform, site),
    }
}

/// The main context as an image.
fn image_context(
    session: &mut Session<'_>,
    name: &str,
    platform: &Platform,
    site: &Site<'_>,
) -> Result<VertexId, Diagnostic> {
    let request = ImageRequest { name: name.to_owned(), platform: platform.clone() };
    let image = resolve(session, &request, name, site.span, site)?;
    Ok(image_files(session, &image, platform, "[internal] ", site))
}

fn local(
    session: &mut Session<'_>,
    context: &str,
    platform: &Platform,
    site: &Site<'_>,
) -> Result<VertexId, Diagnostic> {
    policy::local(&session.options.policies, context)
        .map_err(|refused| site.error(site.span, refused.to_string()))?;
    let name = match context {
        "" => "[internal] load build context".to_owned(),
        context => format!("[context {context}] load from client"),
    };
    let op = Op::Local(LocalSpec { context: context.to_owned() });
    Ok(session.graph.add(source_vertex(op, Vec::new(), name, platform, None)))
}

fn whole(source: CopySource, unpack: Unpack) -> CopySpec {
    CopySpec {
        sources: vec![source],
        destination: "/".to_owned(),
        chown: None,
        chmod: None,
        parents: false,
        exclude: Vec::new(),
        unpack,
        link: false,
    }
}

fn copied(
    session: &mut Session<'_>,
    spec: CopySpec,
    from: VertexId,
    name: String,
    platform: &Platform,
    site: &Site<'_>,
) -> VertexId {
    let empty = scratch(session, platform);
    let origin = Some(site.origin());
    session.graph.add(source_vertex(Op::Copy(spec), vec![empty, from], name, platform, origin))
}

fn source_vertex(
    op: Op,
    inputs: Vec<VertexId>,
    name: String,
    platform: &Platform,
    origin: Option<Origin>,
) -> Vertex {
    Vertex {
        op,
        inputs,
        name,
        stage: String::new(),
        ignore_cache: false,
        origin,
        platform: platform.clone(),
        guards: Guards::default(),
    }
}

fn resolve(
    session: &Session<'_>,
    request: &ImageRequest,
    name: &str,
    span: Span,
    site: &Site<'_>,
) -> Result<Arc<ResolvedImage>, Diagnostic> {
    session.sources.resolve(request).map_err(|error| {
        let mut diagnostic = site.error(span, error.message);
        diagnostic.hint = error.hint;
        session.table.with_stage_hint(diagnostic, name)
    })
}

fn image_files(
    session: &mut Session<'_>,
    image: &Arc<ResolvedImage>,
    platform: &Platform,
    prefix: &str,
    site: &Site<'_>,
) -> VertexId {
    if image.layers.is_empty() {
        return scratch(session, platform);
    }
    let name = if image.name.contains('@') {
        format!("{prefix}FROM {}", image.name)
    } else {
        format!("{prefix}FROM {}@{}", image.name, image.digest)
    };
    let op = Op::Image(ImageSpec {
        diff_ids: image.layers.iter().map(|layer| layer.diff_id).collect(),
        image: Some(image.clone()),
    });
    session.graph.add(source_vertex(op, Vec::new(), name, platform, Some(site.origin())))
}

/// Everything of the base's config is inherited but its creation time and its layers (language.md 1.4); its triggers
/// are replayed and gone.
fn image_state(image: &ResolvedImage, files: VertexId, platform: Platform) -> StageState {
    let mut config = image.config.clone();
    config.created = None;
    config.rootfs = RootFs::default();
    config.config.on_build.clear();
    let base_history = std::mem::take(&mut config.history);
    StageState {
        files,
        config,
        env: Environment::default(),
        build_args: Vec::new(),
        platform,
        base_history,
        history: Vec::new(),
    }
}

/// The state on an empty file system. Its config is not empty (fact 76).
fn empty_state(files: VertexId, platform: Platform) -> StageState {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    config.config.working_dir = "/".to_owned();
    config.config.env = vec![DEFAULT_PATH.to_owned()];
    StageState {
        files,
        config,
        env: Environment::default(),
        build_args: Vec::new(),
        platform,
        base_history: Vec::new(),
        history: Vec::new(),
    }
}

/// The check InvalidBaseImagePlatform: only here is it known what the registry offered.
fn warn_about_platform(session: &mut Session<'_>, image: &ResolvedImage, request: &ImageRequest, span: Span) {
    let config = &image.config;
    let wanted = &request.platform;
    let stated = !config.os.is_empty() && !config.architecture.is_empty();
    if stated
        && !image.layers.is_empty()
        && (config.os != wanted.os || config.architecture != wanted.architecture)
    {
        let offered = Platform::new(&config.os, &config.architecture, &config.variant);
        session.warnings.push(Diagnostic::warning(
            "InvalidBaseImagePlatform",
            span,
            format!(
                "Base image {} was pulled with platform \"{offered}\", expected \"{wanted}\" for current build",
                request.name
            ),
        ));
    }
}
