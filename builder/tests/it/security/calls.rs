//! System calls of the probe: those that must fail, and docker's list of refused ones.
//!
//! The list is written down here for itself, from docker's default profile (moby/profiles, June 2026) with docker's
//! default capabilities, so that a mistake in kiln's own table shows.

use std::io;

/// Not a call of this architecture.
const NO: i64 = -1;

/// What docker's default profile refuses whatever the arguments: name, number on x86_64 and on aarch64.
const REFUSED: &[(&str, i64, i64)] = &[
    ("_sysctl", 156, NO),
    ("acct", 163, 89),
    ("add_key", 248, 217),
    ("afs_syscall", 183, NO),
    ("bpf", 321, 280),
    ("clock_settime", 227, 112),
    ("clone3", 435, 435),
    ("create_module", 174, NO),
    ("delete_module", 176, 106),
    ("fanotify_init", 300, 262),
    ("file_getattr", 468, 468),
    ("file_setattr", 469, 469),
    ("finit_module", 313, 273),
    ("fsconfig", 431, 431),
    ("fsmount", 432, 432),
    ("fsopen", 430, 430),
    ("fspick", 433, 433),
    ("get_kernel_syms", 177, NO),
    ("get_mempolicy", 239, 236),
    ("getpmsg", 181, NO),
    ("init_module", 175, 105),
    ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427),
    ("io_uring_setup", 425, 425),
    ("ioperm", 173, NO),
    ("iopl", 172, NO),
    ("kcmp", 312, 272),
    ("kexec_file_load", 320, 294),
    ("kexec_load", 246, 104),
    ("keyctl", 250, 219),
    ("lookup_dcookie", 212, 18),
    ("lsm_get_self_attr", 459, 459),
    ("lsm_list_modules", 461, 461),
    ("lsm_set_self_attr", 460, 460),
    ("mbind", 237, 235),
    ("migrate_pages", 256, 238),
    ("mount", 165, 40),
    ("mount_setattr", 442, 442),
    ("move_mount", 429, 429),
    ("move_pages", 279, 239),
    ("nfsservctl", 180, 42),
    ("open_by_handle_at", 304, 265),
    ("open_tree", 428, 428),
    ("open_tree_attr", 467, 467),
    ("perf_event_open", 298, 241),
    ("pidfd_getfd", 438, 438),
    ("pivot_root", 155, 41),
    ("process_madvise", 440, 440),
    ("putpmsg", 182, NO),
    ("query_module", 178, NO),
    ("quotactl", 179, 60),
    ("quotactl_fd", 443, 443),
    ("reboot", 169, 142),
    ("request_key", 249, 218),
    ("security", 185, NO),
    ("set_mempolicy", 238, 237),
    ("set_mempolicy_home_node", 450, 450),
    ("setdomainname", 171, 162),
    ("sethostname", 170, 161),
    ("setns", 308, 268),
    ("settimeofday", 164, 170),
    ("swapoff", 168, 225),
    ("swapon", 167, 224),
    ("sysfs", 139, NO),
    ("syslog", 103, 116),
    ("tuxcall", 184, NO),
    ("umount2", 166, 39),
    ("unshare", 272, 97),
    ("uselib", 134, NO),
    ("userfaultfd", 323, 282),
    ("ustat", 136, NO),
    ("vhangup", 153, 58),
    ("vserver", 236, NO),
];

/// The highest number that the profile allows anything of (`removexattrat`): a call above it does not exist for a
/// command, so that libraries fall back.
const NEWEST: i64 = 466;

/// Calls that are younger than many profiles and that docker allows: refused ones would break programs that do not
/// expect it. `uretprobe` is left out, the kernel ends a process that makes it by itself.
const YOUNG: &[(&str, i64)] = &[
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
];

/// On x86_64 since Linux 6.18: the kernel asks no filter about it, since it makes the call in a program's name.
const UPROBE: i64 = 336;

/// Makes a call and gives what it returned.
pub fn call(number: i64, a: [usize; 5]) -> io::Result<()> {
    // SAFETY: every pointer among the arguments is invalid, null, or to something that lives across the call; the calls
    // are meant to fail, and one that does not harms a throwaway sandbox only.
    let result = unsafe { libc::syscall(number as libc::c_long, a[0], a[1], a[2], a[3], a[4], 0usize) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Arguments that no call can use: no descriptor, no address, unknown flags.
const BAD: [usize; 5] = [usize::MAX; 5];

/// Everything that did not get docker's answer: `name: answer`.
pub fn unlike_docker() -> Vec<String> {
    let mut wrong = Vec::new();
    let mut check = |name: &str, result: io::Result<()>, expected: &dyn Fn(i32) -> bool| {
        let errno = result.err().and_then(|error| error.raw_os_error()).unwrap_or(0);
        if !expected(errno) {
            wrong.push(format!("{name}: {}", errno_name(errno)));
        }
    };
    let aarch64 = cfg!(target_arch = "aarch64");
    for (name, x86_64, arm) in REFUSED {
        let number = if aarch64 { *arm } else { *x86_64 };
        if number == NO {
            continue;
        }
        let errno = if *name == "clone3" || number > NEWEST { libc::ENOSYS } else { libc::EPERM };
        check(name, call(number, BAD), &|got| got == errno);
    }
    for number in NEWEST + 1..NEWEST + 40 {
        check(&format!("call {number}"), call(number, BAD), &|got| got == libc::ENOSYS);
    }
    for number in if aarch64 { 295..=423 } else { 336..=423 } {
        if number == UPROBE {
            continue;
        }
        check(&format!("unused number {number}"), call(number, BAD), &|got| got == libc::EPERM);
    }
    for (name, number) in YOUNG {
        // An old kernel has none of them; a filter would have said EPERM.
        check(name, call(*number, BAD), &|got| got != libc::EPERM);
    }
    let with = |number: libc::c_long, first: usize| call(number, [first, 0, 0, 0, 0]);
    for flag in [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ] {
        let name = format!("clone with {flag:#x}");
        check(&name, with(libc::SYS_clone, (flag | libc::SIGCHLD) as usize), &|got| got == libc::EPERM);
        check(&format!("un{name}"), with(libc::SYS_unshare, flag as usize), &|got| got == libc::EPERM);
    }
    for family in [libc::AF_ALG, libc::AF_VSOCK] {
        // The kernel reads 32 bits only.
        for upper in [0, 1usize << 32] {
            let name = format!("socket of family {family}");
            check(&name, with(libc::SYS_socket, family as usize | upper), &|got| got == libc::EPERM);
        }
    }
    let no_randomisation = libc::ADDR_NO_RANDOMIZE as usize;
    check("personality", with(libc::SYS_personality, no_randomisation), &|got| got == libc::EPERM);
    check("personality query", with(libc::SYS_personality, 0xffff_ffff), &|got| got == 0);
    #[cfg(target_arch = "x86_64")]
    other_entries(&mut check);
    wrong
}

/// The ways into the kernel with other numbers: i386 and x32.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::type_complexity)]
fn other_entries(check: &mut dyn FnMut(&str, io::Result<()>, &dyn Fn(i32) -> bool)) {
    const X32: i64 = 0x4000_0000;
    for (name, number) in
        [("mount", 165), ("unshare", 272), ("keyctl", 250), ("kexec_load", 528), ("bpf", 321)]
    {
        check(&format!("{name} of x32"), call(X32 + number, BAD), &|got| got == libc::EPERM);
    }
    // Numbers of x32's own end later.
    check("x32 between", call(X32 + NEWEST + 1, BAD), &|got| got == libc::EPERM);
    check("x32 above all", call(X32 + 548, BAD), &|got| got == libc::ENOSYS);
    if !has_i386() {
        return;
    }
    for (name, number) in
        [("mount", 21), ("umount", 22), ("unshare", 310), ("keyctl", 288), ("kexec_load", 283)]
    {
        check(&format!("{name} of i386"), call_i386(number), &|got| got == libc::EPERM);
    }
    check("clone3 of i386", call_i386(435), &|got| got == libc::ENOSYS);
    check("i386 above all", call_i386(i64::from(467u16)), &|got| got == libc::ENOSYS);
    // Allowed, with arguments that are wrong.
    check("read of i386", call_i386(3), &|got| got == libc::EBADF);
}

/// Makes a call through the entry of 32-bit programs, with arguments that no call can use.
#[cfg(target_arch = "x86_64")]
fn call_i386(number: i64) -> io::Result<()> {
    let result: i64;
    // SAFETY: the kernel keeps all registers but the one of the result; rbx belongs to the compiler and is restored.
    unsafe {
        std::arch::asm!(
            "push rbx",
            "mov ebx, -1",
            "int 0x80",
            "pop rbx",
            inlateout("rax") number => result,
            in("rcx") -1i64,
            in("rdx") -1i64,
            in("rsi") -1i64,
            in("rdi") -1i64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    let result = result as i32;
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// Whether the kernel serves 32-bit programs: without that, the instruction ends a process.
#[cfg(target_arch = "x86_64")]
fn has_i386() -> bool {
    // SAFETY: the child makes one call and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let _ = call_i386(20);
        // SAFETY: no destructor of the parent may run here.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: `status` lives across the call.
    child > 0 && unsafe { libc::waitpid(child, &raw mut status, 0) } == child && status == 0
}

/// Calls that must not succeed, each made as if for real.
pub fn forbidden() -> Vec<(&'static str, io::Result<()>)> {
    let text = |text: &'static std::ffi::CStr| text.as_ptr() as usize;
    let namespaces = libc::CLONE_NEWUSER as usize;
    let block = (libc::S_IFBLK | 0o600) as usize;
    let character = (libc::S_IFCHR | 0o600) as usize;
    let disk = libc::makedev(8, 0) as usize;
    let memory = libc::makedev(1, 1) as usize;
    // A clock setting whose mode says "step the time", by nothing.
    let mut step = [0u32; 64];
    step[0] = 0x100;
    let step = step.as_ptr() as usize;
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
        ("clock_adjtime", libc::SYS_clock_adjtime, [0, step, 0, 0, 0]),
        ("adjtimex", libc::SYS_adjtimex, [step, 0, 0, 0, 0]),
    ];
    list.into_iter()
        .filter(|(name, ..)| *name != "lookup_dcookie" || cfg!(target_arch = "x86_64"))
        .map(|(name, number, arguments)| (name, call(number, arguments)))
        .collect()
}

/// What a command tries on a process of the host, whose id it was told.
pub fn on_process(pid: usize) -> Vec<(&'static str, io::Result<()>)> {
    let mut bytes = [0u8; 8];
    // A struct iovec: with none the call succeeds before it looks for the process.
    let vector = [(&raw mut bytes) as usize, bytes.len()];
    let place = (&raw const vector) as usize;
    let list: [(&'static str, libc::c_long, [usize; 5]); 8] = [
        ("ptrace", libc::SYS_ptrace, [libc::PTRACE_ATTACH as usize, pid, 0, 0, 0]),
        ("kill", libc::SYS_kill, [pid, 0, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [pid, place, 1, place, 1]),
        ("pidfd_open", libc::SYS_pidfd_open, [pid, 0, 0, 0, 0]),
        ("prlimit64", libc::SYS_prlimit64, [pid, libc::RLIMIT_CORE as usize, 0, 0, 0]),
        ("setpriority", libc::SYS_setpriority, [libc::PRIO_PROCESS as usize, pid, 19, 0, 0]),
        ("sched_setaffinity", libc::SYS_sched_setaffinity, [pid, 8, (&raw const ALL_ONES) as usize, 0, 0]),
        ("kill-group", libc::SYS_kill, [pid.wrapping_neg(), 0, 0, 0, 0]),
    ];
    list.into_iter().map(|(name, number, arguments)| (name, call(number, arguments))).collect()
}

static ALL_ONES: u64 = u64::MAX;

/// The name of an error number.
pub fn errno_name(number: i32) -> &'static str {
    match number {
        0 => "done",
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ENOTDIR => "ENOTDIR",
        libc::ESRCH => "ESRCH",
        libc::EACCES => "EACCES",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EFAULT => "EFAULT",
        libc::EINVAL => "EINVAL",
        libc::EIO => "EIO",
        libc::ENOKEY => "ENOKEY",
        libc::ENOTTY => "ENOTTY",
        libc::ENXIO => "ENXIO",
        libc::EBADF => "EBADF",
        libc::ECONNRESET => "ECONNRESET",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        _ => "other",
    }
}
