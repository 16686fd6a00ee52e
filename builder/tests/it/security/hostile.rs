//! Hostile images and Buildfiles: device nodes, links in the place of mount points, mounts over the kernel's files, and
//! what a command can leave behind for kiln to walk over.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::{add_probe, facts_of, one, probe, run_probe};
use crate::base::{self, Member};
use crate::project::{Built, Project, is_root, skipped};

/// A project whose `base` has further members, which win over the usual ones.
fn with(members: &[Member<'_>]) -> Option<Project> {
    let project = Project::with_base()?;
    let image = base::busybox_with(members).expect("there was a busybox before");
    fs::remove_dir_all(project.path("base")).expect("layout");
    base::write_image(&image, &project.path("base"));
    Some(project)
}

/// A build that may fail in an orderly way, and what it may not do.
#[track_caller]
fn orderly(built: &Built) {
    assert!(matches!(built.ended.code, Some(0 | 1)), "{:?}:\n{}", built.ended.code, built.log());
    assert!(!built.log().contains("panicked"), "{}", built.log());
}

#[test]
fn device_nodes_of_an_image_do_not_work() {
    // 1:5 is the zero device: it works everywhere, if anything does, and harms nobody.
    let members =
        [Member::Directory("d", 0o755), Member::Device("d/zero", 1, 5), Member::File("d/f", 0o644, b"f")];
    let Some(project) = with(&members) else { return };
    let read = |place: &str| {
        format!(
            "if [ $(head -c 1 {place}/zero | wc -c) = 1 ]; then echo worked {place}; fi; cat {place}/f > /dev/null; "
        )
    };
    let project = project.buildfile(&format!(
        "FROM base AS hostile\n\
         FROM base\n\
         COPY --from=hostile /d /copied\n\
         RUN --mount=type=cache,from=hostile,source=/d,target=/cache --mount=from=hostile,source=/d,target=/bind \
         --mount=from=hostile,source=/d,target=/changed,rw {}{}{}{}{} echo $(stat -c %F /cache/zero)\n",
        read("/d"),
        read("/cache"),
        read("/bind"),
        read("/changed"),
        read("/copied"),
    ));
    let built = project.build(&[]);
    built.succeeds();
    for place in ["/d", "/cache", "/bind", "/changed", "/copied"] {
        assert!(!built.said(&format!("worked {place}")), "{}", built.log());
    }
    if is_root() {
        assert!(built.said("character special file"), "the node was not even there:\n{}", built.log());
    } else {
        skipped("an ordinary user's store has empty files for devices; only that none work was tested");
    }
}

#[test]
fn a_device_in_the_place_of_a_file_is_not_read() {
    let Some(project) = with(&[Member::Device("etc/passwd", 1, 5), Member::Device("etc/group", 1, 5)]) else {
        return;
    };
    let project = project.file("f", "x").buildfile("FROM base\nCOPY --chown=app f /\nUSER app\nRUN true\n");
    let built = project.build(&[]);
    built.fails(1, &["app"]);
}

#[test]
fn links_in_the_place_of_mount_points_stay_inside() {
    let outside = Project::new();
    let place = outside.path("outside");
    fs::create_dir(&place).expect("directory");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).expect("mode");
    let place = place.display().to_string();
    let up = format!("../../../../../..{place}");
    for (link, target) in [
        ("proc", place.as_str()),
        ("proc", up.as_str()),
        ("proc", "/"),
        ("proc", "/dev"),
        ("proc", "/dev/shm"),
        ("proc", "proc"),
        ("sys", "/proc"),
        ("sys", "/proc/self/root"),
        ("dev", "/proc"),
        ("dev", "/proc/self/fd"),
        ("dev", place.as_str()),
        ("etc/resolv.conf", "/proc/sys/kernel/core_pattern"),
        ("etc/resolv.conf", "/proc/self/attr/exec"),
        ("etc/resolv.conf", up.as_str()),
        ("etc/hosts", "/dev/null"),
        ("etc", place.as_str()),
    ] {
        let Some(project) = with(&[Member::Symlink(link, target)]) else { return };
        // Wherever the kernel's files are now, what is hidden is hidden and nothing can be written.
        let text = "FROM base\n\
                    RUN for at in /proc /sys /dev /etc / /dev/shm; do \
                    if test -s $at/interrupts; then echo shown; fi; \
                    if (echo x > $at/sys/kernel/core_pattern) 2>/dev/null && test -e $at/self/stat; then echo written; fi; \
                    done; echo ran\n\
                    RUN --mount=type=cache,target=/proc/c --mount=type=tmpfs,target=/sys/t true\n";
        let project = project.buildfile(text);
        let built = project.build(&[]);
        orderly(&built);
        assert!(!built.said("shown") && !built.said("written"), "{link} -> {target}:\n{}", built.log());
        let found = fs::read_dir(&place).expect("outside").count();
        assert_eq!(found, 0, "{link} -> {target} led outside:\n{}", built.log());
    }
}

#[test]
fn nothing_is_mounted_over_the_kernels_files() {
    let Some(project) = with(&[
        Member::Symlink("kernel", "/proc/self"),
        Member::Symlink("etc/hosts", "/proc/self/attr/exec"),
    ]) else {
        return;
    };
    let project = project.file("f", "");
    for mount in [
        "type=tmpfs,target=/proc",
        "type=tmpfs,target=/proc/self",
        "type=cache,target=/proc/self/attr",
        "type=bind,source=f,target=/proc/self/attr/exec",
        "type=bind,source=f,target=/kernel/attr/exec",
        "type=cache,target=/proc/sys/kernel",
        "type=secret,id=s,target=/proc/self/environ",
    ] {
        project.write("Buildfile", format!("FROM base\nRUN --mount={mount} true\n"));
        fs::write(project.path("s"), "x").expect("secret");
        let built = project.build(&["--secret", "id=s,src=s"]);
        built.fails(1, &["inside /proc", "Buildfile:2"]);
    }
    // An image's link does not do either what a Buildfile may not.
    project.write("Buildfile", "FROM base\nRUN true\n");
    project.build(&[]).fails(1, &["cannot mount `/etc/hosts`", "inside /proc"]);
    let project = Project::with_base().expect("there was one before");
    for mount in ["type=tmpfs,target=/sys/t", "type=tmpfs,target=/dev/pts/5", "type=cache,target=/dev/null"] {
        project.write("Buildfile", format!("FROM base\nRUN --mount={mount} true\n"));
        project.build(&[]).fails(1, &["cannot mount", "Buildfile:2"]);
    }
}

#[test]
fn a_nested_user_namespace_reaches_no_more() {
    let Some(project) = Project::with_base() else { return };
    // Without a filter a command can make one, and has all capabilities in it.
    let tries = "mkdir -p /m; \
                 mount -t proc p /m && cat /m/interrupts && echo shown; \
                 umount /proc/interrupts && echo uncovered; \
                 umount -l /proc/sys && echo uncovered; \
                 mount -o remount,rw,bind /proc/sys /proc/sys && echo writable; \
                 mount -t sysfs s /m && echo sysfs; \
                 mknod /tmp/n c 1 5 && head -c 1 /tmp/n && echo device; \
                 echo x > /proc/sys/kernel/core_pattern && echo written; \
                 mount -t tmpfs t /m && echo nested";
    let text = format!("FROM base\nRUN unshare -r -m sh -c '{tries}'; true\n");
    let project = project.buildfile(&text);
    let refused = project.build(&["--no-cache"]);
    assert!(!refused.said("nested"), "{}", refused.log());
    let built = project.build(&["--no-cache", "--security-opt", "seccomp=unconfined"]);
    built.succeeds();
    if !built.said("nested") {
        skipped("the kernel makes no user namespace inside a user namespace here");
    }
    for word in ["shown", "uncovered", "writable", "sysfs", "device", "written"] {
        assert!(!built.said(word), "{word}:\n{}", built.log());
    }
}

#[test]
fn what_a_command_leaves_behind_is_walked_over() {
    let Some(project) = Project::with_base() else { return };
    add_probe(&project);
    let odd = run_probe("", "odd_things");
    let text = format!(
        "FROM base\nCOPY probe /\nARG LD_LIBRARY_PATH=/lib\nARG {}=1\n{odd}\
         RUN mkfifo /odd/fifo && mkdir /odd/closed && touch /odd/closed/f /odd/set && \
         chmod 7777 /odd/set && chmod 0 /odd/closed/f /odd/closed\n",
        probe::DEEP
    );
    project.write("Buildfile", text);
    let built = project.build(&[]);
    let image = built.image();
    assert_eq!(one(&facts_of(built.log()), "whiteout"), "EPERM", "a device that means a deleted file");
    assert!(
        !image.has("odd/socket") && built.log().contains("odd/socket"),
        "a socket is left out and said so"
    );
    assert!(image.has("odd/fifo") && image.has("odd/closed/f"));
    assert_eq!((image.entry("odd/closed").mode, image.entry("odd/set").mode), (0, 0o7777));
    assert!(!built.log().contains("\x1b[31m"), "a name reached the terminal as it is");
}

#[test]
fn a_tree_deeper_than_any_path_fails_its_step_and_goes() {
    let Some(project) = Project::with_base() else { return };
    add_probe(&project);
    let deep = run_probe("", "deep");
    let text = format!(
        "FROM base\nCOPY probe /\nARG LD_LIBRARY_PATH=/lib\nARG {}=15000\nRUN mkdir /deep\n{deep}",
        probe::DEEP
    );
    project.write("Buildfile", text);
    let built = project.build(&[]);
    built.fails(1, &["longer than 4096 bytes", "Buildfile:6"]);
    assert_eq!(one(&facts_of(built.log()), "deep"), "done");
    // Neither is it left in the store, nor does the next build meet it.
    project.write("Buildfile", "FROM base\nRUN echo fine > /f\n");
    assert_eq!(project.build(&[]).image().text("f"), "fine\n");
    let walk = walkdir::WalkDir::new(project.store().join("snapshots")).max_depth(4);
    assert!(walk.into_iter().flatten().all(|entry| entry.file_name() != "d"), "the tree is still there");
}

#[test]
fn output_without_end_takes_no_memory() {
    let Some(project) = Project::with_base() else { return };
    // Half of it in one line, half in many: kiln keeps the last lines only, and cuts a long one.
    let text = "FROM base\nRUN head -c 64m /dev/zero | tr '\\0' x; echo; head -c 64m /dev/zero | tr '\\0' x | fold -w 1000\n";
    let project = project.buildfile(text);
    let mut command = project.build_command(["-o", "type=oci,dest=out.tar"]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("kiln starts");
    // Not what wait4 tells: a child begins with the memory of this process.
    let path = format!("/proc/{}/status", child.id());
    let mut most_kib = 0u64;
    let status = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let is_kiln = text.starts_with("Name:\tkiln");
        most_kib =
            most_kib.max(peak.filter(|_| is_kiln).and_then(|kib| kib.trim().parse().ok()).unwrap_or(0));
        match child.try_wait().expect("wait") {
            Some(status) => break status,
            None => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    assert!(status.success() && most_kib > 0, "{status}");
    assert!(most_kib < 60 * 1024, "kiln took {most_kib} KiB");
}
