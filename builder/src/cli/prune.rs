//! `kiln prune`, and the collection after a build.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::args::PruneArgs;
use super::args::amount;
use super::args::store::FilterArg;
use super::failure::of_store;
use super::store::printed;
use super::{du, session};
use crate::store::{Automatic, Collected, Limits, Policy, Scope, Store};
use crate::ui::failure::{Failure, Kind};
use crate::ui::{print, size};

/// The variable that sets the automatic collection.
const VARIABLE: &str = "KILN_GC";

/// Removes cache.
pub(super) fn prune(root: Option<PathBuf>, args: &PruneArgs) -> Result<u8, Failure> {
    let policy = policy(args);
    let collected = match session::present_store(root)? {
        None => Collected::default(),
        Some(store) => {
            let done = if args.dry_run { store.would_prune(&policy) } else { store.prune(&policy) };
            if args.all && !args.dry_run && args.filters.is_empty() {
                store.database().forget_files().map_err(|e| of_store(&e))?;
            }
            done.map_err(|e| of_store(&e))?
        }
    };
    if args.json {
        let facts = json!({
            "dryRun": args.dry_run,
            "freed": collected.freed_bytes,
            "items": du::item_facts(&collected.items),
        });
        return printed(print::line(format!("{facts:#}")));
    }
    let mut text = String::new();
    if (args.verbose || args.dry_run) && !collected.items.is_empty() {
        text = du::items(&collected.items).render() + "\n";
    }
    let verb = if args.dry_run { "would free" } else { "freed" };
    text.push_str(&format!("{verb} {}{}", size::human(collected.freed_bytes), counts(&collected)));
    printed(print::line(text))
}

/// `: 2 snapshots, 1 blob`.
fn counts(collected: &Collected) -> String {
    let counts = crate::store::Kind::ALL.into_iter().filter_map(|kind| {
        match collected.items.iter().filter(|item| item.kind == kind).count() {
            0 => None,
            1 => Some(format!("1 {}", du::plural(kind).trim_end_matches('s'))),
            count => Some(format!("{count} {}", du::plural(kind))),
        }
    });
    let counts: Vec<String> = counts.collect();
    if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) }
}

fn policy(args: &PruneArgs) -> Policy {
    let until = args.filters.iter().filter_map(|filter| match filter {
        FilterArg::Until(age) => Some(*age),
        FilterArg::Only(_) => None,
    });
    let filters = args.filters.iter().filter_map(|filter| match filter {
        FilterArg::Only(filter) => Some(filter.clone()),
        FilterArg::Until(_) => None,
    });
    Policy {
        scope: if args.all { Scope::All } else { Scope::Unneeded },
        unused_for: until.max(),
        filters: filters.collect(),
        limits: Limits {
            max_used_bytes: args.max_used_space,
            min_free_bytes: args.min_free_space,
            reserved_bytes: args.reserved_space,
        },
    }
}

/// What `KILN_GC` says. `None`: no collections.
fn automatic() -> Result<Option<Automatic>, Failure> {
    let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else {
        return Ok(Some(Automatic::default()));
    };
    parse_automatic(&value.to_string_lossy())
        .map_err(|reason| Failure::new(Kind::Usage, format!("environment variable {VARIABLE}: {reason}")))
}

fn parse_automatic(text: &str) -> Result<Option<Automatic>, String> {
    if matches!(text, "off" | "false" | "0") {
        return Ok(None);
    }
    let mut automatic = Automatic::default();
    for part in text.split(',') {
        let form = "it is `off`, or some of unused=DURATION, max-used-space=SIZE, min-free-space=SIZE, \
                    reserved-space=SIZE, joined by commas";
        let (name, value) =
            part.split_once('=').ok_or_else(|| format!("`{part}` is not understood: {form}"))?;
        let size = || amount::size(value).map(Some).map_err(|e| e.to_string());
        match name.trim() {
            "unused" => automatic.unused_for = Some(amount::duration(value).map_err(|e| e.to_string())?),
            "max-used-space" => automatic.limits.max_used_bytes = size()?,
            "min-free-space" => automatic.limits.min_free_bytes = size()?,
            "reserved-space" => automatic.limits.reserved_bytes = size()?,
            _ => return Err(format!("`{part}` is not understood: {form}")),
        }
    }
    Ok(Some(automatic))
}

/// For `kiln info`.
pub(super) fn describe_automatic(store: &Store) -> Result<String, Failure> {
    let Some(automatic) = automatic()? else { return Ok(format!("never by itself ({VARIABLE}=off)")) };
    let limits = store.automatic_limits(&automatic).map_err(|e| of_store(&e))?;
    let bytes = |bytes: Option<u64>| size::human(bytes.unwrap_or(0));
    let days = automatic.unused_for.unwrap_or(Automatic::UNUSED_FOR).as_secs()
        / Duration::from_secs(86400).as_secs();
    Ok(format!(
        "after builds, at most hourly: cache unused for {days} days, and the least recently used above {}, or below {} \
         free, but not the last {}",
        bytes(limits.max_used_bytes),
        bytes(limits.min_free_bytes),
        bytes(limits.reserved_bytes),
    ))
}

/// Collects after a build that ran something, when it is time to. A build that succeeded is not to fail for this.
pub(super) fn after_build(store: &Store) {
    let collected = match automatic() {
        Ok(Some(automatic)) => store.collect_automatically(&automatic).map_err(|e| of_store(&e)),
        Ok(None) => return,
        Err(failure) => Err(failure),
    };
    match collected {
        Ok(Some(collected)) if collected.freed_bytes > 0 => {
            print::talk(format!(
                "freed {} of cache{}",
                size::human(collected.freed_bytes),
                counts(&collected)
            ));
        }
        Ok(_) => {}
        Err(failure) => {
            let causes = failure.causes.iter().map(|cause| format!(": {cause}")).collect::<String>();
            print::talk(format!("warning: the cache could not be collected: {}{causes}", failure.message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_read() {
        assert_eq!(parse_automatic("off"), Ok(None));
        let parsed = parse_automatic("unused=7d,max-used-space=10g").unwrap().unwrap();
        assert_eq!(parsed.unused_for, Some(Duration::from_secs(7 * 86400)));
        assert_eq!(parsed.limits.max_used_bytes, Some(10 << 30));
        for bad in ["on", "max-used-space", "max-used-space=x", "unused=7", "colour=red", ","] {
            assert!(parse_automatic(bad).is_err(), "{bad}");
        }
    }
}
