//! Stages: targets, copies between them, what is not needed.

use crate::project::Project;

const THREE: &str = "FROM base AS one\nRUN echo 1 > /one\nFROM base AS two\nRUN echo 2 > /two\n\
                     FROM scratch AS last\nCOPY --from=one /one /\nCOPY --from=1 /two /\n";

#[test]
fn the_last_stage_is_built_from_the_others() {
    let Some(project) = Project::with_base() else { return };
    let image = project.buildfile(THREE).build(&[]).image();
    assert_eq!(image.files.keys().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(image.history(), ["COPY /one / # buildkit", "COPY /two / # buildkit"]);
}

#[test]
fn a_target_needs_nothing_of_the_other_stages() {
    let Some(project) = Project::with_base() else { return };
    let text = format!("FROM nowhere.invalid/none AS broken\nRUN false\n{THREE}");
    let project = project.buildfile(&text);
    let built = project.build(&["--target", "one"]);
    assert!(built.image().has("one") && !built.image().has("two"));
    project.build(&["--target", "thre"]).fails(1, &["thre"]);
}

#[test]
fn a_stage_passes_its_settings_on() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base AS one\nENV A=1\nWORKDIR /w\nENTRYPOINT [\"e\"]\nCMD [\"c\"]\nUSER app\nLABEL k=v\nEXPOSE 80\n\
                FROM one\nENV B=2\n";
    let image = project.buildfile(text).build(&[]).image();
    let settings = image.settings();
    assert_eq!(settings["WorkingDir"], "/w");
    assert_eq!(settings["User"], "app");
    assert_eq!(settings["Entrypoint"][0], "e");
    assert_eq!(settings["Cmd"][0], "c");
    assert_eq!(settings["Labels"]["k"], "v");
    assert_eq!(settings["Labels"]["base"], "busybox");
    assert!(settings["ExposedPorts"]["80/tcp"].is_object());
    let env = settings["Env"].to_string();
    assert!(env.contains("A=1") && env.contains("B=2"), "{env}");
}

#[test]
fn stages_run_side_by_side_and_share_common_steps() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base AS common\nRUN cat /proc/sys/kernel/random/uuid > /id\n\
                FROM common AS a\nRUN cp /id /a\nFROM common AS b\nRUN cp /id /b\n\
                FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n";
    let image = project.buildfile(text).build(&["--jobs", "4"]).image();
    assert_eq!(image.text("a"), image.text("b"), "the common step ran twice");
}

#[test]
fn a_directory_given_by_name_is_a_source() {
    let project = Project::new().buildfile("FROM scratch\nCOPY --from=more f /\n");
    std::fs::create_dir(project.path("more")).expect("directory");
    std::fs::write(project.path("more/f"), "named").expect("file");
    let image = project.build(&["--build-context", "more=more"]).image();
    assert_eq!(image.text("f"), "named");
}

#[test]
fn triggers_of_a_base_run_first() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base AS parent\nONBUILD RUN echo triggered > /t\nFROM parent\nRUN cat /t > /u\n";
    let image = project.buildfile(text).build(&[]).image();
    assert_eq!(image.text("u"), "triggered\n");
    assert!(image.settings().get("OnBuild").is_none_or(|v| v.is_null()), "{}", image.settings());
}
