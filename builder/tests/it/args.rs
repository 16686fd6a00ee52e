//! ARG, ENV and where their values go.

use crate::project::Project;

#[test]
fn values_come_from_the_flag_the_environment_or_the_default() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nARG A=default\nARG B=default\nARG C=default\nARG D\nRUN echo \"$A $B $C ${D-unset}\" > /values\n";
    let project = project.buildfile(text);
    let built = project.build_with(&["--build-arg", "A=flag", "--build-arg", "B"], |command| {
        command.env("B", "environment").env("C", "not asked for");
    });
    assert_eq!(built.image().text("values"), "flag environment default unset\n");
}

#[test]
fn a_global_arg_is_visible_in_from_and_needs_declaring_in_a_stage() {
    let Some(project) = Project::with_base() else { return };
    let text = "ARG NAME=base\nARG V=global\nFROM $NAME\nRUN echo \"[$V]\" > /before\nARG V\nRUN echo \"[$V]\" > /after\n";
    let image = project.buildfile(text).build(&[]).image();
    assert_eq!((image.text("before"), image.text("after")), ("[]\n".to_owned(), "[global]\n".to_owned()));
}

#[test]
fn args_leave_history_but_no_environment() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nARG TOP=1\nENV KEPT=$TOP-2\nRUN true\n";
    let image = project.buildfile(text).build(&[]).image();
    let env = image.settings()["Env"].to_string();
    assert!(env.contains("KEPT=1-2") && !env.contains("TOP"), "{env}");
    assert!(
        image.history().contains(&"RUN |1 TOP=1 /bin/sh -c true # buildkit".to_owned()),
        "{:?}",
        image.history()
    );
}

#[test]
fn platform_args_are_predefined() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nARG TARGETARCH\nARG TARGETPLATFORM\nRUN echo $TARGETARCH $TARGETPLATFORM > /p\n";
    let image = project.buildfile(text).build(&[]).image();
    let arch = crate::base::architecture();
    assert!(image.text("p").starts_with(&format!("{arch} linux/{arch}")), "{}", image.text("p"));
}

#[test]
fn a_file_of_args_and_an_arg_that_nobody_uses() {
    let Some(project) = Project::with_base() else { return };
    let project = project.file("list", "# comment\nA=from file\nB=from file\n");
    project.write("Buildfile", "FROM base\nARG A\nARG B\nRUN echo \"$A,$B\" > /v\n");
    let built = project.build(&["--build-arg-file", "context/list", "--build-arg", "B=flag"]);
    assert_eq!(built.image().text("v"), "from file,flag\n");
    let built = project.build(&["--build-arg", "NOBODY=1"]);
    assert!(built.log().contains("NOBODY"), "an unused argument is not told:\n{}", built.log());
}

#[test]
fn proxies_reach_the_command_only() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN echo \"$http_proxy $HTTP_PROXY\" > /p\n");
    let image = project.build(&["--build-arg", "http_proxy=http://proxy:3128"]).image();
    assert_eq!(image.text("p"), "http://proxy:3128 http://proxy:3128\n");
    // Those of the machine are given when that is asked for, and an argument wins.
    let here = |flags: &[&str]| {
        let built = project.build_with(&[flags, &["--no-cache"]].concat(), |command| {
            command.env("http_proxy", "http://here:1");
        });
        built.image().text("p")
    };
    assert_eq!(here(&[]), " \n");
    assert_eq!(here(&["--http-proxy=false"]), " \n");
    assert_eq!(here(&["--http-proxy"]), "http://here:1 http://here:1\n");
    assert_eq!(here(&["--http-proxy", "--build-arg=HTTP_PROXY=http://b:2"]), "http://b:2 http://b:2\n");
    assert!(!image.config.to_string().contains("3128"), "{}", image.config);
}
