//! Which data `du` and `prune` are about: `type=mount`, `id=sha256:ab`, `inuse`, as buildx has it.
//!
//! Invariants: an item has to pass every filter; an unknown word is an error, never a filter that lets all pass.

use std::str::FromStr;

use super::usage::{Item, Kind};

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    field: Field,
    negated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    /// Any of these.
    Kind(Vec<Kind>),
    Text {
        of: Text,
        how: How,
        value: String,
    },
    InUse(bool),
    /// Part of an image.
    Shared(bool),
    /// May change: cache mounts and mirrors.
    Mutable(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    Id,
    Description,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The beginning of an id, or all of a description.
    Equal,
    Contains,
}

/// Why a text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// An unknown name.
    #[error(
        "`{0}` is not something to filter by: use until=DURATION, type=, id=, description=, inuse, shared, private, \
         mutable or immutable"
    )]
    Name(String),
    /// An unknown type.
    #[error("`{0}` is none of the types snapshot, blob, mount, git, stray (or buildx' names for them)")]
    Kind(String),
    /// An unknown truth value.
    #[error("`{0}` is neither true nor false")]
    Bool(String),
    /// A name without a value.
    #[error("`{0}` needs a value: `{0}=VALUE`")]
    NoValue(String),
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let clip = |text: &str| text.chars().take(60).collect::<String>();
        let end = text.find(['=', '!', '~']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let (how, negated, value) = if let Some(value) = rest.strip_prefix("!=") {
            (How::Equal, true, Some(value))
        } else if let Some(value) = rest.strip_prefix("~=") {
            (How::Contains, false, Some(value))
        } else if let Some(value) = rest.strip_prefix('=') {
            (How::Equal, false, Some(value))
        } else if rest.is_empty() {
            (How::Equal, false, None)
        } else {
            return Err(FilterError::Name(clip(text)));
        };
        let needed = || value.filter(|v| !v.is_empty()).ok_or_else(|| FilterError::NoValue(clip(name)));
        let truth = || match value {
            None | Some("" | "true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(FilterError::Bool(clip(other))),
        };
        let field = match name {
            "type" => {
                Field::Kind(kinds(needed()?).ok_or_else(|| FilterError::Kind(clip(value.unwrap_or(""))))?)
            }
            "id" => Field::Text { of: Text::Id, how, value: needed()?.to_owned() },
            "description" => Field::Text { of: Text::Description, how, value: needed()?.to_owned() },
            "inuse" => Field::InUse(truth()?),
            "shared" => Field::Shared(truth()?),
            "private" => Field::Shared(!truth()?),
            "mutable" => Field::Mutable(truth()?),
            "immutable" => Field::Mutable(!truth()?),
            _ => return Err(FilterError::Name(clip(name))),
        };
        Ok(Self { field, negated })
    }
}

/// kiln's word, or buildx' for it.
fn kinds(word: &str) -> Option<Vec<Kind>> {
    if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == word) {
        return Some(vec![kind]);
    }
    Some(match word {
        "regular" => vec![Kind::Snapshot, Kind::Blob],
        "exec.cachemount" => vec![Kind::Mount],
        "source.git.checkout" => vec![Kind::Git],
        "internal" => vec![Kind::Stray],
        // Known to buildx; kiln has nothing of the sort.
        "source.local" | "frontend" => Vec::new(),
        _ => return None,
    })
}

impl Filter {
    /// Data that nothing refers to.
    pub(super) fn strays() -> Self {
        Self { field: Field::Kind(vec![Kind::Stray]), negated: false }
    }

    /// Whether an item passes.
    pub fn passes(&self, item: &Item) -> bool {
        let holds = match &self.field {
            Field::Kind(kinds) => kinds.contains(&item.kind),
            Field::InUse(wanted) => item.in_use == *wanted,
            Field::Shared(wanted) => item.images.is_empty() != *wanted,
            Field::Mutable(wanted) => matches!(item.kind, Kind::Mount | Kind::Git) == *wanted,
            Field::Text { of, how, value } => {
                let text = match of {
                    Text::Id => &item.id,
                    Text::Description => &item.description,
                };
                match (how, of) {
                    (How::Contains, _) => text.contains(value.as_str()),
                    (How::Equal, Text::Description) => text == value,
                    (How::Equal, Text::Id) => {
                        text.starts_with(value.as_str())
                            || text.strip_prefix("sha256:").is_some_and(|hex| hex.starts_with(value.as_str()))
                    }
                }
            }
        };
        holds != self.negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: Kind, id: &str) -> Item {
        Item {
            kind,
            id: id.to_owned(),
            size_bytes: 1,
            last_used: 0,
            in_use: false,
            images: Vec::new(),
            description: "RUN make".to_owned(),
            needed_by: Default::default(),
            path: String::new(),
        }
    }

    #[test]
    fn filters_say_what_buildx_says() {
        let blob = Item { images: vec!["a".into()], ..item(Kind::Blob, "sha256:abcd") };
        let mount = Item { in_use: true, ..item(Kind::Mount, "npm") };
        for (text, of_blob, of_mount) in [
            ("type=blob", true, false),
            ("type!=blob", false, true),
            ("type=exec.cachemount", false, true),
            ("type=regular", true, false),
            ("type=frontend", false, false),
            ("id=ab", true, false),
            ("id=sha256:ab", true, false),
            ("id=npm", false, true),
            ("id~=p", false, true),
            ("inuse", false, true),
            ("inuse=false", true, false),
            ("shared", true, false),
            ("private", false, true),
            ("mutable", false, true),
            ("immutable", true, false),
            ("description~=make", true, true),
            ("description=make", false, false),
        ] {
            let filter: Filter = text.parse().unwrap();
            assert_eq!((filter.passes(&blob), filter.passes(&mount)), (of_blob, of_mount), "{text}");
        }
        for bad in ["", "=x", "type", "type=", "type=x", "id=", "inuse=maybe", "colour=red", "id!x"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }
}
