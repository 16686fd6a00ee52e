//! `kiln reset`.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use super::args::ResetArgs;
use super::failure::of_store;
use super::session;
use crate::store::{self, InUse, ResetError};
use crate::ui::failure::{Failure, Kind};
use crate::ui::print;

/// Removes the store whole. An ordinary user's store has files of subordinate ids, which only root of a namespace with
/// these ids can remove; that is what kiln is after it has entered one.
pub(super) fn reset(root: Option<PathBuf>, args: &ResetArgs) -> Result<u8, Failure> {
    let root = session::store_root(root)?;
    if !root.exists() {
        print::talk(format!("there is no store at {}", root.display()));
        return Ok(0);
    }
    if !args.force && !confirmed(&root.display().to_string())? {
        return Ok(1);
    }
    session::enter()?;
    session::end_on_signals();
    let in_use = if args.force { InUse::Force } else { InUse::Keep };
    let left = store::reset(&root, in_use).map_err(|error| match &error {
        ResetError::Store(error) => of_store(error),
        ResetError::InUse { .. } => {
            Failure::from_error(Kind::User, &error).with_hint("wait until they have ended, or use --force")
        }
        ResetError::NotAStore { .. } => Failure::from_error(Kind::User, &error),
    })?;
    if left.is_empty() {
        print::talk(format!("removed the store {}", root.display()));
    } else {
        print::talk(format!(
            "removed the store {}; the directory stays, since kiln did not make: {}",
            root.display(),
            left.join(", ")
        ));
    }
    Ok(0)
}

fn confirmed(root: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Kind::Usage, format!("this removes every image and all cache in {root}"))
            .with_hint("say so with --force where nobody can be asked"));
    }
    print::talk(format!("This removes every image and all cache in {root}. Type `yes` to go on:"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|e| Failure::from_error(Kind::User, &e))?;
    Ok(matches!(answer.trim(), "yes" | "y"))
}
