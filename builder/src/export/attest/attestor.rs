//! What is said of what a build made: which statements, about which of its outputs.
//!
//! Invariants: with an epoch, equal builds get equal statements: both times are the epoch then, and the number of the
//! build is left out.

use jiff::Timestamp;
use serde_json::Value;

use super::options::{Attestations, Mode, ProvenanceOptions};
use super::provenance::{self, Found, Invocation, RemoteContext};
use super::sbom::{self, About};
use super::statement::{Statement, Subject, image_subjects};
use super::walk::{self, WalkError};
use crate::base::events::EventSink;
use crate::export::assemble::{BuiltImage, timestamp};
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
    /// The archive that the main context was unpacked from.
    pub remote: Option<&'a RemoteContext>,
    /// What was found outside.
    pub found: &'a Found,
    /// Number of the build.
    pub id: Option<String>,
    /// When it began, in seconds since 1970.
    pub started: i64,
    /// When its steps had ended.
    pub finished: i64,
    /// Hears of what could not be read.
    pub events: EventSink,
}

impl Attestor<'_> {
    /// What is said of an image; `view` shows its files.
    ///
    /// # Errors
    /// When the files cannot be shown.
    pub fn of_image<E>(
        &self,
        planned: &PlannedImage,
        image: &BuiltImage,
        names: &[Reference],
        output: &OutputSpec,
        view: impl FnOnce() -> Result<RootDir, E>,
    ) -> Result<Vec<Statement>, E> {
        // `docker load` has no place for more than the image.
        if output.kind == OutputKind::Docker {
            return Ok(Vec::new());
        }
        let subjects = || image_subjects(names, &planned.platform, &image.descriptor.digest);
        let mut statements = Vec::new();
        if let Some(options) = &self.attestations.provenance {
            statements.push(self.provenance(planned, options, output, subjects()));
        }
        if self.attestations.sbom {
            // The image's own time, so that a build whose steps are all cached says the same again.
            let created = image.created.as_ref().and_then(|created| created.parse::<Timestamp>().ok());
            let about = About {
                name: names.first().map_or_else(|| "image".to_owned(), Reference::familiar),
                version: image.descriptor.digest.to_string(),
                created: timestamp(created.map_or(self.finished, Timestamp::as_second)),
            };
            statements.push(self.sbom(&view()?, &about, subjects()));
        }
        Ok(statements)
    }

    fn sbom(&self, root: &RootDir, about: &About, subjects: Vec<Subject>) -> Statement {
        let inventory = sbom::scan(root);
        if let Some(first) = inventory.left_out.first() {
            let more = match inventory.left_out.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            self.events.warn(format!("the list of packages is not complete: {first}{more}"));
        }
        Statement::new(sbom::SPDX, subjects, sbom::document(&inventory, about))
    }

    /// What is said of files: names and bytes of the files that are written beside them.
    pub fn of_files(
        &self,
        planned: &PlannedImage,
        root: &RootDir,
        output: &OutputSpec,
    ) -> Result<Vec<(String, Vec<u8>)>, WalkError> {
        let provenance = self.attestations.provenance.as_ref().filter(|options| !options.inline_only);
        if provenance.is_none() && !self.attestations.sbom {
            return Ok(Vec::new());
        }
        let subjects = walk::subjects(root)?;
        let name = |own: &str| format!("{}{own}", output.attestation_prefix);
        let mut files = Vec::new();
        if let Some(options) = provenance {
            let statement = self.provenance(planned, options, output, subjects.clone());
            files.push((name(&options.file_name), statement.to_file()));
        }
        if self.attestations.sbom {
            let about = About {
                name: "files".to_owned(),
                version: String::new(),
                created: timestamp(output.epoch(self.plan.source_date_epoch).unwrap_or(self.finished)),
            };
            files.push((name("sbom.spdx.json"), self.sbom(root, &about, subjects).to_file()));
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
            remote: self.remote,
            found: self.found,
            id: self.id.clone().filter(|_| epoch.is_none()),
            started: epoch.unwrap_or(self.started),
            finished: epoch.unwrap_or(self.finished),
        }
    }
}
