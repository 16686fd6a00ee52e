use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::layout::{Hierarchies, inside};
use super::*;

const HYBRID_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 /docker/abc /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
const HYBRID_GROUPS: &str = "\
8:pids:/docker/abc/x
4:memory:/user/one
2:cpu,cpuacct:/
0::/
";

#[test]
fn controllers_of_both_versions_are_found() {
    let hybrid = Hierarchies::parse(HYBRID_MOUNTS, HYBRID_GROUPS);
    let one = |controller| hybrid.version_one(controller, None);
    assert_eq!(one(Controller::Memory), Some(PathBuf::from("/sys/fs/cgroup/memory/user/one")));
    assert_eq!(one(Controller::Cpu), Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")));
    assert_eq!(one(Controller::Pids), Some(PathBuf::from("/sys/fs/cgroup/pids/x")), "a part is mounted");
    assert_eq!(one(Controller::Cpuset), None);
    assert_eq!(
        hybrid.version_one(Controller::Memory, Some("/a/../b")),
        Some(PathBuf::from("/sys/fs/cgroup/memory/a/b"))
    );
    let root = Path::new("/sys/fs/cgroup/unified");
    assert_eq!(hybrid.unified(), Some((root, root)));

    let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    let unified = Hierarchies::parse(mounts, "0::/user.slice/app.slice/x.scope\n");
    assert_eq!(unified.version_one(Controller::Memory, None), None);
    let own = Path::new("/sys/fs/cgroup/user.slice/app.slice/x.scope");
    assert_eq!(unified.unified(), Some((Path::new("/sys/fs/cgroup"), own)));
    assert_eq!(Hierarchies::parse("nonsense\n - \n1 2 - x", "::\n"), Hierarchies::default());
}

#[test]
fn slices_nest_by_their_names() {
    let point = Path::new("/c");
    assert_eq!(inside(point, "a-b-c.slice"), Path::new("/c/a.slice/a-b.slice/a-b-c.slice"));
    assert_eq!(inside(point, "kiln.slice"), Path::new("/c/kiln.slice"));
    assert_eq!(inside(point, "/x/kiln.slice"), Path::new("/c/x/kiln.slice"));
    assert_eq!(inside(point, "../../etc"), Path::new("/c/etc"));
    assert_eq!(inside(point, "/"), Path::new("/c/"));
}

#[test]
fn the_smaller_limit_holds() {
    let line = Limits { memory_bytes: Some(100), cpu_quota_us: Some(50_000), ..Limits::default() };
    let both = line.tightened(Some(200), Some(250));
    assert_eq!((both.memory_bytes, both.cpu_quota_us), (Some(100), Some(25_000)));
    assert_eq!(line.tightened(Some(50), None).memory_bytes, Some(50));
    assert_eq!(Limits::default().tightened(None, Some(2_000)).cpu_quota_us, Some(200_000));
    assert_eq!(Limits::quota_us(1, None), MIN_CPU_QUOTA_US);
    assert!(Limits::default().controllers().is_empty());
    assert_eq!(both.controllers(), BTreeSet::from([Controller::Cpu, Controller::Memory]));
}

#[test]
fn settings_of_both_versions() {
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        memory_swap: Some(Swap::Bytes(96 << 20)),
        cpu_quota_us: Some(150_000),
        cpu_shares: Some(1024),
        pids: Some(10),
        ..Limits::default()
    };
    let write = |controller, version| settings(controller, version, &limits, Path::new("/none"));
    let text = |list: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        list.iter().map(|(file, value)| (*file, (*value).to_owned())).collect()
    };
    assert_eq!(
        write(Controller::Memory, Version::One),
        text(&[("memory.limit_in_bytes", "67108864"), ("memory.memsw.limit_in_bytes", "100663296")])
    );
    assert_eq!(
        write(Controller::Memory, Version::Two),
        text(&[("memory.max", "67108864"), ("memory.swap.max", "33554432")])
    );
    assert_eq!(
        write(Controller::Cpu, Version::One),
        text(&[("cpu.cfs_quota_us", "150000"), ("cpu.shares", "1024")])
    );
    assert_eq!(
        write(Controller::Cpu, Version::Two),
        text(&[("cpu.max", "150000 100000"), ("cpu.weight", "39")])
    );
    assert_eq!(write(Controller::Pids, Version::Two), text(&[("pids.max", "10")]));
    // Without a word about swap: as much swap as memory.
    let plain = Limits { memory_bytes: Some(10), ..Limits::default() };
    assert_eq!(
        settings(Controller::Memory, Version::Two, &plain, Path::new("/none")),
        text(&[("memory.max", "10"), ("memory.swap.max", "10")])
    );
    assert_eq!((weight(2), weight(262_144), weight(1)), (1, 10_000, 1));
}

#[test]
fn a_group_goes_and_so_does_what_the_dead_left() {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().to_owned();
    let homes = BTreeMap::from([(Controller::Pids, Home { version: Version::One, parent: parent.clone() })]);
    let spec = GroupSpec { limits: Limits { pids: Some(5), ..Limits::default() }, homes };
    let group = Group::create(&spec, 0).unwrap();
    let own = group.dirs[0].clone();
    assert_eq!(fs::read_to_string(own.join("pids.max")).unwrap(), "5");
    fs::write(own.join("pids.events"), "max 3\n").unwrap();
    assert_eq!(group.hits(), Hits { oom_kills: 0, refused_forks: 3 });
    // What stands for the kernel's files here would keep the directory from going.
    for file in ["pids.max", "pids.events"] {
        fs::remove_file(own.join(file)).unwrap();
    }
    drop(group);
    assert!(!own.exists());

    fs::create_dir(parent.join("kiln-4194305-7")).unwrap();
    fs::create_dir(parent.join("kiln-other")).unwrap();
    fs::create_dir(parent.join(format!("kiln-{}-1", std::process::id()))).unwrap();
    sweep(&parent);
    assert!(!parent.join("kiln-4194305-7").exists());
    assert_eq!(fs::read_dir(&parent).unwrap().count(), 2);
}

#[test]
fn an_empty_group_of_v1_gets_what_is_above() {
    let dir = tempfile::tempdir().unwrap();
    let (middle, low) = (dir.path().join("a"), dir.path().join("a/b"));
    fs::create_dir_all(&low).unwrap();
    for (group, text) in [(dir.path(), "0-3\n"), (&middle, "\n"), (&low, "\n")] {
        fs::write(group.join("cpuset.cpus"), text).unwrap();
    }
    assert_eq!(inherit(&low, "cpuset.cpus").as_deref(), Some("0-3"));
    assert_eq!(fs::read_to_string(middle.join("cpuset.cpus")).unwrap(), "0-3");
    fs::write(low.join("cpuset.cpus"), "1\n").unwrap();
    assert_eq!(inherit(&low, "cpuset.cpus").as_deref(), Some("1"), "what is there stays");
    assert_eq!(inherit(&low, "cpuset.mems"), None);
}
