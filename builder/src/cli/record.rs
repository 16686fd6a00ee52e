//! `kiln history`, `log` and `explain`: what builds did.
//!
//! Invariants: records are read, never written, and looking makes no store.

use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::args::record::{ExplainArgs, HistoryArgs, LogArgs};
use super::session;
use crate::image::reference::Reference;
use crate::record::shelf::Entry;
use crate::record::{
    BuildRecord, BuildResult, Head, MissReason, RecordError, Shelf, StepOutcome, StepRecord,
};
use crate::store::records::now;
use crate::ui::failure::{EXIT_FAILED, EXIT_OK, Failure, Kind};
use crate::ui::table::{Align, Table};
use crate::ui::{ago, print, terminal, text};

/// Columns of an explanation's line.
const MAX_LINE_COLUMNS: usize = 400;
/// Columns of a step's name in an explanation.
const MAX_NAME_COLUMNS: usize = 100;
/// Longest line of a log that is matched and printed as one.
const MAX_LOG_LINE_BYTES: u64 = 16 << 20;

fn printed(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|e| Failure::from_error(Kind::User, &e))
}

pub(super) fn record_failure(error: &RecordError) -> Failure {
    let failure = Failure::from_error(Kind::User, error);
    match error {
        RecordError::None => failure.with_hint("build something, or name the store with --root DIR"),
        RecordError::Unknown(_) => failure.with_hint("`kiln history` lists the builds"),
        RecordError::Ambiguous { .. } => failure.with_hint("write more of the id"),
        RecordError::Damaged { .. } | RecordError::Version { .. } | RecordError::Read { .. } => failure,
    }
}

pub(super) fn shelf(root: Option<PathBuf>) -> Result<Shelf, Failure> {
    Ok(Shelf::new(&session::store_root(root)?))
}

pub(super) fn find(shelf: &Shelf, build: Option<&str>) -> Result<(Entry, BuildRecord), Failure> {
    let entry = shelf.find(build).map_err(|e| record_failure(&e))?;
    let record = shelf.read(&entry).map_err(|e| record_failure(&e))?;
    Ok((entry, record))
}

/// `kiln history`.
pub(super) fn history(root: Option<PathBuf>, args: &HistoryArgs) -> Result<u8, Failure> {
    let shelf = shelf(root)?;
    let entries = shelf.entries().map_err(|e| record_failure(&e))?;
    let entries = entries.iter().take(args.last.unwrap_or(usize::MAX));
    let heads: Vec<(&Entry, Result<Head, RecordError>)> =
        entries.map(|entry| (entry, shelf.head(entry))).collect();
    if args.json {
        let all: Vec<_> = heads
            .iter()
            .map(|(entry, head)| match head {
                Ok(head) => json!(head),
                Err(error) => json!({ "id": entry.id(), "unreadable": error.to_string() }),
            })
            .collect();
        return printed(print::line(format!("{:#}", json!(all)))).map(|()| EXIT_OK);
    }
    /// The column that gives way in a narrow terminal.
    const WHAT: usize = 2;
    let mut table = Table::new(&[
        ("BUILD", Align::Left),
        ("BEGAN", Align::Left),
        ("WHAT", Align::Left),
        ("RESULT", Align::Left),
        ("STEPS", Align::Right),
        ("CACHED", Align::Right),
        ("RAN", Align::Right),
        ("TIME", Align::Right),
    ]);
    for (entry, head) in &heads {
        match head {
            Ok(head) => table.row(row(head)),
            Err(error) => table.row([entry.id().to_owned(), String::new(), String::new(), error.to_string()]),
        }
    }
    let table = match terminal::stdout_columns() {
        Some(columns) => table.render_within(columns, WHAT),
        None => table.render(),
    };
    printed(print::line(table.trim_end())).map(|()| EXIT_OK)
}

fn row(head: &Head) -> [String; 8] {
    let began = i64::try_from(head.began_ms / 1000).unwrap_or(i64::MAX);
    let age = Duration::from_secs(u64::try_from(now() - began).unwrap_or(0));
    let totals = head.totals;
    let unfinished = head.result == BuildResult::Unfinished;
    let counted = |number: u32| if unfinished { String::new() } else { number.to_string() };
    let took = if unfinished { String::new() } else { seconds(head.took_ms) };
    [
        head.id.clone(),
        ago::ago(age),
        what(head),
        result(head.result).to_owned(),
        counted(totals.steps),
        counted(totals.cached),
        counted(totals.ran),
        took,
    ]
}

/// Names of the image, else the context, with the target.
pub(super) fn what(head: &Head) -> String {
    let about = &head.about;
    let familiar = |name: &String| name.parse::<Reference>().map_or_else(|_| name.clone(), |n| n.familiar());
    let mut what = match &about.names[..] {
        [] => about.context.clone(),
        names => names.iter().map(familiar).collect::<Vec<_>>().join(" "),
    };
    if let Some(target) = &about.target {
        what.push_str(&format!(" ({target})"));
    }
    what
}

fn result(result: BuildResult) -> &'static str {
    match result {
        BuildResult::Unfinished => "unfinished",
        BuildResult::Succeeded => "done",
        BuildResult::Failed => "failed",
        BuildResult::Stopped => "stopped",
    }
}

fn seconds(milliseconds: u64) -> String {
    format!("{:.1}s", milliseconds as f64 / 1000.0)
}

/// `kiln log`: exit status 1 when a pattern matches nothing, as grep's.
pub(super) fn log(root: Option<PathBuf>, args: &LogArgs) -> Result<u8, Failure> {
    let shelf = shelf(root)?;
    let (entry, record) = find(&shelf, args.build.as_deref())?;
    if let Some(number) = args.step
        && record.step(number).is_none()
    {
        let last = record.steps.last().map_or(0, |step| step.number);
        return Err(Failure::new(Kind::User, format!("build {} has no step {number}", entry.id()))
            .with_hint(format!("its last step is {last}; `kiln log --json` lists all")));
    }
    let steps = record.steps.iter().filter(|step| args.step.is_none_or(|number| number == step.number));
    let mut found = false;
    let mut all = Vec::new();
    for step in steps {
        let lines = match shelf.log(&entry, step.number).map_err(|e| record_failure(&e))? {
            Some(log) => matching(log, args),
            None => Vec::new(),
        };
        found |= !lines.is_empty();
        if args.json {
            if args.grep.is_none() || !lines.is_empty() {
                all.push(json!({
                    "step": step.number,
                    "name": step.name,
                    "outcome": step.outcome,
                    "exit_code": step.exit_code,
                    "error": step.error,
                    "took_ms": step.took_ms,
                    "log": String::from_utf8_lossy(&lines.concat()),
                }));
            }
        } else if !lines.is_empty() || args.grep.is_none() && step.outcome == StepOutcome::Failed {
            printed(print_log(step, &lines))?;
        }
    }
    if args.json {
        printed(print::line(format!("{:#}", json!(all))))?;
    } else if !found && args.grep.is_none() {
        print::talk(format!("no step of build {} wrote anything", entry.id()));
    }
    Ok(if found || args.grep.is_none() { EXIT_OK } else { EXIT_FAILED })
}

/// The lines of a log that are asked for, with their ends. A log that is cut off (its build was killed) ends early.
fn matching(log: Box<dyn Read>, args: &LogArgs) -> Vec<Vec<u8>> {
    let mut reader = BufReader::with_capacity(128 * 1024, log);
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(MAX_LOG_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) if line.is_empty() => return lines,
            _ => {}
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if args.grep.as_ref().is_none_or(|pattern| pattern.is_match(&String::from_utf8_lossy(text))) {
            lines.push(line);
        }
    }
}

fn print_log(step: &StepRecord, lines: &[Vec<u8>]) -> io::Result<()> {
    print::line(format!("#{} {}", step.number, text::visible(&step.name)))?;
    for line in lines {
        // A terminal gets nothing that could command it; a file gets every byte.
        if terminal::stdout_is_terminal() {
            print::line(text::plain(String::from_utf8_lossy(line).trim_end_matches(['\n', '\r'])))?;
        } else if line.ends_with(b"\n") {
            print::data(line)?;
        } else {
            print::data(&[line, &b"\n"[..]].concat())?;
        }
    }
    if let Some(error) = &step.error {
        print::line(format!("ERROR: {}", text::visible(error)))?;
    }
    Ok(())
}

/// `kiln explain`.
pub(super) fn explain(root: Option<PathBuf>, args: &ExplainArgs) -> Result<u8, Failure> {
    let shelf = shelf(root)?;
    let (_, record) = find(&shelf, args.build.as_deref())?;
    if args.json {
        let steps: Vec<_> = record
            .misses()
            .map(|(step, miss)| {
                json!({
                    "step": step.number,
                    "name": step.name,
                    "miss": miss,
                    "text": miss.to_string(),
                    "same_result": step.cut,
                })
            })
            .collect();
        let object = json!({ "id": record.head.id, "result": record.head.result, "steps": steps });
        return printed(print::line(format!("{object:#}"))).map(|()| EXIT_OK);
    }
    printed(explanation(&record).iter().try_for_each(print::line)).map(|()| EXIT_OK)
}

/// One line for each step that ran, and why.
pub(super) fn explanation(record: &BuildRecord) -> Vec<String> {
    let line = |(step, miss): (&StepRecord, &MissReason)| {
        let mut line = format!("{}: {miss}", text::fit(&step.name, MAX_NAME_COLUMNS));
        if step.cut {
            line.push_str("; re-ran, same result: everything below stayed cached");
        }
        text::fit(&line, MAX_LINE_COLUMNS).into_owned()
    };
    let lines: Vec<String> = record.misses().map(line).collect();
    if !lines.is_empty() {
        return lines;
    }
    let totals = record.head.totals;
    vec![match record.head.result {
        BuildResult::Unfinished => "the build has not finished, so nothing is known of its steps".to_owned(),
        _ if totals.steps == 0 => "the build ended before any step".to_owned(),
        _ => format!("no step ran: {} of {} were stored", totals.cached, totals.steps),
    }]
}
