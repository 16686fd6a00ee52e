//! `RUN --mount=` options (language.md 1.7).
//!
//! Invariants:
//! - keys are read in the order written and the last one of a name wins; what a key may mean depends on the
//!   `type=` read before it, as in BuildKit;
//! - values are expanded one by one, after the text was split at commas: a comma or quote out of a variable
//!   never changes the structure.

mod csv;

use std::ops::Range;

use crate::expand::ExpandError;
use crate::span::Span;
use crate::suggest;

pub(crate) use csv::{Field, fields};

/// A parsed `--mount=` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Kind and its own options.
    pub kind: MountKind,
    /// `from=`: stage, index, named context or image. `None` means the build context (bind) or nothing.
    pub from: Option<String>,
    /// `source=`/`src=`.
    pub source: Option<String>,
    /// `target=`/`dst=`/`destination=`, not yet joined to the working directory; `None` only for secret and ssh.
    /// Empty when a bind, cache or tmpfs mount names none: it then covers the working directory itself.
    pub target: Option<String>,
    /// Resulting read-only state (bind: true, cache: false, unless said).
    pub read_only: bool,
}

/// Kinds of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// `type=bind`.
    Bind,
    /// `type=cache`.
    Cache {
        /// `id=`; `None` means the cleaned target.
        id: Option<String>,
        /// `sharing=`.
        sharing: Sharing,
        /// `mode=` in octal, when given.
        mode: Option<u32>,
        /// `uid=`, when given.
        uid: Option<u32>,
        /// `gid=`, when given.
        gid: Option<u32>,
    },
    /// `type=tmpfs`.
    Tmpfs {
        /// `size=` in bytes, when given.
        size_bytes: Option<u64>,
    },
    /// `type=secret`.
    Secret {
        /// `id=` (defaults to the target's base name).
        id: String,
        /// `env=`.
        env: Option<String>,
        /// `required=`.
        required: bool,
        /// `mode=`, 0400 unless given.
        mode: u32,
        /// `uid=`.
        uid: u32,
        /// `gid=`.
        gid: u32,
        /// `cachekey=`, kiln's own: another value makes the step run again.
        cache_key: bool,
    },
    /// `type=ssh`.
    Ssh {
        /// `id=`, `default` unless given.
        id: String,
        /// `required=`.
        required: bool,
        /// `mode=`, 0600 unless given.
        mode: u32,
        /// `uid=`.
        uid: u32,
        /// `gid=`.
        gid: u32,
    },
}

/// `sharing=` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Sharing {
    Shared,
    Private,
    Locked,
}

/// What is wrong with a `--mount=` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountError {
    /// Names the key or value that is wrong, as BuildKit words it.
    pub message: String,
    /// Did-you-mean.
    pub hint: Option<String>,
    /// Place inside the value, when one key is to blame.
    pub span: Option<Span>,
}

impl std::fmt::Display for MountError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for MountError {}

impl MountError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, span: None }
    }

    fn with_suggestion<'a>(mut self, word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        self.hint = suggest::closest(word, candidates).map(|near| format!("did you mean `{near}`?"));
        self
    }

    fn at(mut self, range: Range<usize>) -> Self {
        self.span = self.span.or(Some(Span::new(range.start, range.end)));
        self
    }
}

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARINGS: [&str; 3] = ["shared", "private", "locked"];
const KEYS: [&str; 20] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
    "cachekey",
];

/// Reads a `--mount=` value as it stands, without expanding anything.
pub fn parse(value: &str) -> Result<Mount, MountError> {
    parse_with(value, &mut |text| Ok(text.to_string()))
}

/// Reads a `--mount=` value; `expand` is applied to the text after each `=` (see [`crate::expand::word`]).
pub fn parse_with(
    value: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
) -> Result<Mount, MountError> {
    let mut draft = Draft::default();
    for field in fields(value)? {
        draft.field(&field.text, expand).map_err(|error| error.at(field.range))?;
    }
    draft.finish()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Type {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Type::Bind => "bind",
            Type::Cache => "cache",
            Type::Tmpfs => "tmpfs",
            Type::Secret => "secret",
            Type::Ssh => "ssh",
        }
    }
}

/// What was read so far.
#[derive(Debug, Default)]
struct Draft {
    kind: Type,
    from: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: Option<bool>,
    required: bool,
    size_bytes: Option<u64>,
    id: Option<String>,
    sharing: Option<Sharing>,
    env: Option<String>,
    cache_key: bool,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Draft {
    fn field(
        &mut self,
        field: &str,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<(), MountError> {
        let Some((key, value)) = field.split_once('=') else {
            return self.bare(field);
        };
        let key = key.to_lowercase();
        let value = expand(value).map_err(|error| MountError::new(error.message))?;
        self.pair(&key, value, field)
    }

    /// A key without a value.
    fn bare(&mut self, field: &str) -> Result<(), MountError> {
        match field.to_lowercase().as_str() {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => {
                self.only_for("required", &[Type::Secret, Type::Ssh])?;
                self.required = true;
            }
            "cachekey" => {
                self.only_for("cachekey", &[Type::Secret])?;
                self.cache_key = true;
            }
            key => {
                let error = MountError::new(format!("invalid field `{field}`: it must be a key=value pair"));
                return Err(error.with_suggestion(key, KEYS));
            }
        }
        Ok(())
    }

    fn pair(&mut self, key: &str, value: String, field: &str) -> Result<(), MountError> {
        match key {
            "type" => self.kind = kind(&value)?,
            "from" => self.from = given(value),
            "source" | "src" => self.source = given(value),
            "target" | "dst" | "destination" => self.target = given(value),
            "readonly" | "ro" => self.read_only = Some(boolean(key, &value)?),
            "readwrite" | "rw" => self.read_only = Some(!boolean(key, &value)?),
            "required" => {
                self.only_for(key, &[Type::Secret, Type::Ssh])?;
                self.required = boolean(key, &value)?;
            }
            "size" => {
                self.only_for(key, &[Type::Tmpfs])?;
                self.size_bytes = Some(size_bytes(&value).ok_or_else(|| {
                    let hint = "a size is a number with an optional unit: b, k, m, g, t".to_string();
                    let message = format!("invalid value for size: `{value}`");
                    MountError { hint: Some(hint), ..MountError::new(message) }
                })?);
            }
            "id" => self.id = given(value),
            "sharing" => self.sharing = Some(sharing(&value)?),
            "mode" => self.mode = Some(number("mode", &value, 8)?),
            "uid" => self.uid = Some(number("uid", &value, 10)?),
            "gid" => self.gid = Some(number("gid", &value, 10)?),
            "env" => self.env = Some(value),
            "cachekey" => {
                self.only_for(key, &[Type::Secret])?;
                self.cache_key = boolean(key, &value)?;
            }
            _ => {
                let error = MountError::new(format!("unexpected key `{key}` in `{field}`"));
                return Err(error.with_suggestion(key, KEYS));
            }
        }
        Ok(())
    }

    fn only_for(&self, key: &str, types: &[Type]) -> Result<(), MountError> {
        if types.contains(&self.kind) {
            return Ok(());
        }
        let names: Vec<String> = types.iter().map(|t| format!("`type={}`", t.name())).collect();
        let hint = format!("`{key}` belongs to {}, written before it", names.join(" and "));
        let message = format!("unexpected key `{key}` for mount type `{}`", self.kind.name());
        Err(MountError { hint: Some(hint), ..MountError::new(message) })
    }

    fn finish(self) -> Result<Mount, MountError> {
        self.check()?;
        let read_only = self.read_only.unwrap_or(!matches!(self.kind, Type::Cache | Type::Tmpfs));
        let (uid, gid) = (self.uid.unwrap_or(0), self.gid.unwrap_or(0));
        let place = |target: Option<String>| Some(target.unwrap_or_default());
        let (kind, target) = match self.kind {
            Type::Bind => (MountKind::Bind, place(self.target)),
            Type::Tmpfs => (MountKind::Tmpfs { size_bytes: self.size_bytes }, place(self.target)),
            Type::Cache => {
                let sharing = self.sharing.unwrap_or(Sharing::Shared);
                let (mode, uid, gid) = (self.mode, self.uid, self.gid);
                (MountKind::Cache { id: self.id, sharing, mode, uid, gid }, place(self.target))
            }
            Type::Secret => {
                let named = self.source.clone().or(self.id);
                let id = named.or_else(|| self.target.as_deref().map(base_name)).unwrap_or_default();
                let mode = self.mode.unwrap_or(0o400);
                let (env, required, cache_key) = (self.env, self.required, self.cache_key);
                (MountKind::Secret { id, env, required, mode, uid, gid, cache_key }, self.target)
            }
            Type::Ssh => {
                let id = self.id.unwrap_or_else(|| "default".to_string());
                let mode = self.mode.unwrap_or(0o600);
                (MountKind::Ssh { id, required: self.required, mode, uid, gid }, self.target)
            }
        };
        Ok(Mount { kind, from: self.from, source: self.source, target, read_only })
    }

    /// What can be said only when all keys are known.
    fn check(&self) -> Result<(), MountError> {
        let name = self.kind.name();
        if matches!(self.kind, Type::Bind | Type::Tmpfs) {
            for (key, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if value.is_some() {
                    return Err(MountError::new(format!("`{key}` not allowed for mounts of type `{name}`")));
                }
            }
        }
        if self.kind == Type::Secret {
            if self.from.is_some() {
                return Err(MountError::new("secret mount should not have a `from`"));
            }
            if self.source.is_none() && self.target.is_none() && self.id.is_none() {
                let hint = Some("say which secret is meant, for example `id=token`".to_string());
                let error = MountError::new("invalid secret mount: one of `id`, `source`, `target` required");
                return Err(MountError { hint, ..error });
            }
            if self.source.is_some() && self.id.is_some() {
                return Err(MountError::new("both `source` and `id` can't be set"));
            }
        }
        if self.kind == Type::Ssh && self.source.is_some() {
            return Err(MountError::new("ssh mount does not support `source`"));
        }
        if self.sharing.is_some() && self.kind != Type::Cache {
            return Err(MountError::new(format!("`sharing` not allowed for mounts of type `{name}`")));
        }
        let placed = matches!(self.kind, Type::Bind | Type::Cache | Type::Tmpfs);
        if placed && self.target.as_deref().is_some_and(is_root) {
            let target = self.target.as_deref().unwrap_or("/");
            let hint = Some("mount onto a directory below `/`".to_string());
            return Err(MountError { hint, ..MountError::new(format!("invalid mount target {target:?}")) });
        }
        Ok(())
    }
}

/// An empty value is no value.
fn given(value: String) -> Option<String> {
    Some(value).filter(|value| !value.is_empty())
}

fn kind(value: &str) -> Result<Type, MountError> {
    match value.to_lowercase().as_str() {
        "bind" => Ok(Type::Bind),
        "cache" => Ok(Type::Cache),
        "tmpfs" => Ok(Type::Tmpfs),
        "secret" => Ok(Type::Secret),
        "ssh" => Ok(Type::Ssh),
        other => {
            let error = MountError::new(format!("unsupported mount type {value:?}"));
            let near = error.with_suggestion(other, TYPES);
            Err(MountError { hint: near.hint.or_else(|| Some(one_of(&TYPES))), ..near })
        }
    }
}

fn one_of(words: &[&str]) -> String {
    format!("use one of: {}", words.join(", "))
}

fn sharing(value: &str) -> Result<Sharing, MountError> {
    match value.to_lowercase().as_str() {
        "shared" => Ok(Sharing::Shared),
        "private" => Ok(Sharing::Private),
        "locked" => Ok(Sharing::Locked),
        other => {
            let error = MountError::new(format!("unsupported sharing value {value:?}"));
            let near = error.with_suggestion(other, SHARINGS);
            Err(MountError { hint: near.hint.or_else(|| Some(one_of(&SHARINGS))), ..near })
        }
    }
}

/// The spellings of Go's `strconv.ParseBool`.
fn boolean(key: &str, value: &str) -> Result<bool, MountError> {
    match value {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(MountError::new(format!("invalid value for {key}: `{value}` is neither true nor false"))),
    }
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, MountError> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    u32::from_str_radix(value, radix).ok().filter(|_| digits).ok_or_else(|| {
        let base = if radix == 8 { "an octal" } else { "a" };
        MountError::new(format!("invalid value `{value}` for {key}: {base} number is needed"))
    })
}

/// A size as docker's units read it: a number, then an optional `k`, `m`, `g`, `t` or `p` (powers of 1024)
/// with an optional `b` or `ib`.
pub(crate) fn size_bytes(text: &str) -> Option<u64> {
    let last = text.rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' '))?;
    let (head, suffix) = text.split_at(last + 1);
    let number: f64 = head.strip_suffix(' ').unwrap_or(head).parse().ok()?;
    let power = match suffix.to_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    let bytes = number * 1024f64.powi(power);
    // The cast saturates; nobody has that much memory.
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
}

/// The last component of a path, as Go's `path.Base`.
fn base_name(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_string(),
        trimmed => trimmed.rsplit('/').next().unwrap_or(trimmed).to_string(),
    }
}

/// Whether an absolute path comes down to `/`.
fn is_root(path: &str) -> bool {
    let mut depth = 0usize;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.saturating_sub(1),
            _ => depth += 1,
        }
    }
    path.starts_with('/') && depth == 0
}

#[cfg(test)]
mod tests;
