use proptest::prelude::*;

use super::*;

fn at(source: &str, needle: &str) -> Span {
    let start = source.find(needle).unwrap();
    Span::new(start, start + needle.len())
}

fn plain(source: &str, diagnostic: Diagnostic) -> String {
    render("Buildfile", source, &[diagnostic], Style::PLAIN)
}

#[test]
fn an_error_with_label_and_hint() {
    let source = "FROM scratch\n\nFRM debian\n";
    let diagnostic = Diagnostic::error(at(source, "FRM"), "unknown instruction: FRM")
        .with_label("not an instruction")
        .with_hint("did you mean `FROM`?");
    insta::assert_snapshot!(plain(source, diagnostic), @r"
    error: unknown instruction: FRM
     --> Buildfile:3:1
      |
    3 | FRM debian
      | ^^^ not an instruction
    hint: did you mean `FROM`?
    ");
}

#[test]
fn several_findings() {
    let source = "from scratch\nWORKDIR a\n";
    let diagnostics = [
        Diagnostic::warning("ConsistentInstructionCasing", at(source, "from"), "`from` should be upper case"),
        Diagnostic::error(at(source, "a\n"), "bad"),
    ];
    insta::assert_snapshot!(render("dir/Buildfile", source, &diagnostics, Style::PLAIN), @r"
    warning: `from` should be upper case (ConsistentInstructionCasing)
     --> dir/Buildfile:1:1
      |
    1 | from scratch
      | ^^^^

    error: bad
     --> dir/Buildfile:2:9
      |
    2 | WORKDIR a
      |         ^
    ");
}

#[test]
fn a_long_heredoc_is_shortened() {
    let body: String = (0..500).map(|n| format!("  echo {n}\n")).collect();
    let source = format!("FROM scratch\nRUN <<EOF\n{body}EOF\nCMD x\n");
    let start = source.find("RUN").unwrap();
    let end = source.find("CMD").unwrap();
    let diagnostic = Diagnostic::error(Span::new(start, end), "failed").with_label("this");
    insta::assert_snapshot!(plain(&source, diagnostic), @r"
    error: failed
       --> Buildfile:2:1
        |
      2 | / RUN <<EOF
      3 | |   echo 0
      4 | |   echo 1
      5 | |   echo 2
    ...   |
    503 | | EOF
        | |___^ this
    ");
}

#[test]
fn a_continued_instruction() {
    let source = "RUN a && \\\r\n    b && \\\r\n    c\r\nCMD x\r\n";
    let diagnostic = Diagnostic::error(Span::new(0, source.find("CMD").unwrap()), "failed");
    insta::assert_snapshot!(plain(source, diagnostic), @r"
    error: failed
     --> Buildfile:1:1
      |
    1 | / RUN a && \
    2 | |     b && \
    3 | |     c
      | |_____^
    ");
}

#[test]
fn huge_lines_are_cut_around_the_caret() {
    let source = format!("RUN {} NEEDLE {}\n", "a".repeat(100_000), "b".repeat(100_000));
    let diagnostic = Diagnostic::error(at(&source, "NEEDLE"), "found");
    insta::assert_snapshot!(
        render("Buildfile", &source, &[diagnostic], Style { colour: false, columns: 70 }),
        @r"
    error: found
     --> Buildfile:1:100006
      |
    1 | ...aaaaaaaaaaaaaaaaa NEEDLE bbbbbbbbbbbbbbbbbbbbbbbbbbbbb...
      |                      ^^^^^^
    "
    );
    let whole = Diagnostic::error(Span::new(0, source.len()), "all of it");
    insta::assert_snapshot!(
        render("Buildfile", &source, &[whole], Style { colour: false, columns: 70 }),
        @r"
    error: all of it
     --> Buildfile:1:1
      |
    1 | RUN aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    "
    );
}

#[test]
fn odd_characters_are_escaped() {
    let source = "\u{feff}RUN\tx \u{1b}[31mred\u{202e} 漢字 end\r\n";
    let diagnostic = Diagnostic::error(at(source, "漢字"), "bad\u{1b}[2J\nword").with_hint("a\u{7}b");
    insta::assert_snapshot!(
        render("Build\u{1b}file", source, &[diagnostic], Style::PLAIN),
        @r"
    error: bad\x1b[2J\nword
     --> Build\x1bfile:1:17
      |
    1 | RUN    x \x1b[31mred\u{202e} 漢字 end
      |                              ^^^^
    hint: a\x07b
    "
    );
}

#[test]
fn the_end_of_the_file() {
    let source = "FROM scratch\nRUN <<EOF";
    let diagnostic = Diagnostic::error(Span::new(source.len(), source.len()), "unterminated heredoc");
    insta::assert_snapshot!(plain(source, diagnostic), @r"
    error: unterminated heredoc
     --> Buildfile:2:10
      |
    2 | RUN <<EOF
      |          ^
    ");
    insta::assert_snapshot!(plain("", Diagnostic::error(Span::new(0, 0), "file with no instructions")), @r"
    error: file with no instructions
     --> Buildfile:1:1
      |
    1 |
      | ^
    ");
}

#[test]
fn colour_only_adds_escapes() {
    let source = "FRM x\n";
    let diagnostic = [Diagnostic::error(at(source, "FRM"), "unknown").with_hint("y").with_label("l")];
    let coloured = render("Buildfile", source, &diagnostic, Style { colour: true, columns: 100 });
    assert!(coloured.contains('\u{1b}'));
    let stripped: String = coloured.lines().map(|line| format!("{}\n", text::plain(line))).collect();
    assert_eq!(stripped, render("Buildfile", source, &diagnostic, Style::PLAIN));
}

proptest! {
    #[test]
    fn any_text_and_span_is_rendered_safely(
        source in "(.|\n|\r|\t|\u{1b}|漢){0,200}",
        start in 0usize..300,
        length in 0usize..300,
        columns in 0usize..120,
    ) {
        let diagnostic = Diagnostic::error(Span::new(start, start + length), "m").with_label("l").with_hint("h");
        let rendered = render("f", &source, &[diagnostic], Style { colour: false, columns });
        for line in rendered.split('\n') {
            prop_assert_eq!(text::visible(line), line);
        }
        prop_assert!(rendered.lines().count() < 20);
    }
}
