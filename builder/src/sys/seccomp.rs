//! Loading a seccomp filter into the calling process, and answering the calls that one hands over (seccomp_unotify(2)).
//!
//! Invariants:
//! - a [`Program`] has between 1 and [`MAX_INSTRUCTIONS`] instructions; the kernel checks the rest when it is
//!   loaded;
//! - a filter cannot be taken off again and is inherited by every child and program.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// The kernel's limit (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;
const INSTRUCTION_BYTES: usize = 8;
const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;

/// Why a filter could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Empty, too long, or not a whole number of instructions.
    #[error("a seccomp program of {bytes} bytes cannot be loaded")]
    Size {
        /// Its size.
        bytes: usize,
    },
    /// The system call failed.
    #[error("cannot load the seccomp filter")]
    Install {
        /// What the system call said.
        #[source]
        source: io::Error,
    },
}

/// One instruction of classic BPF; the layout is that of `struct sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the comparison holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Operand.
    pub operand: u32,
}

/// A filter that can be loaded any number of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    /// A program of these instructions.
    pub fn new(instructions: Vec<Instruction>) -> Result<Self, SeccompError> {
        if instructions.is_empty() || instructions.len() > MAX_INSTRUCTIONS {
            return Err(SeccompError::Size { bytes: instructions.len() * INSTRUCTION_BYTES });
        }
        Ok(Self { instructions })
    }

    /// The instructions in order.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The form in which a program crosses a socket to another process on the same machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.instructions.len() * INSTRUCTION_BYTES);
        for instruction in &self.instructions {
            bytes.extend_from_slice(&instruction.code.to_ne_bytes());
            bytes.extend_from_slice(&[instruction.jump_true, instruction.jump_false]);
            bytes.extend_from_slice(&instruction.operand.to_ne_bytes());
        }
        bytes
    }

    /// Reads what [`Program::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SeccompError> {
        let (chunks, rest) = bytes.as_chunks::<INSTRUCTION_BYTES>();
        if !rest.is_empty() {
            return Err(SeccompError::Size { bytes: bytes.len() });
        }
        let instructions = chunks
            .iter()
            .map(|[c0, c1, jump_true, jump_false, o0, o1, o2, o3]| Instruction {
                code: u16::from_ne_bytes([*c0, *c1]),
                jump_true: *jump_true,
                jump_false: *jump_false,
                operand: u32::from_ne_bytes([*o0, *o1, *o2, *o3]),
            })
            .collect();
        Self::new(instructions)
    }
}

/// Loads `program` for the calling thread and everything it starts.
///
/// Needs CAP_SYS_ADMIN in the thread's user namespace, or no_new_privs, which this does not set (set-user-id
/// programs work inside a sandbox). So: load the filter first, then drop capabilities.
pub fn install(program: &Program) -> Result<(), SeccompError> {
    load(program, 0).map(drop)
}

/// As [`install`]; gives what receives the calls that the program hands over. Only one such filter can be loaded.
pub fn install_with_listener(program: &Program) -> Result<OwnedFd, SeccompError> {
    // Without the second flag, which came with Linux 5.19, a signal interrupts a call that is being answered: it is made
    // again, which does no harm to the calls that we take.
    let flags = [
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    ];
    let fd = match load(program, flags[0]) {
        Err(SeccompError::Install { source }) if source.raw_os_error() == Some(libc::EINVAL) => {
            load(program, flags[1])?
        }
        loaded => loaded?,
    };
    let fd =
        i32::try_from(fd).map_err(|_| SeccompError::Install { source: io::Error::other("no descriptor") })?;
    // SAFETY: with that flag the call gives a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn load(program: &Program, flags: libc::c_ulong) -> Result<libc::c_long, SeccompError> {
    let length = program.instructions.len();
    let length = u16::try_from(length).map_err(|_| SeccompError::Size { bytes: length })?;
    let filter = libc::sock_fprog {
        len: length,
        // The kernel only reads; the type lacks the const.
        filter: program.instructions.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: `filter` points at `length` initialised instructions with the layout of `sock_filter`, which
    // outlive the call; the kernel copies them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if result >= 0 { Ok(result) } else { Err(SeccompError::Install { source: io::Error::last_os_error() }) }
}

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    id: u64,
    /// The thread that makes it, in this process' pid namespace; 0 when it is not seen from here.
    pub thread: u32,
    /// Audit architecture of the call.
    pub arch: u32,
    /// Number on that architecture.
    pub number: u32,
    /// Arguments.
    pub arguments: [u64; 6],
}

/// What the caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// What the kernel says to the call.
    Kernel,
    /// Success, with 0.
    Done,
    /// An error number.
    Failed(i32),
}

/// Takes the next call; `None` when its thread is gone.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Option<Call>> {
    // SAFETY: all zeros is a value of this plain struct, and the one that the kernel wants to be given.
    let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif`.
    let result =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice) };
    if result != 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ENOENT | libc::EINTR) => Ok(None),
            _ => Err(error),
        };
    }
    let data = notice.data;
    let number = u32::try_from(data.nr).unwrap_or(u32::MAX);
    Ok(Some(Call { id: notice.id, thread: notice.pid, arch: data.arch, number, arguments: data.args }))
}

/// True as long as the thread waits, so that what was found under its number is its own.
pub fn still_waits(listener: BorrowedFd<'_>, call: &Call) -> bool {
    // SAFETY: the kernel reads one number.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const call.id) == 0 }
}

/// Answers a call. It is no error when the thread is gone.
pub fn answer(listener: BorrowedFd<'_>, call: &Call, answer: Answer) -> io::Result<()> {
    let (error, flags) = match answer {
        Answer::Kernel => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Done => (0, 0),
        Answer::Failed(number) => (-number, 0),
    };
    let response = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags };
    // SAFETY: the kernel reads one `seccomp_notif_resp`.
    let result =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        error => Err(error),
    }
}

/// Makes a system call with arguments that no call can use, and returns the error number.
#[cfg(test)]
pub(crate) fn probe(number: u32) -> Option<i32> {
    let bad = libc::c_long::from(-1i32);
    // SAFETY: every argument is an invalid descriptor, an invalid pointer and an unknown flag at once, so a call
    // that is not refused fails on them without effect.
    let result = unsafe { libc::syscall(libc::c_long::from(number), bad, bad, bad, bad, bad, bad) };
    if result == -1 { io::Error::last_os_error().raw_os_error() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_the_kernels_layout() {
        assert_eq!(size_of::<Instruction>(), size_of::<libc::sock_filter>());
        assert_eq!(align_of::<Instruction>(), align_of::<libc::sock_filter>());
        assert_eq!(std::mem::offset_of!(Instruction, operand), std::mem::offset_of!(libc::sock_filter, k));
    }

    #[test]
    fn programs_round_trip_and_sizes_are_checked() {
        let one = Instruction { code: 6, jump_true: 1, jump_false: 2, operand: 0x7fff_0000 };
        let program = Program::new(vec![one; 3]).expect("valid");
        assert_eq!(Program::from_bytes(&program.to_bytes()).ok(), Some(program));
        assert!(Program::new(vec![]).is_err());
        assert!(Program::new(vec![one; MAX_INSTRUCTIONS + 1]).is_err());
        assert!(Program::from_bytes(&[0; 9]).is_err());
    }
}
