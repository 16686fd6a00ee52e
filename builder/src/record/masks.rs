//! Taking the values of secrets out of a stream of output, before it is kept.
//!
//! Invariants: a value is found wherever the chunks of the stream are cut; values shorter than [`MIN_BYTES`] are not
//! looked for, since they would be found everywhere.

/// Shortest value that is masked.
const MIN_BYTES: usize = 4;
/// What stands in place of a value.
const MASK: &[u8] = b"*****";

/// The values to look for.
#[derive(Debug, Clone, Default)]
pub struct Masks(Vec<Vec<u8>>);

/// The end of a stream so far: what may be the beginning of a value.
#[derive(Debug, Default)]
pub struct Held(Vec<u8>);

impl Masks {
    /// Looks for `values`, and for each line of those that have several.
    pub fn new(values: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut masks: Vec<Vec<u8>> = Vec::new();
        for value in values {
            let trimmed = value.trim_ascii();
            let lines = trimmed.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            masks.extend(std::iter::once(trimmed).chain(lines).map(<[u8]>::to_vec));
        }
        masks.retain(|mask| mask.len() >= MIN_BYTES);
        // The longest first, so that a value is not spoilt by a part of it.
        masks.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        masks.dedup();
        Self(masks)
    }

    /// Takes a chunk in and gives what can be kept of the stream now.
    pub fn push(&self, held: &mut Held, chunk: &[u8]) -> Vec<u8> {
        if self.0.is_empty() {
            return chunk.to_vec();
        }
        held.0.extend_from_slice(chunk);
        let bytes = std::mem::take(&mut held.0);
        let mut kept = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            // A longer value than the one found here may still be on its way.
            if self.0.iter().any(|mask| mask.len() > rest.len() && mask.starts_with(rest)) {
                held.0 = rest.to_vec();
                break;
            }
            match self.0.iter().find(|mask| rest.starts_with(mask)) {
                Some(mask) => {
                    kept.extend_from_slice(MASK);
                    at += mask.len();
                }
                None => {
                    kept.extend(rest.first());
                    at += 1;
                }
            }
        }
        kept
    }

    /// The rest at the end of the stream.
    pub fn finish(&self, held: &mut Held) -> Vec<u8> {
        let rest = std::mem::take(&mut held.0);
        // Nothing follows, so whole values in it are all there is to find.
        let shorter = Self(self.0.iter().filter(|mask| mask.len() <= rest.len()).cloned().collect());
        let mut last = Held::default();
        let mut kept = shorter.push(&mut last, &rest);
        if !last.0.is_empty() {
            // Shorter than `rest`: it begins a value that fits into that.
            kept.extend(self.finish(&mut last));
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(values: &[&str], chunks: &[&[u8]]) -> String {
        let masks = Masks::new(values.iter().map(|value| value.as_bytes().to_vec()));
        let mut held = Held::default();
        let mut kept = Vec::new();
        for chunk in chunks {
            kept.extend(masks.push(&mut held, chunk));
        }
        kept.extend(masks.finish(&mut held));
        String::from_utf8_lossy(&kept).into_owned()
    }

    #[test]
    fn values_are_masked_wherever_they_are_cut() {
        for cut in 0..=22 {
            let text = b"a token-value token-va";
            let (one, two) = text.split_at(cut.min(text.len()));
            assert_eq!(masked(&["token-value\n"], &[one, two]), "a ***** token-va");
        }
        assert_eq!(masked(&["abcd", "abcdefgh"], &[b"abcdefg abcdefgh"]), "*****efg *****");
        assert_eq!(masked(&["line one\nline two"], &[b"x line two y"]), "x ***** y");
        assert_eq!(masked(&["abcdabcdz", "abcdq", "abcd"], &[b"abcdabcd"]), "**********");
        assert_eq!(masked(&["abc"], &[b"abc"]), "abc");
        assert_eq!(masked(&[], &[b"abc"]), "abc");
    }

    proptest! {
        #[test]
        fn no_value_gets_through(text in "[ab]{0,40}", cuts in proptest::collection::vec(0usize..40, 0..4)) {
            let mut at: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            at.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in at {
                chunks.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            chunks.push(&text.as_bytes()[from..]);
            prop_assert!(!masked(&["abab"], &chunks).contains("abab"));
        }
    }
}
