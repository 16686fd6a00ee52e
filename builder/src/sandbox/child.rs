//! The child of the zygote: from a fresh set of namespaces to `exec`.
//!
//! Invariants:
//! - one thread; everything it opens is close-on-exec; the command sees descriptors 0, 1 and 2 only;
//! - the order matters: mounts need capabilities, the seccomp filter needs CAP_SYS_ADMIN to be installed without
//!   no_new_privs (which stays off: setuid programs work inside, semantics fact 47), capabilities are dropped after
//!   it, ids last;
//! - the command starts as PID 1 of its pid namespace: when it ends, the kernel kills whatever it left behind.

use std::ffi::CString;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::net::{self, NetworkMode};
use super::seccomp::handover;
use super::spec::{
    Report, SandboxHelper, SandboxLabels, SandboxNetwork, SandboxSeccomp, SandboxSpec, SetupFailure,
};
use super::{mounts, terminal};
use crate::snapshot::accounts::{self, ResolvedUser};
use crate::sys::capability::CapabilitySet;
use crate::sys::rootdir::RootDir;
use crate::sys::seccomp::{Program, SeccompError};
use crate::sys::{capability, message, process, seccomp, signals, userns};

/// Time for a program to connect the network; it takes a tenth of a second on an idle machine.
const HELPER_PATIENCE: Duration = Duration::from_secs(20);

/// Why the command could not be started.
pub(super) struct Failed(SetupFailure);

impl Failed {
    pub(super) fn new(step: &str, error: &dyn Display) -> Self {
        Self(SetupFailure { step: step.to_owned(), message: error.to_string(), user_error: false, code: 1 })
    }

    fn user(step: &str, error: impl Display, code: i32) -> Self {
        Self(SetupFailure { step: step.to_owned(), message: error.to_string(), user_error: true, code })
    }
}

/// Names what was tried when something fails.
pub(super) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Failed>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &str) -> Result<T, Failed> {
        self.map_err(|error| Failed::new(step, &error))
    }
}

/// Descriptors that the zygote received for this command.
pub(super) struct Descriptors {
    /// The zygote closes its end when the id maps are written.
    pub go: OwnedFd,
    pub report: OwnedFd,
    pub stdio: [OwnedFd; 3],
}

/// Sets everything up and becomes the command. Reports and exits on failure.
pub(super) fn run(spec: &SandboxSpec, fds: &Descriptors, filter: &Program) -> ! {
    let Err(Failed(failure)) = start(spec, fds, filter);
    let code = failure.code;
    let _ = report(&fds.report, &Report::SetupFailed(failure), &[]);
    process::exit_now(code)
}

fn report(socket: &OwnedFd, report: &Report, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    message::send(socket.as_fd(), &serde_json::to_vec(report)?, fds)
}

fn start(
    spec: &SandboxSpec,
    fds: &Descriptors,
    filter: &Program,
) -> Result<std::convert::Infallible, Failed> {
    // A message means that the maps are there; a closed socket, that writing them failed.
    match message::receive(&fds.go).step("wait for the user namespace's ids")? {
        Some(_) => {}
        None => process::exit_now(1),
    }
    // Before this process changes its ids: the program then may not look at it any more.
    if let Some(SandboxHelper { helper, .. }) = &spec.helper {
        let step = format!("connect the network through {}", helper.kind.name());
        net::wait_for_helper(HELPER_PATIENCE).map_err(|e| Failed::new(&step, &e))?;
    }
    userns::become_root_inside().step("become root of the user namespace")?;
    userns::enter_cgroup_namespace().step("make the cgroup namespace")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    mounts::isolate().step("make the mount namespace private")?;
    let mounted = mounts::build(spec)?;
    if !mounted.made.is_empty() {
        report(&fds.report, &Report::MadeMountPoints(mounted.made), &[]).step("report mount points")?;
    }
    if !mounted.sockets.is_empty() {
        let sockets: Vec<_> = mounted.sockets.iter().map(AsFd::as_fd).collect();
        report(&fds.report, &Report::Sockets, &sockets).step("hand over sockets")?;
    }
    drop(mounted.sockets);
    let user =
        accounts::resolve_user(&mounted.root, &spec.user).map_err(|e| Failed::user("find the user", e, 1))?;
    working_directory(&mounted.root, &spec.cwd, &user)?;
    drop(mounted.root);
    network(spec, fds)?;
    mounts::enter_root().step("enter the root file system")?;
    rustix::system::sethostname(spec.hostname.as_bytes()).or_else(host_uts).step("set the host name")?;
    rustix::process::setsid().map_err(io::Error::from).step("start a session")?;
    streams(spec, fds, &user)?;
    for (resource, soft, hard) in &spec.limits {
        process::set_limit(*resource, *soft, *hard).step("set a resource limit")?;
    }
    process::close_on_exec_from(3).step("close descriptors")?;
    labels(&spec.labels)?;
    hand_over(spec, fds)?;
    privileges(spec, &user, filter)?;
    rustix::process::chdir(spec.cwd.as_str())
        .map_err(|e| Failed::user(&format!("enter `{}`", spec.cwd), e, 1))?;
    process::die_with_parent().step("follow the builder's death")?;
    signals::unblock_termination().step("unblock signals")?;
    signals::default_dispositions();
    execute(spec, &user)
}

/// Connects standard input, output and error: what kiln sent, or a terminal.
fn streams(spec: &SandboxSpec, fds: &Descriptors, user: &ResolvedUser) -> Result<(), Failed> {
    let install =
        |number, fd: BorrowedFd<'_>| process::install_stdio(fd, number).step("connect standard streams");
    let Some(terminal) = spec.terminal else {
        return (0..).zip(&fds.stdio).try_for_each(|(number, fd)| install(number, fd.as_fd()));
    };
    let (ours, theirs) = terminal::make(terminal, user.uid).step("make a terminal")?;
    report(&fds.report, &Report::Terminal, &[ours.as_fd()]).step("hand over the terminal")?;
    (0..3).try_for_each(|number| install(number, theirs.as_fd()))?;
    process::set_controlling_terminal(theirs.as_fd()).step("take the terminal")
}

/// With the host's network the host name stays the host's when the kernel refuses.
fn host_uts(error: rustix::io::Errno) -> io::Result<()> {
    Err(error.into())
}

fn network(spec: &SandboxSpec, fds: &Descriptors) -> Result<(), Failed> {
    let mode = match spec.network {
        SandboxNetwork::Private => NetworkMode::Private { ipv6: spec.ipv6 },
        SandboxNetwork::None => NetworkMode::None,
        SandboxNetwork::Host => return Ok(()),
    };
    let channels = match &spec.helper {
        Some(helper) => net::configure_helped(&helper.refused).map(Some),
        None => net::configure_namespace(mode),
    };
    if let Some(channels) = channels.map_err(|e| Failed::new("set up the network", &e))? {
        let direct = channels.direct;
        let sockets = channels.into_fds();
        let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        report(&fds.report, &Report::Network { direct }, &borrowed).step("hand over the network")?;
    }
    Ok(())
}

/// Makes a missing working directory, owned by the user (semantics fact 37).
fn working_directory(root: &RootDir, path: &str, user: &ResolvedUser) -> Result<(), Failed> {
    let owner = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    root.create_dir_all(path.as_bytes(), &mut |dir, _| {
        let dir = rustix::fs::openat(
            dir,
            ".",
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(fchown(&dir, owner.0, owner.1)?)
    })
    .map(drop)
    .map_err(|e| Failed::user("make the working directory", e, 1))
}

/// Tells the host's security modules what the next program is to run as.
fn labels(labels: &SandboxLabels) -> Result<(), Failed> {
    let write = |files: &[&str], value: &str, what: &str| {
        // The file of the module's own came later than the one that all modules share.
        let open = |file: &&str| std::fs::OpenOptions::new().write(true).open(file);
        let mut found = files
            .iter()
            .map(open)
            .filter(|opened| !matches!(opened, Err(error) if error.kind() == io::ErrorKind::NotFound));
        let opened = found.next().unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::ENOSYS)));
        let written = opened.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
        written.map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => "it is not loaded on this machine".to_owned(),
                _ => error.to_string(),
            };
            Failed::user(&format!("apply {what}"), reason, 1)
        })
    };
    if let Some(profile) = &labels.apparmor {
        let files = ["/proc/thread-self/attr/apparmor/exec", "/proc/thread-self/attr/exec"];
        write(&files, &format!("exec {profile}"), &format!("the AppArmor profile `{profile}`"))?;
    }
    if let Some(context) = &labels.selinux_process {
        write(&["/proc/thread-self/attr/exec"], context, &format!("the SELinux context `{context}`"))?;
    }
    Ok(())
}

/// Lets kiln answer what this user namespace is too small for.
fn hand_over(spec: &SandboxSpec, fds: &Descriptors) -> Result<(), Failed> {
    let Some(first) = spec.handed_over_from else { return Ok(()) };
    let step = "hand over system calls";
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let namespace = rustix::fs::open("/proc/self/ns/user", flags, Mode::empty());
    let namespace = namespace.map_err(io::Error::from).step(step)?;
    let program = handover::program(first).map_err(|e| Failed::new(step, &e))?;
    let listener = match seccomp::install_with_listener(&program) {
        Ok(listener) => listener,
        // A kernel older than 5.0, or kiln itself is under such a filter, and there can be only one: what needs larger
        // ids fails then, as it always has.
        Err(SeccompError::Install { source })
            if matches!(source.raw_os_error(), Some(libc::EBUSY | libc::EINVAL)) =>
        {
            return Ok(());
        }
        Err(error) => return Err(Failed::new(step, &error)),
    };
    report(&fds.report, &Report::Calls, &[listener.as_fd(), namespace.as_fd()]).step(step)
}

/// The filter of this command; `default` is ready-made for docker's default capabilities.
fn filter_of(spec: &SandboxSpec, default: &Program) -> Result<Option<Program>, SeccompError> {
    Ok(match &spec.seccomp {
        SandboxSeccomp::Unconfined => None,
        SandboxSeccomp::Program(bytes) => Some(Program::from_bytes(bytes)?),
        SandboxSeccomp::Default => match CapabilitySet::from_bits(spec.capabilities) {
            CapabilitySet::DEFAULT => Some(default.clone()),
            capabilities => Some(super::seccomp::program_for(capabilities)?),
        },
    })
}

fn privileges(spec: &SandboxSpec, user: &ResolvedUser, filter: &Program) -> Result<(), Failed> {
    let capabilities = CapabilitySet::from_bits(spec.capabilities);
    let filter = filter_of(spec, filter).map_err(|e| Failed::new("make the seccomp filter", &e))?;
    if let Some(filter) = &filter {
        seccomp::install(filter).map_err(|e| Failed::new("install the seccomp filter", &e))?;
    }
    if capabilities != CapabilitySet::ALL {
        capability::drop_bounding_to(capabilities).map_err(|e| Failed::new("drop capabilities", &e))?;
    }
    let groups: Vec<Gid> = user.supplementary.iter().map(|gid| Gid::from_raw(*gid)).collect();
    // Root of the namespace is refused only where setgroups is denied for good (single-id maps): no command can have
    // supplementary groups there, and images whose root is a member of some (alpine) must still build.
    match set_thread_groups(&groups) {
        Err(rustix::io::Errno::PERM) => {}
        Err(rustix::io::Errno::INVAL) => {
            let is_mapped = |gid: &u32| {
                spec.ids.gids.iter().any(|e| gid.checked_sub(e.inside).is_some_and(|n| n < e.count))
            };
            let ids: Vec<String> =
                user.supplementary.iter().filter(|gid| !is_mapped(gid)).map(u32::to_string).collect();
            let message = format!(
                "of the groups that /etc/group gives to the user {} have no mapping in this user namespace: more \
                 subordinate ids are needed",
                ids.join(", ")
            );
            return Err(Failed::user("set supplementary groups", message, 1));
        }
        result => result.map_err(|e| Failed::user("set supplementary groups", e, 1))?,
    }
    let unmapped = |what: &str, id: u32, error: rustix::io::Errno| {
        let message = if error == rustix::io::Errno::INVAL {
            format!("{what} {id} has no mapping in this user namespace: more subordinate ids are needed")
        } else {
            error.to_string()
        };
        Failed::user(&format!("become {what} {id}"), message, 1)
    };
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_res_gid(gid, gid, gid).map_err(|e| unmapped("group", user.gid, e))?;
    set_thread_res_uid(uid, uid, uid).map_err(|e| unmapped("user", user.uid, e))?;
    if capabilities != CapabilitySet::ALL && user.uid == 0 {
        capability::limit_to(capabilities).map_err(|e| Failed::new("limit capabilities", &e))?;
    }
    if spec.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(io::Error::from).step("forbid new privileges")?;
    }
    Ok(())
}

fn execute(spec: &SandboxSpec, user: &ResolvedUser) -> Result<std::convert::Infallible, Failed> {
    let program = spec.args.first().map_or("", String::as_str);
    let invalid = |e: std::ffi::NulError| Failed::user("start the command", e, 126);
    let strings =
        |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>();
    let args = strings(&spec.args).map_err(invalid)?;
    let mut env = strings(&spec.env).map_err(invalid)?;
    if !spec.env.iter().any(|pair| pair.starts_with("HOME=")) {
        // As the runtimes do (semantics fact 41).
        let home = user.home.as_deref().filter(|home| !home.is_empty()).unwrap_or("/");
        env.push(CString::new(format!("HOME={home}")).map_err(invalid)?);
    }
    let candidates: Vec<String> = if program.contains('/') {
        vec![program.to_owned()]
    } else {
        let path = spec.env.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or_default();
        path.split(':').map(|dir| format!("{}/{program}", if dir.is_empty() { "." } else { dir })).collect()
    };
    let mut last = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates.iter().filter(|_| !program.is_empty()) {
        let path = CString::new(candidate.as_str()).map_err(invalid)?;
        let error = process::exec(&path, &args, &env);
        if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
            last = error;
            // A directory or a file without the executable bit: a later PATH entry may still serve.
            if last.raw_os_error() != Some(libc::EACCES) {
                break;
            }
        }
    }
    let code = if last.raw_os_error() == Some(libc::ENOENT) { 127 } else { 126 };
    let message = match last.raw_os_error() {
        Some(libc::ENOENT) if !program.contains('/') => "executable file not found in $PATH".to_owned(),
        Some(libc::ENOENT) => {
            "no such file or directory (the file itself, or the interpreter that it names)".to_owned()
        }
        Some(libc::ENOEXEC) => {
            "exec format error: built for another architecture, or a script without `#!`".to_owned()
        }
        _ => last.to_string(),
    };
    Err(Failed::user(&format!("start `{program}`"), message, code))
}
