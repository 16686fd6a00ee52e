//! The first file that differs between two listings.

use crate::record::listing::{ListedFile, Listing};
use crate::record::miss::MissReason;

/// Digits of a digest that people see.
const SHOWN_DIGITS: usize = 12;

/// Names the first file, by path, that differs, and counts the others. `None` when none does.
pub(super) fn difference(was: &Listing, is: &Listing) -> Option<MissReason> {
    let mut first = None;
    let mut count = 0usize;
    let mut note = |path: &[u8], was: Option<&ListedFile>, is: Option<&ListedFile>| {
        if was == is {
            return;
        }
        count += 1;
        if first.is_none() {
            first = Some((path.to_vec(), was.cloned(), is.cloned()));
        }
    };
    // Both are sorted: one pass.
    let (mut old, mut new) = (was.iter().peekable(), is.iter().peekable());
    loop {
        match (old.peek().copied(), new.peek().copied()) {
            (Some((a, file)), Some((b, other))) if a == b => {
                note(a, Some(file), Some(other));
                old.next();
                new.next();
            }
            (Some((a, file)), Some((b, _))) if a < b => {
                note(a, Some(file), None);
                old.next();
            }
            (Some((a, file)), None) => {
                note(a, Some(file), None);
                old.next();
            }
            (_, Some((b, other))) => {
                note(b, None, Some(other));
                new.next();
            }
            (None, None) => break,
        }
    }
    let (path, was, is) = first?;
    Some(reason(&String::from_utf8_lossy(&path), was.as_ref(), is.as_ref(), count - 1))
}

fn reason(path: &str, was: Option<&ListedFile>, is: Option<&ListedFile>, more: usize) -> MissReason {
    let path = if path.is_empty() { ".".to_owned() } else { path.to_owned() };
    match (was, is) {
        (Some(was), Some(is)) if was.kind != is.kind => {
            MissReason::FileKind { path, was: kind(was.kind), is: kind(is.kind), more }
        }
        (Some(was), Some(is)) if was.content != is.content && was.has_bytes_of(is) => {
            MissReason::FileAttributes { path, more }
        }
        (Some(was), Some(is)) if was.content != is.content => {
            MissReason::FileChanged { path, was: shown(&was.content), is: shown(&is.content), more }
        }
        (Some(was), Some(is)) if was.mode != is.mode => MissReason::FileMode {
            path,
            was: format!("{:04o}", was.mode),
            is: format!("{:04o}", is.mode),
            more,
        },
        (Some(was), Some(is)) => {
            let owner = |file: &ListedFile| format!("{}:{}", file.owner.0, file.owner.1);
            MissReason::FileOwner { path, was: owner(was), is: owner(is), more }
        }
        (None, _) => MissReason::FileAdded { path, more },
        (Some(_), None) => MissReason::FileRemoved { path, more },
    }
}

fn shown(digits: &str) -> String {
    digits.chars().take(SHOWN_DIGITS).collect()
}

fn kind(letter: char) -> String {
    match letter {
        'f' => "file",
        'd' => "directory",
        'l' => "symbolic link",
        'p' => "pipe",
        _ => "device",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str, mode: u32) -> ListedFile {
        ListedFile { kind: 'f', mode, owner: (0, 0), content: content.to_owned() }
    }

    fn listing(files: &[(&str, &str, u32)]) -> Listing {
        files.iter().map(|(path, content, mode)| (path.as_bytes().to_vec(), file(content, *mode))).collect()
    }

    #[test]
    fn the_first_difference_is_named() {
        let base = [("a", "1", 0o644), ("b", "2", 0o644), ("c", "3", 0o644)];
        let was = listing(&base);
        type Files<'a> = &'a [(&'a str, &'a str, u32)];
        let told = |files: Files<'_>| difference(&was, &listing(files)).map(|reason| reason.to_string());
        assert_eq!(told(&base), None);
        let table: [(Files<'_>, &str); 5] = [
            (&[("a", "1", 0o644), ("b", "9", 0o644), ("c", "3", 0o644)], "b changed (sha256 2→9)"),
            (&[("a", "1", 0o755), ("b", "2", 0o644), ("c", "3", 0o644)], "a changed its mode (0644→0755)"),
            (&[("a", "1", 0o644), ("c", "4", 0o644)], "b was removed, and 1 more file"),
            (&[("0", "1", 0o644), ("a", "1", 0o644), ("b", "2", 0o644), ("c", "3", 0o644)], "0 was added"),
            (&[], "a was removed, and 2 more files"),
        ];
        for (files, expected) in table {
            assert_eq!(told(files).as_deref(), Some(expected));
        }
        let link = ListedFile { kind: 'l', ..file("1", 0o777) };
        let is = Listing::from([(b"a".to_vec(), link)]);
        let told = difference(&listing(&base[..1]), &is).unwrap().to_string();
        assert_eq!(told, "a was a file, is a symbolic link");
    }
}
