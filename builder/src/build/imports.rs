//! The remote caches that a build takes results from.

use std::sync::Arc;

use super::work::cache_step;
use super::{BuildError, Environment, Request, Resolver, output};
use crate::image::reference::Reference;
use crate::ops::{ImportSetup, Imports, OpError};
use crate::plan::graph::{BlobLocation, Op, Plan, ResolvedImage};

/// The remote caches of `--cache-from`.
pub(super) fn open<'a>(
    environment: Environment<'a>,
    request: &Request,
    plan: &Plan,
    resolver: &'a Resolver<'a>,
) -> Result<Option<Imports<'a>>, BuildError> {
    if request.cache_from.is_empty() {
        return Ok(None);
    }
    let setup = ImportSetup {
        store: environment.store,
        caches: request.cache_from.iter().map(|source| source.location.open(environment.registry)).collect(),
        mounts: request.cache_from.iter().map(|source| source.mounts.clone()).collect(),
        fetcher: resolver,
        images: base_images(plan).cloned().collect(),
        epoch: output::cache_epoch(request, plan),
        events: request.events.clone(),
        cancel: request.cancel.clone(),
        step: cache_step(plan),
    };
    Imports::new(setup).map(Some).map_err(import_failed)
}

fn base_images(plan: &Plan) -> impl Iterator<Item = &Arc<ResolvedImage>> {
    plan.graph.vertices.iter().filter_map(|vertex| match &vertex.op {
        Op::Image(spec) => spec.image.as_ref(),
        _ => None,
    })
}

/// Repositories that may have blobs of this build: those of the caches and of the base images.
pub(super) fn beside(plan: &Plan, imports: Option<&Imports<'_>>) -> Vec<Reference> {
    let bases = base_images(plan).filter_map(|image| match &image.location {
        BlobLocation::Registry(reference) => Some(reference.clone()),
        BlobLocation::Layout(_) | BlobLocation::Store => None,
    });
    let mut all: Vec<Reference> =
        imports.map(Imports::repositories).into_iter().flatten().chain(bases).collect();
    all.sort();
    all.dedup();
    all
}

/// Has every record forgotten that promised what cannot be had.
pub(super) fn discredit(imports: &Imports<'_>, error: &BuildError) -> Result<bool, BuildError> {
    let errors = match error {
        BuildError::Several(errors) => &errors[..],
        one => std::slice::from_ref(one),
    };
    let mut any = false;
    for error in errors {
        any |= imports.discredit(error).map_err(import_failed)?;
    }
    Ok(any)
}

/// What went wrong about a cache, for the build.
pub(super) fn import_failed(error: OpError) -> BuildError {
    match error {
        OpError::Cancelled => BuildError::Cancelled,
        error => BuildError::CacheImport(Box::new(error)),
    }
}
