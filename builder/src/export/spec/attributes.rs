//! `key=value` attributes in one comma-separated field, as buildx takes them in `--output`, `--secret` and
//! `--cache-to`: one record of CSV (RFC 4180), so that a value with a comma is quoted: `type=oci,"dest=a,b.tar"`.
//!
//! Invariants: keys are lower case and at least one byte long; every error names the text it is about.

/// Why a text is no list of attributes, or an attribute is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// No text.
    #[error("the value is empty")]
    Empty,
    /// A quote that is not closed, or text behind a closed one.
    #[error("`{0}` has a misplaced quote; write \"key=a value, with a comma\"")]
    Quote(String),
    /// Not `key=value`.
    #[error("`{0}` is not of the form key=value")]
    NoValue(String),
    /// An unknown key.
    #[error("unknown key `{key}`{}; known are {known}", suggestion(.meant))]
    Unknown {
        /// The key.
        key: String,
        /// The most similar known key.
        meant: Option<String>,
        /// All known keys.
        known: String,
    },
    /// A key that comes twice.
    #[error("`{0}` is given more than once")]
    Twice(String),
    /// A value that is not a truth value.
    #[error("`{key}={value}` must be true or false")]
    Bool {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
}

fn suggestion(meant: &Option<String>) -> String {
    meant.as_ref().map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default()
}

/// The fields of one CSV record.
pub fn fields(text: &str) -> Result<Vec<String>, AttributeError> {
    if text.is_empty() {
        return Err(AttributeError::Empty);
    }
    let quote = || AttributeError::Quote(text.to_owned());
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted).ok_or_else(quote)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                if field.contains('"') {
                    return Err(quote());
                }
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        if after.is_empty() {
            return Ok(fields);
        }
        rest = after.strip_prefix(',').ok_or_else(quote)?;
    }
}

/// Content up to the closing quote (a doubled one stands for itself), and the text behind it.
fn quoted_field(quoted: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, after)),
        }
    }
}

/// The attributes of one record; keys in lower case.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, AttributeError> {
    fields(text)?.iter().map(|field| pair(field)).collect()
}

/// One `key=value`; the key in lower case, as buildx takes keys in any case.
pub fn pair(field: &str) -> Result<(String, String), AttributeError> {
    let (key, value) = field.split_once('=').ok_or_else(|| AttributeError::NoValue(field.to_owned()))?;
    let key = key.trim();
    if key.is_empty() {
        return Err(AttributeError::NoValue(field.to_owned()));
    }
    // `annotation.KEY` carries a name of the user's behind its first dot.
    let key = match key.split_once('.') {
        Some((head, tail)) if head.to_lowercase().starts_with("annotation") => {
            format!("{}.{tail}", head.to_lowercase())
        }
        _ => key.to_lowercase(),
    };
    Ok((key, value.to_owned()))
}

/// A truth value as Go's `strconv.ParseBool` reads it.
pub fn boolean(key: &str, value: &str) -> Result<bool, AttributeError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(AttributeError::Bool { key: key.to_owned(), value: value.to_owned() }),
    }
}

/// The error for a key that is none of `known`.
pub fn unknown(key: &str, known: &[&str]) -> AttributeError {
    AttributeError::Unknown {
        key: key.to_owned(),
        meant: closest(key, known.iter().copied()).map(str::to_owned),
        known: known.join(", "),
    }
}

/// The candidate that `word` is probably a misspelling of.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Nobody misspells a word of this length; the bound keeps hostile input cheap.
    if word.len() > 64 {
        return None;
    }
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements between two words (Levenshtein).
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, l) in left.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        let mut before = index + 1;
        next.push(before);
        for (above, r) in row.windows(2).zip(&right) {
            let [diagonal, up] = *above else { continue };
            before = (diagonal + usize::from(l != *r)).min(up + 1).min(before + 1);
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_protect_commas() {
        assert_eq!(fields("a=1,b=2").unwrap(), ["a=1", "b=2"]);
        assert_eq!(fields(r#"a=1,"b=x,y","c=""q""""#).unwrap(), ["a=1", "b=x,y", r#"c="q""#]);
        assert_eq!(fields("a,").unwrap(), ["a", ""]);
        for bad in [r#""open"#, r#"a="x""#, r#""a"b"#, r#"a",b"#] {
            assert!(matches!(fields(bad), Err(AttributeError::Quote(_))), "{bad}");
        }
        assert_eq!(fields(""), Err(AttributeError::Empty));
    }

    #[test]
    fn pairs_need_a_key() {
        assert_eq!(pairs("Type=oci,dest=A=b").unwrap(), [("type", "oci"), ("dest", "A=b")].map(owned));
        assert_eq!(pairs("ANNOTATION.Com.X=1").unwrap(), [("annotation.Com.X", "1")].map(owned));
        for bad in ["novalue", "=x", "a=1,,b=2", " =x"] {
            assert!(matches!(pairs(bad), Err(AttributeError::NoValue(_))), "{bad}");
        }
    }

    fn owned((key, value): (&str, &str)) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn misspellings_are_recognised() {
        let known = ["dest", "compression", "tar"];
        assert_eq!(closest("destt", known), Some("dest"));
        assert_eq!(closest("compresion", known), Some("compression"));
        assert_eq!(closest("zzz", known), None);
        assert_eq!(
            unknown("dst", &known).to_string(),
            "unknown key `dst` (did you mean `dest`?); known are dest, compression, tar"
        );
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(values in proptest::collection::vec(".{0,10}", 1..5)) {
            let quoted: Vec<String> = values.iter().map(|v| format!("\"{}\"", v.replace('"', "\"\""))).collect();
            prop_assert_eq!(fields(&quoted.join(",")).unwrap(), values);
        }

        #[test]
        fn anything_is_answered(text in any::<String>()) {
            let _ = pairs(&text);
        }
    }
}
