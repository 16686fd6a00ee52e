//! Owners and devices that this user namespace cannot make, recorded on a node that stands for them.
//!
//! An ordinary user has the ids of /etc/subuid and may make no devices. What an image says beyond that is kept in the
//! attribute `user.containers.override_stat`, in the form that containers/storage has for it: `UID:GID:0MODE:TYPE`, where
//! TYPE is `file`, `dir`, `char-MAJOR-MINOR` or `block-MAJOR-MINOR`.
//!
//! | what cannot be made | what stands for it |
//! |---|---|
//! | a file or directory of an owner that is not mapped | the same, of [`Ids::nobody`] |
//! | a device | an empty regular file of root with the same mode; a group that a command gives it counts |
//! | a symlink or fifo of an owner that is not mapped | the same, of nobody; the owner is lost: these carry no such attribute (xattr(7)) |
//!
//! Invariants:
//! - with all ids mapped nothing is ever read or written here;
//! - a record counts only where it says what could not have been made: an id that is not mapped, on a node of nobody; a
//!   device, on an empty file of root. So a command without rights can forge neither set-id programs of a mapped user nor
//!   devices;
//! - the mode is that of the node: `chmod` works on it as on any other.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::sys::rootdir::proc_path;
use crate::sys::userns::{Extent, IdMap};
use crate::sys::xattr;

/// Name of the attribute.
pub const NAME: &[u8] = b"user.containers.override_stat";
/// What unmapped owners look like in a user namespace (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65534;

/// The ids of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    map: IdMap,
    whole: bool,
}

/// What became of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The node has it.
    Set,
    /// It is recorded.
    Recorded,
    /// The node belongs to nobody, and nothing says to whom it should.
    Lost,
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    uid: u32,
    gid: u32,
    mode: u32,
    kind: FileType,
    device: u64,
}

impl Ids {
    /// Ids of a map.
    pub fn new(map: IdMap) -> Self {
        let all = |extents: &[Extent]| {
            extents.iter().map(|e| u64::from(e.count)).sum::<u64>() >= u64::from(u32::MAX)
        };
        let whole = all(&map.uids) && all(&map.gids);
        Self { map, whole }
    }

    /// Those of this process. When they cannot be read, all: then failures are told where they happen.
    pub fn current() -> &'static Self {
        static CURRENT: OnceLock<Ids> = OnceLock::new();
        CURRENT.get_or_init(|| match IdMap::of_current_namespace() {
            Ok(map) => Self::new(map),
            Err(_) => Self { map: IdMap { uids: vec![], gids: vec![] }, whole: true },
        })
    }

    /// Whether there is an id for every number.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    fn has_uid(&self, uid: u32) -> bool {
        self.whole || has(&self.map.uids, uid)
    }

    fn has_gid(&self, gid: u32) -> bool {
        self.whole || has(&self.map.gids, gid)
    }

    /// The user and group that stand for all that are not mapped: 65534, as the kernel shows them, or root where there
    /// is no other id.
    pub fn nobody(&self) -> (u32, u32) {
        let stand_in = |extents: &[Extent]| if has(extents, NOBODY) { NOBODY } else { 0 };
        (stand_in(&self.map.uids), stand_in(&self.map.gids))
    }

    /// From this id on a change of owner may concern a record: the first that is not mapped, or nobody's.
    pub fn first_special(&self) -> u32 {
        let first = |extents: &[Extent], nobody: u32| {
            let mut extents: Vec<_> = extents.to_vec();
            extents.sort_unstable_by_key(|e| e.inside);
            let mut next = 0;
            for extent in extents {
                if extent.inside != next {
                    break;
                }
                next = extent.inside.saturating_add(extent.count);
            }
            next.min(nobody)
        };
        let (uid, gid) = self.nobody();
        first(&self.map.uids, uid).min(first(&self.map.gids, gid))
    }
}

fn has(extents: &[Extent], id: u32) -> bool {
    extents.iter().any(|e| id.checked_sub(e.inside).is_some_and(|n| n < e.count))
}

/// What a node counts as: `stat` with what its record says. `fd` may be `O_PATH`.
pub fn effective(fd: BorrowedFd<'_>, stat: Stat) -> io::Result<Stat> {
    effective_in(Ids::current(), fd, stat)
}

/// As [`effective`], of a name in a directory, which is opened only when it may have a record. Nothing is followed.
pub fn effective_at(dir: BorrowedFd<'_>, name: &std::ffi::OsStr, stat: Stat) -> io::Result<Stat> {
    let ids = Ids::current();
    if !may_have_record(ids, &stat) {
        return Ok(stat);
    }
    match fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => effective_in(ids, fd.as_fd(), stat),
        // Gone meanwhile: whoever opens it will say so.
        Err(Errno::NOENT) => Ok(stat),
        Err(e) => Err(e.into()),
    }
}

/// True for a node that [`effective`] has to look at.
fn may_have_record(ids: &Ids, stat: &Stat) -> bool {
    if ids.whole {
        return false;
    }
    let nobody = ids.nobody();
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            stat.st_uid == nobody.0 || stat.st_gid == nobody.1 || (stat.st_size == 0 && stat.st_uid == 0)
        }
        FileType::Directory => stat.st_uid == nobody.0 || stat.st_gid == nobody.1,
        _ => false,
    }
}

fn effective_in(ids: &Ids, fd: BorrowedFd<'_>, mut stat: Stat) -> io::Result<Stat> {
    if !may_have_record(ids, &stat) {
        return Ok(stat);
    }
    let Some(record) = xattr::get(fd, NAME)?.and_then(|value| Record::parse(&value)) else { return Ok(stat) };
    let (nobody, on_disk) = (ids.nobody(), (stat.st_uid, stat.st_gid));
    if record.is_device() {
        let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
        if is_file && stat.st_size == 0 && on_disk.0 == 0 {
            stat.st_mode = record.kind.as_raw_mode() | stat.st_mode & 0o7777;
            stat.st_rdev = record.device;
            stat.st_uid = record.uid;
            stat.st_gid = if on_disk.1 == 0 { record.gid } else { on_disk.1 };
        }
        return Ok(stat);
    }
    if on_disk.0 == nobody.0 && !ids.has_uid(record.uid) {
        stat.st_uid = record.uid;
    }
    if on_disk.1 == nobody.1 && !ids.has_gid(record.gid) {
        stat.st_gid = record.gid;
    }
    Ok(stat)
}

/// Gives a node its owner, or records it. `stat` is that of the node; `fd` may be `O_PATH`.
///
/// # Errors
/// Those of chown(2) and setxattr(2).
pub fn set_owner(fd: BorrowedFd<'_>, stat: &Stat, uid: u32, gid: u32) -> io::Result<Owner> {
    set_owner_in(Ids::current(), fd, stat, uid, gid)
}

/// As [`set_owner`], with the ids of a namespace that has the same numbers as this one, or fewer.
pub fn set_owner_in(ids: &Ids, fd: BorrowedFd<'_>, stat: &Stat, uid: u32, gid: u32) -> io::Result<Owner> {
    let (nobody, kind) = (ids.nobody(), FileType::from_raw_mode(stat.st_mode));
    if !ids.whole && kind.is_file() && stat.st_size == 0 && stat.st_uid == 0 {
        let record = xattr::get(fd, NAME)?.and_then(|value| Record::parse(&value)).filter(Record::is_device);
        if let Some(record) = record {
            fs::chownat(fd, "", Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::EMPTY_PATH)?;
            xattr::set(fd, NAME, &Record { uid, gid, ..record }.to_bytes())?;
            return Ok(Owner::Recorded);
        }
    }
    let (has_uid, has_gid) = (ids.has_uid(uid), ids.has_gid(gid));
    let (disk_uid, disk_gid) = (if has_uid { uid } else { nobody.0 }, if has_gid { gid } else { nobody.1 });
    // Also where the node has this owner already when that may stand for another one: a change takes set-id bits and
    // capabilities away (chown(2)).
    let plain = ids.whole || has_uid && has_gid && disk_uid != nobody.0 && disk_gid != nobody.1;
    if !plain || (stat.st_uid, stat.st_gid) != (disk_uid, disk_gid) {
        let owner = (Some(Uid::from_raw(disk_uid)), Some(Gid::from_raw(disk_gid)));
        fs::chownat(fd, "", owner.0, owner.1, AtFlags::EMPTY_PATH)?;
    }
    let carries = matches!(kind, FileType::RegularFile | FileType::Directory);
    if has_uid && has_gid {
        // An old record would speak for nobody's node again.
        if carries && !ids.whole && (disk_uid == nobody.0 || disk_gid == nobody.1) {
            xattr::remove(fd, NAME)?;
        }
        return Ok(Owner::Set);
    }
    if !carries {
        return Ok(Owner::Lost);
    }
    let record = Record { uid, gid, mode: stat.st_mode & 0o7777, kind, device: 0 };
    xattr::set(fd, NAME, &record.to_bytes())?;
    Ok(Owner::Recorded)
}

/// Makes of an empty regular file the stand-in of a device; its owner is that of the file. It counts as long as the file
/// belongs to user 0 and stays empty.
pub fn record_device(fd: BorrowedFd<'_>, kind: FileType, device: u64) -> io::Result<()> {
    let stat = fs::stat(proc_path(fd).as_str())?;
    let (uid, gid, mode) = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
    xattr::set(fd, NAME, &Record { uid, gid, mode, kind, device }.to_bytes())
}

impl Record {
    fn is_device(&self) -> bool {
        matches!(self.kind, FileType::CharacterDevice | FileType::BlockDevice)
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let (uid, gid) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
        let mut words = parts.next().unwrap_or("file").split('-');
        let kind = match words.next()? {
            "char" => FileType::CharacterDevice,
            "block" => FileType::BlockDevice,
            "dir" => FileType::Directory,
            "file" => FileType::RegularFile,
            _ => return None,
        };
        let mut device = 0;
        if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            device = fs::makedev(words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        }
        (parts.next().is_none() && words.next().is_none()).then_some(Self { uid, gid, mode, kind, device })
    }

    fn to_bytes(self) -> Vec<u8> {
        let Self { uid, gid, mode, device, .. } = self;
        let (major, minor) = (fs::major(device), fs::minor(device));
        let kind = match self.kind {
            FileType::CharacterDevice => format!("char-{major}-{minor}"),
            FileType::BlockDevice => format!("block-{major}-{minor}"),
            FileType::Directory => "dir".to_owned(),
            _ => "file".to_owned(),
        };
        format!("{uid}:{gid}:0{mode:o}:{kind}").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    fn ids(ranges: &[(u32, u32)]) -> Ids {
        let extents: Vec<Extent> = ranges
            .iter()
            .map(|(inside, count)| Extent { inside: *inside, outside: 1000, count: *count })
            .collect();
        Ids::new(IdMap { uids: extents.clone(), gids: extents })
    }

    #[test]
    fn records_round_trip() {
        let device = fs::makedev(8, 17);
        for (kind, device, text) in [
            (FileType::RegularFile, 0, "3000000:5:0640:file"),
            (FileType::Directory, 0, "3000000:5:0640:dir"),
            (FileType::CharacterDevice, device, "3000000:5:0640:char-8-17"),
            (FileType::BlockDevice, device, "3000000:5:0640:block-8-17"),
        ] {
            let record = Record { uid: 3_000_000, gid: 5, mode: 0o640, kind, device };
            assert_eq!(String::from_utf8(record.to_bytes()).unwrap(), text);
            assert_eq!(Record::parse(text.as_bytes()), Some(record));
        }
        // What containers/storage wrote before it knew types.
        assert_eq!(
            Record::parse(b"1:2:0755").map(|r| (r.uid, r.gid, r.kind)),
            Some((1, 2, FileType::RegularFile))
        );
        for bad in [
            "",
            "1",
            "1:2",
            "1:2:9",
            "x:2:0",
            "1:2:0:pipe",
            "1:2:0:char-1",
            "1:2:0:file:x",
            "1:2:0:char-1-2-3",
            "-1:2:0",
        ] {
            assert_eq!(Record::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn ids_of_a_map() {
        let usual = ids(&[(0, 1), (1, 65536)]);
        assert_eq!((usual.nobody(), usual.first_special(), usual.is_whole()), ((65534, 65534), 65534, false));
        assert!(usual.has_uid(65536) && !usual.has_uid(65537));
        let single = ids(&[(0, 1)]);
        assert_eq!((single.nobody(), single.first_special()), ((0, 0), 0));
        let few = ids(&[(0, 1), (1, 999)]);
        assert_eq!((few.nobody(), few.first_special()), ((0, 0), 0));
        assert!(ids(&[(0, u32::MAX)]).is_whole());
        assert_eq!(ids(&[(0, 1000), (65534, 1)]).first_special(), 1000);
    }

    /// A file with a record, as `look` shows it to a user with the usual ids.
    fn file(dir: &tempfile::TempDir, name: &str, record: &str, content: &str) -> Option<OwnedFd> {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let fd = fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        match xattr::set(fd.as_fd(), NAME, record.as_bytes()) {
            Ok(()) => Some(fd),
            Err(e) => {
                eprintln!("SKIPPED: the temporary directory has no user attributes: {e}");
                None
            }
        }
    }

    fn shown(fd: &OwnedFd, owner: (u32, u32)) -> Stat {
        let mut stat = fs::fstat(fd).unwrap();
        (stat.st_uid, stat.st_gid) = owner;
        effective_in(&ids(&[(0, 1), (1, 65536)]), fd.as_fd(), stat).unwrap()
    }

    #[test]
    fn a_record_speaks_for_nobodys_node_only() {
        let dir = tempfile::tempdir().unwrap();
        let Some(fd) = file(&dir, "f", "3000000:4000000:0644:file", "x") else { return };
        let of = |owner| {
            let stat = shown(&fd, owner);
            (stat.st_uid, stat.st_gid)
        };
        assert_eq!(of((65534, 65534)), (3_000_000, 4_000_000));
        assert_eq!(of((65534, 7)), (3_000_000, 7));
        assert_eq!(of((0, 0)), (0, 0));
        // Ids that could have been set are no business of a record's: who owns the file could write it.
        let Some(fd) = file(&dir, "forged", "0:0:4755:file", "x") else { return };
        let stat = shown(&fd, (65534, 65534));
        assert_eq!((stat.st_uid, stat.st_gid, stat.st_mode & 0o7000), (65534, 65534, 0));
    }

    #[test]
    fn a_device_is_an_empty_file_of_root() {
        let dir = tempfile::tempdir().unwrap();
        let Some(empty) = file(&dir, "null", "0:5:0666:char-1-3", "") else { return };
        let stat = shown(&empty, (0, 5));
        assert!(FileType::from_raw_mode(stat.st_mode).is_char_device());
        assert_eq!((stat.st_rdev, stat.st_gid), (fs::makedev(1, 3), 5));
        for owner in [(65534, 65534), (1000, 1000)] {
            assert!(FileType::from_raw_mode(shown(&empty, owner).st_mode).is_file());
        }
        let Some(full) = file(&dir, "full", "0:0:0666:block-8-0", "x") else { return };
        assert!(FileType::from_raw_mode(shown(&full, (0, 0)).st_mode).is_file());
    }

    #[test]
    fn with_all_ids_nothing_is_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let Some(fd) = file(&dir, "f", "3000000:4000000:0644:char-1-3", "") else { return };
        let mut stat = fs::fstat(&fd).unwrap();
        (stat.st_uid, stat.st_gid) = (0, 65534);
        let shown = effective_in(&ids(&[(0, u32::MAX)]), fd.as_fd(), stat).unwrap();
        assert_eq!((shown.st_uid, shown.st_gid, shown.st_mode), (0, 65534, stat.st_mode));
    }
}
