//! `kiln config edit`.

use std::path::PathBuf;

use super::args::config::{ConfigArgs, ConfigCommand, ConfigEditArgs};
use super::failure::of_store;
use super::store::{familiar, printed};
use super::{rmi, session};
use crate::build::edit::{self, EditError};
use crate::image::reference::Reference;
use crate::ui::failure::{Failure, Kind};
use crate::ui::print;

/// `kiln config`.
pub(super) fn config(root: Option<PathBuf>, args: &ConfigArgs) -> Result<u8, Failure> {
    match &args.command {
        ConfigCommand::Edit(args) => edit(root, args),
    }
}

/// Makes the changed image and prints its digest.
fn edit(root: Option<PathBuf>, args: &ConfigEditArgs) -> Result<u8, Failure> {
    let wanted = args.edit();
    if wanted.changes.is_empty() && wanted.annotations.is_empty() {
        return Err(Failure::new(Kind::Usage, "nothing to change").with_hint(
            "say what, e.g. --env NAME=VALUE or --unset cmd; `kiln config edit --help` lists all",
        ));
    }
    let Some(store) = session::present_store(root)? else { return Err(rmi::missing(&args.image)) };
    let found = rmi::find(&store, &args.image)?;
    let Some(name) = found.first() else { return Err(rmi::missing(&args.image)) };
    let own: Vec<Reference> = name.parse().into_iter().collect();
    let names = if args.tags.is_empty() { &own } else { &args.tags };
    let edited = edit::edit(&store, name, &wanted, names).map_err(|error| match &error {
        EditError::NotFound(_) => rmi::missing(&args.image),
        EditError::Store(error) => of_store(error),
        _ => Failure::from_error(Kind::User, &error),
    })?;
    for missing in &edited.missing {
        print::talk(format!("warning: there was nothing to {missing}"));
    }
    if edited.dropped_attestations > 0 {
        print::talk(format!(
            "warning: {} attestations of the old image are left out: they say nothing about the new one",
            edited.dropped_attestations
        ));
    }
    let told: Vec<String> = names.iter().map(|name| familiar(&name.to_string())).collect();
    print::talk(format!("named {}", told.join(", ")));
    printed(print::line(edited.digest.to_string()))
}
