//! ChmodDoublesLayer: a recursive chmod or chown of files that a COPY before it could have set right.
//!
//! Invariants: only paths that can be told from the file; those with variables or patterns are left alone.

use super::super::evaluate::join;
use super::super::model::{File, Values};
use super::super::report::Report;
use super::super::script::Ran;

pub(super) fn check(file: &File<'_>, runs: &[Ran<'_, '_>], report: &mut Report<'_>) {
    for run in runs {
        let changes = run.calls.iter().filter(|call| {
            matches!(call.program(), "chmod" | "chown") && call.has_option(Some('R'), &["recursive"])
        });
        let copied: Vec<String> = run
            .stage
            .steps
            .iter()
            .take(run.position)
            .filter_map(|step| {
                let Values::Copy { destination, .. } = &step.values else { return None };
                Some(join(&step.before.directory, destination))
            })
            .collect();
        for call in changes {
            let doubled =
                call.operands().skip(1).filter(|path| !path.contains(['$', '*', '?'])).find_map(|path| {
                    let path = join(&run.step.before.directory, path);
                    copied.iter().find(|copied| overlaps(copied, &path))
                });
            if let Some(place) = doubled {
                let program = call.program();
                let message = format!("`{program} -R` stores the files copied to `{place}` a second time");
                let hint = format!("write `--{program}=` on the COPY instead");
                report.add("ChmodDoublesLayer", run.step.site(file), message, &hint);
                break;
            }
        }
    }
}

/// One is the other, or lies below it.
fn overlaps(copied: &str, changed: &str) -> bool {
    let below = |inner: &str, outer: &str| {
        outer == "/" || inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'))
    };
    below(copied, changed) || (copied != "/" && below(changed, copied))
}
