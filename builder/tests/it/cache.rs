//! What is executed again and what is not.

use crate::project::Project;

const APP: &str =
    "FROM base\nWORKDIR /src\nCOPY list .\nRUN sort list > sorted\nCOPY main .\nRUN cat sorted main > out\n";

fn app() -> Option<Project> {
    Some(Project::with_base()?.file("list", "b\na\n").file("main", "1\n").buildfile(APP))
}

#[test]
fn a_build_without_changes_executes_nothing_and_gives_the_same_image() {
    let Some(project) = app() else { return };
    let first = project.build(&[]);
    assert_eq!(first.executed().len(), 5, "{}", first.log());
    let second = project.build(&[]);
    assert_eq!(second.executed(), Vec::<String>::new(), "{}", second.log());
    assert_eq!(first.image().digest, second.image().digest);
    let bytes = |path: &std::path::Path| std::fs::read(path).expect("archive");
    assert!(bytes(&first.archive) == bytes(&second.archive), "the archives differ");
}

#[test]
fn an_edit_executes_what_depends_on_it() {
    let Some(project) = app() else { return };
    project.build(&[]).succeeds();
    project.write("main", "2\n");
    let built = project.build(&[]);
    assert_eq!(built.executed(), ["COPY main .", "RUN cat sorted main > out"], "{}", built.log());
    assert_eq!(built.image().text("src/out"), "a\nb\n2\n");
}

#[test]
fn a_new_time_or_an_unused_file_is_no_change() {
    let Some(project) = app() else { return };
    project.build(&[]).succeeds();
    let file = std::fs::File::options().write(true).open(project.context("list")).expect("file");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("time");
    project.write("unused", "x");
    let built = project.build(&[]);
    assert_eq!(built.executed(), Vec::<String>::new(), "{}", built.log());
}

#[test]
fn a_changed_mode_is_a_change() {
    use std::os::unix::fs::PermissionsExt as _;
    let project = Project::new().file("f", "").buildfile("FROM scratch\nCOPY f /\n");
    assert_eq!(project.build(&[]).image().entry("f").mode, 0o644);
    std::fs::set_permissions(project.context("f"), std::fs::Permissions::from_mode(0o755)).expect("mode");
    assert_eq!(project.build(&[]).image().entry("f").mode, 0o755);
}

#[test]
fn a_command_with_the_same_result_stops_the_rebuild() {
    let Some(project) = app() else { return };
    // A mount, so that the changed file itself is not in the image.
    let text =
        "FROM base\nRUN --mount=target=/c sort /c/list > /sorted\nRUN cat /sorted > /out && echo ran\n";
    project.write("Buildfile", text);
    let before = project.build(&[]);
    assert!(before.said("ran"));
    project.write("list", "a\nb\n");
    let after = project.build(&[]);
    assert_eq!(after.executed(), ["RUN --mount=target=/c sort /c/list > /sorted"], "{}", after.log());
    assert!(!after.said("ran"));
    assert_eq!(before.image().digest, after.image().digest);
}

#[test]
fn an_argument_counts_when_a_step_can_see_it() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo before\nARG V\nRUN echo \"v=$V\"\n");
    project.build(&["--build-arg", "V=1"]).succeeds();
    let built = project.build(&["--build-arg", "V=2"]);
    assert_eq!(built.executed().len(), 1, "{}", built.log());
    assert!(built.said("v=2"), "{}", built.log());
}

#[test]
fn no_cache_runs_everything_and_the_filter_some() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base AS one\nRUN echo first\nFROM one AS two\nRUN echo second\n";
    let project = project.buildfile(text);
    project.build(&[]).succeeds();
    let built = project.build(&["--no-cache"]);
    assert!(built.said("first") && built.said("second"), "{}", built.log());
    let built = project.build(&["--no-cache-filter", "two"]);
    assert!(!built.said("first") && built.said("second"), "{}", built.log());
}

#[test]
fn a_failed_step_is_tried_again() {
    let Some(project) = Project::with_base() else { return };
    let project = project
        .file("ok", "no")
        .buildfile("FROM base\nRUN echo kept\nRUN --mount=target=/c grep -q yes /c/ok\n");
    project.build(&[]).fails(1, &["Buildfile:3"]);
    project.write("ok", "yes");
    let built = project.build(&[]);
    built.succeeds();
    assert!(!built.said("kept"), "{}", built.log());
}

#[test]
fn a_secret_is_not_part_of_a_key() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN --mount=type=secret,id=s echo ran\n");
    std::fs::write(project.path("s"), "1").expect("secret");
    assert!(project.build(&["--secret", "id=s,src=s"]).said("ran"));
    std::fs::write(project.path("s"), "2").expect("secret");
    assert!(!project.build(&["--secret", "id=s,src=s"]).said("ran"));
}

#[test]
fn two_builds_at_once_share_a_store() {
    let Some(project) = app() else { return };
    let start = |name: &str| {
        let mut command = project.build_command(["-o", &format!("type=oci,dest={name}.tar")]);
        command.stderr(std::process::Stdio::piped()).spawn().expect("kiln starts")
    };
    let children: Vec<_> = (0..4).map(|n| start(&format!("p{n}"))).collect();
    for child in children {
        crate::project::Ended::from_output(child.wait_with_output().expect("kiln ends")).ok();
    }
    for n in 0..4 {
        let image = crate::image::Image::read_archive(&project.path(&format!("p{n}.tar")));
        assert_eq!(image.text("src/out"), "a\nb\n1\n");
    }
}
