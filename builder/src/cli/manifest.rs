//! `kiln manifest`.

use std::path::PathBuf;

use super::args::manifest::{
    ManifestAddArgs, ManifestAnnotateArgs, ManifestArgs, ManifestCommand, ManifestCreateArgs,
    ManifestInspectArgs,
};
use super::args::transfer::{ChoiceArgs, Format, InspectArgs};
use super::compare::existing_store;
use super::failure::of_transfer;
use super::transfer::{Mover, access_for};
use super::{inspect, session, transfer};
use crate::image::reference::Reference;
use crate::store::Store;
use crate::transfer::{ImageList, ListChange, Origin, Place, TransferError};
use crate::ui::failure::{Failure, Kind};
use crate::ui::print;

/// `kiln manifest`.
pub(super) fn manifest(root: Option<PathBuf>, args: ManifestArgs) -> Result<u8, Failure> {
    match args.command {
        ManifestCommand::Create(create) => self::create(root, &create),
        ManifestCommand::Add(add) => self::add(root, &add),
        ManifestCommand::Annotate(annotate) => self::annotate(root, &annotate),
        ManifestCommand::Remove(remove) => change(root, &remove.list, |list| list.remove(&remove.image)),
        ManifestCommand::Push(push) => transfer::push(root, &push),
        ManifestCommand::Inspect(inspect) => self::inspect(root, inspect),
    }
}

fn create(root: Option<PathBuf>, args: &ManifestCreateArgs) -> Result<u8, Failure> {
    let mover = Mover::start(args.progress.mode())?;
    let store = session::open_store(&session::store_root(root)?)?;
    let known = ImageList::open(&store, &args.list).map_err(|e| of_transfer(&e))?;
    let (mut list, amends) = match known {
        Some(list) if args.amend => (list, true),
        Some(_) => {
            let message = format!("there is an image `{}` already", args.list.familiar());
            return Err(Failure::new(Kind::User, message)
                .with_hint("--amend adds to it; `kiln rmi` takes the name away"));
        }
        None => (ImageList::new(&store, &args.list), false),
    };
    fill(&mover, &store, &mut list, &args.images, amends, &args.access)?;
    let annotations = ListChange { annotations: args.annotations.clone(), ..ListChange::default() };
    list.change(None, &annotations).map_err(|e| of_transfer(&e))?;
    saved(&mover, list)
}

fn add(root: Option<PathBuf>, args: &ManifestAddArgs) -> Result<u8, Failure> {
    let mover = Mover::start(args.progress.mode())?;
    let store = existing_store(root)?.ok_or_else(|| missing(&args.list))?;
    let mut list = opened(&store, &args.list)?;
    fill(&mover, &store, &mut list, &args.images, true, &args.access)?;
    saved(&mover, list)
}

fn annotate(root: Option<PathBuf>, args: &ManifestAnnotateArgs) -> Result<u8, Failure> {
    if args.platform.is_none() && args.annotations.is_empty() {
        return Err(Failure::new(Kind::Usage, "there is nothing to change")
            .with_hint("give --platform OS/ARCH or --annotation NAME=VALUE"));
    }
    let wanted = ListChange { platform: args.platform.clone(), annotations: args.annotations.clone() };
    change(root, &args.list, |list| list.change(args.image.as_deref(), &wanted))
}

fn inspect(root: Option<PathBuf>, args: ManifestInspectArgs) -> Result<u8, Failure> {
    let args = InspectArgs {
        image: args.list,
        choice: ChoiceArgs { platform: None },
        format: Format::default(),
        raw: true,
        config: false,
        provenance: false,
        sbom: false,
        access: args.access,
    };
    inspect::inspect(root, &args)
}

/// Changes a list that is there.
fn change(
    root: Option<PathBuf>,
    name: &Reference,
    work: impl FnOnce(&mut ImageList<'_>) -> Result<(), TransferError>,
) -> Result<u8, Failure> {
    let store = existing_store(root)?.ok_or_else(|| missing(name))?;
    let mut list = opened(&store, name)?;
    work(&mut list).map_err(|e| of_transfer(&e))?;
    told(list)
}

fn opened<'a>(store: &'a Store, name: &Reference) -> Result<ImageList<'a>, Failure> {
    ImageList::open(store, name).map_err(|e| of_transfer(&e))?.ok_or_else(|| missing(name))
}

fn missing(name: &Reference) -> Failure {
    of_transfer(&TransferError::NotInStore(name.familiar()))
}

fn fill(
    mover: &Mover,
    store: &Store,
    list: &mut ImageList<'_>,
    images: &[Place],
    replace: bool,
    access: &super::args::access::AccessArgs,
) -> Result<(), Failure> {
    let client = mover.client(&access_for(access, images.iter().map(Place::reference))?)?;
    for image in images {
        let origin = Origin::open(image, Some(store), &client).map_err(|e| of_transfer(&e))?;
        let inventory = list.inventory(&origin).map_err(|e| of_transfer(&e))?;
        mover.moving(&inventory, |watch| list.add(&origin, &inventory, replace, watch))?;
    }
    Ok(())
}

fn saved(mover: &Mover, list: ImageList<'_>) -> Result<u8, Failure> {
    mover.finish();
    told(list)
}

/// Stores a list, and prints its digest.
fn told(list: ImageList<'_>) -> Result<u8, Failure> {
    let digest = list.save().map_err(|e| of_transfer(&e))?;
    print::line(digest.to_string()).map(|()| 0).map_err(|e| Failure::from_error(Kind::User, &e))
}
