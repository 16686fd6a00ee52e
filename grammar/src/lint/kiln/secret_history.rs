//! SecretInHistory: the values of ARGs are part of each RUN's entry in the history of the image (semantics, `RUN |1`).
//!
//! Invariants: only stages that the image is made from: the history of others is not in it.

use std::collections::BTreeSet;

use super::super::buildkit::secrets::is_secret;
use super::super::model::File;
use super::super::report::Report;
use crate::ast::Kind;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for stage in file.stages.iter().filter(|stage| stage.shipped) {
        let mut secrets = BTreeSet::new();
        for step in &stage.steps {
            match &step.instruction.kind {
                Kind::Arg(pairs) => {
                    let names = pairs.iter().map(|pair| pair.name.value.as_str());
                    secrets.extend(names.filter(|name| is_secret(name)));
                }
                Kind::Run(_) if step.trigger_of.is_none() => {
                    for name in std::mem::take(&mut secrets) {
                        let message = format!(
                            "the value of the build argument `{name}` is readable in the history of the image from here on"
                        );
                        let hint = format!("use `--mount=type=secret,id={name},env={name}` and `--secret`");
                        report.add("SecretInHistory", step.site(file), message, &hint);
                    }
                }
                _ => {}
            }
        }
    }
}
