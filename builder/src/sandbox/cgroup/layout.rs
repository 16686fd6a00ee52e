//! Where control groups are mounted, and which one this process is in.
//!
//! Invariants: reads text only; a line that cannot be read is passed over.

use std::path::{Path, PathBuf};

use super::Controller;

/// The hierarchies of this machine as this process sees them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    /// Mount point of v2 and the directory of the own group.
    unified: Option<(PathBuf, PathBuf)>,
    /// Controllers of v1 with mount point and directory of the own group.
    split: Vec<(Controller, PathBuf, PathBuf)>,
}

impl Hierarchies {
    /// From /proc/self/mountinfo (proc_pid_mountinfo(5)) and /proc/self/cgroup (cgroups(7)).
    pub(super) fn parse(mountinfo: &str, memberships: &str) -> Self {
        let mut hierarchies = Self::default();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let mut fields = before.split(' ').skip(3);
            let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
            let mut fields = after.split(' ');
            let (Some(kind), Some(options)) = (fields.next(), fields.nth(1)) else { continue };
            let point = PathBuf::from(unescape(point));
            let own = |path: &str| {
                // Where a part of the tree is mounted, paths begin at that part.
                let below = if root == "/" { path } else { path.strip_prefix(root).unwrap_or(path) };
                inside(&point, below)
            };
            match kind {
                "cgroup2" if hierarchies.unified.is_none() => {
                    if let Some(path) = membership(memberships, None) {
                        let own = own(path);
                        hierarchies.unified = Some((point, own));
                    }
                }
                "cgroup" => {
                    for controller in Controller::ALL {
                        if options.split(',').any(|option| option == controller.name())
                            && let Some(path) = membership(memberships, Some(controller))
                        {
                            let own = own(path);
                            hierarchies.split.push((controller, point.clone(), own));
                        }
                    }
                }
                _ => {}
            }
        }
        hierarchies
    }

    /// The directory of v1 that groups with this controller are made in.
    pub(super) fn version_one(&self, controller: Controller, parent: Option<&str>) -> Option<PathBuf> {
        let (_, point, own) = self.split.iter().find(|(found, _, _)| *found == controller)?;
        Some(parent.map_or_else(|| own.clone(), |parent| inside(point, parent)))
    }

    /// Mount point and own directory of v2.
    pub(super) fn unified(&self) -> Option<(&Path, &Path)> {
        self.unified.as_ref().map(|(point, own)| (point.as_path(), own.as_path()))
    }
}

/// A path of a hierarchy below its mount point. `a-b.slice` is systemd's name for `a.slice/a-b.slice`
/// (systemd.slice(5)); `..` is left out.
pub(super) fn inside(point: &Path, path: &str) -> PathBuf {
    let mut dir = point.to_owned();
    let single = path.trim_matches('/');
    if let Some(name) = single.strip_suffix(".slice").filter(|name| !name.is_empty() && !name.contains('/')) {
        for (at, _) in name.match_indices('-').filter(|(at, _)| *at > 0) {
            dir.push(format!("{}.slice", &name[..at]));
        }
        dir.push(single);
        return dir;
    }
    dir.extend(path.split('/').filter(|part| !part.is_empty() && *part != "." && *part != ".."));
    dir
}

fn membership(text: &str, controller: Option<Controller>) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        match controller {
            None => (number == "0" && names.is_empty()).then_some(path),
            Some(controller) => names.split(',').any(|name| name == controller.name()).then_some(path),
        }
    })
}

/// Undoes the octal escapes of mountinfo for blanks and backslashes.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
