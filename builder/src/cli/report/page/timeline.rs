//! One row for each step that ran, from its start to its end, as `cargo build --timings` draws it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::picture::kind;
use super::{escaped, note, seconds};
use crate::record::{BuildRecord, StepOutcome, StepRecord};

/// Ticks of the axis.
const TICKS: u64 = 5;
/// A bar is never thinner than this, or it could not be seen.
const MIN_WIDTH_PERCENT: f64 = 0.3;

/// Appends the timeline.
pub(super) fn render(html: &mut String, record: &BuildRecord) {
    let mut shown: Vec<&StepRecord> = record.steps.iter().filter(|step| was_executed(step)).collect();
    // What is no vertex (the export) happens in any case.
    if shown.iter().all(|step| step.key.is_none()) {
        return note(html, "No step ran: everything was stored.");
    }
    shown.sort_by_key(|step| (step.started_ms, step.number));
    let end = shown.iter().map(|step| ended_ms(step)).max().unwrap_or(0).max(record.head.took_ms).max(1);
    let critical = critical(record);
    html.push_str("<div class=\"timeline\">\n<div class=\"row axis\"><span></span><div class=\"track\">");
    for tick in 0..=TICKS {
        let at = end * tick / TICKS;
        let _ = write!(html, "<i style=\"left:{:.2}%\">{}</i>", percent(at, end), seconds(at));
    }
    html.push_str("</div></div>\n");
    for step in shown {
        let start = step.started_ms.unwrap_or(0);
        let (left, width) = (percent(start, end), percent(step.took_ms, end).max(MIN_WIDTH_PERCENT));
        let class = match step.outcome {
            StepOutcome::Failed => "failed",
            StepOutcome::Cancelled => "cancelled",
            _ => kind(step).name(),
        };
        let mark = if critical.contains(&step.number) { " critical" } else { "" };
        let inputs = step.inputs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let name = escaped(&step.name);
        let _ = writeln!(
            html,
            "<div class=\"row{mark}\" data-step=\"{}\" data-inputs=\"{inputs}\"><span title=\"{name}\">{name}</span>\
             <div class=\"track\"><b class=\"bar {class}\" style=\"left:{left:.2}%;width:{width:.2}%\"></b>\
             <em style=\"{}\">{}</em></div></div>",
            step.number,
            // The time stands behind its bar, or before it where there is no room.
            if left + width < 85.0 {
                format!("left:{:.2}%", left + width)
            } else {
                format!("right:{:.2}%", 100.0 - left)
            },
            seconds(step.took_ms)
        );
    }
    html.push_str("</div>\n");
    let stored = record.head.totals.cached;
    let mut told = "Bold: the chain of steps that the end waited for.".to_owned();
    if stored > 0 {
        let _ = write!(told, " {stored} cached steps are not shown.");
    }
    note(html, &told);
}

fn was_executed(step: &StepRecord) -> bool {
    step.started_ms.is_some()
        && matches!(step.outcome, StepOutcome::Ran | StepOutcome::Failed | StepOutcome::Cancelled)
}

fn ended_ms(step: &StepRecord) -> u64 {
    step.started_ms.unwrap_or(0).saturating_add(step.took_ms)
}

/// From the step that ended last, always the input that ended last.
fn critical(record: &BuildRecord) -> BTreeSet<u32> {
    let executed = |step: &&StepRecord| was_executed(step);
    let mut chain = BTreeSet::new();
    // What is no vertex (the export) comes after all others and waits for each.
    let vertices = record.steps.iter().filter(executed).filter(|step| step.key.is_some());
    let mut next = vertices.max_by_key(|step| ended_ms(step));
    while let Some(step) = next {
        if !chain.insert(step.number) {
            break;
        }
        let inputs = step.inputs.iter().filter_map(|number| record.step(*number));
        next = inputs.filter(executed).max_by_key(|step| ended_ms(step));
    }
    chain.extend(
        record.steps.iter().filter(executed).filter(|step| step.key.is_none()).map(|step| step.number),
    );
    chain
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}
