//! What a collection removes: from what is in the store, a policy and the free space to a list. Pure.
//!
//! | | `prune` | `prune --all`, automatic |
//! | --- | --- | --- |
//! | blobs of images that have names | never | never |
//! | what a running process uses | never | never |
//! | snapshots that are part of such an image | kept | removed |
//! | everything else | removed | removed |
//!
//! The limits then say how much of that: with none of them all of it, else the least recently used, until what is kept
//! (images left out) fits. What would leave less than is reserved is passed over.
//!
//! Invariants:
//! - the layer that a snapshot was unpacked from goes only together with the snapshot: without it an image that
//!   stands on the snapshot could not be written with the same bytes;
//! - what stands on a snapshot goes with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::filter::Filter;
use super::records::SnapshotId;
use super::usage::{Item, Kind, Usage};

/// How far a collection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// What no image needs.
    #[default]
    Unneeded,
    /// Also the unpacked layers of images.
    All,
}

/// What shall be removed.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// How far it goes.
    pub scope: Scope,
    /// Only what passes all of them.
    pub filters: Vec<Filter>,
    /// Only what was not used for this long.
    pub unused_for: Option<Duration>,
    /// How much may be kept.
    pub limits: Limits,
}

/// How much may be kept, images left out. All `None`: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// At most this.
    pub max_used_bytes: Option<u64>,
    /// Less, when the file system has less than this free.
    pub min_free_bytes: Option<u64>,
    /// But this much always.
    pub reserved_bytes: Option<u64>,
}

impl Limits {
    /// How much of `cache_bytes` may stay (BuildKit's rule).
    fn keep_bytes(&self, cache_bytes: u64, free_bytes: u64) -> u64 {
        if *self == Self::default() {
            return 0;
        }
        let mut keep = self.max_used_bytes;
        if let Some(lacking) = self.min_free_bytes.and_then(|wanted| wanted.checked_sub(free_bytes))
            && lacking > 0
        {
            let left = cache_bytes.saturating_sub(lacking);
            keep = Some(keep.map_or(left, |keep| keep.min(left)));
        }
        match (keep, self.max_used_bytes.or(self.min_free_bytes)) {
            (Some(keep), _) => keep.max(self.reserved_bytes.unwrap_or(0)),
            // Enough is free, and nothing else was asked for.
            (None, Some(_)) => u64::MAX,
            (None, None) => self.reserved_bytes.unwrap_or(0),
        }
    }
}

/// What goes, as places in the list of items.
pub(super) fn plan(usage: &Usage, policy: &Policy, free_bytes: u64, now: i64) -> BTreeSet<usize> {
    let deadline =
        policy.unused_for.map(|age| now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)));
    let may_go = |item: &Item| {
        !item.in_use
            && !item.is_image_data()
            && (policy.scope == Scope::All || item.kind != Kind::Snapshot || item.images.is_empty())
            && deadline.is_none_or(|deadline| item.last_used <= deadline)
            && policy.filters.iter().all(|filter| filter.passes(item))
    };
    let mut order: Vec<usize> =
        (0..usage.items.len()).filter(|index| usage.items.get(*index).is_some_and(may_go)).collect();
    let stack = Stack::of(usage);
    // What stands on something else was made later and goes first, when both were last used together.
    let rank = |index: &usize| {
        let item = &usage.items[*index];
        (item.last_used, item.kind, std::cmp::Reverse(stack.height(&item.id)), *index)
    };
    order.sort_by_key(rank);
    let cache_bytes = usage.cache_bytes();
    let most = cache_bytes.saturating_sub(policy.limits.reserved_bytes.unwrap_or(0));
    let mut picked = Picked { usage, stack: &stack, chosen: BTreeSet::new(), bytes: 0, most };
    let keep = policy.limits.keep_bytes(cache_bytes, free_bytes);
    // Blobs that a snapshot needs have to wait for it.
    let mut waiting: Vec<usize> = Vec::new();
    for index in order {
        if cache_bytes - picked.bytes.min(cache_bytes) <= keep {
            break;
        }
        if picked.is_needed(index) {
            waiting.push(index);
        } else {
            picked.choose(index);
        }
    }
    for index in waiting {
        if cache_bytes - picked.bytes.min(cache_bytes) > keep && !picked.is_needed(index) {
            picked.choose(index);
        }
    }
    picked.chosen
}

/// What stands on what.
struct Stack<'a> {
    /// Place of a snapshot's item.
    places: BTreeMap<&'a str, usize>,
    /// Steps that a snapshot is a layer of.
    steps: BTreeMap<&'a SnapshotId, Vec<usize>>,
    /// Snapshots that image layers are found by.
    chained: BTreeSet<&'a SnapshotId>,
    heights: BTreeMap<&'a str, usize>,
}

impl<'a> Stack<'a> {
    fn of(usage: &'a Usage) -> Self {
        let items = usage.items.iter().enumerate().filter(|(_, item)| item.kind == Kind::Snapshot);
        let mut stack = Self {
            places: items.map(|(index, item)| (item.id.as_str(), index)).collect(),
            steps: BTreeMap::new(),
            chained: usage.rows.chains.iter().map(|(_, id)| id).collect(),
            heights: BTreeMap::new(),
        };
        for (number, step) in usage.rows.steps.iter().enumerate() {
            for (height, layer) in step.layers.iter().flatten().enumerate() {
                stack.steps.entry(&layer.snapshot).or_default().push(number);
                let known = stack.heights.entry(&layer.snapshot.0).or_default();
                *known = height.max(*known);
            }
        }
        stack
    }

    fn height(&self, id: &str) -> usize {
        self.heights.get(id).copied().unwrap_or(0)
    }
}

struct Picked<'a> {
    usage: &'a Usage,
    stack: &'a Stack<'a>,
    chosen: BTreeSet<usize>,
    bytes: u64,
    /// The bytes that may go: what is reserved stays.
    most: u64,
}

impl Picked<'_> {
    fn is_chosen(&self, id: &SnapshotId) -> bool {
        self.stack.places.get(id.0.as_str()).is_none_or(|place| self.chosen.contains(place))
    }

    fn is_needed(&self, index: usize) -> bool {
        let item = &self.usage.items[index];
        item.needed_by.iter().any(|id| !self.is_chosen(id))
    }

    /// Chooses an item and what is useless without it, unless that would be more than may go.
    fn choose(&mut self, index: usize) {
        let (mut pending, mut new, before) = (vec![index], Vec::new(), self.bytes);
        while let Some(index) = pending.pop() {
            let item = &self.usage.items[index];
            if item.in_use || !self.chosen.insert(index) {
                continue;
            }
            new.push(index);
            self.bytes += item.size_bytes;
            if item.kind == Kind::Snapshot {
                pending.extend(self.useless_without(&SnapshotId(item.id.clone())));
            }
        }
        if self.bytes > self.most {
            new.iter().for_each(|index| {
                self.chosen.remove(index);
            });
            self.bytes = before;
        }
    }

    /// Snapshots that stand on a chosen one and are found in no other way.
    fn useless_without(&self, id: &SnapshotId) -> Vec<usize> {
        let steps = &self.usage.rows.steps;
        let gone = |number: &usize| {
            let layers = steps[*number].layers.iter().flatten();
            layers.into_iter().any(|layer| {
                self.stack.places.contains_key(layer.snapshot.0.as_str()) && self.is_chosen(&layer.snapshot)
            })
        };
        let mut useless = BTreeSet::new();
        for number in self.stack.steps.get(id).into_iter().flatten() {
            for layer in steps[*number].layers.iter().flatten() {
                let above = &layer.snapshot;
                if let Some(place) = self.stack.places.get(above.0.as_str())
                    && !self.stack.chained.contains(above)
                    && self.stack.steps.get(above).is_some_and(|steps| steps.iter().all(gone))
                {
                    useless.insert(*place);
                }
            }
        }
        useless.into_iter().filter(|place| !self.chosen.contains(place)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use crate::store::records::LayerRef;
    use crate::store::records::collect::StepRow;

    fn item(kind: Kind, id: &str, last_used: i64, size_bytes: u64) -> Item {
        Item {
            kind,
            id: id.to_owned(),
            size_bytes,
            last_used,
            in_use: false,
            images: Vec::new(),
            description: String::new(),
            needed_by: BTreeSet::new(),
            path: String::new(),
        }
    }

    /// Steps as lists of snapshots.
    fn usage(items: Vec<Item>, steps: &[&[&str]]) -> Usage {
        let mut usage = Usage { items, ..Usage::default() };
        for (number, layers) in steps.iter().enumerate() {
            let layer = |id: &&str| LayerRef { snapshot: SnapshotId((*id).to_owned()), standalone: false };
            usage.rows.steps.push(StepRow {
                key: Digest::of(&[number as u8]).to_string(),
                name: String::new(),
                last_used: 0,
                layers: Some(layers.iter().map(layer).collect()),
            });
        }
        usage
    }

    fn planned(usage: &Usage, policy: &Policy) -> Vec<String> {
        plan(usage, policy, 1000, 1000).into_iter().map(|index| usage.items[index].id.clone()).collect()
    }

    fn limits(max_used: Option<u64>, min_free: Option<u64>, reserved: Option<u64>) -> Policy {
        let limits = Limits { max_used_bytes: max_used, min_free_bytes: min_free, reserved_bytes: reserved };
        Policy { scope: Scope::All, limits, ..Policy::default() }
    }

    #[test]
    fn scopes() {
        let part = Item { images: vec!["i".into()], ..item(Kind::Snapshot, "part", 1, 1) };
        let data = Item { images: vec!["i".into()], ..item(Kind::Blob, "data", 1, 1) };
        let used = Item { in_use: true, ..item(Kind::Mount, "used", 1, 1) };
        let rest =
            [item(Kind::Snapshot, "s", 1, 1), item(Kind::Mount, "m", 1, 1), item(Kind::Stray, "x", 1, 1)];
        let usage = usage([part, data, used].into_iter().chain(rest).collect(), &[]);
        assert_eq!(planned(&usage, &Policy::default()), ["s", "m", "x"]);
        let all = Policy { scope: Scope::All, ..Policy::default() };
        assert_eq!(planned(&usage, &all), ["part", "s", "m", "x"]);
        let filtered = Policy { filters: vec!["type=mount".parse().unwrap()], ..all };
        assert_eq!(planned(&usage, &filtered), ["m"]);
    }

    #[test]
    fn the_least_recently_used_go_first_until_it_fits() {
        let items = (1..=5).map(|n| item(Kind::Mount, &n.to_string(), n, 10)).collect();
        let usage = usage(items, &[]);
        assert_eq!(planned(&usage, &limits(Some(30), None, None)), ["1", "2"]);
        assert_eq!(planned(&usage, &limits(Some(25), None, None)), ["1", "2", "3"]);
        assert_eq!(planned(&usage, &limits(None, None, Some(40))), ["1"], "nothing else is asked for");
        assert_eq!(planned(&usage, &limits(None, None, Some(45))), Vec::<String>::new());
        assert_eq!(planned(&usage, &limits(None, Some(1015), None)), ["1", "2"]);
        assert_eq!(planned(&usage, &limits(None, Some(1015), Some(40))), ["1"]);
        assert_eq!(planned(&usage, &limits(None, Some(900), None)), Vec::<String>::new(), "enough is free");
        assert_eq!(planned(&usage, &limits(Some(0), None, Some(20))), ["1", "2", "3"]);
        // 20 are left, and 10 with one more.
        assert_eq!(planned(&usage, &limits(Some(0), None, Some(11))), ["1", "2", "3"]);
        assert_eq!(planned(&usage, &limits(None, Some(1100), Some(11))), ["1", "2", "3"]);
        let aged = Policy { unused_for: Some(Duration::from_secs(998)), ..Policy::default() };
        assert_eq!(planned(&usage, &aged), ["1", "2"]);
    }

    #[test]
    fn what_would_leave_less_than_is_reserved_is_passed_over() {
        let sizes = [(1, 4), (2, 18), (3, 2), (4, 3)];
        let items = sizes.map(|(n, bytes)| item(Kind::Mount, &n.to_string(), n, bytes)).to_vec();
        assert_eq!(planned(&usage(items, &[]), &limits(Some(1), None, Some(8))), ["1", "3", "4"]);
        let snapshots = ["root", "a"].map(|id| item(Kind::Snapshot, id, 5, 10)).to_vec();
        let only = |reserved| Policy {
            filters: vec!["id=root".parse().unwrap()],
            ..limits(Some(0), None, Some(reserved))
        };
        let usage = usage(snapshots, &[&["root", "a"]]);
        assert_eq!(planned(&usage, &only(1)), Vec::<String>::new(), "what stands on it goes with it");
        assert_eq!(planned(&usage, &only(0)), ["root", "a"]);
    }

    #[test]
    fn what_stands_on_a_snapshot_goes_with_it_and_nothing_else_does() {
        let snapshots = ["root", "a", "b", "side"].map(|id| item(Kind::Snapshot, id, 5, 1));
        let usage = usage(snapshots.to_vec(), &[&["root", "a"], &["root", "a", "b"], &["root", "side"]]);
        let only =
            |id: &str| Policy { filters: vec![format!("id={id}").parse().unwrap()], ..Policy::default() };
        assert_eq!(planned(&usage, &only("b")), ["b"]);
        assert_eq!(planned(&usage, &only("a")), ["a", "b"]);
        assert_eq!(planned(&usage, &only("root")), ["root", "a", "b", "side"]);
        // Equally old: the uppermost first.
        assert_eq!(planned(&usage, &limits(Some(3), None, None)), ["b"]);
    }

    #[test]
    fn a_layers_blob_goes_with_its_snapshot_only() {
        let blob = Item {
            needed_by: BTreeSet::from([SnapshotId("unpacked".into())]),
            ..item(Kind::Blob, "sha256:blob", 1, 10)
        };
        let mut usage = usage(vec![blob, item(Kind::Snapshot, "unpacked", 2, 10)], &[]);
        assert_eq!(planned(&usage, &limits(Some(10), None, None)), ["unpacked"]);
        assert_eq!(planned(&usage, &limits(Some(5), None, None)), ["sha256:blob", "unpacked"]);
        usage.items[1].in_use = true;
        assert_eq!(planned(&usage, &limits(Some(0), None, None)), Vec::<String>::new());
    }
}
