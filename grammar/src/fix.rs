//! Rewrites that leave the meaning of a Buildfile as it is: casing, old forms, MAINTAINER, commands without shell.
//!
//! Invariants:
//! - a fix touches text that stands on one line and was read as it is written: nothing within a continued line, no
//!   comment and no here-document is ever lost;
//! - what replaces a value expands to the same text whatever the variables are (each candidate is tried), and the file
//!   with all fixes still parses to the same number of stages and instructions; else there is no fix;
//! - fixes are in file order and do not overlap.
//!
//! | rule | from | to | not when |
//! |---|---|---|---|
//! | `ConsistentInstructionCasing` | `run x` | `RUN x` | the keyword is split over lines |
//! | `FromAsCasing` | `FROM a as b` | `FROM a AS b` | |
//! | `LegacyKeyValueFormat` | `ENV k a b` | `ENV k="a b"` | quotes or escapes inside `${...}` |
//! | `MaintainerDeprecated` | `MAINTAINER me` | `LABEL org.opencontainers.image.authors="me"` | continued lines |
//! | `JSONArgsRecommended` | `CMD a b` | `CMD ["a", "b"]` | a word that a shell would touch, a shell's own command, SHELL, or CMD and ENTRYPOINT in stages of one family |

use std::collections::BTreeMap;

use crate::ast::{Buildfile, Command, Instruction, KeyValue, Kind, Word};
use crate::expand::{self, Env};
use crate::format;
use crate::lint::LintConfig;
use crate::span::{Span, Spanned};

/// One rewrite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// The check whose finding goes away.
    pub rule: &'static str,
    /// What is replaced.
    pub span: Span,
    /// With what.
    pub replacement: String,
}

/// The safe rewrites of a file that was parsed without errors; `wanted` says which checks count.
pub fn fixes(buildfile: &Buildfile, wanted: &dyn Fn(&str) -> bool) -> Vec<Fix> {
    let mut fixer = Fixer {
        buildfile,
        wanted,
        own: LintConfig::default(),
        lower: is_mostly_lower(buildfile),
        fixes: Vec::new(),
    };
    let families = Families::new(buildfile);
    for instruction in &buildfile.global_args {
        fixer.enter(&instruction.comments);
        fixer.casing(&instruction.keyword);
    }
    for (index, stage) in buildfile.stages.iter().enumerate() {
        fixer.enter(&stage.from.comments);
        fixer.casing(&stage.from.keyword);
        if let Some(word) = &stage.from.as_keyword {
            fixer.as_casing(word, &stage.from.keyword);
        }
        for instruction in &stage.instructions {
            fixer.enter(&instruction.comments);
            fixer.instruction(instruction, families.allow_exec_form(index));
        }
    }
    let mut fixes = fixer.fixes;
    fixes.sort_by_key(|fix| fix.span);
    if keeps_structure(buildfile, &apply(&buildfile.text, &fixes)) { fixes } else { Vec::new() }
}

/// The text with the fixes made. They must be in order and must not overlap, as [`fixes`] gives them.
pub fn apply(text: &str, fixes: &[Fix]) -> String {
    let mut fixed = String::with_capacity(text.len());
    let mut at = 0;
    for fix in fixes {
        let (Some(before), true) = (text.get(at..fix.span.start), fix.span.end <= text.len()) else {
            continue;
        };
        fixed.push_str(before);
        fixed.push_str(&fix.replacement);
        at = fix.span.end;
    }
    fixed.push_str(text.get(at..).unwrap_or(""));
    fixed
}

struct Fixer<'a> {
    buildfile: &'a Buildfile,
    wanted: &'a dyn Fn(&str) -> bool,
    /// What a `# check=` comment above the instruction at hand says.
    own: LintConfig,
    lower: bool,
    fixes: Vec<Fix>,
}

impl Fixer<'_> {
    fn push(&mut self, rule: &'static str, span: Span, replacement: String) {
        if self.wants(rule) && format::slice(self.buildfile, span) != replacement {
            self.fixes.push(Fix { rule, span, replacement });
        }
    }

    fn wants(&self, rule: &str) -> bool {
        !self.own.skip_all && !self.own.skip.contains(rule) && (self.wanted)(rule)
    }

    /// Turns to an instruction with these comments above it (language.md 1.2).
    fn enter(&mut self, comments: &[Spanned<String>]) {
        let mut settings = comments.iter().filter_map(|comment| comment.value.strip_prefix("check="));
        self.own =
            settings.next_back().and_then(|text| LintConfig::from_directive(text).ok()).unwrap_or_default();
    }

    /// Whether a word stands in the file exactly as it was read.
    fn is_plain(&self, word: &Word) -> bool {
        format::slice(self.buildfile, word.span) == word.value && !word.value.contains('\n')
    }

    fn cased(&self, keyword: &str) -> String {
        if self.lower { keyword.to_ascii_lowercase() } else { keyword.to_ascii_uppercase() }
    }

    fn casing(&mut self, keyword: &Word) {
        if self.is_plain(keyword) {
            self.push("ConsistentInstructionCasing", keyword.span, self.cased(&keyword.value));
        }
    }

    /// `AS` follows its FROM, as that one will be written.
    fn as_casing(&mut self, word: &Word, from: &Word) {
        let from = if self.wants("ConsistentInstructionCasing") && self.is_plain(from) {
            self.cased(&from.value)
        } else {
            from.value.clone()
        };
        let replacement = if from.bytes().all(|b| b.is_ascii_lowercase()) {
            "as"
        } else if from.bytes().all(|b| b.is_ascii_uppercase()) {
            "AS"
        } else {
            return;
        };
        if self.is_plain(word) {
            self.push("FromAsCasing", word.span, replacement.to_owned());
        }
    }

    fn instruction(&mut self, instruction: &Instruction, exec_form: bool) {
        let keyword = &instruction.keyword;
        if let Kind::Maintainer(name) = &instruction.kind
            && self.wants("MaintainerDeprecated")
            && self.is_plain(name)
            && self.is_plain(keyword)
        {
            let label = author_label(&name.value, self.buildfile.directives.escape);
            self.push("MaintainerDeprecated", keyword.span, self.cased("LABEL"));
            self.push("MaintainerDeprecated", name.span, label);
            return;
        }
        self.casing(keyword);
        match &instruction.kind {
            Kind::Env(pairs) | Kind::Label(pairs) => {
                for pair in pairs.iter().filter(|pair| pair.legacy) {
                    self.legacy(pair);
                }
            }
            Kind::Cmd(command) | Kind::Entrypoint(command) if exec_form => self.shell_form(command),
            _ => {}
        }
    }

    fn legacy(&mut self, pair: &KeyValue) {
        let span = pair.key.span.to(pair.value.span);
        let between = Span::new(pair.key.span.end, pair.value.span.start);
        let blank = format::slice(self.buildfile, between).bytes().all(|b| matches!(b, b' ' | b'\t'));
        let escape = self.buildfile.directives.escape;
        let key = &pair.key.value;
        let simple = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'));
        if simple
            && blank
            && self.is_plain(&pair.key)
            && self.is_plain(&pair.value)
            && let Some(value) = pair_value(key, &pair.value.value, escape)
        {
            self.push("LegacyKeyValueFormat", span, format!("{key}={value}"));
        }
    }

    fn shell_form(&mut self, command: &Command) {
        let Command::Shell(text) = command else { return };
        let words: Vec<&str> = text.value.split_ascii_whitespace().collect();
        let program = words.first().copied().unwrap_or("");
        let safe = !program.is_empty()
            && !program.contains('=')
            && !SHELL_COMMANDS.contains(&program)
            && words.iter().all(|word| word.bytes().all(is_plain_in_shell));
        if safe && self.is_plain(text) {
            let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            self.push("JSONArgsRecommended", text.span, format!("[{}]", words.join(", ")));
        }
    }
}

/// Commands that a shell does itself, or that mean something else without one.
const SHELL_COMMANDS: &[&str] = &[
    ".", ":", "[", "alias", "bg", "break", "case", "cd", "command", "continue", "do", "done", "echo", "elif",
    "else", "esac", "eval", "exec", "exit", "export", "false", "fg", "fi", "for", "function", "getopts",
    "hash", "if", "in", "jobs", "kill", "let", "local", "printf", "pwd", "read", "readonly", "return", "set",
    "shift", "source", "test", "then", "time", "times", "trap", "true", "type", "ulimit", "umask", "unalias",
    "unset", "until", "wait", "while",
];

/// Characters that no shell gives a meaning anywhere in a word.
fn is_plain_in_shell(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'_' | b'-' | b'.' | b'/' | b':' | b'=' | b'@' | b'%' | b'+' | b',')
}

/// As the check counts: upper case unless more keywords are in lower case.
fn is_mostly_lower(buildfile: &Buildfile) -> bool {
    let stages = buildfile.stages.iter();
    let keywords = stages
        .flat_map(|stage| {
            std::iter::once(&stage.from.keyword).chain(stage.instructions.iter().map(|i| &i.keyword))
        })
        .chain(buildfile.global_args.iter().map(|i| &i.keyword));
    let mut surplus = 0_i64;
    for keyword in keywords {
        let bytes = || keyword.value.bytes();
        surplus += i64::from(bytes().all(|b| b.is_ascii_lowercase()));
        surplus -= i64::from(bytes().all(|b| b.is_ascii_uppercase()));
    }
    surplus > 0
}

/// MAINTAINER takes its text as it is; a label's value is expanded, so everything with a meaning is escaped.
fn author_label(name: &str, escape: char) -> String {
    let name = name.trim();
    let quoted =
        name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|inner| !inner.contains('"'));
    let mut value = String::new();
    for character in quoted.unwrap_or(name).chars() {
        push_literal(&mut value, character, escape);
    }
    format!("org.opencontainers.image.authors=\"{value}\"")
}

/// Adds a character that is to stand for itself within double quotes.
fn push_literal(text: &mut String, character: char, escape: char) {
    if matches!(character, '"' | '$') || character == escape {
        text.push(escape);
    }
    text.push(character);
}

/// How the value of an old-form pair is written behind an equal sign; `None` when nothing means the same for sure.
fn pair_value(key: &str, value: &str, escape: char) -> Option<String> {
    let candidate =
        if value.contains(char::is_whitespace) { quoted(value, escape)? } else { value.to_owned() };
    let directive = if escape == '\\' { "" } else { "# escape=`\n" };
    let parsed = crate::parse(&format!("{directive}FROM scratch\nENV {key}={candidate}\n"));
    if parsed.has_errors() {
        return None;
    }
    let [stage] = parsed.buildfile.stages.as_slice() else { return None };
    let [Instruction { kind: Kind::Env(pairs), .. }] = stage.instructions.as_slice() else { return None };
    let [pair] = pairs.as_slice() else { return None };
    let same = !pair.legacy
        && pair.key.value == key
        && PROBES.iter().all(|probe| {
            let before = expand::word(value, escape, &Probe(*probe));
            let after = expand::word(&pair.value.value, escape, &Probe(*probe));
            matches!((before, after), (Ok(before), Ok(after)) if before.value == after.value)
        });
    same.then_some(candidate)
}

/// What every variable is, in turn, when two texts are compared.
const PROBES: [Option<&str>; 4] = [None, Some(""), Some("word"), Some(" two \"words\" 'and' \\ $more")];

struct Probe(Option<&'static str>);

impl Env for Probe {
    fn get(&self, _: &str) -> Option<String> {
        self.0.map(str::to_owned)
    }
}

/// One pair of double quotes around what has several quotes, or none.
fn quoted(value: &str, escape: char) -> Option<String> {
    let mut text = String::from("\"");
    let mut characters = value.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' => loop {
                match characters.next()? {
                    '\'' => break,
                    inner => push_literal(&mut text, inner, escape),
                }
            },
            '"' => loop {
                match characters.next()? {
                    '"' => break,
                    inner if inner == escape => {
                        text.push(inner);
                        text.push(characters.next()?);
                    }
                    inner => text.push(inner),
                }
            },
            '$' if characters.peek() == Some(&'{') => {
                text.push('$');
                let mut depth = 0_usize;
                loop {
                    let inner = characters.next()?;
                    if matches!(inner, '"' | '\'') || inner == escape {
                        return None;
                    }
                    text.push(inner);
                    match inner {
                        '{' => depth += 1,
                        '}' if depth == 1 => break,
                        '}' => depth -= 1,
                        _ => {}
                    }
                }
            }
            character if character == escape => {
                if let Some(escaped) = characters.next() {
                    push_literal(&mut text, escaped, escape);
                }
            }
            character => text.push(character),
        }
    }
    text.push('"');
    Some(text)
}

/// Stages that are based on one another, and what their images' commands are made of. The form of one of CMD and
/// ENTRYPOINT decides what the other one means, so only a family that has one of them, and no SHELL, may change form.
struct Families {
    root: Vec<usize>,
    blocked: BTreeMap<usize, bool>,
}

impl Families {
    fn new(buildfile: &Buildfile) -> Self {
        let mut root: Vec<usize> = Vec::new();
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let mut has: BTreeMap<usize, (bool, bool, bool)> = BTreeMap::new();
        for (index, stage) in buildfile.stages.iter().enumerate() {
            // A base out of a variable could be any stage: all such share one family with the first stage.
            let base = stage.from.base.value.to_lowercase();
            let own = match names.get(&base) {
                Some(root) => *root,
                None if base.contains('$') => root.first().copied().unwrap_or(index),
                None => index,
            };
            root.push(own);
            if let Some(name) = &stage.from.name {
                names.insert(name.value.to_lowercase(), own);
            }
            let seen = has.entry(own).or_default();
            for instruction in &stage.instructions {
                match &instruction.kind {
                    Kind::Cmd(_) => seen.0 = true,
                    Kind::Entrypoint(_) => seen.1 = true,
                    Kind::Shell(_) => seen.2 = true,
                    _ => {}
                }
            }
        }
        let blocked =
            has.into_iter().map(|(root, (cmd, entry, shell))| (root, shell || (cmd && entry))).collect();
        Self { root, blocked }
    }

    fn allow_exec_form(&self, stage: usize) -> bool {
        self.root.get(stage).and_then(|root| self.blocked.get(root)) == Some(&false)
    }
}

fn keeps_structure(buildfile: &Buildfile, text: &str) -> bool {
    let parsed = crate::parse(text);
    let shape = |file: &Buildfile| -> Vec<usize> {
        let stages = file.stages.iter().map(|stage| stage.instructions.len());
        std::iter::once(file.global_args.len()).chain(stages).collect()
    };
    !parsed.has_errors() && shape(buildfile) == shape(&parsed.buildfile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(text: &str) -> String {
        let parsed = crate::parse(text);
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        apply(text, &fixes(&parsed.buildfile, &|_| true))
    }

    /// One instruction in a stage of its own.
    fn one(instruction: &str) -> String {
        let fixed = fixed(&format!("FROM a\n{instruction}\n"));
        fixed.strip_prefix("FROM a\n").unwrap().trim_end().to_owned()
    }

    #[test]
    fn casing_follows_the_majority() {
        assert_eq!(fixed("FROM a as b\nrun x\nCopy y /\n"), "FROM a AS b\nRUN x\nCOPY y /\n");
        assert_eq!(fixed("from a AS b\nrun x\nCopy y /\n"), "from a as b\nrun x\ncopy y /\n");
        assert_eq!(fixed("ARG v\nfrom a\nRUN x\n"), "ARG v\nFROM a\nRUN x\n");
        assert_eq!(fixed("FROM a\nR\\\nun x\nRUN y\n"), "FROM a\nR\\\nun x\nRUN y\n");
        let parsed = crate::parse("From a as b\nrun x\nRUN y\n");
        let only_as = fixes(&parsed.buildfile, &|rule| rule == "FromAsCasing");
        assert!(only_as.is_empty(), "{only_as:?}");
    }

    #[test]
    fn old_pairs_get_the_quotes_that_they_need() {
        for (old, new) in [
            ("ENV k v", "ENV k=v"),
            ("ENV k   a  b", "ENV k=\"a  b\""),
            ("ENV k a=b", "ENV k=a=b"),
            ("ENV PATH /opt/bin:$PATH", "ENV PATH=/opt/bin:$PATH"),
            ("ENV k \"a b\" c", "ENV k=\"a b c\""),
            ("ENV k 'a $b' \"$c\"", "ENV k=\"a \\$b $c\""),
            ("ENV k it\\'s a \\\"q\\\"", "ENV k=\"it's a \\\"q\\\"\""),
            ("ENV k ${x:-a b} c", "ENV k=\"${x:-a b} c\""),
            ("LABEL k some text", "LABEL k=\"some text\""),
            ("LABEL \"k\" v", "LABEL \"k\" v"),
            ("ENV k ${x:-\"a b\"} c", "ENV k ${x:-\"a b\"} c"),
            ("ENV k a \\\n  b", "ENV k a \\\n  b"),
        ] {
            assert_eq!(one(old), new, "{old}");
        }
        assert_eq!(
            fixed("# escape=`\nFROM a\nENV k c:\\dir `\"x`\"\n"),
            "# escape=`\nFROM a\nENV k=\"c:\\dir `\"x`\"\"\n"
        );
    }

    #[test]
    fn the_maintainer_becomes_a_label() {
        for (old, new) in [
            ("MAINTAINER Jo <jo@x.org>", "LABEL org.opencontainers.image.authors=\"Jo <jo@x.org>\""),
            ("MAINTAINER \"Jo\"", "LABEL org.opencontainers.image.authors=\"Jo\""),
            ("MAINTAINER a \"$b\" \\x", "LABEL org.opencontainers.image.authors=\"a \\\"\\$b\\\" \\\\x\""),
        ] {
            assert_eq!(one(old), new, "{old}");
        }
        assert!(fixed("from a\nmaintainer me\n").contains("label org"));
    }

    #[test]
    fn plain_commands_get_the_exec_form() {
        for (old, new) in [
            ("CMD node server.js --port=80", "CMD [\"node\", \"server.js\", \"--port=80\"]"),
            ("ENTRYPOINT /app", "ENTRYPOINT [\"/app\"]"),
            ("CMD a && b", "CMD a && b"),
            ("CMD a $HOME", "CMD a $HOME"),
            ("CMD V=1 a", "CMD V=1 a"),
            ("CMD exec a", "CMD exec a"),
            ("CMD ls *.c", "CMD ls *.c"),
            ("CMD [\"a\"]", "CMD [\"a\"]"),
            ("SHELL [\"bash\", \"-c\"]\nCMD a", "SHELL [\"bash\", \"-c\"]\nCMD a"),
            ("ENTRYPOINT [\"e\"]\nCMD a", "ENTRYPOINT [\"e\"]\nCMD a"),
        ] {
            assert_eq!(one(old), new, "{old}");
        }
        let family = "FROM a AS b\nCMD x\nFROM b\nENTRYPOINT y\nFROM c\nCMD z\n";
        assert_eq!(fixed(family), "FROM a AS b\nCMD x\nFROM b\nENTRYPOINT y\nFROM c\nCMD [\"z\"]\n");
    }

    #[test]
    fn settings_above_an_instruction_count() {
        let text = "FROM a\n# check=skip=LegacyKeyValueFormat\nENV k a b\n# check=skip=all\nrun x\nRUN y\n";
        assert_eq!(fixed(text), text);
    }

    #[test]
    fn fixing_twice_changes_nothing() {
        let text = "from a as b\nENV k a b\nMAINTAINER me\nCMD x y\n";
        let once = fixed(text);
        assert_ne!(once, text);
        assert_eq!(fixed(&once), once);
    }
}
