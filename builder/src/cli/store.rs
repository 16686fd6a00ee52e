//! `kiln images`, `info` and `install-alias`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::args::{ImagesArgs, InfoArgs, InstallAliasArgs};
use super::failure::of_store;
use super::{privileges, session, surroundings};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::sandbox::cgroup::{Controller, Placement, Version};
use crate::sandbox::emulate;
use crate::store::records::now;
use crate::store::{Kind, Store};
use crate::ui::failure::{self, Failure};
use crate::ui::table::{Align, Table};
use crate::ui::{ago, print, size};

pub(super) fn printed(result: std::io::Result<()>) -> Result<u8, Failure> {
    result.map(|()| 0).map_err(|e| Failure::from_error(failure::Kind::User, &e))
}

/// `kiln images`.
pub(super) fn images(root: Option<PathBuf>, args: &ImagesArgs) -> Result<u8, Failure> {
    let root = session::store_root(root)?;
    // Looking must not make a store.
    let mut images = Vec::new();
    if root.join("kiln.db").exists() {
        let store: Store = session::open_store(&root)?;
        images = store.database().images().map_err(|e| of_store(&e))?;
    }
    if let Some(wanted) = &args.name {
        let tagged = wanted.to_string();
        images.retain(|image| image.name == tagged || image.name.starts_with(&format!("{}:", wanted.name())));
    }
    if args.quiet {
        return printed(images.iter().try_for_each(|image| print::line(image.digest.to_string())));
    }
    if args.json {
        let all: Vec<_> = images
            .iter()
            .map(
                |i| json!({ "name": i.name, "digest": i.digest, "size": i.size_bytes, "created": i.created }),
            )
            .collect();
        return printed(print::line(format!("{:#}", json!(all))));
    }
    let mut table = Table::new(&[
        ("NAME", Align::Left),
        ("DIGEST", Align::Left),
        ("CREATED", Align::Left),
        ("SIZE", Align::Right),
    ]);
    for image in &images {
        let digest = if args.no_trunc { image.digest.to_string() } else { image.digest.short() };
        let age = Duration::from_secs(u64::try_from(now() - image.created).unwrap_or(0));
        table.row([familiar(&image.name), digest, ago::ago(age), size::human(image.size_bytes)]);
    }
    printed(print::line(table.render().trim_end()))
}

pub(super) fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

/// `kiln info`.
pub(super) fn info(root: Option<PathBuf>, args: &InfoArgs) -> Result<u8, Failure> {
    let root = session::store_root(root)?;
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut network = "not tried".to_owned();
    let able = session::enter().and_then(|privilege| session::try_out(privilege).map(|()| privilege));
    let (mode, reason, entered) = match able {
        Ok(privilege) => {
            network = surroundings::network(session::idmap(privilege, false))?;
            (privilege.describe().to_owned(), privilege.reason(), true)
        }
        Err(failure) => {
            let reason = failure.causes.iter().chain(&failure.hints).cloned().collect::<Vec<_>>().join("; ");
            (format!("not possible: {}", failure.message), reason, false)
        }
    };
    let overlay = if entered { overlay_works(&root) } else { "not tried".to_owned() };
    let is_made = root.join("kiln.db").exists();
    let present = if is_made { "" } else { " (not made yet)" };
    let (holds, collection) = if is_made { stored(&root)? } else { Default::default() };
    let facts = [
        ("version", env!("KILN_VERSION").to_owned()),
        ("kernel", kernel),
        ("platform", Platform::host().to_string()),
        ("store", format!("{}{present}", root.display())),
        ("holds", holds),
        ("collects", collection),
        ("sandbox", mode),
        ("reason", reason),
        ("overlay", overlay),
        ("network", network),
        ("limits", limits()),
        ("emulated", emulated()),
        ("labels", labels()),
    ];
    if args.json {
        let object: serde_json::Map<_, _> =
            facts.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        return printed(print::line(format!("{:#}", serde_json::Value::Object(object))));
    }
    printed(facts.iter().try_for_each(|(key, value)| print::line(format!("{key:<9} {value}"))))
}

/// What the store holds, and when it collects by itself.
fn stored(root: &Path) -> Result<(String, String), Failure> {
    let store = session::open_store(root)?;
    let usage = store.usage().map_err(|e| of_store(&e))?;
    let mut parts = vec![super::du::counted(usage.images.len(), "images")];
    for kind in Kind::ALL {
        let (count, bytes) = usage.of_kind(kind);
        if count > 0 {
            parts.push(format!(
                "{} {}",
                super::du::counted(count, super::du::plural(kind)),
                size::human(bytes)
            ));
        }
    }
    let holds = format!("{}: {}", size::human(usage.total_bytes()), parts.join(", "));
    Ok((holds, super::prune::describe_automatic(&store)?))
}

/// Which limits of commands can be set, and why others cannot.
fn limits() -> String {
    let placement = Placement::find(&Controller::ALL.into_iter().collect(), None);
    let names = |version: Version| {
        let here = placement.homes.iter().filter(|(_, home)| home.version == version);
        here.map(|(controller, _)| controller.name()).collect::<Vec<_>>().join(", ")
    };
    let mut parts: Vec<String> = [(Version::Two, "cgroup v2"), (Version::One, "cgroup v1")]
        .into_iter()
        .map(|(version, label)| (names(version), label))
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, label)| format!("{names} ({label})"))
        .collect();
    // The same reason holds for all of them in most cases.
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (controller, reason) in &placement.missing {
        reasons.entry(reason).or_default().push(controller.name());
    }
    parts.extend(reasons.iter().map(|(reason, names)| format!("not {}: {reason}", names.join(", "))));
    parts.join("; ")
}

fn emulated() -> String {
    let found = emulate::emulated(&Platform::host().architecture, &session::program_directories());
    if found.is_empty() { "nothing; qemu-user-static would help".to_owned() } else { found.join(", ") }
}

fn labels() -> String {
    match (privileges::has_apparmor(), privileges::has_selinux()) {
        (true, true) => "AppArmor, SELinux",
        (true, false) => "AppArmor",
        (false, true) => "SELinux",
        (false, false) => "neither AppArmor nor SELinux here",
    }
    .to_owned()
}

/// Mounts an overlay on the store's file system and says how it went.
fn overlay_works(root: &Path) -> String {
    let beside = if root.exists() { root } else { Path::new("/tmp") };
    let try_it = || -> std::io::Result<()> {
        let dir = tempfile::tempdir_in(beside)?;
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(dir.path().join(name))?;
        }
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (lower, upper, work) = (path("lower"), path("upper"), path("work"));
        let overlay = crate::sys::mount::Overlay {
            context: None,
            lowers: vec![lower.as_str()],
            upper: Some((upper.as_str(), work.as_str())),
        };
        crate::sys::mount::overlay(&overlay).map(drop)
    };
    match try_it() {
        Ok(()) => "works".to_owned(),
        Err(error) => format!("does not work on {}: {error}", beside.display()),
    }
}

/// `kiln install-alias`.
pub(super) fn install_alias(args: &InstallAliasArgs) -> Result<u8, Failure> {
    let link = args.directory.join("build");
    let fail = |e: std::io::Error| Failure {
        causes: vec![e.to_string()],
        ..Failure::new(failure::Kind::User, format!("cannot make `{}`", link.display()))
    };
    let program = std::env::current_exe().map_err(fail)?;
    // A new user has no ~/bin yet.
    std::fs::create_dir_all(&args.directory).map_err(fail)?;
    if args.force && link.symlink_metadata().is_ok() {
        std::fs::remove_file(&link).map_err(fail)?;
    }
    std::os::unix::fs::symlink(&program, &link).map_err(|e| {
        let exists = e.kind() == std::io::ErrorKind::AlreadyExists;
        let failure = fail(e);
        if exists { failure.with_hint("--force replaces it") } else { failure }
    })?;
    print::talk(format!("{} -> {}", link.display(), program.display()));
    Ok(0)
}
