//! MaintainerDeprecated and LegacyKeyValueFormat.
//!
//! Invariants: MAINTAINER is found in every stage, since BuildKit sees it when it parses.

use super::super::model::File;
use super::super::report::Report;
use crate::ast::{KeyValue, Kind};

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for (_, step) in file.written() {
        if let Kind::Maintainer(name) = &step.instruction.kind {
            let message = "Maintainer instruction is deprecated in favor of using label";
            let hint = format!("write `LABEL org.opencontainers.image.authors={:?}`", name.value);
            report.add("MaintainerDeprecated", step.site(file), message, &hint);
        }
    }
    for (_, step) in file.reached() {
        let (Kind::Env(pairs) | Kind::Label(pairs)) = &step.instruction.kind else { continue };
        for pair in pairs.iter().filter(|pair| pair.legacy) {
            let name = step.keyword();
            let message =
                format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
            report.add("LegacyKeyValueFormat", step.site(file), message, &modern(name, pair));
        }
    }
}

fn modern(keyword: &str, pair: &KeyValue) -> String {
    let value = &pair.value.value;
    let quoted = value.starts_with(['"', '\'']) || !value.contains(|c: char| c.is_whitespace() || c == '"');
    match quoted {
        true => format!("write `{keyword} {}={value}`", pair.key.value),
        false => format!("write `{keyword} {}=\"...\"`, the value in quotes", pair.key.value),
    }
}
