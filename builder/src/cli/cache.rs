//! `kiln cache`: cache mounts as things.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::CacheArgs;
use super::args::mounts::{
    CacheCommand, CacheExportArgs, CacheImportArgs, CacheInspectArgs, CacheLsArgs, CacheRmArgs,
};
use super::failure::of_store;
use super::{record, session};
use crate::base::cancel::CancelToken;
use crate::image::reference::Reference;
use crate::layer::compress::{Compressor, decompressor};
use crate::record::{Head, users};
use crate::snapshot::mounts::{self, Existing, MountError};
use crate::snapshot::warning::Warnings;
use crate::store::records::{MountRecord, now};
use crate::store::{InUse, Removal, Store};
use crate::ui::failure::{Failure, Kind};
use crate::ui::progress::{Mode, Progress, Target};
use crate::ui::table::{Align, Table};
use crate::ui::{ago, print, size, terminal};

/// `kiln cache`.
pub(super) fn cache(root: Option<PathBuf>, args: &CacheArgs) -> Result<u8, Failure> {
    match &args.command {
        CacheCommand::Ls(ls) => match session::present_store(root.clone())? {
            Some(store) => {
                let mut mounts = store.measured_cache_mounts().map_err(|e| of_store(&e))?;
                let users = users::of_cache_mounts(&record::shelf(root)?);
                if let Some(what) = &ls.used_by {
                    mounts.retain(|(mount, _)| users.get(&mount.id).is_some_and(|user| is_of(user, what)));
                }
                list(&mounts, &users, ls)
            }
            None => list(&[], &Users::new(), ls),
        },
        CacheCommand::Inspect(args) => match session::present_store(root.clone())? {
            Some(store) => inspect(&store, &users::of_cache_mounts(&record::shelf(root)?), args),
            None => Err(missing(&args.ids.join("`, `"))),
        },
        CacheCommand::Rm(args) => match session::present_store(root)? {
            Some(store) => remove(&store, args),
            None if args.all || args.force => Ok(0),
            None => Err(missing(&args.ids.join("`, `"))),
        },
        CacheCommand::Export(args) => {
            let root = session::store_root(root)?;
            if !root.join("kiln.db").exists() {
                return Err(missing(&args.id));
            }
            let (store, cancel) = stoppable(&root)?;
            export(&store, args, &cancel)
        }
        CacheCommand::Import(args) => {
            let (store, cancel) = stoppable(&session::store_root(root)?)?;
            import(&store, args, &cancel)
        }
    }
}

/// Builds that used cache mounts last, by the mounts' ids.
type Users = BTreeMap<String, Head>;

/// Whether a build is one of this Buildfile, context or image.
fn is_of(build: &Head, what: &str) -> bool {
    let about = &build.about;
    let path = std::path::absolute(what).ok();
    let named = |text: &str| text == what || path.as_deref().is_some_and(|path| Path::new(text) == path);
    let image = what.parse::<Reference>().map(|name| name.to_string()).ok();
    named(&about.file) || named(&about.context) || image.is_some_and(|name| about.names.contains(&name))
}

/// The store for a command that cleans up when it is stopped.
fn stoppable(root: &Path) -> Result<(Store, CancelToken), Failure> {
    session::enter()?;
    let store = session::open_store(root)?;
    let cancel = CancelToken::new();
    session::watch_signals(cancel.clone(), Progress::new(Mode::None, Target::Stderr));
    Ok((store, cancel))
}

fn missing(id: &str) -> Failure {
    Failure::new(Kind::User, format!("there is no cache mount `{id}`"))
        .with_hint("`kiln cache ls` lists the cache mounts")
}

fn in_use(id: &str) -> Failure {
    Failure::new(Kind::User, format!("the cache mount `{id}` is in use by a running build"))
        .with_hint("try again when the build has ended, or use --force")
}

fn of_mount(error: &MountError) -> Failure {
    match error {
        MountError::Missing { id } => missing(id),
        MountError::Store(error) => of_store(error),
        MountError::Cancelled => Failure::new(Kind::Interrupted, "stopped; nothing was changed"),
        error => super::failure::of_other(error),
    }
}

fn stdout(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|e| Failure::from_error(Kind::User, &e))
}

fn facts(mount: &MountRecord, in_use: bool, user: Option<&Head>) -> Value {
    let user = user.map(|build| {
        json!({
            "build": build.id,
            "file": build.about.file,
            "context": build.about.context,
            "names": build.about.names,
        })
    });
    json!({
        "id": mount.id,
        "size": mount.size_bytes,
        "created": mount.created,
        "lastUsed": mount.last_used,
        "inUse": in_use,
        "lastUsedBy": user,
    })
}

fn list(mounts: &[(MountRecord, bool)], users: &Users, args: &CacheLsArgs) -> Result<u8, Failure> {
    if args.quiet {
        stdout(mounts.iter().try_for_each(|(mount, _)| print::line(&mount.id)))?;
        return Ok(0);
    }
    if args.json {
        let all: Vec<Value> =
            mounts.iter().map(|(mount, in_use)| facts(mount, *in_use, users.get(&mount.id))).collect();
        stdout(print::line(format!("{:#}", json!(all))))?;
        return Ok(0);
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("SIZE", Align::Right),
        ("LAST USED", Align::Left),
        ("IN USE", Align::Left),
        ("BY", Align::Left),
    ]);
    for (mount, in_use) in mounts {
        let age = Duration::from_secs(u64::try_from(now() - mount.last_used).unwrap_or(0));
        let used = if *in_use { "yes" } else { "" };
        let by = users.get(&mount.id).map(record::what).unwrap_or_default();
        table.row([mount.id.clone(), size::human(mount.size_bytes), ago::ago(age), used.to_owned(), by]);
    }
    stdout(print::line(table.render().trim_end()))?;
    Ok(0)
}

fn inspect(store: &Store, users: &Users, args: &CacheInspectArgs) -> Result<u8, Failure> {
    let mounts = store.measured_cache_mounts().map_err(|e| of_store(&e))?;
    let mut all = Vec::new();
    for id in &args.ids {
        let (mount, in_use) = mounts.iter().find(|(mount, _)| mount.id == *id).ok_or_else(|| missing(id))?;
        let path = store.path(&mount.directory);
        let (mode, uid, gid) = mounts::owner(&path).map_err(|e| of_mount(&e))?;
        let mut facts = facts(mount, *in_use, users.get(id));
        if let Some(object) = facts.as_object_mut() {
            object.insert("path".to_owned(), json!(path));
            object.insert("entries".to_owned(), json!(mounts::count(&path).map_err(|e| of_mount(&e))?));
            object.insert("mode".to_owned(), json!(format!("{mode:04o}")));
            object.insert("uid".to_owned(), json!(uid));
            object.insert("gid".to_owned(), json!(gid));
        }
        all.push(facts);
    }
    stdout(print::line(format!("{:#}", json!(all))))?;
    Ok(0)
}

fn remove(store: &Store, args: &CacheRmArgs) -> Result<u8, Failure> {
    let ids = if args.all {
        store.database().cache_mounts().map_err(|e| of_store(&e))?.into_iter().map(|m| m.id).collect()
    } else {
        args.ids.clone()
    };
    let how = if args.force { InUse::Force } else { InUse::Keep };
    for id in &ids {
        match store.remove_cache_mount(id, how).map_err(|e| of_store(&e))? {
            Removal::Removed { freed_bytes } => {
                print::talk(format!("removed the cache mount {id}: {} freed", size::human(freed_bytes)));
            }
            Removal::Forgotten => {
                print::talk(format!(
                    "removed the cache mount {id}; its files go when the build that uses them ends"
                ));
            }
            Removal::InUse if args.all => print::talk(format!("kept the cache mount {id}: it is in use")),
            Removal::InUse => return Err(in_use(id)),
            Removal::Missing if args.force || args.all => {}
            Removal::Missing => return Err(missing(id)),
        }
    }
    Ok(0)
}

fn export(store: &Store, args: &CacheExportArgs, cancel: &CancelToken) -> Result<u8, Failure> {
    let file = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if file.is_none() && terminal::stdout_is_terminal() {
        return Err(Failure::new(Kind::Usage, "an archive is not written to a terminal")
            .with_hint(format!("name a file: kiln cache export {} -o FILE", args.id)));
    }
    if !args.force && store.cache_mount_in_use(&args.id).map_err(|e| of_store(&e))? {
        return Err(in_use(&args.id));
    }
    let exported = match file {
        Some(path) => {
            let fail = |e: &io::Error| cannot("write", path, e);
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let temporary = tempfile::Builder::new()
                .prefix(".kiln-")
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
                .tempfile_in(parent)
                .map_err(|e| fail(&e))?;
            let exported = write(store, args, cancel, temporary.as_file())?;
            temporary.persist(path).map_err(|e| fail(&e.error))?;
            exported
        }
        None => write(store, args, cancel, io::stdout().lock())?,
    };
    warn(&exported.warnings);
    print::talk(format!(
        "exported the cache mount {}: {} entries, {}",
        args.id,
        exported.entries,
        size::human(exported.file_bytes)
    ));
    Ok(0)
}

fn write(
    store: &Store,
    args: &CacheExportArgs,
    cancel: &CancelToken,
    out: impl Write,
) -> Result<mounts::Exported, Failure> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failed = |e: io::Error| super::failure::of_other(&e);
    let buffered = BufWriter::with_capacity(256 * 1024, out);
    let mut compressor = Compressor::new(buffered, args.compression, threads).map_err(failed)?;
    let exported = mounts::export(store, &args.id, cancel, &mut compressor).map_err(|e| of_mount(&e))?;
    compressor.finish().and_then(|mut out| out.flush()).map_err(failed)?;
    Ok(exported)
}

fn import(store: &Store, args: &CacheImportArgs, cancel: &CancelToken) -> Result<u8, Failure> {
    if !args.force && store.cache_mount_in_use(&args.id).map_err(|e| of_store(&e))? {
        return Err(in_use(&args.id));
    }
    let name = args.file.as_deref().filter(|path| *path != Path::new("-"));
    let source: Box<dyn Read + Send> = match name {
        Some(path) => Box::new(File::open(path).map_err(|e| cannot("read", path, &e))?),
        None => Box::new(io::stdin()),
    };
    let source = Stoppable { inner: BufReader::with_capacity(256 * 1024, source), cancel };
    let plain = decompressor(source).map_err(|e| cannot("read", name.unwrap_or(Path::new("-")), &e))?;
    let imported = mounts::import(store, &args.id, plain, Existing::Replace);
    let imported = imported.map_err(|e| if cancel.is_cancelled() { MountError::Cancelled } else { e });
    let imported = imported.map_err(|error| match error {
        MountError::Unpack(_) | MountError::Empty | MountError::Cut => not_imported(name, &error),
        error => of_mount(&error),
    })?;
    if let Some(imported) = imported {
        warn(&imported.warnings);
        print::talk(format!(
            "imported the cache mount {}: {} entries, {}",
            args.id,
            imported.entries,
            size::human(imported.file_bytes)
        ));
    }
    Ok(0)
}

fn not_imported(file: Option<&Path>, error: &MountError) -> Failure {
    let failure = cannot("import", file.unwrap_or(Path::new("-")), error);
    if failure.kind == Kind::Resources {
        return failure;
    }
    failure.with_hint(
        "what is wanted is the file that `kiln cache export` wrote, or another tar, compressed or not; nothing was \
         changed",
    )
}

fn cannot(action: &str, path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    let failure = super::failure::of_other(error);
    let causes = std::iter::once(failure.message.clone()).chain(failure.causes.clone()).collect();
    Failure { message: format!("cannot {action} `{}`", path.display()), causes, ..failure }
}

fn warn(warnings: &Warnings) {
    for warning in &warnings.kept {
        print::talk(format!("warning: {warning}"));
    }
    if warnings.dropped > 0 {
        print::talk(format!("warning: {} more like these", warnings.dropped));
    }
}

/// Ends with an error once the command was stopped.
struct Stoppable<'a, R> {
    inner: R,
    cancel: &'a CancelToken,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.inner.read(buf)
    }
}
