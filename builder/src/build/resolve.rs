//! Images by name: kiln's own, OCI layouts, registries.
//!
//! Invariants: manifest and config of what was resolved are blobs of the store, verified; layers are fetched only
//! when a step needs them.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::Environment;
use crate::base::cancel::CancelToken;
use crate::base::causes::one_line as explain;
use crate::base::digest::Digest;
use crate::base::events::{Event, EventSink};
use crate::base::limits::MAX_METADATA_BYTES;
use crate::context::layout::{self, Layout, LayoutError, LayoutRef};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Index, Manifest};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::layer::blob::VerifiedReader;
use crate::ops::{LayerFetcher, OpError};
use crate::plan::graph::{
    BlobLocation, ImageLayer, ImageRequest, ImageResolver, ResolveError, ResolvedImage,
};
use crate::store::{IncomingBlob, StoreError};

/// When a registry is asked for a base image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Every time.
    Always,
    /// When the name was never resolved here.
    #[default]
    Missing,
    /// Never.
    Never,
    /// Every time, and what is here is taken when it cannot be had.
    Newer,
}

/// What the store has of a name: the image for a platform, or the one for another.
type Here = (Option<Arc<ResolvedImage>>, Option<Arc<ResolvedImage>>);

/// Finds images and brings their layers.
pub struct Resolver<'a> {
    environment: Environment<'a>,
    pull: PullPolicy,
    cancel: CancelToken,
    events: EventSink,
    /// Layouts by path, opened once.
    layouts: Mutex<Vec<Arc<Layout>>>,
}

impl<'a> Resolver<'a> {
    /// A resolver for one build.
    pub fn new(environment: Environment<'a>, pull: PullPolicy, cancel: CancelToken) -> Self {
        Self { environment, pull, cancel, events: EventSink::none(), layouts: Mutex::default() }
    }

    /// Tells when a registry is asked.
    pub fn reporting(self, events: &EventSink) -> Self {
        Self { events: events.clone(), ..self }
    }

    fn layout(&self, reference: &LayoutRef) -> Result<(usize, Arc<Layout>), LayoutError> {
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = layouts.iter().position(|layout| layout.path() == reference.path) {
            return Ok((number, layouts[number].clone()));
        }
        let layout = Arc::new(Layout::open(&reference.path)?);
        layouts.push(layout.clone());
        Ok((layouts.len() - 1, layout))
    }

    fn in_layout(&self, text: &str, platform: &Platform) -> Result<ResolvedImage, ResolveError> {
        let reference = LayoutRef::parse(text);
        let find = || -> Result<ResolvedImage, Box<dyn std::error::Error + Send + Sync>> {
            let (number, layout) = self.layout(&reference)?;
            let found = layout.find(&reference, platform)?;
            let config = layout.blob_bytes(&found.manifest.config.digest)?;
            self.environment.store.put_blob(&config)?;
            let location = BlobLocation::Layout(number);
            Ok(assemble(text, found.descriptor.digest, &found.manifest, &config, location)?)
        };
        find().map_err(|error| ResolveError {
            message: explain(&*error),
            hint: Some(match error.downcast_ref::<LayoutError>() {
                Some(LayoutError::NotALayout { path, missing: "oci-layout" }) if path.is_file() => format!(
                    "an archive of `docker save` or `podman save` comes into the store with `kiln copy docker-archive:{} \
                     NAME`; name it as docker-image://NAME then",
                    path.display()
                ),
                _ => "write oci-layout://DIR, oci-layout://DIR:TAG or oci-layout://DIR@DIGEST".to_owned(),
            }),
        })
    }

    /// An image whose manifest or index is in the store; `None` when it has no such platform.
    ///
    /// # Errors
    /// When a document of it is damaged or gone.
    fn in_store(
        &self,
        name: &str,
        digest: &Digest,
        platform: &Platform,
        location: &BlobLocation,
    ) -> Result<Option<ResolvedImage>, Damage> {
        let document = |what, digest: &Digest| {
            let damaged = |error: StoreError| Damage { what, digest: *digest, reason: reason(&error) };
            self.environment.store.read_blob(digest, MAX_METADATA_BYTES).map_err(damaged)
        };
        let malformed = |what, digest: &Digest, reason: String| Damage { what, digest: *digest, reason };
        let mut digest = *digest;
        let mut bytes = document("manifest", &digest)?;
        if layout::is_index(&Descriptor::new("", digest, 0), &bytes) {
            let index: Index = serde_json::from_slice(&bytes)
                .map_err(|error| malformed("index", &digest, format!("malformed: {error}")))?;
            let Some(chosen) = index.choose(platform) else { return Ok(None) };
            digest = chosen.digest;
            bytes = document("manifest", &digest)?;
        }
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| malformed("manifest", &digest, format!("malformed: {error}")))?;
        let config = document("config", &manifest.config.digest)?;
        let image = assemble(name, digest, &manifest, &config, location.clone());
        image.map(Some).map_err(|reason| malformed("manifest", &digest, format!("malformed ({reason})")))
    }

    /// Images of registries that have a blob, as far as they were used here and may be asked.
    fn bases_with(&self, blob: &Digest) -> Result<Vec<Reference>, StoreError> {
        if self.pull == PullPolicy::Never {
            return Ok(Vec::new());
        }
        let store = self.environment.store;
        let bases: BTreeSet<String> =
            store.database().all_resolved()?.into_iter().map(|(name, _)| name).collect();
        let holders = store.holders()?.into_iter();
        let having = holders.filter(|(name, blobs)| blobs.contains(blob) && bases.contains(name));
        Ok(having.filter_map(|(name, _)| name.parse().ok()).collect())
    }

    /// The image of a name as the store has it: for this platform, and else for another one.
    fn here(&self, reference: &Reference, platform: &Platform) -> Result<Here, ResolveError> {
        let database = self.environment.store.database();
        let name = reference.to_string();
        let fail = |e: StoreError| ResolveError { message: explain(&e), hint: None };
        let mut for_another = None;
        let own = database.images().map_err(fail)?;
        // Damage is told: an image of this name from elsewhere may be another one.
        if let Some(image) = own.iter().find(|image| image.name == name)
            && let Some(found) = self
                .in_store(&name, &image.digest, platform, &BlobLocation::Store)
                .map_err(|damage| damage.of_image(reference))?
        {
            if is_for(&found.config, platform) {
                return Ok((Some(Arc::new(found)), None));
            }
            // It may have been pulled for another platform; its registry may have this one.
            for_another = Some(Arc::new(found));
        }
        let known = database.resolved(&name, &platform.to_string()).map_err(fail)?;
        let location = BlobLocation::Registry(reference.clone());
        // What is damaged of a registry's image is fetched again.
        let found = match known.map(|digest| self.in_store(&name, &digest, platform, &location)) {
            Some(Ok(Some(found))) => Some(Arc::new(found)),
            _ => None,
        };
        Ok((found, for_another))
    }

    fn in_registry(&self, reference: &Reference, platform: &Platform) -> Result<ResolvedImage, ResolveError> {
        let Environment { store, registry, .. } = self.environment;
        let name = reference.to_string();
        let from_registry = |error: &crate::registry::RegistryError| ResolveError {
            message: format!("cannot find the image `{}`: {}", reference.familiar(), explain(error)),
            hint: error.hint(),
        };
        let from_store = |error: &(dyn std::error::Error + 'static)| ResolveError {
            message: format!("cannot keep what `{name}` is: {}", explain(error)),
            hint: None,
        };
        let resolved = registry.resolve(reference, platform).map_err(|e| from_registry(&e))?;
        let wanted = &resolved.manifest.config;
        let config = store
            .read_blob(&wanted.digest, MAX_METADATA_BYTES)
            .or_else(|_| registry.blob_bytes(reference, wanted))
            .map_err(|e| from_registry(&e))?;
        store.put_blob(&resolved.bytes).map_err(|e| from_store(&e))?;
        store.put_blob(&config).map_err(|e| from_store(&e))?;
        let location = BlobLocation::Registry(reference.clone());
        let image =
            assemble(&name, resolved.digest, &resolved.manifest, &config, location).map_err(|reason| {
                ResolveError { message: format!("the image `{name}` is malformed: {reason}"), hint: None }
            })?;
        store
            .database()
            .set_resolved(&name, &platform.to_string(), &resolved.digest)
            .map_err(|e| from_store(&e))?;
        Ok(image)
    }
}

/// A document of an image in the store that cannot be used.
struct Damage {
    what: &'static str,
    digest: Digest,
    reason: String,
}

impl Damage {
    fn of_image(&self, reference: &Reference) -> ResolveError {
        let Self { what, digest, reason } = self;
        let name = reference.familiar();
        ResolveError {
            message: format!("the image `{name}` of the store is damaged: its {what} {digest} is {reason}"),
            hint: Some(format!(
                "build it again, or take it from its registry with `kiln pull {name}`; `kiln fsck --repair` removes \
                 what is damaged"
            )),
        }
    }
}

/// What is wrong with a blob, after "is".
fn reason(error: &StoreError) -> String {
    match error {
        StoreError::NoBlob { .. } => "gone".to_owned(),
        StoreError::WrongDigest { actual, .. } => format!("damaged (its bytes have the digest {actual})"),
        other => format!("not readable ({})", explain(other)),
    }
}

fn assemble(
    name: &str,
    digest: Digest,
    manifest: &Manifest,
    config: &[u8],
    location: BlobLocation,
) -> Result<ResolvedImage, String> {
    let config = ImageConfig::from_bytes(config).map_err(|e| format!("its config cannot be read: {e}"))?;
    let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if layers != diff_ids {
        return Err(format!("its manifest has {layers} layers, but its config has {diff_ids} diff_ids"));
    }
    let layers = config
        .rootfs
        .diff_ids
        .iter()
        .zip(&manifest.layers)
        .map(|(diff_id, descriptor)| ImageLayer { diff_id: *diff_id, descriptor: descriptor.clone() })
        .collect();
    Ok(ResolvedImage { name: name.to_owned(), digest, config, layers, location })
}

impl ImageResolver for Resolver<'_> {
    fn resolve(&self, request: &ImageRequest) -> Result<Arc<ResolvedImage>, ResolveError> {
        if let Some(text) = request.name.strip_prefix(layout::PREFIX) {
            return self.in_layout(text, &request.platform).map(Arc::new);
        }
        let reference: Reference =
            request.name.parse().map_err(|e: crate::image::reference::ReferenceError| ResolveError {
                message: e.to_string(),
                hint: None,
            })?;
        // A digest means the same bytes for ever, so only names need asking.
        let asks = matches!(self.pull, PullPolicy::Always | PullPolicy::Newer) && reference.digest.is_none();
        let (found, for_another) =
            if asks { (None, None) } else { self.here(&reference, &request.platform)? };
        if let Some(found) = found {
            return Ok(found);
        }
        if let (PullPolicy::Never, Some(found)) = (self.pull, &for_another) {
            return Ok(found.clone());
        }
        if self.pull == PullPolicy::Never {
            return Err(ResolveError {
                message: format!("the image `{}` is not in the store", reference.familiar()),
                hint: Some("--pull=never forbids asking its registry; use --pull=missing".to_owned()),
            });
        }
        if self.cancel.is_cancelled() {
            return Err(ResolveError { message: "cancelled".to_owned(), hint: None });
        }
        self.events.send(Event::LookingUp { image: Some(reference.familiar()) });
        let resolved = self.in_registry(&reference, &request.platform).map(Arc::new);
        self.events.send(Event::LookingUp { image: None });
        resolved.or_else(|error| {
            if asks && self.pull == PullPolicy::Newer && !self.cancel.is_cancelled() {
                let (found, for_another) = self.here(&reference, &request.platform)?;
                let found = found.or(for_another).ok_or_else(|| error.clone())?;
                self.events.warn(format!("the image of the store is taken: {}", error.message));
                return Ok(found);
            }
            // The plan has a finding about platforms that do not fit.
            for_another.ok_or(error)
        })
    }
}

fn is_for(config: &ImageConfig, platform: &Platform) -> bool {
    let own = Platform::new(&config.os, &config.architecture, &config.variant);
    config.architecture.is_empty() || platform.distance(&own).is_some()
}

impl LayerFetcher for Resolver<'_> {
    fn fetch(
        &self,
        image: &ResolvedImage,
        layer: &ImageLayer,
        incoming: &IncomingBlob,
        progress: &dyn Fn(u64),
        cancel: &CancelToken,
    ) -> Result<(), OpError> {
        let descriptor = &layer.descriptor;
        let missing = || OpError::NoLayer { digest: descriptor.digest, image: image.name.clone() };
        let mut writer = incoming.writer()?;
        match &image.location {
            BlobLocation::Registry(reference) => {
                let registry = self.environment.registry.stopped_by(cancel);
                registry.blob(reference, descriptor, &mut writer, progress)?;
            }
            BlobLocation::Layout(number) => {
                let layout = {
                    let layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
                    layouts.get(*number).cloned().ok_or_else(missing)?
                };
                let blob = layout.blob(&descriptor.digest).map_err(|_| missing())?;
                let mut verified = VerifiedReader::new(blob, descriptor.digest, Some(descriptor.size));
                io::copy(&mut verified, &mut writer).map_err(|source| OpError::Io {
                    action: format!("read layer {} of `{}`", descriptor.digest, image.name),
                    source,
                })?;
            }
            BlobLocation::Store => {
                let registry = self.environment.registry.stopped_by(cancel);
                // A layer of a base that was pulled once is where that was.
                let found = self.bases_with(&descriptor.digest)?.into_iter().any(|reference| {
                    let Ok(fresh) = incoming.writer() else { return false };
                    writer = fresh;
                    registry.blob(&reference, descriptor, &mut writer, progress).is_ok()
                });
                if !found {
                    return Err(missing());
                }
            }
        }
        let (buffer, digest, _) = writer.finish();
        buffer.into_inner().map_err(|e| OpError::Io {
            action: format!("store layer {}", descriptor.digest),
            source: e.into_error(),
        })?;
        if digest != descriptor.digest {
            return Err(StoreError::WrongDigest { expected: descriptor.digest, actual: digest }.into());
        }
        Ok(())
    }
}
