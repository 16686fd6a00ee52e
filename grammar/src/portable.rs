//! What in a file only kiln understands.
//!
//! Invariants: a file without findings here has no construct of kiln's own; whether docker accepts it otherwise is for
//! the parser and the checks to say.

use crate::ast::{Buildfile, Instruction, Kind};
use crate::diagnostic::Diagnostic;
use crate::span::Span;

/// An error for each use of an extension, in file order: docker would refuse the file there.
pub fn extensions(buildfile: &Buildfile) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for instruction in buildfile.stages.iter().flat_map(|stage| &stage.instructions) {
        match &instruction.kind {
            Kind::Run(run) => found.extend(run.guards.written.iter().map(|(flag, span)| own(flag, *span))),
            // Who builds on the image would meet them.
            Kind::Onbuild(onbuild) => {
                if let (Some(Instruction { kind: Kind::Run(run), .. }), _) =
                    crate::parse_trigger(&onbuild.trigger.value)
                {
                    let place = onbuild.trigger.span;
                    found.extend(run.guards.written.iter().map(|(flag, _)| own(flag, place)));
                }
            }
            _ => {}
        }
    }
    found
}

fn own(flag: &str, span: Span) -> Diagnostic {
    Diagnostic::error(span, format!("`--{flag}` of RUN is kiln's own: docker does not know it"))
        .with_hint("leave it out, or check without --strict-dockerfile")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_each_flag_at_its_place() {
        let text = "FROM a\nRUN --network=none true\nRUN --timeout=1m --memory=1g true\nFROM b\nRUN --cpus=1 true\nONBUILD RUN --retry=2 x\n";
        let found = extensions(&crate::parse(text).buildfile);
        let places: Vec<&str> = found.iter().map(|one| &text[one.span.start..one.span.end]).collect();
        assert_eq!(places, ["1m", "1g", "1", "RUN --retry=2 x"]);
        assert!(found[0].message.contains("--timeout"));
    }
}
