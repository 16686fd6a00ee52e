//! Taking the values of secrets out of the output of steps, before it is shown or kept.
//!
//! Invariants: a value is found wherever the chunks of the stream are cut; values shorter than [`MIN_BYTES`] are not
//! looked for, since they would be found everywhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::base::events::{Event, EventSink, Outcome, StepNumber, Stream};

/// Shortest value that is masked.
const MIN_BYTES: usize = 4;
/// What stands in place of a value.
const MASK: &[u8] = b"*****";

/// A sink that passes events on to `below` with `secrets` masked in everything that a step says, in warnings and in
/// reasons of failures. What may be the beginning of a value is passed on once it is known not to be one, and when
/// its step has ended.
pub fn masked(below: EventSink, secrets: impl IntoIterator<Item = Vec<u8>>) -> EventSink {
    let masks = Masks::new(secrets);
    if masks.0.is_empty() {
        return below;
    }
    let streams: Mutex<BTreeMap<StepNumber, Streams>> = Mutex::default();
    EventSink::new(move |event| {
        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Log { step, stream, at, data } => {
                let held = streams.entry(step).or_default();
                held.at = at;
                let data = masks.push(held.of(stream), &data);
                if !data.is_empty() {
                    below.send(Event::Log { step, stream, at, data });
                }
            }
            Event::Finished { step, outcome, took } => {
                if let Some(mut held) = streams.remove(&step) {
                    for stream in [Stream::Stdout, Stream::Stderr] {
                        let data = masks.finish(held.of(stream));
                        if !data.is_empty() {
                            below.send(Event::Log { step, stream, at: held.at, data });
                        }
                    }
                }
                let outcome = match outcome {
                    Outcome::Failed(reason) => Outcome::Failed(masks.text(reason)),
                    outcome => outcome,
                };
                below.send(Event::Finished { step, outcome, took });
            }
            Event::Warning { message } => below.send(Event::Warning { message: masks.text(message) }),
            event => below.send(event),
        }
    })
}

/// What a step has said and nobody has seen.
#[derive(Default)]
struct Streams {
    held: [Held; 2],
    /// When it said something last.
    at: Duration,
}

impl Streams {
    fn of(&mut self, stream: Stream) -> &mut Held {
        let [stdout, stderr] = &mut self.held;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }
}

/// The values to look for.
#[derive(Debug, Clone, Default)]
struct Masks(Vec<Vec<u8>>);

/// The end of a stream so far: what may be the beginning of a value.
#[derive(Debug, Default)]
struct Held(Vec<u8>);

impl Masks {
    /// Looks for `values`, and for each line of those that have several.
    fn new(values: impl IntoIterator<Item = Vec<u8>>) -> Self {
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
    fn push(&self, held: &mut Held, chunk: &[u8]) -> Vec<u8> {
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

    /// A whole text.
    fn text(&self, text: String) -> String {
        let mut held = Held::default();
        let mut kept = self.push(&mut held, text.as_bytes());
        kept.extend(self.finish(&mut held));
        String::from_utf8(kept).unwrap_or(text)
    }

    /// The rest at the end of the stream.
    fn finish(&self, held: &mut Held) -> Vec<u8> {
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

    #[test]
    fn events_come_without_values_and_otherwise_whole() {
        let seen = std::sync::Arc::new(Mutex::new(Vec::new()));
        let below = seen.clone();
        let sink = EventSink::new(move |event| below.lock().unwrap().push(event));
        let sink = super::masked(sink, [b"token-value\n".to_vec()]);
        let log = |step, stream, data: &[u8]| Event::Log {
            step,
            stream,
            at: Duration::from_secs(1),
            data: data.to_vec(),
        };
        let finished = |outcome| Event::Finished { step: 1, outcome, took: Duration::ZERO };
        sink.send(Event::Started { step: 1 });
        sink.send(log(1, Stream::Stdout, b"is token-"));
        // Another stream and another step do not come between.
        sink.send(log(1, Stream::Stderr, b"oops"));
        sink.send(log(2, Stream::Stdout, b"other"));
        sink.send(log(1, Stream::Stdout, b"value"));
        sink.send(log(1, Stream::Stdout, b", no token"));
        sink.send(finished(Outcome::Failed("about token-value".to_owned())));
        sink.send(Event::Warning { message: "token-value".to_owned() });
        let expected = [
            Event::Started { step: 1 },
            log(1, Stream::Stdout, b"is "),
            log(1, Stream::Stderr, b"oops"),
            log(2, Stream::Stdout, b"other"),
            log(1, Stream::Stdout, b"*****"),
            log(1, Stream::Stdout, b", no "),
            log(1, Stream::Stdout, b"token"),
            finished(Outcome::Failed("about *****".to_owned())),
            Event::Warning { message: "*****".to_owned() },
        ];
        assert_eq!(*seen.lock().unwrap(), expected);
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
