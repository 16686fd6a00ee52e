//! `kiln graph`: the plan of a build as a picture.
//!
//! Invariants: nothing is built, pulled or resolved, and the store is not opened; of base images names are enough.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use kiln_grammar::span::LineIndex;
use serde_json::json;

use super::args::graph::{GraphArgs, GraphFormat};
use super::check::build_args;
use super::store::familiar;
use super::{context, failure, project};
use crate::base::digest::{DiffId, Digest};
use crate::image::config::ImageConfig;
use crate::image::manifest::Descriptor;
use crate::plan::graph::{
    BlobLocation, ImageLayer, ImageRequest, ImageResolver, Op, Plan, PlanOptions, ResolveError,
    ResolvedImage, Vertex,
};
use crate::plan::plan;
use crate::ui::diagnostics::{Style, render};
use crate::ui::failure::{EXIT_FAILED, EXIT_OK, Failure, Kind};
use crate::ui::graph::{self, Edge, Node, Picture, Use, svg, text};
use crate::ui::print;

/// Draws a plan.
pub(super) fn graph(args: &GraphArgs) -> Result<u8, Failure> {
    let project::Look { file, target } =
        project::look(&args.context, args.file.as_ref(), args.target.as_ref())?;
    let (name, source, _) = context::buildfile(file.as_ref(), Some(&args.context))?;
    let parsed = kiln_grammar::parse(&source);
    if parsed.has_errors() {
        print::talk(render(&name, &source, &parsed.diagnostics, Style::stderr()).trim_end());
        return Ok(EXIT_FAILED);
    }
    let contexts = args
        .build_contexts
        .iter()
        .map(|named| (named.name.clone(), context::kind_of(&named.source).unwrap_or_default()));
    let options = PlanOptions {
        target,
        build_args: build_args(&args.build_args),
        platforms: args.platforms.clone(),
        contexts: contexts.collect(),
        // What may be done does not change what is to be done.
        allow: vec!["network.host".to_owned(), "security.insecure".to_owned()],
        ..PlanOptions::default()
    };
    let plan = match plan(&parsed.buildfile, &options, &NamesOnly) {
        Ok(plan) => plan,
        Err(error) => {
            print::talk(render(&name, &source, &error.diagnostics, Style::stderr()).trim_end());
            return Ok(EXIT_FAILED);
        }
    };
    let title = format!("Steps of {name}");
    let written = match args.format {
        GraphFormat::Svg => svg::render(&picture(&plan).with_sources_at_hand(), &title),
        GraphFormat::Dot => text::dot(&picture(&plan), &title),
        GraphFormat::Mermaid => text::mermaid(&picture(&plan)),
        GraphFormat::Json => format!("{:#}\n", as_json(&plan, &LineIndex::new(&source))),
    };
    match &args.output {
        Some(path) if path.as_os_str() != "-" => write(path, &written)?,
        _ => print::data(written.as_bytes()).map_err(|e| Failure::from_error(Kind::User, &e))?,
    }
    Ok(EXIT_OK)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|e| {
        let mut failure = failure::of_other(&e);
        failure.message = format!("cannot write `{}`: {e}", path.display());
        failure
    })
}

/// Takes every image's word for its being there.
struct NamesOnly;

impl ImageResolver for NamesOnly {
    fn resolve(&self, request: &ImageRequest) -> Result<Arc<ResolvedImage>, ResolveError> {
        // Images of different names are different images, and equal vertices become one.
        let digest = Digest::of(format!("{} {}", request.name, request.platform).as_bytes());
        let mut config = ImageConfig {
            os: request.platform.os.clone(),
            architecture: request.platform.architecture.clone(),
            variant: request.platform.variant.clone(),
            ..ImageConfig::default()
        };
        config.rootfs.diff_ids = vec![DiffId(digest)];
        let layer = ImageLayer { diff_id: DiffId(digest), descriptor: Descriptor::new("", digest, 0) };
        Ok(Arc::new(ResolvedImage {
            name: request.name.clone(),
            digest,
            config,
            layers: vec![layer],
            location: BlobLocation::Store,
        }))
    }
}

/// The plan as people think of it: an empty file system is nothing, and `COPY --link` is one step, though it is a copy
/// on nothing and a merge.
fn picture(plan: &Plan) -> Picture {
    let vertices = &plan.graph.vertices;
    let platforms: BTreeSet<String> = vertices.iter().map(|vertex| vertex.platform.to_string()).collect();
    let linked: BTreeSet<usize> = vertices
        .iter()
        .filter(|vertex| vertex.op == Op::Merge)
        .filter_map(|vertex| vertex.inputs.get(1))
        .map(|input| input.0 as usize)
        .filter(|input| matches!(vertices[*input].op, Op::Copy(_)))
        .collect();
    let is_result = |index: usize| plan.images.iter().any(|image| image.result.0 as usize == index);
    let mut picture = Picture::default();
    let mut places = vec![None; vertices.len()];
    for (index, vertex) in vertices.iter().enumerate() {
        let is_nothing = vertex.op == Op::Scratch && !is_result(index);
        if is_nothing || linked.contains(&index) && !is_result(index) {
            continue;
        }
        let mut uses = uses(vertex);
        uses.retain(|(from, _)| vertices[*from].op != Op::Scratch);
        let mut shown = vertex;
        if let (Op::Merge, Some(copy)) = (&vertex.op, vertex.inputs.get(1).map(|input| input.0 as usize))
            && linked.contains(&copy)
        {
            shown = &vertices[copy];
            uses.retain(|(from, _)| *from != copy);
            uses.extend(self::uses(shown).into_iter().filter(|(_, what)| *what == Use::Files));
        }
        let kind = kind(&shown.op);
        let is_source = matches!(kind, graph::Kind::Image | graph::Kind::Context);
        // What kiln does by itself, to give a context to a mount for instance, is no step of the file.
        if let ([(from, _)], true, false) = (&uses[..], vertex.stage.is_empty(), is_source)
            && places[*from].is_some()
            && !is_result(index)
        {
            places[index] = places[*from];
            continue;
        }
        let group = match platforms.len() {
            _ if is_source || vertex.stage.is_empty() => None,
            1 => Some(vertex.stage.clone()),
            _ => Some(format!("{} {}", vertex.stage, vertex.platform)),
        };
        let to = picture.nodes.len();
        places[index] = Some(to);
        picture.nodes.push(Node { kind, label: label(shown), note: None, group });
        let edges = uses.into_iter().filter_map(|(from, what)| Some((places.get(from).copied()??, what)));
        picture.edges.extend(edges.map(|(from, what)| Edge { from, to, what }).collect::<Vec<_>>());
    }
    for image in &plan.images {
        let Some(from) = places[image.result.0 as usize] else { continue };
        let label = format!("image {}", image.platform);
        let to = picture.nodes.len();
        picture.nodes.push(Node { kind: graph::Kind::Result, label, note: None, group: None });
        picture.edges.push(Edge { from, to, what: Use::Base });
    }
    picture
}

/// What a vertex says, without the stage and number that the picture tells in its own way.
fn label(vertex: &Vertex) -> String {
    match &vertex.op {
        Op::Scratch => return "scratch".to_owned(),
        Op::Image(spec) => {
            if let Some(image) = &spec.image {
                return short(&image.name);
            }
        }
        Op::Local(local) if local.context.is_empty() => return "build context".to_owned(),
        Op::Local(local) => return format!("context {}", local.context),
        Op::Http(http) => return crate::plan::without_credentials(&http.url),
        Op::Git(git) => return crate::plan::without_credentials(&git.reference),
        Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) | Op::Merge => {}
    }
    let name = vertex.name.as_str();
    match name.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, label)) => label.to_owned(),
        None => name.to_owned(),
    }
}

/// An image's name without what goes without saying, and with the beginning of its digest.
fn short(name: &str) -> String {
    /// As much as tells digests apart.
    const DIGITS: usize = 12;
    let name = familiar(name);
    match name.split_once("@sha256:") {
        Some((name, hex)) => format!("{name}@{}", hex.get(..DIGITS).unwrap_or(hex)),
        None => name,
    }
}

fn kind(op: &Op) -> graph::Kind {
    match op {
        Op::Scratch | Op::Image(_) => graph::Kind::Image,
        Op::Local(_) | Op::Http(_) | Op::Git(_) => graph::Kind::Context,
        Op::Run(_) => graph::Kind::Run,
        Op::Copy(_) => graph::Kind::Copy,
        Op::Mkdir(_) | Op::Merge => graph::Kind::Other,
    }
}

/// What a vertex needs, each other vertex once.
fn uses(vertex: &Vertex) -> Vec<(usize, Use)> {
    let mut uses: BTreeMap<usize, Use> = BTreeMap::new();
    for (place, input) in vertex.inputs.iter().enumerate() {
        let what = if place == 0 { Use::Base } else { Use::Files };
        let known = uses.entry(input.0 as usize).or_insert(what);
        *known = (*known).min(what);
    }
    uses.into_iter().collect()
}

fn as_json(plan: &Plan, lines: &LineIndex) -> serde_json::Value {
    let vertices = plan.graph.vertices.iter().enumerate().map(|(id, vertex)| {
        let inputs = uses(vertex).into_iter().map(|(from, what)| {
            let what = if what == Use::Base { "base" } else { "files" };
            json!({ "vertex": from, "use": what })
        });
        let mut object = json!({
            "id": id,
            "name": vertex.name,
            "label": label(vertex),
            "kind": kind(&vertex.op).name(),
            "platform": vertex.platform.to_string(),
            "inputs": inputs.collect::<Vec<_>>(),
        });
        if !vertex.stage.is_empty() {
            object["stage"] = json!(vertex.stage);
        }
        if let Some(origin) = &vertex.origin {
            object["line"] = json!(lines.line(origin.span.start));
        }
        object
    });
    let results = plan
        .images
        .iter()
        .map(|image| json!({ "platform": image.platform.to_string(), "vertex": image.result.0 }));
    json!({
        "version": 1,
        "vertices": vertices.collect::<Vec<_>>(),
        "results": results.collect::<Vec<_>>(),
    })
}
