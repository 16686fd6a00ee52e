//! Decisions of the program by an interpreter, for every architecture, and by the kernel in a child process.

use std::process::{Command, Stdio};

use super::*;

const ROLE: &str = "KILN_TEST_SECCOMP_CHILD";
const ALLOW: u32 = RETURN_ALLOW;
const REFUSE: u32 = RETURN_ERRNO | libc::EPERM as u32;
const MISSING: u32 = RETURN_ERRNO | libc::ENOSYS as u32;

fn run(program: &[Instruction], audit_arch: u32, number: u32, argument: u64) -> u32 {
    run_with(program, audit_arch, number, &[argument])
}

/// Runs a program as the kernel would.
pub(super) fn run_with(program: &[Instruction], audit_arch: u32, number: u32, arguments: &[u64]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(audit_arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    data.resize(64, 0);
    let (mut at, mut accumulator) = (0usize, 0u32);
    loop {
        let instruction = program[at];
        at += 1;
        let holds = match instruction.code {
            LOAD_WORD => {
                let offset = instruction.operand as usize;
                accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().expect("word"));
                continue;
            }
            JUMP => {
                at += instruction.operand as usize;
                continue;
            }
            RETURN => return instruction.operand,
            // The two that only profiles of users need: AND and "greater than".
            0x54 => {
                accumulator &= instruction.operand;
                continue;
            }
            0x25 => accumulator > instruction.operand,
            JUMP_EQUAL => accumulator == instruction.operand,
            JUMP_AT_LEAST => accumulator >= instruction.operand,
            JUMP_ANY_BIT => accumulator & instruction.operand != 0,
            other => panic!("unknown operation {other:#x}"),
        };
        at += usize::from(if holds { instruction.jump_true } else { instruction.jump_false });
    }
}

fn number(column: usize, name: &str) -> u32 {
    let row = SYSCALLS.iter().find(|(known, ..)| *known == name).expect("in the table");
    row.2[column]
}

#[test]
fn table_is_sorted_and_numbers_are_unique() {
    assert!(SYSCALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for column in 0..5 {
        let mut numbers: Vec<u32> =
            SYSCALLS.iter().map(|(_, _, numbers)| numbers[column]).filter(|n| *n != NO).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "column {column}");
    }
    assert_eq!(number(X86_64, "seccomp"), 317);
    assert_eq!(number(AARCH64, "seccomp"), 277);
    assert_eq!(number(ARM, "set_tls"), 0x000f_0005);
}

#[test]
fn every_call_of_every_architecture_is_decided_as_the_table_says() {
    let admin = CapabilitySet::DEFAULT.union(CapabilitySet::SYS_ADMIN);
    for (sections, capabilities) in
        [X86_SECTIONS, ARM_SECTIONS].into_iter().flat_map(|s| [(s, CapabilitySet::DEFAULT), (s, admin)])
    {
        let program = assemble(sections, capabilities);
        assert!(program.len() < 1500, "{}", program.len());
        for section in sections {
            for (column, offset) in section.columns {
                for (name, access, numbers) in SYSCALLS {
                    if numbers[*column] == NO {
                        continue;
                    }
                    let expected = match decide(*column, numbers[*column], *access, capabilities) {
                        // Argument 0 is harmless to each of these.
                        Action::Allow
                        | Action::CheckClone
                        | Action::CheckSocket
                        | Action::CheckPersonality => ALLOW,
                        Action::Errno(errno) => RETURN_ERRNO | u32::from(errno),
                    };
                    let got = run(&program, section.audit_arch, numbers[*column] + offset, 0);
                    assert_eq!(got, expected, "{name} in column {column}");
                }
            }
        }
    }
}

#[test]
fn arguments_and_unknown_calls_are_judged() {
    let program = assemble(X86_SECTIONS, CapabilitySet::DEFAULT);
    let x86_64 = |name: &str, argument: u64| run(&program, 0xc000_003e, number(X86_64, name), argument);
    assert_eq!(x86_64("clone", 0x0001_2011), ALLOW);
    for flag in [0x0002_0000u64, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
    {
        assert_eq!(x86_64("clone", flag | 17), REFUSE, "{flag:#x}");
    }
    assert_eq!(x86_64("clone3", 0), MISSING);
    for (family, expected) in
        [(1, ALLOW), (2, ALLOW), (16, ALLOW), (38, REFUSE), (39, ALLOW), (40, REFUSE), (41, ALLOW)]
    {
        assert_eq!(x86_64("socket", family), expected, "{family}");
        // The kernel ignores the upper half, so must the filter.
        assert_eq!(x86_64("socket", family | 1 << 32), expected, "{family}");
    }
    for value in PERSONALITIES {
        assert_eq!(x86_64("personality", u64::from(value)), ALLOW);
    }
    assert_eq!(x86_64("personality", 0x0040_0000), REFUSE);

    let raw = |arch: u32, number: u32| run(&program, arch, number, 0);
    assert_eq!(raw(0xc000_003e, 335), ALLOW, "uretprobe");
    assert_eq!(raw(0xc000_003e, 336), REFUSE, "a gap between known calls");
    assert_eq!(raw(0xc000_003e, 467), MISSING, "newer than the profile");
    assert_eq!(raw(0xc000_003e, 0x3fff_ffff), MISSING);
    assert_eq!(raw(0xc000_003e, 0x4000_0000), ALLOW, "read of x32");
    assert_eq!(raw(0xc000_003e, 0x4000_0000 + 165), REFUSE, "mount of x32");
    assert_eq!(raw(0xc000_003e, u32::MAX), MISSING);
    assert_eq!(raw(0x4000_0003, 102), ALLOW, "socketcall of i386");
    assert_eq!(raw(0x4000_0003, 21), REFUSE, "mount of i386");
    assert_eq!(raw(0xc000_00b7, 64), RETURN_KILL_PROCESS, "another architecture");
    let arm = assemble(ARM_SECTIONS, CapabilitySet::DEFAULT);
    assert_eq!(run(&arm, 0x4000_0028, 0x000f_0002, 0), ALLOW, "cacheflush of arm");
    assert_eq!(run(&arm, 0x4000_0028, 0x000e_ffff, 0), MISSING);
}

#[test]
fn capabilities_open_what_belongs_to_them() {
    let with = |extra: CapabilitySet, name: &str| {
        let program = assemble(X86_SECTIONS, CapabilitySet::DEFAULT.union(extra));
        run(&program, 0xc000_003e, number(X86_64, name), 0x1000_0000)
    };
    assert_eq!(with(CapabilitySet::EMPTY, "chroot"), ALLOW, "docker's default set has CAP_SYS_CHROOT");
    assert_eq!(with(CapabilitySet::EMPTY, "bpf"), REFUSE);
    assert_eq!(with(CapabilitySet::BPF, "bpf"), ALLOW);
    for name in ["mount", "clone", "clone3", "unshare", "bpf"] {
        assert_eq!(with(CapabilitySet::SYS_ADMIN, name), ALLOW, "{name}");
    }
    let without = assemble(X86_SECTIONS, CapabilitySet::EMPTY);
    assert_eq!(run(&without, 0xc000_003e, number(X86_64, "chroot"), 0), REFUSE);
}

#[test]
fn refused_calls_are_listed() {
    let refused = refused_by_default();
    let errno = |name: &str| refused.iter().find(|call| call.name == name).map(|call| call.errno);
    for name in [
        "mount",
        "umount2",
        "pivot_root",
        "unshare",
        "setns",
        "keyctl",
        "bpf",
        "io_uring_setup",
        "kexec_load",
    ] {
        assert_eq!(errno(name), Some(libc::EPERM), "{name}");
    }
    assert_eq!(errno("clone3"), Some(libc::ENOSYS));
    assert_eq!((errno("read"), errno("clone"), errno("ptrace")), (None, None, None));
}

#[test]
fn the_kernel_enforces_the_program() {
    let status = Command::new("unshare")
        .arg("-Ur")
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", "sandbox::seccomp::tests::inside_the_filter", "--nocapture", "--test-threads=1"])
        .env(ROLE, "1")
        .stdout(Stdio::null())
        .status();
    let permitted = Command::new("unshare").args(["-Ur", "true"]).stderr(Stdio::null()).status();
    if !permitted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED the_kernel_enforces_the_program: user namespaces are not permitted");
        return;
    }
    assert!(status.expect("started").success());
}

/// Not a test of its own: the process that loads the filter.
#[test]
fn inside_the_filter() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let program = default_program().expect("program");
    let sent = Program::from_bytes(&program.to_bytes()).expect("round trip");
    crate::sys::seccomp::install(&sent).expect("install, with CAP_SYS_ADMIN and without no_new_privs");
    crate::sys::capability::drop_to(CapabilitySet::DEFAULT).expect("drop capabilities");
    for call in refused_by_default() {
        let errno = crate::sys::seccomp::probe(call.number);
        assert_eq!(errno, Some(call.errno), "{}", call.name);
    }
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("status");
    let line = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned)
    };
    for (name, expected) in [
        ("CapInh:", "0000000000000000"),
        ("CapPrm:", "00000000a80425fb"),
        ("CapEff:", "00000000a80425fb"),
        ("CapBnd:", "00000000a80425fb"),
        ("CapAmb:", "0000000000000000"),
        ("NoNewPrivs:", "0"),
        ("Seccomp:", "2"),
    ] {
        assert_eq!(line(name).as_deref(), Some(expected), "{name}");
    }
    // What every program does still works: files, threads, processes, sockets.
    assert_eq!(std::thread::spawn(|| 7).join().ok(), Some(7));
    assert!(Command::new("true").status().is_ok_and(|status| status.success()));
    assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_ok());
    let folder = tempfile::tempdir().expect("temp dir");
    std::fs::write(folder.path().join("f"), "x").expect("write");
}
