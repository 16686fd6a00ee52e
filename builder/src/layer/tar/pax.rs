//! PAX extended headers: records `LENGTH KEY=VALUE\n` (POSIX.1-2017 pax, "pax Extended Header").
//!
//! Invariants:
//! - a record is cut by its length alone, so a value may hold newlines, NULs and text that looks like a record
//!   (splitting on newlines loses capabilities with the byte 0x0a and lets a value smuggle records in);
//! - of several records with one key the last counts.

use std::collections::BTreeMap;

/// What the key of an extended attribute begins with.
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// Why a header is damaged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PaxError {
    #[error("record at byte {at}: the length is not a decimal number")]
    Length { at: usize },
    #[error("record at byte {at}: the length {length} does not fit")]
    Overrun { at: usize, length: usize },
    #[error("record at byte {at} does not end in a newline")]
    NoNewline { at: usize },
    #[error("record at byte {at} has no key")]
    NoKey { at: usize },
    #[error("value of `{key}` is not usable")]
    Value { key: String },
}

/// A time with its fraction.
pub type Time = (i64, u32);

/// What the records of one header say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Records {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sparse: SparseRecords,
}

/// The records with which GNU tar describes a sparse file (GNU tar manual, "Storing Sparse Files").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SparseRecords {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    /// `GNU.sparse.realsize` (1.0) or `GNU.sparse.size` (0.x).
    pub real_size: Option<u64>,
    /// Offsets and lengths in turn, of formats 0.0 and 0.1.
    pub map: Option<Vec<u64>>,
}

/// Reads the data of an `x` header.
pub fn parse(data: &[u8]) -> Result<Records, PaxError> {
    let mut records = Records::default();
    let mut at = 0;
    while at < data.len() {
        let (key, value, next) = record(data, at)?;
        records.set(key, value)?;
        at = next;
    }
    Ok(records)
}

/// Appends one record to `out`.
pub fn append(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + decimal_len(rest);
    if rest + decimal_len(length) != length {
        length = rest + decimal_len(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Appends the record of an extended attribute.
pub fn append_xattr(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    append(out, &[XATTR_PREFIX, name].concat(), value);
}

/// The text of a time: seconds, and a fraction when there is one.
pub fn time_text((seconds, nanoseconds): Time) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    // -1.25 is two seconds before 1970 and 0.75 after that.
    let (sign, whole, fraction) = if seconds < 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
    } else {
        ("", seconds.unsigned_abs(), nanoseconds)
    };
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}

impl Records {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), PaxError> {
        let bad = || PaxError::Value { key: String::from_utf8_lossy(key).into_owned() };
        let number = || decimal(value).ok_or_else(bad);
        if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
            if name.is_empty() || name.contains(&0) {
                return Err(bad());
            }
            self.xattrs.insert(name.to_vec(), value.to_vec());
            return Ok(());
        }
        // An empty value takes back an earlier record; what the block itself says counts again.
        let empty = value.is_empty();
        match key {
            b"path" => self.path = if empty { None } else { Some(name(value).ok_or_else(bad)?) },
            b"linkpath" => self.link = if empty { None } else { Some(name(value).ok_or_else(bad)?) },
            b"size" => self.size = if empty { None } else { Some(number()?) },
            b"uid" => self.uid = if empty { None } else { Some(number()?) },
            b"gid" => self.gid = if empty { None } else { Some(number()?) },
            b"mtime" => self.mtime = if empty { None } else { Some(time(value).ok_or_else(bad)?) },
            b"GNU.sparse.major" => self.sparse.major = Some(number()?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(number()?),
            b"GNU.sparse.name" => self.sparse.name = Some(name(value).ok_or_else(bad)?),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(number()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.map.get_or_insert_default().push(number()?);
            }
            b"GNU.sparse.map" => {
                let numbers: Option<Vec<u64>> =
                    if empty { Some(Vec::new()) } else { value.split(|b| *b == b',').map(decimal).collect() };
                self.sparse.map = Some(numbers.ok_or_else(bad)?);
            }
            // Access and change times, names of users, comments: nothing that a layer keeps.
            _ => {}
        }
        Ok(())
    }
}

/// The record at `at`: key, value, and where the next one begins.
fn record(data: &[u8], at: usize) -> Result<(&[u8], &[u8], usize), PaxError> {
    let rest = data.get(at..).unwrap_or_default();
    let digits = rest.iter().take(20).take_while(|b| b.is_ascii_digit()).count();
    let length = rest
        .get(..digits)
        .and_then(decimal)
        .and_then(|n| usize::try_from(n).ok())
        .filter(|_| rest.get(digits) == Some(&b' '))
        .ok_or(PaxError::Length { at })?;
    let record = rest.get(..length).ok_or(PaxError::Overrun { at, length })?;
    let body = record.get(digits + 1..).ok_or(PaxError::Overrun { at, length })?;
    let (last, body) = body.split_last().ok_or(PaxError::Overrun { at, length })?;
    if *last != b'\n' {
        return Err(PaxError::NoNewline { at });
    }
    let equals = body.iter().position(|b| *b == b'=').filter(|n| *n > 0).ok_or(PaxError::NoKey { at })?;
    let (key, value) = body.split_at(equals);
    Ok((key, value.get(1..).unwrap_or_default(), at + length))
}

fn name(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty() && !value.contains(&0)).then(|| value.to_vec())
}

/// A number in plain decimal digits.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, b| {
        b.is_ascii_digit().then_some(())?;
        value.checked_mul(10)?.checked_add(u64::from(b - b'0'))
    })
}

fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanoseconds = 0u32;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        // Digits beyond nanoseconds are cut off.
        for at in 0..9 {
            nanoseconds = nanoseconds * 10 + fraction.get(at).map_or(0, |b| u32::from(b - b'0'));
        }
    }
    match (negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

fn decimal_len(number: usize) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append(&mut out, key, value);
        out
    }

    #[test]
    fn lengths_count_themselves() {
        assert_eq!(one(b"k", b"v"), b"6 k=v\n");
        // 9 + 1 digits would be 10, which has two digits.
        assert_eq!(one(b"abc", b"de"), b"9 abc=de\n");
        assert_eq!(one(b"abc", b"def"), b"11 abc=def\n");
        for size in [0, 1, 90, 91, 92, 93, 990, 991, 992, 99_990, 99_991] {
            let value = vec![b'x'; size];
            let record = one(b"path", &[b"p", &value[..]].concat());
            let parsed = parse(&record).unwrap();
            assert_eq!(parsed.path.unwrap().len(), size + 1);
        }
    }

    #[test]
    fn values_may_look_like_records() {
        let mut data = Vec::new();
        append_xattr(&mut data, b"user.a", b"x\n13 path=evil\n\0\n");
        append(&mut data, b"mtime", b"5");
        let records = parse(&data).unwrap();
        assert_eq!(records.path, None);
        assert_eq!(records.mtime, Some((5, 0)));
        assert_eq!(records.xattrs[&b"user.a"[..]], b"x\n13 path=evil\n\0\n");
    }

    #[test]
    fn the_last_record_counts_and_an_empty_one_takes_back() {
        let data = [one(b"path", b"a"), one(b"path", b"b"), one(b"size", b"7"), one(b"size", b"")].concat();
        let records = parse(&data).unwrap();
        assert_eq!((records.path.as_deref(), records.size), (Some(&b"b"[..]), None));
    }

    #[test]
    fn damage_is_refused() {
        for (bad, expected) in [
            (&b"x path=a\n"[..], PaxError::Length { at: 0 }),
            (b"+9 path=a\n", PaxError::Length { at: 0 }),
            (b"9\tpath=a\n", PaxError::Length { at: 0 }),
            (b"99999999999999999999999 a=b\n", PaxError::Length { at: 0 }),
            (b"99 path=a\n", PaxError::Overrun { at: 0, length: 99 }),
            (b"0 path=a\n", PaxError::Overrun { at: 0, length: 0 }),
            (b"1 path=a\n", PaxError::Overrun { at: 0, length: 1 }),
            (b"8 path=a\n", PaxError::NoNewline { at: 0 }),
            (b"7 path\n", PaxError::NoKey { at: 0 }),
            (b"8 path\n\n", PaxError::NoKey { at: 0 }),
            (b"5 =a\n", PaxError::NoKey { at: 0 }),
            (b"10 size=x\n", PaxError::Value { key: "size".into() }),
            (b"11 path=a\0\n", PaxError::Value { key: "path".into() }),
        ] {
            assert_eq!(parse(bad), Err(expected), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn times_round_trip() {
        for time_value in
            [(0, 0), (5, 250_000_000), (-2, 750_000_000), (-1, 999_999_999), (-7, 0), (i64::MAX, 1)]
        {
            let text = time_text(time_value);
            assert_eq!(time(text.as_bytes()), Some(time_value), "{text}");
        }
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        for bad in [&b""[..], b"-", b".5", b"1.x", b"1e5", b"--1"] {
            assert_eq!(time(bad), None);
        }
    }
}
