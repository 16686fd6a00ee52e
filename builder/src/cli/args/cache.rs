//! `--cache-from` and `--cache-to` (cli.md 2.4).
//!
//! Invariants: what a type needs is there; a type that kiln does not have is refused here, not in mid-build.

use super::actions_cache::{self, ActionsSpec};
use super::amount::AmountError;
use super::bucket_cache::{self, BucketSpec};
use super::{ArgsError, Environment};
use crate::build::{CacheMode, CacheSource, CacheTarget};
use crate::cache::mount::Mounts;
use crate::cache::{Form, Location};
use crate::export::spec::attributes::{self, AttributeError, closest};
use crate::export::spec::{self, OutputError};
use crate::image::reference::{Reference, ReferenceError};
use crate::layer::compress::Compression;

/// One cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheSpec {
    /// Where.
    pub place: Place,
    /// `mode` of an export.
    pub mode: CacheMode,
    /// `ignore-error`: an export that fails is a warning.
    pub ignore_error: bool,
    /// `compression` and `compression-level`; `None` takes the image's.
    pub compression: Option<Compression>,
    /// `force-compression`.
    pub force_compression: bool,
    /// `registry.insecure`: plain http, or any certificate.
    pub insecure: bool,
    /// `mounts`: which cache mounts travel.
    pub mounts: Mounts,
    /// `image-manifest` and `oci-mediatypes`.
    pub form: Form,
    /// `reset`: what the build does not use is removed from a directory.
    pub reset: bool,
    /// Keys that were given and have no effect.
    pub unused: Vec<&'static str>,
}

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// There.
    At(Location),
    /// Beside the image, in every repository that it is pushed to (`type=inline`).
    Beside,
    /// In the cache service of the job, which only a job has (`type=gha`).
    Actions(ActionsSpec),
    /// In a bucket (`type=s3`), until the environment has been asked.
    Bucket(Box<BucketSpec>),
}

/// Why a text is not a cache.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// Bad attributes.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// No type.
    #[error("`{0}` has no type; write type=registry,ref=IMAGE, type=local or type=gha")]
    NoType(String),
    /// An unknown type.
    #[error("unknown cache type `{kind}`{}; use registry, local, gha or s3", .meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default())]
    Type {
        /// The type.
        kind: String,
        /// The most similar one.
        meant: Option<&'static str>,
    },
    /// A type of other builders.
    #[error("kiln has no cache of type {kind}: {why}; {instead}")]
    Elsewhere {
        /// The type.
        kind: &'static str,
        /// Why not.
        why: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// Something is missing.
    #[error("type={kind} needs `{key}`; write type={kind},{key}=...")]
    Missing {
        /// The type.
        kind: &'static str,
        /// The key.
        key: &'static str,
    },
    /// An unknown mode.
    #[error("unknown cache mode `{0}`; use mode=min or mode=max")]
    Mode(String),
    /// Another format.
    #[error(
        "image manifests have OCI's media types: write image-manifest=false, or leave out oci-mediatypes=false"
    )]
    Form,
    /// A bad name.
    #[error(transparent)]
    Name(#[from] ReferenceError),
    /// A name with a digest.
    #[error("`{0}` has a digest; a cache is a repository, whose steps are found by their own tags")]
    Digest(String),
    /// No cache mount.
    #[error("`mounts` names no cache mount; write mounts=all, mounts=ID or mounts=ID;ID")]
    Mounts,
    /// A bad compression.
    #[error(transparent)]
    Compression(#[from] OutputError),
    /// A bad name of a cache.
    #[error("`scope` has at most 200 characters, and no comma, `#` or control character among them")]
    Scope,
    /// A bad address.
    #[error("`{key}` is not an http or https URL")]
    Url {
        /// Which.
        key: &'static str,
    },
    /// A bad time.
    #[error(transparent)]
    Timeout(#[from] AmountError),
    /// A bad repository.
    #[error("`repository={0}` is not of the form OWNER/NAME")]
    Repository(String),
    /// A bad number.
    #[error("`{key}` is not a number of at least 1")]
    Number {
        /// Which.
        key: &'static str,
    },
    /// A bad way of retrying.
    #[error("unknown retry mode `{0}`; use standard or adaptive")]
    RetryMode(String),
    /// No names.
    #[error("`name` is not a list of names such as main;branch")]
    Names,
    /// A bad version.
    #[error("there is no version `{0}` of the cache service; use version=1 or version=2")]
    Version(String),
}

const COMMON_TO: [&str; 9] = [
    "type",
    "mode",
    "ignore-error",
    "image-manifest",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "mounts",
];

/// Parses the value of `--cache-from`; a text that is no attribute is an image.
pub fn parse_from(text: &str) -> Result<CacheSpec, CacheError> {
    parse(text, false)
}

/// Parses `--cache-ttl`: a duration, or 0 without a unit.
pub fn parse_ttl(text: &str) -> Result<std::time::Duration, super::amount::AmountError> {
    if text == "0" { Ok(std::time::Duration::ZERO) } else { super::amount::duration(text) }
}

/// Parses the value of `--cache-to`; a text that is no attribute is an image.
pub fn parse_to(text: &str) -> Result<CacheSpec, CacheError> {
    parse(text, true)
}

/// The text of a cache of a type that has secrets among its attributes, without whatever may be one.
pub fn without_secrets(text: &str) -> Option<String> {
    const HARMLESS: [&str; 8] =
        ["type", "mode", "scope", "bucket", "region", "name", "mounts", "ignore-error"];
    let has_secrets = |field: &str| matches!(field, "type=gha" | "type=s3");
    text.split(',').any(has_secrets).then(|| {
        let shown = text.split(',').map(|field| match field.split_once('=') {
            Some((key, _)) if !HARMLESS.contains(&key) => format!("{key}=***"),
            Some(_) => field.to_owned(),
            None => "***".to_owned(),
        });
        shown.collect::<Vec<_>>().join(",")
    })
}

fn elsewhere(kind: &str) -> Option<CacheError> {
    let with_directory = "use type=registry,ref=IMAGE, or type=local with whatever carries a directory there";
    let (kind, why, instead) = match kind {
        "inline" => (
            "inline",
            "an image carries nothing but itself, and its steps are beside it",
            "use type=registry,ref=IMAGE with the image's name",
        ),
        "azblob" => ("azblob", "blob storage is not supported", with_directory),
        _ => return None,
    };
    Some(CacheError::Elsewhere { kind, why, instead })
}

fn parse(text: &str, export: bool) -> Result<CacheSpec, CacheError> {
    let fields = attributes::fields(text)?;
    let mut pairs = match fields.as_slice() {
        [image] if !image.contains('=') => {
            vec![("type".to_owned(), "registry".to_owned()), ("ref".to_owned(), image.clone())]
        }
        _ => attributes::pairs(text)?,
    };
    let place = pairs.iter().position(|(key, _)| key == "type");
    let kind = place.map(|place| pairs.remove(place).1).ok_or_else(|| CacheError::NoType(text.to_owned()))?;
    let (name, needed): (&'static str, Option<&'static str>) = match (kind.as_str(), export) {
        ("registry", _) => ("registry", Some("ref")),
        ("local", true) => ("local", Some("dest")),
        ("local", false) => ("local", Some("src")),
        ("inline", true) => ("inline", None),
        ("gha", _) => ("gha", None),
        ("s3", _) => ("s3", None),
        (other, _) => {
            let meant = closest(other, ["registry", "local", "inline", "gha", "s3"]);
            let unknown = || CacheError::Type { kind: other.to_owned(), meant };
            return Err(elsewhere(other).unwrap_or_else(unknown));
        }
    };
    let mut known: Vec<&str> = if export { COMMON_TO.to_vec() } else { vec!["type", "mounts"] };
    known.extend(needed);
    match name {
        "registry" => known.push("registry.insecure"),
        // BuildKit's, for one of several caches in a directory; here all steps are found by their own tags.
        "local" => known.extend([if export { "reset" } else { "digest" }, "tag"]),
        "gha" => known.extend(actions_cache::KEYS),
        "s3" => known.extend(bucket_cache::KEYS),
        _ => {}
    }
    let mut seen = vec!["type"];
    for (key, _) in &pairs {
        if !known.contains(&key.as_str()) {
            return Err(attributes::unknown(key, &known).into());
        }
        if seen.contains(&key.as_str()) {
            return Err(AttributeError::Twice(key.clone()).into());
        }
        seen.push(key);
    }
    let given = |key: &str| pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
    let place = match needed {
        Some(key) => {
            let value = given(key).filter(|value| !value.is_empty());
            Place::At(location(name, value.ok_or(CacheError::Missing { kind: name, key })?)?)
        }
        None if name == "gha" => Place::Actions(ActionsSpec::parse(given)?),
        None if name == "s3" => Place::Bucket(Box::new(BucketSpec::parse(given)?)),
        None => Place::Beside,
    };
    let flag = |key: &str| given(key).map_or(Ok(false), |value| attributes::boolean(key, value));
    let unless = |key: &str| given(key).map_or(Ok(None), |value| attributes::boolean(key, value).map(Some));
    let form = match (unless("image-manifest")?, unless("oci-mediatypes")?.unwrap_or(true)) {
        (None | Some(true), true) => Form::Manifest,
        (Some(false), true) => Form::Index,
        (None | Some(false), false) => Form::DockerList,
        (Some(true), false) => return Err(CacheError::Form),
    };
    Ok(CacheSpec {
        place,
        mode: match given("mode") {
            None | Some("min") => CacheMode::Min,
            Some("max") => CacheMode::Max,
            Some(other) => return Err(CacheError::Mode(other.to_owned())),
        },
        ignore_error: flag("ignore-error")?,
        compression: compression(given("compression"), given("compression-level"))?,
        force_compression: flag("force-compression")?,
        insecure: flag("registry.insecure")?,
        mounts: match given("mounts") {
            None => Mounts::None,
            Some("") => return Err(CacheError::Mounts),
            Some("all") => Mounts::All,
            Some(ids) if ids.split(';').any(str::is_empty) => return Err(CacheError::Mounts),
            Some(ids) => Mounts::Only(ids.split(';').map(str::to_owned).collect()),
        },
        form,
        reset: flag("reset")?,
        unused: ["tag", "digest"].into_iter().filter(|key| given(key).is_some()).collect(),
    })
}

fn location(kind: &str, place: &str) -> Result<Location, CacheError> {
    if kind == "local" {
        return Ok(Location::Directory(place.into()));
    }
    let reference: Reference = place.parse()?;
    match reference.digest {
        Some(_) => Err(CacheError::Digest(place.to_owned())),
        None => Ok(Location::Registry(reference)),
    }
}

fn compression(name: Option<&str>, level: Option<&str>) -> Result<Option<Compression>, OutputError> {
    let name = name.map(spec::compression).transpose()?;
    let level = level.map(|level| spec::compression_level(level, name)).transpose()?;
    Ok((name.is_some() || level.is_some()).then(|| spec::compressor(name, level)))
}

impl CacheSpec {
    /// The cache of `type=inline`, as BuildKit's build argument asks for it.
    pub fn inline() -> Self {
        Self {
            place: Place::Beside,
            mode: CacheMode::Min,
            ignore_error: false,
            compression: None,
            force_compression: false,
            insecure: false,
            mounts: Mounts::None,
            form: Form::Manifest,
            reset: false,
            unused: Vec::new(),
        }
    }

    /// Finds the cache service of the job that this is, if it is one, and the keys of a bucket.
    pub fn complete(&mut self, environment: Environment<'_>) -> Result<(), ArgsError> {
        let location = match &self.place {
            Place::Actions(spec) => {
                spec.resolve(environment)?.map(|options| Location::Actions(Box::new(options)))
            }
            Place::Bucket(spec) => Some(Location::Bucket(Box::new(spec.resolve(environment)?))),
            Place::At(_) | Place::Beside => None,
        };
        if let Some(location) = location {
            self.place = Place::At(location);
        }
        Ok(())
    }

    /// What `--cache-to` asks for, of an image that is pushed to these names.
    pub fn targets(&self, pushed: &[Reference]) -> Vec<CacheTarget> {
        let locations: Vec<Location> = match &self.place {
            Place::At(location) => vec![location.clone()],
            Place::Beside => pushed.iter().cloned().map(Location::Registry).collect(),
            Place::Actions(_) | Place::Bucket(_) => Vec::new(),
        };
        let target = |location| CacheTarget {
            location,
            mode: self.mode,
            ignore_error: self.ignore_error,
            compression: self.compression,
            force_compression: self.force_compression,
            mounts: self.mounts.clone(),
            form: self.form,
            reset: self.reset,
        };
        locations.into_iter().map(target).collect()
    }

    /// What `--cache-from` asks for.
    pub fn source(&self) -> Option<CacheSource> {
        let Place::At(location) = &self.place else { return None };
        Some(CacheSource { location: location.clone(), mounts: self.mounts.clone() })
    }

    /// The registry that need not have a good certificate.
    pub fn insecure_host(&self) -> Option<String> {
        match &self.place {
            Place::At(Location::Registry(reference)) if self.insecure => Some(reference.registry.clone()),
            _ => None,
        }
    }

    /// The tag that was given and plays no part.
    pub fn unused_tag(&self) -> Option<&str> {
        match &self.place {
            Place::At(Location::Registry(reference)) => {
                reference.tag.as_deref().filter(|tag| *tag != "latest")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches() {
        let bare = parse_from("me/app:cache").unwrap();
        assert_eq!(bare.place, Place::At(Location::Registry("docker.io/me/app:cache".parse().unwrap())));
        assert_eq!((bare.unused_tag(), bare.insecure_host()), (Some("cache"), None));
        let to = parse_to("type=local,dest=c,mode=max,compression=zstd,ignore-error=1").unwrap();
        assert_eq!((to.place, to.mode), (Place::At(Location::Directory("c".into())), CacheMode::Max));
        assert_eq!((to.compression, to.ignore_error), (Some(Compression::DEFAULT_ZSTD), true));
        let to = parse_to("type=registry,ref=h:5000/c,image-manifest=true,registry.insecure=true").unwrap();
        assert_eq!((to.compression, to.mode, to.unused_tag()), (None, CacheMode::Min, None));
        assert_eq!(to.insecure_host().as_deref(), Some("h:5000"));
        let to = parse_to("type=local,dest=c,tag=main,reset=true").unwrap();
        assert_eq!((to.unused, to.reset), (vec!["tag"], true));
        let form = |attributes: &str| parse_to(&format!("type=local,dest=c,{attributes}")).unwrap().form;
        assert_eq!(form("image-manifest=true,oci-mediatypes=true"), Form::Manifest);
        assert_eq!(form("image-manifest=false"), Form::Index);
        assert_eq!(form("oci-mediatypes=false"), Form::DockerList);
        assert_eq!(form("oci-mediatypes=0,image-manifest=0"), Form::DockerList);
    }

    #[test]
    fn an_inline_cache_is_beside_the_image() {
        let pushed = ["h/a:1".parse::<Reference>().unwrap(), "h/b".parse().unwrap()];
        let inline = parse_to("type=inline").unwrap();
        assert_eq!(inline, CacheSpec::inline());
        let places: Vec<Location> = inline.targets(&pushed).into_iter().map(|to| to.location).collect();
        assert_eq!(places, pushed.map(Location::Registry));
        let local = parse_to("type=local,dest=c").unwrap().targets(&["h/a".parse().unwrap()]);
        assert_eq!(local.len(), 1);
        assert!(matches!(parse_from("type=inline"), Err(CacheError::Elsewhere { kind: "inline", .. })));
        assert!(matches!(parse_to("type=inline,ref=x"), Err(CacheError::Attribute(_))));
    }

    #[test]
    fn messages_show_the_way() {
        let mut messages = String::new();
        for bad in [
            "",
            "ref=x",
            "type=registy,ref=x",
            "type=local",
            "type=registry,ref=",
            "type=registry,rf=1",
            "type=registry,ref=x,mode=mid",
            "type=registry,ref=A",
            "type=registry,ref=x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "type=local,type=gha",
            "type=local,dest=a,dest=b",
            "type=local,dest=a,oci-mediatypes=false,image-manifest=true",
            "type=local,dest=a,image-manifest=maybe",
            "type=local,dest=a,compression=lzma",
            "type=local,dest=a,mounts=",
            "type=gha,scope=a#b",
            "type=gha,url=artifactcache",
            "type=gha,timeout=10",
            "type=gha,repository=app",
            "type=gha,version=3",
            "type=gha,ref=x",
            "type=s3,bucket=b,name=a;",
            "type=s3,bucket=b,retry_mode=never",
            "type=s3,bucket=b,upload_parallelism=0",
            "type=s3,bucket=b,endpoint_url=minio",
            "type=azblob,container=c",
        ] {
            messages.push_str(&format!("{bad}\n    {}\n", parse_to(bad).unwrap_err()));
        }
        messages.push_str(&format!("from\n    {}\n", parse_from("type=local,dest=x").unwrap_err()));
        insta::assert_snapshot!(messages, @r"
            the value is empty
        ref=x
            `ref=x` has no type; write type=registry,ref=IMAGE, type=local or type=gha
        type=registy,ref=x
            unknown cache type `registy` (did you mean `registry`?); use registry, local, gha or s3
        type=local
            type=local needs `dest`; write type=local,dest=...
        type=registry,ref=
            type=registry needs `ref`; write type=registry,ref=...
        type=registry,rf=1
            unknown key `rf` (did you mean `ref`?); known are type, mode, ignore-error, image-manifest, oci-mediatypes, compression, compression-level, force-compression, mounts, ref, registry.insecure
        type=registry,ref=x,mode=mid
            unknown cache mode `mid`; use mode=min or mode=max
        type=registry,ref=A
            invalid reference format: `A` has upper-case letters: repository names must be lower case
        type=registry,ref=x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
            `x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855` has a digest; a cache is a repository, whose steps are found by their own tags
        type=local,type=gha
            `type` is given more than once
        type=local,dest=a,dest=b
            `dest` is given more than once
        type=local,dest=a,oci-mediatypes=false,image-manifest=true
            image manifests have OCI's media types: write image-manifest=false, or leave out oci-mediatypes=false
        type=local,dest=a,image-manifest=maybe
            `image-manifest=maybe` must be true or false
        type=local,dest=a,compression=lzma
            unknown compression `lzma`; use gzip, zstd, estargz or uncompressed
        type=local,dest=a,mounts=
            `mounts` names no cache mount; write mounts=all, mounts=ID or mounts=ID;ID
        type=gha,scope=a#b
            `scope` has at most 200 characters, and no comma, `#` or control character among them
        type=gha,url=artifactcache
            `url` is not an http or https URL
        type=gha,timeout=10
            `10` is not a duration such as 90s, 30m, 1h30m or 7d
        type=gha,repository=app
            `repository=app` is not of the form OWNER/NAME
        type=gha,version=3
            there is no version `3` of the cache service; use version=1 or version=2
        type=gha,ref=x
            unknown key `ref`; known are type, mode, ignore-error, image-manifest, oci-mediatypes, compression, compression-level, force-compression, mounts, scope, token, url, url_v2, timeout, repository, ghtoken, version
        type=s3,bucket=b,name=a;
            `name` is not a list of names such as main;branch
        type=s3,bucket=b,retry_mode=never
            unknown retry mode `never`; use standard or adaptive
        type=s3,bucket=b,upload_parallelism=0
            `upload_parallelism` is not a number of at least 1
        type=s3,bucket=b,endpoint_url=minio
            `endpoint_url` is not an http or https URL
        type=azblob,container=c
            kiln has no cache of type azblob: blob storage is not supported; use type=registry,ref=IMAGE, or type=local with whatever carries a directory there
        from
            unknown key `dest`; known are type, mounts, src, digest, tag
        ");
    }
}
