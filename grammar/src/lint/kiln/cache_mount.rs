//! CacheMountUserMismatch: a cache mount that the user of the step cannot write to.
//!
//! Invariants: a user that is a name is compared with `uid=0` only: which number it has is not known here.

use super::super::model::File;
use super::super::report::Report;
use crate::mount::MountKind;

const OTHERS_WRITE: u32 = 0o002;

pub(super) fn check(file: &File<'_>, report: &mut Report<'_>) {
    for (_, step) in file.written() {
        if !step.before.is_unprivileged() {
            continue;
        }
        let user = step.before.user.split(':').next().unwrap_or("");
        for mount in step.values.mounts() {
            let MountKind::Cache { mode, uid, .. } = mount.kind else { continue };
            let owner = uid.unwrap_or(0);
            let same = user.parse::<u32>().map_or(owner != 0, |number| number == owner);
            if same || mode.is_some_and(|mode| mode & OTHERS_WRITE != 0) {
                continue;
            }
            let target = mount.target.as_deref().unwrap_or("");
            let message = format!(
                "the cache mount at `{target}` belongs to user {owner}, but this RUN is user `{user}`"
            );
            let hint = match user.parse::<u32>() {
                Ok(number) => format!("add `uid={number}` to the mount"),
                Err(_) => format!("add `uid=` with the number of `{user}` to the mount"),
            };
            report.add("CacheMountUserMismatch", step.site(file), message, &hint);
        }
    }
}
