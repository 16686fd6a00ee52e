//! Options of the commands that look into an image: `layers`, `ls`, `cat`, `cp`.
//!
//! Invariants: a path in an image is absolute, so that `IMAGE:PATH` is never mistaken for `IMAGE:TAG`.

use std::path::PathBuf;

use clap::Args;

use super::{amount, choice};
use crate::image::platform::Platform;

/// What `--max-waste` allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WasteLimit {
    /// So many bytes.
    Bytes(u64),
    /// So much of the unpacked bytes.
    Percent(f64),
}

fn waste(text: &str) -> Result<WasteLimit, String> {
    let Some(number) = text.strip_suffix('%') else {
        return amount::size(text).map(WasteLimit::Bytes).map_err(|e| format!("{e}, or a share such as 5%"));
    };
    match number.trim().parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(WasteLimit::Percent(percent)),
        _ => Err(format!("`{text}` is not a share between 0% and 100%")),
    }
}

/// `kiln layers`.
#[derive(Debug, Args)]
#[command(
    after_help = "SIZE is what a registry holds, UNPACKED the bytes of the files, WASTED those of files that a later \
                        layer removed or wrote again.\n\nExits with 3 when a limit is exceeded."
)]
pub struct LayersArgs {
    /// Image of the store, or path of an OCI layout or archive with an optional :TAG
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Platform to choose where there are several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = choice::platform)]
    pub platform: Option<Platform>,
    /// Largest files to show for each layer
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub files: usize,
    /// Fail when the image is larger than this, e.g. 200m
    #[arg(long, value_name = "SIZE", value_parser = amount::size)]
    pub max_size: Option<u64>,
    /// Fail when more than this is wasted, e.g. 10m or 5%
    #[arg(long, value_name = "SIZE|PERCENT", value_parser = waste)]
    pub max_waste: Option<WasteLimit>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `kiln ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Image of the store, or path of an OCI layout or archive with an optional :TAG
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Directory or file in the image
    #[arg(value_name = "PATH", default_value = "/")]
    pub path: String,
    /// Show type, mode, owner, size and time
    #[arg(short, long)]
    pub long: bool,
    /// List what is in directories too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Platform to choose where there are several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = choice::platform)]
    pub platform: Option<Platform>,
    /// Print JSON
    #[arg(long, conflicts_with = "long")]
    pub json: bool,
}

/// `kiln cat`.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// Image of the store, or path of an OCI layout or archive with an optional :TAG
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Files in the image
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<String>,
    /// Platform to choose where there are several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = choice::platform)]
    pub platform: Option<Platform>,
}

/// A place in an image: `IMAGE:/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePlace {
    /// The image.
    pub image: String,
    /// Absolute, as it was written.
    pub path: String,
}

fn place(text: &str) -> Result<ImagePlace, String> {
    // The slashes of `oci-layout://` begin no path.
    let start = text.find("://").map_or(0, |at| at + "://".len());
    let at = text[start..].find(":/").map(|at| at + start);
    match at {
        Some(at) if at > start => {
            Ok(ImagePlace { image: text[..at].to_owned(), path: text[at + 1..].to_owned() })
        }
        _ => Err("write an image, a colon and an absolute path, e.g. debian:12:/etc/os-release".to_owned()),
    }
}

/// `kiln cp`.
#[derive(Debug, Args)]
#[command(
    after_help = "A file or directory is put into DEST when that is a directory, and called DEST otherwise; of \
                        `PATH/.` the content is copied. Symlinks are copied, not followed. Nothing outside of DEST is \
                        written."
)]
pub struct CpArgs {
    /// What to copy
    #[arg(value_name = "IMAGE:PATH", value_parser = place)]
    pub from: ImagePlace,
    /// Where to; `-` writes a tar to standard output
    #[arg(value_name = "DEST")]
    pub to: PathBuf,
    /// Keep owners, set-user-id bits, extended attributes, devices and fifos, as far as is permitted
    #[arg(short, long)]
    pub archive: bool,
    /// Platform to choose where there are several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH", value_parser = choice::platform)]
    pub platform: Option<Platform>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_images() {
        let parts = |text: &str| place(text).map(|place| (place.image, place.path));
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(parts("debian:12:/etc/os-release"), pair("debian:12", "/etc/os-release"));
        assert_eq!(parts("localhost:5000/a:/x:/y"), pair("localhost:5000/a", "/x:/y"));
        assert_eq!(parts("oci-layout://d/l:tag:/x"), pair("oci-layout://d/l:tag", "/x"));
        assert_eq!(parts("./a.tar:/"), pair("./a.tar", "/"));
        for bad in ["debian", "debian:12", ":/x", "oci-layout://d", "oci-layout://:/x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_of_waste() {
        assert_eq!(waste("5%"), Ok(WasteLimit::Percent(5.0)));
        assert_eq!(waste("1k"), Ok(WasteLimit::Bytes(1024)));
        for bad in ["%", "101%", "-1%", "NaN%", "x"] {
            assert!(waste(bad).is_err(), "{bad}");
        }
    }
}
