//! From the tree back to text, by spans.
//!
//! Invariants:
//! - nothing is lost: [`file`] gives back exactly the bytes that were parsed;
//! - a span outside the text gives an empty string, never a panic.

use crate::ast::{Buildfile, Instruction, Stage};
use crate::span::Span;

/// The text of the whole file.
pub fn file(buildfile: &Buildfile) -> &str {
    &buildfile.text
}

/// The text at `span`.
pub fn slice(buildfile: &Buildfile, span: Span) -> &str {
    buildfile.text.get(span.start..span.end).unwrap_or("")
}

/// An instruction as it stands in the file: continuations and here-documents included.
pub fn instruction<'b>(buildfile: &'b Buildfile, instruction: &Instruction) -> &'b str {
    slice(buildfile, instruction.span)
}

/// A stage as it stands in the file, from `FROM` to its last instruction.
pub fn stage<'b>(buildfile: &'b Buildfile, stage: &Stage) -> &'b str {
    slice(buildfile, stage.span)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "\u{feff}# syntax=x\nFROM a AS b\nRUN one && \\\n  # no\n  two\nCOPY <<E /x\nbody\nE\n";

    #[test]
    fn gives_the_text_back() {
        let parsed = crate::parse(TEXT);
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        assert_eq!(file(&parsed.buildfile), TEXT);
        let found = &parsed.buildfile.stages[0];
        assert_eq!(instruction(&parsed.buildfile, &found.instructions[0]), "RUN one && \\\n  # no\n  two");
        assert_eq!(instruction(&parsed.buildfile, &found.instructions[1]), "COPY <<E /x\nbody\nE");
        assert!(stage(&parsed.buildfile, found).starts_with("FROM a AS b\nRUN"));
        assert_eq!(slice(&parsed.buildfile, Span::new(5, 1_000_000)), "");
    }
}
