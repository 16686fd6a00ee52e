//! `kiln report`.

use crate::project::Project;

const FILE: &str = "FROM base AS one\nRUN echo from-one; head -c 300000 /dev/zero | tr '\\0' x > /big\nRUN rm /big; echo '</pre><script>alert(1)</script>'\n\
                    FROM base\nCOPY --from=one /bin/busybox /copied\nrun echo lower-case\n";

#[test]
fn a_page_tells_all_of_a_build() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile(FILE);
    project.build(&["-t", "app", "--target=one"]).succeeds();
    project.run(&["report"]).ok();
    let html = std::fs::read_to_string(project.path("kiln-report.html")).expect("page");
    for part in [
        "<h1>app:latest (one) <span class=\"badge ok\">succeeded</span></h1>",
        "class=\"bar run\"",
        "RUN echo from-one",
        "removed by layer 2",
        "/big",
        "<svg ",
        "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;",
    ] {
        assert!(html.contains(part), "{part}\n{html}");
    }
    assert_eq!(html.matches("<script").count(), 1, "kiln's own");
    assert!(!html.contains("src=") && !html.contains("<link"), "nothing is loaded");
    assert!(html.len() < 200_000, "{}", html.len());

    // A rebuild of nothing, and of all stages, to standard output, named by its id.
    project.build(&["-t", "app", "--target=one"]).succeeds();
    let page = project.run(&["report", "-o", "-"]).ok().stdout;
    assert!(
        page.contains("No step ran: everything was stored.") && page.contains("removed by layer 2"),
        "{page}"
    );
}

#[test]
fn a_page_of_a_failure_shows_why() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo before; exit 7\n");
    project.build(&[]).fails(1, &["exit code: 7"]);
    let page = project.run(&["report", "-o", "-"]).ok().stdout;
    for part in
        ["badge bad\">failed", "class=\"bar failed\"", "<pre>before</pre>", "This build gave no image."]
    {
        assert!(page.contains(part), "{part}\n{page}");
    }
    project.run(&["report", "nosuch"]).fails(1, &["nosuch"]);
    project.run(&["report", "-o", "missing/dir.html"]).fails(1, &["missing/dir.html", "-o"]);
}

#[test]
fn the_longest_logs_keep_their_ends() {
    let Some(project) = Project::with_base() else { return };
    let project =
        project.buildfile("FROM base\nRUN i=0; while [ $i -lt 60000 ]; do echo line-$i; i=$((i+1)); done\n");
    project.build(&[]).succeeds();
    let page = project.run(&["report", "-o", "-"]).ok().stdout;
    assert!(page.contains("line-59999\n") || page.contains("line-59999</pre>"));
    assert!(!page.contains("line-100\n") && page.contains("before this are left out: kiln log"));
    assert!(page.len() < 400_000, "{}", page.len());
}
