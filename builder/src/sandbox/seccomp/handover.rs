//! The calls that kiln answers in a small user namespace: changes of owner and the making of devices.
//!
//! A second filter beside the policy's. The kernel takes the strictest of what two filters say, and handing over is
//! stricter than allowing only, so the policy holds.
//!
//! | call | handed over when |
//! |---|---|
//! | `chown`, `lchown`, `fchown`, `fchownat` and their forms with 32-bit ids | an id is neither -1 nor below the first special one |
//! | `mknod`, `mknodat` | a device is wanted |
//!
//! The forms with 16-bit ids (`chown` of i386 and arm) cannot name an id that a usual map lacks.

use super::table::{NO, SYSCALLS};
use super::{
    ARCH_OFFSET, ARGUMENT_0_OFFSET, ARM, I386, Instruction, JUMP, JUMP_AT_LEAST, JUMP_EQUAL, LOAD_WORD,
    NATIVE, NUMBER_OFFSET, Program, RETURN, RETURN_ALLOW, SeccompError, branch, plain, search,
};

/// A call that may be handed over. The numbers say which argument is what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A change of owner.
    Owner {
        /// A path, or the descriptor itself.
        of: Target,
        /// The user; the group is the next one.
        user: usize,
    },
    /// The making of a node.
    Node {
        /// The path.
        of: Target,
        /// The mode; the device is the next one.
        mode: usize,
    },
}

/// What a call works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// An open descriptor: the first argument.
    Descriptor,
    /// A path: the first argument. Whether a final symlink is followed.
    Path {
        /// It is.
        follow: bool,
    },
    /// A path below a descriptor: the first two arguments.
    At {
        /// Which argument has the flags.
        flags: Option<usize>,
    },
}

const CALLS: [(&str, Kind); 9] = [
    ("chown", Kind::Owner { of: Target::Path { follow: true }, user: 1 }),
    ("chown32", Kind::Owner { of: Target::Path { follow: true }, user: 1 }),
    ("fchown", Kind::Owner { of: Target::Descriptor, user: 1 }),
    ("fchown32", Kind::Owner { of: Target::Descriptor, user: 1 }),
    ("fchownat", Kind::Owner { of: Target::At { flags: Some(4) }, user: 2 }),
    ("lchown", Kind::Owner { of: Target::Path { follow: false }, user: 1 }),
    ("lchown32", Kind::Owner { of: Target::Path { follow: false }, user: 1 }),
    ("mknod", Kind::Node { of: Target::Path { follow: false }, mode: 1 }),
    ("mknodat", Kind::Node { of: Target::At { flags: None }, mode: 2 }),
];

const RETURN_HAND_OVER: u32 = 0x7fc0_0000;
const AND: u16 = 0x54;
const FILE_TYPE: u32 = 0o170_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;

/// The call of a number; `None` for one that is never handed over.
pub fn kind(audit_arch: u32, number: u32) -> Option<Kind> {
    let section = NATIVE.iter().find(|section| section.audit_arch == audit_arch)?;
    calls(section.columns).into_iter().find(|(known, _)| *known == number).map(|(_, kind)| kind)
}

/// The filter; ids from `first_special` on are handed over.
pub fn program(first_special: u32) -> Result<Program, SeccompError> {
    let mut program = vec![plain(LOAD_WORD, ARCH_OFFSET)];
    for section in NATIVE {
        let mut steps: Vec<(u32, Option<Kind>)> = vec![(0, None)];
        for (number, kind) in calls(section.columns) {
            steps.retain(|(start, _)| *start != number);
            steps.extend([(number, Some(kind)), (number + 1, None)]);
        }
        let mut body = vec![plain(LOAD_WORD, NUMBER_OFFSET)];
        body.extend(search(&steps, &|kind| leaf(*kind, first_special)));
        program.push(branch(JUMP_EQUAL, section.audit_arch, 1, 0));
        program.push(plain(JUMP, u32::try_from(body.len()).unwrap_or(u32::MAX)));
        program.append(&mut body);
    }
    // What other architectures may do is the policy's business.
    program.push(plain(RETURN, RETURN_ALLOW));
    Program::new(program)
}

/// Numbers on the columns of a section, ascending.
fn calls(columns: &[(usize, u32)]) -> Vec<(u32, Kind)> {
    let mut calls = Vec::new();
    for (column, offset) in columns {
        for (name, kind) in CALLS {
            let small_ids = matches!(*column, I386 | ARM) && matches!(name, "chown" | "fchown" | "lchown");
            let row = SYSCALLS.iter().find(|(known, ..)| *known == name);
            let number = row.and_then(|(_, _, numbers)| numbers.get(*column)).filter(|number| **number != NO);
            if let (Some(number), false) = (number, small_ids) {
                calls.push((offset + number, kind));
            }
        }
    }
    calls.sort_unstable_by_key(|(number, _)| *number);
    calls
}

fn leaf(kind: Option<Kind>, first_special: u32) -> Vec<Instruction> {
    let (allow, hand_over) = (plain(RETURN, RETURN_ALLOW), plain(RETURN, RETURN_HAND_OVER));
    let argument =
        |index: usize| plain(LOAD_WORD, ARGUMENT_0_OFFSET + 8 * u32::try_from(index).unwrap_or_default());
    match kind {
        None => vec![allow],
        Some(Kind::Owner { user, .. }) => vec![
            argument(user),
            branch(JUMP_EQUAL, u32::MAX, 1, 0),
            branch(JUMP_AT_LEAST, first_special, 3, 0),
            argument(user + 1),
            branch(JUMP_EQUAL, u32::MAX, 2, 0),
            branch(JUMP_AT_LEAST, first_special, 0, 1),
            hand_over,
            allow,
        ],
        Some(Kind::Node { mode, .. }) => vec![
            argument(mode),
            plain(AND, FILE_TYPE),
            branch(JUMP_EQUAL, CHARACTER_DEVICE, 1, 0),
            branch(JUMP_EQUAL, BLOCK_DEVICE, 0, 1),
            hand_over,
            allow,
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::run_with;
    use super::*;

    const KEEP: u64 = u32::MAX as u64;

    fn decide(first_special: u32, number: u32, arguments: &[u64]) -> bool {
        let program = program(first_special).unwrap();
        run_with(program.instructions(), NATIVE[0].audit_arch, number, arguments) == RETURN_HAND_OVER
    }

    fn number(name: &str) -> u32 {
        let (_, _, numbers) = SYSCALLS.iter().find(|(known, ..)| *known == name).unwrap();
        numbers[NATIVE[0].columns[0].0]
    }

    #[test]
    fn owners_that_need_help() {
        for (user, group, expected) in [
            (0, 0, false),
            (1000, 65533, false),
            (KEEP, KEEP, false),
            (65534, KEEP, true),
            (KEEP, 65534, true),
            (3_000_000, 5, true),
            (5, 3_000_000, true),
            // The upper half is nothing to the kernel.
            (0xdead_0000_0005, 5, false),
            (0x1_ffff_ffff, 0x1_ffff_fffe, true),
        ] {
            assert_eq!(decide(65534, number("fchown"), &[7, user, group]), expected, "{user} {group}");
            assert_eq!(decide(65534, number("fchownat"), &[7, 99_999_999, user, group]), expected);
        }
        assert!(decide(0, number("fchown"), &[7, 0, KEEP]) && !decide(0, number("fchown"), &[7, KEEP, KEEP]));
    }

    #[test]
    fn devices_and_nothing_else() {
        for (mode, expected) in
            [(0o020_666, true), (0o060_600, true), (0o010_600, false), (0o100_600, false), (0o666, false)]
        {
            assert_eq!(decide(65534, number("mknodat"), &[7, 0, mode, 1]), expected, "{mode:o}");
        }
        for name in ["openat", "fchmod", "write"] {
            assert!(!decide(0, number(name), &[3_000_000; 6]), "{name}");
        }
    }

    #[test]
    fn what_the_filter_hands_over_has_a_kind() {
        for section in NATIVE {
            let filter = program(0).unwrap();
            for number in 0..600 {
                for (_, offset) in section.columns {
                    let handed = [[1; 6], [0o020_000; 6]].iter().any(|arguments| {
                        run_with(filter.instructions(), section.audit_arch, offset + number, arguments)
                            == RETURN_HAND_OVER
                    });
                    assert_eq!(handed, kind(section.audit_arch, offset + number).is_some(), "{number}");
                }
            }
        }
    }
}
