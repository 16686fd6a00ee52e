//! What is said of what a build made: which statements, about which of its outputs.
//!
//! Invariants: with an epoch, equal builds get equal statements: both times are the epoch then, and the number of the
//! build is left out.

use serde_json::Value;

use super::options::{Attestations, Mode, ProvenanceOptions};
use super::provenance::{self, Found, Invocation};
use super::statement::{Statement, Subject, image_subjects};
use super::walk::{self, WalkError};
use crate::export::assemble::BuiltImage;
use crate::export::spec::{OutputKind, OutputSpec};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::plan::graph::{Plan, PlanOptions, PlannedImage};
use crate::sys::rootdir::RootDir;

/// Says things of the outputs of a build.
#[derive(Debug)]
pub struct Attestor<'a> {
    /// What was asked for.
    pub attestations: &'a Attestations,
    /// What was planned.
    pub plan: &'a Plan,
    /// From which wishes.
    pub options: &'a PlanOptions,
    /// Name of the Buildfile.
    pub file_name: &'a str,
    /// Its text.
    pub text: &'a str,
    /// What was found outside.
    pub found: &'a Found,
    /// Number of the build.
    pub id: Option<String>,
    /// When it began, in seconds since 1970.
    pub started: i64,
    /// When its steps had ended.
    pub finished: i64,
}

impl Attestor<'_> {
    /// What is said of an image.
    pub fn of_image(
        &self,
        planned: &PlannedImage,
        image: &BuiltImage,
        names: &[Reference],
        output: &OutputSpec,
    ) -> Vec<Statement> {
        // `docker load` has no place for more than the image.
        if output.kind == OutputKind::Docker {
            return Vec::new();
        }
        let subjects = || image_subjects(names, &planned.platform, &image.descriptor.digest);
        let mut statements = Vec::new();
        if let Some(options) = &self.attestations.provenance {
            statements.push(self.provenance(planned, options, output, subjects()));
        }
        statements
    }

    /// What is said of files: names and bytes of the files that are written beside them.
    pub fn of_files(
        &self,
        planned: &PlannedImage,
        root: &RootDir,
        output: &OutputSpec,
    ) -> Result<Vec<(String, Vec<u8>)>, WalkError> {
        let provenance = self.attestations.provenance.as_ref().filter(|options| !options.inline_only);
        if provenance.is_none() {
            return Ok(Vec::new());
        }
        let subjects = walk::subjects(root)?;
        let name = |own: &str| format!("{}{own}", output.attestation_prefix);
        let mut files = Vec::new();
        if let Some(options) = provenance {
            let statement = self.provenance(planned, options, output, subjects.clone());
            files.push((name(&options.file_name), statement.to_file()));
        }
        Ok(files)
    }

    /// How each platform's image was made, for a metadata file.
    pub fn for_metadata(&self, mode: Mode) -> Vec<(Platform, Value)> {
        let own = self.attestations.provenance.clone().unwrap_or_default();
        let options = ProvenanceOptions { mode, ..own };
        let invocation = self.invocation(self.plan.source_date_epoch);
        let told = |image: &PlannedImage| {
            (image.platform.clone(), provenance::for_metadata(&invocation, image, &options))
        };
        self.plan.images.iter().map(told).collect()
    }

    fn provenance(
        &self,
        planned: &PlannedImage,
        options: &ProvenanceOptions,
        output: &OutputSpec,
        subjects: Vec<Subject>,
    ) -> Statement {
        let (kind, predicate) = provenance::predicate(
            &self.invocation(output.epoch(self.plan.source_date_epoch)),
            planned,
            options,
        );
        Statement::new(kind, subjects, predicate)
    }

    fn invocation(&self, epoch: Option<i64>) -> Invocation<'_> {
        Invocation {
            graph: &self.plan.graph,
            options: self.options,
            file_name: self.file_name,
            text: self.text,
            found: self.found,
            id: self.id.clone().filter(|_| epoch.is_none()),
            started: epoch.unwrap_or(self.started),
            finished: epoch.unwrap_or(self.finished),
        }
    }
}
