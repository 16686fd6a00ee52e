//! Why steps ran: a comparison with the closest earlier record of the same step. Pure.
//!
//! Which earlier step is "the same": of the records of the same project, the newest one first,
//!
//! 1. a step of the same stage with an equal spec (what it reads must differ then),
//! 2. else one of the same stage, kind and text,
//! 3. else the one in the same place of the same stage, unless that one is another step of this build.
//!
//! Only a step that had a result is compared with. The first thing that differs is told, in this order: what the user
//! asked for (`--no-cache`, `--cache-ttl`), the step itself, what it reads from outside, its inputs in their order.
//!
//! Invariants: records are input: a spec that cannot be read is a spec that differs.

use crate::base::digest::Digest;
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
            return MissReason::Removed;
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
                    [about.0, about.1].iter().any(|about| about.build_args.iter().any(|arg| arg == name))
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
        if let (Some(image), before) = (&is.image, &was.image)
            && is.spec != was.spec
        {
            let before = before.as_ref().map(|(_, digest)| *digest);
            return MissReason::BaseImage { name: image.0.clone(), was: before, is: Some(image.1) };
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
        if matches!(is.outcome, StepOutcome::Ran | StepOutcome::Failed) {
            return MissReason::InputRan { step: is.name.clone() };
        }
        MissReason::InputReplaced { step: is.name.clone(), was: was.name.clone() }
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

    /// Whether a step that ran gave what it gave before, so that what reads it stayed cached.
    fn cuts(&self, step: &StepRecord) -> bool {
        let mut readers =
            self.record.steps.iter().filter(|other| other.inputs.contains(&step.number)).peekable();
        step.outcome == StepOutcome::Ran
            && readers.peek().is_some()
            && readers.all(|reader| reader.by_content)
    }

    /// The closest earlier step that satisfies `wanted`.
    fn closest(&self, step: &StepRecord, wanted: impl Fn(&StepRecord) -> bool) -> Option<Earlier<'a>> {
        let about = &self.record.head.about;
        let same = |build: &&&BuildRecord| about.is_same_project(&build.head.about);
        let mut builds: Vec<&BuildRecord> = self.earlier.iter().filter(|build| same(&build)).collect();
        if builds.is_empty() {
            // A checkout elsewhere: only the steps can tell whether it is the same.
            builds = self.earlier.iter().collect();
        }
        let find = |matches: &dyn Fn(&BuildRecord, &StepRecord) -> bool| {
            builds.iter().find_map(|build| {
                let mut steps = build.steps.iter().filter(|other| wanted(other) && other.stage == step.stage);
                let step = steps.find(|other| matches(build, other))?;
                Some(Earlier { build, step })
            })
        };
        find(&|_, other| other.spec == step.spec && other.inputs.len() == step.inputs.len())
            .or_else(|| find(&|_, other| kind(other) == kind(step) && text(other) == text(step)))
            .or_else(|| {
                let place = place(self.record, step);
                find(&|build, other| {
                    kind(other) == kind(step)
                        && place == self::place(build, other)
                        && !self
                            .record
                            .steps
                            .iter()
                            .any(|own| own.stage == other.stage && own.spec == other.spec)
                })
            })
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
