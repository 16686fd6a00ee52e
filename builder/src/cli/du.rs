//! `kiln du`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::DuArgs;
use super::args::store::FilterArg;
use super::failure::of_store;
use super::session;
use super::store::{familiar, printed};
use crate::store::records::now;
use crate::store::{ImageUsage, Item, Kind, Own, Usage};
use crate::ui::failure::Failure;
use crate::ui::table::{Align, Table};
use crate::ui::{ago, print, size};

/// Shows what takes how much space.
pub(super) fn du(root: Option<PathBuf>, args: &DuArgs) -> Result<u8, Failure> {
    let mut usage = match session::present_store(root)? {
        Some(store) => store.usage().map_err(|e| of_store(&e))?,
        None => Usage::default(),
    };
    let now = now();
    if !args.filters.is_empty() {
        usage.own = Own::default();
    }
    usage.items.retain(|item| {
        args.filters.iter().all(|filter| match filter {
            FilterArg::Until(age) => item.last_used <= now - i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
            FilterArg::Only(filter) => filter.passes(item),
        })
    });
    if args.json {
        return printed(print::line(format!("{:#}", facts(&usage))));
    }
    let mut text = Vec::new();
    if args.verbose {
        text.push(items(&usage.items).render());
    }
    text.push(types(&usage, args.filters.is_empty()).render());
    if args.filters.is_empty() && !usage.images.is_empty() {
        text.push(images(&usage.images).render());
    }
    let reclaimable =
        usage.items.iter().filter(|item| is_reclaimable(item)).map(|item| item.size_bytes).sum();
    let mut total =
        format!("Total: {}, reclaimable: {}", size::human(usage.total_bytes()), size::human(reclaimable));
    if usage.own.total_bytes() > 0 {
        total.push_str(&format!("; besides {} of kiln's own", size::human(usage.own.total_bytes())));
    }
    text.push(total);
    printed(print::line(text.join("\n").trim_end()))
}

/// The word for several of a kind.
pub(super) fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Snapshot => "snapshots",
        Kind::Blob => "blobs",
        Kind::Mount => "cache mounts",
        Kind::Git => "git mirrors",
        Kind::Stray => "strays",
    }
}

/// `1 blob`, `2 blobs`.
pub(super) fn counted(count: usize, plural: &str) -> String {
    match count {
        1 => format!("1 {}", plural.trim_end_matches('s')),
        count => format!("{count} {plural}"),
    }
}

/// Whether `kiln prune --all` would remove it.
fn is_reclaimable(item: &Item) -> bool {
    !item.in_use && !item.is_image_data()
}

/// `with_own`: also what the store keeps for itself.
fn types(usage: &Usage, with_own: bool) -> Table {
    let mut table = Table::new(&[
        ("TYPE", Align::Left),
        ("COUNT", Align::Right),
        ("SIZE", Align::Right),
        ("RECLAIMABLE", Align::Right),
        ("IN USE", Align::Right),
    ]);
    for kind in Kind::ALL {
        let (count, bytes) = usage.of_kind(kind);
        let of_kind = || usage.items.iter().filter(move |item| item.kind == kind);
        let reclaimable = of_kind().filter(|item| is_reclaimable(item)).map(|item| item.size_bytes).sum();
        table.row([
            plural(kind).to_owned(),
            count.to_string(),
            size::human(bytes),
            size::human(reclaimable),
            of_kind().filter(|item| item.in_use).count().to_string(),
        ]);
    }
    let own = &usage.own;
    let rows = [
        ("build records", own.records.to_string(), own.records_bytes),
        ("database", String::new(), own.database_bytes),
        ("reserve for a full disk", String::new(), own.ballast_bytes),
    ];
    for (what, count, bytes) in rows.into_iter().filter(|_| with_own) {
        table.row([what.to_owned(), count, size::human(bytes), size::human(0), String::new()]);
    }
    table
}

fn images(images: &[ImageUsage]) -> Table {
    let mut table = Table::new(&[
        ("IMAGE", Align::Left),
        ("SIZE", Align::Right),
        ("SHARED", Align::Right),
        ("UNIQUE", Align::Right),
        ("LAST USED", Align::Left),
    ]);
    for image in images {
        table.row([
            familiar(&image.name),
            size::human(image.size_bytes),
            size::human(image.shared_bytes),
            size::human(image.unique_bytes()),
            age(image.last_used),
        ]);
    }
    table
}

/// Every item on a line.
pub(super) fn items(items: &[Item]) -> Table {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("TYPE", Align::Left),
        ("SIZE", Align::Right),
        ("LAST USED", Align::Left),
        ("IN USE", Align::Left),
        ("IMAGES", Align::Right),
        ("DESCRIPTION", Align::Left),
    ]);
    for item in items {
        let id = item.id.strip_prefix("sha256:").map_or(item.id.as_str(), |hex| hex.get(..12).unwrap_or(hex));
        table.row([
            id.to_owned(),
            item.kind.name().to_owned(),
            size::human(item.size_bytes),
            age(item.last_used),
            if item.in_use { "yes".to_owned() } else { String::new() },
            if item.images.is_empty() { String::new() } else { item.images.len().to_string() },
            item.description.chars().take(60).collect(),
        ]);
    }
    table
}

fn age(seconds: i64) -> String {
    ago::ago(Duration::from_secs(u64::try_from(now() - seconds).unwrap_or(0)))
}

/// Items for programs.
pub(super) fn item_facts(items: &[Item]) -> Vec<Value> {
    let facts = |item: &Item| {
        json!({
            "id": item.id,
            "type": item.kind.name(),
            "size": item.size_bytes,
            "lastUsed": item.last_used,
            "inUse": item.in_use,
            "images": item.images,
            "reclaimable": is_reclaimable(item),
            "description": item.description,
        })
    };
    items.iter().map(facts).collect()
}

fn facts(usage: &Usage) -> Value {
    let image = |image: &ImageUsage| {
        json!({
            "name": image.name,
            "digest": image.digest,
            "size": image.size_bytes,
            "shared": image.shared_bytes,
            "unique": image.unique_bytes(),
            "lastUsed": image.last_used,
        })
    };
    let types: serde_json::Map<String, Value> = Kind::ALL
        .into_iter()
        .map(|kind| {
            let (count, bytes) = usage.of_kind(kind);
            (kind.name().to_owned(), json!({ "count": count, "size": bytes }))
        })
        .collect();
    json!({
        "total": usage.total_bytes(),
        "types": types,
        "own": {
            "records": { "count": usage.own.records, "size": usage.own.records_bytes },
            "database": { "size": usage.own.database_bytes },
            "ballast": { "size": usage.own.ballast_bytes },
        },
        "images": usage.images.iter().map(image).collect::<Vec<_>>(),
        "items": item_facts(&usage.items),
    })
}
