//! A build as one HTML page that stands for itself: when steps ran, how they hang together, why they ran, what the layers
//! cost, what the checks say, and what every step wrote.
//!
//! Invariants:
//! - pure; nothing is loaded from anywhere, and the page says so to the browser (Content-Security-Policy);
//! - whatever comes from a build gets into markup through [`escaped`] and nowhere else;
//! - the page is readable without scripts: they only search and highlight.

mod layers;
mod picture;
mod steps;
#[cfg(test)]
mod tests;
mod timeline;

use std::fmt::Write as _;

use crate::build::layers::Costs;
use crate::record::{BuildRecord, BuildResult, StepOutcome};
use crate::ui::graph::svg::{self, escaped};
use crate::ui::size;

const HEAD: &str = include_str!("head.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// What a step wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StepLog {
    /// Of the step.
    pub(super) step: u32,
    /// The end of it.
    pub(super) text: String,
    /// Bytes before that which are left out.
    pub(super) left_out: u64,
}

/// Everything on the page.
#[derive(Debug, Clone)]
pub(super) struct Page<'a> {
    /// The build.
    pub(super) record: &'a BuildRecord,
    /// What was built, for people.
    pub(super) title: String,
    /// When it began, e.g. `2026-11-26T14:31:11Z`.
    pub(super) began: String,
    /// What its image costs, or why that is not known.
    pub(super) costs: Result<Costs, String>,
    /// What the checks say of the Buildfile as it is now, or why that is not known.
    pub(super) findings: Result<String, String>,
    /// In the order of steps.
    pub(super) logs: Vec<StepLog>,
}

/// Writes the page.
pub(super) fn render(page: &Page<'_>) -> String {
    let record = page.record;
    let mut html = String::with_capacity(256 * 1024);
    let _ = write!(
        html,
        "{HEAD}<title>{} – kiln report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        escaped(&page.title)
    );
    header(&mut html, page);
    if let Some(error) = &record.head.error {
        let _ = writeln!(html, "<pre class=\"error\">{}</pre>", lines(error));
    }
    tiles(&mut html, page);
    section(&mut html, "timeline", "When steps ran");
    timeline::render(&mut html, record);
    section(&mut html, "steps", "Steps");
    steps::render(&mut html, record);
    section(&mut html, "graph", "How they hang together");
    let picture = picture::picture(record);
    let _ = writeln!(html, "<div class=\"scroll\">{}</div>", svg::render(&picture, "Graph of the steps"));
    section(&mut html, "layers", "Layers");
    match &page.costs {
        Ok(costs) => layers::render(&mut html, costs),
        Err(why) => note(&mut html, why),
    }
    section(&mut html, "checks", "Checks");
    match &page.findings {
        Ok(text) if text.trim().is_empty() => {
            note(&mut html, "The checks have nothing to say of the Buildfile.")
        }
        Ok(text) => {
            let _ = writeln!(html, "<pre class=\"findings\">{}</pre>", lines(text));
        }
        Err(why) => note(&mut html, why),
    }
    section(&mut html, "logs", "What steps wrote");
    logs(&mut html, page);
    let _ = write!(html, "</section>\n</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n");
    html
}

fn header(html: &mut String, page: &Page<'_>) {
    let head = &page.record.head;
    let (class, result) = match head.result {
        BuildResult::Succeeded => ("ok", "succeeded"),
        BuildResult::Failed => ("bad", "failed"),
        BuildResult::Stopped => ("bad", "stopped"),
        BuildResult::Unfinished => ("bad", "not finished"),
    };
    let _ = write!(
        html,
        "<header>\n<h1>{} <span class=\"badge {class}\">{result}</span></h1>\n<dl>",
        escaped(&page.title)
    );
    let mut about = vec![
        ("build", head.id.clone()),
        ("began", page.began.clone()),
        ("Buildfile", head.about.file.clone()),
        ("context", head.about.context.clone()),
    ];
    about.extend(head.about.target.clone().map(|target| ("target", target)));
    if !head.about.platforms.is_empty() {
        about.push(("platforms", head.about.platforms.join(", ")));
    }
    if !head.about.build_args.is_empty() {
        about.push(("build arguments", head.about.build_args.join(", ")));
    }
    about.extend(head.image.map(|digest| ("image", digest.to_string())));
    about.push(("kiln", head.kiln.clone()));
    for (name, value) in about {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escaped(&value));
    }
    html.push_str("</dl>\n<nav>");
    for (id, name) in [
        ("timeline", "Timeline"),
        ("steps", "Steps"),
        ("graph", "Graph"),
        ("layers", "Layers"),
        ("checks", "Checks"),
        ("logs", "Logs"),
    ] {
        let _ = write!(html, "<a href=\"#{id}\">{name}</a>");
    }
    html.push_str("</nav>\n</header>\n<main>\n<section>\n");
}

fn tiles(html: &mut String, page: &Page<'_>) {
    let head = &page.record.head;
    let totals = head.totals;
    let mut tiles = vec![
        ("time", seconds(head.took_ms)),
        ("steps", totals.steps.to_string()),
        ("cached", totals.cached.to_string()),
        ("ran", totals.ran.to_string()),
    ];
    if totals.failed > 0 {
        tiles.push(("failed", totals.failed.to_string()));
    }
    if totals.written_bytes > 0 {
        tiles.push(("written", size::human(totals.written_bytes)));
    }
    if let Ok(costs) = &page.costs {
        tiles.push(("layers, compressed", size::human(costs.size)));
        tiles.push(("files of layers", size::human(costs.unpacked)));
        tiles.push(("wasted", format!("{} ({:.1}%)", size::human(costs.wasted), costs.wasted_percent())));
    }
    html.push_str("<div class=\"tiles\">");
    for (name, value) in tiles {
        let _ = write!(html, "<div><b>{value}</b><span>{name}</span></div>");
    }
    html.push_str("</div>\n");
}

fn logs(html: &mut String, page: &Page<'_>) {
    if page.logs.is_empty() {
        return note(html, "No step of this build wrote anything.");
    }
    html.push_str(
        "<p class=\"tools\"><input id=\"search\" type=\"search\" placeholder=\"Search the logs\" aria-label=\"Search the logs\"> \
         <span id=\"found\"></span></p>\n",
    );
    for log in &page.logs {
        let step = page.record.step(log.step);
        let name = step.map_or("", |step| step.name.as_str());
        let failed = step.is_some_and(|step| step.outcome == StepOutcome::Failed);
        let count = log.text.lines().count();
        let _ = write!(
            html,
            "<details class=\"log\" id=\"log-{}\"{}><summary>#{} {} <span class=\"dim\">{count} {}</span></summary>",
            log.step,
            if failed { " open" } else { "" },
            log.step,
            escaped(name),
            if count == 1 { "line" } else { "lines" },
        );
        if log.left_out > 0 {
            let told = format!(
                "{} before this are left out: kiln log {} --step {}",
                size::human(log.left_out),
                page.record.head.id,
                log.step
            );
            note(html, &told);
        }
        let _ = writeln!(html, "<pre>{}</pre></details>", lines(&log.text));
    }
}

fn section(html: &mut String, id: &str, title: &str) {
    let _ = writeln!(html, "</section>\n<section id=\"{id}\">\n<h2>{title}</h2>");
}

fn note(html: &mut String, text: &str) {
    let _ = writeln!(html, "<p class=\"dim\">{}</p>", escaped(text));
}

/// Text of several lines as markup.
fn lines(text: &str) -> String {
    text.lines().map(escaped).collect::<Vec<_>>().join("\n")
}

fn seconds(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{:.1} s", milliseconds as f64 / 1000.0),
        _ => format!("{} min {} s", milliseconds / 60_000, milliseconds % 60_000 / 1000),
    }
}

/// How a step ended: class and word.
fn outcome(outcome: StepOutcome) -> (&'static str, &'static str) {
    match outcome {
        StepOutcome::NotReached => ("idle", "not reached"),
        StepOutcome::Covered => ("cached", "not needed"),
        StepOutcome::Cached => ("cached", "cached"),
        StepOutcome::Ran => ("ran", "ran"),
        StepOutcome::Failed => ("bad", "failed"),
        StepOutcome::Cancelled => ("idle", "cancelled"),
    }
}
