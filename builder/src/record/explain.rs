//! Why steps ran: a comparison with the closest earlier record of the same step. Pure.
//!
//! Which earlier step is "the same": of the records of the same project, and no others,
//!
//! 1. a step of the same stage with an equal spec (what it reads must differ then),
//! 2. else one of the same stage, kind and text,
//! 3. else the one in the same place of the same stage, unless that one is another step of this build.
//!
//! Of several, the one from which the fewest things differ; of these, the newest. Only a step that had a result is
//! compared with. The first thing that differs is told, in this order: what the user
//! asked for (`--no-cache`, `--cache-ttl`), the step itself, what it reads from outside, its inputs in their order.
//!
//! Invariants: records are input: a spec that cannot be read is a spec that differs.

use std::collections::BTreeSet;

use crate::base::digest::{CacheKey, Digest};
use crate::plan::graph::Op;

use super::listing::ReadListings;
use super::miss::MissReason;
use super::{About, BuildRecord, Refused, StepOutcome, StepRecord};

mod files;
mod spec;

/// Fills in why the steps of `record` ran and what it led to. `earlier` has other builds, the newest first.
pub fn explain(record: &mut BuildRecord, earlier: &[BuildRecord], listings: &dyn ReadListings) {
    let comparison = Comparison { record, earlier, listings };
    let found: Vec<(usize, Option<MissReason>, bool)> = comparison
        .record
        .steps
        .iter()
        .enumerate()
        .filter(|(_, step)| step.counted && matches!(step.outcome, StepOutcome::Ran | StepOutcome::Failed))
        .map(|(at, step)| (at, Some(comparison.reason(step, 0)), comparison.cuts(step)))
        .collect();
    for (at, miss, cut) in found {
        if let Some(step) = record.steps.get_mut(at) {
            step.miss = miss;
            step.cut = cut;
        }
    }
}

/// How far a reason is passed on through steps that kiln added by itself.
const MAX_DEPTH: usize = 4;

struct Comparison<'a> {
    record: &'a BuildRecord,
    earlier: &'a [BuildRecord],
    listings: &'a dyn ReadListings,
}

/// A step of an earlier build.
#[derive(Clone, Copy)]
struct Earlier<'a> {
    build: &'a BuildRecord,
    step: &'a StepRecord,
}

impl<'a> Comparison<'a> {
    fn reason(&self, step: &StepRecord, depth: usize) -> MissReason {
        match step.refused {
            Some(Refused::NoCache) => return MissReason::NoCache,
            Some(Refused::NoCacheFilter) => return MissReason::NoCacheFilter,
            Some(Refused::Expired(age_seconds)) => return MissReason::Expired { age_seconds },
            None => {}
        }
        let Some(earlier) = self.closest(step, |step| step.outcome.has_result()) else {
            let tried = |step: &StepRecord| step.outcome == StepOutcome::Failed;
            return match self.closest(step, tried) {
                Some(earlier) if earlier.step.key == step.key => MissReason::NeverSucceeded,
                _ => MissReason::FirstBuild,
            };
        };
        if earlier.step.key == step.key {
            // An input that gives something else each time it runs (`date`) has the same definition all the same.
            return self.of_inputs(step, earlier, depth);
        }
        let about = (&self.record.head.about, &earlier.build.head.about);
        if let Some(reason) = self.of_step(step, earlier.step, about) {
            return reason;
        }
        if step.outside != earlier.step.outside {
            return self.of_outside(step, earlier.step);
        }
        self.of_inputs(step, earlier, depth)
    }

    /// What differs in the step itself.
    fn of_step(&self, step: &StepRecord, was: &StepRecord, about: (&About, &About)) -> Option<MissReason> {
        if step.spec != was.spec {
            return Some(match (read(step), read(was)) {
                (Some(is), Some(was)) => spec::difference(&was, &is, |name| {
                    [about.0, about.1].iter().any(|about| about.has_argument(name))
                }),
                _ => MissReason::Other,
            });
        }
        let runs = matches!(read(step), Some(Op::Run(_)));
        (runs && step.platform != was.platform)
            .then(|| MissReason::Platform { was: was.platform.clone(), is: step.platform.clone() })
    }

    fn of_outside(&self, step: &StepRecord, was: &StepRecord) -> MissReason {
        match read(step) {
            Some(Op::Copy(_)) => match (&was.outside, &step.outside) {
                (Some(was), Some(is)) => self.of_files(was, is),
                _ => MissReason::Files,
            },
            Some(Op::Http(spec)) => MissReason::Download { address: spec.url },
            Some(Op::Git(spec)) => MissReason::Commit { address: spec.reference },
            Some(Op::Run(_)) => MissReason::Secret,
            _ => MissReason::Other,
        }
    }

    fn of_files(&self, was: &Digest, is: &Digest) -> MissReason {
        match (self.listings.read(was), self.listings.read(is)) {
            (Some(was), Some(is)) => files::difference(&was, &is).unwrap_or(MissReason::Selection),
            _ => MissReason::Files,
        }
    }

    /// Which input is to blame: by content where that is known of both, else by definition.
    fn of_inputs(&self, step: &StepRecord, earlier: Earlier<'a>, depth: usize) -> MissReason {
        let contents = self.contents_of(earlier.step);
        let differs = |at: usize, (is, was): (&u32, &u32)| match (step.contents.get(at), contents.get(at)) {
            (Some(is), Some(was)) => is != was,
            _ => self.record.step(*is).and_then(|s| s.key) != earlier.build.step(*was).and_then(|s| s.key),
        };
        let mut pairs = step.inputs.iter().zip(&earlier.step.inputs).enumerate();
        let Some((at, (is, was))) = pairs.find(|(at, pair)| differs(*at, *pair)) else {
            // Equal in everything that counts, and yet not found.
            return MissReason::Removed;
        };
        let (Some(is), Some(was)) = (self.record.step(*is), earlier.build.step(*was)) else {
            return MissReason::Other;
        };
        if let (Some(image), Some(before)) = (&is.image, &was.image)
            && is.spec != was.spec
        {
            return MissReason::BaseImage { name: image.0.clone(), was: Some(before.1), is: Some(image.1) };
        }
        if self.replaces(is, was) {
            return MissReason::InputReplaced { step: described(is), was: described(was) };
        }
        // Files of another stage that COPY --from selects are known by name.
        if let (Some(Op::Copy(_)), Some(now), Some(before)) =
            (read(step), step.contents.get(at), contents.get(at))
            && at > 0
        {
            let reason = self.of_files(before, now);
            if reason != MissReason::Files {
                return reason;
            }
        }
        // What kiln added by itself has no name that would help anybody.
        if !is.counted || is.name.is_empty() || is.name.starts_with("[internal]") {
            if depth < MAX_DEPTH {
                return self.reason(is, depth + 1);
            }
            return MissReason::Other;
        }
        // One with an equal definition and another content ran again in this build, or in one between.
        if matches!(is.outcome, StepOutcome::Ran | StepOutcome::Failed) || is.key == was.key {
            return MissReason::InputRan { step: is.name.clone() };
        }
        MissReason::InputReplaced { step: is.name.clone(), was: was.name.clone() }
    }

    /// Whether an input is another one than before, and not the same one changed.
    fn replaces(&self, is: &StepRecord, was: &StepRecord) -> bool {
        let known = |step: &StepRecord| step.counted || is_beginning(step);
        if !known(is) || !known(was) || is.spec == was.spec {
            return false;
        }
        is_beginning(is) || is_beginning(was) || kind(is) != kind(was) || {
            let same = |step: &StepRecord| step.stage == was.stage && step.spec == was.spec;
            self.record.steps.iter().any(same)
        }
    }

    /// What an earlier step read of its inputs; a build that found the step stored did not look.
    fn contents_of(&self, step: &'a StepRecord) -> &'a [Digest] {
        if !step.contents.is_empty() {
            return &step.contents;
        }
        let all = self.earlier.iter().flat_map(|build| &build.steps);
        let mut same = all.filter(|other| other.key == step.key && !other.contents.is_empty());
        same.next().map_or(&[], |other| &other.contents)
    }

    /// Whether a step that ran gave what it gave before, so that everything below it stayed cached.
    fn cuts(&self, step: &StepRecord) -> bool {
        let mut readers = self.readers(step.number).peekable();
        if step.outcome != StepOutcome::Ran
            || readers.peek().is_none()
            || !readers.all(|reader| reader.by_content)
        {
            return false;
        }
        let mut below = BTreeSet::new();
        let mut pending = vec![step.number];
        while let Some(number) = pending.pop() {
            let new = self.readers(number).filter(|reader| below.insert(reader.number));
            pending.extend(new.map(|reader| reader.number));
        }
        let stored = |step: &StepRecord| matches!(step.outcome, StepOutcome::Cached | StepOutcome::Covered);
        self.record.steps.iter().filter(|step| step.counted && below.contains(&step.number)).all(stored)
    }

    fn readers(&self, number: u32) -> impl Iterator<Item = &StepRecord> {
        self.record.steps.iter().filter(move |other| other.inputs.contains(&number))
    }

    /// The closest earlier step that satisfies `wanted`.
    fn closest(&self, step: &StepRecord, wanted: impl Fn(&StepRecord) -> bool) -> Option<Earlier<'a>> {
        let about = &self.record.head.about;
        let builds = || self.earlier.iter().filter(|build| about.is_same_project(&build.head.about));
        let steps = || {
            builds().flat_map(|build| {
                let steps = build.steps.iter().filter(|other| wanted(other) && other.stage == step.stage);
                steps.map(move |step| Earlier { build, step })
            })
        };
        // Of equal ones the first is taken, which is the newest.
        let fewest = |matches: &dyn Fn(&StepRecord) -> bool| {
            steps().filter(|other| matches(other.step)).min_by_key(|other| self.differences(step, *other))
        };
        fewest(&|other| other.spec == step.spec && other.inputs.len() == step.inputs.len())
            .or_else(|| fewest(&|other| kind(other) == kind(step) && text(other) == text(step)))
            .or_else(|| {
                let place = place(self.record, step);
                let is_own = |other: &StepRecord| {
                    self.record.steps.iter().any(|own| own.stage == other.stage && own.spec == other.spec)
                };
                steps().find(|other| {
                    kind(other.step) == kind(step)
                        && place == self::place(other.build, other.step)
                        && !is_own(other.step)
                })
            })
    }

    /// How many things differ.
    fn differences(&self, step: &StepRecord, earlier: Earlier<'_>) -> usize {
        let was = earlier.step;
        if was.key == step.key {
            return 0;
        }
        let keys = |build: &BuildRecord, inputs: &[u32]| -> Vec<Option<CacheKey>> {
            inputs.iter().map(|input| build.step(*input).and_then(|input| input.key)).collect()
        };
        let (now, before) = (keys(self.record, &step.inputs), keys(earlier.build, &was.inputs));
        let inputs = now.iter().zip(&before).filter(|(is, was)| is != was).count();
        1 + spec::distance(&was.spec, &step.spec)
            + usize::from(was.platform != step.platform)
            + usize::from(was.outside != step.outside)
            + inputs
            + now.len().abs_diff(before.len())
    }
}

/// Whether it is what stages begin with: an image, or nothing.
fn is_beginning(step: &StepRecord) -> bool {
    step.image.is_some() || kind(step) == Some("scratch")
}

/// A step as another one that stands on it names it.
fn described(step: &StepRecord) -> String {
    match &step.image {
        Some((name, _)) => format!("the base image {name}"),
        None if is_beginning(step) => "an empty file system".to_owned(),
        None => step.name.clone(),
    }
}

fn read(step: &StepRecord) -> Option<Op> {
    // Without the clone there would be no value to take apart; steps that ran are few.
    serde_json::from_value(step.spec.clone()).ok()
}

fn kind(step: &StepRecord) -> Option<&str> {
    step.spec.get("kind")?.as_str()
}

/// The instruction, without its place in the stage.
fn text(step: &StepRecord) -> &str {
    step.name.split_once("] ").map_or(step.name.as_str(), |(_, text)| text)
}

/// How many steps of its stage and kind come before it.
fn place(build: &BuildRecord, step: &StepRecord) -> usize {
    let same = |other: &&StepRecord| other.stage == step.stage && kind(other) == kind(step);
    build.steps.iter().filter(same).take_while(|other| other.number < step.number).count()
}

#[cfg(test)]
mod tests;
