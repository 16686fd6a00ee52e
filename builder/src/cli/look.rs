//! `kiln ls`, `kiln cat` and `kiln cp`.
//!
//! Invariants:
//! - what an image says never leads out of the destination of `kiln cp`: names are taken apart before they are used,
//!   symlinks are made and never followed beyond it;
//! - what is already there is replaced only by something of its own name, and a directory only by nothing.

use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{CatArgs, CpArgs, LsArgs};
use super::compare::{existing_store, failed, not_opened};
use super::failure::of_other;
use super::store::printed;
use crate::build::compare::Image;
use crate::build::contents::{ArchiveOptions, Archived, Contents, ContentsError, Keep, Order};
use crate::image::platform::Platform;
use crate::layer::tar;
use crate::layer::tree::{LookError, Node, kind};
use crate::snapshot::apply::{ApplyError, Ownership, Top, UnpackOptions, unpack_archive};
use crate::store::Store;
use crate::sys::rootdir::RootDir;
use crate::ui::failure::{Failure, Kind};
use crate::ui::table::{Align, Table};
use crate::ui::{print, terminal, text};

/// Opens an image and reads what files it has.
fn open<'a>(store: Option<&'a Store>, name: &str, platform: Option<&Platform>) -> Result<Image<'a>, Failure> {
    let platform = platform.cloned().unwrap_or_else(Platform::host);
    Image::open(store, name, &platform).map_err(|e| not_opened(&e))
}

fn not_found(error: &LookError, image: &str) -> Failure {
    let failure = Failure::from_error(Kind::User, error);
    match error {
        LookError::Missing { path } => {
            let above = path.trim_end_matches('/').rsplit_once('/').map_or("/", |(above, _)| above);
            let above = if above.is_empty() { "/" } else { above };
            failure.with_hint(format!("`kiln ls {image} {above}` lists what is there"))
        }
        _ => failure,
    }
}

fn of_contents(error: &ContentsError) -> Failure {
    match error {
        ContentsError::Image(error) => failed(error),
        error => of_other(error),
    }
}

/// One line of `kiln ls`: a path as it is shown, and what is there.
type Line<'a> = (String, Option<&'a Node>);

/// `kiln ls`.
pub(super) fn ls(root: Option<PathBuf>, args: &LsArgs) -> Result<u8, Failure> {
    let store = existing_store(root)?;
    let image = open(store.as_ref(), &args.image, args.platform.as_ref())?;
    let contents = Contents::read(&image).map_err(|e| failed(&e))?;
    let tree = contents.tree();
    let real = tree.find(args.path.as_bytes(), true).map_err(|e| not_found(&e, &args.image))?;
    let lines: Vec<Line<'_>> = if !tree.is_directory(&real) {
        vec![(args.path.clone(), tree.node(&real))]
    } else if args.recursive {
        let start = if real.is_empty() { 0 } else { real.len() + 1 };
        let shown = |path: &[u8]| String::from_utf8_lossy(path.get(start..).unwrap_or_default()).into_owned();
        tree.below(&real).map(|(path, node)| (shown(path), Some(node))).collect()
    } else {
        let children = tree.children(&real).into_iter();
        children.map(|(name, node)| (String::from_utf8_lossy(&name).into_owned(), node)).collect()
    };
    if args.json {
        let all: Vec<_> = lines.iter().map(|(path, node)| as_json(path, *node)).collect();
        return printed(print::line(format!("{:#}", json!(all))));
    }
    if lines.is_empty() {
        return Ok(0);
    }
    let shown = if args.long {
        long(&lines)
    } else {
        lines.iter().map(|(path, _)| format!("{}\n", text::visible(path))).collect()
    };
    printed(print::line(shown.trim_end_matches('\n')))
}

fn as_json(path: &str, node: Option<&Node>) -> serde_json::Value {
    let Some(node) = node else { return json!({ "path": path, "type": "directory" }) };
    let entry = &node.entry;
    let mut object = json!({
        "path": path,
        "type": kind(entry.kind),
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "size": entry.size,
        "mtime": entry.mtime_seconds,
        "layer": node.place.0,
    });
    if entry.kind == tar::Kind::Symlink {
        object["target"] = json!(String::from_utf8_lossy(&entry.link));
    }
    if let Some(digest) = node.digest {
        object["digest"] = json!(digest.to_string());
    }
    object
}

fn long(lines: &[Line<'_>]) -> String {
    let mut table = Table::new(&[
        ("MODE", Align::Left),
        ("OWNER", Align::Right),
        ("SIZE", Align::Right),
        ("TIME", Align::Left),
        ("NAME", Align::Left),
    ]);
    for (path, node) in lines {
        let Some(node) = node else {
            table.row(["d?????????", "", "", "", path.as_str()]);
            continue;
        };
        let entry = &node.entry;
        let time = jiff::Timestamp::from_second(entry.mtime_seconds);
        let target = match entry.kind {
            tar::Kind::Symlink => format!(" -> {}", String::from_utf8_lossy(&entry.link)),
            _ => String::new(),
        };
        let size = match entry.kind {
            tar::Kind::CharDevice | tar::Kind::BlockDevice => {
                format!("{}, {}", entry.device.major, entry.device.minor)
            }
            _ => entry.size.to_string(),
        };
        table.row([
            mode(entry.kind, entry.mode),
            format!("{}:{}", entry.uid, entry.gid),
            size,
            time.map_or_else(|_| entry.mtime_seconds.to_string(), |time| time.to_string()),
            format!("{path}{target}"),
        ]);
    }
    // The columns tell by themselves what they are, as with ls(1).
    table.render().split_once('\n').map(|(_, rows)| rows.to_owned()).unwrap_or_default()
}

/// `-rwxr-xr-x`.
fn mode(kind: tar::Kind, mode: u32) -> String {
    let first = match kind {
        tar::Kind::File | tar::Kind::HardLink => '-',
        tar::Kind::Directory => 'd',
        tar::Kind::Symlink => 'l',
        tar::Kind::CharDevice => 'c',
        tar::Kind::BlockDevice => 'b',
        tar::Kind::Fifo => 'p',
    };
    let mut shown = String::from(first);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        shown.push(if bits & 4 != 0 { 'r' } else { '-' });
        shown.push(if bits & 2 != 0 { 'w' } else { '-' });
        shown.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    shown
}

/// `kiln cat`.
pub(super) fn cat(root: Option<PathBuf>, args: &CatArgs) -> Result<u8, Failure> {
    let store = existing_store(root)?;
    let image = open(store.as_ref(), &args.image, args.platform.as_ref())?;
    let contents = Contents::read(&image).map_err(|e| failed(&e))?;
    let find = |path: &String| contents.tree().find(path.as_bytes(), true);
    let found: Vec<Vec<u8>> =
        args.paths.iter().map(find).collect::<Result<_, _>>().map_err(|e| not_found(&e, &args.image))?;
    let mut out = io::stdout().lock();
    for real in &found {
        match contents.write_file(real, &mut out) {
            Err(error) if is_broken_pipe(&error) => return Ok(0),
            result => result.map_err(|e| of_contents(&e))?,
        }
    }
    Ok(0)
}

/// Whether the reader of standard output went away.
fn is_broken_pipe(error: &ContentsError) -> bool {
    match error {
        ContentsError::Write(error) => error.kind() == io::ErrorKind::BrokenPipe,
        ContentsError::Tar(tar::TarError::Write(error)) => error.kind() == io::ErrorKind::BrokenPipe,
        _ => false,
    }
}

/// `kiln cp`.
pub(super) fn cp(root: Option<PathBuf>, args: &CpArgs) -> Result<u8, Failure> {
    let to_stdout = args.to.as_os_str() == "-";
    if to_stdout && terminal::stdout_is_terminal() {
        return Err(Failure::new(Kind::Usage, "a tar is not written to a terminal")
            .with_hint("send it to a file or a program, e.g. `| tar t`"));
    }
    let store = existing_store(root)?;
    let image = open(store.as_ref(), &args.from.image, args.platform.as_ref())?;
    let contents = Contents::read(&image).map_err(|e| failed(&e))?;
    let path = args.from.path.as_bytes();
    let real = contents.tree().find(path, false).map_err(|e| not_found(&e, &args.from.image))?;
    let is_directory = contents.tree().is_directory(&real);
    let only_content = real.is_empty() || is_directory && path.ends_with(b"/.");
    let base = if only_content { Vec::new() } else { name_of(&real) };
    let archived = if to_stdout {
        let options = ArchiveOptions { name: base, order: Order::DirectoriesFirst, keep: Keep::Everything };
        let mut out = BufWriter::with_capacity(256 * 1024, io::stdout().lock());
        let written = contents.write_archive(&real, &options, &mut out).and_then(|archived| {
            out.flush().map_err(ContentsError::Write)?;
            Ok(archived)
        });
        match written {
            Err(error) if is_broken_pipe(&error) => {
                // What is still buffered has no reader.
                let _ = out.into_parts();
                return Ok(0);
            }
            written => written.map_err(|e| of_contents(&e))?,
        }
    } else {
        let target = Target::choose(&args.to, base, is_directory)?;
        copy_to(&contents, &real, &target, args.archive)?
    };
    if archived.left_out > 0 {
        let what = if args.archive || to_stdout { "" } else { "; --archive takes devices and fifos along" };
        print::talk(format!("warning: {} left out{what}", counted(archived.left_out)));
    }
    Ok(0)
}

fn counted(number: u64) -> String {
    if number == 1 {
        "one device, fifo or dangling link".to_owned()
    } else {
        format!("{number} devices, fifos and dangling links")
    }
}

fn name_of(real: &[u8]) -> Vec<u8> {
    real.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec()
}

/// Where `kiln cp` writes to.
enum Target {
    /// Below this directory, with the top of the copy called so; the content of a directory without a name.
    Below { directory: PathBuf, name: Vec<u8> },
    /// Into this file, device or pipe, which somebody else made.
    Into(PathBuf),
}

impl Target {
    fn choose(dest: &Path, base: Vec<u8>, is_directory: bool) -> Result<Self, Failure> {
        let fail = |message: String| Failure::new(Kind::User, message);
        let followed = std::fs::metadata(dest).ok();
        let shown = dest.display();
        match followed {
            Some(found) if found.is_dir() => Ok(Self::Below { directory: dest.to_owned(), name: base }),
            Some(_) if is_directory => Err(fail(format!("cannot copy a directory onto the file `{shown}`"))),
            // A link, `/dev/stdout` for instance, stays one.
            Some(found) if !found.is_file() || dest.is_symlink() => Ok(Self::Into(dest.to_owned())),
            None if is_directory => {
                std::fs::create_dir(dest).map_err(|e| {
                    Failure::from_error(Kind::User, &e).with_hint("the directory that DEST is in must exist")
                })?;
                Ok(Self::Below { directory: dest.to_owned(), name: Vec::new() })
            }
            None if dest.as_os_str().as_bytes().ends_with(b"/") => {
                Err(fail(format!("there is no directory `{shown}`")))
            }
            _ => {
                let name = dest.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
                let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty());
                Ok(Self::Below { directory: parent.unwrap_or(Path::new(".")).to_owned(), name })
            }
        }
    }
}

fn copy_to(
    contents: &Contents<'_>,
    real: &[u8],
    target: &Target,
    archive: bool,
) -> Result<Archived, Failure> {
    let (directory, name) = match target {
        Target::Below { directory, name } => (directory, name.clone()),
        Target::Into(path) => {
            let opened = std::fs::OpenOptions::new().write(true).truncate(true).open(path);
            let mut file = opened.map_err(|e| {
                Failure::new(Kind::User, format!("cannot write to `{}`: {e}", path.display()))
            })?;
            contents.write_file(real, &mut file).map_err(|e| of_contents(&e))?;
            return Ok(Archived::default());
        }
    };
    let top = if name.is_empty() { Top::Set } else { Top::Keep };
    let keep = if archive { Keep::Everything } else { Keep::Harmless };
    let options = ArchiveOptions { name, order: Order::DirectoriesLast, keep };
    let caller = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let how = UnpackOptions { chown: (!archive).then_some(caller), ownership: Ownership::BestEffort, top };
    let root = RootDir::open(directory).map_err(|e| of_other(&e))?;
    let (reader, writer) = io::pipe().map_err(|e| of_other(&e))?;
    // One side of the pipe makes the archive, the other unpacks it.
    let (archived, unpacked) = std::thread::scope(|scope| {
        let archiver = scope.spawn(|| {
            let mut writer = BufWriter::with_capacity(256 * 1024, writer);
            let archived = contents.write_archive(real, &options, &mut writer)?;
            writer.flush().map_err(ContentsError::Write)?;
            Ok::<Archived, ContentsError>(archived)
        });
        let unpacked = unpack_archive(reader, &root, b"", &how);
        (archiver.join(), unpacked)
    });
    let archived =
        archived.map_err(|_| Failure::new(Kind::Internal, "the archiver of `kiln cp` panicked"))?;
    match (archived, unpacked) {
        (Ok(archived), Ok(unpacked)) => {
            for warning in &unpacked.warnings.kept {
                print::talk(format!("warning: {}", text::visible(&warning.to_string())));
            }
            if unpacked.warnings.dropped > 0 {
                print::talk(format!("warning: and {} more of these", unpacked.warnings.dropped));
            }
            Ok(archived)
        }
        // An archive that ends early is the consequence of an image that cannot be read, and a broken pipe that of a
        // destination that cannot be written.
        (Err(error), _) if !is_broken_pipe(&error) => Err(of_contents(&error)),
        (_, Err(error)) => Err(not_written(&error, directory)),
        (Err(error), Ok(_)) => Err(of_contents(&error)),
    }
}

fn not_written(error: &ApplyError, directory: &Path) -> Failure {
    let mut failure = of_other(error);
    failure.message = format!("cannot copy to `{}`: {}", directory.display(), failure.message);
    failure
}
