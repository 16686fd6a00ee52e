//! The pictures of the README. `UPDATE=1` makes them anew, of the terminal and of the report as kiln draws them.
//!
//! Invariants: nothing in a picture is drawn by hand; what they show is in [`BUILDFILE`].

use std::fmt::Write as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use crate::docs::session::public_registry;
use crate::project::Project;
use crate::pty::Session;
use crate::report_page;

const ROWS: u16 = 24;
const COLUMNS: u16 = 100;

/// Stages that run side by side, and a step that fails.
const BUILDFILE: &str = "FROM busybox AS words\n\
    RUN seq 3000000 | sort -r > /words\n\
    RUN gzip -9 /words\n\
    FROM busybox AS checks\n\
    COPY src /src\n\
    RUN for t in parse plan solve export report; do echo \"test $t ... ok\"; sleep 0.5; done; echo done > /checked\n\
    FROM busybox\n\
    COPY --from=words /words.gz /\n\
    COPY --from=checks /checked /\n\
    RUN /src/make all\n";

fn picture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/pictures").join(name)
}

#[test]
fn the_readme_has_its_pictures() {
    if std::env::var_os("UPDATE").is_some() {
        draw();
    }
    let readme = std::fs::read_to_string(picture("../../README.md")).expect("README.md");
    for name in ["terminal.svg", "report.png", "report-dark.png"] {
        assert!(readme.contains(&format!("docs/pictures/{name}")), "README.md does not show {name}");
        let size = std::fs::metadata(picture(name)).expect("a picture").len();
        assert!((1_000..300_000).contains(&size), "{name}: {size} bytes");
    }
}

fn draw() {
    let project = Project::with_base().expect("a base image");
    let make = "#!/bin/sh\necho cc -c main.c\necho 'main.c:3:12: error: expected ; before }' >&2\nexit 2\n";
    let project =
        project.buildfile(BUILDFILE).file("src/main.c", "int main() { return 0 }\n").file("make", make);
    let _registry = public_registry(&project);
    let build = |file: &str| {
        std::fs::write(project.context("Buildfile"), file).expect("Buildfile");
        let mut command = project.kiln(["build", "-t", "app", "."]);
        command
            .env("KILN_CONFIG", project.path("kiln.toml"))
            .env("TERM", "xterm-256color")
            .current_dir(project.path("context"));
        command
    };
    let failing = BUILDFILE.replace("COPY src /src", "COPY --chmod=755 make src /src/");
    let failing = failing.replace("/checked /\n", "/checked /\nCOPY --from=checks /src /src\n");
    let mut session = Session::start(&mut build(&failing), ROWS, COLUMNS);
    session.wait_for("test export ... ok");
    // The frame is whole when the next one begins, with the way up to the heading.
    session.wait_for("[+]");
    let seen = session.seen();
    let up = seen.windows(2).rposition(|pair| pair == b"A\r").expect("a frame before");
    let whole = seen[..up].iter().rposition(|byte| *byte == 0x1b).expect("a sequence");
    let middle = seen[..whole].to_vec();
    let (_, whole) = session.end();
    std::fs::create_dir_all(picture("")).expect("directory");
    let shown = [screen(&middle), screen(&whole)];
    std::fs::write(picture("terminal.svg"), svg("kiln build -t app .", &shown)).expect("picture");

    let working = failing.replace("RUN /src/make all", "RUN rm /words.gz; echo built > /app");
    let store = project.path("another-store");
    // The second build has reasons to tell.
    for file in [&working.replace("seq 3000000", "seq 2000000"), &working] {
        let ended = build(file).env("KILN_ROOT", &store).output().expect("kiln");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        project.write("src/main.c", "int main() { return 0; }\n");
    }
    let mut report = project.kiln(["report", "-o", "report.html"]);
    assert!(report.env("KILN_ROOT", &store).status().expect("kiln").success());
    for (name, dark) in [("report.png", false), ("report-dark.png", true)] {
        let profile = project.path(name);
        report_page::screenshot(&project.path("report.html"), &picture(name), &profile, dark);
    }
}

/// What a terminal shows.
fn screen(bytes: &[u8]) -> vt100::Parser {
    let size = |number| NonZero::new(number).expect("not zero");
    let mut parser = vt100::Parser::new(size(ROWS), size(COLUMNS), 0);
    parser.process(bytes);
    parser
}

/// Screens below one another, the command above each.
fn svg(command: &str, screens: &[vt100::Parser]) -> String {
    const LINE: usize = 19;
    let mut text = String::new();
    let mut y = 12;
    for parser in screens {
        let mut lines = vec![span(0, "#7a8594", "$") + &span(2, "#e6edf3", command)];
        let last = (0..ROWS).rev().find(|row| !is_blank(parser, *row)).unwrap_or(0);
        lines.extend((0..=last).map(|row| spans(parser, row)));
        let height = lines.len() * LINE + 18;
        let _ = writeln!(
            text,
            "<rect x=\"8\" y=\"{y}\" width=\"872\" height=\"{height}\" rx=\"8\" fill=\"#161b22\"/>"
        );
        for (number, line) in lines.iter().enumerate() {
            let _ = writeln!(text, "<text y=\"{}\">{line}</text>", y + 22 + number * LINE);
        }
        y += height + 12;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 888 {y}\" width=\"888\" height=\"{y}\" font-size=\"14\" \
         font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\">\n{text}</svg>\n"
    )
}

fn is_blank(parser: &vt100::Parser, row: u16) -> bool {
    parser.screen().rows(0, COLUMNS).nth(usize::from(row)).is_none_or(|text| text.trim().is_empty())
}

/// A row as pieces of one colour each.
fn spans(parser: &vt100::Parser, row: u16) -> String {
    let mut line = String::new();
    let mut piece: (u16, &str, String) = (0, "", String::new());
    for column in 0..COLUMNS {
        let Some(cell) = parser.screen().cell(row, column) else { continue };
        let colour = match cell.fgcolor() {
            vt100::Color::Idx(1 | 9) => "#ff7b72",
            vt100::Color::Idx(3 | 11) => "#e3b341",
            vt100::Color::Idx(4 | 12) => "#79c0ff",
            vt100::Color::Idx(6 | 14) => "#56d4dd",
            _ if cell.dim() => "#8b949e",
            _ => "#e6edf3",
        };
        if colour != piece.1 {
            line.push_str(&span(piece.0, piece.1, &piece.2));
            piece = (column, colour, String::new());
        }
        piece.2.push_str(if cell.has_contents() { cell.contents() } else { " " });
    }
    line + &span(piece.0, piece.1, &piece.2)
}

fn span(column: u16, colour: &str, text: &str) -> String {
    let text = text.trim_end();
    if text.is_empty() {
        return String::new();
    }
    let (x, width) = (18.0 + f64::from(column) * 8.5, text.chars().count() as f64 * 8.5);
    // Renderers join ordinary spaces.
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace(' ', "\u{a0}");
    format!("<tspan x=\"{x:.1}\" textLength=\"{width:.1}\" fill=\"{colour}\">{text}</tspan>")
}
