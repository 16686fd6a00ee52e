//! Which extended attributes a layer carries, and in which form.
//!
//! | attribute | carried | why |
//! |---|---|---|
//! | `security.capability` | yes, as version 2 | part of what a program may do; version 3 names a user of this machine |
//! | `user.*` | yes | belongs to the file (BuildKit drops it: semantics fact 83; umoci keeps it: fact 122) |
//! | `user.overlay.*` | no | overlayfs' own notes about a directory |
//! | `user.containers.override_stat` | no | a note of what could not be made on this machine; the entry itself says it |
//! | `trusted.*`, `system.*`, other `security.*` | no | labels, ACLs and notes of the machine that made the layer |
//! | names with `=` | no | a PAX record cannot hold them |
//!
//! Invariants: the same table serves reading and writing, so what a layer brings in it also takes out.

/// The attribute with owners and devices that could not be made (`sys::override_stat`).
const OVERRIDE_STAT: &[u8] = b"user.containers.override_stat";
/// The attribute with a program's capabilities.
pub const CAPABILITY: &[u8] = b"security.capability";

const VERSION_MASK: u32 = 0xff00_0000;
const VERSION_2: u32 = 0x0200_0000;
const VERSION_3: u32 = 0x0300_0000;
const VERSION_3_LEN: usize = 24;
const VERSION_2_LEN: usize = 20;

/// True when a layer carries the attribute.
pub fn is_carried(name: &[u8]) -> bool {
    if name.contains(&b'=') || name.contains(&0) {
        return false;
    }
    name == CAPABILITY
        || (name.starts_with(b"user.")
            && name.len() > 5
            && !name.starts_with(b"user.overlay.")
            && name != OVERRIDE_STAT)
}

/// The form in which a layer carries an attribute's value: capabilities that belong to user 0 of a namespace
/// (version 3 with root id 0, `linux/capability.h`) lose the root id. Everything else stays as it is.
pub fn canonical_value(name: &[u8], value: Vec<u8>) -> Vec<u8> {
    if name != CAPABILITY || value.len() != VERSION_3_LEN {
        return value;
    }
    let word = |at: usize| -> u32 {
        value.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let magic = word(0);
    if magic & VERSION_MASK != VERSION_3 || word(VERSION_2_LEN) != 0 {
        return value;
    }
    let mut converted = ((magic & !VERSION_MASK) | VERSION_2).to_le_bytes().to_vec();
    converted.extend_from_slice(value.get(4..VERSION_2_LEN).unwrap_or_default());
    converted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds() {
        for yes in [&b"security.capability"[..], b"user.a", b"user.overlayed"] {
            assert!(is_carried(yes), "{}", String::from_utf8_lossy(yes));
        }
        for no in [
            &b"security.selinux"[..],
            b"user.",
            b"user.overlay.opaque",
            OVERRIDE_STAT,
            b"trusted.overlay.opaque",
            b"system.posix_acl_access",
            b"user.a=b",
        ] {
            assert!(!is_carried(no), "{}", String::from_utf8_lossy(no));
        }
    }

    #[test]
    fn capabilities_of_root_become_version_2() {
        let body = [0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let v3 = |root: u8| [&[1, 0, 0, 3][..], &body, &[root, 0, 0, 0]].concat();
        let v2 = [&[1, 0, 0, 2][..], &body].concat();
        assert_eq!(canonical_value(CAPABILITY, v3(0)), v2);
        assert_eq!(canonical_value(CAPABILITY, v3(7)), v3(7));
        assert_eq!(canonical_value(CAPABILITY, v2.clone()), v2);
        assert_eq!(canonical_value(b"user.x", v3(0)), v3(0));
        assert_eq!(canonical_value(CAPABILITY, vec![0; 24]), vec![0; 24]);
    }
}
