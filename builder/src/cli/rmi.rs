//! `kiln rmi`.

use std::path::PathBuf;

use super::args::RmiArgs;
use super::failure::of_store;
use super::session;
use super::store::familiar;
use crate::image::reference::Reference;
use crate::store::records::ImageRecord;
use crate::store::{ImageRemoval, InUse, Store};
use crate::sys::range_lock::Locks;
use crate::ui::diagnostics::Style;
use crate::ui::failure::{Failure, Kind};
use crate::ui::{print, size};

/// Shortest beginning of an id that names an image.
const MIN_ID_DIGITS: usize = 6;

/// Takes names of images away, and what only they needed.
pub(super) fn rmi(root: Option<PathBuf>, args: &RmiArgs) -> Result<u8, Failure> {
    // An ordinary user's processes are to be seen from outside of user namespaces only.
    let seen = Locks::look().unwrap_or_default();
    let Some(store) = session::present_store(root)? else {
        return if args.force { Ok(0) } else { Err(missing(&args.images.join("`, `"))) };
    };
    let failures: Vec<Failure> = args
        .images
        .iter()
        .filter_map(|wanted| remove_wanted(&store, wanted, args.force, &seen).err())
        .collect();
    // The last one is for the caller to tell.
    let Some((last, others)) = failures.split_last() else { return Ok(0) };
    for failure in others {
        print::talk(failure.render(Style::stderr()));
    }
    Err(last.clone())
}

/// Removes what one argument stands for.
fn remove_wanted(store: &Store, wanted: &str, force: bool, seen: &Locks) -> Result<(), Failure> {
    let names = find(store, wanted)?;
    if names.len() > 1 && !force {
        let names: Vec<String> = names.iter().map(|name| familiar(name)).collect();
        let message = format!("`{wanted}` has several names: {}", names.join(", "));
        return Err(Failure::new(Kind::User, message).with_hint("remove one of them, or all with --force"));
    }
    if names.is_empty() && !force {
        return Err(missing(wanted));
    }
    names.iter().try_for_each(|name| remove(store, name, force, seen))
}

pub(super) fn missing(wanted: &str) -> Failure {
    Failure::new(Kind::User, format!("there is no image `{wanted}`"))
        .with_hint("`kiln images` lists the images")
}

/// The names that a name or an id stands for.
pub(super) fn find(store: &Store, wanted: &str) -> Result<Vec<String>, Failure> {
    let images = store.database().images().map_err(|e| of_store(&e))?;
    let reference = wanted.parse::<Reference>();
    if let Ok(reference) = &reference {
        let name = reference.to_string();
        if images.iter().any(|image| image.name == name) {
            return Ok(vec![name]);
        }
    }
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    if hex.len() >= MIN_ID_DIGITS && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        let fits = |image: &&ImageRecord| image.digest.hex().starts_with(&hex.to_ascii_lowercase());
        return Ok(images.iter().filter(fits).map(|image| image.name.clone()).collect());
    }
    reference.map(|_| Vec::new()).map_err(|e| Failure::from_error(Kind::Usage, &e))
}

fn remove(store: &Store, name: &str, force: bool, seen: &Locks) -> Result<(), Failure> {
    let shown = familiar(name);
    let in_use = if force { InUse::Force } else { InUse::Keep };
    match store.remove_image(name, in_use, seen).map_err(|e| of_store(&e))? {
        ImageRemoval::Removed(removed) => {
            print::talk(format!("removed the name {shown}: {} freed", size::human(removed.freed_bytes)));
            Ok(())
        }
        ImageRemoval::InUse(users) => {
            let pids = match &users.iter().map(ToString::to_string).collect::<Vec<_>>()[..] {
                [] => String::new(),
                [pid] => format!(" (process {pid})"),
                pids => format!(" (processes {})", pids.join(", ")),
            };
            let message = format!("a running build or `kiln run`{pids} uses the image `{shown}`");
            Err(Failure::new(Kind::User, message)
                .with_hint("--force takes the name away; the data stays until nobody uses it"))
        }
        ImageRemoval::PartOf(holders) => {
            let holders: Vec<String> = holders.iter().map(|holder| familiar(holder)).collect();
            let message =
                format!("`{shown}` is part of the image of several platforms `{}`", holders.join("`, `"));
            Err(Failure::new(Kind::User, message)
                .with_hint("--force takes the name away; the data stays with that image"))
        }
        ImageRemoval::Missing => Ok(()),
    }
}
