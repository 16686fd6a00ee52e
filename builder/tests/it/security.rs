//! What a hostile command, image or Buildfile can reach: nothing of the host.
//!
//! The probe is this very test program, copied into an image together with the libraries that it needs; it prints
//! facts as lines `name value`, which are compared here.
//!
//! | area | facts |
//! |---|---|
//! | files | a file of the host by its path, by every link that leads up, and out of a chroot |
//! | processes | ids in /proc, environment, descriptors; what can be done to a process of the host |
//! | sockets | an abstract unix socket, loopback and other addresses of the host |
//! | privileges | capabilities, NoNewPrivs, seccomp mode, id map |
//! | system calls | every call that changes the machine; every call that docker refuses, by all entries of the kernel |
//! | kernel files | all of /proc/sys and /sys, sysrq, control groups, raw memory and disks |
//!
//! [`hostile`] has images and Buildfiles, [`streams`] has terminals, descriptors and keys that kiln was started with.

mod calls;
mod hostile;
mod probe;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::OnceLock;

use crate::base::interpreter;
use crate::project::{Project, binary, is_root, skipped};

/// Docker's default capabilities.
const DOCKER_CAPABILITIES: &str = "00000000a80425fb";

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

/// A RUN instruction of the probe.
fn run_probe(flags: &str, test: &str) -> String {
    format!("RUN {flags} {}\n", serde_json::to_string(&probe::command(test)).expect("JSON"))
}

/// What a probe printed.
fn facts_of(text: &str) -> Facts {
    let mut facts = Facts::new();
    for line in text.lines() {
        if let Some((_, fact)) = line.split_once("fact ")
            && let Some((name, value)) = fact.trim_end().split_once(' ')
        {
            facts.entry(name.to_owned()).or_default().push(value.to_owned());
        }
    }
    facts
}

/// The only value of a fact.
#[track_caller]
fn one<'a>(facts: &'a Facts, name: &str) -> &'a str {
    let values = facts.get(name).unwrap_or_else(|| panic!("no fact `{name}`"));
    assert_eq!(values.len(), 1, "{name}: {values:?}");
    &values[0]
}

/// The facts of one build with the probe, which is the same for all tests.
fn facts() -> &'static Facts {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    FACTS.get_or_init(probe_once)
}

fn probe_once() -> Facts {
    let project = Project::new();
    add_probe(&project);
    fs::write(project.path("canary"), "alive").expect("canary");
    let name = format!("kiln-it-{}-{}", std::process::id(), crate::leftovers::unique_seconds());
    let address = SocketAddr::from_abstract_name(&name).expect("name");
    let _abstract = UnixListener::bind_addr(&address).expect("abstract socket");
    UnixStream::connect_addr(&address).expect("the socket answers on the host");
    // Services on every address of the host.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("port");
    let port = listener.local_addr().expect("address").port();
    let udp = UdpSocket::bind("127.0.0.1:0").expect("UDP port");
    udp.set_nonblocking(true).expect("UDP socket");
    let mut addresses =
        vec![format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"), format!("127.9.9.9:{port}")];
    addresses.push(format!("[::ffff:127.0.0.1]:{port}"));
    let six = std::net::TcpListener::bind("[::1]:0").ok();
    addresses.extend(six.iter().filter_map(|six| six.local_addr().ok()).map(|address| address.to_string()));
    addresses.extend(own_address().map(|ip| format!("{ip}:{port}")));
    for address in &addresses {
        std::net::TcpStream::connect(address).expect("the service answers on the host");
    }
    let targets = [
        project.path("canary").display().to_string(),
        name,
        std::process::id().to_string(),
        udp.local_addr().expect("address").to_string(),
        addresses.join(","),
    ];
    // ARG, not ENV, so that the targets are in the environment of this command alone.
    project.write(
        "Buildfile",
        format!(
            "FROM scratch\nCOPY probe /\nARG {}\nARG LD_LIBRARY_PATH=/lib\nWORKDIR /tmp\n{}",
            probe::TARGETS,
            run_probe("", "everything")
        ),
    );
    let built = project.build_with(
        &["--build-arg", &format!("{}={}", probe::TARGETS, targets.join("|"))],
        |command| {
            command.env("HOST_SECRET_VARIABLE", "1");
        },
    );
    built.succeeds();
    let mut facts = facts_of(built.log());
    assert!(facts.len() > 60, "the probe said too little:\n{}", built.log());
    let received = if udp.recv(&mut [0; 64]).is_ok() { "something" } else { "nothing" };
    facts.insert("udp-received".to_owned(), vec![received.to_owned()]);
    facts
}

/// An address of this machine that is not loopback, when it has a route.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent by this; the address is one for documentation.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[test]
fn a_command_reaches_nothing_of_the_host() {
    let facts = facts();
    let one = |name: &str| one(facts, name);
    let canaries: Vec<&String> = facts.keys().filter(|name| name.starts_with("canary")).collect();
    assert_eq!(canaries.len(), 12, "{canaries:?}");
    for name in canaries {
        assert!(["ENOENT", "EACCES", "ENOTDIR"].contains(&one(name)), "{name}: {}", one(name));
    }
    assert_eq!(one("abstract"), "ECONNREFUSED");
    let services: Vec<&String> = facts.keys().filter(|name| name.starts_with("tcp/")).collect();
    assert!(services.len() >= 4, "{services:?}");
    for name in services {
        let refused =
            ["ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EACCES", "EPERM"];
        assert!(refused.contains(&one(name)), "{name}: {}", one(name));
    }
    assert_eq!(one("udp-received"), "nothing");
    assert_eq!(one("processes"), "1", "processes in /proc");
    let mut fds: Vec<&str> = facts["fd"].iter().map(|fd| fd.split('=').next().expect("number")).collect();
    fds.sort_unstable();
    // The fourth is the listing itself.
    assert_eq!(fds, ["0", "1", "2", "3"], "{:?}", facts["fd"]);
    assert!(facts["fd"].iter().any(|fd| fd == "0=/dev/null"), "{:?}", facts["fd"]);
    assert_eq!((one("stdout-again"), one("stdout-above")), ("done", "ENOTDIR"));
    let known = [probe::TARGETS, "LD_LIBRARY_PATH", "PATH", "HOME", "PWD", "RUST_TEST_THREADS"];
    assert!(facts["env"].iter().all(|name| known.contains(&name.as_str())), "{:?}", facts["env"]);
}

#[test]
fn a_command_is_nobody_on_the_host() {
    let facts = facts();
    let one = |name: &str| one(facts, name);
    for name in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(one(name), DOCKER_CAPABILITIES, "{name}");
    }
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(one(name), "0000000000000000", "{name}");
    }
    assert_eq!((one("NoNewPrivs"), one("Seccomp")), ("0", "2"));
    let outside: Vec<&String> = facts.keys().filter(|name| name.starts_with("outside-")).collect();
    assert_eq!(outside.len(), 9, "{outside:?}");
    for name in outside {
        assert!(["ESRCH", "ENOENT"].contains(&one(name)), "{name}: {}", one(name));
    }
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
    let facts = facts();
    let refused = ["EPERM", "EACCES", "EROFS", "ENOENT", "ENOSYS", "ENXIO", "empty"];
    let mut allowed = Vec::new();
    for (name, values) in facts {
        // kiln answers these for an ordinary user's commands, with an empty file: see `owners`.
        if !is_root() && name.starts_with("call-mknod-") && values[0] == "done" {
            continue;
        }
        let tried = ["call-", "write/", "read/", "chmod-"].iter().any(|prefix| name.starts_with(prefix));
        if tried && !refused.contains(&values[0].as_str()) {
            allowed.push(format!("{name}: {}", values[0]));
        }
    }
    assert!(allowed.is_empty(), "not refused: {allowed:?}");
    let calls = facts.keys().filter(|name| name.starts_with("call-")).count();
    assert_eq!(calls, if cfg!(target_arch = "x86_64") { 34 } else { 33 });
    let tried: u32 = one(facts, "kernel-files").parse().expect("number");
    assert!(tried > 500, "only {tried} files of the kernel were tried");
    assert_eq!(one(facts, "kernel-files-open"), "none");
    for (name, values) in facts.iter().filter(|(name, _)| name.starts_with("hidden/")) {
        assert_eq!(values[0], "yes", "{name}");
    }
    assert!(facts.contains_key("hidden/proc/interrupts"));
}

#[test]
fn dev_has_what_docker_shows_and_no_more() {
    let names = [
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "pts/ptmx", "random", "shm", "stderr",
        "stdin", "stdout", "tty", "urandom", "zero",
    ];
    let expected: Vec<String> = names.iter().map(|name| format!("/dev/{name}")).collect();
    assert_eq!(facts()["dev"], expected);
}

#[test]
fn system_calls_get_the_answers_of_docker() {
    assert_eq!(one(facts(), "unlike-docker"), "nothing");
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
