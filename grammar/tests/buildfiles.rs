//! Trees and messages of the files in `testdata/buildfiles`, as snapshots beside them.
//!
//! `INSTA_UPDATE=always` rewrites them. A word is shown as `"value"@line:column-line:column`.
//!
//! Invariants:
//! - files below `ok/` have no errors, files below `err/` have at least one;
//! - the text under the span of a word is the word, where nothing was unquoted or continued.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use kiln_grammar::ast::{Buildfile, Command, Copy, Healthcheck, Heredoc, Instruction, KeyValue, Kind, Word};
use kiln_grammar::span::Span;
use proptest::prelude::*;

#[test]
fn trees_and_messages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/buildfiles");
    let mut count = 0;
    for verdict in ["ok", "err"] {
        let mut paths: Vec<_> = fs::read_dir(root.join(verdict))
            .expect("the directory is there")
            .map(|entry| entry.expect("an entry is readable").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "build"))
            .collect();
        paths.sort();
        for path in paths {
            count += 1;
            let text = fs::read_to_string(&path).expect("a test file is readable");
            let parsed = kiln_grammar::parse(&text);
            assert_eq!(parsed.has_errors(), verdict == "err", "{}: {:?}", path.display(), parsed.diagnostics);
            let name = path.file_stem().expect("a test file has a name").to_string_lossy().into_owned();
            let mut settings = insta::Settings::clone_current();
            settings.set_snapshot_path(root.join(verdict));
            settings.set_prepend_module_to_snapshot(false);
            settings.set_omit_expression(true);
            settings.bind(|| insta::assert_snapshot!(name, Show { file: &parsed.buildfile }.all(&parsed)));
        }
    }
    assert!(count > 12);
}

struct Show<'a> {
    file: &'a Buildfile,
}

impl Show<'_> {
    fn all(&self, parsed: &kiln_grammar::ast::Parsed) -> String {
        let mut out = String::new();
        let directives = &self.file.directives;
        let _ = writeln!(
            out,
            "escape {} syntax {:?} check {:?}",
            directives.escape,
            directives.syntax.as_ref().map(|s| &s.value),
            directives.check.as_ref().map(|s| &s.value)
        );
        for instruction in &self.file.global_args {
            self.instruction(&mut out, instruction);
        }
        for stage in &self.file.stages {
            let from = &stage.from;
            let _ = writeln!(
                out,
                "stage {} {} platform {} name {} comments {:?}",
                self.lines(stage.span),
                self.word(&from.base),
                self.option(from.platform.as_ref()),
                self.option(from.name.as_ref()),
                from.comments.iter().map(|c| c.value.as_str()).collect::<Vec<_>>(),
            );
            for instruction in &stage.instructions {
                self.instruction(&mut out, instruction);
            }
        }
        for d in &parsed.diagnostics {
            let _ = writeln!(out, "{:?} {} {}", d.severity, self.place(d.span), d.message);
            for (name, text) in
                [("rule", d.rule), ("label", Some(d.label.as_str())), ("hint", d.hint.as_deref())]
            {
                if let Some(text) = text.filter(|text| !text.is_empty()) {
                    let _ = writeln!(out, "  {name}: {text}");
                }
            }
        }
        out
    }

    fn instruction(&self, out: &mut String, instruction: &Instruction) {
        let lines = self.lines(instruction.span);
        let _ = write!(out, "{lines} {} ", instruction.keyword.value);
        let mut heredocs: &[Heredoc] = &[];
        let text = match &instruction.kind {
            Kind::Add(copy) | Kind::Copy(copy) => {
                heredocs = &copy.heredocs;
                self.copy(copy)
            }
            Kind::Arg(pairs) => pairs
                .iter()
                .map(|p| format!("{}={}", self.word(&p.name), self.option(p.value.as_ref())))
                .collect::<Vec<_>>()
                .join(" "),
            Kind::Cmd(command) | Kind::Entrypoint(command) => self.command(command),
            Kind::Env(pairs) | Kind::Label(pairs) => self.pairs(pairs),
            Kind::Expose(words) | Kind::Shell(words) | Kind::Volume(words) => self.words(words),
            Kind::Healthcheck(Healthcheck::None) => "none".to_string(),
            Kind::Healthcheck(Healthcheck::Cmd { command, interval_ns, retries, .. }) => {
                format!("{} interval {interval_ns} retries {retries}", self.command(command))
            }
            Kind::Maintainer(word) | Kind::Stopsignal(word) | Kind::User(word) | Kind::Workdir(word) => {
                self.word(word)
            }
            Kind::Onbuild(onbuild) => self.word(&onbuild.trigger),
            Kind::Run(run) => {
                heredocs = &run.heredocs;
                let command = self.command(&run.command);
                let (mounts, network) = (self.words(&run.mounts), self.option(run.network.as_ref()));
                format!("{command} mounts [{mounts}] network {network}")
            }
        };
        let _ = writeln!(out, "{text}");
        for h in heredocs {
            let _ = writeln!(
                out,
                "  heredoc {} fd {} expand {} strip {} at {} body {} {:?}",
                h.name,
                h.descriptor,
                h.expand,
                h.strip_tabs,
                self.place(h.word_span),
                self.lines(h.span),
                h.body
            );
        }
    }

    fn copy(&self, copy: &Copy) -> String {
        let mut text = format!("{} -> {}", self.words(&copy.sources), self.word(&copy.destination));
        let flags = [
            ("from", &copy.from),
            ("chown", &copy.chown),
            ("chmod", &copy.chmod),
            ("checksum", &copy.checksum),
        ];
        for (name, flag) in flags {
            if let Some(word) = flag {
                let _ = write!(text, " {name} {}", self.word(word));
            }
        }
        let _ = write!(text, " link {} exclude [{}]", copy.link, self.words(&copy.exclude));
        let _ = write!(text, " keep-git-dir {:?} unpack {:?}", copy.keep_git_dir, copy.unpack);
        text
    }

    fn pairs(&self, pairs: &[KeyValue]) -> String {
        let pair = |p: &KeyValue| {
            let sign = if p.legacy { " " } else { "=" };
            format!("{}{sign}{}", self.word(&p.key), self.word(&p.value))
        };
        pairs.iter().map(pair).collect::<Vec<_>>().join(", ")
    }

    fn command(&self, command: &Command) -> String {
        match command {
            Command::Shell(word) => format!("shell {}", self.word(word)),
            Command::Exec(words) => format!("exec [{}]", self.words(words)),
        }
    }

    fn words(&self, words: &[Word]) -> String {
        words.iter().map(|word| self.word(word)).collect::<Vec<_>>().join(" ")
    }

    fn option(&self, word: Option<&Word>) -> String {
        word.map_or("-".to_string(), |word| self.word(word))
    }

    fn word(&self, word: &Word) -> String {
        format!("{:?}@{}", word.value, self.place(word.span))
    }

    fn lines(&self, span: Span) -> String {
        format!("{}-{}", self.file.lines.line(span.start), self.file.lines.line(span.end))
    }

    fn place(&self, span: Span) -> String {
        let [start, end] = [span.start, span.end].map(|at| self.file.lines.line_column(&self.file.text, at));
        format!("{}:{}-{}:{}", start.line, start.column, end.line, end.column)
    }
}

/// All words of a file.
fn words(file: &Buildfile) -> Vec<&Word> {
    let mut words = Vec::new();
    for stage in &file.stages {
        words.push(&stage.from.base);
        words.extend(&stage.from.name);
        for instruction in &stage.instructions {
            match &instruction.kind {
                Kind::Copy(copy) | Kind::Add(copy) => {
                    words.extend(copy.sources.iter().chain([&copy.destination]))
                }
                Kind::Env(pairs) | Kind::Label(pairs) => {
                    words.extend(pairs.iter().flat_map(|pair| [&pair.key, &pair.value]));
                }
                Kind::User(word) | Kind::Workdir(word) | Kind::Maintainer(word) => words.push(word),
                Kind::Expose(list) | Kind::Volume(list) => words.extend(list),
                Kind::Cmd(Command::Shell(word)) => words.push(word),
                Kind::Run(run) => {
                    words.extend(&run.mounts);
                    if let Command::Shell(word) = &run.command {
                        words.push(word);
                    }
                }
                _ => {}
            }
        }
    }
    words
}

#[test]
fn triggers_are_single_instructions() {
    let (found, diagnostics) = kiln_grammar::parse_trigger("COPY <<E /x\nbody\nE");
    assert!(diagnostics.is_empty());
    assert!(matches!(found.expect("a trigger").kind, Kind::Copy(copy) if copy.heredocs[0].body == "body\n"));
    // The escape character is always the backslash.
    let (found, _) = kiln_grammar::parse_trigger("RUN a \\\n b");
    assert_eq!(found.expect("a trigger").original, "RUN a  b");
    for bad in ["FROM x", "ONBUILD RUN x", "MAINTAINER x", "RUN a\nRUN b", "", "# c", "NOPE", "RUN <<E\n"] {
        let (found, diagnostics) = kiln_grammar::parse_trigger(bad);
        assert!(found.is_none() && !diagnostics.is_empty(), "{bad}");
    }
}

#[test]
fn lines_have_a_limit() {
    let long = |n: usize| format!("FROM a\nRUN {}\nRUN b\n", "x".repeat(n - 4));
    assert!(!kiln_grammar::parse(&long(65_535)).has_errors());
    let parsed = kiln_grammar::parse(&long(65_536));
    let messages: Vec<&str> = parsed.diagnostics.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(messages, ["line greater than the maximum size of 65535 bytes"]);
    let heredoc = format!("FROM a\nRUN <<E\n{}\nE\n", "x".repeat(70_000));
    assert_eq!(kiln_grammar::parse(&heredoc).diagnostics.len(), 1);
}

proptest! {
    #[test]
    fn any_text_gives_a_tree(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn any_lines_give_a_tree(
        lines in prop::collection::vec(
            prop_oneof![
                "(FROM|RUN|COPY|ADD|ENV|LABEL|ARG|CMD|VOLUME|SHELL|ONBUILD|HEALTHCHECK|EXPOSE|USER|# ?escape=)[ \t][ -~]{0,30}",
                r#"(RUN|COPY|ONBUILD RUN) ?[0-9]?<<-?["']?(E|é)["']?( /x)?[\\`]?"#,
                r#"ENV [a-b"'\\= ]{0,20}"#,
                r#"RUN --[a-z="' \\`,$]{0,20}"#,
                r#"(CMD|COPY) \[["a\\,1 \[\]{}:]{0,20}"#,
                "E|é|\tE|#.{0,5}|[ \t]*\\\\[ \t]*|",
            ],
            0..12,
        ),
        end in "\n|\r\n",
    ) {
        check(&lines.join(&end))?;
    }
}

fn check(text: &str) -> Result<(), TestCaseError> {
    let parsed = kiln_grammar::parse(text);
    let file = &parsed.buildfile;
    prop_assert_eq!(kiln_grammar::format::file(file), text);
    prop_assert!(parsed.has_errors() || !file.stages.is_empty());
    for diagnostic in &parsed.diagnostics {
        let span = diagnostic.span;
        prop_assert!(span.end <= text.len() && text.get(span.start..span.end).is_some(), "{:?}", diagnostic);
        prop_assert!(!diagnostic.message.ends_with('.'));
    }
    for stage in &file.stages {
        for instruction in &stage.instructions {
            let written = kiln_grammar::format::instruction(file, instruction);
            prop_assert!(written.starts_with(&instruction.keyword.value), "{:?} {:?}", written, instruction);
        }
    }
    for word in words(file) {
        let slice = text.get(word.span.start..word.span.end);
        prop_assert!(slice.is_some(), "{:?}", word);
        let slice = slice.unwrap_or("");
        if slice.len() == word.value.len() {
            prop_assert_eq!(slice, &word.value);
        }
    }
    kiln_grammar::parse_trigger(text);
    Ok(())
}
