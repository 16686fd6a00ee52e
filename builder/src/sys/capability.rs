//! Linux capabilities of a sandbox: sets as bit masks, their names, and reducing the calling thread to a set.
//!
//! Invariants:
//! - [`CapabilitySet::DEFAULT`] is docker's default set, 14 capabilities;
//! - capabilities are only ever taken away here, never given;
//! - the inheritable and ambient sets end up empty (docker since CVE-2022-24769): a program gets capabilities
//!   from being root or from its file, not from its parent's habits.

use std::fmt;
use std::io;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet as KernelSet, CapabilitySets};

/// A set of capabilities, one bit for each as in /proc/PID/status.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CapabilitySet(u64);

/// Why a set could not be applied or a name was refused.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// Not a capability that kiln knows.
    #[error("`{name}` is not a capability, write one like `NET_ADMIN`, or `ALL`")]
    Unknown {
        /// The name as given.
        name: String,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    Kernel {
        /// What was attempted.
        action: &'static str,
        /// What the system call said.
        #[source]
        source: io::Error,
    },
}

/// Names by number (`include/uapi/linux/capability.h`).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

#[allow(missing_docs)]
impl CapabilitySet {
    pub const CHOWN: Self = Self(1);
    pub const DAC_OVERRIDE: Self = Self(1 << 1);
    pub const DAC_READ_SEARCH: Self = Self(1 << 2);
    pub const FOWNER: Self = Self(1 << 3);
    pub const FSETID: Self = Self(1 << 4);
    pub const KILL: Self = Self(1 << 5);
    pub const SETGID: Self = Self(1 << 6);
    pub const SETUID: Self = Self(1 << 7);
    pub const SETPCAP: Self = Self(1 << 8);
    pub const NET_BIND_SERVICE: Self = Self(1 << 10);
    pub const NET_ADMIN: Self = Self(1 << 12);
    pub const NET_RAW: Self = Self(1 << 13);
    pub const SYS_MODULE: Self = Self(1 << 16);
    pub const SYS_RAWIO: Self = Self(1 << 17);
    pub const SYS_CHROOT: Self = Self(1 << 18);
    pub const SYS_PTRACE: Self = Self(1 << 19);
    pub const SYS_PACCT: Self = Self(1 << 20);
    pub const SYS_ADMIN: Self = Self(1 << 21);
    pub const SYS_BOOT: Self = Self(1 << 22);
    pub const SYS_NICE: Self = Self(1 << 23);
    pub const SYS_TIME: Self = Self(1 << 25);
    pub const SYS_TTY_CONFIG: Self = Self(1 << 26);
    pub const MKNOD: Self = Self(1 << 27);
    pub const AUDIT_WRITE: Self = Self(1 << 29);
    pub const SETFCAP: Self = Self(1 << 31);
    pub const SYSLOG: Self = Self(1 << 34);
    pub const PERFMON: Self = Self(1 << 38);
    pub const BPF: Self = Self(1 << 39);
}

impl CapabilitySet {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// Every capability that kiln knows.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);
    /// What docker gives to a container.
    pub const DEFAULT: Self = Self::CHOWN
        .union(Self::DAC_OVERRIDE)
        .union(Self::FSETID)
        .union(Self::FOWNER)
        .union(Self::MKNOD)
        .union(Self::NET_RAW)
        .union(Self::SETGID)
        .union(Self::SETUID)
        .union(Self::SETFCAP)
        .union(Self::SETPCAP)
        .union(Self::NET_BIND_SERVICE)
        .union(Self::SYS_CHROOT)
        .union(Self::KILL)
        .union(Self::AUDIT_WRITE);

    /// The set with these bits; bits of capabilities that kiln does not know are dropped.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// One bit for each capability.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What is in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// True when something is in both sets.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The names, without `CAP_`, in order of number.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().enumerate().filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| *name)
    }

    /// The set of these names.
    pub fn from_names(names: &[String]) -> Result<Self, CapabilityError> {
        names.iter().try_fold(Self::EMPTY, |set, name| Ok(set.union(Self::parse(name)?)))
    }

    /// Reads a name with or without `CAP_`, in any case; `ALL` is every capability.
    pub fn parse(name: &str) -> Result<Self, CapabilityError> {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" {
            return Ok(Self::ALL);
        }
        let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let bit = NAMES.iter().position(|known| *known == plain);
        bit.map(|bit| Self(1 << bit)).ok_or_else(|| CapabilityError::Unknown { name: name.to_owned() })
    }

    /// The default set changed by `--cap-add` and `--cap-drop`, as docker combines them: `ALL` on one side
    /// is the start that the other side's names change; otherwise a name on both sides is added.
    pub fn from_flags(add: &[String], drop: &[String]) -> Result<Self, CapabilityError> {
        let without_all = |names: &[String]| -> Vec<String> {
            names.iter().filter(|name| !name.eq_ignore_ascii_case("all")).cloned().collect()
        };
        let (adds_all, drops_all) =
            (without_all(add).len() < add.len(), without_all(drop).len() < drop.len());
        let (added, dropped) = (Self::from_names(&without_all(add))?, Self::from_names(&without_all(drop))?);
        Ok(if adds_all {
            Self::ALL.without(dropped)
        } else if drops_all {
            added
        } else {
            Self::DEFAULT.without(dropped).union(added)
        })
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// Reduces the calling thread to `keep`: [`drop_bounding_to`], then [`limit_to`].
///
/// Before a change of user from root, call the two apart with the change between them, since the change needs
/// CAP_SETUID and itself clears the effective and permitted sets.
pub fn drop_to(keep: CapabilitySet) -> Result<(), CapabilityError> {
    drop_bounding_to(keep)?;
    limit_to(keep)
}

/// Takes everything but `keep` out of the bounding set, so that no program that is executed later (not even a
/// set-user-id one) can get it. Needs CAP_SETPCAP.
pub fn drop_bounding_to(keep: CapabilitySet) -> Result<(), CapabilityError> {
    for bit in 0..u64::BITS {
        if keep.0 >> bit & 1 == 1 {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(KernelSet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // The first number that this kernel does not know; it knows none above.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(kernel("drop capabilities from the bounding set", errno)),
        }
    }
    Ok(())
}

/// Reduces the permitted and effective sets to what is in `keep`, and empties the inheritable and ambient ones.
pub fn limit_to(keep: CapabilitySet) -> Result<(), CapabilityError> {
    rustix::thread::clear_ambient_capability_set()
        .map_err(|errno| kernel("clear the ambient capabilities", errno))?;
    let now = rustix::thread::capabilities(None)
        .map_err(|errno| kernel("read the capabilities of this process", errno))?;
    let kept = KernelSet::from_bits_retain(now.permitted.bits() & keep.0);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: KernelSet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(|errno| kernel("drop capabilities", errno))
}

fn kernel(action: &'static str, errno: Errno) -> CapabilityError {
    CapabilityError::Kernel { action, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn default_set_is_dockers() {
        // CapBnd of `docker run alpine grep Cap /proc/1/status`.
        assert_eq!(CapabilitySet::DEFAULT.bits(), 0xa804_25fb);
        assert_eq!(CapabilitySet::DEFAULT.names().count(), 14);
        assert_eq!(CapabilitySet::ALL.bits(), 0x1ff_ffff_ffff);
    }

    #[test]
    fn names_round_trip() {
        for (bit, name) in NAMES.iter().enumerate() {
            let set = CapabilitySet::from_bits(1 << bit);
            assert_eq!(CapabilitySet::parse(name).ok(), Some(set));
            assert_eq!(CapabilitySet::parse(&format!("cap_{}", name.to_lowercase())).ok(), Some(set));
            assert_eq!(set.names().collect::<Vec<_>>(), [*name]);
        }
        assert_eq!(CapabilitySet::parse("BPF").ok(), Some(CapabilitySet::BPF));
        assert_eq!(CapabilitySet::parse("sys_admin").ok(), Some(CapabilitySet::SYS_ADMIN));
        for bad in ["", "CAP_", "NET", "CAP_CAP_BPF", "41"] {
            assert!(CapabilitySet::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_combine_as_in_docker() {
        let from = |add: &[&str], drop: &[&str]| {
            CapabilitySet::from_flags(&words(add), &words(drop)).expect("valid")
        };
        let default = CapabilitySet::DEFAULT;
        assert_eq!(from(&[], &[]), default);
        assert_eq!(
            from(&["NET_ADMIN"], &["KILL"]),
            default.without(CapabilitySet::KILL).union(CapabilitySet::NET_ADMIN)
        );
        assert_eq!(from(&["CHOWN"], &["all"]), CapabilitySet::CHOWN);
        assert_eq!(from(&["ALL"], &["CHOWN"]), CapabilitySet::ALL.without(CapabilitySet::CHOWN));
        assert_eq!(from(&["KILL"], &["KILL"]), default);
        assert!(CapabilitySet::from_flags(&words(&["NOPE"]), &[]).is_err());
    }
}
