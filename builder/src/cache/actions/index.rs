//! The index of a cache: which steps it has, in one entry of the service.
//!
//! Entries of the service cannot be changed, so a new index has a new key: `PREFIX#N`, and the newest one is found by its
//! prefix. Whoever writes adds to what the newest one says.
//!
//! Invariants: an index is read strictly and within limits; one that is written is within them as well.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde::{Deserialize, Serialize};

use crate::base::digest::Digest;
use crate::cache::Tag;

/// Largest index as the service keeps it.
pub(super) const MAX_PACKED_BYTES: u64 = 16 * 1024 * 1024;
/// Largest index in memory.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Most manifests of an index that is written, those used last.
const MAX_MANIFESTS: usize = 10_000;
/// Most bytes of manifests in an index that is written.
const MAX_MANIFEST_BYTES: usize = 24 * 1024 * 1024;
/// Largest number of an index.
const MAX_NUMBER: u64 = 1 << 53;
const LEVEL: i32 = 9;

/// What an index knows of a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Seconds since 1970 of the last build that wrote it or found it there.
    pub(super) used: i64,
    /// The manifest, as text.
    pub(super) manifest: String,
}

/// Manifests by tag.
pub(super) type Entries = BTreeMap<String, Entry>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    entries: Entries,
}

/// Where the index of a cache is, for one git reference: jobs of another one could not write to the same.
pub(super) fn prefix(scope: &str, reference: &str) -> String {
    let mut hex = Digest::of(reference.as_bytes()).hex();
    hex.truncate(8);
    format!("kiln-index-1-{scope}-{hex}#")
}

/// The number of an index by its key.
pub(super) fn number(prefix: &str, key: &str) -> Option<u64> {
    let text = key.strip_prefix(prefix)?;
    let number = text.parse().ok()?;
    (text.bytes().all(|byte| byte.is_ascii_digit()) && number < MAX_NUMBER).then_some(number)
}

/// Reads an index. Gives what is wrong with it, where something is.
pub(super) fn unpack(packed: &[u8]) -> Result<Entries, &'static str> {
    let mut reader =
        zstd::stream::read::Decoder::new(packed).map_err(|_| "it is not compressed as it should be")?;
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|_| "it is not compressed as it should be")?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err("it is too large");
    }
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| "it is no list of steps")?;
    if stored.version == 1 { Ok(stored.entries) } else { Err("it has another version") }
}

/// The bytes of an index.
pub(super) fn pack(entries: Entries) -> Vec<u8> {
    let stored = Stored { version: 1, entries };
    let bytes = serde_json::to_vec(&stored).expect("invariant: plain data always serialises");
    zstd::bulk::compress(&bytes, LEVEL).expect("invariant: memory can be compressed")
}

/// What is there with what this build adds, and when this build found what it had no need to add. What nobody has used
/// for the longest time is left out when it gets too much. `None` when nothing new is in it.
pub(super) fn merge(there: &Entries, added: &Entries, seen: &[Tag], now: i64) -> Option<Entries> {
    let news =
        |(tag, entry): (&String, &Entry)| there.get(tag).is_none_or(|old| old.manifest != entry.manifest);
    if !added.iter().any(news) {
        return None;
    }
    let mut all = there.clone();
    for tag in seen {
        if let Some(entry) = all.get_mut(&tag.to_string()) {
            entry.used = now;
        }
    }
    all.extend(added.iter().map(|(tag, entry)| (tag.clone(), entry.clone())));
    let mut newest: Vec<(String, Entry)> = all.into_iter().collect();
    newest.sort_by(|(one, a), (other, b)| b.used.cmp(&a.used).then_with(|| one.cmp(other)));
    newest.truncate(MAX_MANIFESTS);
    let mut room = MAX_MANIFEST_BYTES;
    newest.retain(|(_, entry)| match room.checked_sub(entry.manifest.len()) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    });
    Some(newest.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(used: i64, manifest: &str) -> Entry {
        Entry { used, manifest: manifest.to_owned() }
    }

    fn entries(all: &[(&str, i64, &str)]) -> Entries {
        all.iter().map(|(tag, used, manifest)| ((*tag).to_owned(), entry(*used, manifest))).collect()
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let all = entries(&[("k1-a", 1, "{}"), ("k1-b", 2, "{\"x\":1}")]);
        assert_eq!(unpack(&pack(all.clone())), Ok(all));
    }

    #[test]
    fn a_hostile_index_is_refused() {
        let packed = |text: &str| zstd::bulk::compress(text.as_bytes(), 1).unwrap();
        for (bytes, why) in [
            (b"{}".to_vec(), "it is not compressed as it should be"),
            (Vec::new(), "it is not compressed as it should be"),
            (packed("[]"), "it is no list of steps"),
            (packed(r#"{"version":2,"entries":{}}"#), "it has another version"),
            (packed(r#"{"version":1,"entries":{},"url":"http://h/"}"#), "it is no list of steps"),
            (
                packed(r#"{"version":1,"entries":{"k":{"used":1,"manifest":"","path":"/etc"}}}"#),
                "it is no list of steps",
            ),
            (packed(&" ".repeat(MAX_BYTES as usize + 1)), "it is too large"),
        ] {
            assert_eq!(unpack(&bytes), Err(why));
        }
        let good = pack(entries(&[("k1-a", 1, "{}")]));
        assert!(unpack(&good[..good.len() - 5]).is_err());
    }

    #[test]
    fn keys_have_numbers() {
        let prefix = prefix("app", "refs/heads/main");
        assert_eq!(prefix, "kiln-index-1-app-f921bd05#");
        assert_eq!(number(&prefix, &format!("{prefix}12")), Some(12));
        for bad in ["", "-1", "+1", "x", "1x", "99999999999999999999", "9999999999999999"] {
            assert_eq!(number(&prefix, &format!("{prefix}{bad}")), None, "{bad}");
        }
        assert_eq!(number(&prefix, "kiln-index-1-other#1"), None);
    }

    #[test]
    fn what_is_added_joins_what_was_there() {
        let there = entries(&[("a", 1, "old"), ("b", 1, "b"), ("c", 1, "c")]);
        let merged =
            merge(&there, &entries(&[("a", 9, "new")]), &[Tag("b".to_owned()), Tag("z".to_owned())], 9);
        assert_eq!(merged, Some(entries(&[("a", 9, "new"), ("b", 9, "b"), ("c", 1, "c")])));
        assert_eq!(merge(&there, &entries(&[("b", 9, "b")]), &[], 9), None, "nothing is new");
        assert_eq!(merge(&there, &Entries::new(), &[], 9), None);
    }

    #[test]
    fn what_was_not_used_for_long_goes_first() {
        let old: Entries = (0..MAX_MANIFESTS).map(|n| (format!("o{n}"), entry(n as i64, "m"))).collect();
        let merged = merge(&old, &entries(&[("new", i64::MAX, "n")]), &[], 0).unwrap();
        assert_eq!(merged.len(), MAX_MANIFESTS);
        assert!(merged.contains_key("new") && !merged.contains_key("o0") && merged.contains_key("o1"));
        let large = "x".repeat(MAX_MANIFEST_BYTES - 1);
        let merged =
            merge(&entries(&[("a", 1, "mm"), ("b", 0, "m")]), &entries(&[("l", 2, &large)]), &[], 0).unwrap();
        assert_eq!(merged.into_keys().collect::<Vec<_>>(), ["b", "l"]);
    }
}
