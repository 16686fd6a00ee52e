//! The system calls that a RUN may use: docker's default seccomp profile as a BPF program.
//!
//! Invariants:
//! - the program depends on the architecture and the capability set only;
//! - what the table of calls does not allow is refused with EPERM (design 'Sandbox': docker's default policy);
//!   exceptions are `clone3`, and calls newer than every known one, with ENOSYS so that libc falls back;
//! - arguments are compared in the 32 bits that the kernel looks at, so nothing hides in the upper half;
//! - a foreign architecture kills the process; the 32-bit companions of the native one (i386 and x32, or arm)
//!   have the same rules with their own numbers.
//!
//! | call | rule without CAP_SYS_ADMIN | why |
//! |---|---|---|
//! | `clone` | no flag that makes a namespace | a user namespace opens much of the kernel |
//! | `clone3` | ENOSYS | its flags are behind a pointer; libc falls back to `clone` |
//! | `socket` | not AF_ALG (38), not AF_VSOCK (40) | kernel crypto interface; leads to the hypervisor |
//! | `personality` | 0, 8, 0x20000, 0x20008, 0xffffffff | others switch off protections |
//!
//! As with docker, `socketcall` (i386) is allowed whole: what it does is behind a pointer.
#![forbid(unsafe_code)]

use crate::sys::capability::CapabilitySet;
use crate::sys::seccomp::{Instruction, Program, SeccompError};

pub mod handover;
pub mod profile;
mod table;

#[cfg(test)]
mod tests;

use table::{NO, SYSCALLS};

/// Who may use a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Always,
    Never,
    /// Who has one of these.
    With(CapabilitySet),
    /// By its flags, or CAP_SYS_ADMIN.
    Clone,
    /// CAP_SYS_ADMIN; others are told that it does not exist.
    Clone3,
    /// By the address family.
    Socket,
    /// By the value.
    Personality,
}

/// What the program does with a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Errno(u16),
    CheckClone,
    CheckSocket,
    CheckPersonality,
}

/// A system call that the default profile refuses whatever its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: u32,
    /// What the caller gets.
    pub errno: i32,
}

/// The program for docker's default capabilities. Takes well under a millisecond; keep it for all RUNs.
pub fn default_program() -> Result<Program, SeccompError> {
    program_for(CapabilitySet::DEFAULT)
}

/// The program for a RUN with these capabilities: some allow calls that are refused otherwise.
pub fn program_for(capabilities: CapabilitySet) -> Result<Program, SeccompError> {
    Program::new(assemble(NATIVE, capabilities))
}

/// What [`default_program`] refuses on this architecture, in order of name.
pub fn refused_by_default() -> Vec<Refused> {
    let column = NATIVE.first().map_or(0, |section| section.columns[0].0);
    SYSCALLS
        .iter()
        .filter_map(|(name, access, numbers)| {
            let number = *numbers.get(column).filter(|number| **number != NO)?;
            match decide(column, number, *access, CapabilitySet::DEFAULT) {
                Action::Errno(errno) => Some(Refused { name, number, errno: i32::from(errno) }),
                _ => None,
            }
        })
        .collect()
}

/// Numbers of one audit architecture: columns of the table and what is added to their numbers.
struct Section {
    audit_arch: u32,
    columns: &'static [(usize, u32)],
}

const X32_BIT: u32 = 0x4000_0000;
const X86_64: usize = 0;
const I386: usize = 1;
const X32: usize = 2;
const AARCH64: usize = 3;
const ARM: usize = 4;

const X86_SECTIONS: &[Section] = &[
    Section { audit_arch: 0xc000_003e, columns: &[(X86_64, 0), (X32, X32_BIT)] },
    Section { audit_arch: 0x4000_0003, columns: &[(I386, 0)] },
];
const ARM_SECTIONS: &[Section] = &[
    Section { audit_arch: 0xc000_00b7, columns: &[(AARCH64, 0)] },
    Section { audit_arch: 0x4000_0028, columns: &[(ARM, 0)] },
];

const NATIVE: &[Section] = if cfg!(target_arch = "aarch64") { ARM_SECTIONS } else { X86_SECTIONS };

/// From here on numbers are private to arm (`__ARM_NR_BASE`) and say nothing about the kernel's age.
const ARM_PRIVATE: u32 = 0x000f_0000;

const EPERM: u16 = libc::EPERM as u16;
const ENOSYS: u16 = libc::ENOSYS as u16;

/// Every flag of clone(2) that makes a namespace.
const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP) as u32;
const REFUSED_FAMILIES: [u32; 2] = [libc::AF_ALG as u32, libc::AF_VSOCK as u32];
/// PER_LINUX, PER_LINUX32, each with UNAME26, and the query.
const PERSONALITIES: [u32; 5] = [0, 8, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

fn granted(access: Access, capabilities: CapabilitySet) -> Action {
    let is_admin = capabilities.intersects(CapabilitySet::SYS_ADMIN);
    match access {
        Access::Always => Action::Allow,
        Access::Never => Action::Errno(EPERM),
        Access::With(any) if capabilities.intersects(any) => Action::Allow,
        Access::With(_) => Action::Errno(EPERM),
        Access::Clone | Access::Clone3 if is_admin => Action::Allow,
        Access::Clone => Action::CheckClone,
        Access::Clone3 => Action::Errno(ENOSYS),
        Access::Socket => Action::CheckSocket,
        Access::Personality => Action::CheckPersonality,
    }
}

/// The highest ordinary number that `column` grants anything to.
fn highest_granted(column: usize, capabilities: CapabilitySet) -> u32 {
    SYSCALLS
        .iter()
        .filter(|(_, access, _)| granted(*access, capabilities) != Action::Errno(EPERM))
        .filter_map(|(_, _, numbers)| numbers.get(column).copied())
        .filter(|number| *number < ARM_PRIVATE)
        .max()
        .unwrap_or(0)
}

fn decide(column: usize, number: u32, access: Access, capabilities: CapabilitySet) -> Action {
    let action = granted(access, capabilities);
    let newer = number > highest_granted(column, capabilities) && number < ARM_PRIVATE;
    if newer && action == Action::Errno(EPERM) { Action::Errno(ENOSYS) } else { action }
}

/// Where the action changes, in order of number: the first entry is for 0.
fn steps(section: &Section, capabilities: CapabilitySet) -> Vec<(u32, Action)> {
    let mut steps: Vec<(u32, Action)> = Vec::with_capacity(256);
    let mut push = |start: u32, action: Action| match steps.last_mut() {
        Some((last_start, last)) if *last_start == start => *last = action,
        _ => steps.push((start, action)),
    };
    for (column, offset) in section.columns {
        let mut calls: Vec<(u32, Action)> = SYSCALLS
            .iter()
            .filter_map(|(_, access, numbers)| {
                let number = *numbers.get(*column).filter(|number| **number != NO)?;
                Some((number, granted(*access, capabilities)))
            })
            .collect();
        calls.sort_unstable_by_key(|(number, _)| *number);
        let highest = highest_granted(*column, capabilities);
        push(*offset, Action::Errno(EPERM));
        for (number, action) in calls.iter().filter(|(number, _)| *number <= highest) {
            push(offset + number, *action);
            push(offset + number + 1, Action::Errno(EPERM));
        }
        push(offset + highest + 1, Action::Errno(ENOSYS));
        if calls.last().is_some_and(|(number, _)| *number >= ARM_PRIVATE) {
            push(offset + ARM_PRIVATE, Action::Errno(EPERM));
            for (number, action) in calls.iter().filter(|(number, _)| *number >= ARM_PRIVATE) {
                push(offset + number, *action);
                push(offset + number + 1, Action::Errno(EPERM));
            }
        }
    }
    steps.dedup_by(|later, earlier| later.1 == earlier.1);
    steps
}

// Operations of classic BPF (`include/uapi/linux/bpf_common.h`).
const LOAD_WORD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data`. The low half of an argument comes first: both architectures are little
// endian.
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
const ARGUMENT_0_OFFSET: u32 = 16;

const RETURN_KILL_PROCESS: u32 = 0x8000_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;
const RETURN_ALLOW: u32 = 0x7fff_0000;

fn assemble(sections: &[Section], capabilities: CapabilitySet) -> Vec<Instruction> {
    let mut program = vec![plain(LOAD_WORD, ARCH_OFFSET)];
    for section in sections {
        let mut body = vec![plain(LOAD_WORD, NUMBER_OFFSET)];
        body.extend(search(&steps(section, capabilities), &|action| leaf(*action)));
        // Over the jump when it is this architecture, over the body when it is not.
        program.push(branch(JUMP_EQUAL, section.audit_arch, 1, 0));
        program.push(plain(JUMP, body.len() as u32));
        program.append(&mut body);
    }
    program.push(plain(RETURN, RETURN_KILL_PROCESS));
    program
}

/// A binary search for the step that the loaded number belongs to.
fn search<A>(steps: &[(u32, A)], leaf: &dyn Fn(&A) -> Vec<Instruction>) -> Vec<Instruction> {
    match steps {
        [] => vec![plain(RETURN, RETURN_ERRNO | u32::from(EPERM))],
        [(_, action)] => leaf(action),
        _ => {
            let (below, above) = steps.split_at(steps.len() / 2);
            let start = above.first().map_or(0, |(start, _)| *start);
            let (low, high) = (search(below, leaf), search(above, leaf));
            let mut code = Vec::with_capacity(low.len() + high.len() + 2);
            match u8::try_from(low.len()) {
                Ok(skip) => code.push(branch(JUMP_AT_LEAST, start, skip, 0)),
                // Conditional jumps reach 255 instructions, the unconditional one reaches all.
                Err(_) => {
                    code.push(branch(JUMP_AT_LEAST, start, 0, 1));
                    code.push(plain(JUMP, low.len() as u32));
                }
            }
            code.extend(low);
            code.extend(high);
            code
        }
    }
}

fn leaf(action: Action) -> Vec<Instruction> {
    let allow = plain(RETURN, RETURN_ALLOW);
    let refuse = plain(RETURN, RETURN_ERRNO | u32::from(EPERM));
    let argument = plain(LOAD_WORD, ARGUMENT_0_OFFSET);
    match action {
        Action::Allow => vec![allow],
        Action::Errno(errno) => vec![plain(RETURN, RETURN_ERRNO | u32::from(errno))],
        Action::CheckClone => vec![argument, branch(JUMP_ANY_BIT, NAMESPACE_FLAGS, 1, 0), allow, refuse],
        Action::CheckSocket => one_of(argument, &REFUSED_FAMILIES, refuse, allow),
        Action::CheckPersonality => one_of(argument, &PERSONALITIES, allow, refuse),
    }
}

/// Compares the argument with each value.
fn one_of(load: Instruction, values: &[u32], found: Instruction, other: Instruction) -> Vec<Instruction> {
    let mut code = vec![load];
    for (index, value) in values.iter().enumerate() {
        // Over the comparisons that are left and the return for the other case.
        code.push(branch(JUMP_EQUAL, *value, (values.len() - index) as u8, 0));
    }
    code.extend([other, found]);
    code
}

fn plain(code: u16, operand: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, operand }
}

fn branch(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}
