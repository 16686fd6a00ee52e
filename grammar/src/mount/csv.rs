//! The comma separated fields of a `--mount=` value: one CSV record.
//!
//! Invariants:
//! - a field is quoted as a whole or not at all; `""` stands for a quote inside quotes.

use std::borrow::Cow;
use std::ops::Range;

use super::MountError;

/// One field.
pub(crate) struct Field<'v> {
    /// Where it stands in the value, quotes included.
    pub(crate) range: Range<usize>,
    /// Its text, unquoted.
    pub(crate) text: Cow<'v, str>,
}

/// Splits one record.
pub(crate) fn fields(record: &str) -> Result<Vec<Field<'_>>, MountError> {
    if record.is_empty() {
        return Err(MountError::new("a mount needs options, for example `type=cache,target=/path`"));
    }
    let mut fields = Vec::new();
    let mut start = 0;
    loop {
        let rest = record.get(start..).unwrap_or("");
        let (length, field) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted).map_err(|e| e.at(start..record.len()))?,
            None => {
                let length = rest.find(',').unwrap_or(rest.len());
                let field = rest.get(..length).unwrap_or("");
                if field.contains('"') {
                    let message = format!("unexpected quote in `{field}`");
                    let hint = "put the quotes around the whole `key=value`, or leave them out";
                    let error = MountError { hint: Some(hint.to_string()), ..MountError::new(message) };
                    return Err(error.at(start..start + length));
                }
                (length, Cow::Borrowed(field))
            }
        };
        let end = start + length;
        fields.push(Field { range: start..end, text: field });
        if end >= record.len() {
            return Ok(fields);
        }
        start = end + 1;
    }
}

/// A field after its opening quote: its length with both quotes, and its text with `""` as a quote.
fn quoted_field(quoted: &str) -> Result<(usize, Cow<'static, str>), MountError> {
    let mut text = String::new();
    let mut at = 0;
    while let Some(piece) = quoted.get(at..).and_then(|rest| rest.find('"').and_then(|i| rest.get(..i))) {
        text.push_str(piece);
        at += piece.len() + 1;
        match quoted.get(at..).and_then(|rest| rest.chars().next()) {
            Some('"') => {
                text.push('"');
                at += 1;
            }
            None | Some(',') => return Ok((at + 1, Cow::Owned(text))),
            Some(_) => return Err(MountError::new("unexpected text after a closing quote")),
        }
    }
    Err(MountError::new("a quote is not closed"))
}
