//! `kiln report`: a build as one HTML page.
//!
//! Invariants:
//! - the store is only read, and nothing is built or fetched;
//! - the page stays below two megabytes: of long logs it has the ends.

mod page;

use std::io::Read;
use std::path::{Path, PathBuf};

use self::page::{Page, StepLog, render};
use super::args::record::ReportArgs;
use super::check;
use super::compare::existing_store;
use super::record::{find, record_failure, shelf, what};
use crate::build::compare::Image;
use crate::build::layers::{Costs, costs};
use crate::export::assemble::timestamp;
use crate::image::platform::Platform;
use crate::record::shelf::Entry;
use crate::record::{BuildRecord, Shelf};
use crate::ui::failure::{EXIT_OK, Failure, Kind};
use crate::ui::{print, text};

/// Bytes of all logs on the page.
const MAX_LOG_BYTES: usize = 768 * 1024;
/// Bytes of one log.
const MAX_STEP_LOG_BYTES: usize = 192 * 1024;
/// Largest files of a layer that are told.
const LARGEST: usize = 12;

/// Writes a report.
pub(super) fn report(root: Option<PathBuf>, args: &ReportArgs) -> Result<u8, Failure> {
    let shelf = shelf(root.clone())?;
    let (entry, record) = find(&shelf, args.build.as_deref())?;
    let head = &record.head;
    let page = Page {
        record: &record,
        title: what(head),
        began: timestamp(i64::try_from(head.began_ms / 1000).unwrap_or(0)),
        costs: image_costs(root, &record),
        findings: findings(&record),
        logs: logs(&shelf, &entry, &record)?,
    };
    let html = render(&page);
    if args.output.as_os_str() == "-" {
        print::data(html.as_bytes()).map_err(|e| Failure::from_error(Kind::User, &e))?;
        return Ok(EXIT_OK);
    }
    let path = &args.output;
    std::fs::write(path, html).map_err(|e| {
        Failure::new(Kind::User, format!("cannot write `{}`: {e}", path.display()))
            .with_hint("name another file with -o")
    })?;
    print::talk(format!("report of build {} written to {}", head.id, path.display()));
    Ok(EXIT_OK)
}

/// What the image of a build costs, or why nobody knows.
fn image_costs(root: Option<PathBuf>, record: &BuildRecord) -> Result<Costs, String> {
    let Some(digest) = record.head.image else {
        return Err("This build gave no image.".to_owned());
    };
    let gone = "The image is not in the store any more, or was only written elsewhere.";
    let store = existing_store(root).map_err(|failure| failure.message)?;
    let platform = record.head.about.platforms.first().and_then(|text| text.parse().ok());
    let platform = platform.unwrap_or_else(Platform::host);
    // By digest: a name may lead to another image by now.
    let image =
        Image::open(store.as_ref(), &format!("image@{digest}"), &platform).map_err(|_| gone.to_owned())?;
    costs(&image, LARGEST).map_err(|error| format!("The layers cannot be read: {error}."))
}

/// What the checks say of the Buildfile as it is now.
fn findings(record: &BuildRecord) -> Result<String, String> {
    let about = &record.head.about;
    let inside = Path::new(&about.context).join(Path::new(&about.file).file_name().unwrap_or_default());
    let places = [PathBuf::from(&about.file), inside];
    // A relative path only means something where the build was started, and another project's file is worse than none.
    let place = places.iter().find(|place| place.is_absolute() && place.is_file());
    let unknown = || format!("The Buildfile `{}` cannot be read from here.", about.file);
    place.and_then(|place| check::findings_of(place, about.target.clone())).ok_or_else(unknown)
}

/// What steps wrote: the ends of what is too long.
fn logs(shelf: &Shelf, entry: &Entry, record: &BuildRecord) -> Result<Vec<StepLog>, Failure> {
    let written: Vec<_> = record.steps.iter().filter(|step| step.log_bytes > 0).collect();
    let most = (MAX_LOG_BYTES / written.len().max(1)).min(MAX_STEP_LOG_BYTES);
    let mut logs = Vec::new();
    for step in written {
        let Some(log) = shelf.log(entry, step.number).map_err(|e| record_failure(&e))? else { continue };
        let (end, left_out) = end_of(log, most);
        let lines = String::from_utf8_lossy(&end);
        // Of a line that was written over, what stood there last.
        let last = |line: &str| {
            text::plain(line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default()).into_owned()
        };
        let text = lines.lines().map(last).collect::<Vec<_>>().join("\n");
        logs.push(StepLog { step: step.number, text, left_out });
    }
    Ok(logs)
}

/// The last bytes of a log, beginning with a line, and how many come before them. A log that is cut off (its build was
/// killed) ends early.
fn end_of(mut log: impl Read, most: usize) -> (Vec<u8>, u64) {
    let mut end = Vec::new();
    let mut left_out = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match log.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => end.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
        if end.len() > 2 * most {
            left_out += drop_beginning(&mut end, most);
        }
    }
    left_out += drop_beginning(&mut end, most);
    if left_out > 0
        && let Some(line) = end.iter().position(|byte| *byte == b'\n').filter(|at| at + 1 < end.len())
    {
        left_out += line as u64 + 1;
        end.drain(..=line);
    }
    (end, left_out)
}

fn drop_beginning(bytes: &mut Vec<u8>, most: usize) -> u64 {
    let dropped = bytes.len().saturating_sub(most);
    bytes.drain(..dropped);
    dropped as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_long_logs_the_end_is_kept_from_the_beginning_of_a_line() {
        let log: String = (0..1000).map(|line| format!("line {line}\n")).collect();
        assert_eq!(end_of(log.as_bytes(), 100_000), (log.clone().into_bytes(), 0));
        let (end, left_out) = end_of(log.as_bytes(), 40);
        assert_eq!(String::from_utf8_lossy(&end), "line 996\nline 997\nline 998\nline 999\n");
        assert_eq!(left_out as usize + end.len(), log.len());
        let (end, left_out) = end_of(&[b'x'; 1000][..], 40);
        assert_eq!((end.len(), left_out), (40, 960), "one line without an end");
    }
}
