//! The steps that led from the base image to a result.
//!
//! Every result holds all of them, so a chain of n steps holds n² / 2. That is why they are kept, in memory and in the
//! database, as a text of one to three bytes for a step: by how many seconds it is later than the one before it
//! (nothing for none), then `+` for one that added a layer and `.` for one that added none.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// One step on the way to a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrailStep {
    /// Whether it added a layer (an empty diff adds none).
    pub added_layer: bool,
    /// When it ran, in seconds since 1970.
    pub created: i64,
}

/// Every step since the base image, the last one last: what the image's history is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Trail {
    text: String,
    /// When the last step ran.
    newest: i64,
}

impl Trail {
    /// The same with one step more.
    pub fn push(&mut self, step: TrailStep) {
        // Times come from a clock or from a record somebody else made: a difference that does not fit is not to wrap.
        let later = step.created.saturating_sub(self.newest);
        if later != 0 {
            // Writing to a string cannot fail.
            _ = write!(self.text, "{later}");
        }
        self.text.push(if step.added_layer { '+' } else { '.' });
        self.newest = self.newest.saturating_add(later);
    }

    /// The steps, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = TrailStep> + '_ {
        let mut created = 0i64;
        self.text.split_inclusive(['+', '.']).map(move |part| {
            let (later, mark) = part.split_at(part.len() - 1);
            // Nothing else is ever in the text: `try_from` looks at what comes from outside.
            created = created.saturating_add(later.parse().unwrap_or(0));
            TrailStep { added_layer: mark == "+", created }
        })
    }

    /// The last step.
    pub fn last(&self) -> Option<TrailStep> {
        let mark = self.text.chars().next_back()?;
        Some(TrailStep { added_layer: mark == '+', created: self.newest })
    }

    /// The same without the last step.
    pub fn pop(&mut self) {
        self.text.pop();
        self.text.truncate(self.text.rfind(['+', '.']).map_or(0, |mark| mark + 1));
        self.newest = self.iter().last().map_or(0, |step| step.created);
    }
}

impl FromIterator<TrailStep> for Trail {
    fn from_iter<I: IntoIterator<Item = TrailStep>>(steps: I) -> Self {
        let mut trail = Trail::default();
        steps.into_iter().for_each(|step| trail.push(step));
        trail
    }
}

impl TryFrom<String> for Trail {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not a list of steps");
        let mut newest = 0i64;
        for part in text.split_inclusive(['+', '.']) {
            let later = part.strip_suffix(['+', '.']).ok_or_else(malformed)?;
            let later = if later.is_empty() { Ok(0) } else { later.parse::<i64>() };
            newest = later.ok().and_then(|later| newest.checked_add(later)).ok_or_else(malformed)?;
        }
        Ok(Self { text, newest })
    }
}

impl From<Trail> for String {
    fn from(trail: Trail) -> Self {
        trail.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn steps() -> impl Strategy<Value = Vec<TrailStep>> {
        let created = prop_oneof![Just(1_764_169_200), 0..4_000_000_000i64, -5..5i64];
        let step = (any::<bool>(), created);
        prop::collection::vec(
            step.prop_map(|(added_layer, created)| TrailStep { added_layer, created }),
            0..9,
        )
    }

    proptest! {
        #[test]
        fn steps_come_back(steps in steps()) {
            let trail: Trail = steps.iter().copied().collect();
            prop_assert_eq!(trail.iter().collect::<Vec<_>>(), steps.clone());
            prop_assert_eq!(trail.last(), steps.last().copied());
            let text = serde_json::to_string(&trail).expect("text");
            prop_assert_eq!(&serde_json::from_str::<Trail>(&text).expect("trail"), &trail);
            let mut shorter = trail;
            shorter.pop();
            let rest = &steps[..steps.len().saturating_sub(1)];
            prop_assert_eq!(shorter, rest.iter().copied().collect::<Trail>());
        }

        #[test]
        fn what_others_wrote_is_no_panic(text in "[0-9+.-]{0,12}|.{0,6}") {
            if let Ok(trail) = Trail::try_from(text.clone()) {
                prop_assert_eq!(trail.iter().count(), text.matches(['+', '.']).count());
            }
        }
    }

    #[test]
    fn a_step_takes_a_byte_or_two() {
        let trail: Trail = (0..1000)
            .map(|step| TrailStep { added_layer: step % 10 == 0, created: 1_764_169_200 + step / 3 })
            .collect();
        assert!(trail.text.len() < 1500, "{}", trail.text.len());
        assert!(trail.text.starts_with("1764169200+..1...1"), "{}", trail.text);
    }

    #[test]
    fn lists_of_other_forms_are_refused() {
        for text in ["12", "+1", "x+", "1-2+", "--1+", "9223372036854775807+1+"] {
            assert!(Trail::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn extreme_times_do_not_wrap() {
        let steps = [i64::MIN, i64::MAX].map(|created| TrailStep { added_layer: true, created });
        let trail: Trail = steps.into_iter().collect();
        assert_eq!(trail.iter().map(|step| step.created).collect::<Vec<_>>(), [i64::MIN, -1]);
    }
}
