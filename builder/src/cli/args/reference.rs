//! docs/cli.md against the command line: all verbs and options, in the words of `--help`.
//!
//! Invariants: the part behind the marker is made here; `UPDATE=1` writes it anew, and without it a difference fails.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use super::Cli;

/// Where the made part begins.
const MARKER: &str =
    "<!-- From here on this is made of the command line by UPDATE=1 cargo test -p kiln --lib reference -->\n";

fn docs(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn commands() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// All of the verbs, one behind the other.
fn reference(command: &Command) -> String {
    let mut text = String::from("\n## Verbs\n\n| verb | does |\n| --- | --- |\n");
    for verb in visible(command) {
        let name = verb.get_name();
        let _ = writeln!(text, "| [`{name}`](#kiln-{name}) | {} |", about(verb));
    }
    text.push_str(
        "\nEvery verb takes `--root DIR`, which is where images and cache are, and `-h`, `--help`.\n",
    );
    for verb in visible(command) {
        describe(&mut text, verb, 2);
    }
    text
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set())
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn describe(text: &mut String, command: &Command, level: usize) {
    let title = command.get_bin_name().unwrap_or(command.get_name());
    let _ = write!(text, "\n{} {title}\n\n{}.", "#".repeat(level), about(command));
    let aliases: Vec<String> = command.get_visible_aliases().map(|alias| format!("`kiln {alias}`")).collect();
    if !aliases.is_empty() {
        let _ = write!(text, " Also: {}.", aliases.join(", "));
    }
    let usage = command.clone().render_usage().to_string();
    let _ = write!(text, "\n\n    {}\n", usage.trim_start_matches("Usage: ").replace('\n', "\n    "));
    let own =
        |argument: &&Arg| !argument.is_hide_set() && !argument.is_global_set() && argument.get_id() != "help";
    let arguments: Vec<&Arg> = command.get_arguments().filter(own).collect();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for argument in &arguments {
        if !headings.contains(&argument.get_help_heading()) {
            headings.push(argument.get_help_heading());
        }
    }
    headings.sort_by_key(|heading| heading.is_some());
    for heading in headings {
        let _ = write!(text, "\n| {} | |\n| --- | --- |\n", heading.unwrap_or("Arguments and options"));
        for argument in arguments.iter().filter(|argument| argument.get_help_heading() == heading) {
            let _ = writeln!(text, "| {} | {} |", form(argument), help(argument));
        }
    }
    if let Some(more) = command.get_after_help() {
        let _ = write!(text, "\n{}\n", more.to_string().replace('\n', "\n\n").replace("\n\n\n\n", "\n\n"));
    }
    for verb in visible(command) {
        describe(text, verb, level + 1);
    }
}

/// An option as it is typed.
fn form(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default();
    let value = values.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" ");
    if argument.is_positional() {
        let many = if matches!(argument.get_action(), ArgAction::Append) { "..." } else { "" };
        return format!("`{value}{many}`");
    }
    let takes = argument.get_action().takes_values();
    let optional = argument.get_num_args().is_some_and(|number| number.min_values() == 0);
    let value = match (takes, optional) {
        (false, _) => String::new(),
        (true, true) => format!("[={value}]"),
        (true, false) => format!(" {value}"),
    };
    let short = argument.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let long = argument.get_long().unwrap_or_default();
    let aliases = argument.get_visible_aliases().unwrap_or_default();
    let also: String = aliases.iter().map(|alias| format!(", `--{alias}`")).collect();
    format!("{short}`--{long}{value}`{also}").replace('|', "\\|")
}

fn help(argument: &Arg) -> String {
    let mut text = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let values: Vec<String> =
        argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let told = argument.is_hide_possible_values_set();
    if !told && !values.is_empty() && argument.get_action().takes_values() {
        let _ = write!(text, ": {}", values.join(", "));
    }
    if !argument.is_hide_default_value_set() {
        let defaults = argument.get_default_values().iter().map(|value| value.to_string_lossy());
        let defaults = defaults.collect::<Vec<_>>().join(" ");
        if !defaults.is_empty() && argument.get_action().takes_values() {
            let _ = write!(text, " [default: {defaults}]");
        }
    }
    text.replace('|', "\\|")
}

#[test]
fn the_reference_has_every_verb_and_option() {
    let path = docs("docs/cli.md");
    let present = std::fs::read_to_string(&path).unwrap();
    let (written, made) = present.split_once(MARKER).expect("the marker in docs/cli.md");
    let expected = reference(&commands());
    if made != expected && std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{written}{MARKER}{expected}")).unwrap();
        return;
    }
    let line = made.lines().zip(expected.lines()).find(|(made, expected)| made != expected);
    assert!(
        made == expected,
        "docs/cli.md is not what --help says; `UPDATE=1 cargo test -p kiln --lib reference` writes it anew; first \
         difference: {line:#?}"
    );
}

#[test]
fn exit_statuses_are_those_of_the_code() {
    use crate::ui::failure::{
        EXIT_FAILED, EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_LIMIT, EXIT_OK, EXIT_RESOURCES, EXIT_USAGE,
    };
    let all = [EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_LIMIT, EXIT_INTERNAL, EXIT_RESOURCES, EXIT_INTERRUPTED];
    let written = std::fs::read_to_string(docs("docs/cli.md")).unwrap();
    let help = commands().get_after_help().unwrap().to_string();
    for status in all {
        assert!(written.contains(&format!("\n| {status} | ")), "{status}");
        assert!(help.contains(&format!(" {status} ")), "{status}: {help}");
    }
}

/// Options that pipelines in examples/ and commands in docs/ use are there.
#[test]
fn examples_name_no_unknown_option() {
    let command = commands();
    for directory in ["examples/ci", "examples/kiln"] {
        for file in std::fs::read_dir(docs(directory)).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap().replace("\\\n", " ");
            for line in text.lines() {
                for part in line.split("kiln ").skip(1) {
                    let mut words = part.split_whitespace();
                    let Some(verb) = words.next().and_then(|verb| command.find_subcommand(verb)) else {
                        continue;
                    };
                    let known: BTreeSet<&str> = verb.get_arguments().filter_map(Arg::get_long).collect();
                    let given = words.filter_map(|word| word.strip_prefix("--"));
                    for option in given.map(|word| word.split('=').next().unwrap_or(word)) {
                        assert!(known.contains(option), "{}: kiln {part}", path.display());
                    }
                }
            }
        }
    }
}
