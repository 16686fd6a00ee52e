//! RUN: what a command sees and what it leaves.

use crate::image::Kind;
use crate::project::Project;

#[test]
fn files_made_changed_and_removed_become_a_layer() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN mkdir -p /d/sub && echo 1 > /d/a && echo 2 > /d/sub/b && ln -s a /d/l && ln /d/a /d/h\n\
                RUN rm -r /d/sub && echo 3 > /d/a && chmod 600 /d/a\n";
    let image = project.buildfile(text).build(&[]).image();
    assert_eq!(image.text("d/a"), "3\n");
    assert_eq!(image.text("d/h"), "1\n", "writing to a file of a layer below parts it from its other names");
    assert_eq!(image.entry("d/a").mode, 0o600);
    assert_eq!(image.entry("d/l").kind, Kind::Symlink("a".to_owned()));
    assert!(!image.has("d/sub") && !image.has("d/sub/b"));
    assert_eq!(image.layers.len(), 3);
    assert!(image.layers[2].names.contains(&"d/.wh.sub".to_owned()), "{:?}", image.layers[2].names);
}

#[test]
fn nothing_of_the_sandbox_is_left_in_the_image() {
    let Some(project) = Project::with_base() else { return };
    let image = project
        .buildfile("FROM base\nRUN cat /etc/hosts /etc/resolv.conf >/dev/null && echo x > /f\n")
        .build(&[])
        .image();
    assert_eq!(image.layers[1].names, ["f"]);
    for path in ["proc", "sys", "dev", "etc/hosts", "etc/resolv.conf"] {
        assert!(!image.has(path), "{path}");
    }
}

#[test]
fn a_command_that_changes_nothing() {
    let Some(project) = Project::with_base() else { return };
    let image = project.buildfile("FROM base\nRUN true\nRUN echo out\n").build(&[]).image();
    assert_eq!(image.files.get("f"), None);
    let history = image.history();
    assert_eq!(
        history[history.len() - 2..],
        ["RUN /bin/sh -c true # buildkit", "RUN /bin/sh -c echo out # buildkit"]
    );
}

#[test]
fn environment_directory_and_user() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nENV A=1 B=\"two words\"\nWORKDIR /work/dir\nRUN env | sort > /env && pwd > /pwd && umask > /umask\n\
                USER app\nWORKDIR /home/app\nRUN id > who && echo $HOME > home\n";
    let image = project.buildfile(text).build(&[]).image();
    let env = image.lines("env");
    for pair in ["A=1", "B=two words", "FROM_BASE=yes", "PATH=/bin", "HOME=/root"] {
        assert!(env.iter().any(|line| line == pair), "{pair} in {env:?}");
    }
    let known = ["A", "B", "FROM_BASE", "PATH", "HOME", "PWD", "SHLVL", "OLDPWD"];
    assert!(env.iter().all(|line| known.contains(&line.split('=').next().expect("name"))), "{env:?}");
    assert_eq!(image.text("pwd"), "/work/dir\n");
    assert_eq!(image.text("umask"), "0022\n");
    assert_eq!(
        image.text("home/app/who"),
        "uid=1000(app) gid=1001(appgroup) groups=1001(appgroup),1002(extra)\n"
    );
    assert_eq!(image.text("home/app/home"), "/home/app\n");
    assert_eq!((image.entry("home/app/who").uid, image.entry("home/app/who").gid), (1000, 1001));
    assert_eq!((image.entry("home/app").uid, image.entry("work/dir").uid), (1000, 0));
}

#[test]
fn exec_form_and_shell() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN [\"touch\", \"/a b\"]\nSHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN false; touch /not-reached || true\n";
    let project = project.buildfile(text);
    project.build(&[]).fails(1, &["Buildfile:4"]);
    project.write(
        "Buildfile",
        "FROM base\nRUN [\"touch\", \"/a b\"]\nSHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN touch /reached\n",
    );
    let image = project.build(&[]).image();
    assert!(image.has("a b") && image.has("reached"));
    assert_eq!(image.settings()["Shell"], serde_json::json!(["/bin/sh", "-e", "-c"]));
}

#[test]
fn host_name_and_hosts() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN hostname > /name && cat /etc/hosts > /hosts\n";
    let image = project.buildfile(text).build(&["--add-host", "db:10.1.2.3"]).image();
    assert_eq!(image.text("name"), "buildkitsandbox\n");
    let hosts = image.lines("hosts");
    assert!(hosts.iter().any(|line| line.split_whitespace().eq(["10.1.2.3", "db"])), "{hosts:?}");
    assert!(hosts.iter().any(|line| line.starts_with("127.0.0.1")), "{hosts:?}");
}

#[test]
fn the_network_of_none_has_loopback_only() {
    let Some(project) = Project::with_base() else { return };
    let text =
        "FROM base\nRUN --network=none ls /sys/class/net > /interfaces; ip route > /routes 2>&1; true\n";
    let image = project.buildfile(text).build(&[]).image();
    assert_eq!(image.text("interfaces"), "lo\n");
    assert_eq!(image.text("routes"), "");
}

#[test]
fn host_network_and_insecure_need_permission() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN --network=host true\n");
    project.build(&[]).fails(1, &["--allow", "network.host"]);
    project.write("Buildfile", "FROM base\nRUN --security=insecure true\n");
    project.build(&[]).fails(1, &["--allow", "security.insecure"]);
}

#[test]
fn limits_and_shm_are_set() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN ulimit -n > /files && df -k /dev/shm | tail -n1 > /shm\n";
    let image = project.buildfile(text).build(&["--ulimit", "nofile=123:456", "--shm-size", "2m"]).image();
    assert_eq!(image.text("files"), "123\n");
    assert_eq!(image.text("shm").split_whitespace().nth(1), Some("2048"), "{}", image.text("shm"));
}

#[test]
fn what_a_command_left_running_ends_with_it() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN (sleep 3 ; echo late > /late) & echo now > /now\n";
    let image = project.buildfile(text).build(&[]).image();
    assert!(image.has("now") && !image.has("late"));
}

#[test]
fn odd_output_is_passed_on_line_by_line() {
    let Some(project) = Project::with_base() else { return };
    let built = project
        .buildfile("FROM base\nRUN printf 'one\\ntwo'; printf 'err\\n' >&2; printf '\\377\\n'\n")
        .build(&[]);
    built.succeeds();
    assert!(built.said("one"), "{}", built.log());
    assert!(built.said("err"), "{}", built.log());
}
