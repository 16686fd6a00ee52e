//! A table of all steps: how each ended, how long it took, and why it ran.

use std::fmt::Write as _;

use super::picture::kind;
use super::{escaped, outcome, seconds};
use crate::record::{BuildRecord, StepOutcome, StepRecord};
use crate::ui::graph::Kind;

/// Appends the table.
pub(super) fn render(html: &mut String, record: &BuildRecord) {
    html.push_str(
        "<div class=\"scroll\"><table>\n<thead><tr><th>#</th><th>step</th><th>outcome</th><th class=\"number\">time</th>\
         <th>why it ran</th></tr></thead>\n<tbody>\n",
    );
    for step in &record.steps {
        let (class, word) = match step.outcome {
            // It has no result of its own: steps that copy from it read it.
            StepOutcome::Covered if kind(step) == Kind::Context => ("idle", "read"),
            other => outcome(other),
        };
        let name = escaped(&step.name);
        let name =
            if step.log_bytes > 0 { format!("<a href=\"#log-{}\">{name}</a>", step.number) } else { name };
        let time = if step.took_ms > 0 || step.outcome == StepOutcome::Ran {
            seconds(step.took_ms)
        } else {
            String::new()
        };
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td class=\"name\">{name}</td><td><span class=\"badge {class}\">{word}</span></td>\
             <td class=\"number\">{time}</td><td>{}</td></tr>",
            step.number,
            escaped(&why(step))
        );
    }
    html.push_str("</tbody></table></div>\n");
}

fn why(step: &StepRecord) -> String {
    let mut why = step.miss.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut add = |text: &str| {
        if !why.is_empty() {
            why.push_str("; ");
        }
        why.push_str(text);
    };
    if step.cut {
        add("gave what it gave before");
    }
    if step.by_content {
        add("an input ran again and gave what it gave before");
    }
    if let Some(error) = &step.error {
        add(error);
    }
    why
}
