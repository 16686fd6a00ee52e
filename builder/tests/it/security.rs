//! What a hostile command can reach: nothing of the host.
//!
//! The probe is this very test program, copied into an image together with the libraries that it needs; it prints
//! facts as lines `name value`, which are compared here.
//!
//! | area | facts |
//! |---|---|
//! | files | a file of the host by its path, through /proc/1/root and through .. |
//! | processes | ids in /proc, environment, descriptors |
//! | sockets | an abstract unix socket and a loopback port of the host |
//! | privileges | capabilities, NoNewPrivs, seccomp mode, id map |
//! | system calls | every call that changes the machine |
//! | kernel files | /proc/sys, sysrq, cgroup release agent, raw memory and disks |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use crate::base::interpreter;
use crate::project::{Project, binary, is_root, skipped};

/// Set inside: what to look for, `canary-path|abstract-name|port`.
const TARGETS: &str = "KILN_IT_PROBE";
/// Docker's default capabilities.
const DOCKER_CAPABILITIES: &str = "00000000a80425fb";

/// The part that runs inside; does nothing anywhere else.
#[test]
fn probe_inside() {
    let Some(targets) = std::env::var_os(TARGETS) else { return };
    let targets = targets.into_string().expect("text");
    let [canary, socket, port] = &targets.split('|').collect::<Vec<_>>()[..] else { panic!("{targets}") };
    let say = |name: &str, value: &str| println!("fact {name} {value}");
    let outcome = |result: io::Result<()>| match result {
        Ok(()) => "done".to_owned(),
        Err(error) => {
            error.raw_os_error().map_or_else(|| error.to_string(), |number| errno_name(number).to_owned())
        }
    };
    for fd in fs::read_dir("/proc/self/fd").expect("descriptors").flatten() {
        let target = fs::read_link(fd.path()).unwrap_or_default();
        say("fd", &format!("{}={}", fd.file_name().display(), target.display()));
    }
    for line in fs::read_to_string("/proc/self/status").expect("status").lines() {
        if let Some((name, value)) = line.split_once(":\t")
            && (name.starts_with("Cap") || ["NoNewPrivs", "Seccomp"].contains(&name))
        {
            say(name, value);
        }
    }
    for line in fs::read_to_string("/proc/self/uid_map").expect("map").lines() {
        say("uid_map", &line.split_whitespace().collect::<Vec<_>>().join(","));
    }
    for (name, _) in std::env::vars() {
        say("env", &name);
    }
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let ids = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count();
    say("processes", &ids.to_string());
    say("canary", &outcome(fs::read(canary).map(drop)));
    say("canary-of-1", &outcome(fs::read(format!("/proc/1/root{canary}")).map(drop)));
    say("canary-above", &outcome(fs::read(format!("/../../../..{canary}")).map(drop)));
    let address = SocketAddr::from_abstract_name(socket).expect("name");
    say("abstract", &outcome(UnixStream::connect_addr(&address).map(drop)));
    say("loopback", &outcome(std::net::TcpStream::connect(format!("127.0.0.1:{port}")).map(drop)));
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/release_agent",
        "/sys/power/state",
    ] {
        let text: &[u8] = if path.ends_with("modprobe") { b"/tmp/x" } else { b"1" };
        say(
            &format!("write{path}"),
            &outcome(
                fs::File::options()
                    .write(true)
                    .open(path)
                    .and_then(|mut f| io::Write::write_all(&mut f, text)),
            ),
        );
    }
    for path in [
        "/dev/mem",
        "/dev/kmsg",
        "/dev/sda",
        "/dev/vda",
        "/dev/loop0",
        "/dev/fuse",
        "/dev/kvm",
        "/proc/kcore",
    ] {
        let read = fs::File::open(path).and_then(|mut f| io::Read::read(&mut f, &mut [0; 16]));
        let result = match read {
            Ok(0) => Err(io::Error::other("empty")),
            other => other.map(drop),
        };
        say(&format!("read{path}"), &outcome(result));
    }
    for (name, result) in calls() {
        say(&format!("call-{name}"), &outcome(result));
    }
}

/// Calls that must not succeed.
fn calls() -> Vec<(&'static str, io::Result<()>)> {
    let text = |text: &'static std::ffi::CStr| text.as_ptr() as usize;
    let namespaces = libc::CLONE_NEWUSER as usize;
    let block = (libc::S_IFBLK | 0o600) as usize;
    let character = (libc::S_IFCHR | 0o600) as usize;
    let disk = libc::makedev(8, 0) as usize;
    let memory = libc::makedev(1, 1) as usize;
    // Null pointers: a call that gets as far as reading them answers EFAULT, which counts as let through.
    let list: Vec<(&'static str, libc::c_long, [usize; 5])> = vec![
        ("mount", libc::SYS_mount, [text(c"none"), text(c"/tmp"), text(c"tmpfs"), 0, 0]),
        ("umount2", libc::SYS_umount2, [text(c"/proc"), libc::MNT_DETACH as usize, 0, 0, 0]),
        ("fsopen", libc::SYS_fsopen, [text(c"tmpfs"), 0, 0, 0, 0]),
        ("open_tree", libc::SYS_open_tree, [libc::AT_FDCWD as usize, text(c"/"), 1, 0, 0]),
        ("move_mount", libc::SYS_move_mount, [0, 0, 0, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [text(c"/tmp"), text(c"/tmp"), 0, 0, 0]),
        ("unshare", libc::SYS_unshare, [namespaces, 0, 0, 0, 0]),
        ("setns", libc::SYS_setns, [0, 0, 0, 0, 0]),
        ("mknod-disk", libc::SYS_mknodat, [libc::AT_FDCWD as usize, text(c"/tmp/disk"), block, disk, 0]),
        ("mknod-mem", libc::SYS_mknodat, [libc::AT_FDCWD as usize, text(c"/tmp/mem"), character, memory, 0]),
        ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0, 0, 0, 0, 0]),
        ("finit_module", libc::SYS_finit_module, [0, 0, 0, 0, 0]),
        ("delete_module", libc::SYS_delete_module, [text(c"x"), 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, 0, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [0, 0, 0, 0, 0]),
        ("request_key", libc::SYS_request_key, [0, 0, 0, 0, 0]),
        ("clock_settime", libc::SYS_clock_settime, [0, 0, 0, 0, 0]),
        ("settimeofday", libc::SYS_settimeofday, [0, 0, 0, 0, 0]),
        ("sethostname", libc::SYS_sethostname, [text(c"evil"), 4, 0, 0, 0]),
        ("setdomainname", libc::SYS_setdomainname, [text(c"evil"), 4, 0, 0, 0]),
        ("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0]),
        ("swapon", libc::SYS_swapon, [text(c"/tmp"), 0, 0, 0, 0]),
        ("acct", libc::SYS_acct, [0, 0, 0, 0, 0]),
        ("quotactl", libc::SYS_quotactl, [0, 0, 0, 0, 0]),
        ("syslog", libc::SYS_syslog, [3, 0, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0, 0, 0, 0, 0]),
        ("lookup_dcookie", 212, [0, 0, 0, 0, 0]),
    ];
    list.into_iter()
        .filter(|(name, ..)| *name != "lookup_dcookie" || cfg!(target_arch = "x86_64"))
        .map(|(name, number, arguments)| (name, call(number, arguments)))
        .collect()
}

fn call(number: libc::c_long, a: [usize; 5]) -> io::Result<()> {
    // SAFETY: every pointer among the arguments is null or a C string that lives for ever; the calls are meant to fail,
    // and one that does not harms a throwaway sandbox only.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4]) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn errno_name(number: i32) -> &'static str {
    match number {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EACCES => "EACCES",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EFAULT => "EFAULT",
        libc::EINVAL => "EINVAL",
        libc::ENXIO => "ENXIO",
        libc::EBADF => "EBADF",
        libc::ECONNRESET => "ECONNRESET",
        libc::ENETUNREACH => "ENETUNREACH",
        _ => "other",
    }
}

/// Puts this program and the libraries that it has loaded into a context.
fn add_probe(project: &Project) {
    let program = std::env::current_exe().expect("own path");
    let bytes = fs::read(&program).expect("own program");
    let maps = fs::read_to_string("/proc/self/maps").expect("own libraries");
    let libraries: BTreeSet<&str> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .filter(|path| path.contains(".so"))
        .collect();
    for library in libraries {
        let name = Path::new(library).file_name().expect("name").to_string_lossy().into_owned();
        project.write(&format!("probe/lib/{name}"), fs::read(library).expect("library"));
    }
    if let Some(loader) = interpreter(&bytes) {
        project.write(&format!("probe{loader}"), fs::read(loader).expect("loader"));
        fs::set_permissions(
            project.context(&format!("probe{}", interpreter(&bytes).expect("above"))),
            fs::Permissions::from_mode(0o755),
        )
        .expect("mode");
    }
    project.write("probe/probe", bytes);
    fs::set_permissions(project.context("probe/probe"), fs::Permissions::from_mode(0o755)).expect("mode");
}

/// All values of each fact.
type Facts = BTreeMap<String, Vec<String>>;

fn probe() -> Facts {
    let project = Project::new();
    add_probe(&project);
    fs::write(project.path("canary"), "alive").expect("canary");
    let name = format!("kiln-it-{}-{}", std::process::id(), crate::leftovers::unique_seconds());
    let address = SocketAddr::from_abstract_name(&name).expect("name");
    let _abstract = UnixListener::bind_addr(&address).expect("abstract socket");
    UnixStream::connect_addr(&address).expect("the socket answers on the host");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = listener.local_addr().expect("address").port();
    let targets = format!("{}|{name}|{port}", project.path("canary").display());
    // ARG, not ENV, so that the targets are in the environment of this command alone.
    project.write(
        "Buildfile",
        format!(
            "FROM scratch\nCOPY probe /\nARG {TARGETS}\nARG LD_LIBRARY_PATH=/lib\nWORKDIR /tmp\n\
             RUN [\"/probe\", \"--exact\", \"security::probe_inside\", \"--nocapture\", \"--test-threads=1\"]\n"
        ),
    );
    let built = project.build_with(&["--build-arg", &format!("{TARGETS}={targets}")], |command| {
        command.env("HOST_SECRET_VARIABLE", "1");
    });
    built.succeeds();
    let mut facts = Facts::new();
    for line in built.log().lines() {
        if let Some((_, fact)) = line.split_once(" fact ")
            && let Some((name, value)) = fact.split_once(' ')
        {
            facts.entry(name.to_owned()).or_default().push(value.to_owned());
        }
    }
    assert!(facts.len() > 40, "the probe said too little:\n{}", built.log());
    facts
}

#[test]
fn a_command_reaches_nothing_of_the_host() {
    let facts = probe();
    let one = |name: &str| {
        let values = facts.get(name).unwrap_or_else(|| panic!("no fact `{name}`"));
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values[0].as_str()
    };
    for name in ["canary", "canary-of-1", "canary-above"] {
        assert!(["ENOENT", "EACCES"].contains(&one(name)), "{name}: {}", one(name));
    }
    assert_eq!(one("abstract"), "ECONNREFUSED");
    assert!(["ECONNREFUSED", "ECONNRESET", "ENETUNREACH"].contains(&one("loopback")), "{}", one("loopback"));
    assert_eq!(one("processes"), "1", "processes in /proc");
    let fds: Vec<&str> = facts["fd"].iter().map(|fd| fd.split('=').next().expect("number")).collect();
    // The fourth is the listing itself.
    assert_eq!(fds, ["0", "1", "2", "3"], "{:?}", facts["fd"]);
    assert!(facts["fd"][0].ends_with("/dev/null"), "{:?}", facts["fd"]);
    let known = [TARGETS, "LD_LIBRARY_PATH", "PATH", "HOME", "PWD", "RUST_TEST_THREADS"];
    assert!(facts["env"].iter().all(|name| known.contains(&name.as_str())), "{:?}", facts["env"]);
    for name in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(one(name), DOCKER_CAPABILITIES, "{name}");
    }
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(one(name), "0000000000000000", "{name}");
    }
    assert_eq!((one("NoNewPrivs"), one("Seccomp")), ("0", "2"));
    if is_root() {
        let hosts: Vec<u64> = facts["uid_map"]
            .iter()
            .map(|line| line.split(',').nth(1).expect("host id").parse().expect("number"))
            .collect();
        assert!(hosts.iter().all(|host| *host != 0), "an id inside is root outside: {:?}", facts["uid_map"]);
    }
}

#[test]
fn a_command_changes_nothing_of_the_machine() {
    let facts = probe();
    let refused = ["EPERM", "EACCES", "EROFS", "ENOENT", "ENOSYS", "ENXIO", "empty"];
    let mut allowed = Vec::new();
    for (name, values) in &facts {
        let tried = ["call-", "write/", "read/"].iter().any(|prefix| name.starts_with(prefix));
        if tried && !refused.contains(&values[0].as_str()) {
            allowed.push(format!("{name}: {}", values[0]));
        }
    }
    assert!(allowed.is_empty(), "not refused: {allowed:?}");
    assert_eq!(facts.keys().filter(|name| name.starts_with("call-")).count(), calls_expected());
}

fn calls_expected() -> usize {
    if cfg!(target_arch = "x86_64") { 32 } else { 31 }
}

#[test]
fn the_store_is_closed_to_other_users() {
    let Some(project) = Project::with_base() else { return };
    let text = "FROM base\nRUN cp /bin/busybox /rooted && chmod 4755 /rooted\n";
    let project = project.buildfile(text);
    let image = project.build(&[]).image();
    assert_eq!(image.entry("rooted").mode, 0o4755, "the image keeps the bit");
    let mode = fs::metadata(project.store()).expect("store").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700);
    if !is_root() {
        return;
    }
    fs::set_permissions(project.path("."), fs::Permissions::from_mode(0o755)).expect("mode");
    let found = walkdir::WalkDir::new(project.store().join("snapshots")).into_iter().flatten();
    let rooted = found.into_iter().find(|entry| entry.file_name() == "rooted").expect("in the store");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(rooted.path()).args(["id", "-u"]);
    match command.output() {
        Ok(done) => assert!(!done.status.success(), "another user ran it: {done:?}"),
        Err(error) => skipped(&format!("setpriv does not start: {error}")),
    }
}

#[test]
fn an_existing_directory_becomes_private_when_it_becomes_a_store() {
    let project = Project::new().buildfile("FROM scratch\n");
    fs::create_dir(project.store()).expect("directory");
    fs::set_permissions(project.store(), fs::Permissions::from_mode(0o755)).expect("mode");
    project.build(&[]).succeeds();
    let mode = fs::metadata(project.store()).expect("store").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o700);
}

#[test]
fn a_shell_that_is_kiln_itself_cannot_change_it() {
    let before = crate::base::digest(&fs::read(binary()).expect("binary"));
    let project = Project::new()
        .file("sh", "#!/proc/self/exe\n")
        .buildfile("FROM scratch\nCOPY --chmod=755 sh /bin/sh\nRUN echo hello\n");
    let built = project.build(&[]);
    built.fails(1, &["Buildfile:3"]);
    assert!(!built.said("hello"));
    assert_eq!(crate::base::digest(&fs::read(binary()).expect("binary")), before, "the binary was changed");
}

#[test]
fn mount_points_that_lead_outside_stay_inside() {
    let Some(project) = Project::with_base() else { return };
    let outside = project.path("outside");
    fs::create_dir(&outside).expect("directory");
    let text = format!(
        "FROM base\nRUN ln -s {0} /cache && rm -f /etc/hosts && ln -s {0}/hosts /etc/hosts && ln -s {0} /proc\n\
         RUN --mount=type=cache,target=/cache --mount=type=secret,id=s,target=/cache2/../cache/s touch /cache/mark; cat /etc/hosts >/dev/null\n",
        outside.display()
    );
    fs::write(project.path("s"), "secret").expect("secret");
    let project = project.buildfile(&text);
    let built = project.build(&["--secret", "id=s,src=s"]);
    assert!(!built.log().contains("panicked"), "{}", built.log());
    assert_eq!(
        fs::read_dir(&outside).expect("outside").count(),
        0,
        "something was written outside:\n{}",
        built.log()
    );
}
