//! The live display at a terminal, as the terminal shows it: at common sizes and at odd ones.

use std::num::NonZero;

use crate::base;
use crate::project::{Ended, Project, skipped};
use crate::pty::Session;
use crate::registry::Registry;

/// Steps with long names, long and restless output, output that tries to command the terminal, and wide characters.
const BUILDFILE: &str = "FROM base AS one\n\
     RUN for i in 1 2 3 4 5 6; do echo \"line $i of an output that goes on, so that it is wider than a narrow terminal\"; \
     sleep 0.2; done\n\
     FROM base AS two\n\
     RUN for i in 1 2 3 4 5 6 7 8; do printf '\\rprogress %s0%%' $i; sleep 0.1; done; echo\n\
     FROM base\n\
     COPY --from=one /bin/sh /one\n\
     COPY --from=two /bin/sh /two\n\
     RUN printf '\\033[2J\\033[5;5Hhere \\033[1mbold\\033[0m\\t\\a\\n'; sleep 0.3; echo 界界界界界界界界界界界界界界界界界界界界; sleep 0.3\n";

/// What becomes of the steps, in any order: how their lines begin.
const STEPS: [&str; 6] =
    ["[one 2/2]", "[two 2/2]", "[stage-2 2/4]", "[stage-2 3/4]", "[stage-2 4/4]", "exporting"];

struct Shown {
    /// All lines, those that were scrolled out first.
    lines: Vec<String>,
    /// The most rows with the sums that were there at a time.
    most_headings: usize,
    raw: String,
}

/// Builds at a terminal and replays what was written to it, line by line.
fn build(project: &Project, rows: u16, columns: u16, variables: &[(&str, &str)]) -> Shown {
    let mut command = project.kiln(["build", "-t", "app"]);
    let layout = format!("base=oci-layout://{}", project.path("base").display());
    command.args(["--build-context", &layout, "context"]).env("TERM", "xterm");
    command.envs(variables.iter().copied());
    let (code, bytes) = Session::start(&mut command, rows, columns).end();
    let raw = String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(code, Some(0), "{raw}");
    let mut parser = vt100::Parser::new(size(rows), size(columns), 10_000);
    let mut most_headings = 0;
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        parser.process(piece);
        let screen = parser.screen();
        let mut headings = 0;
        for (row, text) in (0..rows).zip(screen.rows(0, columns)) {
            // The last lines of all may wrap: nothing is drawn over them.
            let is_drawn = text.starts_with(" =>") || text.starts_with("[+]") || text.starts_with("    ");
            assert!(!(is_drawn && screen.row_wrapped(row)), "a line wrapped at {columns} columns: {text}");
            headings += usize::from(text.starts_with("[+]"));
        }
        most_headings = most_headings.max(headings);
    }
    Shown { lines: lines(&mut parser, columns), most_headings, raw }
}

fn size(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("not zero")
}

/// Everything that a user can scroll back to.
fn lines(parser: &mut vt100::Parser, columns: u16) -> Vec<String> {
    let screen = parser.screen_mut();
    screen.set_scrollback(usize::MAX);
    let mut lines = Vec::new();
    for above in (1..=screen.scrollback()).rev() {
        screen.set_scrollback(above);
        lines.extend(screen.rows(0, columns).next());
    }
    screen.set_scrollback(0);
    lines.extend(screen.rows(0, columns));
    lines
}

#[track_caller]
fn check(shown: &Shown, columns: usize, step_line: impl Fn(&str) -> bool) {
    let Shown { lines, most_headings, raw } = shown;
    let text = lines.join("\n");
    assert_eq!(*most_headings, 1, "the sums were drawn twice, or never, at {columns} columns");
    assert!(!text.contains("[+]"), "a frame was left behind at {columns} columns:\n{text}");
    assert!(lines.iter().all(|line| !line.starts_with("    ")), "output was left behind:\n{text}");
    for step in STEPS {
        // In a narrow terminal little is left of a name.
        let step = &step[..step.len().min(columns / 2)];
        let count = lines.iter().filter(|line| step_line(line) && line.contains(step)).count();
        assert_eq!(count, 1, "`{step}` at {columns} columns:\n{text}");
    }
    // Nothing clears the screen, hides the cursor, or gets through from a step.
    for sequence in ["\u{1b}[2J", "\u{1b}[J", "\u{1b}[?", "\u{1b}[5;5H", "\u{7}", "\t"] {
        assert!(!raw.contains(sequence), "{sequence:?} was written at {columns} columns");
    }
}

#[test]
fn every_step_has_one_line_and_no_line_wraps_at_any_size() {
    for (rows, columns) in [(24, 80), (50, 200), (24, 40), (24, 30), (6, 80), (24, 132)] {
        let Some(project) = Project::with_base() else { return };
        let project = project.buildfile(BUILDFILE);
        let shown = build(&project, rows, columns, if columns == 132 { &[("NO_COLOR", "1")] } else { &[] });
        check(&shown, usize::from(columns), |line| line.starts_with(" =>"));
        assert_eq!(shown.raw.contains("\u{1b}[34m"), columns != 132, "colours at {columns} columns");
        let last: Vec<&str> =
            shown.lines.iter().map(|line| line.trim_end()).filter(|line| !line.is_empty()).collect();
        let summary = last.iter().position(|line| line.starts_with("built app:latest sha256:"));
        let summary = summary.unwrap_or_else(|| panic!("no summary:\n{}", shown.lines.join("\n")));
        assert!(last[summary + 1..].iter().any(|line| line.starts_with("  ran      ")), "{last:?}");
        // Once more, from the store: one line for each, and one for all.
        let again = build(&project, rows, columns, &[]);
        let lines: Vec<&str> =
            again.lines.iter().map(|line| line.trim_end()).filter(|line| !line.is_empty()).collect();
        assert!(lines.iter().any(|line| line.contains("CACHED")), "{lines:?}");
        assert!(!lines.iter().any(|line| line.starts_with("  ran")), "{lines:?}");
    }
}

#[test]
fn colours_and_lines_of_output_can_be_chosen() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo first; echo second; sleep 0.5\n");
    let variables = [("BUILDKIT_COLORS", "run=green:error=1,2,3"), ("BUILDKIT_TTY_LOG_LINES", "2")];
    let shown = build(&project, 24, 80, &variables);
    assert!(shown.raw.contains("\u{1b}[32m") && !shown.raw.contains("\u{1b}[34m"), "{}", shown.raw);
    let both =
        shown.raw.split("[+]").any(|frame| frame.contains("    first") && frame.contains("    second"));
    assert!(both, "{}", shown.raw);
    project.write("Buildfile", "FROM base\nRUN exit 3\n");
    let mut command = project.kiln(["build", "--build-context"]);
    command.arg(format!("base=oci-layout://{}", project.path("base").display())).arg("context");
    command.env("TERM", "xterm").envs(variables);
    let (code, bytes) = Session::start(&mut command, 24, 80).end();
    let raw = String::from_utf8_lossy(&bytes);
    assert!(code == Some(1) && raw.contains("\u{1b}[38;2;1;2;3m"), "{raw}");
}

/// Everything above the cursor, with each line that the terminal wrapped as one.
fn unwrapped(parser: &mut vt100::Parser) -> String {
    let columns = parser.screen().size().1.get();
    let cursor = parser.screen().cursor_position().0;
    let screen = parser.screen_mut();
    screen.set_scrollback(usize::MAX);
    let mut whole = String::new();
    let mut add = |screen: &vt100::Screen, row: u16| {
        whole.extend(screen.rows(0, columns).nth(usize::from(row)));
        if !screen.row_wrapped(row) {
            whole.push_str("\r\n");
        }
    };
    for above in (1..=screen.scrollback()).rev() {
        screen.set_scrollback(above);
        add(screen, 0);
    }
    screen.set_scrollback(0);
    for row in 0..cursor {
        add(screen, row);
    }
    whole
}

/// The terminal with another size, its lines wrapped anew as terminals do; the cursor rests behind what was drawn.
fn reflow(parser: &mut vt100::Parser, rows: u16, columns: u16) -> vt100::Parser {
    let whole = unwrapped(parser);
    let mut parser = vt100::Parser::new(size(rows), size(columns), 10_000);
    parser.process(whole.as_bytes());
    parser
}

/// A build at a terminal that is made narrower, wider and narrower again meanwhile: what is left in the end.
fn build_and_resize(project: &Project, registry: &Registry, layer: &str) -> String {
    const SIZES: [(u16, u16); 4] = [(24, 100), (24, 40), (30, 150), (24, 80)];
    registry.hold(Some(layer));
    let layout = format!("base=oci-layout://{}", project.path("base").display());
    let mut command = project.kiln(["build", "-t", "app", "--build-context", &layout, "context"]);
    let mut session = Session::start(command.env("TERM", "xterm"), SIZES[0].0, SIZES[0].1);
    let mut resized = Vec::new();
    for (rows, columns) in &SIZES[1..] {
        // Frames come as long as the registry waits.
        for _ in 0..4 {
            session.wait_for("[+]");
        }
        resized.push(session.resize_at_rest(*rows, *columns));
    }
    for _ in 0..4 {
        session.wait_for("[+]");
    }
    registry.hold(None);
    let (code, bytes) = session.end();
    assert_eq!(code, Some(0), "{}", String::from_utf8_lossy(&bytes));

    let mut parser = vt100::Parser::new(size(SIZES[0].0), size(SIZES[0].1), 10_000);
    let mut begin = 0;
    for (at, (rows, columns)) in resized.into_iter().zip(&SIZES[1..]) {
        parser.process(&bytes[begin..at]);
        parser = reflow(&mut parser, *rows, *columns);
        begin = at;
    }
    parser.process(&bytes[begin..]);
    unwrapped(&mut parser)
}

fn is_clean(text: &str) -> bool {
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    let steps = [
        " => [one 2/2]",
        " => [two 1/2]",
        " => [two 2/2]",
        " => [stage-2 2/3]",
        " => [stage-2 3/3]",
        " => exporting",
    ];
    steps.iter().all(|step| count(step) == 1)
        && count("built app:latest") == 1
        && !text.contains("[+]")
        && !text.lines().any(|line| line.starts_with("    "))
}

#[test]
fn a_terminal_that_changes_its_size_keeps_one_line_for_each_step() {
    // Another layer than that of `base`, which is here already.
    let more = [base::Member::File("slow", 0o644, b"slow")];
    let slow = match base::busybox_with(&more) {
        Ok(slow) => slow,
        Err(why) => return skipped(&why),
    };
    let manifest: serde_json::Value =
        serde_json::from_slice(&slow.blobs[&slow.manifest]).expect("a manifest");
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest");
    // A size that changes between kiln's look at it and the write that follows spoils a frame; no program can help that.
    let mut last = String::new();
    for _ in 0..3 {
        let Some(project) = Project::with_base() else { return };
        let registry = Registry::start();
        registry.add("slow", "1", &slow);
        let project = project.buildfile(&format!(
            "FROM base AS one\nRUN echo a rather long line of output, which a narrow terminal has no room for; sleep 0.3\n\
             FROM {}/slow:1 AS two\nRUN echo two\nFROM base\nCOPY --from=one /bin/sh /one\nCOPY --from=two /bin/sh /two\n",
            registry.host()
        ));
        last = build_and_resize(&project, &registry, layer);
        if is_clean(&last) {
            return;
        }
    }
    panic!("frames are left behind:\n{last}");
}

#[test]
fn a_registry_that_takes_its_time_is_named_and_leaves_no_line() {
    let Some(project) = Project::with_base() else { return };
    let registry = Registry::start();
    registry.add("slow", "1", &base::busybox().expect("it was there a moment ago"));
    registry.hold(Some("/manifests/"));
    let project = project.buildfile(&format!("FROM {}/slow:1\nRUN true\n", registry.host()));
    let mut command = project.kiln(["build", "-t", "app", "context"]);
    let mut session = Session::start(command.env("TERM", "xterm"), 24, 80);
    session.wait_for(&format!("[+] looking up {}/slow:1", registry.host()));
    registry.hold(None);
    let (code, bytes) = session.end();
    assert_eq!(code, Some(0), "{}", String::from_utf8_lossy(&bytes));
    let mut parser = vt100::Parser::new(size(24), size(80), 10_000);
    parser.process(&bytes);
    let text = lines(&mut parser, 80).join("\n");
    assert!(
        text.starts_with(" => [1/2] FROM") && !text.contains("looking up") && !text.contains("[+]"),
        "{text}"
    );
}

#[test]
fn lists_fit_into_a_terminal() {
    let Some(project) = Project::with_base() else { return };
    let name = "registry.example/a-team/an-application-with-a-long-name:2026-11-26";
    let project =
        project.buildfile("FROM base\nRUN echo one; echo two; echo three; echo four; echo five > /five\n");
    Ended::of(&mut project.build_command(["-t", name])).ok();
    for args in [&["history"][..], &["inspect", name], &["layers", name]] {
        let session = Session::start(project.kiln(args).env("TERM", "xterm"), 50, 80);
        let (code, bytes) = session.end();
        assert_eq!(code, Some(0));
        let mut parser = vt100::Parser::new(size(50), size(80), 0);
        parser.process(&bytes);
        for (row, text) in (0..50).zip(parser.screen().rows(0, 80)) {
            // Digests are for copying, and never cut.
            let is_digest = text.starts_with("digest ") || text.starts_with("id ");
            assert!(is_digest || !parser.screen().row_wrapped(row), "{args:?}: {text}");
        }
    }
}
