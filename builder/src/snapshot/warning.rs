//! What could not be carried over exactly between a tree and a layer, without being an error.
//!
//! Invariants: the list is bounded; what does not fit is counted.

use crate::layer::tar::Device;

/// Most warnings that are kept from one operation.
const MAX_KEPT: usize = 100;

/// One thing that was left out. The text is for people; the path is shown with replaced bytes.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Warning {
    #[error("device `{path}` is left out: making devices is not permitted here")]
    DeviceNotPermitted { path: String },
    #[error(
        "device `{path}` is left out: overlayfs takes the number {}:{} for a deleted file",
        device.major, device.minor
    )]
    WhiteoutDevice { path: String, device: Device },
    #[error("extended attribute `{name}` of `{path}` is left out: {reason}")]
    Attribute { path: String, name: String, reason: String },
    #[error("owner {uid}:{gid} of `{path}` is left out: these ids are not mapped here")]
    Owner { path: String, uid: u32, gid: u32 },
    #[error("socket `{path}` is left out: a layer cannot hold sockets")]
    Socket { path: String },
}

/// Warnings of one operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Warnings {
    /// The first ones.
    pub kept: Vec<Warning>,
    /// How many more there were.
    pub dropped: u64,
}

impl Warnings {
    pub(super) fn add(&mut self, warning: Warning) {
        if self.kept.len() < MAX_KEPT {
            self.kept.push(warning);
        } else {
            self.dropped += 1;
        }
    }
}

pub(super) fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
