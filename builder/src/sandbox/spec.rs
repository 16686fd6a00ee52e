//! What the zygote is told about one command. Plain data, sent as JSON in a memfd.
//!
//! Invariants: paths of layers, cache directories and stubs are relative to the store's root, which is the zygote's
//! current directory (seen through the id map when kiln is root); paths inside the rootfs are absolute.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::cgroup::{GroupSpec, Hits};
use super::emulate::Handler;
use super::net::mechanism::Helper;
use super::terminal::SandboxTerminal;
use crate::sys::userns::IdMap;

/// One command and its world.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Lower directories, uppermost first; the stub directory last.
    pub lowers: Vec<String>,
    /// Upper and work directory.
    pub upper: (String, String),
    /// Argument vector.
    pub args: Vec<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// USER, as written.
    pub user: String,
    /// Host name.
    pub hostname: String,
    /// In the order in which they are mounted, after the system's own.
    pub mounts: Vec<SandboxMount>,
    /// Network.
    pub network: SandboxNetwork,
    /// What connects a private network where kiln does not itself.
    pub helper: Option<SandboxHelper>,
    /// Nothing masked or read-only (`--security=insecure`).
    pub insecure: bool,
    /// Capabilities, one bit each.
    pub capabilities: u64,
    /// System calls that are refused.
    pub seccomp: SandboxSeccomp,
    /// A set-user-id program gains nothing.
    pub no_new_privileges: bool,
    /// Labels of the host's security modules.
    pub labels: SandboxLabels,
    /// Host devices that are shown.
    pub devices: Vec<SandboxDevice>,
    /// Emulator that the sandbox registers for itself.
    pub handler: Option<Handler>,
    /// Control group, where there are limits.
    pub group: Option<GroupSpec>,
    /// (`RLIMIT_*`, soft, hard).
    pub limits: Vec<(u32, u64, u64)>,
    /// Size of /dev/shm.
    pub shm_size_bytes: u64,
    /// Content of /etc/resolv.conf; `None` leaves the image's file.
    pub resolv_conf: Option<String>,
    /// Content of /etc/hosts.
    pub hosts: Option<String>,
    /// Ids of the user namespace.
    pub ids: IdMap,
    /// Calls that need larger ids than this one, and those that make devices, are handed to kiln.
    #[serde(default)]
    pub handed_over_from: Option<u32>,
    /// Offer IPv6 destinations in a private network.
    pub ipv6: bool,
    /// A terminal of its own in place of the standard streams, which is also its controlling one.
    pub terminal: Option<SandboxTerminal>,
}

/// The seccomp filter of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxSeccomp {
    /// docker's default for the command's capabilities.
    Default,
    /// None.
    Unconfined,
    /// A program ([`crate::sys::seccomp::Program::to_bytes`]).
    Program(Vec<u8>),
}

/// What the security modules of the host call the command and its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLabels {
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux context of the process.
    pub selinux_process: Option<String>,
    /// SELinux context of its files.
    pub selinux_files: Option<String>,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxDevice {
    /// On the host, or a node that the zygote made in the store.
    pub source: String,
    /// Inside, absolute.
    pub target: String,
}

/// A program that connects a private network, and what it must not reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxHelper {
    /// The program.
    pub helper: Helper,
    /// Networks with the number of leading bits.
    pub refused: Vec<(IpAddr, u8)>,
}

/// Network of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxNetwork {
    /// Own namespace, connections passed on by kiln.
    Private,
    /// Own namespace, loopback only.
    None,
    /// The host's.
    Host,
}

/// A mount of a RUN.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxMount {
    /// Absolute path.
    pub target: String,
    /// What.
    pub source: SandboxSource,
    /// No writes.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum SandboxSource {
    /// A path in a stack of layers.
    Layers {
        /// Uppermost first, at least two when there is no upper.
        lowers: Vec<String>,
        /// Where discarded writes go.
        upper: Option<(String, String)>,
        /// Path inside.
        path: String,
    },
    /// A directory of the store (a cache mount).
    Directory {
        /// Relative to the store.
        path: String,
    },
    /// An empty tmpfs.
    Tmpfs {
        /// Size.
        size_bytes: Option<u64>,
    },
    /// A file of the host (an emulator).
    HostFile {
        /// Absolute.
        path: String,
    },
    /// A file on a tmpfs of its own (a secret, a script).
    File {
        /// Content.
        content: Vec<u8>,
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// A unix socket that kiln serves: the child makes the listening socket and sends it back.
    Socket {
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// What comes back over a command's own socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Report {
    /// Descriptors of the private network follow.
    Network {
        /// See [`crate::sandbox::net::Channels::direct`].
        direct: bool,
    },
    /// Why connections cannot be redirected here; empty when they can.
    Probed(String),
    /// Listening sockets of `Socket` mounts follow, in order.
    Sockets,
    /// What receives the calls that the filter hands over follows, and the sandbox's user namespace.
    Calls,
    /// kiln's end of the command's terminal follows.
    Terminal,
    /// Mount points that had to be made in the upper directory.
    MadeMountPoints(Vec<String>),
    /// Setting up failed; the command was not started.
    SetupFailed(SetupFailure),
    /// The command ended.
    Exited {
        /// Exit code, when it exited.
        code: Option<i32>,
        /// Signal, when it was killed.
        signal: Option<i32>,
        /// Limits that it met.
        #[serde(default)]
        hits: Hits,
    },
}

/// Why a command was not started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetupFailure {
    /// What was tried, e.g. `mount the root file system`.
    pub step: String,
    /// The system's answer.
    pub message: String,
    /// The command itself is to blame (not found, not executable), not the sandbox.
    pub user_error: bool,
    /// The exit code that a shell would give: 127 or 126; 1 otherwise.
    pub code: i32,
}
