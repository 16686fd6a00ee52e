//! Users and groups of an image: what `--chown`, WORKDIR and RUN mean by a name or a number.
//!
//! Invariants:
//! - `/etc/passwd` and `/etc/group` are read inside the image's root, only as regular files and only up to
//!   [`MAX_FILE_BYTES`]; the host's are never looked at;
//! - malformed lines are skipped, the first matching line counts;
//! - `--chown` and RUN read the same files by different rules: facts 22-23 there, 38-41 here.

use std::io;

use rustix::io::Errno;

use crate::sys::error::FsError;
use crate::sys::rootdir::RootDir;

/// Largest passwd or group file that is read (semantics fact 23).
pub const MAX_FILE_BYTES: u64 = 10 * 1024 * 1024;

/// Why a user or group is not known.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// No such user.
    #[error("unable to find user `{name}`: no matching entries in passwd file")]
    UnknownUser {
        /// As written.
        name: String,
    },
    /// The image has no passwd file at all.
    #[error("unable to find user `{name}`: there is no /etc/passwd in this file system")]
    NoPasswd {
        /// As written.
        name: String,
    },
    /// No such group.
    #[error("unable to find group `{name}`: no matching entries in group file")]
    UnknownGroup {
        /// As written.
        name: String,
    },
    /// The image has no group file at all.
    #[error("unable to find group `{name}`: there is no /etc/group in this file system")]
    NoGroup {
        /// As written.
        name: String,
    },
    /// A number that is no id.
    #[error("user or group id `{0}` is out of range, the largest is 4294967294")]
    Range(String),
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FsError),
}

/// Who a RUN is executed as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups; the primary group is among them (semantics fact 39).
    pub supplementary: Vec<u32>,
    /// Home directory of the passwd entry, when there is one.
    pub home: Option<String>,
    /// Name of the passwd entry, when there is one.
    pub name: Option<String>,
}

/// Owner and group for `--chown=USER[:GROUP]` (semantics facts 22 and 23). A number alone is user and group; a
/// name alone brings its primary group; `root` needs no passwd file. Unlike BuildKit, which takes 0 for what it
/// does not find, an unknown name is an error.
pub fn resolve_chown(root: &RootDir, spec: &str) -> Result<(u32, u32), OwnerError> {
    let (user, group) = split(spec);
    let (uid, primary) = match literal_id(user)? {
        Some(uid) => (uid, uid),
        None => {
            let users = users(root)?.ok_or_else(|| OwnerError::NoPasswd { name: user.to_owned() })?;
            let found = users.into_iter().find(|entry| entry.name == user.as_bytes());
            let found = found.ok_or_else(|| OwnerError::UnknownUser { name: user.to_owned() })?;
            (found.uid, found.gid)
        }
    };
    let Some(group) = group else { return Ok((uid, primary)) };
    let gid = match literal_id(group)? {
        Some(gid) => gid,
        None => {
            let groups = groups(root)?.ok_or_else(|| OwnerError::NoGroup { name: group.to_owned() })?;
            let found = groups.into_iter().find(|entry| entry.name == group.as_bytes());
            found.ok_or_else(|| OwnerError::UnknownGroup { name: group.to_owned() })?.gid
        }
    };
    Ok((uid, gid))
}

/// The identity of a RUN under `USER[:GROUP]`; an empty text is `0` (semantics facts 38-41).
pub fn resolve_user(root: &RootDir, spec: &str) -> Result<ResolvedUser, OwnerError> {
    let (user, group) = split(spec);
    let user = if user.is_empty() { "0" } else { user };
    let group = group.filter(|group| !group.is_empty());
    let user_number = number(user)?;
    let group_number = group.map(number).transpose()?.flatten();
    let both = group.map(|group| Ok::<_, OwnerError>((literal_id(user)?, literal_id(group)?))).transpose()?;
    if let Some((Some(uid), Some(gid))) = both {
        // Both are numbers (or root): no group is looked up; HOME still comes from the passwd entry.
        let entry = users(root)?.and_then(|users| users.into_iter().find(|entry| entry.uid == uid));
        return Ok(identity(uid, gid, Vec::new(), entry));
    }
    let all = users(root)?;
    let missing = all.is_none();
    let entry = all.unwrap_or_default().into_iter().find(|entry| match user_number {
        Some(uid) => entry.uid == uid,
        None => entry.name == user.as_bytes(),
    });
    let (uid, primary) = match (&entry, user_number) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) if missing => return Err(OwnerError::NoPasswd { name: user.to_owned() }),
        (None, None) => return Err(OwnerError::UnknownUser { name: user.to_owned() }),
    };
    if let Some(group) = group {
        let gid = match group_number {
            Some(gid) => gid,
            None => {
                let groups = groups(root)?.ok_or_else(|| OwnerError::NoGroup { name: group.to_owned() })?;
                let found = groups.into_iter().find(|entry| entry.name == group.as_bytes());
                found.ok_or_else(|| OwnerError::UnknownGroup { name: group.to_owned() })?.gid
            }
        };
        return Ok(identity(uid, gid, Vec::new(), entry));
    }
    let supplementary = match &entry {
        None => Vec::new(),
        Some(entry) => {
            let groups = groups(root)?.unwrap_or_default().into_iter();
            groups.filter(|group| group.members.contains(&entry.name)).map(|group| group.gid).collect()
        }
    };
    Ok(identity(uid, primary, supplementary, entry))
}

fn identity(uid: u32, gid: u32, mut supplementary: Vec<u32>, entry: Option<User>) -> ResolvedUser {
    if !supplementary.contains(&gid) {
        supplementary.insert(0, gid);
    }
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).ok().filter(|text| !text.is_empty());
    let (name, home) = entry.map_or((None, None), |entry| (text(entry.name), text(entry.home)));
    ResolvedUser { uid, gid, supplementary, home, name }
}

struct User {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: Vec<u8>,
}

struct Group {
    name: Vec<u8>,
    gid: u32,
    members: Vec<Vec<u8>>,
}

fn split(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    }
}

/// The id that a part of `--chown` states without any file: a number, or `root`, or nothing at all.
fn literal_id(text: &str) -> Result<Option<u32>, OwnerError> {
    if text.is_empty() || text == "root" { Ok(Some(0)) } else { number(text) }
}

/// The id when `text` is all digits.
fn number(text: &str) -> Result<Option<u32>, OwnerError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    // The largest number means "no change" to chown(2).
    let id = text.parse().ok().filter(|id| *id != u32::MAX);
    id.map(Some).ok_or_else(|| OwnerError::Range(text.to_owned()))
}

fn users(root: &RootDir) -> Result<Option<Vec<User>>, OwnerError> {
    let Some(bytes) = read(root, b"/etc/passwd")? else { return Ok(None) };
    Ok(Some(lines(&bytes).filter_map(parse_user).collect()))
}

fn groups(root: &RootDir) -> Result<Option<Vec<Group>>, OwnerError> {
    let Some(bytes) = read(root, b"/etc/group")? else { return Ok(None) };
    Ok(Some(lines(&bytes).filter_map(parse_group).collect()))
}

/// A bounded file; what is no regular file counts as absent.
fn read(root: &RootDir, path: &[u8]) -> Result<Option<Vec<u8>>, OwnerError> {
    match root.read_file(path, MAX_FILE_BYTES) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(e) if e.source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

/// `name:password:uid:gid:gecos:home:shell`, passwd(5).
fn parse_user(line: &[u8]) -> Option<User> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
    let name = fields.first()?.to_vec();
    let uid = parse_id(fields.get(2)?)?;
    let gid = parse_id(fields.get(3)?)?;
    let home = fields.get(5).map(|home| home.to_vec()).unwrap_or_default();
    Some(User { name, uid, gid, home })
}

/// `name:password:gid:member,member`, group(5).
fn parse_group(line: &[u8]) -> Option<Group> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
    let name = fields.first()?.to_vec();
    let gid = parse_id(fields.get(2)?)?;
    let members = fields.get(3).copied().unwrap_or_default().split(|b| *b == b',').map(<[u8]>::to_vec);
    Some(Group { name, gid, members: members.filter(|member| !member.is_empty()).collect() })
}

fn parse_id(field: &[u8]) -> Option<u32> {
    number(std::str::from_utf8(field).ok()?).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn image(passwd: &str, group: &str) -> (tempfile::TempDir, RootDir) {
        let host = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(host.path().join("root/etc")).unwrap();
        std::fs::write(host.path().join("root/etc/passwd"), passwd).unwrap();
        std::fs::write(host.path().join("root/etc/group"), group).unwrap();
        let root = RootDir::open(&host.path().join("root")).unwrap();
        (host, root)
    }

    fn usual() -> (tempfile::TempDir, RootDir) {
        image(
            "root:x:0:0:root:/root:/bin/sh\n\nbad line\nodd:x:one:2::/:\n  app:x:1001:1002:App:/home/app:/bin/sh\n\
             bare:x:7:8\n",
            "root:x:0:\nwheel:x:10:root,app\napp:x:1002:\nextra:x:2001:other,app\nstaff:x:2002:app\nopen:x:3\n",
        )
    }

    #[test]
    fn fact_22_chown_numbers_and_names() {
        let (_host, root) = usual();
        for (spec, expected) in [
            ("4321", (4321, 4321)),
            ("app", (1001, 1002)),
            ("app:extra", (1001, 2001)),
            ("app:77", (1001, 77)),
            ("88:staff", (88, 2002)),
            ("88:99", (88, 99)),
            ("root", (0, 0)),
            ("bare", (7, 8)),
            ("4294967294", (4_294_967_294, 4_294_967_294)),
        ] {
            assert_eq!(resolve_chown(&root, spec).unwrap(), expected, "{spec}");
        }
        for spec in ["ghost", "app:ghost", "odd"] {
            let error = resolve_chown(&root, spec).unwrap_err().to_string();
            assert!(error.contains(spec.rsplit(':').next().unwrap()), "{error}");
        }
        for spec in ["4294967295", "99999999999:1", "1:4294967296"] {
            assert!(matches!(resolve_chown(&root, spec), Err(OwnerError::Range(_))), "{spec}");
        }
    }

    #[test]
    fn fact_22_chown_without_files() {
        let host = tempfile::tempdir().unwrap();
        let root = RootDir::open(host.path()).unwrap();
        assert_eq!(resolve_chown(&root, "12:34").unwrap(), (12, 34));
        assert_eq!(resolve_chown(&root, "root:root").unwrap(), (0, 0));
        let error = resolve_chown(&root, "app").unwrap_err().to_string();
        assert!(error.contains("app") && error.contains("/etc/passwd"), "{error}");
        assert!(matches!(resolve_chown(&root, "1:app"), Err(OwnerError::NoGroup { .. })));
    }

    #[test]
    fn fact_23_files_are_read_inside_the_root_and_bounded() {
        let (host, root) = usual();
        std::fs::write(host.path().join("hostpasswd"), "hostonly:x:4444:4444::/:/bin/sh\n").unwrap();
        let passwd = host.path().join("root/etc/passwd");
        std::fs::remove_file(&passwd).unwrap();
        symlink(host.path().join("hostpasswd"), &passwd).unwrap();
        assert!(matches!(resolve_chown(&root, "hostonly"), Err(OwnerError::NoPasswd { .. })));
        assert!(matches!(resolve_user(&root, "hostonly"), Err(OwnerError::NoPasswd { .. })));

        std::fs::write(host.path().join("root/elsewhere"), "inside:x:5:6::/:/bin/sh\n").unwrap();
        std::fs::remove_file(&passwd).unwrap();
        symlink("../elsewhere", &passwd).unwrap();
        assert_eq!(resolve_chown(&root, "inside").unwrap(), (5, 6));

        std::fs::remove_file(&passwd).unwrap();
        std::fs::create_dir(&passwd).unwrap();
        assert!(matches!(resolve_chown(&root, "inside"), Err(OwnerError::NoPasswd { .. })));

        std::fs::remove_dir(&passwd).unwrap();
        std::fs::File::create(&passwd).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(matches!(resolve_chown(&root, "inside"), Err(OwnerError::File(_))));
    }

    #[test]
    fn facts_38_and_39_identity_of_a_run() {
        let (_host, root) = usual();
        let who = |spec: &str| {
            let user = resolve_user(&root, spec).unwrap();
            (user.uid, user.gid, user.supplementary, user.home)
        };
        let home = |path: &str| Some(path.to_owned());
        // No USER is root, with root's supplementary groups; the primary group goes first.
        assert_eq!(who(""), (0, 0, vec![0, 10], home("/root")));
        assert_eq!(who("root"), who(""));
        assert_eq!(who("app"), (1001, 1002, vec![1002, 10, 2001, 2002], home("/home/app")));
        // A number with an entry is like its name; both numbers bring no supplementary groups.
        assert_eq!(who("1001"), who("app"));
        assert_eq!(who("1001:1001"), (1001, 1001, vec![1001], home("/home/app")));
        assert_eq!(who("app:staff"), (1001, 2002, vec![2002], home("/home/app")));
        assert_eq!(who("app:77"), (1001, 77, vec![77], home("/home/app")));
        // A number without an entry: group 0.
        assert_eq!(who("4242"), (4242, 0, vec![0], None));
        assert_eq!(who("4242:staff"), (4242, 2002, vec![2002], None));
        assert_eq!(resolve_user(&root, "app").unwrap().name.as_deref(), Some("app"));
    }

    #[test]
    fn fact_40_unknown_names_of_a_run_are_errors() {
        let (_host, root) = usual();
        let text = |spec: &str| resolve_user(&root, spec).unwrap_err().to_string();
        assert_eq!(text("ghost"), "unable to find user `ghost`: no matching entries in passwd file");
        assert_eq!(text("app:ghosts"), "unable to find group `ghosts`: no matching entries in group file");
        assert!(matches!(resolve_user(&root, "99999999999"), Err(OwnerError::Range(_))));
    }

    #[test]
    fn a_file_system_without_files_knows_numbers() {
        let host = tempfile::tempdir().unwrap();
        let root = RootDir::open(host.path()).unwrap();
        let user = resolve_user(&root, "").unwrap();
        assert_eq!((user.uid, user.gid, user.supplementary), (0, 0, vec![0]));
        assert_eq!(resolve_user(&root, "5").unwrap().gid, 0);
        assert_eq!(resolve_user(&root, "root:root").unwrap().uid, 0);
        assert!(resolve_user(&root, "root").is_err());
    }
}
