//! Variables in the order in which they were set, and the suggestion for one that is not.
//!
//! Invariants: setting a variable again moves it to the end, as in BuildKit's list; the order decides which of several
//! equally near names is suggested.

use std::collections::BTreeMap;

use crate::expand::Env;
use crate::suggest;

/// Edits at which a name is no longer suggested.
const TOO_FAR: usize = 3;

/// Variables by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// Value and when it was set.
    entries: BTreeMap<String, (usize, String)>,
    next: usize,
}

impl Scope {
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.entries.get(name).map(|(_, value)| value.as_str())
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.entries.insert(name.to_owned(), (self.next, value.to_owned()));
        self.next += 1;
    }

    pub(super) fn set_pair(&mut self, pair: &str) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        self.set(name, value);
    }

    /// Names in the order in which they were set.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let mut entries: Vec<(usize, &str)> =
            self.entries.iter().map(|(name, (at, _))| (*at, name.as_str())).collect();
        entries.sort_unstable();
        entries.into_iter().map(|(_, name)| name)
    }
}

impl Env for Scope {
    fn get(&self, name: &str) -> Option<String> {
        self.value(name).map(str::to_owned)
    }
}

/// The nearest of `names`, letter case counting; `None` when `name` is one of them or none is near.
///
/// Not [`suggest::closest`]: the message is BuildKit's, and so are the names in it.
pub(super) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    let length = name.chars().count();
    let mut best = None;
    let mut least = TOO_FAR;
    for candidate in names {
        if candidate == name {
            return None;
        }
        if candidate.chars().count().abs_diff(length) >= least {
            continue;
        }
        let distance = suggest::distance(name, candidate);
        if distance < least {
            (best, least) = (Some(candidate), distance);
        }
    }
    best.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_nearest_names_wins() {
        let near = |name, names: &[&str]| nearest(name, names.iter().copied());
        assert_eq!(near("VERSON", &["PATH", "VERSION", "VERSIN"]).as_deref(), Some("VERSION"));
        assert_eq!(near("version", &["VERSION"]), None);
        assert_eq!(near("A", &["ABC", "AB"]).as_deref(), Some("AB"));
        assert_eq!(near("A", &["AB", "A"]), None);
    }

    #[test]
    fn setting_again_moves_to_the_end() {
        let mut scope = Scope::default();
        scope.set_pair("A=1");
        scope.set_pair("B=2");
        scope.set("A", "3");
        assert_eq!(scope.names().collect::<Vec<_>>(), ["B", "A"]);
        assert_eq!(scope.value("A"), Some("3"));
    }
}
