//! "Did you mean": the closest word out of a list.
//!
//! Invariants:
//! - a suggestion is at most two edits away (language.md 1.1, as BuildKit) and never the word itself;
//! - the cost is bounded by the candidates: a word much longer than all of them is never measured.

/// Largest number of edits at which a candidate is still suggested.
const MAX_DISTANCE: usize = 2;

/// The candidate closest to `word`, or `None` when nothing is near or `word` is itself a candidate.
///
/// Letter case costs nothing, so `From` leads to `from`.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    let mut best: Option<(usize, &'a str)> = None;
    for candidate in candidates {
        if candidate == word {
            return None;
        }
        let candidate_length = candidate.chars().count();
        if length.abs_diff(candidate_length) > MAX_DISTANCE {
            continue;
        }
        let distance = distance(&word.to_lowercase(), &candidate.to_lowercase());
        // Everything is two edits away from a two-letter word: then at least one letter must have been right.
        if distance > MAX_DISTANCE || distance >= length.max(candidate_length) {
            continue;
        }
        if best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Levenshtein distance in characters.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, cb) in row.iter_mut().skip(1).zip(&b) {
            let replace = diagonal + usize::from(ca != *cb);
            diagonal = *cell;
            left = replace.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_edits() {
        for (a, b, expected) in [("", "", 0), ("", "ab", 2), ("kitten", "sitting", 3), ("run", "rnu", 2)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let names = ["FROM", "RUN", "COPY"];
        assert_eq!(closest("FORM", names), Some("FROM"));
        assert_eq!(closest("copi", names), Some("COPY"));
        assert_eq!(closest("from", names), Some("FROM"));
        assert_eq!(closest("FROM", names), None);
        assert_eq!(closest("FROBNICATE", names), None);
        assert_eq!(closest("xy", ["ro", "rw"]), None);
        assert_eq!(closest("", names), None);
    }
}
