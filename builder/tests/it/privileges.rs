//! Privileges of commands: capabilities, devices, seccomp profiles and labels.

use std::path::Path;

use crate::project::{Project, is_root, skipped};

#[test]
fn capabilities_are_added_and_taken() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN mkdir -p /m && if mount -t tmpfs x /m; then echo mounted; else echo refused; fi; \
                grep CapBnd /proc/self/status\n";
    let project = project.buildfile(text);
    assert!(project.build(&[]).said("refused"));
    let built = project.build(&["--cap-add=sys_admin"]);
    assert!(built.said("mounted") && built.said("CapBnd:\t00000000a82425fb"), "{}", built.log());
    let built = project.build(&["--cap-drop=ALL", "--cap-add=CAP_CHOWN,KILL"]);
    assert!(built.said("refused") && built.said("CapBnd:\t0000000000000021"), "{}", built.log());
    // What a command may do can show in what it makes, so it is in the key; what changes nothing is not.
    assert!(project.build(&["--cap-add=sys_admin"]).executed().is_empty());
    assert!(project.build(&["--cap-add=CHOWN"]).executed().is_empty(), "CHOWN is there anyway");
    project.build(&["--cap-add=FLY"]).fails(2, &["FLY", "capabilities(7)"]);
}

#[test]
fn no_new_privileges() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN grep NoNewPrivs /proc/self/status\n";
    let project = project.buildfile(text);
    assert!(project.build(&[]).said("NoNewPrivs:\t0"));
    assert!(project.build(&["--security-opt=no-new-privileges"]).said("NoNewPrivs:\t1"));
}

#[test]
fn a_device_of_the_host() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN test -c /dev/zero2 && head -c 2 /dev/zero2 | od -An -tx1 && ls -ln /dev/zero2 /d/full && \
                ! echo x > /d/full\n";
    let project = project.buildfile(text);
    project.build(&[]).fails(1, &["exit code: 1"]);
    let flags = ["--device=/dev/zero:/dev/zero2", "--device=/dev/full:/d/full:rw"];
    let built = project.build(&flags);
    assert!(built.said(" 00 00"), "{}", built.log());
    if is_root() {
        assert!(built.log().contains("crw-rw-rw-    1 0        0"), "owned by root inside: {}", built.log());
    }
    let image = built.image();
    assert!(!image.has("dev/zero2") && !image.has("d"), "a mount point stayed in the layer");
    project.build(&["--device=/dev/nope"]).fails(2, &["/dev/nope", "No such file"]);
    project.build(&["--device=/etc/passwd"]).fails(2, &["`/etc/passwd` is not a device"]);
    project.build(&["--device=null"]).fails(2, &["`null` is not of the form PATH[:INSIDE[:rwm]]"]);
    assert!(project.build(&["--device=/dev/zero:r"]).log().contains("is not enforced"));
}

#[test]
fn a_device_only_root_may_use() {
    let Some(project) = Project::with_base() else { return };
    if !is_root() {
        return skipped("the node belongs to root of the machine");
    }
    if !Path::new("/dev/kmsg").exists() {
        return skipped("there is no /dev/kmsg");
    }
    // Its owner is root of the machine, whom no id of a sandbox stands for; the node inside is one of its own.
    let project =
        project.buildfile("FROM base\nRUN ls -ln /dev/kmsg && test -w /dev/kmsg && test -O /dev/kmsg\n");
    project.build(&["--device=/dev/kmsg"]).succeeds();
    project.build(&[]).fails(1, &["exit code"]);
}

#[test]
fn a_seccomp_profile_of_the_users() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN if mkdir /x; then echo made; else echo refused; fi\n";
    let project = project.buildfile(text);
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#;
    std::fs::write(project.path("profile.json"), profile).expect("profile");
    let built = project.build(&["--security-opt=seccomp=profile.json"]);
    assert!(built.said("refused") && built.log().contains("Permission denied"), "{}", built.log());
    assert!(project.build(&[]).said("made"), "the profile is in the key");
    let text = "FROM base\nRUN grep Seccomp: /proc/self/status; unshare -m true && echo unshared\n";
    project.write("Buildfile", text);
    project.build(&[]).fails(1, &["Seccomp:\t2"]);
    let built = project.build(&["--security-opt", "seccomp=unconfined"]);
    // unshare still needs CAP_SYS_ADMIN.
    built.fails(1, &["Seccomp:\t0"]);
    let both = ["--security-opt=seccomp=unconfined", "--cap-add=SYS_ADMIN"];
    assert!(project.build(&both).said("unshared"));
    std::fs::write(project.path("bad.json"), "{").expect("profile");
    project.build(&["--security-opt=seccomp=bad.json"]).fails(2, &["not JSON of docker's form", "bad.json"]);
    project.build(&["--security-opt=seccomp=none.json"]).fails(2, &["cannot read", "none.json"]);
}

#[test]
fn labels_apply_or_are_said_to_have_no_effect() {
    let Some(project) = Project::with_base() else { return };
    let project = project.buildfile("FROM base\nRUN cat /proc/self/attr/current || true\n");
    let has_apparmor =
        std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|s| s.trim() == "Y");
    if has_apparmor {
        let built = project.build(&["--security-opt=apparmor=kiln-no-such-profile"]);
        built.fails(1, &["apply the AppArmor profile `kiln-no-such-profile`", "not loaded"]);
    } else {
        let built = project.build(&["--security-opt=apparmor=docker-default"]);
        built.succeeds();
        assert!(built.log().contains("this kernel has no AppArmor"), "{}", built.log());
    }
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        let built = project.build(&["--security-opt=label=type:container_t"]);
        built.succeeds();
        assert!(built.log().contains("this kernel has no SELinux"), "{}", built.log());
    }
    project.build(&["--security-opt=magic=1"]).fails(2, &["`magic=1` is none of"]);
    project.build(&["--security-opt=apparmor=unconfined", "--security-opt=label=disable"]).succeeds();
}

#[test]
fn ids_of_the_host_are_roots_to_give() {
    let Some(project) = Project::with_base() else { return };
    let built = project.buildfile("FROM base\nRUN true\n").build(&["--userns=host"]);
    built.succeeds();
    assert_eq!(built.log().contains("--userns=host has no effect"), !is_root(), "{}", built.log());
}

#[test]
fn a_group_without_an_id_here_is_named() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN echo far:x:3000000:app >> /etc/group\nUSER app\nRUN id -G\n";
    let built = project.buildfile(text).build(&[]);
    if is_root() {
        return built.succeeds();
    }
    if built.log().contains("no subordinate ids") {
        return skipped("a single id has no groups");
    }
    built.fails(1, &["3000000", "have no mapping in this user namespace", "more subordinate ids"]);
}

#[test]
fn info_does_not_promise_what_the_kernel_refuses() {
    let project = Project::new();
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["-U", "-r", "sh", "-c", script, "sh"]).arg(crate::project::binary());
    command.arg("info").env("KILN_ROOT", project.store());
    let Ok(output) = command.output() else { return skipped("there is no unshare(1)") };
    let ended = crate::project::Ended::from_output(output);
    if !ended.stdout.contains("sandbox") {
        return skipped("no user namespace can be made here");
    }
    assert!(ended.stdout.contains("sandbox   not possible"), "{}", ended.stdout);
    assert!(ended.stdout.contains("user.max_user_namespaces"), "{}", ended.stdout);
}
