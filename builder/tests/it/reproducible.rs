//! The same sources, the same bytes: other paths, times, umasks, stores and numbers of threads.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use crate::project::Project;

const TEXT: &str = "FROM base AS tools\nRUN mkdir /t && for i in 1 2 3 4; do echo $i > /t/$i; done\n\
    FROM base\nWORKDIR /app\nCOPY . .\nRUN ls -1 > list && mkdir -p deep/er && ln list deep/er/hard && ln -s ../list deep/soft\n\
    COPY --from=tools /t /tools/\nARG SOURCE_DATE_EPOCH\nRUN rm /app/b && echo $SOURCE_DATE_EPOCH > /epoch\nADD pack.tar /packed/\nENV A=1\nCMD [\"x\"]\n";

/// A checkout of the same sources, made as unlike the others as possible.
fn clone_of(times_from: u64) -> Option<Project> {
    let pack = crate::base::tar(&[crate::base::Member::File("inside", 0o600, b"data")]);
    let names = ["a", "b", "sub/c"];
    let project = Project::with_base()?;
    let mut order: Vec<_> = names.to_vec();
    if times_from.is_multiple_of(2) {
        order.reverse();
    }
    for name in order {
        project.write(name, name);
    }
    let project = project.file("pack.tar", pack).buildfile(TEXT);
    for (offset, name) in (0..).zip(names.iter().chain(&["sub", "."])) {
        let file = File::open(project.context(name)).expect("source");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(times_from + offset)).expect("time");
    }
    std::fs::set_permissions(project.context("sub"), std::fs::Permissions::from_mode(0o755)).expect("mode");
    Some(project)
}

fn digest_of(project: &Project, jobs: &str, umask: &str) -> (String, Vec<u8>) {
    let number = format!("{jobs}-{umask}.tar");
    let archive = project.path(&number);
    let build = project.build_command(["--jobs", jobs, "-t", "repro:1"]);
    // The shell sets the umask; everything else of the command stays.
    let mut command = project.kiln(Vec::<&str>::new());
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
    shell.arg(crate::project::binary()).args(build.get_args());
    shell.args(["-o", &format!("type=oci,dest={}", archive.display())]);
    shell.env_clear().envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    shell.env("SOURCE_DATE_EPOCH", "1500000000").current_dir(project.path("."));
    command.stdin(std::process::Stdio::null());
    crate::project::Ended::of(&mut shell).ok();
    (crate::image::Image::read_archive(&archive).digest, std::fs::read(archive).expect("archive"))
}

#[test]
fn clones_give_equal_images_with_one_job_and_with_four() {
    let Some(one) = clone_of(1_600_000_000) else { return };
    let Some(two) = clone_of(1_700_000_001) else { return };
    let first = digest_of(&one, "1", "022");
    let second = digest_of(&two, "4", "077");
    assert_eq!(first.0, second.0, "image digests");
    assert!(first.1 == second.1, "the archives differ in something else than the image");
}

#[test]
fn no_time_after_the_epoch_is_in_a_new_layer_and_the_config_says_the_epoch() {
    let Some(project) = clone_of(1_700_000_000) else { return };
    let built = project.build_with(&["--source-date-epoch", "1500000000"], |_| {});
    let image = built.image();
    assert_eq!(image.config["created"], "2017-07-14T02:40:00Z");
    let base = crate::base::busybox().expect("checked above");
    for (name, entry) in &image.files {
        let of_base = name.starts_with("bin/")
            || ["bin", "etc/passwd", "etc/group", "root", "home"].contains(&name.as_str());
        assert!(
            of_base || entry.mtime <= 1_500_000_000 || entry.mtime == 1_600_000_000,
            "{name}: {}",
            entry.mtime
        );
    }
    assert!(base.blobs.contains_key(&image.layers[0].digest), "the base layer was rewritten");
    assert_eq!(image.text("epoch").trim(), "1500000000");
}

#[test]
fn file_times_stay_when_asked() {
    let project = Project::new().file("f", "").buildfile("FROM scratch\nCOPY f /\n");
    let file = File::options().write(true).open(project.context("f")).expect("file");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000)).expect("time");
    let flags = ["--source-date-epoch", "1500000000"];
    assert_eq!(project.build(&flags).image().entry("f").mtime, 1_500_000_000);
    let keep = ["--source-date-epoch", "1500000000", "--rewrite-timestamp=false"];
    assert_eq!(project.build(&keep).image().entry("f").mtime, 1_600_000_000);
    // A time before the epoch is never raised.
    assert_eq!(project.build(&["--source-date-epoch", "1650000000"]).image().entry("f").mtime, 1_600_000_000);
}
