//! Cache mounts from remote caches.
//!
//! Invariants: a mount that is here stays as it is; one that cannot be had is an empty one, with a warning.

use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::sync::PoisonError;

use super::Imports;
use crate::base::causes::one_line;
use crate::base::events::Event;
use crate::cache::{self, Cache};
use crate::image::manifest::Descriptor;
use crate::layer::compress::decompressor;
use crate::ops::OpError;
use crate::snapshot::mounts::{self, Existing};

impl Imports<'_> {
    /// Looks for a cache mount that is not here, once for each build.
    pub(in crate::ops) fn bring_mount(&self, id: &str) -> Result<(), OpError> {
        let mut asked = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.insert(id.to_owned()) {
            return Ok(());
        }
        for (number, (cache, wanted)) in self.setup.caches.iter().zip(&self.setup.mounts).enumerate() {
            if !wanted.include(id) || self.state().down.contains(&number) {
                continue;
            }
            let brought = match cache::mount::find(&**cache, id) {
                Ok(None) => continue,
                Ok(Some(archive)) => self.unpack_mount(id, &**cache, &archive),
                Err(error) if error.is_about_one_step() => Err(Box::new(error).into()),
                Err(error) => {
                    self.leave_out(number, &error);
                    continue;
                }
            };
            match brought {
                Ok(()) => return Ok(()),
                Err(_) if self.setup.cancel.is_cancelled() => return Err(OpError::Cancelled),
                Err(error) => {
                    let (why, events) = (one_line(&error), &self.setup.events);
                    events
                        .warn(format!("the cache mount `{id}` cannot be had from `{}`: {why}", cache.name()));
                }
            }
        }
        if self.setup.cancel.is_cancelled() { Err(OpError::Cancelled) } else { Ok(()) }
    }

    fn unpack_mount(&self, id: &str, cache: &dyn Cache, archive: &Descriptor) -> Result<(), OpError> {
        self.start();
        let store = self.setup.store;
        let incoming = store.incoming_blob()?;
        let mut out = incoming.writer()?;
        let progress = |done_bytes| {
            self.setup.events.send(Event::Progress {
                step: self.setup.step,
                what: format!("cache mount {id}"),
                done_bytes,
                total_bytes: Some(archive.size),
            });
        };
        // Verified as a whole before any of it is unpacked.
        cache.blob(archive, &mut out, &progress).map_err(Box::new)?;
        out.flush().map_err(OpError::io("keep the cache mount"))?;
        let open = || -> io::Result<_> {
            decompressor(BufReader::with_capacity(256 * 1024, File::open(incoming.path())?))
        };
        let plain = open().map_err(OpError::io("read the cache mount"))?;
        let imported = mounts::import(store, id, plain, Existing::Keep);
        for warning in imported.map_err(Box::new)?.map(|unpacked| unpacked.warnings.kept).unwrap_or_default()
        {
            self.setup.events.warn(warning.to_string());
        }
        Ok(())
    }
}
