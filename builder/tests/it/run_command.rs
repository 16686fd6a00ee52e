//! `kiln run`.

use crate::project::{Ended, Project};

fn with_image(text: &str) -> Option<Project> {
    let project = Project::with_base()?.buildfile(text);
    Ended::of(&mut project.build_command([
        "-t",
        "made",
        "-o",
        "type=image",
        "-o",
        "type=oci,tar=false,dest=layout",
    ]))
    .ok();
    Some(project)
}

#[test]
fn it_runs_the_images_command_or_another() {
    let Some(project) = with_image("FROM base\nCMD [\"echo\", \"from the image\"]\n") else { return };
    assert_eq!(project.run(&["run", "made"]).ok().stdout, "from the image\n");
    assert_eq!(project.run(&["run", "made", "echo", "mine"]).ok().stdout, "mine\n");
    let layout = format!("oci-layout:{}", project.path("layout").display());
    assert_eq!(project.run(&["run", &layout]).ok().stdout, "from the image\n");
    let ended = project.run(&["run", "made", "sh", "-c", "echo out; echo err >&2"]).ok();
    assert_eq!((ended.stdout.as_str(), ended.stderr.contains("err\n")), ("out\n", true), "{}", ended.stderr);
}

#[test]
fn entrypoint_and_command_go_together() {
    let Some(project) = with_image("FROM base\nENTRYPOINT [\"echo\", \"entry\"]\nCMD [\"cmd\"]\n") else {
        return;
    };
    assert_eq!(project.run(&["run", "made"]).ok().stdout, "entry cmd\n");
    assert_eq!(project.run(&["run", "made", "other"]).ok().stdout, "entry other\n");
    assert_eq!(project.run(&["run", "--entrypoint", "printf", "made", "%s", "x"]).ok().stdout, "x");
}

#[test]
fn the_exit_code_is_the_commands() {
    let Some(project) = with_image("FROM base\n") else { return };
    for code in [0, 1, 42, 255] {
        assert_eq!(project.run(&["run", "made", "sh", "-c", &format!("exit {code}")]).code, Some(code));
    }
    let ended = project.run(&["run", "made", "sh", "-c", "sh -c 'kill -9 $$'; exit $?"]);
    assert_eq!(ended.code, Some(128 + 9));
    let ended = project.run(&["run", "made", "no-such-program"]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("no-such-program"), "{}", ended.stderr);
}

#[test]
fn environment_user_and_directory() {
    let Some(project) = with_image("FROM base\nENV A=image B=image\nWORKDIR /w\n") else { return };
    let show = "echo $A $B $(id -un) $(pwd)";
    assert_eq!(project.run(&["run", "made", "sh", "-c", show]).ok().stdout, "image image root /w\n");
    let ended =
        project.run(&["run", "-e", "A=flag", "-u", "app", "-w", "/tmp", "made", "sh", "-c", show]).ok();
    assert_eq!(ended.stdout, "flag image app /tmp\n");
}

#[test]
fn changes_are_thrown_away() {
    let Some(project) = with_image("FROM base\n") else { return };
    let snapshots = || std::fs::read_dir(project.store().join("snapshots")).expect("snapshots").count();
    project.run(&["run", "made", "true"]).ok();
    let before = snapshots();
    project.run(&["run", "made", "sh", "-c", "echo x > /f && rm /bin/ls"]).ok();
    assert_eq!(project.run(&["run", "made", "ls", "/f"]).code, Some(1));
    assert_eq!(snapshots(), before, "a container's files are left in the store");
}

#[test]
fn limits_are_told() {
    let Some(project) = with_image("FROM base\n") else { return };
    let fork = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait";
    let ended = project.run(&["run", "--pids-limit=5", "made", "sh", "-c", fork]);
    if ended.stderr.contains("--pids-limit) has no effect") {
        assert!(!crate::project::is_root(), "{}", ended.stderr);
        return;
    }
    assert_ne!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("warning: process `sh -c"), "{}", ended.stderr);
    assert!(ended.stderr.contains("its limit of 5 was reached"), "{}", ended.stderr);
    let ended = project.run(&["run", "--memory=32m", "made", "sh", "-c", crate::limits::HUNGRY]);
    let limited = !ended.stderr.contains("has no effect");
    assert!(!limited || ended.stderr.contains("its limit of 32 MiB was reached"), "{}", ended.stderr);
}

#[test]
fn a_stopped_command_is_no_stopped_build() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;
    let Some(project) = with_image("FROM base\n") else { return };
    let mut command = project.kiln(["run", "made", "sh", "-c", "echo begun; sleep 60"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kiln starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("read");
    assert_eq!(line, "begun\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
    let ended = Ended::from_output(child.wait_with_output().expect("kiln ends"));
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert!(ended.stderr.contains("stopped before the command ended"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("build"), "{}", ended.stderr);
}

#[test]
fn standard_input_arrives() {
    use std::io::Write as _;
    use std::process::Stdio;
    let Some(project) = with_image("FROM base\n") else { return };
    let mut command = project.kiln(["run", "made", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("kiln starts");
    child.stdin.take().expect("stdin").write_all(b"through the pipe").expect("write");
    let ended = Ended::from_output(child.wait_with_output().expect("kiln ends")).ok();
    assert_eq!(ended.stdout, "through the pipe");
}

#[test]
fn an_image_without_a_command_and_an_unknown_image() {
    let project = Project::new().file("f", "").buildfile("FROM scratch\nCOPY f /\n");
    Ended::of(&mut project.build_command(["-t", "empty"])).ok();
    project.run(&["run", "empty"]).fails(1, &["empty"]);
    let layout = format!("oci-layout:{}", project.path("nothing").display());
    let ended = project.run(&["run", &layout]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("nothing"), "{}", ended.stderr);
}
