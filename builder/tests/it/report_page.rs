//! The page of `kiln report` in a browser: a headless Chromium, where one is installed.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::project::{Project, skipped};

/// A browser with a profile of its own, in which nothing but the page moves. None: there is none.
fn browser(profile: &Path) -> Option<Command> {
    let program = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    })?;
    // A browser that hangs is no fault of the page.
    let mut command = Command::new("timeout");
    command.args(["300", program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]);
    command.arg("--disable-component-update").arg(format!("--user-data-dir={}", profile.display()));
    command.env("HOME", profile).stdin(Stdio::null());
    Some(command)
}

/// What is said on the console, and the document as it is after its script has run. None: there is no browser that works.
fn browse(page: &Path, profile: &Path) -> Option<(Vec<String>, String)> {
    let mut command = browser(profile)?;
    command.args(["--enable-logging=stderr", "--dump-dom"]).arg(format!("file://{}", page.display()));
    let output = command.output().ok().filter(|output| output.status.success())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let console = said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    Some((console, String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Takes a picture of the upper part of a page.
pub fn screenshot(page: &Path, to: &Path, profile: &Path, is_dark: bool) {
    let mut command = browser(profile).expect("a browser");
    if is_dark {
        command.arg("--blink-settings=preferredColorScheme=0");
    }
    command.args(["--window-size=1100,900", "--hide-scrollbars"]);
    command.arg(format!("--screenshot={}", to.display())).arg(format!("file://{}", page.display()));
    let output = command.output().expect("the browser starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_widest_page_is_small_and_has_no_faults() {
    let Some(project) = Project::with_base() else { return };
    let mut file = String::new();
    for stage in 0..128 {
        let _ = writeln!(file, "FROM base AS s{stage}\nRUN echo {stage} > /f{stage}");
    }
    file.push_str("FROM base\n");
    for stage in 0..128 {
        let _ = writeln!(file, "COPY --from=s{stage} /f{stage} /");
    }
    // More layers than engines like: one is made of them.
    let project = project.buildfile(&file);
    project.build(&["-t", "app", "--squash"]).succeeds();
    project.run(&["report", "-o", "page.html"]).ok();
    let page = project.path("page.html");
    let html = std::fs::read_to_string(&page).expect("page");
    assert!(html.len() < 2_000_000, "{} bytes", html.len());

    // What the browser does with a page that has a fault: without that it cannot tell whether the other has any.
    let faulty = project.path("faulty.html");
    std::fs::write(&faulty, "<p>shown</p><script>nosuch()</script>").expect("page");
    match browse(&faulty, &project.path("profile0")) {
        Some((console, document)) if document.contains("<p>shown</p>") && console.len() == 1 => {}
        other => return skipped(&format!("there is no chromium that works: {other:?}")),
    }
    // A browser may crash on a crowded machine.
    let shown = (1..4).find_map(|number| browse(&page, &project.path(&format!("profile{number}"))));
    let (console, document) = shown.expect("the browser shows the page");
    assert_eq!(console, Vec::<String>::new(), "the page has faults");
    assert!(document.contains("RUN echo 127 &gt; /f127"), "{document}");
}
