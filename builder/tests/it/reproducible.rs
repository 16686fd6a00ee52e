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

/// The repository's examples, each as a checkout of its own with other times and modes.
fn example(name: &str, times_from: u64, umask: u32) -> Option<Project> {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    let project = Project::with_base()?;
    for entry in walkdir::WalkDir::new(&source).min_depth(1).sort_by_file_name() {
        let entry = entry.expect("example");
        let below = entry.path().strip_prefix(&source).expect("below").display().to_string();
        let target = project.context(&below);
        let mode = if entry.file_type().is_dir() {
            std::fs::create_dir_all(&target).expect("directory");
            0o777
        } else {
            std::fs::copy(entry.path(), &target).expect("file");
            0o666
        };
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode & !umask)).expect("mode");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(times_from + entry.depth() as u64);
        File::open(&target).expect("opened").set_modified(time).expect("time");
    }
    if name == "base" {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())?;
        std::fs::copy(busybox, project.context("busybox")).expect("busybox");
        let mode = std::fs::Permissions::from_mode(0o777 & !umask);
        std::fs::set_permissions(project.context("busybox"), mode).expect("mode");
    }
    Some(project)
}

/// One processor and one job, two jobs on all processors, and another user: always the same bytes.
#[test]
fn examples_give_equal_images_on_one_processor_on_all_and_for_another_user() {
    for name in ["base", "hello"] {
        let Some(one) = example(name, 1_600_000_000, 0o022) else { return };
        let Some(two) = example(name, 1_700_000_000, 0o077) else { return };
        let (first, second) = (digest_of(&one, "1", "022"), digest_of(&two, "2", "077"));
        assert_eq!(first.0, second.0, "{name}");
        assert!(first.1 == second.1, "the archives of {name} differ in something else than the image");
        let Some(three) = example(name, 1_500_000_001, 0o007) else { return };
        match bytes_of_another_user(&three) {
            Ok(bytes) => assert!(first.1 == bytes, "another user builds other bytes of {name}"),
            Err(why) => return crate::project::skipped(why),
        }
    }
}

/// Root and an ordinary user build the same. Needs root to become one, and an account with subordinate ids.
#[test]
fn users_do_not_matter() {
    let Some(project) = clone_of(1_600_000_000) else { return };
    let own = digest_of(&project, "2", "022");
    match bytes_of_another_user(&project) {
        Ok(bytes) => assert!(own.1 == bytes, "root and another user build other bytes"),
        Err(why) => crate::project::skipped(why),
    }
}

/// The archive as another account builds it on one processor, from a copy of its own; why not otherwise.
pub fn bytes_of_another_user(project: &Project) -> Result<Vec<u8>, &'static str> {
    let accounts = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let user = accounts.lines().filter_map(|line| line.split(':').next()).find(|name| *name != "root");
    let (Some(user), true) = (user, crate::project::is_root()) else {
        return Err("not root, or no other account in /etc/subuid");
    };
    let dir = tempfile::Builder::new().prefix("kiln-it-").tempdir().expect("directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("mode");
    let here = dir.path().display();
    // Files of the context keep their modes; the copy's owner and times are others.
    let script = format!(
        "umask 0; cp -r '{}' '{}' {here}/ && cd {here} && cp '{}' {here}/kiln-under-test && umask 007 && \
         HOME={here} SOURCE_DATE_EPOCH=1500000000 {}./kiln-under-test build --root {here}/store --progress=plain --jobs 1 \
         --build-context base=oci-layout://{here}/base -t repro:1 -o type=oci,dest={here}/out.tar context; \
         code=$?; unshare --map-root-user --map-auto rm -rf {here}/store; exit $code",
        project.path("context").display(),
        project.path("base").display(),
        crate::project::binary().display(),
        one_processor(),
    );
    // The account must be able to read what this test has made.
    for path in ["context", "base"].map(|name| project.path(name)) {
        for entry in walkdir::WalkDir::new(&path) {
            let entry = entry.expect("entry");
            let mode = entry.metadata().expect("metadata").permissions().mode();
            let more = if entry.file_type().is_dir() { 0o755 } else { 0o444 };
            if !entry.file_type().is_symlink() {
                std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(mode | more))
                    .expect("mode");
            }
        }
    }
    std::fs::set_permissions(project.path("."), std::fs::Permissions::from_mode(0o755)).expect("mode");
    let readable = std::process::Command::new("su")
        .args([user, "-s", "/bin/sh", "-c", &format!("test -r '{}'", crate::project::binary().display())])
        .status();
    if !readable.is_ok_and(|status| status.success()) {
        return Err("the other account cannot read the binary under test");
    }
    let ended =
        std::process::Command::new("su").args([user, "-s", "/bin/sh", "-c", &script]).output().expect("su");
    crate::project::Ended::from_output(ended).ok();
    Ok(std::fs::read(dir.path().join("out.tar")).expect("archive"))
}

/// Words that have a command run on one processor, where there is a program for that.
fn one_processor() -> &'static str {
    let probe = std::process::Command::new("taskset").args(["-c", "0", "true"]).status();
    if probe.is_ok_and(|status| status.success()) { "taskset -c 0 " } else { "" }
}
