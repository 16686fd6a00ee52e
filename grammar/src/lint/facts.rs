//! What a check may know beyond the file.
//!
//! Invariants: the default of everything is "not known", and a check that needs it then says nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::ignore::Matcher;

/// Facts from outside the Buildfile.
#[derive(Debug, Clone, Default)]
pub struct Facts<'a> {
    /// Build arguments that were given.
    pub build_args: BTreeMap<String, String>,
    /// Stage that is built; the last one when `None`.
    pub target: Option<String>,
    /// Stages that the target does not need are checked as well, as BuildKit does when it only checks.
    pub all_stages: bool,
    /// The context's ignore file; `None` when there is none or it is not known.
    pub ignore: Option<&'a Matcher>,
    /// Platform of the image, `linux/amd64`; the build platform when `None`.
    pub target_platform: Option<String>,
    /// Platform that the build runs on; `linux/amd64` when `None`.
    pub build_platform: Option<String>,
    /// Names of named contexts, in lower case: they stand for stages and images of those names.
    pub contexts: BTreeSet<String>,
    /// What is known of base images, by the name in FROM after expansion.
    pub base_images: BTreeMap<String, BaseImage>,
    /// Rules that are off by default run as well (`kiln check --all`), unless the configuration skips them.
    pub pedantic: bool,
    /// Only rules of this origin run; `Some(Origin::BuildKit)` in a build.
    pub only: Option<super::Origin>,
}

/// What a base image brings with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseImage {
    /// `KEY=VALUE` pairs.
    pub env: Vec<String>,
    /// `SHELL` of the image; empty when it has none.
    pub shell: Vec<String>,
    /// `USER` of the image; empty when it has none.
    pub user: String,
    /// `ONBUILD` triggers.
    pub triggers: Vec<String>,
}
