//! A document as what it has its reader do: commands with the output shown for them, and files to write.
//!
//! | in the document | means |
//! | --- | --- |
//! | block `console` | lines after `$ ` are commands (`> ` goes on with one); other lines are what they print |
//! | block `sh` | every line is a command, nothing is said about its output |
//! | line `/dir # text`, `/dir $ text` below a command | what is typed into the shell that the command opens |
//! | `<!-- file: NAME -->` above a block | the block is that file's content |
//! | `<!-- run: COMMANDS -->` | what the reader has done already |
//! | `<!-- word WORD: COMMAND -->` | WORD in later commands stands for what COMMAND prints |
//! | `<!-- not run: REASON -->` above a block | it is shown and not run |
//!
//! Invariants: a block or an indented line that looks like a command and is none of these is an error.

/// What a document has its reader do, in order.
#[derive(Debug)]
pub enum Part {
    Command(Command),
    /// Commands that are not shown.
    Hidden(Command),
    File {
        name: String,
        content: String,
    },
    Word {
        word: String,
        command: String,
    },
    /// The reason why a block is not run.
    Skipped(String),
}

/// A command and what the document shows of it.
#[derive(Debug)]
pub struct Command {
    /// Counted from 1.
    pub line: usize,
    pub text: String,
    /// What is typed into it.
    pub typed: Vec<String>,
    /// Its output as shown; empty: nothing is shown.
    pub shown: Vec<String>,
    /// Lines of the document that show the output, counted from 0.
    pub place: std::ops::Range<usize>,
}

impl Command {
    fn new(line: usize, text: String) -> Self {
        Self { line, text, typed: Vec::new(), shown: Vec::new(), place: line..line }
    }
}

enum Above {
    Nothing,
    File(String),
    NotRun,
}

/// Reads a document; the text of an error names the line.
pub fn parse(text: &str) -> Result<Vec<Part>, String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut parts = Vec::new();
    let mut above = Above::Nothing;
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        if let Some(comment) = line.strip_prefix("<!-- ") {
            let end = (at..lines.len()).find(|index| lines[*index].ends_with("-->"));
            let end = end.ok_or_else(|| format!("line {}: a comment without an end", at + 1))?;
            let whole = lines[at..=end].join("\n");
            let inside = whole.trim_start_matches("<!-- ").trim_end_matches("-->").trim().to_owned();
            if let Some(commands) = inside.strip_prefix("run:") {
                parts.push(Part::Hidden(Command::new(at + 1, commands.trim().to_owned())));
            } else if let Some(name) = inside.strip_prefix("file:") {
                above = Above::File(name.trim().to_owned());
            } else if let Some(reason) = inside.strip_prefix("not run:") {
                if reason.trim().len() < 10 {
                    return Err(format!("line {}: `not run` without a reason", at + 1));
                }
                parts.push(Part::Skipped(reason.trim().to_owned()));
                above = Above::NotRun;
            } else if let Some((word, command)) =
                inside.strip_prefix("word ").and_then(|rest| rest.split_once(": "))
            {
                parts.push(Part::Word { word: word.to_owned(), command: command.to_owned() });
            } else if comment.starts_with("run") || comment.starts_with("not") {
                return Err(format!("line {}: `{line}` is not understood", at + 1));
            }
            at = end + 1;
            continue;
        }
        if let Some(kind) = line.strip_prefix("```") {
            let end = (at + 1..lines.len()).find(|index| lines[*index].trim_end() == "```");
            let end = end.ok_or_else(|| format!("line {}: a block without an end", at + 1))?;
            block(&lines, at + 1..end, kind, std::mem::replace(&mut above, Above::Nothing), &mut parts)?;
            at = end + 1;
            continue;
        }
        let is_indented = line.starts_with("    ") && (at == 0 || lines[at - 1].is_empty());
        if is_indented && looks_like_command(line.trim()) && !matches!(above, Above::NotRun) {
            return Err(format!("line {}: `{}` is in no block that is run", at + 1, line.trim()));
        }
        if !line.is_empty() && !is_indented {
            above = Above::Nothing;
        }
        at += 1;
    }
    Ok(parts)
}

fn looks_like_command(line: &str) -> bool {
    let is_word = |text: &str| text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    line.starts_with("$ ") || line.strip_prefix("kiln ").is_some_and(is_word)
}

fn block(
    lines: &[&str],
    range: std::ops::Range<usize>,
    kind: &str,
    above: Above,
    parts: &mut Vec<Part>,
) -> Result<(), String> {
    let inside = &lines[range.clone()];
    match (above, kind) {
        (Above::NotRun, _) => {}
        (Above::File(name), _) => {
            parts.push(Part::File { name, content: format!("{}\n", inside.join("\n")) });
        }
        (Above::Nothing, "sh") => {
            let mut command: Option<Command> = None;
            for (line, text) in range.clone().zip(inside) {
                let mut whole = command.take().unwrap_or_else(|| Command::new(line + 1, String::new()));
                whole.text.push_str(text);
                if text.ends_with('\\') {
                    whole.text.push('\n');
                    command = Some(whole);
                } else if !whole.text.trim().is_empty() {
                    parts.push(Part::Command(whole));
                }
            }
        }
        (Above::Nothing, "console") => {
            let mut commands: Vec<Command> = Vec::new();
            for (line, text) in range.clone().zip(inside) {
                if let Some(text) = text.strip_prefix("$ ") {
                    let mut command = Command::new(line + 1, text.to_owned());
                    command.place = line + 1..line + 1;
                    commands.push(command);
                    continue;
                }
                let Some(last) = commands.last_mut() else {
                    return Err(format!("line {}: a block `console` begins with a command", line + 1));
                };
                if let Some(more) = text.strip_prefix("> ").filter(|_| last.shown.is_empty()) {
                    last.text.push('\n');
                    last.text.push_str(more);
                    last.place = line + 1..line + 1;
                } else {
                    last.typed.extend(typed(text));
                    last.shown.push((*text).to_owned());
                    last.place.end = line + 1;
                }
            }
            parts.extend(commands.into_iter().map(Part::Command));
        }
        (Above::Nothing, _) => {
            if let Some(at) = inside.iter().position(|line| looks_like_command(line)) {
                let line = range.start + at + 1;
                return Err(format!("line {line}: a command in a block that is not run"));
            }
        }
    }
    Ok(())
}

/// What is typed after the prompt of a shell in a step, `/dir # `.
pub fn typed(line: &str) -> Option<String> {
    let (directory, rest) = line.split_once(' ')?;
    let text = rest.strip_prefix("# ").or_else(|| rest.strip_prefix("$ "))?;
    directory.starts_with('/').then(|| text.to_owned())
}

/// The document with the shown output of some commands replaced.
pub fn rewrite(text: &str, mut changes: Vec<(std::ops::Range<usize>, Vec<String>)>) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    changes.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    for (place, new) in changes {
        lines.splice(place, new);
    }
    lines.join("\n") + "\n"
}

#[test]
fn commands_are_found_and_what_is_not_run_is_told() {
    let text = "<!-- run: mkdir a\ncd a -->\n\n```console\n$ kiln ls \\\n>   app\nout\n$ kiln debug\n/ # env\nA=1\n```\n\n\
                <!-- not run: it takes a registry -->\n\n```sh\nkiln push\n```\n\n```sh\nkiln a \\\n  b\nkiln c # why\n```\n\
                \n<!-- file: Buildfile -->\n```dockerfile\nFROM scratch\n```\n";
    let parts = parse(text).expect("a document");
    assert!(matches!(&parts[0], Part::Hidden(command) if command.text == "mkdir a\ncd a"));
    let Part::Command(first) = &parts[1] else { panic!("{parts:?}") };
    assert_eq!((first.line, first.text.as_str()), (5, "kiln ls \\\n  app"));
    assert_eq!((first.shown.as_slice(), first.place.clone()), (&["out".to_owned()][..], 6..7));
    let Part::Command(second) = &parts[2] else { panic!("{parts:?}") };
    assert_eq!((second.typed.as_slice(), second.place.clone()), (&["env".to_owned()][..], 8..10));
    assert!(matches!(&parts[3], Part::Skipped(reason) if reason == "it takes a registry"));
    assert!(matches!(&parts[4], Part::Command(command) if command.text == "kiln a \\\n  b"));
    assert!(matches!(&parts[5], Part::Command(command) if command.text == "kiln c # why"));
    assert!(
        matches!(&parts[6], Part::File { name, content } if name == "Buildfile" && content == "FROM scratch\n")
    );
    assert_eq!(parts.len(), 7);

    for lost in
        ["    kiln build\n", "```\nkiln build\n```\n", "<!-- not run: -->\n", "```console\nout\n```\n"]
    {
        parse(lost).expect_err(lost);
    }
    let new = rewrite(text, vec![(6..7, vec!["new".to_owned(), "lines".to_owned()])]);
    assert!(new.contains(">   app\nnew\nlines\n$ kiln debug\n"), "{new}");
}
