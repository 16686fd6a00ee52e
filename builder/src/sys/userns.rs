//! User namespaces and id maps.
//!
//! Invariants: no map ever contains host id 0 unless the caller is an unprivileged user mapping its own id, or the
//! process is inside a user namespace already (where 0 is not the host's root).

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Gid, Pid, Uid};
use rustix::thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

/// One line of an id map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Maps of users and groups.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IdMap {
    /// Users.
    pub uids: Vec<Extent>,
    /// Groups.
    pub gids: Vec<Extent>,
}

/// Where root's containers live by default: the upper half of the id space, which no directory service and no
/// /etc/subuid hands out. Ids from 2^31 on, which almost nothing uses, go to 2^20 and up; the last million ids
/// has no mapping, so that host ids below 2^20 (real users, root first of all) can never be reached.
const HALF: u32 = 1 << 31;
const RESERVED: u32 = 1 << 20;

/// A range for containers of root in /etc/subuid is used when it has at least as many ids as a container expects.
const ENOUGH: u32 = 65_536;

/// Where subordinate ids begin by default (login.defs(5), `SUB_UID_MIN`).
const FIRST_SUBORDINATE: u32 = 100_000;

impl IdMap {
    /// The map for sandboxes of a kiln that runs as real root: the first ids go to root's range of /etc/subuid and
    /// /etc/subgid where the administrator has set one aside, all others to [`HALF`] and up.
    pub fn for_root() -> Self {
        let range = |file: &str| {
            let ranges = subordinate(Path::new(file), "root", 0).unwrap_or_default();
            ranges.into_iter().find(|(start, count)| is_apart(*start, *count))
        };
        Self { uids: extents(range("/etc/subuid")), gids: extents(range("/etc/subgid")) }
    }

    /// The same ids again, for a namespace inside the current one.
    pub fn of_current_namespace() -> io::Result<Self> {
        let read = |path: &str| -> io::Result<Vec<Extent>> {
            let text = fs::read_to_string(path)?;
            let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("cannot read {path}"));
            text.lines()
                .map(|line| {
                    let numbers: Vec<u32> = line
                        .split_whitespace()
                        .map(str::parse)
                        .collect::<Result<_, _>>()
                        .map_err(|_| malformed())?;
                    match numbers[..] {
                        [inside, _, count] => Ok(Extent { inside, outside: inside, count }),
                        _ => Err(malformed()),
                    }
                })
                .collect()
        };
        Ok(Self { uids: read("/proc/self/uid_map")?, gids: read("/proc/self/gid_map")? })
    }

    /// How many user ids exist inside.
    pub fn uid_count(&self) -> u64 {
        self.uids.iter().map(|e| u64::from(e.count)).sum()
    }

    /// Writes the maps of a process that has just entered a new user namespace.
    pub fn write_for(&self, pid: Pid) -> io::Result<()> {
        let text = |extents: &[Extent]| {
            extents.iter().map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count)).collect::<String>()
        };
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        fs::write(proc.join("uid_map"), text(&self.uids))?;
        fs::write(proc.join("gid_map"), text(&self.gids))
    }
}

/// Whether a range is large enough and ends below what kiln uses by itself.
fn is_apart(start: u32, count: u32) -> bool {
    count >= ENOUGH
        && start.checked_add(count).is_some_and(|end| end <= RESERVED || (start >= RESERVED && end <= HALF))
}

/// One extent for each part of the id space, the first ids in `range` when there is one.
fn extents(range: Option<(u32, u32)>) -> Vec<Extent> {
    let first = range.map_or(0, |(_, count)| count);
    let mut extents: Vec<Extent> =
        range.iter().map(|(start, count)| Extent { inside: 0, outside: *start, count: *count }).collect();
    extents.push(Extent { inside: first, outside: HALF + first, count: HALF - 1 - first });
    // What the upper half of the ids goes to must not meet the range.
    let upper = Extent { inside: HALF + RESERVED, outside: RESERVED, count: HALF - RESERVED - 1 };
    match range.filter(|(start, _)| *start >= RESERVED) {
        None => extents.push(upper),
        Some((start, count)) => {
            let shifted = |outside: u32| HALF + outside;
            let below = Extent { count: start - RESERVED, ..upper };
            let end = start + count;
            let above = Extent { inside: shifted(end), outside: end, count: HALF - 1 - end };
            extents.extend([below, above].into_iter().filter(|extent| extent.count > 0));
        }
    }
    extents
}

/// Sets user and group of this single-threaded process to 0, and no supplementary groups where that is allowed.
pub fn become_root_inside() -> io::Result<()> {
    // Denied where setgroups is disabled (single-id maps); the groups then stay as they are.
    let _ = set_thread_groups(&[]);
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(())
}

/// How an unprivileged process got its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// Through newuidmap and newgidmap.
    SubordinateIds,
    /// Only its own id.
    SingleId(NoSubordinateIds),
}

/// Why a process has no subordinate ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSubordinateIds {
    /// /etc/subuid or /etc/subgid has no line for the user.
    NoRange,
    /// newuidmap or newgidmap is not there, or refused.
    NoHelper,
}

/// Why an unprivileged process could not enter a user namespace.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EnterError {
    #[error("this system does not let unprivileged users make user namespaces")]
    Unshare(#[source] io::Error),
    #[error("cannot set up the ids of the user namespace")]
    Map(#[source] io::Error),
    #[error("this system does not let kiln make the namespaces of a command")]
    Inner(#[source] io::Error),
}

/// Makes the namespaces of a command once, with its ids, and ends them again. Must be called in a single-threaded process.
///
/// # Errors
/// When the kernel refuses.
pub fn try_namespaces(map: &IdMap) -> Result<(), EnterError> {
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let said = run_inside(map, namespaces, String::new).map_err(EnterError::Inner)?;
    if said.is_empty() { Ok(()) } else { Err(EnterError::Inner(io::Error::other(said))) }
}

/// Moves this single-threaded, unprivileged process into a user and mount namespace of its own, as root inside.
///
/// # Errors
/// When the kernel refuses the namespace or the map.
pub fn enter() -> Result<Entered, EnterError> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let user = user_name(uid);
    let uids = subordinate(Path::new("/etc/subuid"), &user, uid.as_raw());
    let gids = subordinate(Path::new("/etc/subgid"), &user, uid.as_raw());
    let ranges = uids.zip(gids);
    // The helpers must run outside the new namespace, so a child waits there until this process has entered it.
    let pid = rustix::process::getpid().as_raw_nonzero().get().to_string();
    let mut helper = match &ranges {
        Some((uids, gids)) => Some(
            MapHelper::start(&pid, (uid.as_raw(), uids), (gid.as_raw(), gids)).map_err(EnterError::Map)?,
        ),
        None => None,
    };
    #[allow(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
        .map_err(|e| EnterError::Unshare(e.into()))?;
    let mut entered = Entered::SingleId(match &ranges {
        None => NoSubordinateIds::NoRange,
        Some(_) => NoSubordinateIds::NoHelper,
    });
    if let Some(helper) = helper.take()
        && helper.finish().map_err(EnterError::Map)?
    {
        entered = Entered::SubordinateIds;
    }
    if let Entered::SingleId(_) = entered {
        let single = || -> io::Result<()> {
            fs::write("/proc/self/setgroups", "deny")?;
            fs::write("/proc/self/uid_map", format!("0 {} 1\n", uid.as_raw()))?;
            fs::write("/proc/self/gid_map", format!("0 {} 1\n", gid.as_raw()))
        };
        single().map_err(EnterError::Map)?;
    }
    become_root_inside().map_err(EnterError::Map)?;
    Ok(entered)
}

/// Moves this single-threaded process into a mount namespace that belongs to the current user namespace: where somebody
/// else made the latter (`unshare -U`) there may be none, and then nothing can be mounted.
pub fn enter_mount_namespace() -> io::Result<()> {
    #[allow(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWNS)?;
    Ok(())
}

/// Moves this process into a cgroup namespace that begins at the group it is in.
pub fn enter_cgroup_namespace() -> io::Result<()> {
    #[allow(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWCGROUP)?;
    Ok(())
}

/// A shell that waits for a line on its standard input and then runs newuidmap and newgidmap.
struct MapHelper(std::process::Child);

impl MapHelper {
    fn start(pid: &str, uids: (u32, &[(u32, u32)]), gids: (u32, &[(u32, u32)])) -> io::Result<Self> {
        let arguments = |(own, ranges): (u32, &[(u32, u32)])| {
            let mut text = format!("{pid} 0 {own} 1");
            let mut inside = 1u32;
            for (start, count) in ranges {
                text.push_str(&format!(" {inside} {start} {count}"));
                inside = inside.saturating_add(*count);
            }
            text
        };
        // Only numbers go into the script. Without both helpers no map must be written, for it could not be replaced.
        let script = format!(
            "read go && command -v newuidmap && command -v newgidmap && newuidmap {} && newgidmap {}",
            arguments(uids),
            arguments(gids)
        );
        let child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// Lets the helper go; true when both maps are written.
    fn finish(mut self) -> io::Result<bool> {
        use std::io::Write as _;
        if let Some(mut stdin) = self.0.stdin.take() {
            stdin.write_all(b"go\n")?;
        }
        Ok(self.0.wait()?.success())
    }
}

fn user_name(uid: Uid) -> String {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.as_raw().to_string();
    text.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then(|| name.to_owned())
        })
        .unwrap_or(number)
}

/// Ranges (first, count) of a user in /etc/subuid or /etc/subgid.
fn subordinate(file: &Path, user: &str, uid: u32) -> Option<Vec<(u32, u32)>> {
    let text = fs::read_to_string(file).ok()?;
    let ranges = parse_subordinate(&text, user, uid);
    (!ranges.is_empty()).then_some(ranges)
}

/// The first id of a range of [`ENOUGH`] ids that nobody has in /etc/subuid or /etc/subgid; `None` where there is no room.
pub fn free_range() -> Option<u32> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    free_in(&format!("{}\n{}", read("/etc/subuid"), read("/etc/subgid")))
}

fn free_in(text: &str) -> Option<u32> {
    let numbers = |line: &str| {
        let mut fields = line.trim().split(':').skip(1).map(str::parse::<u32>);
        Some((fields.next()?.ok()?, fields.next()?.ok()?))
    };
    let mut taken: Vec<(u32, u32)> = text.lines().filter_map(numbers).collect();
    taken.sort_unstable();
    let mut free = FIRST_SUBORDINATE;
    for (start, count) in taken {
        if start.saturating_sub(free) >= ENOUGH {
            break;
        }
        free = free.max(start.saturating_add(count));
    }
    // Kiln as root uses the upper half.
    free.checked_add(ENOUGH).filter(|end| *end <= HALF).map(|_| free)
}

fn parse_subordinate(text: &str, user: &str, uid: u32) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next()?;
            if owner != user && owner.parse::<u32>().ok() != Some(uid) {
                return None;
            }
            let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            (start > 0 && count > 0).then_some((start, count))
        })
        .collect()
}

/// Runs `work` in a child with namespaces of its own (`CLONE_NEW*` flags), as root of a user namespace with these ids,
/// and gives what it returns. Must be called in a single-threaded process.
pub fn run_inside(map: &IdMap, namespaces: libc::c_int, work: impl FnOnce() -> String) -> io::Result<String> {
    use crate::sys::process::{Cloned, clone_into_namespaces, exit_now};
    let (ours, theirs) = crate::sys::message::pair()?;
    // SAFETY: the callers (the zygote, and `kiln info` before any thread) have one thread.
    match unsafe { clone_into_namespaces(libc::CLONE_NEWUSER | namespaces) }? {
        Cloned::Child => {
            drop(ours);
            if let Ok(Some(_)) = crate::sys::message::receive(&theirs) {
                let said = become_root_inside().map_or_else(|error| error.to_string(), |()| work());
                // An empty message would look like the end.
                let _ = crate::sys::message::send(theirs.as_fd(), format!("={said}").as_bytes(), &[]);
            }
            exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(theirs);
            let result = map.write_for(pid).and_then(|()| {
                crate::sys::message::send(ours.as_fd(), b"go", &[])?;
                let Some((said, _)) = crate::sys::message::receive(&ours)? else {
                    return Err(io::Error::other("the process in the namespace ended early"));
                };
                Ok(String::from_utf8_lossy(said.get(1..).unwrap_or_default()).into_owned())
            });
            drop(ours);
            let id = rustix::process::WaitId::PidFd(pidfd.as_fd());
            rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED)?;
            result
        }
    }
}

/// Starts a program as root of a user namespace that exists, in this process' other namespaces, with an empty
/// environment; gives its pidfd. It is killed when this process dies. Must be called in a single-threaded process.
pub fn spawn_inside(
    users: BorrowedFd<'_>,
    program: &CString,
    arguments: &[CString],
    stdio: [BorrowedFd<'_>; 3],
) -> io::Result<OwnedFd> {
    use crate::sys::process::{self, Cloned, clone_into_namespaces, exit_now};
    // SAFETY: the caller (the zygote) has one thread.
    match unsafe { clone_into_namespaces(0) }? {
        Cloned::Child => {
            let enter = || -> io::Result<()> {
                let kind = rustix::thread::LinkNameSpaceType::User;
                rustix::thread::move_into_link_name_space(users, Some(kind))?;
                become_root_inside()?;
                for (number, fd) in (0..).zip(stdio) {
                    process::install_stdio(fd, number)?;
                }
                process::close_on_exec_from(3)?;
                process::die_with_parent()?;
                crate::sys::signals::unblock_termination()?;
                crate::sys::signals::default_dispositions();
                Err(process::exec(program, arguments, &[]))
            };
            if let Err(error) = enter() {
                let text = format!("cannot start {}: {error}\n", program.to_string_lossy());
                let _ = rustix::io::write(stdio[2], text.as_bytes());
            }
            exit_now(127)
        }
        Cloned::Parent { pidfd, .. } => Ok(pidfd),
    }
}

/// A user namespace with the given maps that nobody lives in, for idmapped mounts. Must be called in a
/// single-threaded process.
pub fn hold(map: &IdMap) -> io::Result<OwnedFd> {
    use crate::sys::process::{Cloned, clone_into_namespaces, exit_now};
    let (ours, theirs) = crate::sys::message::pair()?;
    // SAFETY: the callers (the zygote) have one thread; the child only reads a socket and exits.
    match unsafe { clone_into_namespaces(libc::CLONE_NEWUSER) }? {
        Cloned::Child => {
            drop(ours);
            let _ = crate::sys::message::receive(&theirs);
            exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => {
            drop(theirs);
            let result = map.write_for(pid).and_then(|()| {
                let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
                Ok(OwnedFd::from(fs::File::open(path)?))
            });
            drop(ours);
            let id = rustix::process::WaitId::PidFd(pidfd.as_fd());
            rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED)?;
            result
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ranges_by_name_and_number() {
        let text = "root:1:2\nme:100000:65536\n1000:300000:10\nme:x:1\nyou:5:5\n";
        assert_eq!(parse_subordinate(text, "me", 1000), [(100_000, 65_536), (300_000, 10)]);
        assert!(parse_subordinate(text, "nobody", 65_534).is_empty());
    }

    #[test]
    fn a_range_that_nobody_has() {
        assert_eq!(free_in(""), Some(100_000));
        assert_eq!(free_in("a:100000:65536\nb:165536:65536\n"), Some(231_072));
        assert_eq!(free_in("b:165536:65536\nx:y:z\n\n"), Some(100_000));
        assert_eq!(free_in("b:165535:65536\n"), Some(231_071), "one id is short");
        assert_eq!(free_in("a:1:4294967295\n"), None);
    }

    #[test]
    fn root_map_never_reaches_real_users() {
        for range in [None, Some((100_000, 65_536)), Some((2_000_000, 1 << 20)), Some((RESERVED, ENOUGH))] {
            let map = extents(range);
            for extent in &map {
                let own = range.is_some_and(|(start, _)| extent.outside == start);
                assert!(own || extent.outside >= RESERVED, "{range:?} {extent:?}");
                assert!(extent.outside.checked_add(extent.count).is_some());
                assert!(extent.inside.checked_add(extent.count).is_some());
            }
            assert_eq!(map[0].outside, range.map_or(HALF, |(start, _)| start));
            let inside = |id: u32| map.iter().any(|e| id >= e.inside && id - e.inside < e.count);
            assert!(inside(0) && inside(65_534) && inside(70_000) && inside(3_000_000_000), "{range:?}");
            assert!(inside(u32::MAX - 1), "{range:?}");
            for apart in
                [|e: &Extent| (e.outside, e.outside + e.count), |e: &Extent| (e.inside, e.inside + e.count)]
            {
                let mut ranges: Vec<_> = map.iter().map(apart).collect();
                ranges.sort_unstable();
                assert!(ranges.windows(2).all(|w| w[0].1 <= w[1].0), "{range:?}: ranges overlap");
            }
        }
        assert!(is_apart(100_000, 65_536) && is_apart(2_000_000, 1 << 20));
        for (start, count) in
            [(100_000, 1000), (RESERVED - 10, 65_536), (HALF, 65_536), (u32::MAX - 5, 65_536)]
        {
            assert!(!is_apart(start, count), "{start}:{count}");
        }
    }
}
