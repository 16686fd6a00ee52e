//! Named contexts and images: what a name outside the file means, and reading image configs.
//!
//! Invariants:
//! - a named context wins over an image of that name; `scratch` and `context` cannot be replaced (fact 110);
//! - every image is asked for once for each platform, whichever stages and platforms of the build use it;
//! - requests that are known beforehand run in parallel.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::image::platform::Platform;
use crate::image::reference::Reference;

use super::graph::{ContextKind, ImageRequest, ImageResolver, PlanOptions, ResolveError, ResolvedImage};
use super::policy::{self, Policy};

/// Most requests that are under way at once.
const MAX_PARALLEL: usize = 8;

type Answer = Result<Arc<ResolvedImage>, ResolveError>;

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// `scratch`, or a context that says so.
    Scratch,
    /// An image.
    Image(ImageRequest),
    /// A named context that is a tree of files: its name and kind.
    Files(String, ContextKind),
}

/// Looks names up.
pub(super) struct Sources<'a> {
    resolver: &'a dyn ImageResolver,
    policies: &'a [Policy],
    /// Normalised name, with `::platform` where it was given, to the name as written and its kind.
    contexts: BTreeMap<String, (String, ContextKind)>,
    /// Guards the answers; never held during a request.
    answers: Mutex<HashMap<(String, Platform), Answer>>,
}

impl<'a> Sources<'a> {
    /// Takes the named contexts of a build.
    pub(super) fn new(options: &'a PlanOptions, resolver: &'a dyn ImageResolver) -> Self {
        let contexts = options
            .contexts
            .iter()
            .map(|(name, kind)| (normalise_key(name), (name.clone(), kind.clone())))
            .collect();
        Self { resolver, policies: &options.policies, contexts, answers: Mutex::default() }
    }

    /// The named context of this name, one for the platform first.
    pub(super) fn named_context(&self, name: &str, platform: &Platform) -> Option<(&str, &ContextKind)> {
        if ["scratch", "context"].iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            return None;
        }
        let name = normalise_name(name);
        let (written, kind) =
            self.contexts.get(&format!("{name}::{platform}")).or_else(|| self.contexts.get(&name))?;
        Some((written, kind))
    }

    /// What a name that is no stage means.
    pub(super) fn meaning(&self, name: &str, platform: &Platform) -> Meaning {
        let image =
            |name: &str| Meaning::Image(ImageRequest { name: name.to_owned(), platform: platform.clone() });
        match self.named_context(name, platform) {
            None if name == "scratch" => Meaning::Scratch,
            None => image(name),
            Some((_, ContextKind::Image(reference))) if reference == "scratch" => Meaning::Scratch,
            Some((_, ContextKind::None)) => Meaning::Scratch,
            Some((_, ContextKind::Image(reference))) => image(reference),
            Some((_, ContextKind::Layout(layout))) => image(&layout_name(layout)),
            Some((written, kind)) => Meaning::Files(written.to_owned(), kind.clone()),
        }
    }

    /// Asks for several images at once. Failures are kept and told to whoever wants the image.
    pub(super) fn prefetch(&self, mut requests: Vec<ImageRequest>) {
        requests.sort_by(|a, b| (&a.name, &a.platform).cmp(&(&b.name, &b.platform)));
        requests.dedup();
        requests.retain(|request| self.known(request).is_none());
        for batch in requests.chunks(MAX_PARALLEL) {
            std::thread::scope(|scope| {
                for request in batch {
                    scope.spawn(|| drop(self.resolve(request)));
                }
            });
        }
    }

    /// Reads an image's manifest and config, or takes them from an earlier request.
    pub(super) fn resolve(&self, request: &ImageRequest) -> Answer {
        if let Some(answer) = self.known(request) {
            return answer;
        }
        let answer = self.allowed(request).and_then(|request| self.resolver.resolve(&request));
        let key = (request.name.clone(), request.platform.clone());
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(key, answer.clone());
        answer
    }

    /// What the source policies make of a request.
    fn allowed(&self, request: &ImageRequest) -> Result<ImageRequest, ResolveError> {
        let full = request.name.parse::<Reference>().map_or_else(|_| request.name.clone(), |r| r.to_string());
        let name = policy::image(self.policies, &request.name, &full)
            .map_err(|refused| ResolveError { message: refused.to_string(), hint: None })?;
        Ok(ImageRequest { name, platform: request.platform.clone() })
    }

    fn known(&self, request: &ImageRequest) -> Option<Answer> {
        let key = (request.name.clone(), request.platform.clone());
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }
}

/// The name under which a layout is asked for.
pub(super) fn layout_name(layout: &str) -> String {
    if layout.starts_with("oci-layout://") { layout.to_owned() } else { format!("oci-layout://{layout}") }
}

/// `alpine`, `alpine:latest` and `docker.io/library/alpine` are one name.
fn normalise_name(name: &str) -> String {
    match name.parse::<Reference>() {
        Ok(reference) => {
            let familiar = reference.familiar();
            familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned()
        }
        Err(_) => name.to_lowercase(),
    }
}

fn normalise_key(key: &str) -> String {
    match key.rsplit_once("::") {
        Some((name, platform)) => {
            let platform =
                platform.parse::<Platform>().map_or_else(|_| platform.to_owned(), |p| p.to_string());
            format!("{}::{platform}", normalise_name(name))
        }
        None => normalise_name(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoImages;

    impl ImageResolver for NoImages {
        fn resolve(&self, request: &ImageRequest) -> Answer {
            Err(ResolveError { message: request.name.clone(), hint: None })
        }
    }

    #[test]
    fn contexts_are_found_by_any_spelling_and_platform() {
        let contexts = [
            ("alpine:latest".to_owned(), ContextKind::Image("me/alpine:1".into())),
            ("base::linux/arm64".to_owned(), ContextKind::Local),
            ("base".to_owned(), ContextKind::Layout("dir@sha256:1".into())),
            ("empty".to_owned(), ContextKind::Image("scratch".into())),
            ("scratch".to_owned(), ContextKind::Local),
        ];
        let options = PlanOptions { contexts: contexts.into(), ..PlanOptions::default() };
        let sources = Sources::new(&options, &NoImages);
        let amd64 = Platform::new("linux", "amd64", "");
        let arm64 = Platform::new("linux", "arm64", "");
        let image =
            |name: &str| Meaning::Image(ImageRequest { name: name.to_owned(), platform: amd64.clone() });
        assert_eq!(sources.meaning("docker.io/library/alpine", &amd64), image("me/alpine:1"));
        assert_eq!(sources.meaning("alpine:3", &amd64), image("alpine:3"));
        assert_eq!(sources.meaning("base", &amd64), image("oci-layout://dir@sha256:1"));
        let files = Meaning::Files("base::linux/arm64".to_owned(), ContextKind::Local);
        assert_eq!(sources.meaning("base", &arm64), files);
        assert_eq!(sources.meaning("empty", &amd64), Meaning::Scratch);
        assert_eq!(sources.meaning("scratch", &amd64), Meaning::Scratch);
    }

    #[test]
    fn an_image_is_asked_for_once() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        struct Counting(AtomicUsize);
        impl ImageResolver for Counting {
            fn resolve(&self, request: &ImageRequest) -> Answer {
                self.0.fetch_add(1, Ordering::SeqCst);
                Err(ResolveError { message: request.name.clone(), hint: None })
            }
        }
        let counting = Counting(AtomicUsize::new(0));
        let options = PlanOptions::default();
        let sources = Sources::new(&options, &counting);
        let request = |name: &str| ImageRequest {
            name: name.to_owned(),
            platform: Platform::new("linux", "amd64", ""),
        };
        sources.prefetch(vec![request("a"), request("b"), request("a")]);
        assert!(sources.resolve(&request("a")).is_err());
        assert_eq!(counting.0.load(Ordering::SeqCst), 2);
    }
}
