//! `kiln fsck`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::json;

use super::args::FsckArgs;
use super::failure::{of_other, of_store};
use super::session;
use super::store::printed;
use crate::snapshot::check;
use crate::snapshot::overlay::Snapshots;
use crate::store::{Finding, Store};
use crate::ui::failure::{EXIT_FAILED, EXIT_OK, Failure};
use crate::ui::print;

/// One repair may show what another one has to do: a step without its snapshot, an image without its blob.
const MAX_ROUNDS: usize = 10;

/// Checks the store, and repairs it when asked to. Exits with 1 when something was found, also when it was repaired.
pub(super) fn fsck(root: Option<PathBuf>, args: &FsckArgs) -> Result<u8, Failure> {
    let root = session::store_root(root)?;
    if !root.exists() {
        print::talk(format!("there is no store at {}", root.display()));
        return Ok(EXIT_OK);
    }
    session::enter()?;
    session::end_on_signals();
    let mut store = match Store::open(&root) {
        // It could be opened, and not be used.
        Err(error) if args.repair && error.is_damaged_database() => {
            Store::discard_database(&root).map_err(|e| of_store(&e))?;
            session::open_store(&root)?
        }
        opened => session::told(&root, opened)?,
    };
    if args.repair && store.check_database().is_err_and(|error| error.is_damaged_database()) {
        drop(store);
        Store::discard_database(&root).map_err(|e| of_store(&e))?;
        store = session::open_store(&root)?;
    }
    let checker = Checker { store: &store, quick: args.quick };
    let mut reported: BTreeSet<String> = BTreeSet::new();
    let mut lines = Vec::new();
    for round in 0..MAX_ROUNDS {
        let found = if round == 0 { checker.everything()? } else { checker.records()? };
        if found.is_empty() {
            break;
        }
        let mut waits = false;
        for finding in &found {
            let done = if args.repair {
                let done = store.repair(finding).map_err(|e| of_store(&e))?;
                waits |= !done;
                Some(done)
            } else {
                None
            };
            if reported.insert(finding.to_string()) {
                lines.push((finding.to_string(), done));
            }
        }
        if !args.repair || waits {
            break;
        }
    }
    if store.was_recovered() {
        lines.insert(0, ("the database was damaged".to_owned(), Some(true)));
    }
    report(args, &lines)
}

struct Checker<'a> {
    store: &'a Store,
    quick: bool,
}

impl Checker<'_> {
    fn records(&self) -> Result<Vec<Finding>, Failure> {
        Ok(self.store.check_records().map_err(|e| of_store(&e))?.into_iter().collect())
    }

    fn everything(&self) -> Result<Vec<Finding>, Failure> {
        let mut found = self.records()?;
        if self.quick || found.iter().any(|finding| matches!(finding, Finding::Database { .. })) {
            return Ok(found);
        }
        let blobs = self.store.all_blobs().map_err(|e| of_store(&e))?;
        found.extend(blobs.iter().filter_map(|digest| self.store.check_blob(digest)));
        let snapshots = Snapshots::new(self.store).map_err(|e| of_other(&e))?;
        for recorded in self.store.recorded_snapshots().map_err(|e| of_store(&e))? {
            found.extend(check::snapshot(self.store, &snapshots, &recorded).map_err(|e| of_other(&e))?);
        }
        Ok(found)
    }
}

fn report(args: &FsckArgs, lines: &[(String, Option<bool>)]) -> Result<u8, Failure> {
    let code = if lines.is_empty() { EXIT_OK } else { EXIT_FAILED };
    if args.json {
        let all: Vec<_> =
            lines.iter().map(|(text, repaired)| json!({ "finding": text, "repaired": repaired })).collect();
        return printed(print::line(format!("{:#}", json!(all)))).map(|_| code);
    }
    for (text, repaired) in lines {
        let ending = match repaired {
            Some(true) => " (repaired)",
            Some(false) => " (in use; try again when no kiln is running)",
            None => "",
        };
        printed(print::line(format!("{text}{ending}")))?;
    }
    let is_whole = lines.iter().all(|(_, repaired)| *repaired == Some(true));
    print::talk(match lines.len() {
        0 => "nothing is wrong with the store".to_owned(),
        count if is_whole => format!("{count} found and repaired: what is missing is made or fetched again"),
        count if args.repair => format!("{count} found, some of which could not be repaired"),
        count => {
            format!("{count} found; `kiln fsck --repair` removes what is damaged, so that it is made again")
        }
    });
    Ok(code)
}
