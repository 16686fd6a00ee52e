//! `kiln diff` and `kiln verify`.
//!
//! Invariants:
//! - exit 0: nothing differs; 1: something does, or it could not be found out, which standard error then says;
//! - a rebuild has a store of its own: no step of the image that is verified is taken from it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::args::{BuildArgs, DiffArgs, VerifyArgs};
use super::session;
use crate::build::compare::{
    CompareError, CompareOptions, Comparison, FileChange, FileVerdict, Image, LayerChange, OpenError,
    ValueChange, compare,
};
use crate::image::manifest::media_type;
use crate::image::platform::Platform;
use crate::layer::estargz::TOC_ANNOTATION;
use crate::store::{Store, Throwaway};
use crate::sys::signals;
use crate::ui::failure::{EXIT_FAILED, EXIT_OK, Failure, Kind};
use crate::ui::print;

/// Most differences of a kind that are shown to people; JSON has all.
const MAX_SHOWN: usize = 200;

/// `kiln diff`.
pub(super) fn diff(root: Option<PathBuf>, args: &DiffArgs) -> Result<u8, Failure> {
    let store = existing_store(root)?;
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let a = Image::open(store.as_ref(), &args.a, &platform).map_err(|e| not_opened(&e))?;
    let b = Image::open(store.as_ref(), &args.b, &platform).map_err(|e| not_opened(&e))?;
    let options = CompareOptions { ignore_times: args.ignore_times };
    let found = compare(&a, &b, options).map_err(|e| failed(&e))?;
    show(&found, args.json)?;
    Ok(if found.equal { EXIT_OK } else { EXIT_FAILED })
}

/// `kiln verify`.
pub(super) fn verify(root: Option<PathBuf>, args: &VerifyArgs) -> Result<u8, Failure> {
    let Some(build) = &args.build else { return Err(Failure::new(Kind::Internal, "no build to verify")) };
    // An interrupt is for the rebuild, which ends by it; this process tidies up then.
    signals::block_termination().map_err(|e| Failure::from_error(Kind::Internal, &e))?;
    let root = session::store_root(root)?;
    let store = session::open_store(&root)?;
    let wanted = match &build.platforms[..] {
        [] => Platform::host(),
        [only] => only.clone(),
        _ => {
            return Err(Failure::new(Kind::Usage, "kiln verify rebuilds one platform at a time")
                .with_hint("name one with --platform"));
        }
    };
    let image = Image::open(Some(&store), &args.image, &wanted).map_err(|e| not_opened(&e))?;
    let throwaway = Throwaway::new(&store).map_err(|e| super::failure::of_store(&e))?;
    let out = throwaway.root().with_file_name("image");
    let rebuilt = rebuild(args, build, &image, &throwaway.root(), &out).and_then(|()| {
        let again = Image::open(None, &format!("oci-layout://{}", out.display()), &image.platform)
            .map_err(|e| not_opened(&e))?;
        let options = CompareOptions { ignore_times: args.ignore_times };
        compare(&image, &again, options).map_err(|e| failed(&e))
    });
    // What the rebuild left belongs to ids that only its user namespace may touch. Whether it can be entered or not,
    // the result is known by now.
    drop(image);
    let _ = session::enter();
    drop(throwaway);
    let found = rebuilt?;
    show(&found, args.json)?;
    let same = found.equal || found.same_id;
    if !args.json {
        print::talk(verdict(&found, &args.image));
    }
    Ok(if same { EXIT_OK } else { EXIT_FAILED })
}

/// Builds again, with another `kiln` and a store that has nothing but blobs.
fn rebuild(
    args: &VerifyArgs,
    build: &BuildArgs,
    image: &Image<'_>,
    store: &Path,
    out: &Path,
) -> Result<(), Failure> {
    let fail = |e: &std::io::Error| Failure::from_error(Kind::Internal, e);
    let program = std::env::current_exe().map_err(|e| fail(&e))?;
    let mut words: Vec<OsString> = ["build", "--root"].map(OsString::from).into();
    words.push(store.into());
    words.push("-o".into());
    let mut output = OsString::from("type=oci,tar=false,");
    output.push(form(image));
    // A path with a comma or a quote is a quoted field.
    output.push(format!("\"dest={}\"", out.display().to_string().replace('"', "\"\"")));
    words.push(output);
    if build.source_date_epoch.is_none()
        && let Some(created) = image.created
    {
        words.push(format!("--source-date-epoch={created}").into());
    }
    if build.platforms.is_empty() && image.platform != Platform::host() {
        words.push(format!("--platform={}", image.platform).into());
    }
    words.extend(args.words.iter().cloned());
    // Standard output belongs to the comparison.
    let status = Command::new(program).args(words).stdout(Stdio::null()).status().map_err(|e| fail(&e))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(Kind::User, "the rebuild failed, so there is nothing to compare")
        .with_hint("give the options that the image was built with behind its name"))
}

/// The output attributes that give the image's form, as far as it tells.
fn form(image: &Image<'_>) -> String {
    let last = image.manifest.layers.last();
    let kind = |name: &str| last.is_some_and(|layer| layer.media_type == name);
    let compression = if last.is_some_and(|layer| layer.annotations.contains_key(TOC_ANNOTATION)) {
        "compression=estargz,"
    } else if kind(media_type::OCI_LAYER_ZSTD) || kind(media_type::DOCKER_LAYER_ZSTD) {
        "compression=zstd,"
    } else if kind(media_type::OCI_LAYER) || kind(media_type::DOCKER_LAYER) {
        "compression=uncompressed,"
    } else {
        ""
    };
    let docker =
        if image.manifest.media_type == media_type::DOCKER_MANIFEST { "oci-mediatypes=false," } else { "" };
    format!("{compression}{docker}")
}

fn verdict(found: &Comparison, name: &str) -> String {
    if found.identical {
        format!("verified: the rebuild of {name} has the same digest, {}", found.digests[0])
    } else if found.same_id {
        format!(
            "verified: the rebuild of {name} has the same config and files; only the manifest differs (compression or \
             annotations)"
        )
    } else if found.equal {
        format!("verified: the rebuild of {name} differs in nothing but what was left out")
    } else {
        format!("not verified: the rebuild of {name} differs")
    }
}

/// The store, if there is one: looking must not make it.
pub(super) fn existing_store(root: Option<PathBuf>) -> Result<Option<Store>, Failure> {
    let root = session::store_root(root)?;
    if root.join("kiln.db").exists() { session::open_store(&root).map(Some) } else { Ok(None) }
}

pub(super) fn not_opened(error: &OpenError) -> Failure {
    let failure = Failure::from_error(Kind::User, error);
    match error {
        OpenError::NotFound { .. } => failure.with_hint(
            "`kiln images` lists the images; name a layout or an archive by its path, e.g. ./image.tar or oci-layout://DIR:TAG",
        ),
        OpenError::NoPlatform { .. } => failure.with_hint("choose one with --platform"),
        _ => failure,
    }
}

pub(super) fn failed(error: &CompareError) -> Failure {
    match error {
        CompareError::Open(error) => not_opened(error),
        other => Failure::from_error(Kind::User, other),
    }
}

fn show(found: &Comparison, json: bool) -> Result<(), Failure> {
    let text = if json { format!("{:#}", serde_json::json!(found)) } else { text(found) };
    if text.is_empty() {
        return Ok(());
    }
    print::line(text.trim_end()).map_err(|e| Failure::from_error(Kind::User, &e))
}

fn text(found: &Comparison) -> String {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        if lines.is_empty() {
            return;
        }
        text.push_str(&format!("{title}\n"));
        for line in lines.iter().take(MAX_SHOWN) {
            text.push_str(&format!("  {}\n", crate::ui::text::visible(line)));
        }
        if lines.len() > MAX_SHOWN {
            text.push_str(&format!("  ... and {} more (--json shows all)\n", lines.len() - MAX_SHOWN));
        }
    };
    section("manifest", found.manifest.iter().map(value).collect());
    section("config", found.config.iter().map(value).collect());
    section("layers", found.layers.iter().map(layer).collect());
    section("files", found.files.iter().map(file).collect());
    text
}

fn value(change: &ValueChange) -> String {
    match (&change.a, &change.b) {
        (Some(a), Some(b)) => format!("~ {}: {a} -> {b}", change.path),
        (Some(a), None) => format!("- {}: {a}", change.path),
        (None, b) => {
            format!("+ {}: {}", change.path, b.as_ref().map(ToString::to_string).unwrap_or_default())
        }
    }
}

fn layer(change: &LayerChange) -> String {
    let made_by = change.created_by.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
    let number = change.number;
    match (&change.a, &change.b) {
        _ if change.compression_only => {
            format!("~ {number}{made_by}: the same archive, compressed in another way")
        }
        (Some(_), None) => format!("- {number}{made_by}"),
        (None, _) => format!("+ {number}{made_by}"),
        (Some(_), Some(_)) => {
            let place = change.place.as_ref().map_or_else(String::new, |place| {
                let within = match (&place.entry, place.data_offset) {
                    (Some(entry), Some(offset)) => format!("byte {offset} of `{entry}`"),
                    (Some(entry), None) => format!("the header of `{entry}`"),
                    (None, _) => "its end".to_owned(),
                };
                format!(": first at byte {} of the archive, {within}", place.offset)
            });
            format!("~ {number}{made_by}{place}")
        }
    }
}

fn file(change: &FileChange) -> String {
    let FileChange { path, verdict, kind, changes, first_difference } = change;
    match verdict {
        FileVerdict::Added => format!("+ {path} ({kind})"),
        FileVerdict::Removed => format!("- {path} ({kind})"),
        FileVerdict::Changed => {
            let aspects = changes.iter().map(|aspect| match (aspect.what.as_str(), first_difference) {
                ("content", Some(offset)) => format!("content from byte {offset} on"),
                ("content", None) => "content".to_owned(),
                (what, _) => format!("{what} {} -> {}", aspect.a, aspect.b),
            });
            format!("~ {path}: {}", aspects.collect::<Vec<_>>().join(", "))
        }
    }
}
