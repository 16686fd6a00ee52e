//! Shell text of RUN as a flat list of the commands in it.
//!
//! Invariants:
//! - only what checks need: programs, arguments, pipes; words keep `$VAR`, redirections are left out;
//! - never fails and is linear: unclosed quotes end with the text, nesting is bounded.

use std::iter::Peekable;
use std::str::Chars;

use super::model::{File, Stage, Step};
use crate::ast::{Command, Kind, Run};
use crate::raw;

/// Deepest nesting of `$(…)`, `(…)` that is looked into.
const MAX_DEPTH: usize = 32;

/// Words that may stand before a command.
const RESERVED: [&str; 15] = [
    "if", "then", "else", "elif", "fi", "do", "done", "while", "until", "!", "{", "}", "time", "exec",
    "command",
];

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// Program and arguments without quotes; never empty.
    words: Vec<String>,
    /// Its output goes into a pipe.
    pub(super) piped: bool,
}

impl Call {
    /// The program without its directory.
    pub(super) fn program(&self) -> &str {
        let word = self.words.first().map_or("", String::as_str);
        word.rsplit('/').next().unwrap_or(word)
    }

    pub(super) fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The first argument that is no option: `install` of `apt-get -y install`.
    pub(super) fn action(&self) -> &str {
        self.operands().next().unwrap_or("")
    }

    /// Arguments that are no options.
    pub(super) fn operands(&self) -> impl Iterator<Item = &str> {
        self.arguments().iter().map(String::as_str).filter(|word| !word.starts_with('-'))
    }

    /// Whether an option is given, in its short form (alone or among others) or in one of its long forms, with or
    /// without `=value`.
    pub(super) fn has_option(&self, short: Option<char>, long: &[&str]) -> bool {
        self.arguments().iter().any(|word| match word.strip_prefix("--") {
            Some(name) => long.contains(&name.split('=').next().unwrap_or(name)),
            None => short.is_some_and(|short| {
                word.strip_prefix('-').is_some_and(|cluster| cluster.chars().any(|c| c == short))
            }),
        })
    }

    pub(super) fn is(&self, programs: &[&str], actions: &[&str]) -> bool {
        programs.contains(&self.program()) && actions.contains(&self.action())
    }
}

/// A RUN with its commands.
pub(super) struct Ran<'f, 'a> {
    pub(super) stage: &'f Stage<'a>,
    pub(super) step: &'f Step<'a>,
    /// Position of the step in its stage.
    pub(super) position: usize,
    pub(super) run: &'f Run,
    pub(super) calls: Vec<Call>,
}

/// Every RUN that stands in the file and that a POSIX shell runs.
pub(super) fn runs<'f, 'a>(file: &'f File<'a>) -> Vec<Ran<'f, 'a>> {
    let mut found = Vec::new();
    for stage in &file.stages {
        for (position, step) in stage.steps.iter().enumerate() {
            if let Kind::Run(run) = &step.instruction.kind
                && step.trigger_of.is_none()
                && is_posix(&step.before.shell, &stage.os)
            {
                found.push(Ran { stage, step, position, run, calls: calls(run) });
            }
        }
    }
    found
}

/// The body of a RUN that is nothing but a here-document.
pub(super) fn whole_heredoc(run: &Run) -> Option<&str> {
    match (&run.command, &run.heredocs[..]) {
        (Command::Shell(text), [only]) if raw::heredoc_word(text.value.trim()).is_some() => Some(&only.body),
        _ => None,
    }
}

fn calls(run: &Run) -> Vec<Call> {
    if let Some(body) = whole_heredoc(run) {
        let interpreter = body.strip_prefix("#!").map(|rest| rest.lines().next().unwrap_or(""));
        return match interpreter {
            Some(line) if !line.split_whitespace().any(is_shell) => Vec::new(),
            _ => read(body),
        };
    }
    match &run.command {
        Command::Shell(text) => {
            let mut found = read(&text.value);
            if found.last().is_some_and(|last| is_shell(last.program()) && last.operands().next().is_none()) {
                run.heredocs.iter().for_each(|heredoc| found.extend(read(&heredoc.body)));
            }
            found
        }
        Command::Exec(words) => {
            let words: Vec<String> = words.iter().map(|word| word.value.clone()).collect();
            match &words[..] {
                [] => Vec::new(),
                [program, option, text, ..] if is_shell(program) && is_command_option(option) => read(text),
                _ => vec![Call { words, piped: false }],
            }
        }
    }
}

fn is_shell(program: &str) -> bool {
    matches!(program.rsplit('/').next().unwrap_or(program), "sh" | "bash" | "ash" | "dash" | "zsh" | "ksh")
}

fn is_posix(shell: &[String], os: &str) -> bool {
    shell.first().map_or(os != "windows", |program| is_shell(program))
}

fn is_command_option(option: &str) -> bool {
    option.strip_prefix('-').is_some_and(|letters| letters.ends_with('c'))
}

/// Reads a shell text.
pub(super) fn read(text: &str) -> Vec<Call> {
    let mut reader = Reader { chars: text.chars().peekable(), found: Vec::new() };
    reader.list(None, 0);
    reader.found
}

struct Reader<'t> {
    chars: Peekable<Chars<'t>>,
    found: Vec<Call>,
}

/// A command on its way.
#[derive(Default)]
struct Draft {
    words: Vec<String>,
    word: Option<String>,
    /// The next word is the target of a redirection.
    redirected: bool,
}

impl Draft {
    fn push(&mut self, text: &str) {
        self.word.get_or_insert_default().push_str(text);
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take()
            && !std::mem::take(&mut self.redirected)
        {
            self.words.push(word);
        }
    }

    fn end_call(&mut self, piped: bool, found: &mut Vec<Call>) {
        self.end_word();
        let words = std::mem::take(&mut self.words);
        let words: Vec<String> = words.into_iter().skip_while(|word| is_prefix(word)).collect();
        if !words.is_empty() {
            found.push(Call { words, piped });
        }
    }
}

/// A reserved word or an assignment in front of a command.
fn is_prefix(word: &str) -> bool {
    let assignment = word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    assignment || RESERVED.contains(&word)
}

impl Reader<'_> {
    /// Reads commands up to `stop`, which is consumed.
    fn list(&mut self, stop: Option<char>, depth: usize) {
        let mut draft = Draft::default();
        while let Some(c) = self.chars.next() {
            if Some(c) == stop {
                break;
            }
            match c {
                '\n' | ';' => draft.end_call(false, &mut self.found),
                '&' => {
                    self.skip('&');
                    draft.end_call(false, &mut self.found);
                }
                '|' => {
                    let piped = !self.skip('|');
                    self.skip('&');
                    draft.end_call(piped, &mut self.found);
                }
                '<' | '>' => self.redirection(&mut draft),
                c if c.is_whitespace() => draft.end_word(),
                '#' if draft.word.is_none() => while self.chars.next_if(|c| *c != '\n').is_some() {},
                '(' if draft.word.is_none() && depth < MAX_DEPTH => self.list(Some(')'), depth + 1),
                ')' => draft.end_call(false, &mut self.found),
                c => self.word(c, &mut draft, depth),
            }
        }
        draft.end_call(false, &mut self.found);
    }

    fn skip(&mut self, wanted: char) -> bool {
        self.chars.next_if_eq(&wanted).is_some()
    }

    fn redirection(&mut self, draft: &mut Draft) {
        // A number directly in front is the descriptor.
        draft.word.take_if(|word| word.chars().all(|c| c.is_ascii_digit()));
        draft.end_word();
        while self.chars.next_if(|c| matches!(c, '<' | '>' | '&' | '|' | '-')).is_some() {}
        draft.redirected = true;
    }

    /// A part of a word that begins with `c`.
    fn word(&mut self, c: char, draft: &mut Draft, depth: usize) {
        match c {
            '\\' => match self.chars.next() {
                Some('\n') | None => {}
                Some(c) => draft.push(c.encode_utf8(&mut [0; 4])),
            },
            '\'' => {
                draft.push("");
                while let Some(c) = self.chars.next_if(|c| *c != '\'') {
                    draft.push(c.encode_utf8(&mut [0; 4]));
                }
                self.chars.next();
            }
            '"' => self.double_quoted(draft, depth),
            '`' => self.substitution('`', draft, depth),
            '$' if self.chars.peek() == Some(&'(') => {
                self.chars.next();
                self.substitution(')', draft, depth);
            }
            c => draft.push(c.encode_utf8(&mut [0; 4])),
        }
    }

    fn double_quoted(&mut self, draft: &mut Draft, depth: usize) {
        draft.push("");
        while let Some(c) = self.chars.next() {
            match c {
                '"' => return,
                '\'' => draft.push("'"),
                c => self.word(c, draft, depth),
            }
        }
    }

    fn substitution(&mut self, stop: char, draft: &mut Draft, depth: usize) {
        draft.push("$()");
        if depth < MAX_DEPTH {
            self.list(Some(stop), depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let join = |call: &Call| format!("{}{}", call.words.join(" "), if call.piped { " |" } else { "" });
        read(text).iter().map(join).collect()
    }

    #[test]
    fn finds_commands() {
        let table: &[(&str, &[&str])] = &[
            ("a b && c || d; e & f", &["a b", "c", "d", "e", "f"]),
            ("set -ex; X=1 Y='2 3' make \"a b\"", &["set -ex", "make a b"]),
            ("curl x 2>&1 > /dev/null | sh -s", &["curl x |", "sh -s"]),
            ("if [ -f a ]; then b; fi", &["[ -f a ]", "b"]),
            ("a $(b \"c)\" | d) e", &["b c) |", "d", "a $() e"]),
            ("( cd x && y ) # | z\nw", &["cd x", "y", "w"]),
            ("a \\\n  b 'c | d' \"e ; $(f)\"", &["f", "a b c | d e ; $()"]),
            ("'open | a", &["open | a"]),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text), *expected, "{text}");
        }
    }

    #[test]
    fn knows_options() {
        let call = &read("apt-get -qqy --no-install-recommends install x -o A=b")[0];
        assert!(call.is(&["apt-get"], &["install"]));
        assert!(call.has_option(Some('y'), &["yes"]) && call.has_option(None, &["no-install-recommends"]));
        assert!(!call.has_option(Some('z'), &["quiet"]));
        assert_eq!(call.operands().collect::<Vec<_>>(), ["install", "x", "A=b"]);
    }

    #[test]
    fn nesting_is_bounded() {
        for open in ["$(", "(", "`a ", "\"$("] {
            let text = format!("a {}", open.repeat(100_000));
            assert!(read(&text).iter().any(|call| call.program() == "a"), "{open}");
        }
    }
}
