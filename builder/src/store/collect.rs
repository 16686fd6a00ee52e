//! Collections: removing what a policy says, by hand or after a build.
//!
//! The order is: look and plan; take everything planned for oneself, which fails for what somebody uses; in one
//! transaction look again for rows that came meanwhile and forget the rest; take the data out of its place; let go;
//! remove the data. Whoever finds a row and leases what it names waits for that, and then looks again (`leases.rs`).
//!
//! Invariants:
//! - what is leased is not touched;
//! - a collection that is killed leaves data without rows at most, which the next one finds.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use super::leases::{Lessees, PRECISION_SECONDS};
use super::prune::{Limits, Policy, Scope, plan};
use super::records::collect::{Doomed, Rows};
use super::records::{SnapshotId, now};
use super::usage::{Item, Kind, Usage};
use super::{Store, StoreError, Thing, process};
use crate::base::digest::Digest;

/// What a collection removed, or would remove.
#[derive(Debug, Default)]
pub struct Collected {
    /// The data.
    pub items: Vec<Item>,
    /// Sum of its sizes.
    pub freed_bytes: u64,
}

impl Store {
    /// What [`Store::prune`] would remove.
    pub fn would_prune(&self, policy: &Policy) -> Result<Collected, StoreError> {
        let usage = self.usage()?;
        let chosen = plan(&usage, policy, self.free_bytes()?, now());
        Ok(Collected::of(
            usage.items.into_iter().enumerate().filter(|(n, _)| chosen.contains(n)).map(|(_, i)| i),
        ))
    }

    /// Removes what the policy says.
    pub fn prune(&self, policy: &Policy) -> Result<Collected, StoreError> {
        self.tidy()?;
        self.forget_lost()?;
        let usage = self.usage()?;
        let chosen = plan(&usage, policy, self.free_bytes()?, now());
        let old_steps = policy.unused_for.filter(|_| policy.filters.is_empty());
        self.remove_chosen(&usage, chosen, old_steps)
    }

    /// Removes data that nothing refers to.
    pub(super) fn remove_strays(&self) -> Result<(), StoreError> {
        let usage = self.usage()?;
        let strays = usage.items.iter().enumerate().filter(|(_, item)| item.kind == Kind::Stray);
        let chosen = strays.map(|(index, _)| index).collect();
        self.remove_chosen(&usage, chosen, None).map(drop)
    }

    /// Removes items of `usage` that nobody uses, and steps that were not used for `old_steps`.
    pub(super) fn remove_chosen(
        &self,
        usage: &Usage,
        chosen: BTreeSet<usize>,
        old_steps: Option<Duration>,
    ) -> Result<Collected, StoreError> {
        let lessees = self.lessees()?;
        let mut held = Held::default();
        for index in chosen {
            if let Some(item) = usage.items.get(index) {
                held.take(self, &lessees, item)?;
            }
        }
        self.forget_and_remove(usage, held, old_steps, lessees)
    }

    fn forget_and_remove(
        &self,
        usage: &Usage,
        mut held: Held,
        old_steps: Option<Duration>,
        lessees: Lessees,
    ) -> Result<Collected, StoreError> {
        let wanted = held.doomed.clone();
        let decide = |rows: &Rows| {
            let mut doomed = self.still_doomed(wanted.clone(), usage, rows);
            let oldest = old_steps.map(|age| now() - i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
            let useless = rows.steps.iter().filter(|step| {
                step.layers.is_none()
                    || oldest.is_some_and(|oldest| step.last_used + PRECISION_SECONDS <= oldest)
            });
            doomed.steps = useless.map(|step| step.key.clone()).collect();
            doomed
        };
        self.mark_collecting(true);
        let mut moved = Vec::new();
        let doomed = match self.database.collect(decide) {
            // Forgetting takes room, too. A row without data is a miss wherever it is used.
            Err(error) if error.is_full_disk() => {
                held.displace(self, &wanted, &mut moved)?;
                Displaced(std::mem::take(&mut moved)).remove()?;
                self.database.collect(decide)?
            }
            doomed => doomed?,
        };
        let items = held.displace(self, &doomed, &mut moved)?;
        // From here on it is swept by its name.
        self.mark_collecting(false);
        drop((lessees, held));
        Displaced(moved).remove()?;
        Ok(Collected::of(items))
    }

    /// Leaves out what somebody named since the usage was looked at.
    fn still_doomed(&self, mut doomed: Doomed, before: &Usage, rows: &Rows) -> Doomed {
        let known: BTreeSet<&str> = before.rows.steps.iter().map(|step| step.key.as_str()).collect();
        for step in rows.steps.iter().filter(|step| !known.contains(step.key.as_str())) {
            for layer in step.layers.iter().flatten() {
                doomed.snapshots.remove(&layer.snapshot);
            }
        }
        for (_, id) in rows.chains.iter().filter(|chain| !before.rows.chains.contains(chain)) {
            doomed.snapshots.remove(id);
        }
        for (_, digest) in rows.images.iter().filter(|image| !before.rows.images.contains(image)) {
            for blob in self.parts(digest).blobs {
                doomed.blobs.remove(&blob);
            }
        }
        let new_blobs = rows.blobs.iter().filter(|blob| !before.rows.blobs.contains(blob));
        let new_blobs = new_blobs.map(|(_, _, digest, _)| digest);
        let news = |now: &'_ [Digest], then: &[Digest]| -> Vec<Digest> {
            now.iter().filter(|digest| !then.contains(digest)).copied().collect()
        };
        let downloads = news(&rows.downloads, &before.rows.downloads);
        let resolved = news(&rows.resolved, &before.rows.resolved);
        for digest in new_blobs.chain(&downloads).chain(&resolved) {
            doomed.blobs.remove(digest);
        }
        // Unpacked layers that stay need their blobs.
        let staying: BTreeSet<_> = rows
            .layers
            .iter()
            .filter(|(id, of_image, _)| *of_image && !doomed.snapshots.contains(id))
            .filter(|(id, ..)| rows.snapshots.iter().any(|row| row.id == *id))
            .map(|(_, _, diff_id)| diff_id)
            .collect();
        for (diff_id, compressor, digest, _) in &rows.blobs {
            if compressor == "original" && staying.contains(diff_id) {
                doomed.blobs.remove(digest);
            }
        }
        doomed
    }

    /// Bytes that the file system has left for this user.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        self.space().map(|(free, _)| free)
    }

    /// Free bytes and all bytes of the file system.
    fn space(&self) -> Result<(u64, u64), StoreError> {
        let stat = rustix::fs::statvfs(&self.root)
            .map_err(|e| StoreError::io("look at the file system of", &self.root)(e.into()))?;
        Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
    }
}

impl Collected {
    fn of(items: impl IntoIterator<Item = Item>) -> Self {
        let items: Vec<Item> = items.into_iter().collect();
        Self { freed_bytes: items.iter().map(|item| item.size_bytes).sum(), items }
    }
}

/// What a collection has taken for itself.
#[derive(Default)]
struct Held {
    items: Vec<Item>,
    doomed: Doomed,
    /// Locks of mirrors.
    mirrors: Vec<File>,
}

impl Held {
    /// Takes an item unless somebody uses it.
    fn take(&mut self, store: &Store, lessees: &Lessees, item: &Item) -> Result<(), StoreError> {
        let id = SnapshotId(item.id.clone());
        let taken = match item.kind {
            Kind::Snapshot => lessees.exclude(Thing::Snapshot(&id))?,
            Kind::Mount => lessees.exclude(Thing::Mount(&item.path))?,
            Kind::Blob => match item.id.parse::<Digest>() {
                Ok(digest) => lessees.exclude(Thing::Blob(&digest))?,
                Err(_) => false,
            },
            Kind::Git => {
                let lock = store.path(&item.path).with_extension("lock");
                match File::open(&lock) {
                    Ok(lock) if lock.try_lock().is_ok() => {
                        self.mirrors.push(lock);
                        true
                    }
                    _ => false,
                }
            }
            Kind::Stray => match item.path.split_once('/') {
                Some(("snapshots", name)) => {
                    lessees.exclude(Thing::Snapshot(&SnapshotId(name.to_owned())))?
                }
                Some(("mounts", _)) => {
                    lessees.exclude(Thing::Mount(item.path.strip_suffix(".lock").unwrap_or(&item.path)))?
                }
                _ => true,
            },
        };
        if taken {
            match item.kind {
                Kind::Snapshot => drop(self.doomed.snapshots.insert(id)),
                Kind::Blob => self.doomed.blobs.extend(item.id.parse::<Digest>()),
                Kind::Mount => drop(self.doomed.mounts.insert((item.id.clone(), item.path.clone()))),
                Kind::Git | Kind::Stray => {}
            }
            self.items.push(item.clone());
        }
        Ok(())
    }

    /// Takes the data of what is doomed out of its place.
    fn displace(
        &mut self,
        store: &Store,
        doomed: &Doomed,
        moved: &mut Vec<PathBuf>,
    ) -> Result<Vec<Item>, StoreError> {
        let mut gone = Vec::new();
        for item in std::mem::take(&mut self.items) {
            let goes = match item.kind {
                Kind::Snapshot => doomed.snapshots.contains(&SnapshotId(item.id.clone())),
                Kind::Blob => item.id.parse::<Digest>().is_ok_and(|digest| doomed.blobs.contains(&digest)),
                Kind::Mount | Kind::Git | Kind::Stray => true,
            };
            if goes {
                moved.extend(store.displace(&store.path(&item.path))?);
                if item.kind == Kind::Mount {
                    moved.extend(store.displace(&store.path(&format!("{}.lock", item.path)))?);
                }
                gone.push(item);
            }
        }
        Ok(gone)
    }
}

/// Data that has lost its place.
struct Displaced(Vec<PathBuf>);

impl Displaced {
    fn remove(self) -> Result<(), StoreError> {
        for path in self.0 {
            process::remove(&path).map_err(StoreError::io("remove", &path))?;
        }
        Ok(())
    }
}

/// When collections happen by themselves, and what they remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Automatic {
    /// Not used for this long; [`Automatic::UNUSED_FOR`] unless it is said.
    pub unused_for: Option<Duration>,
    /// In place of the shares of the disk.
    pub limits: Limits,
}

impl Automatic {
    /// What nobody used for this long goes.
    pub const UNUSED_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
    /// At most this often.
    const EVERY: Duration = Duration::from_secs(3600);
    /// At most this often while there is less free space than wanted.
    const EVERY_WHILE_FULL: Duration = Duration::from_secs(60);

    /// The limits on a file system of this size.
    pub fn limits_on(&self, disk_bytes: u64) -> Limits {
        const GIB: u64 = 1 << 30;
        let share = |percent: u64, most: u64| Some((disk_bytes / 100 * percent).min(most));
        let Limits { max_used_bytes, min_free_bytes, reserved_bytes } = self.limits;
        Limits {
            max_used_bytes: max_used_bytes.or(share(60, 100 * GIB)),
            min_free_bytes: min_free_bytes.or(share(10, 20 * GIB)),
            reserved_bytes: reserved_bytes.or(share(10, 10 * GIB)),
        }
    }
}

/// Below the store: when the last automatic collection was.
const STAMP: &str = "collected";

impl Store {
    /// The limits of automatic collections here.
    pub fn automatic_limits(&self, automatic: &Automatic) -> Result<Limits, StoreError> {
        Ok(automatic.limits_on(self.space()?.1))
    }

    /// Removes what is old, and then what is too much, if it is time to. `None` when it is not, which costs two system
    /// calls to find out.
    pub fn collect_automatically(&self, automatic: &Automatic) -> Result<Option<Collected>, StoreError> {
        let path = self.root.join(STAMP);
        let limits = self.automatic_limits(automatic)?;
        let age = match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            // A time in the future is one that nobody can wait for.
            Ok(last) => last.elapsed().unwrap_or(Automatic::EVERY),
            // A new store has nothing to collect.
            Err(_) => {
                File::create(&path).map_err(StoreError::io("create", &path))?;
                return Ok(None);
            }
        };
        let full =
            limits.min_free_bytes.is_some_and(|wanted| self.free_bytes().is_ok_and(|free| free < wanted));
        let every = if full { Automatic::EVERY_WHILE_FULL } else { Automatic::EVERY };
        if age < every {
            return Ok(None);
        }
        let stamp = File::options().write(true).open(&path).map_err(StoreError::io("open", &path))?;
        if stamp.try_lock().is_err() {
            // Another process is at it.
            return Ok(None);
        }
        stamp.set_modified(std::time::SystemTime::now()).map_err(StoreError::io("write", &path))?;
        self.sync()?;
        let old = Policy {
            scope: Scope::All,
            unused_for: Some(automatic.unused_for.unwrap_or(Automatic::UNUSED_FOR)),
            ..Policy::default()
        };
        let much = Policy { scope: Scope::All, limits, ..Policy::default() };
        let mut collected = Collected::default();
        self.remove_strays()?;
        for policy in [old, much] {
            let more = self.prune(&policy)?;
            collected.items.extend(more.items);
            collected.freed_bytes += more.freed_bytes;
        }
        Ok(Some(collected))
    }
}

#[cfg(test)]
mod tests;
