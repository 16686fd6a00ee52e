//! DL3000, DL3002, DL3011, DL3044: WORKDIR, USER, EXPOSE, ENV.
//!
//! Invariants: DL3002 looks only at stages that the image is made from.

use super::super::model::{File, Step};
use super::super::report::Report;
use crate::ast::{KeyValue, Kind};
use crate::expand;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for (_, step) in file.written() {
        match &step.instruction.kind {
            Kind::Workdir(word) if is_relative(step.values.first()) => {
                let message = format!("WORKDIR `{}` is relative", word.value);
                report.add("DL3000", step.site_at(file, word.span), message, "write the whole path");
            }
            Kind::Expose(_) => ports(file, step, report),
            Kind::Env(pairs) => siblings(file, step, pairs, report),
            _ => {}
        }
    }
    last_user(file, report);
}

/// A path with a drive is absolute on Windows.
fn is_relative(path: &str) -> bool {
    let drive = path.as_bytes().get(1) == Some(&b':');
    !path.starts_with(['/', '$', '\\']) && !drive
}

fn ports(file: &File<'_>, step: &Step<'_>, report: &mut Report<'_>) {
    for port in step.values.words() {
        let number = port.split('/').next().unwrap_or(port);
        let too_large = |text: &str| text.parse::<u64>().is_ok_and(|number| number > 65_535);
        if number.split(['-', ':']).any(too_large) {
            let message = format!("port `{port}` is not between 0 and 65535");
            report.add("DL3011", step.site(file), message, "give a port that exists");
        }
    }
}

/// A variable that the same ENV sets has its old value in the others (language.md 1.5).
fn siblings(file: &File<'_>, step: &Step<'_>, pairs: &[KeyValue], report: &mut Report<'_>) {
    let nothing = std::collections::BTreeMap::new();
    for pair in pairs {
        let Ok(expanded) = expand::word(&pair.value.value, file.buildfile.directives.escape, &nothing) else {
            continue;
        };
        let names = expanded.undefined.iter().chain(&expanded.unset);
        for name in names.filter(|name| **name != pair.key.value) {
            if pairs.iter().any(|other| other.key.value == *name) {
                let message = format!("`${name}` is set by this same ENV, and has its old value here");
                let site = step.site_at(file, pair.value.span);
                report.add("DL3044", site, message, "use two ENV instructions, one after the other");
            }
        }
    }
}

fn last_user(file: &File<'_>, report: &mut Report<'_>) {
    let shipped = file.stages.iter().rev().filter(|stage| stage.shipped);
    let users = shipped.flat_map(|stage| stage.steps.iter().rev());
    let Some(step) = users.into_iter().find(|step| matches!(step.instruction.kind, Kind::User(_))) else {
        return;
    };
    let name = step.values.first().split(':').next().unwrap_or("");
    if matches!(name, "root" | "0") && step.trigger_of.is_none() {
        let hint = "end with a USER that is not root, or say at `docker run` that root is meant";
        report.add("DL3002", step.site(file), "the last USER is root", hint);
    }
}
